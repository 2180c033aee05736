//! `CronTasks` on a real API server. Nobody waits for a time to come: it has come already when the controller starts.

mod kills;
mod proofs;

use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{CronTask, Repository, Sync, Task},
    artifact::Store,
    tree::FileTree,
};
use serde_json::{Value, json};

use crate::common::{
    cluster::{Cluster, control_plane},
    controller::{Controller, Release, pilothouse},
    published,
    wait::eventually,
};

const PATIENCE: u64 = 60;

struct Place {
    namespace: String,
    client: Client,
    release: Release,
    crontasks: Api<CronTask>,
    tasks: Api<Task>,
    /// In which minute since the epoch it began.
    minute: i64,
}

impl Place {
    /// Half an hour from the beginning: no time comes while a test runs.
    fn schedule(&self) -> String {
        format!("{} * * * *", (self.minute + 30) % 60)
    }

    /// The last time of that schedule.
    fn last_slot(&self) -> i64 {
        (self.minute - 30) * 60
    }

    async fn new(prefix: &str) -> Self {
        Self::on(control_plane(), prefix).await
    }

    /// The same on a cluster of the test's own.
    async fn on(cluster: &Cluster, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let client = cluster.client().await;
        Self {
            crontasks: Api::namespaced(client.clone(), &namespace),
            tasks: Api::namespaced(client.clone(), &namespace),
            namespace,
            client,
            release,
            minute: Timestamp::now().as_second() / 60,
        }
    }

    fn start(&self) -> Controller {
        self.release.start(&["--leader-elect", "false"])
    }

    /// A `CronTask` that some controller looked at five hours ago. None runs now: it would write a status of its own.
    async fn seen_hours_ago(&self, name: &str, spec: Value) -> CronTask {
        let schedule = self.schedule();
        let mut whole = json!({
            "schedule": schedule, "taskTemplate": {"spec": {"agentRef": {"name": "nobody"}, "description": "sweep"}},
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let schedule = whole["schedule"].clone();
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "CronTask", "metadata": {"name": name}, "spec": whole,
        });
        self.crontasks.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let then = Timestamp::from_second(Timestamp::now().as_second() - 5 * 3600).unwrap();
        let ready = json!({"type": "Ready", "status": "True", "reason": "Scheduled", "message": "", "lastTransitionTime": then});
        let status = json!({"status": {
            "lastScheduleTime": then, "scheduleSince": then, "totalExecutions": 7, "conditions": [ready],
            "observedSchedule": format!("{} UTC", schedule.as_str().unwrap()), "observedGeneration": 1,
        }});
        self.crontasks.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.tasks.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
        all.sort();
        all
    }

    /// Waits until the status says something.
    async fn status<T>(&self, what: &str, name: &str, says: impl Fn(&CronTask) -> Option<T>) -> T {
        eventually(what, PATIENCE, || async { says(&self.crontasks.get(name).await.unwrap()) }).await
    }

    async fn ready(&self, name: &str, reason: &str) -> CronTask {
        self.status(&format!("{name} is {reason}"), name, |cron| (ready_reason(cron)? == reason).then(|| cron.clone()))
            .await
    }

