//! The writes of a `CronTask`. Each names whom it means by uid.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{CronTasks, Work};
use crate::{
    api::{
        CronTask, Task,
        names::{annotation, manager, reasons},
    },
    controller::{
        request::{ADMITTED, limited, limited_to},
        runtime::Kind,
    },
    schedule::{self, Child},
    status::Failure,
};

/// What the API server says of a `CronTask` for which a Task is to be made.
pub(super) enum Sight {
    /// What this process knows is the newest.
    Same,
    /// It was changed; what is known now is the newest.
    Newer,
    /// It is gone.
    Gone,
}

/// What became of a Task that was to be made.
pub(super) enum Made {
    /// It is there, and belongs to the `CronTask`.
    Ours(Child),
    /// Its name belongs to somebody else.
    Taken,
}

impl CronTasks {
    /// Makes sure that a Task is made for what the `CronTask` says now. The cache may be behind what the leader before has
    /// written: the Task ran, was written down and cleaned up, and would be made again.
    pub(super) async fn look(&self, object: &CronTask, work: &mut Work) -> Result<Sight, Failure> {
        if self.memory.is_followed(object) {
            return Ok(Sight::Same);
        }
        let (api, name) = (self.api::<CronTask>(object), object.name_any());
        let read = limited("reading the CronTask", api.get_opt(&name)).await?;
        let live = read.map_err(|e| failed("cannot read the CronTask", &e))?;
        let Some(live) = live.filter(|live| live.metadata.uid == object.metadata.uid) else { return Ok(Sight::Gone) };
        if live.metadata.resource_version == object.metadata.resource_version {
            self.memory.follows(object);
        }
        if live.metadata.resource_version == work.cron.metadata.resource_version {
            return Ok(Sight::Same);
        }
        work.older.extend(work.cron.resource_version());
        work.before.clone_from(&live.status);
        work.cron = live;
        Ok(Sight::Newer)
    }

    /// Makes a Task. One that is there already was made by us before a crash, or by another leader: it is the same.
    pub(super) async fn make(&self, cron: &CronTask, task: &Task) -> Result<Made, Failure> {
        let tasks: Api<Task> = self.api(cron);
        let params = PostParams { field_manager: Some(manager::CRONTASK.into()), ..PostParams::default() };
        match limited_to(ADMITTED, "creating the Task", tasks.create(&params, task)).await? {
            Ok(made) => return Ok(Made::Ours(Child::of(&made))),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(failed("cannot create the Task", &error)),
        }
        let name = task.name_any();
        let read = limited("reading the Task", tasks.get_opt(&name)).await?;
        match read.map_err(|e| failed("cannot read the Task", &e))? {
            Some(found) if schedule::child::owner(&found).map(|(uid, _)| uid) == cron.metadata.uid.as_deref() => {
                Ok(Made::Ours(Child::of(&found)))
            }
            Some(_) => Ok(Made::Taken),
            None => Err(Failure::transient(reasons::TASK_CREATION_FAILED, format!("Task {name} was just deleted"))),
        }
    }

    /// Asks a Task to stop.
    pub(super) async fn stop(&self, cron: &CronTask, name: &str, uid: &str) -> Result<(), Failure> {
        let patch = json!({ "metadata": { "uid": uid, "annotations": { annotation::STOP: "true" } } });
        let (tasks, patch) = (self.api::<Task>(cron), Patch::Merge(patch));
        match limited("stopping the Task", tasks.patch_metadata(name, &by_us(), &patch)).await? {
            Ok(_) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(failed("cannot stop the Task before", &error)),
        }
    }

    /// Puts a time into the trigger annotation, or takes it away; not if somebody changed the object meanwhile, who may
    /// have asked once more. Whether it was written.
    pub(super) async fn write_trigger(&self, work: &mut Work, value: Option<&str>) -> Result<bool, Failure> {
        let (uid, version) = (work.cron.uid(), work.cron.resource_version());
        let annotations = json!({ annotation::TRIGGER: value });
        let patch = json!({ "metadata": { "uid": uid, "resourceVersion": version, "annotations": annotations } });
        let (api, name) = (self.api::<CronTask>(&work.cron), work.cron.name_any());
        match limited("writing the trigger", api.patch_metadata(&name, &by_us(), &Patch::Merge(patch))).await? {
            Ok(written) => {
                work.older.extend(version);
                work.cron.metadata.resource_version = written.metadata.resource_version;
                work.cron.metadata.annotations = written.metadata.annotations;
                Ok(true)
            }
            Err(error) if gone(&error) => Ok(false),
            Err(error) => {
                let message = format!("cannot write the annotation {}: {error}", annotation::TRIGGER);
                Err(Failure::transient(reasons::TASK_CREATION_FAILED, message))
            }
        }
    }

    /// Says that a Task could not be made.
    pub(super) async fn creation_failed(
        &self,
        object: &CronTask,
        work: &Work,
        failure: &Failure,
    ) -> Result<(), Failure> {
        let (status, notes) = schedule::creation_failed(&work.cron, failure, self.context.now());
        self.context.reports.status(object, &work.before, &status).await?;
        self.context.reports.events(object, notes);
        Ok(())
    }

    fn api<K>(&self, cron: &CronTask) -> Api<K>
    where
        K: Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), &cron.namespace().unwrap_or_default())
    }
}

fn by_us() -> PatchParams {
    PatchParams { field_manager: Some(manager::CRONTASK.into()), ..PatchParams::default() }
}

/// Whoever was meant is not there any more, or is another one now; its own event follows.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

fn failed(what: &str, error: &kube::Error) -> Failure {
    Failure::transient(reasons::TASK_CREATION_FAILED, format!("{what}: {error}"))
}
