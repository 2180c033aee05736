//! The history for people, on the sidecars' port of every replica.
//!
//! They come through the API server's proxy of the Service, which drops `Authorization`, so the token is in
//! `X-Pilothouse-Authorization` as well. The API server says whose it is, and whether he may read the Tasks, or Syncs, that
//! he asks about: what has become of them is his to read as they were.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    artifacts::{self, Body},
    throttle::Failures,
};
use crate::{
    api::{
        GROUP,
        names::AUDIENCE,
        voice::{CALLER_HEADER, HISTORY_PATH},
    },
    store::{Asked, By, Store, StoreError, Which},
};

/// Longest token that is sent on.
const MAX_TOKEN: usize = 16 << 10;
/// Requests at once.
const AT_ONCE: usize = 8;
/// For the API server's answer.
const REVIEW: Duration = Duration::from_secs(5);
/// Records unless another number is asked for.
const FEW: u32 = 20;
/// Days unless another number is asked for.
const DAYS: u32 = 30;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    store: Store,
    client: Client,
    failures: Arc<Mutex<Failures>>,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Archive")
    }
}

/// What somebody wants to know.
#[derive(Debug, Clone)]
enum Wanted {
    Records(Asked),
    Cost { by: By, namespace: String, days: u32 },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct No(StatusCode, String);

impl No {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into())
    }
}

/// Whether a request is for this room.
pub(super) fn is_ours(request: &Request<Incoming>) -> bool {
    request.uri().path().starts_with(HISTORY_PATH)
}

impl Archive {
    /// Shows what is in `store`; `client` reviews who asks.
    pub fn new(store: Store, client: Client) -> Self {
        Self { store, client, failures: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The answer, JSON or a word why not. `leads`: whether this replica writes the history.
    pub(super) async fn answer(&self, request: &Request<Incoming>, from: IpAddr, leads: bool) -> Response<Body> {
        match self.find(request, from, leads).await {
            Ok(json) => response(StatusCode::OK, json, "application/json"),
            Err(No(status, text)) => response(status, format!("{text}\n"), "text/plain; charset=utf-8"),
        }
    }

    async fn find(&self, request: &Request<Incoming>, from: IpAddr, leads: bool) -> Result<String, No> {
        if request.method() != Method::GET {
            return Err(No::new(StatusCode::METHOD_NOT_ALLOWED, "GET"));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(No::new(StatusCode::SERVICE_UNAVAILABLE, "others ask already: try again in a moment"));
        };
        let who = self.who(request.headers(), from).await?;
        let wanted = wanted(request.uri().path(), request.uri().query().unwrap_or_default())
            .map_err(|text| No::new(StatusCode::BAD_REQUEST, text))?;
        self.check(&who, &wanted).await?;
        if !leads && !self.store.is_shared() {
            let text = "another replica leads, and each has a history of its own (SQLite): try again";
            return Err(No::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        self.read(&wanted).await
    }

    async fn read(&self, wanted: &Wanted) -> Result<String, No> {
        match wanted {
            Wanted::Records(asked) if asked.which == Which::Sync => json(self.store.syncs(asked).await),
            Wanted::Records(asked) => json(self.store.tasks(asked).await),
            Wanted::Cost { by, namespace, days } => {
                let since = Timestamp::now().checked_sub(SignedDuration::from_hours(i64::from(*days) * 24));
                json(self.store.cost(*by, namespace, since.unwrap_or(Timestamp::MIN)).await)
            }
        }
    }

    /// Whose token it is.
    async fn who(&self, headers: &HeaderMap, from: IpAddr) -> Result<UserInfo, No> {
        let unknown = || No::new(StatusCode::UNAUTHORIZED, "a token of the cluster is needed, and this is none");
        let token = token(headers).filter(|token| token.len() <= MAX_TOKEN).ok_or_else(unknown)?;
        if !self.failures.lock().suppose(from, Instant::now()) {
            return Err(No::new(StatusCode::TOO_MANY_REQUESTS, "too many tokens were not valid: wait a moment"));
        }
        let audiences = is_for_us(token).then(|| vec![AUDIENCE.to_owned()]);
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = ask(&self.client, &review).await;
        // Only one that is known to be bad counts.
        let answer = answer.inspect_err(|_| self.failures.lock().forgive(from, Instant::now()))?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).ok_or_else(unknown)?;
        self.failures.lock().forgive(from, Instant::now());
        Ok(user)
    }

    /// Whether he may read the objects that it is about.
    async fn check(&self, who: &UserInfo, wanted: &Wanted) -> Result<(), No> {
        let (resource, namespace) = wanted.about();
        let attributes = ResourceAttributes {
            group: Some(GROUP.into()),
            resource: Some(resource.into()),
            verb: Some("list".into()),
            namespace: Some(namespace.to_owned()).filter(|n| !n.is_empty()),
            ..ResourceAttributes::default()
        };
        let who = who.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra: who.extra,
                groups: who.groups,
                resource_attributes: Some(attributes),
                uid: who.uid,
                user: who.username.clone(),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        if ask(&self.client, &review).await?.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        let place = if namespace.is_empty() { "all namespaces".into() } else { format!("namespace {namespace}") };
        let user = who.username.unwrap_or_default();
        Err(No::new(StatusCode::FORBIDDEN, format!("{user} may not list {resource}.{GROUP} in {place}")))
    }
}

impl Wanted {
    /// Resource and namespace.
    fn about(&self) -> (&'static str, &str) {
        match self {
            Self::Records(asked) if asked.which == Which::Sync => ("syncs", &asked.namespace),
            Self::Records(asked) => ("tasks", &asked.namespace),
            Self::Cost { namespace, .. } => ("tasks", namespace),
        }
    }
}

/// Asks the API server. An error's text may hold the request, and so a token; only its kind leaves this function.
async fn ask<K>(client: &Client, review: &K) -> Result<K, No>
where
    K: kube::Resource<DynamicType = ()> + Clone + Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let text = match tokio::time::timeout(REVIEW, api.create(&PostParams::default(), review)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(kube::Error::Api(status))) => format!("the API server answered {} to a {}", status.code, K::kind(&())),
        Ok(Err(_)) | Err(_) => "the API server does not answer".into(),
    };
    Err(No::new(StatusCode::SERVICE_UNAVAILABLE, text))
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CALLER_HEADER).or_else(|| headers.get(header::AUTHORIZATION))?;
    value.to_str().ok()?.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty())
}

