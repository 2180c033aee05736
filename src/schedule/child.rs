//! The Tasks of a `CronTask`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::api::{
    CronTask, Task, TaskPhase,
    names::{self, annotation, condition, label},
};

/// What matters about a Task of a `CronTask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it is finished.
    pub finished: bool,
    /// When it ended well.
    pub succeeded: Option<Timestamp>,
    /// Whether it was asked to stop, or is being deleted.
    pub stopping: bool,
}

impl Child {
    /// Reads a Task.
    pub fn of(task: &Task) -> Self {
        let status = task.status.clone().unwrap_or_default();
        let stopped = status.conditions.iter().any(|c| c.type_ == condition::STOPPED && c.status == "True");
        let well = status.phase == Some(TaskPhase::Completed) && !stopped;
        Self {
            name: task.metadata.name.clone().unwrap_or_default(),
            uid: task.metadata.uid.clone().unwrap_or_default(),
            finished: status.phase.is_some_and(TaskPhase::is_terminal),
            succeeded: status.completion_time.filter(|_| well).map(|t| t.0),
            stopping: asked_to_stop(task) || task.metadata.deletion_timestamp.is_some(),
        }
    }
}

fn asked_to_stop(task: &Task) -> bool {
    task.metadata.annotations.as_ref().and_then(|a| a.get(annotation::STOP)).is_some_and(|v| v == "true")
}

/// Uid and name of the `CronTask` that a Task belongs to; it is in the Task's namespace.
pub fn owner(task: &Task) -> Option<(&str, &str)> {
    let owners = task.metadata.owner_references.iter().flatten();
    let mut ours = owners.filter(|o| o.kind == "CronTask" && o.controller == Some(true));
    ours.find(|o| o.api_version == crate::api::API_VERSION).map(|o| (o.uid.as_str(), o.name.as_str()))
}

/// The Task for a time. What the template says about our own labels and annotation does not count.
pub(super) fn build(cron: &CronTask, at: Timestamp) -> Task {
    let name = cron.metadata.name.clone().unwrap_or_default();
    let template = &cron.spec.task_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let (mut labels, mut annotations) = (meta.labels, meta.annotations);
    labels.insert(label::CRONTASK.into(), names::label_value(&name));
    // The reconciler of Tasks would write it later, each of them.
    let agent = template.spec.agent_ref.as_ref().map(|agent| agent.name.as_str());
    let own = template.spec.template_ref.as_ref().map(|own| own.name.as_str());
    labels.extend(names::task::label(agent, own).map(|(key, value)| (key.to_owned(), value)));
    annotations.insert(annotation::SCHEDULED_AT.into(), at.to_string());
    let owner = OwnerReference {
        api_version: CronTask::api_version(&()).into(),
        kind: CronTask::kind(&()).into(),
        name: name.clone(),
        uid: cron.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        name: Some(names::crontask::task(&name, at.as_second())),
        namespace: cron.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Task { metadata, spec: template.spec.clone(), status: None }
}
