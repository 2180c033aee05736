//! Objects of somebody else under the names of an Agent's own: they stay as they are, and the Agent says which one it is.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

use super::*;

/// Kind, the end of the name, and what is in it. A Service has the Agent's own name.
fn table() -> Vec<(&'static str, &'static str, Value)> {
    let pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": pod});
    vec![
        ("Deployment", "-server", json!({"spec": deployment})),
        ("Service", "", json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})),
        ("Secret", "-server-auth", json!({"stringData": {"password": "theirs"}})),
        ("ConfigMap", "-server-context", json!({"data": {"mine": "x"}})),
        ("ConfigMap", "-server-content", json!({"data": {"mine": "x"}})),
        ("ConfigMap", "-server-history", json!({"data": {"mine": "x"}})),
    ]
}

impl Place {
    fn any(&self, kind: &str) -> Api<DynamicObject> {
        let group = if kind == "Deployment" { "apps" } else { "" };
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind)
    }

    /// Creates an object as somebody who works with `kubectl`.
    async fn theirs(&self, kind: &str, name: &str, labels: &Value, body: &Value) -> DynamicObject {
        let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}});
        object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let post = PostParams { field_manager: Some("kubectl-create".into()), ..PostParams::default() };
        self.any(kind).create(&post, &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Waits until the Agent tells of the object, which is what `before` was.
    async fn in_the_way(&self, agent: &str, kind: &str, before: &DynamicObject) {
        let name = before.name_any();
        let told = format!("{kind} {name:?} exists and ");
        let conflict = |a: &Agent| condition(a, "Ready").is_some_and(|c| c.1 == "NameConflict" && c.2.contains(&told));
        self.agent_where(&format!("{agent}: a conflict about {kind} {name}"), agent, conflict).await;
        let after = self.any(kind).get(&name).await.unwrap();
        let shown = |object: &DynamicObject| {
            let data = ["spec", "data", "type"].map(|field| object.data.get(field).cloned());
            (object.uid(), object.labels().clone(), object.owner_references().to_vec(), data)
        };
        assert_eq!(shown(&after), shown(before), "{kind} {name}");
        let managers = after.metadata.managed_fields.unwrap_or_default();
        let ours = managers.iter().any(|m| m.manager.as_deref().is_some_and(|m| m.starts_with("pilothouse")));
        assert!(!ours, "{kind} {name}: {managers:?}");
    }

    /// Somebody takes the object away, and says so.
    async fn give_up(&self, agent: &str, kind: &str, object: &DynamicObject) {
        let (api, name) = (self.any(kind), object.name_any());
        api.delete(&name, &DeleteParams::default()).await.unwrap();
        // The controller may have made its own in the same moment.
        let gone = || async { (api.get_opt(&name).await.unwrap().and_then(|o| o.uid()) != object.uid()).then_some(()) };
        eventually("it is gone", 30, gone).await;
        self.merge::<Agent>(agent, json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": kind}}})).await;
    }
}

#[tokio::test]
async fn what_somebody_else_has_made_is_never_written() {
    let place = Place::new("foreign").await;
    // What every namespace has one of is in the way of all.
    let authority =
        place.theirs("ConfigMap", "pilothouse-authority", &json!({}), &json!({"data": {"ca.crt": "x"}})).await;
    place.agent("first", json!({})).await;
    place.in_the_way("first", "ConfigMap", &authority).await;
    place.give_up("first", "ConfigMap", &authority).await;
    place.deployment_where("the agent goes on", "first-server", |_| true).await;

    // With our labels as well, by which such objects are watched: whoever copies one has made one of their own.
    let mut cases = vec![];
    for (n, (kind, end, body)) in table().into_iter().enumerate() {
        for (form, labelled) in [("plain", false), ("copied", true)] {
            let agent = format!("{form}-{n}");
            let labels = json!({"app.kubernetes.io/managed-by": "pilothouse", "pilothouse.dev/agent": agent});
            let labels = if labelled { labels } else { json!({"mine": "x"}) };
            let object = place.theirs(kind, &format!("{agent}{end}"), &labels, &body).await;
            cases.push((agent, kind, object));
        }
    }
    for (agent, ..) in &cases {
        place.agent(agent, json!({})).await;
    }
    for (agent, kind, object) in &cases {
        place.in_the_way(agent, kind, object).await;
        let server = place.api::<Deployment>().get_opt(&format!("{agent}-server")).await.unwrap();
        assert_eq!(server.is_some(), *kind == "Deployment", "{agent}");
    }
    for (agent, kind, object) in &cases {
        place.give_up(agent, kind, object).await;
    }
    for (agent, ..) in &cases {
        let uid = place.api::<Agent>().get(agent).await.unwrap().uid().unwrap();
        let ours = |d: &Deployment| d.owner_references().iter().any(|o| o.uid == uid);
        place.deployment_where(&format!("{agent} goes on"), &format!("{agent}-server"), ours).await;
    }
}
