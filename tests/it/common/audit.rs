//! Counting what a user did, in the API server's audit log.
//!
//! A *write* is a POST, PUT, PATCH or DELETE, a patch that changed nothing included; dry runs, Leases, TokenReviews and
//! the reviews of rights are none. The log is written before the answer is sent, so a count is exact at any moment.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use jiff::Timestamp;
use serde::Deserialize;

/// The audit log of one cluster, from a position on.
#[derive(Debug, Clone)]
pub(crate) struct AuditLog {
    path: PathBuf,
    from: u64,
}

/// One answered request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub(crate) uri: String,
    user: User,
    #[serde(default)]
    impersonated_user: Option<User>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Status,
    /// When the API server had it.
    #[serde(rename = "requestReceivedTimestamp")]
    pub(crate) received: Timestamp,
    /// When the answer was whole.
    #[serde(rename = "stageTimestamp")]
    pub(crate) answered: Timestamp,
    /// The object that was answered, where the log has bodies.
    #[serde(default, rename = "responseObject")]
    pub(crate) body: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct User {
    username: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

/// Resources whose writes are no change of anything.
const NO_WRITES: [&str; 6] = [
    "leases",
    "tokenreviews",
    "subjectaccessreviews",
    "selfsubjectaccessreviews",
    "localsubjectaccessreviews",
    "selfsubjectrulesreviews",
];

impl Request {
    /// Who asked; for an impersonated request the one who impersonates.
    pub(crate) fn user(&self) -> &str {
        &self.user.username
    }

    /// `namespace/resource/name` or, of a subresource, `namespace/resource/name/subresource`.
    pub(crate) fn object(&self) -> String {
        let o = &self.object_ref;
        [&o.namespace, &o.resource, &o.name, &o.subresource]
            .into_iter()
            .filter(|s| !s.is_empty())
            .fold(String::new(), |all, next| if all.is_empty() { next.clone() } else { all + "/" + next })
    }

    /// The namespace of the object; empty for a listing of all, and for what has none.
    pub(crate) fn namespace(&self) -> &str {
        &self.object_ref.namespace
    }

    /// The kind of the object, in the plural; empty for what is about no object.
    pub(crate) fn resource(&self) -> &str {
        &self.object_ref.resource
    }

    /// Whether it was refused for a right that the user itself lacks, not somebody whom it impersonates.
    pub(crate) fn lacked_right(&self) -> bool {
        let decision = self.annotations.get("authorization.k8s.io/decision").map(String::as_str);
        decision == Some("forbid") && self.impersonated_user.is_none()
    }

    /// The HTTP status of the answer.
    pub(crate) fn code(&self) -> u16 {
        self.response_status.code
    }

    /// The rule above.
    pub(crate) fn is_write(&self) -> bool {
        let query = self.uri.split_once('?').map_or("", |(_, q)| q);
        let dry_run = query.split('&').any(|p| p.starts_with("dryRun=") && p != "dryRun=");
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !dry_run
            && !NO_WRITES.contains(&self.object_ref.resource.as_str())
    }
}

impl Request {
    /// Whether it changed objects of a kind, in the plural, of whatever kind they are.
    pub(crate) fn is_write_of(&self, resource: &str) -> bool {
        self.resource() == resource && ["create", "update", "patch", "delete"].contains(&self.verb.as_str())
    }
}

impl AuditLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, from: 0 }
    }

    /// The log from now on.
    pub(crate) fn later(&self) -> Self {
        let from = fs::metadata(&self.path).map_or(0, |m| m.len());
        Self { from, ..self.clone() }
    }

    /// Every request of a user, oldest first.
    pub(crate) fn requests(&self, user: &str) -> Vec<Request> {
        let (all, _) = self.read();
        all.into_iter().filter(|r| r.user() == user).collect()
    }

    /// Every request that was not read by this yet, oldest first.
    pub(crate) fn read_on(&mut self) -> Vec<Request> {
        let (all, read) = self.read();
        self.from += read;
        all
    }

    /// All requests in whole lines, and how many bytes these have.
    fn read(&self) -> (Vec<Request>, u64) {
        let mut bytes = vec![];
        if let Ok(mut file) = fs::File::open(&self.path) {
            file.seek(SeekFrom::Start(self.from)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let all = bytes[..whole].split(|byte| *byte == b'\n').map(serde_json::from_slice::<Request>);
        // An API server that was killed has left half a line.
        (all.filter_map(Result::ok).collect(), u64::try_from(whole).unwrap())
    }

    /// A user's writes.
    pub(crate) fn writes(&self, user: &str) -> Vec<Request> {
        self.requests(user).into_iter().filter(Request::is_write).collect()
    }

    /// Writes by verb and resource, to show when a count is not what it should be.
    pub(crate) fn summary(&self, user: &str) -> BTreeMap<String, usize> {
        count(&self.writes(user))
    }

    /// The same of all requests, to show what a time was spent on.
    pub(crate) fn profile(&self, user: &str) -> BTreeMap<String, usize> {
        count(&self.requests(user))
    }
}

fn count(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for r in requests {
        let o = &r.object_ref;
        let part = if o.subresource.is_empty() { String::new() } else { format!("/{}", o.subresource) };
        *counts.entry(format!("{} {}{part}", r.verb, o.resource)).or_default() += 1;
    }
    counts
}

/// The name by which the API server knows a ServiceAccount.
pub(crate) fn user_of(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}
