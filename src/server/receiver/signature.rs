//! Whether a delivery is authentic (pure).
//!
//! A [`Check`] takes the body piece by piece, so that a body of any length costs no memory. It does the same work for
//! a path that nobody has, and says no only in the end.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::forge::only;
use crate::api::{Forge, webhook::Token};

/// Seconds that a signed time may be off, either way.
pub const TOLERANCE: i64 = 300;
/// Signatures of one header that are looked at; senders list one for each key while keys change.
const SIGNATURES: usize = 8;
/// Longest id of a delivery.
const LONGEST_ID: usize = 256;

/// Why a delivery is none. The sender never learns which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody has the path.
    #[error("nobody has this path")]
    UnknownPath,
    /// The Secret of the path could not be read, or makes another path now.
    #[error("the Secret of the webhook could not be read, or holds another token by now")]
    NoToken,
    /// The headers of a signature are missing, doubled or malformed.
    #[error(
        "the headers of a signature are missing or malformed; check spec.webhook.type, and that the forge has the token"
    )]
    NoSignature,
    /// The signed time is too far from ours.
    #[error("the signed time is more than {TOLERANCE} s away: a late delivery, or a clock that is wrong")]
    Stale,
    /// Signed with another key, or changed on the way.
    #[error("the signature is wrong: the forge has another token than the Secret")]
    BadSignature,
}

/// A signature: 32 bytes.
type Seal = [u8; 32];

enum Wanted {
    /// One of these.
    Seals(Vec<Seal>),
    /// The sender showed the token itself; whether it was the right one.
    Shown(Choice),
    Nothing(Refusal),
}

/// A delivery that is being read.
pub struct Check {
    mac: Hmac<Sha256>,
    wanted: Wanted,
}

impl Check {
    /// Begins with the headers. `now` is in seconds since 1970.
    pub fn begin(forge: Forge, token: &Token, headers: &HeaderMap, now: i64) -> Self {
        let standard = matches!(forge, Forge::Generic) || (forge == Forge::GitLab && token.is_standard());
        let key = if standard { token.signing_key() } else { token.text() };
        let (wanted, head) = match wanted(forge, standard, token, headers, now) {
            Ok((wanted, head)) => (wanted, head),
            Err(refusal) => (Wanted::Nothing(refusal), String::new()),
        };
        let mut mac = mac(key);
        mac.update(head.as_bytes());
        Self { mac, wanted }
    }

    /// Does the same work and says no.
    pub fn decoy(refusal: Refusal) -> Self {
        Self { mac: mac(&[0; 32]), wanted: Wanted::Nothing(refusal) }
    }

    /// The next piece of the body.
    pub fn update(&mut self, piece: &[u8]) {
        self.mac.update(piece);
    }

    /// The verdict: what makes this delivery the same as another one. Time does not depend on where a signature
    /// differs.
    pub fn finish(self) -> Result<Seal, Refusal> {
        let seal: Seal = self.mac.finalize().into_bytes().into();
        let authentic = match self.wanted {
            Wanted::Nothing(refusal) => return Err(refusal),
            Wanted::Shown(right) => right,
            Wanted::Seals(wanted) => wanted.iter().fold(Choice::from(0), |any, one| any | one.ct_eq(&seal)),
        };
        if bool::from(authentic) { Ok(seal) } else { Err(Refusal::BadSignature) }
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // An HMAC takes keys of any length; should that ever change, a key that nobody has is right.
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::<Sha256>::new(&[0x5c; 64].into()))
}

/// What must come out, and what is signed before the body.
fn wanted(
    forge: Forge,
    standard: bool,
    token: &Token,
    headers: &HeaderMap,
    now: i64,
) -> Result<(Wanted, String), Refusal> {
    if standard {
        return standard_webhooks(headers, now);
    }
    let seal = match forge {
        Forge::GitHub => only(headers, "x-hub-signature-256").and_then(prefixed),
        Forge::Bitbucket => only(headers, "x-hub-signature").and_then(prefixed),
        Forge::Gitea => only(headers, "x-gitea-signature").and_then(hex),
        Forge::Forgejo => {
            only(headers, "x-forgejo-signature").or_else(|| only(headers, "x-gitea-signature")).and_then(hex)
        }
        Forge::GitLab => {
            let shown = only(headers, "x-gitlab-token").ok_or(Refusal::NoSignature)?;
            return Ok((Wanted::Shown(same(shown.as_bytes(), token.text())), String::new()));
        }
        Forge::Generic => None, // always standard
    };
    Ok((Wanted::Seals(vec![seal.ok_or(Refusal::NoSignature)?]), String::new()))
}

fn standard_webhooks(headers: &HeaderMap, now: i64) -> Result<(Wanted, String), Refusal> {
    let header = |name| only(headers, name).ok_or(Refusal::NoSignature);
    let (id, time, list) = (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    if id.is_empty() || id.len() > LONGEST_ID {
        return Err(Refusal::NoSignature);
    }
    let seconds: i64 = time.parse().map_err(|_| Refusal::NoSignature)?;
    if now.abs_diff(seconds) > TOLERANCE.unsigned_abs() {
        return Err(Refusal::Stale);
    }
    let v1 = list.split_ascii_whitespace().take(SIGNATURES).filter_map(|one| one.strip_prefix("v1,"));
    let seals: Vec<Seal> = v1.filter_map(|text| STANDARD.decode(text).ok()?.try_into().ok()).collect();
    if seals.is_empty() {
        return Err(Refusal::NoSignature);
    }
    Ok((Wanted::Seals(seals), format!("{id}.{time}.")))
}

/// Compares without telling lengths.
fn same(a: &[u8], b: &[u8]) -> Choice {
    let (a, b): (Seal, Seal) = (Sha256::digest(a).into(), Sha256::digest(b).into());
    a.ct_eq(&b)
}

fn prefixed(text: &str) -> Option<Seal> {
    hex(text.strip_prefix("sha256=")?)
}

fn hex(text: &str) -> Option<Seal> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut seal = [0; 32];
    for (byte, pair) in seal.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(seal)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests;
