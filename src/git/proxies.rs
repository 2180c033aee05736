//! Through which proxy a host is reached, if through any (pure).

use std::{net::IpAddr, str::FromStr as _};

use super::{
    address::Network,
    credential::{Hidden, Proxy},
    url::{RemoteUrl, Scheme},
};

/// Proxies for http and https URLs, and the hosts that are reached without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// Hosts that are reached without a proxy, at any port or at one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Direct {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// `*`.
    All,
    /// A name, and all names below it.
    Name(String),
    /// All names below one.
    Below(String),
    /// Addresses.
    Network(Network),
}

impl Proxies {
    /// One for everything, without exceptions.
    pub fn all(proxy: Proxy) -> Self {
        Self { http: Some(proxy.clone()), https: Some(proxy), direct: vec![] }
    }

    /// As the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say it; what is empty is as absent.
    ///
    /// # Errors
    /// The name of the one that is no proxy, and what it may be. Values are not repeated: they may hold a password.
    pub fn new(http: Option<&str>, https: Option<&str>, direct: &str) -> Result<Self, String> {
        let read = |name: &str, text: Option<&str>| match text.map(str::trim).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => proxy(text)
                .map(Some)
                .ok_or_else(|| format!("{name} must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")),
        };
        let direct = direct.split(',').filter_map(self::direct).collect();
        Ok(Self { http: read("httpProxy", http)?, https: read("httpsProxy", https)?, direct })
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// The one for an address.
    pub fn of(&self, target: &RemoteUrl) -> Option<&Proxy> {
        let proxy = match target.scheme() {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
            Scheme::Ssh | Scheme::File => None,
        };
        proxy.filter(|_| !self.direct.iter().any(|direct| direct.has(target.host(), target.port())))
    }

    /// Names everything that a fingerprint of it has to depend on.
    pub(super) fn each(&self, part: &mut impl FnMut(&[u8], &[u8])) {
        for (tag, proxy) in [(&b"http"[..], &self.http), (b"https", &self.https)] {
            let Some(proxy) = proxy else { continue };
            part(tag, proxy.address().as_bytes());
            let (user, password) = proxy.login.as_ref().map_or((&[][..], &[][..]), |(u, p)| (u.expose(), p.expose()));
            part(b"user", user);
            part(b"password", password);
        }
        for direct in &self.direct {
            part(b"direct", format!("{direct:?}").as_bytes());
        }
    }
}

/// An address with a login in it, as variables have it.
fn proxy(text: &str) -> Option<Proxy> {
    let rest = match text.split_once("://") {
        Some((scheme, rest)) => Some(rest).filter(|_| scheme.eq_ignore_ascii_case("http"))?,
        None => text,
    };
    let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
    let login = match login {
        None => None,
        Some(login) => {
            let (user, password) = login.split_once(':')?;
            Some((Hidden::new(decoded(user)?), Hidden::new(decoded(password)?)))
        }
    };
    Proxy::at(&format!("http://{}", address.trim_end_matches('/'))).map(|url| Proxy { url, login })
}

/// `%40` and the like; `None` for what would be no one line.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (vec![], text.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let byte = if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            rest = &rest[2..];
            u8::from_str_radix(digits, 16).ok()?
        } else {
            *first
        };
        out.push(byte);
    }
    Some(out).filter(|out| !out.is_empty() && !out.iter().any(u8::is_ascii_control))
}

/// One part of `NO_PROXY`.
fn direct(text: &str) -> Option<Direct> {
    let text = text.trim().to_ascii_lowercase();
    if let Ok(network) = Network::from_str(text.trim_start_matches('[').trim_end_matches(']')) {
        return Some(Direct { hosts: Hosts::Network(network), port: None });
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text.as_str(), None),
    };
    let hosts = match (name, name.strip_prefix("*.").or_else(|| name.strip_prefix('.'))) {
        ("", _) => return None,
        ("*", _) => Hosts::All,
        (_, Some(below)) => Hosts::Below(below.into()),
        (name, None) => Network::from_str(name).map_or_else(|_| Hosts::Name(name.into()), Hosts::Network),
    };
    Some(Direct { hosts, port })
}

impl Direct {
    fn has(&self, host: &str, port: Option<u16>) -> bool {
        let below = |name: &str| host.strip_suffix(name).is_some_and(|head| head.len() > 1 && head.ends_with('.'));
        let is_one = match &self.hosts {
            Hosts::All => true,
            Hosts::Name(name) => host == name || below(name),
            Hosts::Below(name) => below(name),
            Hosts::Network(network) => host.parse::<IpAddr>().is_ok_and(|address| network.contains(address)),
        };
        is_one && (self.port.is_none() || self.port == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&RemoteUrl::parse(url, true).unwrap()).map(Proxy::address)
    }

    #[test]
    fn each_scheme_has_its_own_and_exceptions_have_none() {
        let list = " .svc,*.corp.example ,git.example.org,10.0.0.0/8, 192.0.2.7:8080,[fd00::1],cache:3000,,bad:port";
        let proxies = Proxies::new(Some("http://p:3128"), Some("q:8080/"), list).unwrap();
        for (url, want) in [
            ("http://example.com/a", Some("http://p:3128")),
            ("https://example.com/a", Some("http://q:8080")),
            ("git@example.com:a", None),
            ("https://forge.git.svc/a", None),
            ("https://svc/a", Some("http://q:8080")),
            ("https://a.corp.example/a", None),
            ("https://corp.example/a", Some("http://q:8080")),
            ("https://git.example.org/a", None),
            ("https://sub.git.example.org/a", None),
            ("https://evilgit.example.org/a", Some("http://q:8080")),
            ("https://10.1.2.3/a", None),
            ("https://11.1.2.3/a", Some("http://q:8080")),
            ("http://192.0.2.7:8080/a", None),
            ("http://192.0.2.7/a", Some("http://p:3128")),
            ("http://[fd00::1]/a", None),
            ("http://cache:3000/a", None),
            ("http://cache/a", Some("http://p:3128")),
        ] {
            assert_eq!(host_of(&proxies, url).as_deref(), want, "{url}");
        }
        let all = Proxies::new(Some("http://p:1"), None, "*").unwrap();
        assert_eq!(host_of(&all, "http://example.com/a"), None);
        let one = Proxies::new(Some("http://p:1"), Some(" "), "").unwrap();
        assert!(host_of(&one, "https://h/a").is_none() && !one.is_empty() && Proxies::default().is_empty());
    }

    #[test]
    fn logins_are_decoded_and_never_shown() {
        let proxies = Proxies::new(Some("http://me:p%40ss%3Aword@p:3128"), None, "").unwrap();
        let proxy = proxies.of(&RemoteUrl::parse("http://h/a", false).unwrap()).unwrap();
        let (user, password) = proxy.login.as_ref().unwrap();
        assert_eq!((user.expose(), password.expose()), (&b"me"[..], &b"p@ss:word"[..]));
        assert!(!format!("{proxies:?}").contains("word"));
        for bad in [
            "https://p:1",
            "socks5://p:1",
            "http://p:1/path",
            "http://u@p:1",
            "http://u:%0a@p:1",
            "http://u:%zz@p",
            "http://",
        ] {
            let error = Proxies::new(None, Some(bad), "").unwrap_err();
            assert!(
                error.starts_with("httpsProxy must be")
                    && !error.contains("u@")
                    && !error.contains("socks")
                    && !error.contains("%0a"),
                "{bad}: {error}"
            );
        }
    }
}
