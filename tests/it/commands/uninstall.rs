//! `pilothouse uninstall`, in a cluster of its own: with `-A` it reaches every Sync.

use std::path::Path;

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use pilothouse::api::Sync;
use serde_json::{Value, json};

use super::{pilothouse, text};
use crate::common::{
    cluster::{Cluster, Shape},
    controller::install_crds,
    wait::eventually,
};

const OURS: &str = "pilothouse.dev/sync";

async fn sync(cluster: &Cluster, namespace: &str, name: &str, finalizers: &[&str]) {
    let syncs: Api<Sync> = Api::namespaced(cluster.client().await, namespace);
    let sync = json!({"metadata": {"name": name, "finalizers": finalizers}, "spec": {"repositoryRef": {"name": "r"}}});
    syncs.create(&PostParams::default(), &serde_json::from_value(sync).unwrap()).await.unwrap();
}

/// `namespace/name` of the Syncs that have a finalizer of ours.
async fn held(cluster: &Cluster) -> Vec<String> {
    let all = Api::<Sync>::all(cluster.client().await).list(&kube::api::ListParams::default()).await.unwrap();
    let held = all.items.iter().filter(|s| s.finalizers().iter().any(|f| f == OURS));
    held.map(|s| format!("{}/{}", s.namespace().unwrap(), s.name_any())).collect()
}

#[tokio::test]
async fn uninstall_releases_what_it_names_and_nothing_in_a_dry_run() {
    let cluster = Cluster::start(Shape::default());
    install_crds(&cluster);
    let (one, two) = (cluster.namespace("one").await, cluster.namespace("two").await);
    sync(&cluster, &one, "a", &[OURS, "example.com/theirs"]).await;
    sync(&cluster, &one, "free", &["example.com/theirs"]).await;
    sync(&cluster, &two, "b", &[OURS]).await;
    let both = vec![format!("{one}/a"), format!("{two}/b")];
    assert_eq!(held(&cluster).await, both);
    let run = |more: &[&str]| {
        let out = pilothouse(Some(&cluster), Path::new("."), &[&["uninstall"], more].concat());
        assert_eq!(out.status.code(), Some(0), "{more:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let lines = |verb: &str, names: &[String]| {
        let lines: Vec<_> = names.iter().map(|n| format!("{verb} Sync {n}")).collect();
        lines.join("\n") + "\n"
    };

    assert_eq!(run(&["-A", "--dry-run"]), lines("would release", &both));
    assert_eq!(run(&["-n", &two, "--dry-run"]), lines("would release", &both[1..]));
    let shown: Value = serde_json::from_str(&run(&["-A", "--dry-run", "-o", "json"])).unwrap();
    assert_eq!(shown, json!({"released": both, "dryRun": true}));
    assert_eq!(held(&cluster).await, both, "a dry run releases nothing");
    // Without a namespace: that of the context, where there is none.
    assert_eq!(run(&[]), "no Sync has a finalizer of ours\n");

    assert_eq!(run(&["-n", &one]), lines("released", &both[..1]));
    assert_eq!(held(&cluster).await, &both[1..], "the other namespace is left alone");
    let shown = pilothouse::object::yaml::parse_documents(&run(&["--all-namespaces", "-o", "yaml"])).unwrap();
    assert_eq!(shown[0].value, json!({"released": &both[1..], "dryRun": false}));
    assert!(held(&cluster).await.is_empty());
    assert_eq!(run(&["-A"]), "no Sync has a finalizer of ours\n");

    // Now nobody of ours is waited for; what others set they set.
    for (namespace, name, gone) in [(&one, "a", false), (&two, "b", true)] {
        let syncs: Api<Sync> = Api::namespaced(cluster.client().await, namespace);
        syncs.delete(name, &DeleteParams::default()).await.unwrap();
        let left = eventually("the deletion is seen", 30, || async {
            let left = syncs.get_opt(name).await.unwrap();
            (left.is_none() == gone).then_some(left)
        });
        let finalizers = left.await.map(|s| s.finalizers().to_vec()).unwrap_or_default();
        assert_eq!(finalizers, if gone { vec![] } else { vec!["example.com/theirs".to_owned()] });
    }
}
