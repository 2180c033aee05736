//! A namespace with an agent, a controller that works there, and hands that do what a kubelet would.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{Agent, AgentTemplate, PilothouseConfig, Task, TaskPhase, names},
    artifact::Store,
};
use serde_json::{Value, json};

use crate::common::{
    audit::AuditLog,
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    wait,
    wait::eventually,
};

/// Long enough for a busy machine; nothing is measured by it.
const PATIENCE: u64 = 60;

pub(super) struct Stage {
    pub(super) namespace: String,
    pub(super) release: Release,
    pub(super) audit: AuditLog,
    pub(super) tasks: Api<Task>,
    pub(super) pods: Api<Pod>,
    client: Client,
    kubeconfig: PathBuf,
    controller: Controller,
}

impl Stage {
    /// Without an agent.
    pub(super) async fn new(prefix: &str) -> Self {
        Self::on(control_plane(), prefix).await
    }

    /// The same on a cluster of the test's own.
    pub(super) async fn on(cluster: &Cluster, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let client = cluster.client().await;
        let audit = cluster.audit().later();
        let controller = release.start(&[]);
        Self {
            tasks: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            namespace,
            release,
            audit,
            client,
            kubeconfig: cluster.ready.kubeconfig.clone(),
            controller,
        }
    }

    /// With an agent that serves.
    pub(super) async fn with_agent(prefix: &str) -> Self {
        Self::with(prefix, json!({})).await
    }

    /// With an agent of this spec, that serves unless it is suspended.
    pub(super) async fn with(prefix: &str, spec: Value) -> Self {
        let stage = Self::new(prefix).await;
        let suspended = spec["suspend"] == true;
        stage.agent(spec).await;
        if !suspended {
            stage.serve().await;
        }
        stage
    }

