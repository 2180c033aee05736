//! Asks, before anything is written, whether an account may apply an object, and whose the live one is.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;

use super::{
    account::{Account, Mode},
    error::{ApiError, Problem, Tried, explain},
    execute::SIDE_BY_SIDE,
    kinds::{Kinds, Resource},
};
use crate::{
    api::names::reasons,
    object::ObjectId,
    plan::{Wanted, is_task, prune::is_of},
};

/// An object to ask about.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The object.
    pub wanted: &'a Wanted,
    /// The Sync, `namespace/name`, of which the live object is to be asked whether it is its.
    pub of: Option<&'a str>,
}

/// The account may apply the object; and whether the live object is of the Sync that the question names, as far as is
/// known.
pub type Answer = Result<bool, Problem>;

/// Asks all `questions`, by dry runs.
pub async fn contest(account: &Account, kinds: &Kinds, questions: &[Question<'_>]) -> BTreeMap<ObjectId, Answer> {
    let asked: Vec<_> = questions.iter().map(|question| one(account, kinds, question).boxed()).collect();
    stream::iter(asked).buffer_unordered(SIDE_BY_SIDE).collect().await
}

async fn one(account: &Account, kinds: &Kinds, question: &Question<'_>) -> (ObjectId, Answer) {
    let id = question.wanted.object.id();
    let gvk = question.wanted.object.gvk();
    let answer = match kinds.resolve(&gvk).await {
        Ok(Some(resource)) => ask(account, &resource, question, &id).await,
        Ok(None) => {
            let message = format!("the cluster does not serve {} in {} yet", gvk.kind, gvk.api_version());
            Err(problem(question.wanted, reasons::KIND_NOT_FOUND, message, true))
        }
        Err(error) => Err(problem(question.wanted, reasons::CLUSTER_UNAVAILABLE, error.to_string(), true)),
    };
    (id, answer)
}

async fn ask(account: &Account, resource: &Resource, question: &Question<'_>, id: &ObjectId) -> Answer {
    let verb = if is_task(id) { "create" } else { "patch" };
    may_apply(account, resource, id, question.wanted.object.value()).await.map_err(|error| {
        let tried = Tried { verb, plural: &resource.plural, namespace: &id.namespace };
        let (reason, message) = explain(account, tried, &error);
        problem(question.wanted, reason, message, error.is_transient())
    })?;
    let Some((namespace, name)) = question.of.and_then(|sync| sync.split_once('/')) else { return Ok(false) };
    match account.get_metadata(resource, id).await {
        Ok(live) => Ok(live.is_some_and(|live| is_of(&live, (namespace, name)))),
        // Who cannot look says neither that it is the other Sync's nor that it is not.
        Err(error) => {
            let tried = Tried { verb: "get", plural: &resource.plural, namespace: &id.namespace };
            let (reason, message) = explain(account, tried, &error);
            Err(problem(question.wanted, reason, message, true))
        }
    }
}

/// Whether the account may bring the object about: a Task is created and never changed, others are applied.
pub(super) async fn may_apply(
    account: &Account,
    resource: &Resource,
    id: &ObjectId,
    object: &Value,
) -> Result<(), ApiError> {
    let tried = if is_task(id) {
        account.create(resource, id, object, Mode::DryRun).await.map(drop)
    } else {
        account.apply(resource, id, object, Mode::DryRun).await.map(drop)
    };
    match tried {
        // Rights are asked about before existence, and before webhooks that cannot be asked so.
        Err(ApiError::Conflict(_)) if is_task(id) => Ok(()),
        Err(ApiError::Rejected { code: 400, message }) if cannot_be_asked(&message) => Ok(()),
        tried => tried,
    }
}

/// The whole of what the API server says of a webhook with side effects. What a webhook itself answers comes after
/// "denied the request", whatever its words are.
fn cannot_be_asked(message: &str) -> bool {
    let name = message.strip_prefix("admission webhook \"").and_then(|m| m.strip_suffix("\" does not support dry run"));
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
}

fn problem(wanted: &Wanted, reason: &'static str, message: String, transient: bool) -> Problem {
    Problem { object: wanted.object.id().short(), origin: Some(wanted.origin.clone()), reason, message, transient }
}

/// What is said about an object that another Sync has.
pub fn taken(wanted: &Wanted, owner: &str) -> Problem {
    let message = format!("it is in the inventory of Sync {owner}; keep it in the files of one of the two only");
    problem(wanted, reasons::OWNED_BY_ANOTHER_SYNC, message, false)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::{object::Object, plan::Origin};

    /// An API server that takes every write and answers every read so.
    fn account(code: u16, answer: &Value) -> Account {
        let answer = answer.to_string();
        let serve = move |request: Request<Body>| {
            let (code, body) =
                if request.method() == Method::GET { (code, answer.clone()) } else { (200, "{}".into()) };
            let body = Body::from(body.into_bytes());
            async move { Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap()) }
        };
        Account::own(kube::Client::new(tower::service_fn(serve), "n"))
    }

    #[tokio::test]
    async fn who_cannot_look_says_nothing_of_the_owner() {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}});
        let origin = Origin { file: "a.yaml".into(), line: 1 };
        let wanted = Wanted { object: Object::new(value.clone()).unwrap(), origin };
        let resource = Resource { api_version: "v1".into(), plural: "configmaps".into(), namespaced: true };
        let question = Question { wanted: &wanted, of: Some("n/other") };
        let id = wanted.object.id();
        let failed = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "code": code, "message": "no"});
        for (code, answer, expected) in [
            (200, value.clone(), Some(false)),
            (404, failed(404), Some(false)),
            (429, failed(429), None),
            (504, failed(504), None),
            (403, failed(403), None),
        ] {
            match ask(&account(code, &answer), &resource, &question, &id).await {
                Ok(theirs) => assert_eq!(Some(theirs), expected, "{code}"),
                Err(problem) => assert_eq!((problem.transient, expected), (true, None), "{code}: {problem}"),
            }
        }
    }

    #[test]
    fn only_the_server_s_own_sentence_says_that_a_webhook_cannot_be_asked() {
        for (message, so) in [
            ("admission webhook \"a.example.com\" does not support dry run", true),
            ("admission webhook \"a.example.com\" denied the request: it does not support dry run", false),
            ("admission webhook \"a\" denied the request: admission webhook \"b\" does not support dry run", false),
            ("admission webhook \"a.example.com\" does not support dry run: x", false),
            ("it does not support dry run", false),
        ] {
            assert_eq!(cannot_be_asked(message), so, "{message}");
        }
    }
}
