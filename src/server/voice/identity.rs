//! Who a sidecar is: its token, reviewed by the API server.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{throttle::Failures, token::is_plausible};
use crate::api::{
    names::AUDIENCE,
    voice::{Hello, PROTOCOL},
};

/// How long an answer is believed. A token of a deleted pod works this long at most.
const BELIEVED: Duration = Duration::from_mins(1);
/// Answers kept; beyond, the oldest half goes.
const KEPT: usize = 4096;
/// Reviews at once.
const AT_ONCE: usize = 16;
/// Longest token that is sent on.
const MAX_TOKEN: usize = 16 << 10;
/// A token that was good once is looked at again whatever others at its address present, for as long as the kubelet may
/// use one.
const TRUSTED: Duration = Duration::from_hours(1);
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// A pod, as the API server knows it from the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the service account, and so of the pod.
    pub namespace: String,
    /// Name of the service account.
    pub account: String,
    /// Name of the pod that the token is bound to.
    pub pod: String,
    /// Uid of that pod.
    pub pod_uid: String,
}

/// Why somebody is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The token is not valid for us.
    #[error("the token is not valid for audience {AUDIENCE}")]
    Invalid,
    /// The token is valid, but bound to no pod.
    #[error("the token is not bound to a pod: use a projected ServiceAccount token")]
    NoPod,
    /// What the sidecar says of itself is not what the token says.
    #[error("the sidecar says that it is {0}, the token says otherwise")]
    Mismatch(String),
    /// So many tokens from this address were not valid that no other is looked at for a moment.
    #[error("too many tokens from your address were not valid: wait a moment")]
    TooMany,
    /// The API server could not be asked.
    #[error("tokens cannot be reviewed: {0}")]
    Unavailable(String),
}

/// Asks the API server; tests ask something else.
pub trait Reviewer: Send + Sync {
    /// Who presents this token.
    fn review(&self, token: String) -> BoxFuture<'_, Result<Identity, IdentityError>>;
}

impl Reviewer for Client {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Identity, IdentityError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let api: Api<TokenReview> = Api::all(self.clone());
            // An error's text may hold the request; only its kind leaves this function.
            let answer = api.create(&PostParams::default(), &review).await.map_err(|error| {
                let why = match error {
                    kube::Error::Api(status) => format!("the API server answered {}", status.code),
                    _ => "the API server does not answer".to_owned(),
                };
                IdentityError::Unavailable(why)
            })?;
            from_status(answer.status.unwrap_or_default())
        })
    }
}

fn from_status(status: TokenReviewStatus) -> Result<Identity, IdentityError> {
    let ours = status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !ours {
        return Err(IdentityError::Invalid);
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, account) = account.ok_or(IdentityError::NoPod)?;
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(&format!("authentication.kubernetes.io/{key}")).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(IdentityError::NoPod),
    };
    let (pod, pod_uid) = (one("pod-name")?, one("pod-uid")?);
    Ok(Identity { namespace: namespace.to_owned(), account: account.to_owned(), pod, pod_uid })
}

/// Checks that a sidecar speaks for the pod that its token is bound to, and for the agent that this pod belongs to.
pub fn check_hello(identity: &Identity, hello: &Hello) -> Result<(), IdentityError> {
    let same = hello.namespace == identity.namespace
        && hello.pod == identity.pod
        && (hello.pod_uid.is_empty() || hello.pod_uid == identity.pod_uid)
        && belongs(&identity.pod, &hello.agent)
        && hello.protocol >= 1
        && hello.protocol <= PROTOCOL;
    if same {
        return Ok(());
    }
    let claim = format!("pod {}/{} of agent {}, protocol {}", hello.namespace, hello.pod, hello.agent, hello.protocol);
    Err(IdentityError::Mismatch(claim.chars().filter(|c| !c.is_control()).take(300).collect()))
}

/// Whether a pod's name is one that the Deployment of an agent's server gives. These are `{deployment}-{hash}-{random}`; a
/// long name loses its end before the random part.
pub fn belongs(pod: &str, agent: &str) -> bool {
    let Some(rest) = pod.strip_prefix(agent).and_then(|rest| rest.strip_prefix("-server-")) else { return false };
    let parts = rest.split('-').count();
    !agent.is_empty() && !rest.is_empty() && (parts == 2 || parts == 1 && pod.len() >= 60)
}

type Answered = (Result<Identity, IdentityError>, Instant);

/// Reviews tokens and remembers the answers for a moment: after a failover all sidecars come at once.
#[derive(Clone)]
pub struct Reviews {
    reviewer: Arc<dyn Reviewer>,
    answered: Arc<Mutex<HashMap<[u8; 32], Answered>>>,
    /// When a token was good the last time, by its hash.
    good: Arc<Mutex<HashMap<[u8; 32], Instant>>>,
    failures: Arc<Mutex<Failures>>,
    at_once: Arc<Semaphore>,
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("answered", &self.answered.lock().len()).finish_non_exhaustive()
    }
}

