//! The writes of a Task. Each names whom it means by uid; none can bring back what somebody deleted.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::Tasks;
use crate::{
    api::{
        Task,
        names::{self, manager, reasons},
    },
    controller::{request::limited, runtime::Kind},
    status::{Failure, Next},
    task::{self, PodState, Start, seen},
};

impl Tasks {
    /// Sets the label of its agent or template on the Task where there is none. Whether it was written now; the change comes back as an
    /// event. A merge patch: unlike an apply it cannot create the Task, and what a Sync wrote stays the Sync's.
    pub(super) async fn set_label(&self, task: &Task) -> Result<bool, Failure> {
        let uid = task.uid().unwrap_or_default();
        let label = names::task::label(task::agent_of(task), task::template_of(task));
        let Some((key, value)) = label.filter(|(key, _)| !task.labels().contains_key(*key)) else { return Ok(false) };
        if task.metadata.deletion_timestamp.is_some() || !self.labelled.lock().insert(uid.clone()) {
            return Ok(false);
        }
        let labels = json!({ key: value });
        let patch = json!({ "metadata": { "uid": uid, "labels": labels } });
        let params = PatchParams { field_manager: Some(manager::TASK.into()), ..PatchParams::default() };
        let (api, name, patch) = (self.api::<Task>(task), task.name_any(), Patch::Merge(patch));
        let write = limited("writing the label of the Task", api.patch_metadata(&name, &params, &patch)).await;
        match write.inspect_err(|_| _ = self.labelled.lock().remove(&uid))? {
            Ok(_) => Ok(true),
            Err(error) if gone(&error) => Ok(true),
            Err(error) => {
                self.labelled.lock().remove(&uid);
                Err(failed("cannot set the label of the Task", &error))
            }
        }
    }

    /// Creates the prompt and the pod. What exists already is used if it is the Task's own: a restart in between does
    /// no harm, and no pod is made twice.
    pub(super) async fn start(&self, task: &Task, objects: &Start) -> Result<PodState, Failure> {
        let not_there = || self.context.task_starts.settle(&task.uid().unwrap_or_default());
        self.create_map(task, &objects.prompt).await.inspect_err(|_| not_there())?;
        if let Some(files) = self.sealed(task, objects) {
            self.create_map(task, &files).await.inspect_err(|_| not_there())?;
        }
        let pod = self.create_pod(task, &objects.pod).await?;
        if !matches!(pod, PodState::Ours(_)) {
            not_there();
        }
        Ok(pod)
    }

    async fn create_map(&self, task: &Task, map: &ConfigMap) -> Result<(), Failure> {
        let maps: Api<ConfigMap> = self.api(task);
        match limited("creating the ConfigMap of the Task", maps.create(&as_task(), map)).await? {
            Ok(_) => return Ok(()),
            Err(error) if exists(&error) => {}
            Err(error) => return Err(failed("cannot create the ConfigMap of the Task", &error)),
        }
        let name = map.name_any();
        let read = limited("reading the ConfigMap of the Task", maps.get_opt(&name)).await?;
        let found = read.map_err(|e| failed("cannot read the ConfigMap of the Task", &e))?;
        let Some(found) = found else {
            return Err(Failure::transient(reasons::POD_CREATION_FAILED, format!("ConfigMap {name} was just deleted")));
        };
        if found.owner_references().iter().any(|o| Some(&o.uid) == task.metadata.uid.as_ref()) {
            return Ok(());
        }
        let message = format!(
            "ConfigMap {name} exists and does not belong to this Task; it is left alone. Delete it, or name the Task \
             otherwise"
        );
        Err(Failure::transient(reasons::NAME_CONFLICT, message))
    }

    async fn create_pod(&self, task: &Task, pod: &Pod) -> Result<PodState, Failure> {
        let uid = task.uid().unwrap_or_default();
        match limited("creating the pod of the Task", self.api::<Pod>(task).create(&as_task(), pod)).await? {
            Ok(pod) => Ok(seen::read(Some(&pod), &uid)),
            Err(error) if exists(&error) => {
                let found = self.live_pod(&task.namespace().unwrap_or_default(), &pod.name_any()).await?;
                Ok(seen::read(found.as_ref(), &uid))
            }
            Err(error) => {
                // Refused, it is not there. Without an answer it may be: the Task counts until somebody has looked.
                if matches!(error, kube::Error::Api(_)) {
                    self.context.task_starts.settle(&uid);
                }
                Err(failed("cannot create the pod of the Task", &error))
            }
        }
    }

    pub(super) async fn live_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let read = limited("reading the pod of the Task", pods.get_opt(name)).await?;
        read.map_err(|e| failed("cannot read the pod of the Task", &e))
    }

    /// Deletes the pod with its own grace, in which it aborts the session, or with another.
    pub(super) async fn delete_pod(&self, task: &Task, uid: &str, grace: Option<u32>) -> Result<(), Failure> {
        let name = names::task::pod(&task.name_any());
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        let (api, params) = (self.api::<Pod>(task), only(params, uid));
        match limited("deleting the pod of the Task", api.delete(&name, &params)).await? {
            Ok(_) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(failed("cannot delete the pod of the Task", &error)),
        }
    }

    /// Deletes the Task; the pod and its prompt follow as its dependents.
    pub(super) async fn delete(&self, task: &Task) -> Result<Next, Failure> {
        let params = only(DeleteParams::background(), &task.uid().unwrap_or_default());
        match limited("deleting the finished Task", self.api::<Task>(task).delete(&task.name_any(), &params)).await? {
            Ok(_) => Ok(Next::OnEvent),
            Err(error) if gone(&error) => Ok(Next::OnEvent),
            Err(error) => Err(failed("cannot delete the finished Task", &error)),
        }
    }

    pub(super) fn api<K>(&self, task: &Task) -> Api<K>
    where
        K: Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default())
    }
}

fn as_task() -> PostParams {
    PostParams { field_manager: Some(manager::TASK.into()), ..PostParams::default() }
}

fn only(params: DeleteParams, uid: &str) -> DeleteParams {
    params.preconditions(Preconditions { uid: Some(uid.into()), resource_version: None })
}

/// Whoever was meant is not there any more; its own event follows.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

fn exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

fn failed(what: &str, error: &kube::Error) -> Failure {
    Failure::transient(reasons::POD_CREATION_FAILED, format!("{what}: {error}"))
}
