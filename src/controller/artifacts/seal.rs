//! Which annotations are the controller's word.
//!
//! Whoever may write `ConfigMaps` in a namespace can write one that looks like an agent's, with a digest that he has
//! seen elsewhere. So the controller seals what it writes, with a key that all replicas have and nobody else.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use sha2::Sha256;

use crate::{api::names::reasons, status::Failure};

/// What a sealed text is. A seal for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Artifacts that an agent's pods may fetch.
    Artifacts,
    /// What was decided for an agent's Git inputs.
    Pieces,
    /// Revisions of an agent that are kept.
    Revisions,
    /// The artifact that a Repository has published.
    Published,
}

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Self::Artifacts => "artifacts",
            Self::Pieces => "pieces",
            Self::Revisions => "revisions",
            Self::Published => "published",
        }
    }
}

/// Seals the artifacts that an Agent refers to. Cheap to clone; the key never shows.
#[derive(Clone)]
pub struct Seal(Arc<Hmac<Sha256>>);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// By a key that is derived from the authority's private one (PEM): it is in a Secret that all replicas share, and
    /// outlives certificates.
    pub fn new(authority_key: &str) -> Result<Self, Failure> {
        let broken = || Failure::transient(reasons::SERVING_CERTIFICATE_BROKEN, "the authority's key cannot be read");
        let key = PrivateKeyDer::from_pem_slice(authority_key.as_bytes()).map_err(|_| broken())?;
        let mut derived = Hmac::<Sha256>::new_from_slice(key.secret_der()).map_err(|_| broken())?;
        derived.update(b"pilothouse: artifacts that agents refer to");
        let derived = Hmac::new_from_slice(&derived.finalize().into_bytes()).map_err(|_| broken())?;
        Ok(Self(Arc::new(derived)))
    }

    /// The seal of an annotation's text, for the object of this namespace and uid: 64 hexadecimal digits.
    pub fn of(&self, purpose: Purpose, namespace: &str, uid: &str, text: &str) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16);
        let bytes = self.mac(purpose, namespace, uid, text).finalize().into_bytes();
        bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
    }

    /// Whether it is that one. Takes as long for a wrong one.
    pub fn fits(&self, purpose: Purpose, namespace: &str, uid: &str, text: &str, seal: &str) -> bool {
        use subtle::ConstantTimeEq as _;
        self.of(purpose, namespace, uid, text).as_bytes().ct_eq(seal.as_bytes()).into()
    }

    /// None of the parts can hold the byte between them: the API server allows it in no name, uid or annotation.
    fn mac(&self, purpose: Purpose, namespace: &str, uid: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = (*self.0).clone();
        for part in [purpose.text(), namespace, uid, text] {
            mac.update(part.as_bytes());
            mac.update(&[0]);
        }
        mac
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn seal() -> Seal {
        Seal::new(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    #[test]
    fn a_seal_is_for_one_agent_and_one_text() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (one, replica, other) = (Seal::new(&key).unwrap(), Seal::new(&key).unwrap(), seal());
        let of = Purpose::Artifacts;
        let sealed = one.of(of, "ns", "u", "sha256:1");
        assert_eq!(sealed.len(), 64);
        assert!(replica.fits(of, "ns", "u", "sha256:1", &sealed));
        assert!(!other.fits(of, "ns", "u", "sha256:1", &sealed));
        for (namespace, uid, text) in
            [("n", "su", "sha256:1"), ("ns", "v", "sha256:1"), ("ns", "u", "sha256:2"), ("ns", "u", "")]
        {
            assert!(!one.fits(of, namespace, uid, text, &sealed), "{namespace} {uid} {text}");
        }
        assert!(!one.fits(of, "ns", "u", "sha256:1", "") && !one.fits(of, "ns", "u", "sha256:1", &sealed[..63]));
        for other in [Purpose::Pieces, Purpose::Revisions, Purpose::Published] {
            assert!(!one.fits(other, "ns", "u", "sha256:1", &sealed), "{other:?}");
        }
        assert!(Seal::new("no key").is_err());
    }
}
