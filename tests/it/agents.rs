//! Agents on a real API server: generated objects, references, conflicts, the gate, and that nothing is written for nothing.
//!
//! There are no nodes here: pods stay pending, so no server runs. Where a test needs one that runs, it says so in a
//! pod's status, as a kubelet would; without a sidecar what goes on there is unknown, and so protected.

mod foreign;

use std::{process::Command, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret, Service},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::api::{Agent, AgentState, AgentTemplate};
use serde_json::{Value, json};

use crate::common::{
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    wait::eventually,
};

/// One namespace with a controller.
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) release: Release,
    pub(crate) controller: Controller,
}

impl Place {
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(control_plane(), name).await
    }

    /// The same on a cluster of the test's own.
    pub(crate) async fn on(cluster: &Cluster, name: &str) -> Self {
        let namespace = cluster.namespace(name).await;
        let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let controller = release.start(&[]);
        Self { client: cluster.client().await, namespace, release, controller }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates or changes an Agent of this spec; images are given unless the spec has them.
    pub(crate) async fn agent(&self, name: &str, spec: Value) -> Agent {
        let mut full = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let body = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": name}, "spec": full,
        });
        self.api::<Agent>().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap()
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn merge<K>(&self, name: &str, patch: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    /// Runs the program in this namespace as the administrator of the shared cluster: exit code, stdout and stderr.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .env("KUBECONFIG", &control_plane().ready.kubeconfig)
            .args(arguments)
            .args(["-n", &self.namespace, "--log", "warn"])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }

    /// The Agent once `check` holds of it and its status is about its present spec.
    pub(crate) async fn agent_where(&self, what: &str, name: &str, check: impl Fn(&Agent) -> bool) -> Agent {
        eventually(what, 30, || async {
            let agent = self.api::<Agent>().get(name).await.unwrap();
            let fresh = agent.status.as_ref()?.observed_generation == agent.metadata.generation;
            (fresh && check(&agent)).then_some(agent)
        })
        .await
    }

    pub(crate) async fn deployment_where(
        &self,
        what: &str,
        name: &str,
        check: impl Fn(&Deployment) -> bool,
    ) -> Deployment {
        eventually(what, 30, || async { self.api::<Deployment>().get_opt(name).await.unwrap().filter(|d| check(d)) })
            .await
    }

    pub(crate) async fn events(&self, reason: &str) -> Vec<Event> {
        let list = self.api::<Event>().list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).collect()
    }

    /// Says in a pod's status that its server runs, as a kubelet would.
    pub(crate) async fn let_run(&self, agent: &str) -> Pod {
        self.let_run_where(agent, |_| true).await
    }

    /// The same for a pod of this kind, once there is one.
    pub(crate) async fn let_run_where(&self, agent: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let pods = self.api::<Pod>();
        let list = ListParams::default().labels(&format!("pilothouse.dev/agent={agent}"));
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "opencode-server", "image": "devbox:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"running": {"startedAt": Timestamp::now().to_string()}},
        }]}});
        let patch = Patch::Merge(status);
        eventually("a pod", 30, || async {
            let pod = pods.list(&list).await.unwrap().items.into_iter().find(&wanted)?;
            // The Deployment may just have replaced it.
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.ok()
        })
        .await
    }

    /// What the controller writes while `seconds` go by.
    pub(crate) async fn writes_during(&self, seconds: u64) -> Vec<String> {
        let audit = control_plane().audit().later();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let writes = audit.writes(&self.release.user());
        // A holder of a Lease renews it.
        writes.iter().filter(|w| !w.uri.contains("/leases/")).map(|w| format!("{} {}", w.verb, w.uri)).collect()
    }
}

/// No status of an Agent of one namespace can be written while this is there.
struct Refusal {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    name: String,
}

