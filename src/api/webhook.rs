//! Paths of webhooks: made by the controller, checked by the receiver.

use std::{collections::BTreeMap, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use sha2::Sha256;

/// Key of the Secret that [`Webhook::secret_ref`](super::Webhook) names.
pub const SECRET_KEY: &str = "token";
/// What every path begins with.
pub const PREFIX: &str = "/hooks/";
/// Digits of the unguessable part.
pub const DIGITS: usize = 64;
/// Bytes that a token must have: its path must not help to guess it.
pub const SHORTEST: usize = 16;
/// Bytes that a token may have.
pub const LONGEST: usize = 1024;
/// What a token of the Standard Webhooks kind begins with; base64 follows.
const STANDARD_WEBHOOKS: &str = "whsec_";

/// What the forge signs with. It has no `Debug` and is never shown.
#[derive(Clone)]
pub struct Token {
    text: Vec<u8>,
    decoded: Option<Vec<u8>>,
}

/// Why a Secret holds no token; the text is for a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has no such key.
    #[error("it has no key {SECRET_KEY}")]
    Missing,
    /// Too short to be unguessable, or too long.
    #[error("{SECRET_KEY} must have {SHORTEST} to {LONGEST} bytes; make one with: openssl rand -hex 32")]
    Length,
    /// `whsec_` and then something else than base64.
    #[error("{SECRET_KEY} begins with {STANDARD_WEBHOOKS} and must then be base64, of {SHORTEST} bytes or more")]
    NotBase64,
}

impl Token {
    /// Reads the token of a Secret. One line break at its end, as editors leave it, does not count.
    pub fn from_secret(data: &BTreeMap<String, ByteString>) -> Result<Self, TokenError> {
        let raw = &data.get(SECRET_KEY).ok_or(TokenError::Missing)?.0;
        let text = raw.strip_suffix(b"\n").unwrap_or(raw);
        Self::new(text.strip_suffix(b"\r").unwrap_or(text))
    }

    /// A token of these bytes.
    pub fn new(text: &[u8]) -> Result<Self, TokenError> {
        if !(SHORTEST..=LONGEST).contains(&text.len()) {
            return Err(TokenError::Length);
        }
        let decoded = match text.strip_prefix(STANDARD_WEBHOOKS.as_bytes()) {
            None => None,
            Some(rest) => {
                let bytes = STANDARD.decode(rest).map_err(|_| TokenError::NotBase64)?;
                Some(bytes).filter(|bytes| bytes.len() >= SHORTEST).ok_or(TokenError::NotBase64)?.into()
            }
        };
        Ok(Self { text: text.into(), decoded })
    }

    /// The bytes as they stand in the Secret.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether it is of the Standard Webhooks kind, `whsec_<base64>`.
    pub fn is_standard(&self) -> bool {
        self.decoded.is_some()
    }

    /// The key of an HMAC in the Standard Webhooks way: what `whsec_` holds, else the bytes as they are.
    pub fn signing_key(&self) -> &[u8] {
        self.decoded.as_deref().unwrap_or(&self.text)
    }

    /// The path for an object: unguessable without the token, another one for each object, and for each one that
    /// later has its name. Nothing about the token can be read from it.
    pub fn path(&self, namespace: &str, name: &str, uid: &str) -> String {
        // An HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.text) else { return String::new() };
        for part in ["pilothouse.dev/webhook/v1", namespace, name, uid] {
            mac.update(part.as_bytes());
            mac.update(b"\0");
        }
        let bytes: [u8; 32] = mac.finalize().into_bytes().into();
        bytes.iter().fold(PREFIX.to_owned(), |mut path, byte| {
            let _ = write!(path, "{byte:02x}");
            path
        })
    }
}

/// The unguessable part of a path, if it has the form of one.
pub fn digits(path: &str) -> Option<&str> {
    let digits = path.strip_prefix(PREFIX)?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == DIGITS && digits.bytes().all(is_digit)).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Token, TokenError> {
        let data = [(SECRET_KEY.to_owned(), ByteString(text.as_bytes().to_vec()))].into();
        Token::from_secret(&data)
    }

    #[test]
    fn tokens_have_bounds_and_two_kinds() {
        for (text, want) in [
            ("0123456789abcdef", Ok((16, false, 16))),
            ("0123456789abcdef\r\n", Ok((16, false, 16))),
            ("0123456789abcde", Err(TokenError::Length)),
            ("", Err(TokenError::Length)),
            ("whsec_MDEyMzQ1Njc4OWFiY2RlZg==", Ok((30, true, 16))),
            ("whsec_not-base64-at-all", Err(TokenError::NotBase64)),
            ("whsec_MDEyMzQ1Njc4OWFiY2Q=", Err(TokenError::NotBase64)),
        ] {
            let found = read(text).map(|t| (t.text().len(), t.is_standard(), t.signing_key().len()));
            assert_eq!(found, want, "{text:?}");
        }
        assert!(read(&"x".repeat(LONGEST)).is_ok() && read(&"x".repeat(LONGEST + 1)).is_err());
        assert_eq!(Token::from_secret(&BTreeMap::new()).err(), Some(TokenError::Missing));
    }

    #[test]
    fn a_path_belongs_to_one_token_and_one_object() {
        let token = Token::new(b"0123456789abcdef").unwrap();
        let path = token.path("ns", "name", "uid");
        assert_eq!(path, token.path("ns", "name", "uid"));
        assert_eq!(digits(&path).map(str::len), Some(DIGITS));
        let other = Token::new(b"0123456789abcdeg").unwrap();
        let others = [
            token.path("ns", "nam", "euid"),
            token.path("n", "sname", "uid"),
            token.path("ns", "name", "uid2"),
            other.path("ns", "name", "uid"),
        ];
        assert!(others.iter().all(|found| *found != path));
        assert!(!path.contains("0123456789abcdef"));
    }

    #[test]
    fn what_is_no_path_is_known_without_a_look() {
        let good = "0".repeat(64);
        assert_eq!(digits(&format!("/hooks/{good}")), Some(good.as_str()));
        for bad in ["/hooks/", "/hook/0", &format!("/hooks/{good}/"), &format!("/hooks/{}", "A".repeat(64)), &good] {
            assert_eq!(digits(bad), None, "{bad}");
        }
    }
}
