//! What stays as it is: a cluster that is as Git says, and what others add to objects.

use k8s_openapi::api::apps::v1::Deployment;
use pilothouse::api::Agent;

use super::*;

fn agent(image: &str) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {{name: a, labels: {{ours: x}}}}\nspec: {{workspaceDir: /w, \
         serviceAccountName: default, agentImage: i, executorImage: '{image}'}}\n"
    )
}

/// Looks at the interval, not asked for by anybody, find that all is as it should be.
#[tokio::test]
async fn looks_at_every_interval_write_nothing() {
    let w = World::new("rest-interval").await;
    w.may_edit(&w.namespace);
    let first =
        w.commit(1, &[("a.yaml", map("a", "one")), ("d.yaml", deployment("d")), ("g.yaml", agent("i:1"))]).await;
    w.sync("app", json!({"interval": "10s", "wait": false})).await;
    w.until_applied("app", &first).await;
    eventually("the agent has its objects and what happened is told", 60, || async {
        let log = w.log();
        tokio::time::sleep(Duration::from_secs(5)).await;
        w.writes(&log).is_empty().then_some(())
    })
    .await;
    let log = w.log();
    tokio::time::sleep(Duration::from_secs(25)).await;
    let looks = log.requests(&w.release.user());
    let looks =
        looks.iter().filter(|r| r.verb == "get" && r.object() == format!("{}/configmaps/a", w.namespace)).count();
    assert!(looks >= 1, "nobody looked in two and a half intervals");
    // With events.
    assert_eq!(log.summary(&w.release.user()), [].into());
}

#[tokio::test]
async fn what_others_set_on_an_agent_stays_and_its_spec_is_that_of_git() {
    let w = World::new("rest-label").await;
    let first = w.commit(1, &[("a.yaml", agent("i:1"))]).await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &first).await;
    let agents: Api<Agent> = Api::namespaced(w.client.clone(), &w.namespace);
    let before = agents.get("a").await.unwrap();
    let by_hand = json!({"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "mine"}}});
    let apply = PatchParams { field_manager: Some("kubectl-label".into()), ..PatchParams::default() };
    agents.patch("a", &apply, &Patch::Merge(by_hand)).await.unwrap();
    let shown = |agent: &Agent| {
        let label = |key: &str| agent.labels().get(key).cloned();
        (label("team"), label("ours"), agent.annotations().get("note").cloned(), agent.spec.executor_image.clone())
    };
    let with = |image: &str| {
        let text = |t: &str| Some(t.to_owned());
        (text("blue"), text("x"), text("mine"), text(image))
    };
    // A look finds nothing to do.
    let log = w.log();
    w.reconcile("app", "1").await;
    let after = agents.get("a").await.unwrap();
    assert_eq!((shown(&after), &after.spec), (with("i:1"), &before.spec));
    assert!(!w.writes(&log).contains(&format!("patch {}/agents/a", w.namespace)), "{:?}", w.writes(&log));
    // The Sync applies it anew, and takes back what is its own.
    let second = w.commit(2, &[("a.yaml", agent("i:2"))]).await;
    w.until_applied("app", &second).await;
    assert_eq!(shown(&agents.get("a").await.unwrap()), with("i:2"));
    let both = json!({"metadata": {"labels": {"ours": "theirs"}}, "spec": {"executorImage": "by-hand:1"}});
    agents.patch("a", &apply, &Patch::Merge(both)).await.unwrap();
    w.reconcile("app", "2").await;
    assert_eq!(shown(&agents.get("a").await.unwrap()), with("i:2"));
}

/// What an admission policy of the cluster changes in every write is no drift, and neither is what an autoscaler sets.
#[tokio::test]
async fn what_the_cluster_and_others_decide_is_no_drift() {
    let w = World::new("rest-policy").await;
    w.may_edit(&w.namespace);
    let policy = Policy::new(&w).await;
    let first = w.commit(1, &[("a.yaml", map("a", "one")), ("d.yaml", deployment("d"))]).await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &first).await;
    let deployments = Api::<Deployment>::namespaced(w.client.clone(), &w.namespace);
    let a = w.maps().get("a").await.unwrap();
    assert_eq!(a.labels()["team"], "blue");
    assert_eq!(a.data.unwrap()["key"], "by the policy");
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let hpa = PatchParams { field_manager: Some("autoscaler".into()), ..PatchParams::default() };
    deployments.patch_scale("d", &hpa, &scale).await.unwrap();
    let replicas = async || deployments.get("d").await.unwrap().spec.unwrap().replicas;

    let log = w.log();
    for look in ["1", "2"] {
        assert_eq!(reason(&w.reconcile("app", look).await), ("True", "Applied"));
    }
    // The annotation's echo, twice.
    assert_eq!(w.writes(&log), vec![format!("patch {}/syncs/app/status", w.namespace); 2]);
    assert_eq!(replicas().await, Some(3));

    // A push changes what it is about, and leaves them what is theirs.
    let other = deployment("d").replace("image: none", "image: other");
    let second = w.commit(2, &[("a.yaml", map("a", "two")), ("d.yaml", other)]).await;
    w.until_applied("app", &second).await;
    assert_eq!(replicas().await, Some(3));
    let log = w.log();
    w.reconcile("app", "3").await;
    assert_eq!(w.writes(&log), [format!("patch {}/syncs/app/status", w.namespace)]);
    drop(policy);
}

/// Sets a label and a value on all ConfigMaps of one namespace, whoever writes them.
struct Policy<'a>(&'a World, [&'static str; 2]);

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let Self(w, kinds) = self;
        for kind in kinds {
            w.cluster.kubectl(["delete", kind, &format!("team-{}", w.namespace), "--ignore-not-found"]);
        }
    }
}

impl<'a> Policy<'a> {
    async fn new(w: &'a World) -> Self {
        let (name, kinds) =
            (format!("team-{}", w.namespace), ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"]);
        let version = "admissionregistration.k8s.io/v1";
        let changes = "Object{metadata: Object.metadata{labels: {'team': 'blue'}}, data: {'key': 'by the policy'}}";
        let specs = [
            json!({
                "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": w.namespace}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["configmaps"]}],
                },
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": changes}}],
            }),
            json!({"policyName": name}),
        ];
        for (kind, spec) in kinds.into_iter().zip(specs) {
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec});
            let file = w.cluster.ready.state.join(format!("{name}-{kind}.json"));
            std::fs::write(&file, object.to_string()).unwrap();
            let made = w.cluster.kubectl(["apply", "-f", file.to_str().unwrap()]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let policy = Self(w, kinds);
        // The API server takes it up after a moment.
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let probe: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "probe"}})).unwrap();
        eventually("the policy is in force", 60, || async {
            w.maps().create(&dry, &probe).await.unwrap().labels().contains_key("team").then_some(())
        })
        .await;
        policy
    }
}
