//! Addresses of remotes: what is allowed, and how one is written (pure).
//!
//! Everything that is not plainly one of the four transports is refused by name. A remote's address reaches the
//! arguments of `ssh` and the network, so nothing in it may be taken for an option, a helper or a control character.

use std::fmt;

/// How a remote is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Git's smart protocol over TLS.
    Https,
    /// The same in clear text; meant for forges inside the cluster.
    Http,
    /// `git-upload-pack` through the `ssh` program.
    Ssh,
    /// A repository on the controller's own disk; for development only.
    File,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }

    /// The port when the address names none; `None` for `file:`.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Https => Some(443),
            Self::Http => Some(80),
            Self::Ssh => Some(22),
            Self::File => None,
        }
    }
}

/// The address of a remote, checked and in normal form.
///
/// It never holds a password, so that it may be shown everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteUrl {
    scheme: Scheme,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: String,
}

/// Why a text is not accepted as the address of a remote. Messages never repeat a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Empty, or longer than 2048 bytes.
    #[error("the URL must have 1 to 2048 characters, not {0}")]
    Length(usize),
    /// White space, a control character, a backslash or a character outside ASCII.
    #[error(
        "the URL holds {0:?}; white space, control characters, backslashes and non-ASCII text must be percent-encoded"
    )]
    Character(char),
    /// The URL or a part of it begins with a dash and could be taken for an option.
    #[error("the {0} begins with a dash, which could be taken for an option")]
    Dash(&'static str),
    /// `ext::`, `fd::` or another remote helper.
    #[error("the transport {0:?} runs a helper program and is refused; use https, http or ssh")]
    Helper(String),
    /// A scheme that is not supported.
    #[error("the scheme {0:?} is not supported; use https, http or ssh")]
    Scheme(String),
    /// A scheme without what follows it.
    #[error("write {0}:// with two slashes")]
    Slashes(String),
    /// A local path, or `file:` while it is not allowed.
    #[error(
        "local repositories are refused; the controller needs --allow-file-repositories, and the form file:///path"
    )]
    File,
    /// User name or password inside an http(s) URL, or a password in an ssh URL.
    #[error(
        "credentials inside the URL are refused because they would be shown in status and logs; put them into the Secret that secretRef names"
    )]
    Credentials,
    /// No host, or one with characters that no host name has.
    #[error("the host of the URL is missing or malformed; it is a name without a dot at its end, or a plain address")]
    Host,
    /// The port is not 1 to 65535.
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
    /// No path, or a query or fragment behind it.
    #[error("the URL must end with the path of a repository, without `?` or `#`")]
    Path,
}

