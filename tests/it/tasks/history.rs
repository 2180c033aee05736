//! What became of Tasks is kept when they are gone, and found again by those who may.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    process::Command,
};

use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use pilothouse::{
    api::TaskPhase,
    store::{Asked, DatabaseUrl, Store, TaskRecord, Which},
};
use serde_json::{Value, json};

use super::stage::Stage;
use crate::common::{
    cluster::{Cluster, Shape, control_plane},
    postgres::{Held, Postgres},
    wait::eventually,
};

fn words(cost: &str) -> String {
    json!({
        "result": "Done.", "log": "I say\nDone.",
        "session": {"id": "ses_1", "summary": {"cost": cost, "tokenUsage": {"input": 90, "output": 10}}},
    })
    .to_string()
}

async fn runs_and_ends(stage: &Stage, name: &str, cost: &str) {
    stage.task(name, json!({})).await;
    stage.phase(name, TaskPhase::Running).await;
    stage.end_pod(name, 0, &words(cost)).await;
    stage.phase(name, TaskPhase::Completed).await;
}

async fn records(store: &Store, stage: &Stage, count: usize) -> Vec<TaskRecord> {
    let asked = Asked { which: Which::Task, namespace: stage.namespace.clone(), name: String::new(), limit: 100 };
    eventually(&format!("{count} records"), 60, || async {
        let found = store.tasks(&asked).await.ok()?;
        (found.len() == count).then_some(found)
    })
    .await
}

/// While the database is away Tasks run as ever; those that are to be cleaned up stay until it has them. Of what somebody
/// deleted meanwhile it gets the record too, and of none two.
#[tokio::test]
async fn a_database_that_is_away_gets_everything_later() {
    let Some(mut postgres) = Postgres::start() else { return };
    postgres.stop();
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let mut stage = Stage::on(&cluster, "away").await;
    let url = postgres.url();
    stage.restart_with(&["--history-database-url", &url]);
    stage.configure(json!({"cleanup": {"ttlSecondsAfterFinished": 0}})).await;
    stage.agent(json!({})).await;
    stage.serve().await;
    for name in ["kept", "deleted"] {
        runs_and_ends(&stage, name, "0.250000").await;
    }
    stage.tasks.delete("deleted", &DeleteParams::default()).await.unwrap();
    stage.gone("deleted").await;
    let metrics = stage.metrics().await;
    assert!(metrics.contains("pilothouse_history_up 0\n"), "{metrics}");
    assert!(metrics.contains("pilothouse_history_waiting "), "{metrics}");
    assert!(stage.tasks.get_opt("kept").await.unwrap().is_some(), "the history does not have it yet");

    postgres.go_on();
    stage.gone("kept").await;
    let place = DatabaseUrl::from(url.clone()).place("/nowhere".as_ref()).unwrap().unwrap();
    let store = Store::open(&place).unwrap();
    let mut found = records(&store, &stage, 2).await;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    for (record, name) in found.iter().zip(["deleted", "kept"]) {
        assert_eq!((record.name.as_str(), record.agent.as_str(), record.cost.as_str()), (name, "coder", "0.250000"));
        assert_eq!((record.tokens, record.reason.as_str()), (100, "Completed"));
        assert_eq!(record.detail.log_tail.as_deref(), Some("I say\nDone."));
        assert_eq!(record.detail.result.as_deref(), Some("Done."));
    }
    assert!(stage.metrics().await.contains("pilothouse_history_up 1\n"));
    assert!(!["geh:eim", "geh%3A"].iter().any(|part| stage.log().contains(part)), "the password is in the log");

    // A controller that is new to a Task that is there already writes it once.
    stage.configure(json!({"cleanup": {"ttlSecondsAfterFinished": 86400}})).await;
    runs_and_ends(&stage, "third", "0.000001").await;
    records(&store, &stage, 3).await;
    stage.restart_with(&["--history-database-url", &url]);
    runs_and_ends(&stage, "fourth", "0.000001").await;
    records(&store, &stage, 4).await;
}

/// An address of this machine that the API server takes for an endpoint: none of loopback.
fn address() -> Held {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine has no network at all, not even one of its own");
    let host = socket.local_addr().unwrap().ip();
    Held::on(host)
}

