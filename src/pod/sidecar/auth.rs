//! The door's password.

use std::{fmt, path::Path};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, header};
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use crate::pod::opencode::{CHALLENGE_HEADER, Credentials, Key};

/// Carries the password where something on the way drops `Authorization` (the API server does when it proxies).
pub const OWN_HEADER: &str = crate::api::voice::CALLER_HEADER;

/// Compares what a request presents with the Secret, in constant time. Holds a hash, not the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Lock(Key);

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

impl Lock {
    /// A lock that these open.
    pub fn new(credentials: &Credentials) -> Self {
        Self(credentials.key())
    }

    /// Whether a request may pass. Both headers are looked at, in the same time whatever they hold.
    pub fn opens(&self, headers: &HeaderMap) -> bool {
        let own = headers.get(OWN_HEADER).is_some_and(|value| self.fits(value));
        let standard = headers.get(header::AUTHORIZATION).is_some_and(|value| self.fits(value));
        own | standard
    }

    /// What every door of the agent knows.
    pub fn key(&self) -> Key {
        self.0.clone()
    }

    /// What a request has shown, as `Authorization`.
    pub fn pass(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let shown = [headers.get(header::AUTHORIZATION), headers.get(OWN_HEADER)];
        shown.into_iter().flatten().find(|value| self.fits(value)).cloned()
    }

    /// The answer to who asks whether this is the door of `pod` and knows the password.
    pub fn proof(&self, headers: &HeaderMap, pod: &HeaderValue) -> Option<HeaderValue> {
        self.0.answer(headers.get(CHALLENGE_HEADER)?, pod)
    }

    fn fits(&self, value: &HeaderValue) -> bool {
        let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else { return false };
        let presented = BASE64_STANDARD.decode(rest.trim()).unwrap_or_default();
        scheme.eq_ignore_ascii_case("basic") && bool::from(hash(&presented).ct_eq(self.0.bytes()))
    }
}

/// The lock as it is now, and what ends when it changes: what a password has opened and what stays open for long.
#[derive(Debug)]
pub struct Guard(RwLock<(Lock, CancellationToken)>);

impl Guard {
    /// With this lock for now.
    pub fn new(lock: Lock) -> Self {
        Self(RwLock::new((lock, CancellationToken::new())))
    }

    /// The lock.
    pub fn lock(&self) -> Lock {
        self.0.read().0.clone()
    }

    /// Whether a request may pass; until the token is cancelled.
    pub fn admits(&self, headers: &HeaderMap) -> Option<CancellationToken> {
        let now = self.0.read();
        now.0.opens(headers).then(|| now.1.clone())
    }

    /// Takes another lock; whether it is another one.
    pub fn change(&self, lock: Lock) -> bool {
        let mut now = self.0.write();
        if now.0 == lock {
            return false;
        }
        let (_, before) = std::mem::replace(&mut *now, (lock, CancellationToken::new()));
        before.cancel();
        true
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Reads `username` and `password` from a mounted Secret of type `kubernetes.io/basic-auth`.
///
/// # Errors
/// Names the file that is missing or empty.
pub fn read_secret(dir: &Path) -> std::io::Result<Credentials> {
    let read = |name: &str| {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path).map_err(|e| named(&path, &e.to_string(), e.kind()))?;
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() { Err(named(&path, "is empty", std::io::ErrorKind::InvalidData)) } else { Ok(text) }
    };
    Ok(Credentials { username: read("username")?, password: read("password")? })
}

/// Makes a password where there is none: in a pod of a Task's own nobody outside of it has to know one. It stays when the
/// sidecar starts again.
///
/// # Errors
/// The folder cannot be written.
pub fn make_secret(dir: &Path) -> std::io::Result<()> {
    if read_secret(dir).is_ok() {
        return Ok(());
    }
    let random: [u8; 32] = rand::random();
    for (name, text) in [("username", "opencode".to_owned()), ("password", BASE64_URL_SAFE_NO_PAD.encode(random))] {
        let (path, new) = (dir.join(name), dir.join(format!(".{name}")));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|e| named(&path, &e.to_string(), e.kind()))?;
    }
    Ok(())
}

fn named(path: &Path, what: &str, kind: std::io::ErrorKind) -> std::io::Error {
    std::io::Error::new(kind, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn table() {
        let lock = Lock::new(&Credentials { username: "opencode".into(), password: "s3:cret".into() });
        let right = format!("Basic {}", BASE64_STANDARD.encode("opencode:s3:cret"));
        let wrong = format!("Basic {}", BASE64_STANDARD.encode("opencode:s3"));
        for (list, opens) in [
            (vec![("authorization", right.as_str())], true),
            (vec![(OWN_HEADER, right.as_str())], true),
            (vec![("authorization", wrong.as_str()), (OWN_HEADER, right.as_str())], true),
            (vec![("authorization", wrong.as_str())], false),
            (vec![("authorization", &right.replace("Basic", "bAsIc"))], true),
            (vec![("authorization", &right.replace("Basic", "Bearer"))], false),
            (vec![("authorization", "Basic")], false),
            (vec![("authorization", "Basic !!!")], false),
            (vec![], false),
        ] {
            assert_eq!(lock.opens(&headers(&list)), opens, "{list:?}");
        }
    }

    #[test]
    fn who_passed_with_an_old_password_is_told() {
        let of = |password: &str| Credentials { username: "u".into(), password: password.into() };
        let (old, new) = (of("a"), of("b"));
        let shown = |c: &Credentials| HeaderMap::from_iter([(header::AUTHORIZATION, c.header().unwrap())]);
        let guard = Guard::new(Lock::new(&old));
        let pass = guard.admits(&shown(&old)).unwrap();
        assert!(!guard.change(Lock::new(&old)) && !pass.is_cancelled(), "the same password");
        assert!(guard.change(Lock::new(&new)) && pass.is_cancelled());
        assert!(guard.admits(&shown(&old)).is_none() && !guard.admits(&shown(&new)).unwrap().is_cancelled());
    }

    #[test]
    fn a_mounted_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("username"), "opencode\n").unwrap();
        let missing = read_secret(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("password"), "{missing}");
        std::fs::write(dir.path().join("password"), "x").unwrap();
        assert_eq!(read_secret(dir.path()).unwrap().username, "opencode");
        make_secret(dir.path()).unwrap();
        assert_eq!(read_secret(dir.path()).unwrap().password, "x", "what is there stays");
    }

    #[test]
    fn a_password_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        make_secret(dir.path()).unwrap();
        let made = read_secret(dir.path()).unwrap();
        assert!(made.password.len() > 40, "32 random bytes");
        make_secret(dir.path()).unwrap();
        assert_eq!(read_secret(dir.path()).unwrap().password, made.password, "of a sidecar that starts again");
        assert!(make_secret(&dir.path().join("nowhere")).is_err());
    }
}
