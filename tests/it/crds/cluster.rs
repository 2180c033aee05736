//! The CRDs on a real API server: accepted without a warning, and with the same verdicts as the tables.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, Status},
};
use pilothouse::{agent::compare::covers, api};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::cel::{Case, cases, imported};
use crate::common::cluster::{Cluster, control_plane};

/// Applies the CRDs and waits until all are served.
async fn install(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds().unwrap() {
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("pilothouse-crds").force(), &Patch::Apply(&crd)).await.unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status = crds.get(&name).await.unwrap().status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let is = |kind: &str| conditions.iter().find(|c| c.type_ == kind).map(|c| c.status == "True");
            assert_ne!(is("NonStructuralSchema"), Some(true), "{name}: {conditions:?}");
            assert_ne!(is("NamesAccepted"), Some(false), "{name}: {conditions:?}");
            if is("Established") == Some(true) {
                break;
            }
            assert!(Instant::now() < end, "{name} is not established: {conditions:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn resource(kind: &str) -> ApiResource {
    static CRDS: LazyLock<Vec<api::Crd>> = LazyLock::new(|| api::crd::all().unwrap());
    let plural = CRDS.iter().find(|c| c.kind == kind).unwrap().file.trim_end_matches(".yaml");
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(api::GROUP, api::VERSION, kind), plural)
}

/// The shared control plane with our kinds, installed by whoever comes first.
async fn with_crds() -> (&'static Cluster, Client) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let cluster = control_plane();
    let client = cluster.client().await;
    INSTALLED.get_or_init(|| install(&client)).await;
    (cluster, client)
}

fn dynamic(client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let resource = resource(kind);
    if kind == "PilothouseConfig" {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    }
}

/// What the API server says to a new object; nothing is stored.
async fn verdict(client: &Client, namespace: &str, case: &Case) -> Option<Status> {
    let object: DynamicObject = serde_json::from_value(case.object.clone()).unwrap();
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match dynamic(client, &case.kind, namespace).create(&params, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(*status),
        Err(error) => panic!("{}: {error}", case.title),
    }
}

/// The server says `Invalid value: …: <message>`.
fn fits(status: &Status, case: &Case, message: &str) -> bool {
    let causes: Vec<_> = status.details.iter().flat_map(|d| &d.causes).collect();
    if case.by_rule {
        causes.len() == 1 && causes[0].message.ends_with(message)
    } else {
        status.message.contains(message)
    }
}