impl Refusal {
    async fn lift(self) {
        self.bindings.delete(&self.name, &DeleteParams::default()).await.unwrap();
        self.policies.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

impl Place {
    /// Lets the API server refuse them, and waits until it does.
    async fn refuse_statuses(&self) -> Refusal {
        let name = format!("no-statuses-{}", self.namespace);
        let refusal =
            Refusal { policies: Api::all(self.client.clone()), bindings: Api::all(self.client.clone()), name };
        let policy = json!({"metadata": {"name": refusal.name}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "resourceRules": [{"apiGroups": ["pilothouse.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["agents/status"]}],
            },
            "validations": [{"expression": "false", "message": "not now"}],
        }});
        let binding = json!({"metadata": {"name": refusal.name},
            "spec": {"policyName": refusal.name, "validationActions": ["Deny"]}});
        let post = PostParams::default();
        refusal.policies.create(&post, &serde_json::from_value(policy).unwrap()).await.unwrap();
        refusal.bindings.create(&post, &serde_json::from_value(binding).unwrap()).await.unwrap();
        // The API server takes a new policy up after a moment.
        self.agent("probe", json!({})).await;
        eventually("statuses are refused", 60, || async {
            let patch = Patch::Merge(json!({"status": {"tasks": Timestamp::now().to_string()}}));
            let answer = self.api::<Agent>().patch_status("probe", &PatchParams::default(), &patch).await;
            answer.err().filter(|e| e.to_string().contains("not now"))
        })
        .await;
        self.api::<Agent>().delete("probe", &DeleteParams::default()).await.unwrap();
        refusal
    }
}

pub(crate) fn condition<'a>(agent: &'a Agent, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let list = &agent.status.as_ref()?.conditions;
    let c = list.iter().find(|c| c.type_ == kind)?;
    Some((&c.status, &c.reason, &c.message))
}

pub(crate) fn state(agent: &Agent) -> Option<AgentState> {
    agent.status.as_ref()?.state
}

pub(crate) fn annotation<'a>(deployment: &'a Deployment, key: &str) -> Option<&'a str> {
    deployment.annotations().get(&format!("pilothouse.dev/{key}")).map(String::as_str)
}