impl RemoteUrl {
    /// Parses `https://`, `http://`, `ssh://`, the scp form `user@host:path`, and, where `allow_file` is set,
    /// `file:///path`.
    pub fn parse(text: &str, allow_file: bool) -> Result<Self, UrlError> {
        check_characters(text)?;
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "https" => Self::with_authority(Scheme::Https, rest),
                "http" => Self::with_authority(Scheme::Http, rest),
                "ssh" | "git+ssh" | "ssh+git" => Self::with_authority(Scheme::Ssh, rest),
                "file" => Self::file(rest, allow_file),
                _ if scheme.contains("::") => Err(helper(scheme)),
                other => Err(UrlError::Scheme(other.into())),
            };
        }
        match text.split_once("::") {
            Some((name, _)) if !name.contains(['@', '/', '[']) => Err(helper(name)),
            _ => Self::scp(text),
        }
    }

    /// How the remote is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The user name of an ssh address.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The host without brackets, in lower case; empty for `file:`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own when none was written.
    pub fn port(&self) -> Option<u16> {
        self.port.or(self.scheme.default_port())
    }

    /// The port only when it was written and differs from the scheme's own.
    pub fn explicit_port(&self) -> Option<u16> {
        self.port
    }

    /// The path at the remote. An ssh path without a leading slash is relative to the login's home.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn with_authority(scheme: Scheme, rest: &str) -> Result<Self, UrlError> {
        let (authority, path) = rest.split_once('/').ok_or(UrlError::Path)?;
        let (user, address) = split_user(authority, scheme)?;
        let (host, port) = split_port(address)?;
        let host = check_host(host)?;
        let path = match scheme {
            Scheme::Ssh if path.starts_with('~') => path.to_owned(),
            _ => format!("/{path}"),
        };
        let port = port.filter(|port| Some(*port) != scheme.default_port());
        Ok(Self { scheme, user, host, port, path: check_path(path)? })
    }

    fn scp(text: &str) -> Result<Self, UrlError> {
        let at = text.find('@').map_or(0, |at| at + 1);
        let after_brackets = text[at..].find(']').map_or(at, |end| at + end);
        let colon = text[after_brackets..].find(':').map(|colon| after_brackets + colon).ok_or(UrlError::File)?;
        let (authority, path) = (&text[..colon], &text[colon + 1..]);
        if authority.contains('/') {
            return Err(UrlError::File);
        }
        // Whoever forgot the slashes does not mean a host of this name.
        match authority {
            "file" => return Err(UrlError::File),
            "http" | "https" | "ssh" => return Err(UrlError::Slashes(authority.into())),
            _ => {}
        }
        let (user, host) = split_user(authority, Scheme::Ssh)?;
        let host = check_host(host)?;
        Ok(Self { scheme: Scheme::Ssh, user, host, port: None, path: check_path(path.into())? })
    }

    fn file(rest: &str, allowed: bool) -> Result<Self, UrlError> {
        if !allowed || !rest.starts_with('/') {
            return Err(UrlError::File);
        }
        let path = check_path(rest.into())?;
        Ok(Self { scheme: Scheme::File, user: None, host: String::new(), port: None, path })
    }

    /// What a `url` of `.gitmodules` means to the repository at this address: a remote of its own, or, with `./` or `../`
    /// before it, one beside this. A local path is one only beside a local repository.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); and [`UrlError::Path`] where it leads above the host.
    pub fn submodule(&self, text: &str) -> Result<Self, UrlError> {
        let is_relative = |text: &str| matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../");
        if !is_relative(text) {
            return Self::parse(text, self.scheme == Scheme::File);
        }
        check_characters(text)?;
        let (root, own) = self.path.strip_prefix('/').map_or(("", self.path.as_str()), |path| ("/", path));
        let mut parts: Vec<&str> = own.split('/').filter(|part| !part.is_empty()).collect();
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                ".." => drop(parts.pop().ok_or(UrlError::Path)?),
                part => parts.push(part),
            }
        }
        let path = check_path(format!("{root}{}", parts.join("/")))?;
        Ok(Self { path, ..self.clone() })
    }

    /// Scheme, host and port, which decide whether a credential may be sent.
    pub fn origin(&self) -> (Scheme, &str, Option<u16>) {
        (self.scheme, &self.host, self.port())
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match (self.scheme, self.path.starts_with('/')) {
            (Scheme::Ssh, false) if self.path.starts_with('~') => write!(f, "/{}", self.path),
            (Scheme::Ssh, false) => write!(f, "/~/{}", self.path),
            _ => f.write_str(&self.path),
        }
    }
}

fn check_characters(text: &str) -> Result<(), UrlError> {
    if text.is_empty() || text.len() > 2048 {
        return Err(UrlError::Length(text.len()));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '\\' | '"' | '<' | '>' | '`')) {
        return Err(UrlError::Character(bad));
    }
    if text.starts_with('-') { Err(UrlError::Dash("URL")) } else { Ok(()) }
}

fn helper(name: &str) -> UrlError {
    UrlError::Helper(name.split("::").next().unwrap_or_default().into())
}