/// Whether a token says that it is for us, and not for the API server; the review finds out whether that is so.
fn is_for_us(token: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok()).unwrap_or_default();
    let is_us = |audience: &serde_json::Value| audience == AUDIENCE;
    is_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(is_us))
}

/// Reads path and query. A name has no character that would be quoted in a query.
fn wanted(path: &str, query: &str) -> Result<Wanted, String> {
    let fields: Vec<(&str, &str)> = query.split('&').filter_map(|field| field.split_once('=')).collect();
    let known = |name: &&(&str, &str)| ["which", "namespace", "name", "limit", "by", "days"].contains(&name.0);
    if query.split('&').filter(|field| !field.is_empty()).count() != fields.iter().filter(known).count() {
        return Err("the fields are which, namespace, name, limit; by, namespace, days".into());
    }
    let text = |field: &str| fields.iter().find(|(name, _)| *name == field).map_or("", |(_, value)| value);
    let number = |field: &str, default: u32| match text(field) {
        "" => Ok(default),
        digits => digits.parse().map_err(|_| format!("{field} is no number")),
    };
    let name = |field: &str| match text(field) {
        text if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) => Ok(text.to_owned()),
        _ => Err(format!("{field} is no name of an object")),
    };
    match path.strip_prefix(HISTORY_PATH).unwrap_or_default() {
        "records" => Ok(Wanted::Records(Asked {
            which: word("which", text("which"))?,
            namespace: name("namespace")?,
            name: name("name")?,
            limit: number("limit", FEW)?,
        })),
        "cost" => {
            let (by, namespace) = (word("by", text("by"))?, name("namespace")?);
            Ok(Wanted::Cost { by, namespace, days: number("days", DAYS)? })
        }
        _ => Err(format!("there are {HISTORY_PATH}records and {HISTORY_PATH}cost")),
    }
}

fn word<T: serde::de::DeserializeOwned>(field: &str, text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| format!("{field}: {error}"))
}

fn json<T: Serialize>(found: Result<T, StoreError>) -> Result<String, No> {
    let found = found.map_err(|error| {
        tracing::warn!("the history cannot be read: {error}");
        No::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database of the history does not answer: see the controller's log",
        )
    })?;
    serde_json::to_string(&found).map_err(|error| No::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn response(status: StatusCode, text: String, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(artifacts::text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        for (path, query, about) in [
            ("/history/records", "which=task&namespace=team&name=a.b-1", Some(("tasks", "team"))),
            ("/history/records", "which=crontask&namespace=team&name=n&limit=5", Some(("tasks", "team"))),
            ("/history/records", "which=sync&namespace=team&name=n", Some(("syncs", "team"))),
            ("/history/cost", "by=day&namespace=&days=7", Some(("tasks", ""))),
            ("/history/cost", "by=agent", Some(("tasks", ""))),
            ("/history/cost", "", None),
            ("/history/cost", "by=hour", None),
            ("/history/cost", "by=day&days=-1", None),
            ("/history/cost", "by=day&limit", None),
            ("/history/records", "which=secret&namespace=team", None),
            ("/history/records", "which=task&namespace=a%20b", None),
            ("/history/records", "which=task&namespce=team", None),
            ("/history/records", "which=task&name=' OR 1=1", None),
            ("/history/other", "which=task", None),
        ] {
            let found = wanted(path, query).ok();
            assert_eq!(found.as_ref().map(Wanted::about), about, "{path}?{query}");
        }
    }

    #[test]
    fn the_callers_own_header_counts_first() {
        let headers = |list: &[(&'static str, &'static str)]| -> HeaderMap {
            list.iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        for (list, expected) in [
            (&[][..], None),
            (&[("authorization", "Bearer a")], Some("a")),
            (&[("authorization", "Bearer a"), ("x-pilothouse-authorization", "Bearer b")], Some("b")),
            (&[("authorization", "Bearer a"), ("x-pilothouse-authorization", "Basic b")], None),
            (&[("authorization", "Bearer ")], None),
        ] {
            assert_eq!(token(&headers(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn a_token_says_whom_it_is_for() {
        let with = |claims: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        for (token, ours) in [
            (with(r#"{"aud": ["pilothouse"]}"#), true),
            (with(r#"{"aud": "pilothouse"}"#), true),
            (with(r#"{"aud": ["https://kubernetes.default.svc"]}"#), false),
            (with("{}"), false),
            ("opaque".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_for_us(&token), ours, "{token}");
        }
    }
}