pub(crate) fn image(deployment: &Deployment) -> String {
    deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

#[tokio::test]
async fn an_agent_gets_its_objects_and_loses_them() {
    let place = Place::new("agents").await;
    place.create::<ConfigMap>(json!({"metadata": {"name": "books"}, "data": {"a": "one", "b": "two"}})).await;
    place.create::<Secret>(json!({"metadata": {"name": "keys"}, "stringData": {"token": "t0p", "other": "x"}})).await;
    place
        .agent(
            "coder",
            json!({
                "config": {"model": "p/m"},
                "extraPorts": [{"name": "preview", "port": 3000}],
                "serviceAccountName": "default",
                "imagePullSecrets": [{"name": "registry"}],
                "contexts": [
                    {"name": "rules", "type": "Text", "text": "Be kind."},
                    {"name": "all", "type": "ConfigMap", "configMap": {"name": "books"}},
                    {"name": "guide", "type": "Text", "text": "# Guide", "mountPath": "docs/guide.md"},
                    {"name": "dir", "type": "ConfigMap", "configMap": {"name": "books"}, "mountPath": "/opt/books"},
                ],
                "credentials": [
                    {"name": "one", "secretRef": {"name": "keys", "key": "token"}, "env": "TOKEN"},
                    {"name": "all", "secretRef": {"name": "keys"}},
                    {"name": "file", "secretRef": {"name": "keys", "key": "token"}, "mountPath": "/opt/token"},
                    {"name": "dir", "secretRef": {"name": "keys"}, "mountPath": "/opt/keys"},
                ],
                "podSpec": {
                    "resources": {"requests": {"memory": "1024Mi", "cpu": "0.5"}},
                    "extraEnv": [{"name": "EMPTY", "value": ""}, {"name": "TZ", "value": "UTC"}],
                    "extraVolumes": [{"name": "cache", "emptyDir": {}}],
                    "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                },
            }),
        )
        .await;
    let agent = place.agent_where("a status", "coder", |a| condition(a, "ServerReady").is_some()).await;
    let status = agent.status.clone().unwrap();
    assert_eq!(
        (status.deployment_name.as_deref(), status.service_name.as_deref(), status.tasks.as_deref()),
        (Some("coder-server"), Some("coder"), Some("0/0"))
    );
    assert_eq!(
        status.url.as_deref(),
        Some(format!("http://coder.{}.svc.cluster.local:4096", place.namespace).as_str())
    );
    assert_eq!((status.state, status.ready), (Some(AgentState::NotReady), Some(false)));
    // There is no node; the scheduler may have said so already.
    let reason = condition(&agent, "Ready").unwrap().1;
    assert!(matches!(reason, "Progressing" | "PodNotStarting"), "{reason}");

    let deployment = place.deployment_where("a Deployment", "coder-server", |_| true).await;
    let service = place.api::<Service>().get("coder").await.unwrap();
    let secret = place.api::<Secret>().get("coder-server-auth").await.unwrap();
    let context = place.api::<ConfigMap>().get("coder-server-context").await.unwrap();
    for owners in [deployment.owner_references(), service.owner_references(), secret.owner_references()] {
        assert_eq!((owners.len(), &owners[0].uid, owners[0].controller), (1, &agent.uid().unwrap(), Some(true)));
    }
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
    assert_eq!(secret.data.unwrap()["password"].0.len(), 43);
    let text = &context.data.unwrap()["context.md"];
    assert!(text.contains("Be kind.") && text.contains("<file name=\"a\">\none\n</file>"), "{text}");
    let json = serde_json::to_string(&deployment).unwrap();
    assert!(!json.contains("t0p") && !json.contains("dDBw"), "no secret in the Deployment");
    eventually("events", 30, || async {
        let both = [place.events("DeploymentCreated").await, place.events("ServiceCreated").await];
        both.iter().all(|list| list.len() == 1).then_some(())
    })
    .await;

    // A change of something that no object depends on, and a restart, write nothing but the status.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet = place.writes_during(3).await;
    assert_eq!(quiet, Vec::<String>::new());
    place.merge::<Agent>("coder", json!({"metadata": {"annotations": {"else": "1"}}})).await;
    assert_eq!(place.writes_during(2).await, Vec::<String>::new());

    let pods = place.api::<Pod>();
    let list = ListParams::default().labels("pilothouse.dev/agent=coder");
    eventually("the pod is accepted", 20, || async {
        (!pods.list(&list).await.unwrap().items.is_empty()).then_some(())
    })
    .await;
    place.api::<Agent>().delete("coder", &DeleteParams::default()).await.unwrap();
    eventually("everything is gone", 60, || async {
        let gone = place.api::<Deployment>().get_opt("coder-server").await.unwrap().is_none()
            && place.api::<Service>().get_opt("coder").await.unwrap().is_none()
            && place.api::<Secret>().get_opt("coder-server-auth").await.unwrap().is_none();
        let maps = place.api::<ConfigMap>().list(&list).await.unwrap();
        (gone && maps.items.is_empty()).then_some(())
    })
    .await;
    drop(place.controller);
}

#[tokio::test]
async fn what_is_missing_is_waited_for_and_taken_up() {
    let place = Place::new("missing").await;
    let spec = json!({
        "templateRef": {"name": "base"}, "agentImage": "", "executorImage": "",
        "contexts": [{"name": "c", "type": "ConfigMap", "configMap": {"name": "late", "key": "k"}, "mountPath": "c"}],
        "credentials": [{"name": "s", "secretRef": {"name": "late", "key": "k"}, "env": "K"}],
    });
    place.agent("a", spec).await;
    let reason = |reason: &'static str| move |a: &Agent| condition(a, "Ready").is_some_and(|c| c.1 == reason);
    let agent = place.agent_where("the template is missed", "a", reason("TemplateNotFound")).await;
    assert_eq!(condition(&agent, "Reconciling").unwrap().0, "True");
    assert!(condition(&agent, "Stalled").is_none());

    place
        .create::<AgentTemplate>(json!({
            "metadata": {"name": "base"},
            "spec": {"workspaceDir": "/w", "serviceAccountName": "default", "agentImage": "t:1", "executorImage": "t:1"},
        }))
        .await;
    place.agent_where("the ConfigMap is missed", "a", reason("ConfigMapNotFound")).await;
    place.create::<ConfigMap>(json!({"metadata": {"name": "late"}, "data": {"other": "v"}})).await;
    let agent =
        place.agent_where("its key is missed", "a", |a| condition(a, "Ready").unwrap().2.contains("\"k\"")).await;
    assert_eq!(condition(&agent, "Ready").unwrap().1, "ConfigMapNotFound");
    place.merge::<ConfigMap>("late", json!({"data": {"k": "v"}})).await;
    place.agent_where("the Secret is missed", "a", reason("SecretNotFound")).await;
    place.create::<Secret>(json!({"metadata": {"name": "late"}, "stringData": {"k": "one"}})).await;
    let first = place.deployment_where("a Deployment", "a-server", |d| image(d) == "t:1").await;

    // Every one of them reaches the agent when it changes.
    place.merge::<AgentTemplate>("base", json!({"spec": {"executorImage": "t:2"}})).await;
    place.deployment_where("the template's image", "a-server", |d| image(d) == "t:2").await;
    let template = |d: &Deployment| serde_json::to_string(&d.spec.as_ref().unwrap().template).unwrap();
    let before = template(&place.api::<Deployment>().get("a-server").await.unwrap());
    place.merge::<Secret>("late", json!({"stringData": {"k": "two"}})).await;
    let changed = place.deployment_where("the Secret's change", "a-server", |d| template(d) != before).await;
    assert!(!template(&changed).contains("two"));
    place.merge::<ConfigMap>("late", json!({"data": {"k": "w"}})).await;
    place.deployment_where("the ConfigMap's change", "a-server", |d| template(d) != template(&changed)).await;
    place.merge::<AgentTemplate>("base", json!({"spec": {"executorImage": "t:3"}})).await;
    place.deployment_where("the template's image again", "a-server", |d| image(d) == "t:3").await;
    assert_eq!(first.uid(), place.api::<Deployment>().get("a-server").await.unwrap().uid());

    // The last two ConfigMaps of files stay, and those that a pod holds on to.
    place.merge::<ConfigMap>("late", json!({"data": {"k": "x"}})).await;
    eventually("two ConfigMaps of files", 30, || async {
        let maps = place.api::<ConfigMap>().list(&ListParams::default()).await.unwrap().items;
        let files: Vec<_> =
            maps.iter().map(ResourceExt::name_any).filter(|n| n.starts_with("a-server-files-")).collect();
        let content = maps.iter().any(|m| m.data.iter().flatten().any(|(_, v)| v == "x") && m.name_any() != "late");
        let pods = place.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        let held = |name: &String| serde_json::to_string(&pods).unwrap().contains(name.as_str());
        let others = files.iter().filter(|name| !held(name)).count();
        (files.len() >= 2 && others <= 2 && content).then_some(())
    })
    .await;

    // The Agent says which template it is made from, as long as it is.
    let label = |a: &Agent| a.labels().get("pilothouse.dev/agent-template").cloned();
    let agent = place.agent_where("the label", "a", |a| label(a).as_deref() == Some("base")).await;
    assert_eq!(agent.spec.template_ref.map(|t| t.name).as_deref(), Some("base"));
    place.agent("a", json!({})).await;
    place.agent_where("no label without a template", "a", |a| label(a).is_none()).await;

    // Another time that pods have to end waits for another cause.
    let grace =
        |d: &Deployment| d.spec.as_ref().unwrap().template.spec.as_ref().unwrap().termination_grace_period_seconds;
    let before = place.deployment_where("the Agent's own image", "a-server", |d| image(d) == "devbox:1").await;
    assert_eq!(grace(&before), Some(3600));
    place.agent("a", json!({"rollout": {"timeout": "5m"}})).await;
    place.agent_where("the timeout is seen", "a", |a| a.spec.rollout.is_some()).await;
    let kept = place.api::<Deployment>().get("a-server").await.unwrap();
    assert_eq!((kept.metadata.generation, grace(&kept)), (before.metadata.generation, Some(3600)));
    place.agent("a", json!({"rollout": {"timeout": "5m"}, "executorImage": "devbox:2"})).await;
    let next = place.deployment_where("the next image", "a-server", |d| image(d) == "devbox:2").await;
    assert_eq!(grace(&next), Some(300));
}

#[tokio::test]
async fn what_is_not_ours_or_not_supported_is_left_alone() {
    let place = Place::new("conflict").await;
    let foreign = place
        .create::<Service>(
            json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        )
        .await;
    place.agent("web", json!({})).await;
    let agent =
        place.agent_where("a conflict", "web", |a| condition(a, "Ready").is_some_and(|c| c.1 == "NameConflict")).await;
    assert!(condition(&agent, "Ready").unwrap().2.contains("Service \"web\""), "{:?}", condition(&agent, "Ready"));
    assert_eq!(place.api::<Service>().get("web").await.unwrap().resource_version(), foreign.resource_version());
    assert!(place.api::<Deployment>().get_opt("web-server").await.unwrap().is_none());

    place.agent("new", json!({"persistence": {"sessions": {}}, "plugins": [{"name": "p"}]})).await;
    let agent = place.agent_where("a refusal", "new", |a| condition(a, "Stalled").is_some()).await;
    let (_, reason, message) = condition(&agent, "Stalled").unwrap();
    assert_eq!((reason, state(&agent)), ("NotYetSupported", Some(AgentState::Stalled)));
    assert!(message.contains("spec.persistence") && message.contains("spec.plugins"), "{message}");
    assert!(place.api::<Deployment>().get_opt("new-server").await.unwrap().is_none());
    assert!(place.api::<Secret>().get_opt("new-server-auth").await.unwrap().is_none());

    // A template that asks for one is refused, and so is whoever is made from it; nothing is made without it.
    let template = json!({"metadata": {"name": "later"}, "spec": {"workspaceDir": "/w", "serviceAccountName": "default",
        "agentImage": "t:1", "executorImage": "t:1", "plugins": [{"name": "p"}]}});
    place.create::<AgentTemplate>(template).await;
    place.agent("made", json!({"templateRef": {"name": "later"}})).await;
    let refused = eventually("the template is judged", 30, || async {
        let status = place.api::<AgentTemplate>().get("later").await.unwrap().status?;
        status.conditions.into_iter().find(|c| c.type_ == "Ready")
    })
    .await;
    let agent = place.agent_where("it is judged", "made", |a| condition(a, "Ready").is_some()).await;
    let (_, reason, message) = condition(&agent, "Ready").unwrap();
    assert_eq!([refused.reason.as_str(), reason], ["NotYetSupported"; 2]);
    assert!(refused.message.contains("does not support spec.plugins;"), "{}", refused.message);
    assert!(message.starts_with("AgentTemplate later: ") && message.contains("spec.plugins"), "{message}");
    assert_eq!(condition(&agent, "Stalled").map(|c| c.0), Some("True"));
    assert!(place.api::<Deployment>().get_opt("made-server").await.unwrap().is_none());
    place.merge::<AgentTemplate>("later", json!({"spec": {"plugins": null}})).await;
    place.deployment_where("the template is whole", "made-server", |_| true).await;

    // A field that comes later changes nothing of what runs.
    place.agent("old", json!({})).await;
    let before = place.deployment_where("a Deployment", "old-server", |_| true).await;
    place.agent("old", json!({"executorImage": "devbox:2", "standby": {"idleTimeout": "5m"}})).await;
    place.agent_where("a refusal", "old", |a| condition(a, "Stalled").is_some()).await;
    assert_eq!(image(&place.api::<Deployment>().get("old-server").await.unwrap()), image(&before));
    place.agent("bad", json!({"config": "{\"model\": }"})).await;
    let agent = place.agent_where("a bad config", "bad", |a| condition(a, "Stalled").is_some()).await;
    assert_eq!(condition(&agent, "Stalled").unwrap().1, "InvalidConfig");
    assert!(condition(&agent, "Stalled").unwrap().2.ends_with("line 1 column 11"));
}

/// The first write is a creation, whose fields no apply can take away as long as they are a creation's.
#[tokio::test]
async fn what_is_wanted_no_more_goes_from_what_was_created() {
    let place = Place::new("created").await;
    let audit = control_plane().audit().later();
    let ports = json!({"extraPorts": [{"name": "preview", "port": 3000}], "podSpec": {"labels": {"team": "x"}}});
    place.agent("first", ports).await;
    let made = place.deployment_where("a Deployment", "first-server", |_| true).await;
    assert_eq!(made.labels().get("team").map(String::as_str), Some("x"));
    eventually("a Service", 30, || async { place.api::<Service>().get_opt("first").await.unwrap() }).await;
    place.agent_where("a status", "first", |a| condition(a, "ServerReady").is_some()).await;
    let objects = ["secrets", "configmaps", "deployments", "services"];
    let writes: Vec<_> =
        audit.writes(&place.release.user()).into_iter().map(|w| (w.verb.clone(), w.object())).collect();
    for (kind, count) in objects.into_iter().zip([1, 2, 1, 1]) {
        let own = |o: &str| o.contains(&format!("/{kind}/first"));
        let of: Vec<_> = writes.iter().filter(|(_, o)| own(o)).collect();
        assert!(of.len() == count && of.iter().all(|(verb, _)| verb == "create"), "{kind}: {of:?}");
    }

    place.agent("first", json!({})).await;
    let changed = place.deployment_where("no label", "first-server", |d| !d.labels().contains_key("team")).await;
    let fields = changed.metadata.managed_fields.clone().unwrap_or_default();
    let ours = fields.into_iter().filter(|f| f.manager.as_deref() == Some("pilothouse-agent"));
    let operations: Vec<_> = ours.filter_map(|f| f.operation).collect();
    assert_eq!(operations, ["Apply"], "what is not wanted any more could not be taken away");
    let pod = changed.spec.unwrap().template.spec.unwrap();
    assert!(pod.containers[0].ports.iter().flatten().all(|p| p.container_port != 3000));
    eventually("one port", 30, || async {
        let service = place.api::<Service>().get("first").await.unwrap();
        (service.spec?.ports?.len() == 1).then_some(())
    })
    .await;
    place.agent("first", json!({"executorImage": "devbox:2"})).await;
    place.deployment_where("a second change", "first-server", |d| image(d) == "devbox:2").await;
}

#[tokio::test]
async fn config_maps_of_somebody_else_are_neither_used_nor_written() {
    let place = Place::new("foreign-maps").await;
    place.agent("first", json!({})).await;
    let made = place.deployment_where("a Deployment", "first-server", |_| true).await;
    let volumes = made.spec.unwrap().template.spec.unwrap().volumes.unwrap_or_default();
    let files = volumes
        .iter()
        .find_map(|v| v.config_map.as_ref().map(|m| m.name.clone()).filter(|n| n.starts_with("first-server-files-")));
    // The name is made of the content, so the same spec of another Agent asks for the same suffix.
    let files = files.unwrap().replace("first-server", "second-server");
    for name in [files.as_str(), "third-server-context"] {
        place.create::<ConfigMap>(json!({"metadata": {"name": name}, "data": {"mine": "x"}})).await;
    }
    for (agent, map) in [("second", files.as_str()), ("third", "third-server-context")] {
        place.agent(agent, json!({})).await;
        let conflict = |a: &Agent| condition(a, "Ready").is_some_and(|c| c.1 == "NameConflict" && c.2.contains(map));
        place.agent_where("a conflict", agent, conflict).await;
        let left = place.api::<ConfigMap>().get(map).await.unwrap();
        assert_eq!(left.data.unwrap(), [("mine".to_string(), "x".to_string())].into(), "{map}");
        assert!(place.api::<Deployment>().get_opt(&format!("{agent}-server")).await.unwrap().is_none());
    }
    // Whoever replaces the authority's certificate does not keep it.
    let data = json!({"data": {"ca.crt": "another"}});
    place.merge::<ConfigMap>("pilothouse-authority", data).await;
    eventually("the authority", 30, || async {
        let map = place.api::<ConfigMap>().get("pilothouse-authority").await.unwrap();
        map.data.unwrap()["ca.crt"].starts_with("-----BEGIN").then_some(())
    })
    .await;
}

/// What an agent refers to is held in memory: nine times a MiB is not read, whatever of it is meant.
#[tokio::test]
async fn an_agent_does_not_make_the_controller_hold_ever_more() {
    let place = Place::new("many-maps").await;
    let large = "x".repeat(1_000_000);
    let names: Vec<String> = (0..9).map(|n| format!("m{n}")).collect();
    for name in &names {
        place.create::<ConfigMap>(json!({"metadata": {"name": name}, "data": {"large": large, "small": "y"}})).await;
    }
    let of = |names: &[String]| {
        let context =
            |name: &String| json!({"name": name, "type": "ConfigMap", "configMap": {"name": name, "key": "small"}});
        json!({ "contexts": names.iter().map(context).collect::<Vec<_>>() })
    };
    place.agent("fits", of(&names[..8])).await;
    place.deployment_where("a Deployment", "fits-server", |_| true).await;
    place.agent("greedy", of(&names)).await;
    let stalled = |agent: &Agent| {
        let conditions = &agent.status.as_ref().unwrap().conditions;
        conditions.iter().any(|c| c.reason == "ContextTooLarge" && c.message.contains("more than 8 MiB together"))
    };
    place.agent_where("it is refused", "greedy", stalled).await;
}

#[tokio::test]
async fn an_unknown_server_is_protected_and_the_clock_survives_a_crash() {
    let mut place = Place::new("gate").await;
    place.agent("a", json!({})).await;
    let first = place.deployment_where("a Deployment", "a-server", |_| true).await;
    // Nothing runs yet: a change goes out at once.
    place.agent("a", json!({"executorImage": "devbox:2"})).await;
    let second = place.deployment_where("the second image", "a-server", |d| image(d) == "devbox:2").await;
    eventually("one pod", 30, || async {
        let pods = place.api::<Pod>().list(&ListParams::default()).await.unwrap();
        (pods.items.len() <= 2 && !pods.items.is_empty()).then_some(())
    })
    .await;
    place.let_run("a").await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    place.agent("a", json!({"executorImage": "devbox:3", "config": {"model": "p/m"}})).await;
    let waits = place.deployment_where("it waits", "a-server", |d| annotation(d, "pending-hash").is_some()).await;
    assert_eq!((image(&waits).as_str(), annotation(&waits, "pending-causes")), ("devbox:2", Some("config,image")));
    let second = second.spec.as_ref().unwrap();
    assert_eq!(waits.spec.as_ref().unwrap().template, second.template, "only annotations change");
    let agent = place.agent_where("the condition", "a", |a| condition(a, "RolloutPending").is_some()).await;
    let (status, reason, message) = condition(&agent, "RolloutPending").unwrap();
    assert_eq!((status, reason), ("True", "WaitingForTasks"));
    assert!(message.contains("changed: config, image") && message.contains("until 20"), "{message}");
    let rollout = agent.status.as_ref().unwrap().rollout.clone().unwrap();
    assert_eq!(rollout.causes, ["config", "image"]);
    assert_eq!(rollout.pending.as_deref(), annotation(&waits, "pending-hash"));

    // A crash: the next controller goes on with the same clock, and a moved target keeps it.
    place.controller.kill();
    place.controller = place.release.start(&[]);
    place.agent("a", json!({"executorImage": "devbox:4"})).await;
    let moved = place
        .deployment_where("the target moved", "a-server", |d| {
            annotation(d, "pending-hash") != annotation(&waits, "pending-hash")
        })
        .await;
    assert_eq!(annotation(&moved, "pending-since"), annotation(&waits, "pending-since"));
    assert_eq!((image(&moved).as_str(), annotation(&moved, "pending-causes")), ("devbox:2", Some("image")));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(place.writes_during(2).await, Vec::<String>::new(), "waiting writes nothing");

    // Back to what runs: nothing waits any more, and no pod was replaced.
    place.agent("a", json!({"executorImage": "devbox:2"})).await;
    let back = place.deployment_where("nothing waits", "a-server", |d| annotation(d, "pending-hash").is_none()).await;
    assert_eq!(back.spec.as_ref().unwrap().template, waits.spec.as_ref().unwrap().template);
    place
        .agent_where("the condition is over", "a", |a| condition(a, "RolloutPending").is_some_and(|c| c.0 == "False"))
        .await;

    // The end of the protection forces it.
    place.agent("a", json!({"executorImage": "devbox:5", "rollout": {"timeout": "2s"}})).await;
    place.deployment_where("it waits again", "a-server", |d| annotation(d, "pending-hash").is_some()).await;
    let forced = place.deployment_where("it is forced", "a-server", |d| image(d) == "devbox:5").await;
    assert!(annotation(&forced, "pending-hash").is_none());
    eventually("an event", 10, || async { (!place.events("RolloutForced").await.is_empty()).then_some(()) }).await;
    assert_eq!(first.uid(), forced.uid());
}

#[tokio::test]
async fn suspension_waits_in_the_gate_and_text_is_live() {
    let place = Place::new("suspend").await;
    let text = |text: &str| json!([{"name": "rules", "type": "Text", "text": text}]);
    place.agent("a", json!({"contexts": text("one"), "rollout": {"live": "Immediately"}})).await;
    let before = place.deployment_where("a Deployment", "a-server", |_| true).await;
    let pod = place.let_run("a").await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    // Text arrives without a new pod, and the pod is touched.
    place.agent("a", json!({"contexts": text("two"), "rollout": {"live": "Immediately"}})).await;
    eventually("the text", 20, || async {
        let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
        let touched = place.api::<Pod>().get(&pod.name_any()).await.unwrap();
        let mark = touched.annotations().get("pilothouse.dev/context-version").cloned();
        (map.data.as_ref().unwrap()["context.md"].contains("two") && mark == map.resource_version()).then_some(())
    })
    .await;
    let after = place.api::<Deployment>().get("a-server").await.unwrap();
    assert_eq!(after.spec.as_ref().unwrap().template, before.spec.as_ref().unwrap().template);

    // WhenIdle waits for a server that may be busy.
    place.agent("a", json!({"contexts": text("three")})).await;
    eventually("the text waits", 20, || async {
        let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
        map.annotations().get("pilothouse.dev/pending-causes").filter(|c| *c == "text/rules").map(|_| ())
    })
    .await;
    let agent = place.agent_where("the condition", "a", |a| condition(a, "TextPending").is_some()).await;
    let (status, reason, message) = condition(&agent, "TextPending").unwrap();
    assert_eq!((status, reason), ("True", "WaitingForIdle"));
    assert!(message.starts_with("the text of rules waits for sessions that cannot be asked"), "{message}");
    assert!(message.contains("without a new pod") && message.contains("until 20"), "{message}");
    assert!(condition(&agent, "RolloutPending").is_none(), "no pod is replaced");
    let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
    assert!(map.data.unwrap()["context.md"].contains("two"));

    // So does a suspension; without protection it comes at once, and with it the text.
    place.agent("a", json!({"contexts": text("three"), "suspend": true})).await;
    let waits = place
        .deployment_where("the suspension waits", "a-server", |d| annotation(d, "pending-causes") == Some("suspend"))
        .await;
    assert_eq!(waits.spec.as_ref().unwrap().replicas, Some(1));
    place.agent("a", json!({"contexts": text("three"), "suspend": true, "rollout": {"protect": "None"}})).await;
    place.deployment_where("no pods", "a-server", |d| d.spec.as_ref().unwrap().replicas == Some(0)).await;
    let agent = place.agent_where("suspended", "a", |a| state(a) == Some(AgentState::Suspended)).await;
    assert_eq!(condition(&agent, "Suspended").unwrap().1, "UserRequested");
    assert_eq!((condition(&agent, "Ready").unwrap().0, condition(&agent, "Ready").unwrap().1), ("True", "Suspended"));
    eventually("the text arrived", 20, || async {
        let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
        map.data.unwrap()["context.md"].contains("three").then_some(())
    })
    .await;
    place.agent_where("nothing waits", "a", |a| condition(a, "TextPending").is_some_and(|c| c.0 == "False")).await;

    // The override wins over the spec.
    place.merge::<Agent>("a", json!({"metadata": {"annotations": {"pilothouse.dev/suspend-override": "false"}}})).await;
    place.deployment_where("a pod again", "a-server", |d| d.spec.as_ref().unwrap().replicas == Some(1)).await;
    let agent = place.agent_where("resumed", "a", |a| condition(a, "Suspended").is_some_and(|c| c.0 == "False")).await;
    assert_eq!(condition(&agent, "Suspended").unwrap().1, "Active");
    eventually("events", 30, || async {
        let both = [place.events("UserSuspended").await, place.events("Resumed").await];
        both.iter().all(|list| !list.is_empty()).then_some(())
    })
    .await;
}

/// What was done is told although the status cannot be written: nothing that is done is done again, to be told then.
#[tokio::test]
async fn what_was_done_is_told_even_if_the_status_cannot_be_written() {
    let place = Place::new("told").await;
    let refusal = place.refuse_statuses().await;
    place.agent("a", json!({})).await;
    eventually("a Service", 30, || async { place.api::<Service>().get_opt("a").await.unwrap() }).await;
    let mut seen = vec![];
    for reason in ["DeploymentCreated", "ServiceCreated"] {
        eventually(reason, 30, || async { place.events(reason).await.iter().any(about_a).then_some(()) }).await;
        seen.extend(place.events(reason).await.into_iter().filter(about_a));
    }
    assert_eq!(seen.len(), 2, "each is told once: {seen:#?}");
    assert!(place.api::<Agent>().get("a").await.unwrap().status.is_none(), "the status was refused all the time");
    refusal.lift().await;
    // It is tried again after a pause that has grown; who does not want to wait asks.
    place.merge::<Agent>("a", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "now"}}})).await;
    place.agent_where("a status", "a", |a| condition(a, "ServerReady").is_some()).await;
}

