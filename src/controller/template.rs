//! `AgentTemplate` and `PilothouseConfig`: they are read by others; here they are only found valid or not.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition as Wire;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::{
    Context, Loop,
    runtime::{Kind, Reconcile, Triggers},
    start,
};
use crate::{
    agent::fleet::Pace,
    api::{
        AgentTemplate, AgentTemplateStatus, PilothouseConfig, PilothouseConfigStatus,
        config::Fleet,
        names::{annotation, condition, reasons},
        not_yet,
    },
    status::{Condition, Failure, Next, condition::remove_condition, set_condition},
};

/// The reconciler of `AgentTemplates`.
pub struct Templates(Context);

/// The reconciler of `PilothouseConfigs`.
pub struct Configs(Context);

/// Prepares the loop of `AgentTemplates`.
pub fn templates(context: &Context) -> Loop {
    start(Arc::new(Templates(context.clone())), context.caches.templates.clone(), Triggers::default())
}

/// Prepares the loop of `PilothouseConfigs`.
pub fn configs(context: &Context) -> Loop {
    start(Arc::new(Configs(context.clone())), context.caches.configs.clone(), Triggers::default())
}

impl Reconcile for Templates {
    type Object = AgentTemplate;

    async fn reconcile(&self, template: Arc<AgentTemplate>) -> Result<Next, Failure> {
        let spec = &template.spec;
        let verdict = supported(spec).and_then(|()| config_is_json(spec.config.as_ref()));
        let mut status: AgentTemplateStatus = template.status.clone().unwrap_or_default();
        status.observed_generation = template.metadata.generation;
        status.last_handled_reconcile_at = asked_at(&*template);
        judge(&self.0, &*template, &mut status.conditions, verdict);
        self.0.reports.status(&*template, &template.status, &status).await?;
        Ok(Next::OnEvent)
    }
}

impl Reconcile for Configs {
    type Object = PilothouseConfig;

    async fn reconcile(&self, config: Arc<PilothouseConfig>) -> Result<Next, Failure> {
        let mut status: PilothouseConfigStatus = config.status.clone().unwrap_or_default();
        status.observed_generation = config.metadata.generation;
        status.last_handled_reconcile_at = asked_at(&*config);
        let verdict = supported(&config.spec).and_then(|()| fleet_is_valid(config.spec.fleet.as_ref()));
        judge(&self.0, &*config, &mut status.conditions, verdict);
        self.0.reports.status(&*config, &config.status, &status).await?;
        Ok(Next::OnEvent)
    }
}

/// Why a spec is not valid: reason and message.
type Verdict = Result<(), (&'static str, String)>;

fn supported<S: not_yet::Spec>(spec: &S) -> Verdict {
    let fields = not_yet::unsupported(spec);
    if fields.is_empty() { Ok(()) } else { Err((reasons::NOT_YET_SUPPORTED, not_yet::message(&fields))) }
}

fn fleet_is_valid(fleet: Option<&Fleet>) -> Verdict {
    let paced = fleet.map(Pace::parse).transpose();
    paced.map(drop).map_err(|error| (reasons::INVALID_SPEC, format!("{error}; until it is mended no change goes out")))
}

fn config_is_json(config: Option<&Value>) -> Verdict {
    let invalid = |message: String| Err((reasons::INVALID_CONFIG, message));
    match config {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(_)) => Ok(()),
            Ok(_) => invalid("spec.config is JSON, but no object".into()),
            Err(error) => invalid(format!("spec.config is no JSON: {error}")),
        },
        Some(_) => invalid("spec.config must be an object, or a string that holds a JSON object".into()),
    }
}

fn asked_at<K: Kind>(object: &K) -> Option<String> {
    object.annotations().get(annotation::RECONCILE_AT).cloned()
}

fn judge<K: Kind + Resource>(context: &Context, object: &K, conditions: &mut Vec<Wire>, verdict: Verdict) {
    let (generation, now) = (object.meta().generation, context.now());
    let mut set = |condition| set_condition(conditions, &condition, generation, now);
    match verdict {
        Ok(()) => {
            set(Condition::yes(condition::READY, reasons::VALID, "valid"));
            remove_condition(conditions, condition::STALLED);
        }
        Err((reason, message)) => {
            set(Condition::no(condition::READY, reason, message.as_str()));
            set(Condition::yes(condition::STALLED, reason, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn config_is_an_object_or_a_string_of_one() {
        let table = [
            (None, None),
            (Some(json!({"model": "m"})), None),
            (Some(json!("{\"model\": \"m\"}")), None),
            (Some(json!("[]")), Some("spec.config is JSON, but no object")),
            (Some(json!("{")), Some("spec.config is no JSON: EOF while parsing an object at line 1 column 1")),
            (Some(json!(3)), Some("spec.config must be an object, or a string that holds a JSON object")),
        ];
        for (config, expected) in table {
            let found = config_is_json(config.as_ref()).err().map(|(_, message)| message);
            assert_eq!(found.as_deref(), expected, "{config:?}");
        }
    }
}
