//! Deployment, Service, `ConfigMaps` and the Secret around the pod.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde_json::{Value, json};

use super::{Plan, containers, git, layout, own_labels};
use crate::{
    agent::{beside, hash, verify},
    api::{
        API_VERSION, Agent,
        names::{self, annotation, label},
        rollout::Strategy,
    },
    object::Object,
};

/// How long the pods of a new revision may take to get ready, unless the spec says.
const PROGRESS_DEADLINE: Duration = Duration::from_mins(10);

/// The controller reference to an Agent: its objects go with it.
pub fn owner(agent: &Agent) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.into(),
        kind: "Agent".into(),
        name: agent.metadata.name.clone().unwrap_or_default(),
        uid: agent.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn metadata(agent: &Agent, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: agent.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner(agent)]),
        ..ObjectMeta::default()
    }
}

fn object(api_version: &str, kind: &str, typed: &impl serde::Serialize) -> Object {
    let mut value = super::json(typed);
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
        // An optional status is written as an empty mapping by some types.
        map.remove("status");
    }
    into_object(value)
}

fn into_object(value: Value) -> Object {
    // Every caller has set apiVersion, kind and a name.
    Object::new(value).unwrap_or_else(|_| unreachable!("generated objects have an identity"))
}

/// Pods of Tasks carry the agent's label too, so the component is part of it.
fn selector(agent: &str) -> BTreeMap<String, String> {
    [(label::AGENT, agent), (label::COMPONENT, names::value::SERVER)].map(|(k, v)| (k.into(), v.into())).into()
}

pub(super) fn deployment(plan: &Plan<'_>, template: &Value) -> Object {
    let mut metadata = metadata(plan.inputs.agent, names::agent::deployment(plan.name), super::labels(plan));
    metadata.annotations = plan.inputs.upgraded.map(|mark| [(annotation::UPGRADE.into(), mark.into())].into());
    into_object(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": i32::from(!plan.inputs.suspended),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": progress_deadline(plan),
            "selector": { "matchLabels": selector(plan.name) },
            "strategy": strategy(plan),
            "template": template,
        },
    }))
}

/// The new pod is ready before the old one goes, but where both would write one claim: two servers would write the same files,
/// and on two nodes the new one would wait for a volume that the old one has.
fn strategy(plan: &Plan<'_>) -> Value {
    let spec = plan.inputs.spec;
    let given = spec.rollout.as_ref().and_then(|rollout| rollout.strategy);
    if given != Some(Strategy::RollingUpdate) && beside::written_claim(spec).is_some() {
        return json!({ "type": "Recreate" });
    }
    json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
}

/// Seconds; the API server takes 32 bits.
fn progress_deadline(plan: &Plan<'_>) -> i32 {
    let given = plan.inputs.spec.rollout.as_ref().and_then(|r| r.progress_deadline.as_ref());
    let deadline = given.map_or(PROGRESS_DEADLINE, |given| given.or(PROGRESS_DEADLINE));
    // A pod is not ready before it is verified.
    let verified = verify::wanted(plan.inputs.spec).map(|v| verify::timeout(v).or(Duration::ZERO)).unwrap_or_default();
    i32::try_from(deadline.saturating_add(verified).as_secs().max(1)).unwrap_or(i32::MAX)
}

pub(super) fn service(plan: &Plan<'_>) -> Object {
    let port = |name: &str, port: i32, protocol: &str, target: IntOrString| ServicePort {
        name: Some(name.into()),
        port,
        protocol: Some(protocol.into()),
        target_port: Some(target),
        ..ServicePort::default()
    };
    let spec = plan.inputs.spec;
    let mut ports = vec![port("http", spec.port, "TCP", IntOrString::String(layout::DOOR_NAME.into()))];
    ports.extend(
        spec.extra_ports
            .iter()
            .flatten()
            .map(|p| port(&p.name, p.port, containers::protocol(p.protocol), IntOrString::Int(p.port))),
    );
    let service = Service {
        metadata: metadata(
            plan.inputs.agent,
            names::agent::service(plan.name),
            own_labels(plan.name).into_iter().collect(),
        ),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(selector(plan.name)),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    object("v1", "Service", &service)
}

pub(super) fn context(plan: &Plan<'_>) -> Object {
    let text = &plan.content.text;
    let mut metadata =
        metadata(plan.inputs.agent, names::agent::context(plan.name), own_labels(plan.name).into_iter().collect());
    metadata.annotations = Some(BTreeMap::from([(annotation::CONTEXT_HASH.to_string(), hash::text(text))]));
    let data = Some(BTreeMap::from([(layout::CONTEXT_KEY.to_string(), text.clone())]));
    object("v1", "ConfigMap", &ConfigMap { metadata, data, ..ConfigMap::default() })
}

/// What is exchanged in the running pod.
pub(super) fn exchange(plan: &Plan<'_>) -> Object {
    let manifest = &plan.git.hot;
    let labels = own_labels(plan.name).into_iter().collect();
    let mut metadata = metadata(plan.inputs.agent, names::agent::content(plan.name), labels);
    metadata.annotations = Some(BTreeMap::from([
        (annotation::ARTIFACTS.to_string(), git::digests(manifest)),
        (annotation::CONTENT_HASH.to_string(), manifest.hash()),
    ]));
    let text = serde_json::to_string(manifest).unwrap_or_default();
    let data = Some(BTreeMap::from([(layout::CONTENT_KEY.to_string(), text)]));
    object("v1", "ConfigMap", &ConfigMap { metadata, data, ..ConfigMap::default() })
}

pub(super) fn files(plan: &Plan<'_>) -> Object {
    let files = &plan.files;
    let labels = own_labels(plan.name).into_iter().collect();
    let mut metadata = metadata(plan.inputs.agent, files.name.clone(), labels);
    let digests = git::digests(&plan.git.fixed);
    if !digests.is_empty() {
        metadata.annotations = Some(BTreeMap::from([(annotation::ARTIFACTS.to_string(), digests)]));
    }
    let map = ConfigMap {
        metadata,
        immutable: Some(true),
        data: Some(files.data.clone()),
        binary_data: Some(files.binary.clone()).filter(|b| !b.is_empty()),
    };
    object("v1", "ConfigMap", &map)
}

/// The Secret of an agent's door. Created once with a random `password` and never changed by us.
pub fn auth_secret(agent: &Agent, username: &str, password: &str) -> Secret {
    let name = agent.metadata.name.clone().unwrap_or_default();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    Secret {
        metadata: metadata(agent, names::agent::auth(&name), own_labels(&name).into_iter().collect()),
        type_: Some("kubernetes.io/basic-auth".into()),
        data: Some(BTreeMap::from([
            ("username".to_string(), bytes(username)),
            ("password".to_string(), bytes(password)),
        ])),
        ..Secret::default()
    }
}
