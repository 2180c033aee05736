//! What others need comes first: a definition before its objects, a namespace before what is in it, rights before work.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

use super::*;

/// A definition of `Widget` of this test's group, under this name in URLs.
fn definition(group: &str, plural: &str, scope: &str, prune: bool) -> String {
    let prune = if prune { ", annotations: {pilothouse.dev/prune: enabled}" } else { "" };
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.{group}{prune}}}\n\
         spec:\n  group: {group}\n  scope: {scope}\n  names: {{plural: {plural}, singular: widget, kind: Widget}}\n  versions:\n  \
         - name: v1\n    served: true\n    storage: true\n    schema:\n      openAPIV3Schema:\n        type: object\n        \
         properties: {{spec: {{type: object, properties: {{size: {{type: integer}}}}}}}}\n"
    )
}

fn widget(group: &str) -> String {
    format!("apiVersion: {group}/v1\nkind: Widget\nmetadata: {{name: w}}\nspec: {{size: 1}}\n")
}

impl World {
    /// The Syncs' account may do everything.
    fn may_all(&self) {
        let (name, account) =
            (format!("all-{}", self.namespace), format!("--serviceaccount={}:default", self.namespace));
        let bound =
            self.cluster.kubectl(["create", "clusterrolebinding", &name, "--clusterrole=cluster-admin", &account]);
        assert!(bound.status.success(), "{bound:?}");
    }

    /// All Widgets of the group that are served under this name.
    async fn widgets(&self, group: &str, plural: &str) -> Vec<String> {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", "Widget"), plural);
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let Ok(list) = all.list(&kube::api::ListParams::default()).await else { return vec!["not served".into()] };
        list.items.into_iter().map(|w| format!("{}/{}", w.namespace().unwrap_or_default(), w.name_any())).collect()
    }
}

#[tokio::test]
async fn one_commit_brings_a_definition_and_what_needs_it() {
    let w = World::new("order").await;
    w.may_all();
    let (ns, made) = (w.namespace.clone(), format!("{}-made", w.namespace));
    let group = format!("{ns}.example.com");
    let agent = "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {name: a}\nspec: {workspaceDir: /w, \
                 serviceAccountName: worker, agentImage: i, executorImage: i}\n";
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r}\nrules: []\n---\n\
                apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: worker}\n";
    // By their files' names everything would come the other way round.
    let rest = vec![
        ("a-agent.yaml", agent.to_owned()),
        ("c-deployment.yaml", deployment("d")),
        ("d-map.yaml", map("m", "one")),
        ("e-role.yaml", role.to_owned()),
        ("f-namespace.yaml", format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {made}}}\n")),
    ];
    let with = |files: &[(&'static str, String)]| [&rest[..], files].concat();
    let log = w.log();
    let first = w
        .commit(
            1,
            &with(&[("b-widget.yaml", widget(&group)), ("g.yaml", definition(&group, "widgets", "Namespaced", true))]),
        )
        .await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &first).await;
    let writes = w.writes(&log);
    let place = |object: &str| {
        let found = writes.iter().position(|write| write == &format!("patch {object}"));
        found.unwrap_or_else(|| panic!("{object} is not written: {writes:#?}"))
    };
    let stages = [
        vec![format!("customresourcedefinitions/widgets.{group}")],
        vec![format!("{made}/namespaces/{made}")],
        vec![format!("{ns}/roles/r"), format!("{ns}/serviceaccounts/worker")],
        vec![format!("{ns}/configmaps/m")],
        vec![format!("{ns}/deployments/d"), format!("{ns}/widgets/w")],
        vec![format!("{ns}/agents/a")],
    ];
    let places: Vec<Vec<usize>> = stages.iter().map(|s| s.iter().map(|o| place(o)).collect()).collect();
    for (pair, names) in places.windows(2).zip(stages.windows(2)) {
        assert!(pair[0].iter().max() < pair[1].iter().min(), "{names:?}: {writes:#?}");
    }
    assert_eq!(w.widgets(&group, "widgets").await, [format!("{ns}/w")]);

    // A definition that goes takes all objects of its kind with it: only where its annotation says so.
    let second = w.commit(2, &rest).await;
    w.until_applied("app", &second).await;
    eventually("the definition is gone", 30, || async {
        (w.widgets(&group, "widgets").await == ["not served"]).then_some(())
    })
    .await;

    // The same kind comes back under another name and in no namespace: what was known of it counts no more.
    let third = w
        .commit(
            3,
            &with(&[("b-widget.yaml", widget(&group)), ("g.yaml", definition(&group, "widgetry", "Cluster", false))]),
        )
        .await;
    let status = w.until_applied("app", &third).await;
    assert_eq!(w.widgets(&group, "widgetry").await, ["/w"]);
    assert_eq!(ids(&status).iter().filter(|id| id.ends_with("_Widget")).count(), 1, "{:?}", ids(&status));

    // None of it needed a second try.
    assert_eq!(w.told("app", "").await, []);

    // Without the annotation the definition stays, and so do a namespace and what they hold.
    let kept = w.commit(4, &rest[..4]).await;
    let status = w.until_applied("app", &kept).await;
    assert!(ids(&status).iter().all(|id| !id.ends_with("_Namespace") && !id.contains("CustomResource")));
    assert_eq!(w.widgets(&group, "widgetry").await, Vec::<String>::new(), "its object is pruned, it is not");
    let namespace = w.cluster.kubectl(["get", "namespace", &made, "-o", "jsonpath={.status.phase}"]);
    assert_eq!(String::from_utf8_lossy(&namespace.stdout), "Active");
}
