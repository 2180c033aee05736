//! Whether a token looks like one that a review would find good: cheap, and no proof of anything (no I/O).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::api::names::AUDIENCE;

/// Clocks may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audiences,
    exp: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    pod: Pod,
}

#[derive(Deserialize)]
struct Pod {
    name: String,
    uid: String,
}

/// Whether `token` has the form of a ServiceAccount's token for us, bound to a pod, that has not expired. Its signature
/// is not looked at.
pub(super) fn is_plausible(token: &str, now: Timestamp) -> bool {
    let mut parts = token.split('.');
    let (Some(head), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_base64 = |part: &str| !part.is_empty() && BASE64_URL_SAFE_NO_PAD.decode(part).is_ok();
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(claims).ok();
    let claims = decoded.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    is_base64(head) && is_base64(signature) && claims.is_some_and(|claims| claims.fit(now))
}

impl Claims {
    fn fit(&self, now: Timestamp) -> bool {
        let ours = match &self.aud {
            Audiences::One(one) => one == AUDIENCE,
            Audiences::Many(many) => many.iter().any(|one| one == AUDIENCE),
        };
        let ends = Timestamp::from_second(self.exp).unwrap_or(Timestamp::MAX);
        let bound = &self.kubernetes;
        let complete = [&bound.namespace, &bound.pod.name, &bound.pod.uid].iter().all(|part| !part.is_empty());
        ours && complete && now.duration_since(ends) < SKEW && self.sub.starts_with("system:serviceaccount:")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn table() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let good = json!({
            "aud": ["pilothouse"], "exp": 1_800_003_600, "iss": "https://kubernetes.default.svc",
            "kubernetes.io": { "namespace": "team", "pod": { "name": "coder-server-a-b", "uid": "u" } },
            "sub": "system:serviceaccount:team:default",
        });
        let token = |claims: &Value| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let with = |path: &str, value: Value| {
            let mut claims = good.clone();
            *claims.pointer_mut(path).unwrap() = value;
            token(&claims)
        };
        for (token, plausible) in [
            (token(&good), true),
            (with("/aud", json!("pilothouse")), true),
            (with("/aud", json!(["other", "pilothouse"])), true),
            (with("/aud", json!(["https://kubernetes.default.svc"])), false),
            (with("/aud", json!([])), false),
            (with("/exp", json!(1_799_999_970)), true),
            (with("/exp", json!(1_799_999_900)), false),
            (with("/exp", json!("never")), false),
            (with("/sub", json!("admin")), false),
            (with("/kubernetes.io/pod", json!(null)), false),
            (with("/kubernetes.io/pod/uid", json!("")), false),
            (with("/kubernetes.io", json!({})), false),
            (token(&json!([])), false),
            ("e30.!!.c2ln".into(), false),
            (token(&good).replace("e30.", "."), false),
            (token(&good).replace(".c2ln", "."), false),
            (token(&good) + ".x", false),
            ("garbage".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_plausible(&token, now), plausible, "{token}");
        }
    }
}
