//! Credentials from a Secret's keys (pure). Nothing here prints what it holds.

use std::{collections::BTreeMap, fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{
    proxies::Proxies,
    url::{RemoteUrl, Scheme},
};

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Vec<u8>);

impl Hidden {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes; keep them out of messages.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How to prove who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Anonymous.
    #[default]
    None,
    /// HTTP Basic: `username:password`.
    Basic(Hidden),
    /// HTTP `Authorization: Bearer`.
    Bearer(Hidden),
    /// A private key, and the host keys that are accepted.
    Ssh {
        /// Private key in OpenSSH or PEM form, without a passphrase.
        identity: Hidden,
        /// Lines of a `known_hosts` file.
        known_hosts: Vec<u8>,
    },
}

/// What a Secret gives for one remote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// How to prove who asks.
    pub auth: Auth,
    /// PEM certificates; when given, only these are trusted for https.
    pub ca: Option<Vec<u8>>,
    /// PEM certificates that are trusted beside the system's, where [`ca`](Self::ca) has none.
    pub more_ca: Option<Arc<[u8]>>,
    /// The proxies that http(s) goes through.
    pub proxies: Proxies,
}

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is.
    pub url: RemoteUrl,
    /// `username` and `password`, where it wants them.
    pub login: Option<(Hidden, Hidden)>,
}

impl Proxy {
    /// Reads the keys of a Secret.
    ///
    /// # Errors
    /// A key that is missing, unknown or malformed.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, CredentialError> {
        if let Some(key) = data.keys().find(|key| !["address", "username", "password"].contains(&key.as_str())) {
            return Err(CredentialError::UnknownOfProxy(key.clone()));
        }
        let address =
            value(data, "address").ok_or(CredentialError::Missing("address, as in http://proxy.example.com:3128"))?;
        let text = String::from_utf8_lossy(one_line("address", address)?).into_owned();
        let url = Self::at(text.trim_end_matches('/')).ok_or(CredentialError::Value {
            key: "address",
            problem: "must be http://HOST:PORT, without a path and a login",
        })?;
        let line = |key| value(data, key).map(|bytes| Ok(Hidden(one_line(key, bytes)?.to_vec()))).transpose();
        let login = match (line("username")?, line("password")?) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => return Err(CredentialError::Missing("password beside username")),
            (None, Some(_)) => return Err(CredentialError::Missing("username beside password")),
        };
        Ok(Self { url, login })
    }

    /// What `http://HOST:PORT` names; `None` for anything else.
    pub(super) fn at(text: &str) -> Option<RemoteUrl> {
        // An address of a proxy has no path, and one of a remote needs one.
        let url = RemoteUrl::parse(&format!("{text}/proxy"), false).ok()?;
        (url.scheme() == Scheme::Http && url.path() == "/proxy").then_some(url)
    }

    /// As curl takes it.
    pub fn address(&self) -> String {
        self.url.to_string().trim_end_matches("/proxy").to_owned()
    }
}

/// Why a Secret is no credential for a remote. Messages name keys, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Keys that belong together are not all there, or one is empty.
    #[error("the Secret needs {0}")]
    Missing(&'static str),
    /// A key that this program does not know.
    #[error(
        "the Secret holds the key {0:?}, which has no meaning here; an http(s) URL needs username and password, or \
         bearerToken, and an ssh URL identity and known_hosts (known keys are {KNOWN})"
    )]
    Unknown(String),
    /// A key of a proxy's Secret that this program does not know.
    #[error("the Secret holds the key {0:?}, which has no meaning here; a proxy has address, username and password")]
    UnknownOfProxy(String),
    /// A key that is understood but not implemented.
    #[error("the Secret's key {0:?} is not supported yet: client certificates cannot be used for Git")]
    NotYet(String),
    /// Two ways to prove who asks.
    #[error("the Secret holds both username/password and bearerToken; keep one")]
    Ambiguous,
    /// The keys do not fit the scheme of the URL.
    #[error("{0}")]
    Scheme(&'static str),
    /// A value is malformed.
    #[error("the Secret's key {key:?} {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
}

const KNOWN: &str = "username, password, bearerToken, identity, ssh-privatekey, known_hosts, ca.crt";

/// Keys that tools write beside the ones that matter.
const HARMLESS: [&str; 3] = ["identity.pub", "ssh-publickey", "config.json"];