fn about_a(event: &Event) -> bool {
    event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("a")
}

/// The answer to a rollout's write gets lost, and the API server carries the write out when everybody works again: never.
#[tokio::test]
async fn a_write_without_an_answer_does_not_land_later() {
    let cluster = control_plane();
    let namespace = cluster.namespace("late").await;
    let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let between = release.between().await;
    let controller = release.start(&[]);
    let place = Place { client: cluster.client().await, namespace, release, controller };
    place.agent("a", json!({})).await;
    place.deployment_where("a Deployment", "a-server", |_| true).await;
    place.agent("a", json!({"executorImage": "devbox:2"})).await;
    place.deployment_where("the second image", "a-server", |d| image(d) == "devbox:2").await;
    place.agent_where("at rest", "a", |a| state(a) == Some(AgentState::NotReady)).await;

    // The status is written after Tasks may start again.
    between.lose("/deployments/a-server", "/agents/a/status");
    place.agent("a", json!({"executorImage": "devbox:3"})).await;
    let late = eventually("the write comes late", 60, || async { between.late() }).await;
    assert_eq!(late.as_u16(), 409, "it names a version that is gone");

    // It is decided again, and nothing is left of it.
    let done = place
        .deployment_where("the third image", "a-server", |d| {
            image(d) == "devbox:3" && annotation(d, "write-fence").is_none()
        })
        .await;
    assert!(annotation(&done, "pending-hash").is_none());
}
