//! Who uses each right that the chart gives. A right without a caller fails here; a caller without a right fails wherever
//! it is tested, because a controller that was refused anything ends its test ([`crate::common::controller`]).

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

use super::{objects, of_kind};
use crate::common::{
    cluster::{Cluster, Shape},
    controller::{program, template},
};

/// Where agents live: verbs of one resource, a folder or file of `src/` and what in it uses them.
const AGENTS: &[(&str, &str, &str, &str)] = &[
    ("repositories", "list watch", "controller/caches.rs", "repositories: watches.trimmed"),
    ("syncs", "list watch", "controller/caches.rs", "syncs: watches.objects"),
    ("agents", "list watch", "controller/caches.rs", "agents: watches.objects"),
    ("agenttemplates", "list watch", "controller/caches.rs", "templates: watches.objects"),
    ("tasks", "list watch", "controller/caches.rs", "tasks: watches.objects"),
    ("crontasks", "list watch", "controller/caches.rs", "crontasks: watches.trimmed"),
    ("crontasks/status", "patch", "controller/crontask.rs", "reports.status("),
    ("crontasks", "get", "controller/crontask", "limited(\"reading the CronTask\", api.get_opt("),
    ("crontasks", "patch", "controller/crontask", "api.patch_metadata("),
    ("crontasks/finalizers", "update", "schedule/child.rs", "block_owner_deletion: Some(true)"),
    ("repositories/status", "patch", "controller/repository.rs", "reports.status("),
    ("syncs/status", "patch", "controller/sync", "reports.status("),
    ("agents/status", "patch", "controller/agent.rs", "reports.status("),
    ("agenttemplates/status", "patch", "controller/template.rs", "reports.status(&*template"),
    ("tasks/status", "patch", "controller/task.rs", "reports.status("),
    ("syncs", "get", "controller/sync", "limited(\"reading the Sync\", api.get_opt("),
    ("syncs", "patch", "controller/sync", "limited(\"writing the finalizer\", api.patch("),
    ("agents", "get", "controller/agent.rs", "write::get_metadata::<Agent>"),
    ("agents", "patch", "controller/agent", "api.patch_metadata("),
    ("tasks", "get create", "controller/agent", "write::create::<Task>("),
    ("pods/status", "patch", "controller/agent", "api.patch_status("),
    ("tasks", "patch", "controller/task", "api.patch_metadata("),
    ("tasks", "delete", "controller/task", "self.api::<Task>(task).delete("),
    ("syncs/finalizers", "update", "api/names", "SYNC_FINALIZER"),
    ("agents/finalizers", "update", "agent/build", "block_owner_deletion: Some(true)"),
    ("secrets", "list watch", "controller/caches.rs", "secrets: watches.metadata"),
    ("secrets", "get", "controller/credentials.rs", "api.get_opt(name)"),
    ("secrets", "create", "controller/agent", "write::post_object(client, &namespace, &secret)"),
    ("configmaps", "list watch", "controller/caches.rs", "config_maps: watches.metadata"),
    ("configmaps", "get", "controller/agent", "write::get::<ConfigMap>"),
    ("configmaps", "create", "controller/task", "maps.create("),
    ("configmaps", "patch", "controller/agent", "write::apply::<ConfigMap>"),
    ("configmaps", "delete", "controller/agent", "write::delete::<ConfigMap>"),
    ("services", "list watch", "controller/caches.rs", "services: watches.objects"),
    ("services", "get", "controller/agent", "write::get_metadata::<Service>"),
    ("services", "create patch", "controller/agent", "write::write::<Service>"),
    ("deployments", "list watch", "controller/caches.rs", "deployments: watches.objects"),
    ("deployments", "get", "controller/agent", "write::get_metadata::<Deployment>"),
    ("deployments", "create patch", "controller/agent", "write::write::<Deployment>"),
    ("pods", "list watch", "controller/caches.rs", "agent_pods: watches.trimmed"),
    ("pods", "get", "controller/task", "pods.get_opt(name)"),
    ("pods", "create", "controller/task", "self.api::<Pod>(task).create("),
    ("pods", "patch", "controller/agent", "write::merge_metadata::<Pod>("),
    ("pods", "delete", "controller/task", "\"deleting the pod of the Task\", api.delete("),
    ("events", "create patch", "controller/report.rs", "recorder.publish("),
    ("serviceaccounts", "impersonate", "apply", "\"impersonate-user\""),
];

/// In the whole cluster.
const CLUSTER: &[(&str, &str, &str, &str)] = &[
    // Reading one by its name is what its users do by hand, with the controller's account too.
    ("pilothouseconfigs", "get list watch", "controller/caches.rs", "configs: watches.cluster_objects"),
    ("pilothouseconfigs/status", "patch", "controller/template.rs", "reports.status(&*config"),
    ("tokenreviews", "create", "server/voice", "api.create(&PostParams::default(), &review)"),
    ("subjectaccessreviews", "create", "server/voice/archive.rs", "let review = SubjectAccessReview {"),
];

/// Of the receiver of webhooks, where agents live.
const RECEIVER: &[(&str, &str, &str, &str)] = &[
    ("repositories", "list watch", "controller/receiver.rs", "Cache<Repository> = watches.objects"),
    ("repositories", "patch", "server/receiver/poke.rs", "api.patch_metadata("),
    ("secrets", "get", "server/receiver/keys.rs", "api.get_opt(&target.secret)"),
];