/// Only ssh may carry a user name, and nothing may carry a password.
fn split_user(authority: &str, scheme: Scheme) -> Result<(Option<String>, &str), UrlError> {
    let Some((user, address)) = authority.rsplit_once('@') else { return Ok((None, authority)) };
    if scheme != Scheme::Ssh || user.contains(':') {
        return Err(UrlError::Credentials);
    }
    if user.starts_with('-') {
        return Err(UrlError::Dash("user name"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if user.is_empty() || !user.chars().all(plain) { Err(UrlError::Host) } else { Ok((Some(user.into()), address)) }
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), UrlError> {
    let end_of_host = address.rfind(']').map_or(0, |end| end + 1);
    let Some(colon) = address[end_of_host..].rfind(':') else { return Ok((address, None)) };
    let (host, port) = (&address[..end_of_host + colon], &address[end_of_host + colon + 1..]);
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0).ok_or(UrlError::Port)?;
    Ok((host, Some(port)))
}

fn check_host(host: &str) -> Result<String, UrlError> {
    if host.starts_with('-') {
        return Err(UrlError::Dash("host"));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(UrlError::Host)?;
        return inner.parse::<std::net::Ipv6Addr>().map(|address| address.to_string()).map_err(|_| UrlError::Host);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fine = !host.is_empty() && host.len() <= 253 && host.chars().all(plain) && is_one_thing(host);
    if fine { Ok(host.to_ascii_lowercase()) } else { Err(UrlError::Host) }
}

/// Whether everybody reads the host alike: what ends in a number is an address to some (`0x7f.1`, `2130706433`) and a
/// name to others, and a dot at the end is a part of the name to some only.
fn is_one_thing(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.starts_with(|c: char| c.is_ascii_digit())
        && (last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X"));
    !last.is_empty() && (!number || host.parse::<std::net::Ipv4Addr>().is_ok())
}

fn check_path(path: String) -> Result<String, UrlError> {
    if path.starts_with('-') {
        return Err(UrlError::Dash("path"));
    }
    if path.trim_matches('/').is_empty() || path.contains(['?', '#']) { Err(UrlError::Path) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_forms_have_one_spelling() {
        for (text, want) in [
            ("https://git.example.com/team/agents.git", "https://git.example.com/team/agents.git"),
            ("HTTPS://Git.Example.com:443/a", "https://git.example.com/a"),
            ("http://forge.git.svc:3000/a/b", "http://forge.git.svc:3000/a/b"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a"),
            ("ssh://git@example.com/a.git", "ssh://git@example.com/a.git"),
            ("ssh://git@example.com:2222/~me/a.git", "ssh://git@example.com:2222/~me/a.git"),
            ("git@example.com:team/a.git", "ssh://git@example.com/~/team/a.git"),
            ("git@example.com:/srv/a.git", "ssh://git@example.com/srv/a.git"),
            ("git@[::1]:a.git", "ssh://git@[::1]/~/a.git"),
            ("example.com:a.git", "ssh://example.com/~/a.git"),
            ("file:///srv/a.git", "file:///srv/a.git"),
        ] {
            let url = RemoteUrl::parse(text, true).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), want, "{text}");
        }
    }

    #[test]
    fn parts_are_what_ssh_needs() {
        let url = RemoteUrl::parse("git@example.com:team/a.git", false).unwrap();
        assert_eq!((url.user(), url.host(), url.path()), (Some("git"), "example.com", "team/a.git"));
        assert_eq!((url.port(), url.explicit_port()), (Some(22), None));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        use UrlError as E;
        for (text, want) in [
            ("", E::Length(0)),
            ("ext::sh -c id", E::Character(' ')),
            ("ext::sh", E::Helper("ext".into())),
            ("fd::7/x", E::Helper("fd".into())),
            ("foo::https://a/b", E::Helper("foo".into())),
            ("git://example.com/a", E::Scheme("git".into())),
            ("file:/srv/a.git", E::File),
            ("https:example.com/a.git", E::Slashes("https".into())),
            ("ftp://example.com/a", E::Scheme("ftp".into())),
            ("file:///srv/a.git", E::File),
            ("/srv/a.git", E::File),
            ("./a:b", E::File),
            ("--upload-pack=id", E::Dash("URL")),
            ("ssh://-oProxyCommand=id/a", E::Dash("host")),
            ("ssh://-l@host/a", E::Dash("user name")),
            ("git@host:-x", E::Dash("path")),
            ("git@-host:x", E::Dash("host")),
            ("https://me:secret@example.com/a", E::Credentials),
            ("https://token@example.com/a", E::Credentials),
            ("ssh://git:secret@example.com/a", E::Credentials),
            ("https://example.com/a\nb", E::Character('\n')),
            ("https://example.com/a\\b", E::Character('\\')),
            ("https://exämple.com/a", E::Character('ä')),
            ("https://example.com", E::Path),
            ("https://example.com/", E::Path),
            ("https://example.com/a?x=1", E::Path),
            ("https:///a", E::Host),
            ("https://exa$mple.com/a", E::Host),
            ("https://[::1/a", E::Host),
            ("https://2130706433/a", E::Host),
            ("https://0x7f.1/a", E::Host),
            ("https://0X7F000001/a", E::Host),
            ("https://0177.0.0.1/a", E::Host),
            ("https://127.1/a", E::Host),
            ("git@127.1:a", E::Host),
            ("https://localhost./a", E::Host),
            ("https://example.com:0/a", E::Port),
            ("https://example.com:+1/a", E::Port),
            ("https://example.com:99999/a", E::Port),
        ] {
            assert_eq!(RemoteUrl::parse(text, false), Err(want), "{text}");
        }
    }

    #[test]
    fn an_address_of_a_submodule_is_resolved_beside_its_superproject() {
        for (of, text, want) in [
            ("https://h/team/a.git", "../b.git", Some("https://h/team/b.git")),
            ("https://h/team/a.git/", "../b.git", Some("https://h/team/b.git")),
            ("https://h/team/a.git", "./b", Some("https://h/team/a.git/b")),
            ("https://h/team/a.git", "../../x/./y/", Some("https://h/x/y")),
            ("https://h:8443/a", "../b", Some("https://h:8443/b")),
            ("https://h/a", "../../b", None),
            ("https://h/a", "..", None),
            ("git@h:team/a.git", "../b.git", Some("ssh://git@h/~/team/b.git")),
            ("git@h:a.git", "../b.git", Some("ssh://git@h/~/b.git")),
            ("git@h:a.git", "../../b.git", None),
            ("https://h/a", "git@other:b", Some("ssh://git@other/~/b")),
            ("https://h/a", "https://other/b", Some("https://other/b")),
            ("https://h/a", "file:///etc", None),
            ("https://h/a", "/etc", None),
            ("https://h/a", "etc", None),
            ("https://h/a", "../b?x", None),
            ("https://h/a", "https://me:s@h/b", None),
            ("https://h/a", "--upload-pack=id", None),
            ("https://h/a", "ext::id", None),
            ("file:///srv/a.git", "../b.git", Some("file:///srv/b.git")),
            ("file:///srv/a.git", "file:///other", Some("file:///other")),
        ] {
            let found = RemoteUrl::parse(of, true).unwrap().submodule(text).ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), want, "{text} of {of}");
        }
    }

    #[test]
    fn messages_never_repeat_a_password() {
        for text in ["https://me:s3cret@example.com/a", "ssh://git:s3cret@h/a", "me:s3cret@host:a", "s3cret@h@x:a"] {
            if let Err(error) = RemoteUrl::parse(text, false) {
                assert!(!error.to_string().contains("s3cret"), "{text}: {error}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_normal_form_is_a_fixed_point(text in "(https|http|ssh|file)://[a-z@:.\\[\\]0-9/~-]{1,40}") {
            if let Ok(url) = RemoteUrl::parse(&text, true) {
                let again = RemoteUrl::parse(&url.to_string(), true);
                proptest::prop_assert_eq!(again.map(|u| u.to_string()), Ok(url.to_string()));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = RemoteUrl::parse(&text, true);
        }
    }
}
