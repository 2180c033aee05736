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
    Ok(match account.get_metadata(resource, id).await {
        Ok(Some(live)) => is_of(&live, (namespace, name)),
        Ok(None) => false,
        // Who may not look cannot say that it is nobody's.
        Err(_) => true,
    })
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
        Err(ApiError::Rejected { message, .. }) if message.contains("does not support dry run") => Ok(()),
        tried => tried,
    }
}

fn problem(wanted: &Wanted, reason: &'static str, message: String, transient: bool) -> Problem {
    Problem { object: wanted.object.id().short(), origin: Some(wanted.origin.clone()), reason, message, transient }
}

/// What is said about an object that another Sync has.
pub fn taken(wanted: &Wanted, owner: &str) -> Problem {
    let message = format!("it is in the inventory of Sync {owner}; keep it in the files of one of the two only");
    problem(wanted, reasons::OWNED_BY_ANOTHER_SYNC, message, false)
}