impl Credential {
    /// Reads the keys of a Secret for the remote at `url`.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>, url: &RemoteUrl) -> Result<Self, CredentialError> {
        check_keys(data)?;
        match url.scheme() {
            Scheme::Ssh => Ok(Self { auth: ssh(data)?, ..Self::default() }),
            Scheme::Https | Scheme::Http => Ok(Self { auth: http(data)?, ca: certificates(data)?, ..Self::default() }),
            Scheme::File => Err(CredentialError::Scheme("a file: URL takes no Secret")),
        }
    }

    /// Checks that a remote without a Secret can do without.
    pub fn anonymous(url: &RemoteUrl) -> Result<Self, CredentialError> {
        if url.scheme() == Scheme::Ssh {
            return Err(CredentialError::Scheme(
                "an ssh URL needs secretRef, a Secret with identity (or ssh-privatekey) and known_hosts",
            ));
        }
        Ok(Self::default())
    }

    /// The same through a proxy.
    ///
    /// # Errors
    /// The remote is not reached by http(s).
    pub fn through(self, proxy: Proxy, url: &RemoteUrl) -> Result<Self, CredentialError> {
        match url.scheme() {
            Scheme::Http | Scheme::Https => Ok(Self { proxies: Proxies::all(proxy), ..self }),
            Scheme::Ssh | Scheme::File => {
                Err(CredentialError::Scheme("proxySecretRef is for http(s) URLs; remove it, or use such a URL"))
            }
        }
    }

    /// A keyed hash of the material, the same for the same credential wherever it comes from. The key is random for
    /// each process, so the hash says nothing outside of it.
    pub fn fingerprint(&self, key: &[u8; 32]) -> [u8; 32] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
        let mut part = |tag: &[u8], bytes: &[u8]| {
            mac.update(tag);
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(bytes);
        };
        match &self.auth {
            Auth::None => part(b"none", b""),
            Auth::Basic(pair) => part(b"basic", &pair.0),
            Auth::Bearer(token) => part(b"bearer", &token.0),
            Auth::Ssh { identity, known_hosts } => {
                part(b"ssh", &identity.0);
                part(b"hosts", known_hosts);
            }
        }
        part(b"ca", self.ca.as_deref().unwrap_or_default());
        part(b"more-ca", self.more_ca.as_deref().unwrap_or_default());
        self.proxies.each(&mut part);
        mac.finalize().into_bytes().into()
    }
}

fn check_keys(data: &BTreeMap<String, Vec<u8>>) -> Result<(), CredentialError> {
    for key in data.keys().map(String::as_str) {
        match key {
            "tls.crt" | "tls.key" | "certFile" | "keyFile" => return Err(CredentialError::NotYet(key.into())),
            _ if KNOWN.split(", ").any(|known| known == key) || HARMLESS.contains(&key) => {}
            _ => return Err(CredentialError::Unknown(key.into())),
        }
    }
    Ok(())
}

fn value<'a>(data: &'a BTreeMap<String, Vec<u8>>, key: &str) -> Option<&'a [u8]> {
    data.get(key).map(Vec::as_slice).filter(|bytes| !bytes.is_empty())
}

fn http(data: &BTreeMap<String, Vec<u8>>) -> Result<Auth, CredentialError> {
    if value(data, "identity").or_else(|| value(data, "ssh-privatekey")).is_some() {
        return Err(CredentialError::Scheme(
            "the Secret holds an ssh key but the URL is http(s); use username and password, or bearerToken",
        ));
    }
    match (value(data, "username"), value(data, "password"), value(data, "bearerToken")) {
        (Some(_) | None, Some(_), Some(_)) | (Some(_), None, Some(_)) => Err(CredentialError::Ambiguous),
        (Some(user), Some(password), None) => basic(user, password),
        (Some(_), None, None) => Err(CredentialError::Missing("password beside username")),
        (None, Some(_), None) => Err(CredentialError::Missing("username beside password")),
        (None, None, Some(token)) => Ok(Auth::Bearer(Hidden(one_line("bearerToken", token)?.to_vec()))),
        (None, None, None) if value(data, "ca.crt").is_some() => Ok(Auth::None),
        (None, None, None) => Err(CredentialError::Missing("username and password, or bearerToken, or ca.crt")),
    }
}

fn basic(user: &[u8], password: &[u8]) -> Result<Auth, CredentialError> {
    let user = one_line("username", user)?;
    if user.contains(&b':') {
        return Err(CredentialError::Value { key: "username", problem: "must not hold a colon" });
    }
    Ok(Auth::Basic(Hidden([user, b":", one_line("password", password)?].concat())))
}