    fn agents(&self) -> Api<Agent> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the agent `coder`.
    pub(super) async fn agent(&self, spec: Value) {
        let mut whole = json!({
            "agentImage": "localhost/agent:1", "executorImage": "localhost/executor:1",
            "workspaceDir": "/workspace", "serviceAccountName": "default",
        });
        merge(&mut whole, spec);
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent",
            "metadata": {"name": "coder"}, "spec": whole,
        });
        self.agents().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub(super) async fn change_agent(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.agents().patch("coder", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until the controller has seen the agent as it is.
    pub(super) async fn agent_is_seen(&self) {
        eventually("the agent is seen", PATIENCE, || async {
            let agent = self.agents().get("coder").await.unwrap();
            (agent.status?.observed_generation == agent.metadata.generation).then_some(())
        })
        .await;
    }

    /// Plays the agent's node until the agent is ready.
    pub(super) async fn serve(&self) {
        eventually("the agent is ready", PATIENCE, || async {
            let agent = self.agents().get("coder").await.unwrap();
            let status = agent.status.clone().unwrap_or_default();
            if status.ready == Some(true) && status.url.is_some() {
                return Some(());
            }
            self.all_ready().await;
            None
        })
        .await;
    }

    /// Plays the agent's node until all pods of the newest revision are ready.
    pub(super) async fn roll_out(&self) {
        eventually("the rollout is over", PATIENCE, || async {
            // The status may be that of before what the Deployment has already.
            let deployed = self.deployment().await?.annotations().get("pilothouse.dev/template-hash").cloned();
            let rollout = self.agents().get("coder").await.unwrap().status?.rollout?;
            if deployed.is_some() && rollout.applied == deployed && rollout.rolled_out_revision == deployed {
                return Some(());
            }
            self.all_ready().await;
            None
        })
        .await;
    }

    async fn deployment(&self) -> Option<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace).get_opt("coder-server").await.unwrap()
    }

    async fn all_ready(&self) {
        let servers = ListParams::default().labels("pilothouse.dev/agent=coder,!pilothouse.dev/task");
        for pod in self.pods.list(&servers).await.unwrap() {
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            let patch = Patch::Merge(json!({ "status": status }));
            // The Deployment may just have replaced it.
            let _ = self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }

    /// The agent, and the image of its Deployment.
    pub(super) async fn rollout(&self) -> (Agent, String) {
        let pod = self.deployment().await.unwrap().spec.unwrap().template.spec.unwrap();
        (self.agents().get("coder").await.unwrap(), pod.containers[0].image.clone().unwrap())
    }

    /// Creates a Task of the agent `coder`.
    pub(super) async fn task(&self, name: &str, spec: Value) {
        let mut whole = json!({"agentRef": {"name": "coder"}, "description": "Say hello."});
        merge(&mut whole, spec);
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
            "metadata": {"name": name}, "spec": whole,
        });
        self.tasks.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub(super) async fn get(&self, name: &str) -> Task {
        self.tasks.get(name).await.unwrap()
    }

    pub(super) async fn set_spec(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.tasks.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn annotate(&self, name: &str, key: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        self.tasks.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits for a phase.
    pub(super) async fn phase(&self, name: &str, phase: TaskPhase) -> Task {
        eventually(&format!("{name} is {phase:?}"), PATIENCE, || async {
            let task = self.get(name).await;
            (task.status.as_ref()?.phase == Some(phase)).then_some(task)
        })
        .await
    }

    /// The same, looking without a pause: for measuring.
    pub(super) async fn phase_now(&self, name: &str, phase: TaskPhase) {
        let look = async {
            while self.get(name).await.status.and_then(|s| s.phase) != Some(phase) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(PATIENCE), look).await.unwrap();
    }

    pub(super) async fn queued(&self, name: &str, reason: &str) {
        self.condition_is(name, "Queued", reason).await;
        let task = self.get(name).await;
        assert_eq!(task.status.unwrap().phase, Some(TaskPhase::Queued), "{name}");
    }

    /// Waits until a condition is true with a reason.
    pub(super) async fn condition_is(&self, name: &str, kind: &str, reason: &str) {
        let what = format!("{name} has {kind}=True/{reason}");
        let wanted = ("True".to_owned(), reason.to_owned());
        eventually(&what, PATIENCE, || async { (self.condition(name, kind).await == wanted).then_some(()) }).await;
    }

    /// Status and reason of a condition; empty without one.
    pub(super) async fn condition(&self, name: &str, kind: &str) -> (String, String) {
        let conditions = self.get(name).await.status.unwrap_or_default().conditions;
        let found = conditions.into_iter().find(|c| c.type_ == kind);
        found.map(|c| (c.status, c.reason)).unwrap_or_default()
    }

    pub(super) async fn message(&self, name: &str, kind: &str) -> String {
        let conditions = self.get(name).await.status.unwrap_or_default().conditions;
        conditions.into_iter().find(|c| c.type_ == kind).map(|c| c.message).unwrap_or_default()
    }

    /// The kubelet's word that the container has ended. `OOMKilled` as the message is the kernel's.
    pub(super) async fn end_pod(&self, task: &str, exit: i32, message: &str) {
        let reason = if message == "OOMKilled" { "OOMKilled" } else { "Completed" };
        let terminated = json!({
            "exitCode": exit, "reason": reason, "message": message,
            "startedAt": now(), "finishedAt": now(), "containerID": "containerd://x",
        });
        let container = json!({
            "name": "task", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated},
        });
        let phase = if exit == 0 { "Succeeded" } else { "Failed" };
        let patch = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": [container]}}));
        self.pods.patch_status(&names::task::pod(task), &PatchParams::default(), &patch).await.unwrap();
    }

    /// The kubelet's word that the server of a Task's own pod has begun anew so often, and ended, and waits to begin again.
    pub(super) async fn crash_server(&self, task: &str, restarts: i32) {
        let ended = json!({"exitCode": 1, "reason": "Error", "startedAt": now(), "finishedAt": now(), "containerID": "containerd://x"});
        let container = |name: &str, restarts: i32, state: Value, last: Value| {
            json!({"name": name, "image": "i", "imageID": "i", "ready": false, "started": false, "restartCount": restarts,
                "state": state, "lastState": last})
        };
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let server = container("opencode-server", restarts, waits("CrashLoopBackOff"), json!({"terminated": ended}));
        let status = json!({"phase": "Pending", "initContainerStatuses": [server],
            "containerStatuses": [container("task", 0, waits("PodInitializing"), json!({}))]});
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods.patch_status(&names::task::pod(task), &PatchParams::default(), &patch).await.unwrap();
    }

    /// Puts the pod on a node that nobody runs: it then leaves with grace.
    pub(super) async fn bind_pod(&self, task: &str) {
        let name = format!("{task}-pod");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
        });
        let _: Value = self.pods.create_subresource("binding", &name, &PostParams::default(), &binding).await.unwrap();
    }

    /// Waits until the pod is being deleted.
    pub(super) async fn leaving(&self, task: &str) {
        let name = format!("{task}-pod");
        eventually(&format!("{name} is being deleted"), PATIENCE, || async {
            self.pods.get(&name).await.unwrap().metadata.deletion_timestamp
        })
        .await;
    }

    /// A pod of somebody else, with a label of ours.
    pub(super) async fn strange_pod(&self, name: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"pilothouse.dev/task": "stolen"}},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]},
        });
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// Kills the controller, and takes the status back to before the start, as if it had died before it wrote that.
    pub(super) async fn crash_before_status(&mut self, name: &str) {
        self.controller.kill();
        let status = json!({"phase": "Queued", "startTime": null, "podName": null, "conditions": null});
        let patch = Patch::Merge(json!({ "status": status }));
        self.tasks.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What the controller says at `/metrics`.
    pub(super) async fn metrics(&self) -> String {
        wait::get(&format!("{}/metrics", self.controller.health)).await.unwrap().1
    }

    /// Kills the controller and starts another.
    pub(super) fn restart(&mut self) {
        self.kill();
        self.resume();
    }

    /// The same with more arguments.
    pub(super) fn restart_with(&mut self, arguments: &[&str]) {
        self.controller.kill();
        let all: Vec<&str> = ["--lease-duration", "4"].iter().chain(arguments).copied().collect();
        self.controller = self.release.start(&all);
    }

    /// What the controller has logged.
    pub(super) fn log(&self) -> String {
        self.controller.log()
    }

    /// The controller's data folder.
    pub(super) fn data(&self) -> PathBuf {
        self.controller.data.path().to_path_buf()
    }

    /// Waits until a Task has had these tries, by their reasons.
    pub(super) async fn tries_are(&self, name: &str, reasons: &[&str]) {
        eventually(&format!("{name} has had {reasons:?}"), PATIENCE, || async {
            let tries = self.get(name).await.status.unwrap_or_default().tries;
            tries.iter().map(|t| t.reason.as_str()).eq(reasons.iter().copied()).then_some(())
        })
        .await;
    }

    /// Writes a ConfigMap.
    pub(super) async fn config_map(&self, name: &str, data: Value) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        maps.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap();
    }

    pub(super) async fn remove_config_map(&self, name: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        maps.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(super) async fn config_map_data(&self, name: &str) -> BTreeMap<String, String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        maps.get(name).await.unwrap().data.unwrap_or_default()
    }

    /// Kills the controller.
    pub(super) fn kill(&mut self) {
        self.controller.kill();
    }

    /// Starts another one after [`kill`](Self::kill).
    pub(super) fn resume(&mut self) {
        self.controller = self.release.start(&["--leader-elect", "false"]);
    }

    /// Waits until the message of a Task's condition `Queued` ends like this.
    pub(super) async fn tells(&self, name: &str, end: &str) {
        eventually(&format!("{name} tells {end}"), PATIENCE, || async {
            self.message(name, "Queued").await.ends_with(end).then_some(())
        })
        .await;
    }

    /// The same for any of several Tasks.
    pub(super) async fn some_tell(&self, names: &[String], end: &str) {
        eventually(&format!("one tells {end}"), PATIENCE, || async {
            let mut found = false;
            for name in names {
                found |= self.message(name, "Queued").await.ends_with(end);
            }
            found.then_some(())
        })
        .await;
    }

    /// Those of `names` that have not started.
    pub(super) async fn waiting(&self, names: &[String]) -> Vec<String> {
        let all = self.tasks.list(&ListParams::default()).await.unwrap();
        let waits = |t: &Task| t.status.as_ref().and_then(|s| s.phase) == Some(TaskPhase::Queued);
        all.into_iter().filter(waits).map(|t| t.name_any()).filter(|n| names.contains(n)).collect()
    }

    /// Waits until the agent has noted so many starts of running Tasks.
    pub(super) async fn starts_are(&self, count: usize) {
        eventually(&format!("{count} starts"), PATIENCE, || async {
            let status = self.agents().get("coder").await.unwrap().status.unwrap_or_default();
            let running = self.running().await;
            let noted = status.task_start_history.iter().filter(|s| running.contains(&s.task_name)).count();
            (noted == count && running.len() == count).then_some(())
        })
        .await;
    }

    /// No Task gets a pod for a while.
    pub(super) async fn nothing_starts_for(&self, time: Duration) {
        let before = self.pods_of_tasks().await;
        tokio::time::sleep(time).await;
        assert_eq!(self.pods_of_tasks().await, before);
    }

    /// How many pods Tasks have.
    pub(super) async fn pods_of_tasks(&self) -> usize {
        self.pods.list(&ListParams::default().labels("pilothouse.dev/task")).await.unwrap().items.len()
    }

    /// Makes all starts that the agent has noted older.
    pub(super) async fn shift_starts(&self, seconds: i64) {
        let mut starts = self.agents().get("coder").await.unwrap().status.unwrap().task_start_history;
        for start in &mut starts {
            start.start_time.0 -= jiff::SignedDuration::from_secs(seconds);
        }
        let patch = Patch::Merge(json!({"status": {"taskStartHistory": starts}}));
        self.agents().patch_status("coder", &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn change_template(&self, name: &str, spec: Value) {
        let templates: Api<AgentTemplate> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({ "spec": spec }));
        templates.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Names of running Tasks.
    pub(super) async fn running(&self) -> Vec<String> {
        let all = self.tasks.list(&ListParams::default()).await.unwrap();
        let running = |t: &Task| t.status.as_ref().and_then(|s| s.phase) == Some(TaskPhase::Running);
        all.into_iter().filter(running).map(|t| t.name_any()).collect()
    }

    /// Reasons of the events about a Task, once there are any of them for its end.
    pub(super) async fn events(&self, task: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("events of {task}"), PATIENCE, || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let about = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(task);
            let reasons: Vec<_> = all.into_iter().filter(about).filter_map(|e| e.reason).collect();
            (reasons.len() > 1).then_some(reasons)
        })
        .await
    }

    /// Looks for writes of a controller that leads when there is nothing to do. What it still had to do may end before: on
    /// a busy machine, or after a restart, some seconds later than here.
    pub(super) async fn nothing_is_written_for(&self, time: Duration) {
        eventually("a controller leads", PATIENCE, || async {
            self.metrics().await.lines().any(|line| line == "pilothouse_leader 1").then_some(())
        })
        .await;
        let mut last = vec![];
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let log = self.audit.later();
            tokio::time::sleep(time).await;
            last = log.writes(&self.release.user());
            if last.is_empty() {
                return;
            }
        }
        panic!("it never stops to write: {last:#?}");
    }

    /// Writes the cluster's settings.
    pub(super) async fn configure(&self, spec: Value) {
        let configs: Api<PilothouseConfig> = Api::all(self.client.clone());
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "PilothouseConfig",
            "metadata": {"name": "cluster"}, "spec": spec,
        });
        configs.patch("cluster", &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap();
    }

    /// Reason and message of a condition of the settings.
    pub(super) async fn config_condition(&self, kind: &str) -> (String, String) {
        let configs: Api<PilothouseConfig> = Api::all(self.client.clone());
        eventually("the settings have been looked at", PATIENCE, || async {
            let config = configs.get("cluster").await.unwrap();
            let generation = config.metadata.generation;
            let status = config.status.filter(|s| s.observed_generation == generation)?;
            status.conditions.into_iter().find(|c| c.type_ == kind).map(|c| (c.reason, c.message))
        })
        .await
    }

    /// Waits until a Task is gone.
    pub(super) async fn gone(&self, name: &str) {
        let gone = || async { self.tasks.get_opt(name).await.unwrap().is_none().then_some(()) };
        eventually(&format!("{name} is gone"), PATIENCE, gone).await;
    }

    /// Waits until a pod is gone.
    pub(super) async fn pod_gone(&self, name: &str) {
        let gone = || async { self.pods.get_opt(name).await.unwrap().is_none().then_some(()) };
        eventually(&format!("{name} is gone"), PATIENCE, gone).await;
    }

    /// Names of all Tasks.
    pub(super) async fn names(&self) -> Vec<String> {
        self.tasks.list(&ListParams::default()).await.unwrap().into_iter().map(|t| t.name_any()).collect()
    }

    /// Where the controller keeps artifacts.
    pub(super) async fn store(&self) -> Store {
        let artifacts = self.controller.data.path().join("artifacts");
        eventually("the store is open", PATIENCE, || async { artifacts.join("parts").exists().then_some(()) }).await;
        Store::new(&artifacts, 0).unwrap()
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Creates a template.
    pub(super) async fn template(&self, name: &str, spec: Value) {
        let templates: Api<AgentTemplate> = Api::namespaced(self.client.clone(), &self.namespace);
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "AgentTemplate",
            "metadata": {"name": name}, "spec": spec,
        });
        templates.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// Runs the program as the administrator: exit code, stdout and stderr.
    pub(super) fn pilothouse(&self, arguments: &[&str]) -> (i32, String, String) {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .env("KUBECONFIG", &self.kubeconfig)
            .args(arguments)
            .args(["-n", &self.namespace, "--log", "warn"])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap().to_string()
}

fn merge(into: &mut Value, from: Value) {
    let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) else { return };
    for (key, value) in from {
        if value.is_null() {
            into.remove(&key);
        } else {
            into.insert(key, value);
        }
    }
}
