//! Tasks with a pod of their own.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{AgentTemplate, Repository, Task, TaskPhase},
    controller::artifacts::{Purpose, Seal},
    tree::FileTree,
};
use serde_json::{Value, json};

use super::{WORDS, stage::Stage};
use crate::common::{between::Stop, cluster::control_plane, controller::Release, published, wait::eventually};

fn base() -> Value {
    json!({"agentImage": "localhost/agent:1", "executorImage": "localhost/executor:1", "workspaceDir": "/workspace",
        "serviceAccountName": "default"})
}

fn with(mut spec: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn of_base(fields: &Value) -> Value {
    with(json!({"agentRef": null, "templateRef": {"name": "base"}}), fields)
}

async fn secret(stage: &Stage, name: &str, data: Value) {
    let secrets: Api<Secret> = Api::namespaced(stage.client(), &stage.namespace);
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    secrets.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap();
}

fn names(pod: &Pod, list: &str) -> Vec<String> {
    let spec = serde_json::to_value(&pod.spec).unwrap();
    let containers = spec[list].as_array().cloned().unwrap_or_default();
    containers.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

/// The ConfigMap that a Task's pod reads beside the prompt.
async fn files(stage: &Stage, task: &str) -> ConfigMap {
    let pod = stage.pods.get(&format!("{task}-pod")).await.unwrap();
    let volumes = pod.spec.unwrap().volumes.unwrap();
    let name = volumes.into_iter().find(|v| v.name == "files").unwrap().config_map.unwrap().name;
    Api::<ConfigMap>::namespaced(stage.client(), &stage.namespace).get(&name).await.unwrap()
}

/// Waits until the controller has seen the template as it is.
async fn template_is_seen(stage: &Stage) {
    let templates: Api<AgentTemplate> = Api::namespaced(stage.client(), &stage.namespace);
    eventually("the template is seen", 60, || async {
        let template = templates.get("base").await.unwrap();
        (template.status?.observed_generation == template.metadata.generation).then_some(())
    })
    .await;
}

/// What it waits for, one after the other, by name; then it runs, whatever other Tasks do: an agent's limits are none of its.
#[tokio::test]
async fn a_task_waits_for_its_template_and_what_that_names_and_for_nobody() {
    let stage = Stage::new("alone").await;
    stage
        .task(
            "a",
            of_base(&json!({"contexts": [{"name": "own", "type": "Text", "text": "Be kind.", "mountPath": "own.md"}]})),
        )
        .await;
    stage.queued("a", "TemplateNotFound").await;
    stage.tells("a", "waiting for AgentTemplate base, which does not exist in this namespace").await;
    let spec = with(
        base(),
        &json!({
            "maxConcurrentTasks": 1, "quota": {"maxTaskStarts": 1, "windowSeconds": 3600},
            "contexts": [{"name": "book", "type": "ConfigMap", "configMap": {"name": "book"}}],
            "credentials": [{"name": "key", "secretRef": {"name": "key", "key": "token"}, "env": "TOKEN"}],
        }),
    );
    stage.template("base", spec).await;
    stage.queued("a", "ConfigMapNotFound").await;
    stage.tells("a", "with AgentTemplate base: context \"book\" waits for ConfigMap \"book\"").await;
    stage.config_map("book", json!({"oncall": "Wake up."})).await;
    stage.queued("a", "SecretNotFound").await;
    secret(&stage, "key", json!({"other": "x"})).await;
    stage.queued("a", "SecretInvalid").await;
    secret(&stage, "key", json!({"token": "hunter2"})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.task("b", of_base(&json!({}))).await;
    let b = stage.phase("b", TaskPhase::Running).await;
    assert_eq!(b.status.unwrap().conditions.iter().find(|c| c.type_ == "Queued").unwrap().reason, "NoLimits");

    let pod = stage.pods.get("a-pod").await.unwrap();
    assert_eq!(names(&pod, "initContainers"), ["opencode-init", "sidecar", "opencode-server"]);
    assert_eq!(names(&pod, "containers"), ["task"]);
    assert!(!pod.labels().contains_key("pilothouse.dev/agent"), "no Service leads to it");
    assert_eq!(pod.labels()["pilothouse.dev/agent-template"], "base");
    let files = files(&stage, "a").await;
    assert_eq!((files.immutable, files.owner_references()[0].kind.as_str()), (Some(true), "Task"));
    let data = files.data.unwrap();
    assert!(data["context.md"].contains("Wake up.") && data.values().any(|text| text == "Be kind."), "{data:?}");
    assert!(data["ca.crt"].contains("BEGIN CERTIFICATE"), "what the sidecar trusts");
    assert!(!format!("{pod:?}{data:?}").contains("hunter2"));
    let task = stage.get("a").await;
    assert_eq!(task.labels()["pilothouse.dev/agent-template"], "base");
    assert_eq!(task.status.unwrap().template_ref.unwrap().name, "base");

    for name in ["a", "b"] {
        stage.end_pod(name, 0, WORDS).await;
        let status = stage.phase(name, TaskPhase::Completed).await.status.unwrap();
        assert_eq!(status.session.unwrap().id.as_deref(), Some("ses_1"));
    }
    stage.nothing_is_written_for(Duration::from_secs(2)).await;
}

/// Neither leaves a name for what is made for the Task, if that were made of the whole name.
#[tokio::test]
async fn a_task_may_have_the_longest_name_and_its_template_a_volume_called_task() {
    let stage = Stage::with_agent("long-names").await;
    let volume = json!({"extraVolumes": [{"name": "task", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "task", "mountPath": "/opt/task"}]});
    stage.template("base", with(base(), &json!({"podSpec": volume}))).await;
    let (alone, other) = ("a".repeat(253), "b".repeat(253));
    stage.task(&alone, of_base(&json!({}))).await;
    stage.task(&other, json!({})).await;
    for name in [&alone, &other] {
        let status = stage.phase(name, TaskPhase::Running).await.status.unwrap();
        assert!(status.pod_name.as_ref().is_some_and(|pod| pod.len() <= 253 && pod.ends_with("-pod")), "{status:?}");
        stage.end_pod(name, 0, WORDS).await;
        stage.phase(name, TaskPhase::Completed).await;
        let told = stage.events(name).await;
        assert!(told.iter().any(|reason| reason == "PodCreated"), "{told:?}");
    }
    stage.nothing_is_written_for(Duration::from_secs(2)).await;
}

/// The kubelet would begin anew for ever. Who tries again has another pod, and the last one does not stay.
#[tokio::test]
async fn a_server_that_ends_again_and_again_ends_the_task() {
    let stage = Stage::new("alone-crashes").await;
    stage.template("base", base()).await;
    stage.task("a", of_base(&json!({"retry": {"limit": 1, "backoff": "1s"}}))).await;
    for tries in [&["CrashLoop"][..], &["CrashLoop"]] {
        stage.phase("a", TaskPhase::Running).await;
        let before = stage.pods.get("a-pod").await.unwrap().uid();
        stage.crash_server("a", 4).await;
        stage.condition_is("a", "Reconciling", "ContainerNotCreated").await;
        stage.crash_server("a", 5).await;
        stage.tries_are("a", tries).await;
        eventually("its pod goes", 60, || async {
            let pod = stage.pods.get_opt("a-pod").await.unwrap();
            pod.is_none_or(|pod| pod.uid() != before || pod.metadata.deletion_timestamp.is_some()).then_some(())
        })
        .await;
    }
    stage.phase("a", TaskPhase::Failed).await;
    assert_eq!(stage.condition("a", "Stalled").await, ("True".into(), "CrashLoop".into()));
    let message = stage.message("a", "Ready").await;
    assert!(message.contains("container opencode-server ends again and again, with exit code 1"), "{message}");
}

#[tokio::test]
async fn it_ends_like_any_other() {
    let stage = Stage::new("alone-ends").await;
    stage.template("base", base()).await;
    for name in ["long", "short"] {
        stage.task(name, of_base(&json!({}))).await;
        stage.phase(name, TaskPhase::Running).await;
        stage.bind_pod(name).await;
    }
    // Counted from the start, so it is over; not before the pod has a node.
    stage.set_spec("short", json!({"timeout": "1s"})).await;
    stage.annotate("long", "pilothouse.dev/stop", "true").await;
    for (name, reason) in [("long", "UserStopped"), ("short", "Timeout")] {
        stage.leaving(name).await;
        stage.end_pod(name, 30, r#"{"reason": "Aborted", "message": "aborted", "session": {"id": "ses_3"}}"#).await;
        stage.pods.delete(&format!("{name}-pod"), &DeleteParams::default().grace_period(0)).await.unwrap();
        stage.phase(name, TaskPhase::Completed).await;
        assert_eq!(stage.condition(name, "Stopped").await, ("True".into(), reason.into()));
    }
    // Tries: each has a pod of its own, and what the template is by then.
    stage.task("again", of_base(&json!({"retry": {"limit": 1, "backoff": "1s"}}))).await;
    stage.phase("again", TaskPhase::Running).await;
    let first = files(&stage, "again").await.name_any();
    stage.change_template("base", json!({"config": {"model": "p/m"}})).await;
    template_is_seen(&stage).await;
    stage.pods.delete("again-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.tries_are("again", &["PodLost"]).await;
    stage.phase("again", TaskPhase::Running).await;
    assert_ne!(files(&stage, "again").await.name_any(), first);
    stage.end_pod("again", 10, r#"{"reason": "AgentError", "message": "no credit"}"#).await;
    stage.phase("again", TaskPhase::Failed).await;
    assert_eq!(stage.condition("again", "Stalled").await, ("True".into(), "AgentError".into()));
    // What is wrong with the template is said, and mended by changing it.
    stage.change_template("base", json!({"config": "no json"})).await;
    stage.task("wrong", of_base(&json!({}))).await;
    stage.condition_is("wrong", "Stalled", "InvalidConfig").await;
    stage.change_template("base", json!({"config": null, "plugins": [{"name": "p"}]})).await;
    stage.condition_is("wrong", "Stalled", "NotYetSupported").await;
    stage.change_template("base", json!({"plugins": null})).await;
    stage.phase("wrong", TaskPhase::Running).await;
}

#[tokio::test]
async fn a_command_of_the_template_runs_and_its_exit_code_counts() {
    let stage = Stage::new("alone-command").await;
    stage.template("base", with(base(), &json!({"command": ["make", "report"]}))).await;
    for name in ["good", "bad"] {
        stage.task(name, of_base(&json!({"description": "Write the report."}))).await;
        stage.phase(name, TaskPhase::Running).await;
    }
    let pod = stage.pods.get("good-pod").await.unwrap();
    assert_eq!((names(&pod, "initContainers").len(), names(&pod, "containers")), (2, vec!["task".to_owned()]));
    let command = pod.spec.unwrap().containers.remove(0).command.unwrap();
    assert_eq!(command[4..], ["make", "report"]);
    let data = files(&stage, "good").await.data.unwrap();
    assert!(data.values().any(|text| text == "Write the report."), "{{workspaceDir}}/task.md");
    stage.end_pod("good", 0, "compiled\nwritten\n").await;
    let status = stage.phase("good", TaskPhase::Completed).await.status.unwrap();
    assert_eq!((status.log_tail.as_deref(), status.session), (Some("compiled\nwritten"), None));
    stage.end_pod("bad", 3, "no rule\n").await;
    let status = stage.phase("bad", TaskPhase::Failed).await.status.unwrap();
    assert_eq!(status.log_tail.as_deref(), Some("no rule"));
    assert_eq!(stage.message("bad", "Ready").await, "PodFailed: the Task's pod ended with exit code 3");
}

/// Content from Git is that of the start, sealed for this Task, and told in its status.
#[tokio::test]
async fn it_gets_the_commits_of_its_start() {
    let stage = Stage::new("alone-git").await;
    let store = stage.store().await;
    let repositories: Api<Repository> = Api::namespaced(stage.client(), &stage.namespace);
    let seal = published::seal(&stage.client(), &stage.release.namespace).await;
    let skill = "---\nname: review\ndescription: Looks at changes\n---\n\nDo it well.\n";
    let push = async |n: u32, text: &str| {
        let files = [("docs/a.md", text), ("skills/review/SKILL.md", skill)];
        let stored = store.put(&files.into_iter().collect::<FileTree>()).unwrap();
        published::publish(&repositories, &seal, "team", &format!("main@sha1:{n:040x}"), &stored.digest.to_string())
            .await;
    };
    let from = |path: &str| json!({"repositoryRef": {"name": "team"}, "path": path});
    let spec = with(
        base(),
        &json!({
            "contexts": [{"name": "docs", "type": "Git", "mountPath": "docs", "git": from("docs")}],
            "skills": [{"name": "team", "git": from("skills")}],
        }),
    );
    stage.template("base", spec).await;
    let own = json!({"contexts": [{"name": "own", "type": "Git", "mountPath": "/opt/own", "git": from("docs/a.md")}]});
    stage.task("one", of_base(&own)).await;
    stage.queued("one", "RepositoryNotFound").await;
    push(1, "first").await;
    stage.phase("one", TaskPhase::Running).await;
    push(2, "second").await;
    let commits = async |task: &str| -> Vec<(String, String)> {
        let inputs = stage.get(task).await.status.unwrap().inputs;
        inputs.into_iter().map(|i| (i.id, i.commit)).collect()
    };
    let expected = |ids: &[&str], n: u32| -> Vec<(String, String)> {
        ids.iter().map(|id| ((*id).to_owned(), format!("{n:040x}"))).collect()
    };
    assert_eq!(commits("one").await, expected(&["contexts/docs", "contexts/own", "skills/team"], 1));
    // The controller hears of the second commit when it does.
    let mut two = String::new();
    for n in 0.. {
        assert!(n < 100, "no Task gets the second commit");
        two = format!("two-{n}");
        stage.task(&two, of_base(&json!({}))).await;
        stage.phase(&two, TaskPhase::Running).await;
        let has = commits(&two).await;
        if has == expected(&["contexts/docs", "skills/team"], 2) {
            break;
        }
        assert_eq!(has, expected(&["contexts/docs", "skills/team"], 1));
    }
    for (name, pieces) in [("one", 3), (two.as_str(), 2)] {
        let files = files(&stage, name).await;
        let manifest: Value = serde_json::from_str(&files.data.as_ref().unwrap()["content.json"]).unwrap();
        assert_eq!(manifest["pieces"].as_array().unwrap().len(), pieces);
        is_sealed(&stage, &seal, name, &files).await;
    }
    stage.nothing_is_written_for(Duration::from_secs(2)).await;
}

async fn is_sealed(stage: &Stage, seal: &Seal, task: &str, files: &ConfigMap) {
    let uid = stage.get(task).await.uid().unwrap();
    let of = |key: &str| files.annotations()[key].clone();
    let (named, sealed) = (of("pilothouse.dev/artifacts"), of("pilothouse.dev/artifacts-seal"));
    assert!(seal.fits(Purpose::Artifacts, &stage.namespace, &uid, &named, &sealed), "{task}: {named}");
}

/// The controller dies at each of its writes, before or after the API server has carried it out: one pod, and it is not lost.
#[tokio::test]
async fn a_controller_that_dies_at_any_write_starts_it_once() {
    let cluster = control_plane();
    let namespace = cluster.namespace("alone-kills").await;
    let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let between = release.between().await;
    let client = cluster.client().await;
    let audit = cluster.audit().later();
    let (tasks, pods): (Api<Task>, Api<Pod>) =
        (Api::namespaced(client.clone(), &namespace), Api::namespaced(client.clone(), &namespace));
    let templates: Api<AgentTemplate> = Api::namespaced(client.clone(), &namespace);
    let object = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "AgentTemplate", "metadata": {"name": "base"}, "spec": base()});
    templates.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let stops = (0..8).flat_map(|after| [false, true].map(|carried_out| (after, carried_out)));
    let (mut died, mut lived) = (vec![], false);
    for (n, (after, carried_out)) in stops.chain([(usize::MAX, true)]).enumerate() {
        let name = format!("t{n}");
        let object = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": name},
            "spec": {"templateRef": {"name": "base"}, "description": "Do it."}});
        tasks.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        between.stop_at(Stop { of: "/namespaces/", after, carried_out });
        let mut controller = release.start(&["--leader-elect", "false"]);
        let runs = |task: &Task| task.status.as_ref().and_then(|s| s.phase) == Some(TaskPhase::Running);
        let at = eventually("it runs, or the controller is dead", 60, || async {
            if let Some(at) = between.stopped() {
                return Some(Some(at));
            }
            runs(&tasks.get(&name).await.unwrap()).then_some(None)
        })
        .await;
        controller.kill();
        between.go_on();
        if at.is_some() {
            let mut next = release.start(&["--leader-elect", "false"]);
            eventually(&format!("it runs after {at:?}"), 60, || async {
                runs(&tasks.get(&name).await.unwrap()).then_some(())
            })
            .await;
            next.kill();
        }
        pods.get(&format!("{name}-pod")).await.unwrap();
        let Some(at) = at else {
            lived = true;
            break;
        };
        died.push(at);
    }
    assert!(lived, "it never came through: {died:?}");
    for part in ["/configmaps", "/pods", "/status"] {
        assert!(died.iter().any(|at| at.contains(part)), "{part}: {died:?}");
    }
    let made =
        audit.writes(&release.user()).into_iter().filter(|r| r.verb == "create" && r.object().contains("/pods/"));
    assert_eq!(made.filter(|r| r.code() == 201).count(), died.len() + 1, "one pod a Task: {died:?}");
}