    async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.unwrap();
        let of = |event: &Event| event.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(name));
        all.into_iter().filter(of).filter_map(|e| e.reason).collect()
    }

    async fn event(&self, name: &str, reason: &str) {
        eventually(&format!("{name} has an event {reason}"), PATIENCE, || async {
            self.events(name).await.iter().any(|r| r == reason).then_some(())
        })
        .await;
    }

    async fn phase(&self, task: &str, phase: &str) {
        let status = json!({"status": {"phase": phase, "completionTime": Timestamp::now()}});
        self.tasks.patch_status(task, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(pilothouse());
        command.env("KUBECONFIG", &control_plane().ready.kubeconfig).args(arguments).args(["-n", &self.namespace]);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

fn ready_reason(cron: &CronTask) -> Option<String> {
    let conditions = &cron.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.clone())
}

fn total(cron: &CronTask) -> Option<i64> {
    cron.status.as_ref()?.total_executions
}

/// An outage, and hundreds of times that passed in it: one Task at most, and on it goes.
#[tokio::test]
async fn of_the_times_that_were_missed_the_last_one_runs_once() {
    let place = Place::new("cron-missed").await;
    place.seen_hours_ago("hourly", json!({})).await;
    place.seen_hours_ago("late", json!({"startingDeadlineSeconds": 60})).await;
    place.seen_hours_ago("asleep", json!({"suspend": true})).await;
    // It is the minute's turn again and again: as many Tasks come as minutes begin.
    place.seen_hours_ago("minutely", json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid"})).await;
    let controller = place.start();
    let cron = place.status("one is made", "hourly", |cron| (total(cron)? == 8).then(|| cron.clone())).await;
    let status = cron.status.unwrap();
    assert_eq!(status.last_schedule_time.unwrap().0.as_second(), place.last_slot());
    assert_eq!((status.active, status.active_refs.len()), (Some(1), 1));
    assert_eq!(status.last_skip.unwrap().reason, "SlotsMissed");
    assert_eq!(status.next_schedule_times.len(), 3);
    assert_eq!(status.next_schedule_time.as_ref(), status.next_schedule_times.first());
    let task = place.tasks.get(&format!("hourly-{}", place.last_slot())).await.unwrap();
    assert_eq!(task.labels().get("pilothouse.dev/crontask").map(String::as_str), Some("hourly"));
    assert_eq!(task.spec.description.as_deref(), Some("sweep"));
    for reason in ["TaskCreated", "SlotsMissed"] {
        place.event("hourly", reason).await;
    }
    place.ready("late", "MissedDeadline").await;
    place.ready("asleep", "Suspended").await;
    let minutely = place.status("it moves on", "minutely", |cron| (total(cron)? == 8).then(|| cron.clone())).await;
    assert_eq!(minutely.status.unwrap().last_skip.map(|skip| skip.reason).as_deref(), Some("TooManyMissed"));
    let names = place.names().await;
    assert!(names.len() == 2 && names[0].starts_with("hourly-") && names[1].starts_with("minutely-"), "{names:?}");

    // An agent that is not there yet makes nothing fail; when the Task ends well, that is written down.
    place.phase(&names[0], "Completed").await;
    let done = place.status("it ended", "hourly", |cron| {
        let status = cron.status.clone()?;
        (status.active == Some(0)).then_some(status)
    });
    assert!(done.await.last_successful_time.is_some());
    // The other one is active: the next minute is skipped, and does not come late.
    let skip = place.status("a minute is skipped", "minutely", |cron| {
        cron.status.clone()?.last_skip.filter(|skip| skip.reason == "ActiveTaskExists")
    });
    let skipped = skip.await.time.0;
    place.event("minutely", "TaskStillActive").await;
    let late = format!("minutely-{}", skipped.as_second());
    place.phase(&names[1], "Completed").await;
    place.status("it is known", "minutely", |cron| (cron.status.clone()?.active == Some(0)).then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!place.names().await.contains(&late), "skipped is skipped");
    drop(controller);
}

#[tokio::test]
async fn two_leaders_make_one_task() {
    let place = Place::new("cron-two").await;
    for n in 0..20 {
        place.seen_hours_ago(&format!("c{n}"), json!({})).await;
    }
    let controllers = [place.start(), place.start()];
    for n in 0..20 {
        place.status("it ran", &format!("c{n}"), |cron| (total(cron)? == 8).then_some(())).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(place.names().await.len(), 20);
    for n in 0..20 {
        assert_eq!(total(&place.crontasks.get(&format!("c{n}")).await.unwrap()), Some(8), "c{n}");
    }
    drop(controllers);
}

#[tokio::test]
async fn a_run_by_hand_comes_also_while_suspended_and_is_always_cleared() {
    let place = Place::new("cron-hand").await;
    place.seen_hours_ago("c", json!({"suspend": true, "maxRetainedTasks": 2})).await;
    let _controller = place.start();
    place.ready("c", "Suspended").await;
    let told: Value = serde_json::from_str(&place.run(&["crontask", "trigger", "c", "-o", "json"])).unwrap();
    let task = told["task"].as_str().unwrap();
    eventually("the Task is there", PATIENCE, || async { place.tasks.get_opt(task).await.unwrap() }).await;
    let cleared = |cron: &CronTask| !cron.annotations().contains_key("pilothouse.dev/trigger");
    place.status("it is cleared", "c", |cron| (cleared(cron) && total(cron) == Some(8)).then_some(())).await;
    place.event("c", "Triggered").await;

    // As people write it; nothing is said about when.
    let by_hand = || async {
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        let patch = json!({"metadata": {"annotations": {"pilothouse.dev/trigger": "true"}}});
        place.crontasks.patch("c", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        place.status("it is cleared", "c", |cron| cleared(cron).then_some(())).await;
    };
    by_hand().await;
    place.status("it ran again", "c", |cron| (total(cron) == Some(9)).then_some(())).await;
    assert_eq!(place.names().await.len(), 2);
    // As many as may be: cleared, and said.
    by_hand().await;
    place.event("c", "MaxRetainedTasksReached").await;
    assert_eq!(place.names().await.len(), 2);

    // Resumed over what Git says, and suspended again.
    assert!(place.run(&["crontask", "resume", "c"]).ends_with("goes on by schedule\n"));
    let cron = place.status("it goes on", "c", |cron| (ready_reason(cron)? != "Suspended").then(|| cron.clone())).await;
    assert_eq!(cron.status.unwrap().last_skip.unwrap().reason, "Suspended", "what passed is not made up for");
    let listed = place.run(&["crontask", "next", "c", "--count", "2"]);
    let wanted = Timestamp::from_second(place.last_slot() + 3600).unwrap();
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines, [wanted.to_string(), (wanted + SignedDuration::from_hours(1)).to_string()]);
    place.run(&["crontask", "suspend", "c"]);
    place.ready("c", "Suspended").await;
}

/// What it made goes with it.
#[tokio::test]
async fn replace_stops_the_task_that_runs_and_makes_one() {
    let place = Place::new("cron-replace").await;
    let cron = place.seen_hours_ago("c", json!({"concurrencyPolicy": "Replace"})).await;
    let old = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
        "metadata": {"name": "c-1", "ownerReferences": [cron.controller_owner_ref_for_test()]},
        "spec": {"agentRef": {"name": "nobody"}, "description": "old"},
    });
    place.tasks.create(&PostParams::default(), &serde_json::from_value(old).unwrap()).await.unwrap();
    let _controller = place.start();
    place.status("a new one is made", "c", |cron| (total(cron)? == 8).then_some(())).await;
    let old = place.tasks.get("c-1").await.unwrap();
    assert_eq!(old.annotations().get("pilothouse.dev/stop").map(String::as_str), Some("true"));
    place.event("c", "ReplacedTasks").await;
    place.crontasks.delete("c", &DeleteParams::background()).await.unwrap();
}

trait Owns {
    fn controller_owner_ref_for_test(&self) -> Value;
}

impl Owns for CronTask {
    fn controller_owner_ref_for_test(&self) -> Value {
        serde_json::to_value(kube::Resource::controller_owner_ref(self, &()).unwrap()).unwrap()
    }
}

/// A name that belongs to somebody else is left alone.
#[tokio::test]
async fn a_task_of_that_name_that_is_not_ours_is_left_alone() {
    let place = Place::new("cron-taken").await;
    place.seen_hours_ago("c", json!({})).await;
    let name = format!("c-{}", place.last_slot());
    let other = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": name},
        "spec": {"agentRef": {"name": "nobody"}, "description": "somebody's"},
    });
    place.tasks.create(&PostParams::default(), &serde_json::from_value(other).unwrap()).await.unwrap();
    let _controller = place.start();
    let skip = place.status("it is skipped", "c", |cron| {
        cron.status.clone()?.last_skip.filter(|skip| skip.reason == "NameConflict")
    });
    assert!(skip.await.message.contains(&name));
    assert_eq!(place.tasks.get(&name).await.unwrap().spec.description.as_deref(), Some("somebody's"));
    assert_eq!(total(&place.crontasks.get("c").await.unwrap()), Some(7));
}