/// The Service of a controller that listens there. The API server proxies to the addresses of pods alone, so there is one.
fn service(cluster: &Cluster, namespace: &str, at: SocketAddr) {
    let ports = json!([{"name": "voice", "port": at.port(), "protocol": "TCP"}]);
    let ip = at.ip().to_string();
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": {"ports": ports}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "front"},
            "spec": {"containers": [{"name": "controller", "image": "none.invalid/none"}]}},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "front"}, "subsets": [{
            "addresses": [{"ip": ip, "targetRef": {"kind": "Pod", "namespace": namespace, "name": "front"}}],
            "ports": ports}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "front"}, "rules": [
            {"apiGroups": [""], "resources": ["services/proxy"], "resourceNames": ["https:front:voice"], "verbs": ["get"]}]},
    ]});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("service.json");
    std::fs::write(&file, objects.to_string()).unwrap();
    let out = cluster.kubectl(["apply", "-n", namespace, "-f", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}).to_string();
    let out = cluster.kubectl([
        "patch",
        "pod",
        "front",
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn bind(cluster: &Cluster, namespace: &str, role: &str, account: &str) {
    let name = format!("{role}-{}", account.replace(':', "-"));
    let out =
        cluster.kubectl(["create", "rolebinding", &name, "-n", namespace, "--role", role, "--serviceaccount", account]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn run(kubeconfig: &std::path::Path, arguments: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .env("KUBECONFIG", kubeconfig)
        .args(arguments)
        .args(["--log", "warn"])
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// Through the API server, by the caller's own rights: who may list the Tasks of a namespace reads its history, and nobody
/// else does.
#[tokio::test]
async fn people_ask_through_the_api_server_with_their_own_rights() {
    let cluster = control_plane();
    let mut stage = Stage::new("asked").await;
    let held = address();
    let at = held.at();
    stage.restart_with(&["--voice-listen", &at.to_string()]);
    let system = stage.release.namespace.clone();
    service(cluster, &system, at);
    stage.agent(json!({})).await;
    stage.serve().await;
    runs_and_ends(&stage, "review", "0.250000").await;
    runs_and_ends(&stage, "other", "0.050000").await;

    let team = stage.namespace.clone();
    let out =
        cluster.kubectl(["create", "role", "reads", "-n", &team, "--verb=get,list", "--resource=tasks.pilothouse.dev"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (reader, stranger) =
        (cluster.kubeconfig_as(&team, "reader").await, cluster.kubeconfig_as(&team, "stranger").await);
    bind(cluster, &team, "reads", &format!("{team}:reader"));
    let nobody = run(&reader, &["history", "task", "review", "-n", &team, "--controller-namespace", &system]);
    assert!(nobody.0 == 1 && nobody.2.contains("history.readers"), "{nobody:?}");
    // The API server learns of them in this order.
    for account in ["stranger", "reader"] {
        bind(cluster, &system, "front", &format!("{team}:{account}"));
    }
    let place = ["--controller-namespace", &system, "--controller-service", "front"];
    let with = |arguments: &[&'static str]| -> Vec<String> {
        arguments.iter().copied().chain(place).map(str::to_owned).collect::<Vec<_>>()
    };
    let ask = |kubeconfig: &std::path::Path, arguments: &[&'static str], namespace: &[&str]| {
        let arguments = with(arguments);
        let all: Vec<&str> = arguments.iter().map(String::as_str).chain(namespace.iter().copied()).collect();
        run(kubeconfig, &all)
    };
    let here = ["-n", team.as_str()];
    let found = eventually("both Tasks are in the history", 60, || async {
        let (code, out, err) = ask(&reader, &["history", "agent", "coder", "-o", "json"], &here);
        if code != 0 {
            eprintln!("not yet: {err}"); // the API server learns of rights and Services a moment later
            return None;
        }
        let found: Value = serde_json::from_str(&out).unwrap();
        (found.as_array().unwrap().len() == 2).then_some(found)
    })
    .await;
    // Which one is newer is not known: Kubernetes counts whole seconds.
    let names: BTreeSet<&str> = found.as_array().unwrap().iter().filter_map(|task| task["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["other", "review"]));
    let (_, out, _) = ask(&reader, &["history", "task", "review"], &here);
    for part in ["Task asked-", "/review", "Completed, Completed", "0.250000 USD, 100 tokens", "    Done."] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let (_, out, err) = ask(&reader, &["cost", "--by", "agent", "-o", "json"], &here);
    let cost: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    assert_eq!(
        cost["rows"],
        json!([{"namespace": team, "name": "coder", "tasks": 2, "cost": "0.300000", "tokens": 200}])
    );
    assert_eq!(cost["total"]["cost"], "0.300000");
    let (_, out, _) = ask(&reader, &["cost", "--by", "day"], &here);
    assert!(out.starts_with("DAY ") && out.contains("0.300000"), "{out}");

    // It is still there when the object is gone.
    stage.tasks.delete("review", &DeleteParams::default()).await.unwrap();
    stage.gone("review").await;
    let (code, out, _) = ask(&reader, &["history", "task", "review"], &here);
    assert!(code == 0 && out.contains("0.250000"), "{out}");

    // Not without the right, not elsewhere, not of other kinds, not with anything that is no token.
    let every = ["--all-namespaces"];
    for (kubeconfig, arguments, namespace, why) in [
        (&stranger, &["history", "task", "review"], &here[..], "may not list tasks.pilothouse.dev in namespace asked-"),
        (&reader, &["history", "sync", "all"], &here[..], "may not list syncs"),
        (&reader, &["cost", "--by", "day"], &every[..], "may not list tasks.pilothouse.dev in all namespaces"),
        (&reader, &["history", "task", "x"], &["-n", "kube-system"][..], "in namespace kube-system"),
    ] {
        let (code, out, err) = ask(kubeconfig, arguments, namespace);
        assert!(code == 1 && out.is_empty() && err.contains(why), "{why}: {out}{err}");
    }

    // A kubeconfig with a certificate asks as an account; that token is good for nothing else.
    let admin = cluster.ready.kubeconfig.clone();
    let (code, _, err) = ask(&admin, &["history", "task", "review"], &here);
    assert!(code == 0 || err.contains("--ask-as"), "{err}");
    let (code, out, err) = ask(&admin, &["history", "task", "review", "--ask-as", "reader"], &here);
    assert!(code == 0 && out.contains("0.250000"), "{err}");
    let (code, _, err) = ask(&admin, &["history", "task", "review", "--ask-as", "stranger"], &here);
    assert!(code == 1 && err.contains("may not list"), "{err}");

    // The file itself, for whoever has it.
    let url = format!("sqlite:{}", stage.data().join("history/history.db").display());
    let (code, out, err) = run(&stranger, &["history", "task", "review", "--database-url", &url]);
    assert!(code == 0 && out.contains("0.250000"), "{err}");
}

/// What Syncs tried is kept beyond the five entries of their status.
#[tokio::test]
async fn a_sync_leaves_more_than_its_status_holds() {
    let stage = Stage::new("syncs").await;
    let syncs: Api<pilothouse::api::Sync> = Api::namespaced(stage.client(), &stage.namespace);
    let sync = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "all"},
        "spec": {"repositoryRef": {"name": "none"}, "suspend": true, "interval": "1h"},
    });
    syncs.patch("all", &PatchParams::apply("test"), &Patch::Apply(sync)).await.unwrap();
    // The controller has said what it has to say.
    let said = |sync: pilothouse::api::Sync| sync.status.is_some_and(|s| !s.conditions.is_empty());
    eventually("the Sync has conditions", 60, || async { said(syncs.get("all").await.unwrap()).then_some(()) }).await;
    let place = DatabaseUrl::default().place(&stage.data()).unwrap().unwrap();
    let store = Store::open(&place).unwrap();
    let asked = Asked { which: Which::Sync, namespace: stage.namespace.clone(), name: "all".into(), limit: 100 };
    // The controller's own words, one after another as commits would give them.
    let begin = jiff::Timestamp::now().as_second() - 3600; // what is too old is not kept
    let entry = |n: i64| {
        let at = jiff::Timestamp::from_second(begin + n).unwrap().to_string();
        json!({"revision": format!("main@{n}"), "appliedAt": at, "result": "Applied", "digest": format!("sha256:{n}")})
    };
    for n in 1..=8_i64 {
        let history: Vec<Value> = (1..=n).rev().take(5).map(entry).collect();
        let patch = Patch::Merge(json!({"status": {"history": history}}));
        syncs.patch_status("all", &PatchParams::default(), &patch).await.unwrap();
        eventually(&format!("{n} records"), 60, || async {
            (store.syncs(&asked).await.ok()?.len() == usize::try_from(n).unwrap()).then_some(())
        })
        .await;
    }
    let found = store.syncs(&asked).await.unwrap();
    assert_eq!(found[0].revision, "main@8");
    assert_eq!(found[7].digest.as_deref(), Some("sha256:1"));
}