impl Reviews {
    /// Asks `reviewer`: a [`kube::Client`] whose user may create `TokenReviews`.
    pub fn new(reviewer: impl Reviewer + 'static) -> Self {
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let (answered, good, failures) = Default::default();
        Self { reviewer: Arc::new(reviewer), answered, good, failures, at_once }
    }

    /// Who presents this token. Only a token that looks good is reviewed, and only so many from one address that turn
    /// out not to be.
    pub async fn identify(&self, token: &str, from: IpAddr) -> Result<Identity, IdentityError> {
        if token.len() > MAX_TOKEN || !is_plausible(token, Timestamp::now()) {
            return Err(IdentityError::Invalid);
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((answer, at)) = self.answered.lock().get(&hash)
            && at.elapsed() < BELIEVED
        {
            return answer.clone();
        }
        let counts = !self.was_good(&hash);
        if counts && !self.failures.lock().suppose(from, Instant::now()) {
            return Err(IdentityError::TooMany);
        }
        let answer = self.review(token).await;
        if counts && matches!(answer, Ok(_) | Err(IdentityError::Unavailable(_))) {
            self.failures.lock().forgive(from, Instant::now());
        }
        self.remember(hash, &answer);
        if !matches!(answer, Err(IdentityError::Unavailable(_))) {
            self.keep(hash, answer.clone());
        }
        answer
    }

    async fn review(&self, token: &str) -> Result<Identity, IdentityError> {
        let asked = async {
            let _permit = self.at_once.acquire().await;
            self.reviewer.review(token.to_owned()).await
        };
        let late = || Err(IdentityError::Unavailable("the API server does not answer".into()));
        tokio::time::timeout(REVIEW_TIMEOUT, asked).await.unwrap_or_else(|_| late())
    }

    fn was_good(&self, hash: &[u8; 32]) -> bool {
        self.good.lock().get(hash).is_some_and(|at| at.elapsed() < TRUSTED)
    }

    /// A token that turned out bad is like any other from then on.
    fn remember(&self, hash: [u8; 32], answer: &Result<Identity, IdentityError>) {
        let mut good = self.good.lock();
        match answer {
            Ok(_) => {
                if good.len() >= KEPT {
                    good.retain(|_, at| at.elapsed() < TRUSTED / 2);
                }
                if good.len() < KEPT {
                    good.insert(hash, Instant::now());
                }
            }
            Err(IdentityError::Unavailable(_)) => {}
            Err(_) => _ = good.remove(&hash),
        }
    }

    fn keep(&self, hash: [u8; 32], answer: Result<Identity, IdentityError>) {
        let mut answered = self.answered.lock();
        if answered.len() >= KEPT {
            answered.retain(|_, (_, at)| at.elapsed() < BELIEVED / 2);
        }
        if answered.len() < KEPT {
            answered.insert(hash, (answer, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(patch: &serde_json::Value) -> TokenReviewStatus {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["pilothouse"],
            "user": {
                "username": "system:serviceaccount:team:coder",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["coder-server-abc-x1"],
                    "authentication.kubernetes.io/pod-uid": ["u-1"],
                },
            },
        });
        for (key, value) in patch.as_object().unwrap() {
            status[key] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    fn coder() -> Identity {
        Identity {
            namespace: "team".into(),
            account: "default".into(),
            pod: "coder-server-abc-x1".into(),
            pod_uid: "u-1".into(),
        }
    }

    #[test]
    fn reviews() {
        let coder = Identity { account: "coder".into(), ..coder() };
        for (patch, expected) in [
            (json!({}), Ok(coder)),
            (json!({ "authenticated": false }), Err(IdentityError::Invalid)),
            (json!({ "audiences": ["other"] }), Err(IdentityError::Invalid)),
            (json!({ "audiences": null }), Err(IdentityError::Invalid)),
            (json!({ "user": { "username": "admin" } }), Err(IdentityError::NoPod)),
            (json!({ "user": { "username": "system:serviceaccount:team:coder" } }), Err(IdentityError::NoPod)),
        ] {
            assert_eq!(from_status(status(&patch)), expected, "{patch}");
        }
    }

    #[test]
    fn a_pod_speaks_for_its_own_agent_alone() {
        let long = "a".repeat(50);
        for (pod, agent, yes) in [
            ("coder-server-6c9f-x1b2c", "coder", true),
            ("coder-server-6c9f-x1b2c", "code", false),
            ("coder-server-6c9f-x1b2c", "", false),
            ("a-server-b-server-6c9f-x1b2c", "a", false),
            ("a-server-b-server-6c9f-x1b2c", "a-server-b", true),
            ("coder-server-x1b2c", "coder", false),
            (&format!("{long}-server-x1b2c"), &long, true),
            ("coder-pod", "coder", false),
        ] {
            assert_eq!(belongs(pod, agent), yes, "{pod} {agent}");
        }
    }

    #[test]
    fn a_hello_must_agree_with_the_token() {
        let identity = coder();
        let hello = Hello {
            protocol: PROTOCOL,
            agent: "coder".into(),
            namespace: "team".into(),
            pod: "coder-server-abc-x1".into(),
            pod_uid: "u-1".into(),
            ..Hello::default()
        };
        assert_eq!(check_hello(&identity, &hello), Ok(()));
        assert_eq!(check_hello(&identity, &Hello { pod_uid: String::new(), ..hello.clone() }), Ok(()));
        for wrong in [
            Hello { namespace: "other".into(), ..hello.clone() },
            Hello { agent: "reviewer".into(), ..hello.clone() },
            Hello { pod: "coder-server-abc-x2".into(), ..hello.clone() },
            Hello { pod_uid: "u-2".into(), ..hello.clone() },
            Hello { protocol: PROTOCOL + 1, ..hello.clone() },
            Hello { protocol: 0, ..hello.clone() },
        ] {
            assert!(matches!(check_hello(&identity, &wrong), Err(IdentityError::Mismatch(_))), "{wrong:?}");
        }
    }

    /// Signature of a token whose review the API server does not answer.
    const DOWN: &str = ".ZG93bg";

    fn token(signature: &str) -> String {
        use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
        let claims = json!({
            "aud": ["pilothouse"], "exp": 9_000_000_000_i64, "sub": "system:serviceaccount:team:default",
            "kubernetes.io": { "namespace": "team", "pod": { "name": "p", "uid": "u" } },
        });
        format!("e30.{}{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Counting(Mutex<u32>);

    impl Reviewer for Arc<Counting> {
        fn review(&self, token: String) -> BoxFuture<'_, Result<Identity, IdentityError>> {
            *self.0.lock() += 1;
            let answer =
                if token.ends_with(DOWN) { IdentityError::Unavailable(String::new()) } else { IdentityError::Invalid };
            Box::pin(async move { Err(answer) })
        }
    }

    #[tokio::test]
    async fn a_token_is_reviewed_once_a_minute_and_an_outage_is_not_remembered() {
        let counting = Arc::new(Counting(Mutex::new(0)));
        let reviews = Reviews::new(counting.clone());
        let good = token(".c2ln");
        for token in [&good, &good, &good, "", "garbage", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(reviews.identify(token, ADDRESS).await, Err(IdentityError::Invalid));
        }
        assert_eq!(*counting.0.lock(), 1);
        for _ in 0..2 {
            assert!(matches!(reviews.identify(&token(DOWN), ADDRESS).await, Err(IdentityError::Unavailable(_))));
        }
        assert_eq!(*counting.0.lock(), 3);
    }

    #[tokio::test]
    async fn reviews_that_fail_are_bounded_by_address() {
        let counting = Arc::new(Counting(Mutex::new(0)));
        let reviews = Reviews::new(counting.clone());
        for n in 0..500 {
            let answer = reviews.identify(&token(&format!(".{n:04}")), ADDRESS).await;
            assert!(matches!(answer, Err(IdentityError::Invalid | IdentityError::TooMany)), "{answer:?}");
        }
        let made = *counting.0.lock();
        assert!((16..100).contains(&made), "{made}");
        let other = reviews.identify(&token(".b3Ro"), IpAddr::from([127, 0, 0, 2])).await;
        assert_eq!((other, *counting.0.lock()), (Err(IdentityError::Invalid), made + 1), "others are looked at");
    }

    /// The API server of an agent whose token is this one.
    struct Knows(String);

    impl Reviewer for Knows {
        fn review(&self, token: String) -> BoxFuture<'_, Result<Identity, IdentityError>> {
            let identity = coder();
            let answer = if token == self.0 { Ok(identity) } else { Err(IdentityError::Invalid) };
            Box::pin(async move { answer })
        }
    }

    #[tokio::test]
    async fn forged_tokens_do_not_shut_out_one_that_was_good() {
        let good = token(".c2ln");
        let reviews = Reviews::new(Knows(good.clone()));
        assert!(reviews.identify(&good, ADDRESS).await.is_ok());
        for n in 0..100 {
            assert!(reviews.identify(&token(&format!(".{n:04}")), ADDRESS).await.is_err());
        }
        reviews.answered.lock().clear();
        assert_eq!(reviews.identify(&token(".bmV3"), ADDRESS).await, Err(IdentityError::TooMany));
        assert!(reviews.identify(&good, ADDRESS).await.is_ok(), "it comes again after a minute");
    }
}
