//! What a plan would change, without changing it.

use serde_json::{Value, json};

use super::{
    account::{Account, Mode},
    error::{ApiError, Problem, Tried, explain},
    kinds::{Kinds, Resource},
};
use crate::{
    api::names::{annotation, label, reasons},
    object::ObjectId,
    plan::{Action, Once, Plan, Step, compare, prune},
};

/// One object before and after. What differs between two writes of the same content is left out of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The object.
    pub id: ObjectId,
    /// As it is; `None` when it would be created.
    pub before: Option<Value>,
    /// As it would be; `None` when it would be deleted.
    pub after: Option<Value>,
    /// What a reader should know, for example why an object is not deleted.
    pub note: Option<String>,
}

/// Asks the API server, by dry runs, what taking all steps would change. Objects that stay the same are left out.
pub async fn preview(account: &Account, kinds: &Kinds, plan: &Plan) -> (Vec<Difference>, Vec<Problem>) {
    let (mut differences, mut problems) = (vec![], vec![]);
    for step in plan.steps() {
        match one(account, kinds, step).await {
            Ok(Some(difference)) => differences.push(difference),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    for id in &plan.prune {
        let entry = plan.superset.iter().find(|e| e.id == id.to_string());
        let version = entry.map_or("v1", |e| e.v.as_str());
        let Ok(Some(resource)) = kinds.resolve(&super::execute::gvk_of(id, version)).await else { continue };
        if let Ok(Some(live)) = account.get(&resource, id).await {
            differences.push(gone(id, &live));
        }
    }
    (differences, problems)
}

fn gone(id: &ObjectId, live: &Value) -> Difference {
    let (after, note) = match prune::verdict(id, live, None, None) {
        prune::Verdict::Delete { .. } => (None, None),
        prune::Verdict::Keep(why) | prune::Verdict::Later(why) => {
            (Some(compare::content(live)), Some(why.text().into()))
        }
    };
    Difference { id: id.clone(), before: Some(compare::content(live)), after, note }
}

async fn one(account: &Account, kinds: &Kinds, step: &Step) -> Result<Option<Difference>, Problem> {
    let problem = |reason, message: String| Problem {
        object: step.id.short(),
        origin: Some(step.wanted.origin.clone()),
        reason,
        message,
        transient: false,
    };
    let gvk = step.wanted.object.gvk();
    let resource = match kinds.resolve(&gvk).await {
        Ok(Some(resource)) => resource,
        // A kind that is defined by the same files: all of it is new.
        Ok(None) => {
            let after = Some(compare::content(step.wanted.object.value()));
            return Ok(Some(Difference { id: step.id.clone(), before: None, after, note: None }));
        }
        Err(error) => return Err(problem(reasons::CLUSTER_UNAVAILABLE, error.to_string())),
    };
    compared(account, &resource, step).await.map_err(|error| {
        let tried = Tried { verb: "patch", plural: &resource.plural, namespace: &step.id.namespace };
        let (reason, message) = explain(account, tried, &error);
        problem(reason, message)
    })
}

async fn compared(account: &Account, resource: &Resource, step: &Step) -> Result<Option<Difference>, ApiError> {
    if matches!(step.action, Action::Once(Once::Keep { .. } | Once::Done)) {
        return Ok(None);
    }
    let live = account.get(resource, &step.id).await?;
    let mut object = step.wanted.object.clone();
    if let Some(live) = &live {
        carry(object.value_mut(), live);
    }
    let after = match (&live, &step.action) {
        (None, _) => match account.create(resource, &step.id, object.value(), Mode::DryRun).await {
            Ok(after) => after,
            // A namespace of the same files is not there yet, and nothing in it can be asked about.
            Err(ApiError::NotFound(text)) if text.starts_with("namespaces ") => object.into_value(),
            Err(error) => return Err(error),
        },
        // A Task is replaced as a whole.
        (Some(_), Action::Once(_)) => object.into_value(),
        (Some(_), _) => account.apply(resource, &step.id, object.value(), Mode::DryRun).await?.1,
    };
    let (before, after) = (live.as_ref().map(compare::content), compare::content(&after));
    if before.as_ref() == Some(&after) {
        return Ok(None);
    }
    Ok(Some(Difference { id: step.id.clone(), before, after: Some(after), note: None }))
}

/// Labels and annotations that a Sync stamps are no part of the files: they are taken as they are.
fn carry(object: &mut Value, live: &Value) {
    for (field, keys) in [
        ("labels", &[label::SYNC_NAME, label::SYNC_NAMESPACE][..]),
        ("annotations", &[annotation::REVISION, annotation::FOLLOWED, annotation::SPEC_HASH][..]),
    ] {
        let Some(live) = live.pointer(&format!("/metadata/{field}")) else { continue };
        for key in keys.iter().filter(|key| live.get(**key).is_some()) {
            if object["metadata"][field].is_null() {
                object["metadata"][field] = json!({});
            }
            if object["metadata"][field].get(*key).is_none() {
                object["metadata"][field][*key] = live[*key].clone();
            }
        }
    }
}