/// Drops the newline that `kubectl create secret --from-file` brings along and refuses any other control character:
/// these values become one line of a request.
fn one_line<'a>(key: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], CredentialError> {
    let line = bytes.trim_ascii_end();
    if line.is_empty() || line.iter().any(u8::is_ascii_control) {
        return Err(CredentialError::Value { key, problem: "must be one line of text" });
    }
    Ok(line)
}

fn certificates(data: &BTreeMap<String, Vec<u8>>) -> Result<Option<Vec<u8>>, CredentialError> {
    let Some(pem) = value(data, "ca.crt") else { return Ok(None) };
    if has_certificate(pem) {
        return Ok(Some(pem.to_vec()));
    }
    Err(CredentialError::Value { key: "ca.crt", problem: "holds no PEM certificate" })
}

/// Whether a text holds a certificate in PEM form.
pub fn has_certificate(pem: &[u8]) -> bool {
    let marker = b"-----BEGIN CERTIFICATE-----";
    pem.windows(marker.len()).any(|window| window == marker)
}

fn ssh(data: &BTreeMap<String, Vec<u8>>) -> Result<Auth, CredentialError> {
    let identity = value(data, "identity")
        .or_else(|| value(data, "ssh-privatekey"))
        .ok_or(CredentialError::Missing("identity (or ssh-privatekey), a private key, for an ssh URL"))?;
    let known_hosts = value(data, "known_hosts").ok_or(CredentialError::Missing(
        "known_hosts beside the private key; `ssh-keyscan HOST` prints the lines, compare them with what the forge publishes",
    ))?;
    if known_hosts.iter().all(u8::is_ascii_whitespace) {
        return Err(CredentialError::Value { key: "known_hosts", problem: "is blank" });
    }
    check_private_key(identity)?;
    // OpenSSH refuses a key file whose last line is not ended.
    let identity = [identity.trim_ascii_end(), b"\n"].concat();
    let known_hosts = [known_hosts.trim_ascii_end(), b"\n"].concat();
    Ok(Auth::Ssh { identity: Hidden(identity), known_hosts })
}

fn check_private_key(pem: &[u8]) -> Result<(), CredentialError> {
    let bad = |problem| Err(CredentialError::Value { key: "identity", problem });
    let Ok(text) = std::str::from_utf8(pem) else { return bad("is no PEM text") };
    if !text.contains("-----BEGIN ") || !text.contains("PRIVATE KEY-----") {
        return bad("is no private key in PEM or OpenSSH form");
    }
    if text.contains("ENCRYPTED") || openssh_cipher(text).is_some_and(|cipher| cipher != "none") {
        return bad("is protected by a passphrase, which nobody can type here; give a key without one");
    }
    Ok(())
}