#[tokio::test]
async fn what_is_wrong_stalls_with_its_place_until_it_is_mended() {
    let place = Place::new("cron-wrong").await;
    // The rules of the schema see numbers, not calendars.
    place.seen_hours_ago("c", json!({"schedule": "59 23 31 2 *"})).await;
    let _controller = place.start();
    let cron = place.ready("c", "InvalidSchedule").await;
    let stalled = cron.status.unwrap().conditions.into_iter().find(|c| c.type_ == "Stalled").unwrap();
    assert!(stalled.message.starts_with("spec.schedule \"59 23 31 2 *\", position 7: "), "{}", stalled.message);
    let patch = json!({"spec": {"schedule": place.schedule()}});
    place.crontasks.patch("c", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let cron = place.ready("c", "Scheduled").await;
    assert!(cron.status.unwrap().conditions.iter().all(|c| c.type_ != "Stalled"));
    assert_eq!(place.names().await, [""; 0], "nothing is made up for");
}

/// In Git it is applied like anything else, and in the names of the older API too.
#[tokio::test]
async fn a_crontask_in_git_is_applied_and_healthy() {
    let place = Place::new("cron-git").await;
    let controller = place.start();
    let manifest = |schedule: &str| {
        format!(
            "apiVersion: kubeopencode.io/v1alpha1\nkind: CronTask\nmetadata: {{name: nightly}}\nspec:\n  schedule: '{schedule}'\n  \
             timeZone: Europe/Berlin\n  taskTemplate:\n    spec: {{agentRef: {{name: coder}}, description: sweep}}\n"
        )
    };
    let artifacts = controller.data.path().join("artifacts");
    eventually("the store is open", PATIENCE, || async { artifacts.join("parts").exists().then_some(()) }).await;
    let store = Store::new(&artifacts, 0).unwrap();
    let repositories: Api<Repository> = Api::namespaced(place.client.clone(), &place.namespace);
    let syncs: Api<Sync> = Api::namespaced(place.client.clone(), &place.namespace);
    let seal = published::seal(&place.client, &place.release.namespace).await;
    let push = |n: u32, text: String| {
        let (store, repositories, seal) = (&store, &repositories, &seal);
        async move {
            let stored = store.put(&[("c.yaml", text.as_str())].into_iter().collect::<FileTree>()).unwrap();
            let revision = format!("main@sha1:{n:040x}");
            published::publish(repositories, seal, "repo", &revision, &stored.digest.to_string()).await;
        }
    };
    push(1, manifest("0 2 * * *")).await;
    let sync = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "app"},
        "spec": {"repositoryRef": {"name": "repo"}, "timeout": "1m"},
    });
    syncs.create(&PostParams::default(), &serde_json::from_value(sync).unwrap()).await.unwrap();
    let synced = |reason: &'static str| {
        let syncs = &syncs;
        async move {
            eventually(reason, PATIENCE, || async {
                let status = syncs.get("app").await.unwrap().status?;
                let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready")?;
                (ready.reason == reason).then_some(ready.message)
            })
            .await
        }
    };
    synced("Applied").await;
    let cron = place.ready("nightly", "Scheduled").await;
    assert_eq!(cron.spec.max_retained_tasks, 10);
    // What can never run is told where it was pushed.
    push(2, manifest("59 23 31 2 *")).await;
    let message = synced("HealthCheckFailed").await;
    assert!(message.contains("never runs"), "{message}");
}