#[tokio::test]
async fn the_api_server_says_what_the_tables_say() {
    let (cluster, client) = with_crds().await;
    let namespace = cluster.namespace("cel").await;
    let mut wrong = vec![];
    for case in cases() {
        let status = verdict(&client, &namespace, &case).await;
        let right = match (&status, &case.refused) {
            (None, None) => true,
            (Some(status), Some(message)) => fits(status, &case, message),
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: {:?}, not {:?}", case.title, status.map(|s| s.message), case.refused));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each row of the older API's reference, mapped, passes schema and rules of the real API server as in-process.
#[tokio::test]
async fn the_api_server_accepts_what_the_older_api_accepted() {
    let (cluster, client) = with_crds().await;
    let namespace = cluster.namespace("imported").await;
    let objects = imported();
    assert!(objects.len() >= 20, "the corpus has shrunk: {}", objects.len());
    let params = PostParams { dry_run: true, ..PostParams::default() };
    for mut object in objects {
        let (kind, title) = (object["kind"].as_str().unwrap().to_owned(), object["metadata"].clone());
        object["metadata"].as_object_mut().unwrap().remove("namespace");
        let given = object["spec"].clone();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        match dynamic(&client, &kind, &namespace).create(&params, &object).await {
            Ok(made) => assert!(covers(&made.data["spec"], &given), "{kind} {title}: a field is lost: {}", made.data),
            Err(error) => panic!("{kind} {title}: {error}"),
        }
    }
}

#[tokio::test]
async fn defaults_are_those_of_the_schema() {
    let (cluster, client) = with_crds().await;
    let namespace = cluster.namespace("defaults").await;
    let table = [
        ("Agent", json!({}), json!({"port": 4096})),
        (
            "Agent",
            json!({"rollout": {}, "extraPorts": [{"name": "a", "port": 1}], "plugins": [{"name": "p"}]}),
            json!({
                "port": 4096,
                "rollout": {"protect": "TasksAndSessions", "timeout": "1h", "onTimeout": "Force", "drain": false,
                    "live": "WhenIdle"},
                "extraPorts": [{"name": "a", "port": 1, "protocol": "TCP"}],
                "plugins": [{"name": "p", "target": "server"}],
            }),
        ),
        (
            "Agent",
            json!({"contexts": [
                {"type": "Git", "mountPath": "m", "git": {"repository": "x", "sync": {}}},
                {"type": "URL", "url": {"source": "x"}},
            ]}),
            json!({"port": 4096, "contexts": [
                {"type": "Git", "mountPath": "m",
                    "git": {"repository": "x", "depth": 1, "sync": {"policy": "HotReload"}}},
                {"type": "URL", "url": {"source": "x", "timeout": 30}},
            ]}),
        ),
        (
            "Sync",
            json!({"repositoryRef": {"name": "r"}}),
            json!({"repositoryRef": {"name": "r"}, "path": "./", "interval": "10m", "retryInterval": "1m",
                "timeout": "5m", "prune": true, "wait": true, "deletionPolicy": "MirrorPrune"}),
        ),
        (
            "Repository",
            json!({"url": "https://e.org/r"}),
            json!({"url": "https://e.org/r", "interval": "1m", "timeout": "60s"}),
        ),
        ("Task", json!({"agentRef": {"name": "a"}}), json!({"agentRef": {"name": "a"}})),
        (
            "CronTask",
            json!({"schedule": "0 2 * * *", "taskTemplate": {"spec": {"agentRef": {"name": "a"}}}}),
            json!({"schedule": "0 2 * * *", "taskTemplate": {"spec": {"agentRef": {"name": "a"}}},
                "concurrencyPolicy": "Forbid", "maxRetainedTasks": 10}),
        ),
    ];
    for (kind, given, stored) in table {
        let object = json!({"apiVersion": api::API_VERSION, "kind": kind, "metadata": {"name": "a"}, "spec": given});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let made = dynamic(&client, kind, &namespace).create(&params, &object).await.unwrap();
        assert_eq!(made.data["spec"], stored, "{kind} of {given}");
    }
}

/// What is written by the types is what the types read: nothing is pruned and nothing is added.
#[tokio::test]
async fn typed_objects_survive_the_api_server() {
    let (cluster, client) = with_crds().await;
    let namespace = cluster.namespace("typed").await;
    let agents: Api<api::Agent> = Api::namespaced(client, &namespace);
    let spec = api::AgentSpec {
        workspace_dir: Some("/w".into()),
        contexts: Some(vec![]),
        config: Some(json!({"model": "m", "list": [1, 2.5, null]})),
        rollout: Some(api::Rollout::default()),
        ..api::AgentSpec::default()
    };
    let made = agents.create(&PostParams::default(), &api::Agent::new("a", spec.clone())).await.unwrap();
    assert_eq!(made.spec, spec);
}

/// Objects with a status, as `kubectl get` shows them.
const SHOWN: [(&str, &[&str], &str, &str); 10] = [
    ("repo", &[], "NAME URL REVISION READY STATUS AGE", "a https://e.org/r main@sha1:0 True stored AGE"),
    ("repo", &["-o", "wide"], "NAME URL REVISION READY STATUS AGE", "a https://e.org/r main@sha1:0 True stored AGE"),
    ("sync", &[], "NAME PATH REVISION READY STATUS AGE", "a ./ main@sha1:0 False waits AGE"),
    ("sync", &["-o", "wide"], "NAME PATH REVISION READY STATUS AGE", "a ./ main@sha1:0 False waits AGE"),
    ("agent", &[], "NAME STATUS REVISION TASKS AGE", "a RolloutPending main@0 1/2 AGE"),
    (
        "agent",
        &["-o", "wide"],
        "NAME STATUS REVISION TASKS AGE REASON PROFILE IMAGE",
        "a RolloutPending main@0 1/2 AGE codes image:1",
    ),
    ("task", &[], "NAME PHASE AGENT POD AGE", "a Running coder a-pod AGE"),
    ("ct", &[], "NAME SCHEDULE READY REASON LAST SCHEDULE AGE", "a 0 2 * * * True R AGE"),
    (
        "ct",
        &["-o", "wide"],
        "NAME SCHEDULE READY REASON LAST SCHEDULE AGE ACTIVE NEXT SCHEDULE",
        "a 0 2 * * * True R AGE 1 2026-01-02T02:00:00Z",
    ),
    ("task", &["-o", "wide"], "NAME PHASE AGENT POD AGE TEMPLATE REASON", "a Running coder a-pod AGE"),
];

async fn store(client: &Client, namespace: &str) {
    let ready = |status: &str, message: &str| {
        json!([{"type": "Ready", "status": status, "reason": "R", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    };
    let artifact = json!({"revision": "main@sha1:0", "digest": "sha256:0", "size": 1, "url": "http://c/a",
        "lastUpdateTime": "2026-01-01T00:00:00Z"});
    let objects: [(&str, Value, Value); 5] = [
        (
            "Repository",
            json!({"url": "https://e.org/r"}),
            json!({"artifact": artifact, "conditions": ready("True", "stored")}),
        ),
        (
            "Sync",
            json!({"repositoryRef": {"name": "r"}}),
            json!({"lastAppliedRevision": "main@sha1:0", "conditions": ready("False", "waits")}),
        ),
        (
            "Agent",
            json!({"profile": "codes", "executorImage": "image:2"}),
            json!({"state": "RolloutPending", "revision": "main@0", "tasks": "1/2", "image": "image:1"}),
        ),
        (
            "CronTask",
            json!({"schedule": "0 2 * * *", "suspend": false, "taskTemplate": {"spec": {"agentRef": {"name": "a"}}}}),
            json!({"active": 1, "nextScheduleTime": "2026-01-02T02:00:00Z", "conditions": ready("True", "")}),
        ),
        (
            "Task",
            json!({"agentRef": {"name": "coder"}}),
            json!({"phase": "Running", "agentRef": {"name": "coder"}, "podName": "a-pod"}),
        ),
    ];
    for (kind, spec, status) in objects {
        let object = json!({"apiVersion": api::API_VERSION, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let api = dynamic(client, kind, namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let patch = Patch::Merge(json!({"status": status}));
        let stored = api.patch_status("a", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(stored.data["status"], status, "{kind}: the schema drops a field");
    }
}

#[tokio::test]
async fn kubectl_get_shows_state_first() {
    let (cluster, client) = with_crds().await;
    let namespace = cluster.namespace("shown").await;
    store(&client, &namespace).await;
    for (short, wide, header, row) in SHOWN {
        let mut command = std::process::Command::new(cluster.ready.bin.join("kubectl"));
        command.env("KUBECONFIG", &cluster.ready.kubeconfig).args(["get", short, "-n", &namespace]).args(wide);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines = text.lines().map(|l| l.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
        let (titles, mut values) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(titles.join(" "), header, "{text}");
        let age = row.split_whitespace().position(|word| word == "AGE").unwrap();
        assert!(values[age].ends_with('s'), "{text}");
        values[age] = "AGE".into();
        assert_eq!(values.join(" "), row, "{text}");
    }
    let out = cluster.kubectl(["get", "pilothouse", "-n", &namespace, "-o", "name"]);
    let names = String::from_utf8(out.stdout).unwrap();
    assert_eq!(names.lines().count(), 5, "the category holds every kind: {names}");
}

/// `kubectl apply` without `--server-side` keeps a copy of the whole in an annotation, which may have 256 KiB.
#[tokio::test]
async fn plain_kubectl_can_apply_the_files() {
    let (cluster, _) = with_crds().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    let out = cluster.kubectl(["apply", "--dry-run=server", "-f", folder]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!String::from_utf8_lossy(&out.stderr).contains("Too long"));
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), api::crds().unwrap().len());
}