/// The cipher's name in an OpenSSH key: after the magic, a length-prefixed text.
fn openssh_cipher(text: &str) -> Option<String> {
    use base64::Engine as _;
    let body = text.split("-----BEGIN OPENSSH PRIVATE KEY-----").nth(1)?.split("-----END").next()?;
    let packed: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).ok()?;
    let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let length = usize::try_from(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
    String::from_utf8(rest.get(4..4usize.checked_add(length)?)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(keys: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        keys.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
    }

    fn https() -> RemoteUrl {
        RemoteUrl::parse("https://example.com/a", false).unwrap()
    }

    fn ssh_url() -> RemoteUrl {
        RemoteUrl::parse("git@example.com:a", false).unwrap()
    }

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----";

    #[test]
    fn http_keys() {
        let basic = Credential::from_secret(&secret(&[("username", "me"), ("password", "p w\n")]), &https()).unwrap();
        assert_eq!(basic.auth, Auth::Basic(Hidden(b"me:p w".to_vec())));
        let bearer = Credential::from_secret(&secret(&[("bearerToken", "t")]), &https()).unwrap();
        assert_eq!(bearer.auth, Auth::Bearer(Hidden(b"t".to_vec())));
    }

    #[test]
    fn refusals_name_the_key() {
        for (keys, want) in [
            (vec![], "needs username and password"),
            (vec![("username", "me")], "password beside username"),
            (vec![("password", "x")], "username beside password"),
            (vec![("username", "me"), ("password", "x"), ("bearerToken", "t")], "keep one"),
            (vec![("bearerToken", "a\nb")], "one line"),
            (vec![("username", "a:b"), ("password", "x")], "colon"),
            (vec![("username", "a"), ("password", "x"), ("pasword", "y")], "\"pasword\""),
            (vec![("token", "x")], "needs username and password, or bearerToken"),
            (vec![("tls.crt", "x"), ("tls.key", "y")], "not supported yet"),
            (vec![("identity", KEY), ("known_hosts", "h k")], "the URL is http(s)"),
            (vec![("ca.crt", "rubbish")], "PEM certificate"),
        ] {
            let error = Credential::from_secret(&secret(&keys), &https()).unwrap_err().to_string();
            assert!(error.contains(want), "{keys:?}: {error}");
        }
    }

    #[test]
    fn an_ssh_key_needs_known_hosts() {
        for (keys, want) in [
            (vec![("username", "me"), ("password", "x")], "private key, for an ssh URL"),
            (vec![("identity", KEY)], "known_hosts beside"),
            (vec![("identity", KEY), ("known_hosts", " \n")], "blank"),
            (vec![("identity", "rubbish"), ("known_hosts", "h k")], "no private key"),
            (
                vec![("identity", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED"), ("known_hosts", "h")],
                "passphrase",
            ),
        ] {
            let error = Credential::from_secret(&secret(&keys), &ssh_url()).unwrap_err().to_string();
            assert!(error.contains(want), "{keys:?}: {error}");
        }
        for key in ["identity", "ssh-privatekey"] {
            let found = Credential::from_secret(&secret(&[(key, KEY), ("known_hosts", "h k")]), &ssh_url()).unwrap();
            assert!(matches!(found.auth, Auth::Ssh { identity, .. } if identity.expose().ends_with(b"-----\n")));
        }
        assert!(Credential::anonymous(&ssh_url()).unwrap_err().to_string().contains("secretRef"));
    }

    #[test]
    fn a_passphrase_in_the_new_format_is_seen() {
        use base64::Engine as _;
        let body = [b"openssh-key-v1\0".as_slice(), &10u32.to_be_bytes(), b"aes256-ctr", &[0; 20]].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(body);
        let key = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----");
        assert!(check_private_key(key.as_bytes()).unwrap_err().to_string().contains("passphrase"));
    }

    #[test]
    fn fingerprints_follow_the_material_alone() {
        let read = |keys: &[(&str, &str)]| Credential::from_secret(&secret(keys), &https()).unwrap();
        let (a, same) = (read(&[("bearerToken", "t")]), read(&[("bearerToken", "t\n")]));
        let other = read(&[("bearerToken", "u")]);
        let basic = read(&[("username", "t"), ("password", "t")]);
        let key = [7; 32];
        assert_eq!(a.fingerprint(&key), same.fingerprint(&key));
        assert_ne!(a.fingerprint(&key), other.fingerprint(&key));
        assert_ne!(a.fingerprint(&key), basic.fingerprint(&key));
        assert_ne!(a.fingerprint(&key), a.fingerprint(&[8; 32]));
    }

    #[test]
    fn a_proxy_is_an_address_and_maybe_a_login() {
        let of = |keys: &[(&str, &str)]| Proxy::from_secret(&secret(keys));
        let plain = of(&[("address", "http://proxy:3128/\n")]).unwrap();
        assert_eq!((plain.address().as_str(), &plain.login), ("http://proxy:3128", &None));
        let login = of(&[("address", "http://[::1]:80"), ("username", "u"), ("password", "s3cret")]).unwrap();
        assert!(login.login.is_some() && !format!("{login:?}").contains("s3cret"));
        for (keys, want) in [
            (&[][..], "needs address"),
            (&[("address", "https://proxy:3128")], "http://HOST:PORT"),
            (&[("address", "http://proxy:3128/path")], "http://HOST:PORT"),
            (&[("address", "http://u:p@proxy:3128")], "http://HOST:PORT"),
            (&[("address", "socks5://proxy")], "http://HOST:PORT"),
            (&[("address", "http://p"), ("username", "u")], "password beside username"),
            (&[("adress", "http://p")], "\"adress\""),
        ] {
            let error = of(keys).unwrap_err().to_string();
            assert!(error.contains(want), "{keys:?}: {error}");
        }
        let key = [7; 32];
        let through = |proxy: &Proxy| Credential::default().through(proxy.clone(), &https()).unwrap().fingerprint(&key);
        assert_ne!(through(&plain), through(&login));
        assert_ne!(through(&plain), Credential::default().fingerprint(&key));
        assert!(Credential::default().through(plain, &ssh_url()).unwrap_err().to_string().contains("http(s)"));
    }

    #[test]
    fn debug_shows_nothing() {
        let found = Credential::from_secret(&secret(&[("username", "me"), ("password", "s3cret")]), &https()).unwrap();
        assert!(!format!("{found:?}").contains("s3cret"));
    }
}