/// In the namespace of the release.
const SELF: &[(&str, &str, &str, &str)] = &[
    ("leases", "get", "controller/leader.rs", "self.api.get_opt("),
    ("leases", "create", "controller/leader.rs", "self.api.create("),
    ("leases", "update", "controller/leader.rs", "self.api.replace("),
    ("secrets", "get", "server/voice", "secrets.get_opt(SERVING_SECRET)"),
    ("secrets", "create", "server/voice", "secrets.create("),
    ("secrets", "update", "server/voice", "secrets.replace(SERVING_SECRET"),
    ("events", "create patch", "controller/report.rs", "recorder.publish("),
];

/// For objects without a namespace.
const DEFAULT: &[(&str, &str, &str, &str)] = &[("events", "create patch", "controller/report.rs", "recorder.publish(")];

type Rights = BTreeSet<(String, String)>;

fn granted(role: &Value) -> Rights {
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut all = Rights::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in list(rule, "resources") {
            all.extend(list(rule, "verbs").into_iter().map(|verb| (resource.clone(), verb)));
        }
    }
    all
}

fn used(table: &[(&str, &str, &str, &str)]) -> Rights {
    let mut all = Rights::new();
    for (resource, verbs, place, caller) in table {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
        let found = ignore::Walk::new(&path)
            .map(|entry| entry.unwrap_or_else(|e| panic!("{place}: {e}")).into_path())
            .filter(|file| file.is_file() && !file.ends_with("tests.rs"))
            .any(|file| std::fs::read_to_string(file).unwrap().contains(caller));
        assert!(found, "src/{place} does not use {verbs} of {resource} any more: {caller} is not in it");
        all.extend(verbs.split(' ').map(|verb| ((*resource).to_owned(), verb.to_owned())));
    }
    all
}

#[test]
fn each_right_has_a_caller() {
    let all = objects(&["agentNamespaces={team},receiver.enabled=true"]);
    let role = |kind: &str, name: &str| {
        let found = of_kind(&all, kind).into_iter().find(|r| r["metadata"]["name"] == name);
        granted(found.unwrap_or_else(|| panic!("there is no {kind} {name}")))
    };
    assert_eq!(role("ClusterRole", "ph-pilothouse:system"), used(CLUSTER));
    assert_eq!(role("Role", "ph-pilothouse:system:agents"), used(AGENTS));
    assert_eq!(role("Role", "ph-pilothouse:system:receiver"), used(RECEIVER));
    assert_eq!(role("Role", "ph-pilothouse-self"), used(SELF));
    assert_eq!(role("Role", "ph-pilothouse:system:events"), used(DEFAULT));
    let everywhere = objects(&["rbac.clusterWide=true"]);
    let role = of_kind(&everywhere, "ClusterRole")[0];
    assert_eq!(granted(role), used(CLUSTER).union(&used(AGENTS)).cloned().collect());
}

fn helm(cluster: &Cluster, namespace: &str, settings: &str) {
    try_helm(cluster, namespace, settings).unwrap_or_else(|e| panic!("{namespace}: {e}"));
}

fn try_helm(cluster: &Cluster, namespace: &str, settings: &str) -> Result<(), String> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
    let out = Command::new(program("helm"))
        .env("KUBECONFIG", &cluster.ready.kubeconfig)
        .args(["install", "pilothouse", chart, "--namespace", namespace, "--create-namespace", "--set", settings])
        .output()
        .unwrap();
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// Two teams, each with a release called `pilothouse`, that meet even in a namespace of agents.
#[tokio::test]
async fn two_releases_of_one_name_live_side_by_side() {
    let cluster = Cluster::start(Shape { node: false, no_scheduler: true });
    let agents = cluster.namespace("shared").await;
    let settings = format!(
        "agentNamespaces={{{agents}}},syncAccounts[0].namespace={agents},syncAccounts[0].name=default,receiver.enabled=true"
    );
    helm(&cluster, "first", &settings);
    helm(&cluster, "second", &format!("{settings},config.create=false"));
    let missing = try_helm(&cluster, "third", "agentNamespaces={none},config.create=false").unwrap_err();
    assert!(missing.contains("kubectl create namespace none"), "{missing}");
    let roles = cluster.kubectl(["get", "clusterroles", "-l", "app.kubernetes.io/instance=pilothouse", "-o", "name"]);
    let roles = String::from_utf8(roles.stdout).unwrap();
    for name in ["pilothouse:first", "pilothouse:first:sync", "pilothouse:second", "pilothouse:second:sync"] {
        assert!(roles.lines().any(|l| l.ends_with(&format!("/{name}"))), "{name} is not in {roles}");
    }
}

#[test]
fn the_controller_and_the_notes_name_the_role_that_is_there() {
    let all = objects(&["agentNamespaces={a}"]);
    let args = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec/containers/0/args").unwrap().to_string();
    assert!(args.contains("\"--sync-cluster-role=ph-pilothouse:system:sync\""), "{args}");
    assert!(of_kind(&all, "ClusterRole").iter().any(|r| r["metadata"]["name"] == "ph-pilothouse:system:sync"));
    let without = template("ph", "system", &["agentNamespaces={a}".into(), "rbac.create=false".into()]).unwrap();
    assert!(!without.contains("sync-cluster-role"), "a role that the chart does not make is not named");
}
