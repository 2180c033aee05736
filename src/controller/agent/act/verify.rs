//! The verification of a new revision: its Task, what came of it, and the gates of its pods.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Acted, Who};
use crate::{
    agent::{
        build::{layout::DOOR_PORT, owner},
        state,
        verify::{self, GATE, Memory, Step, Try},
    },
    api::{
        API_VERSION, Agent, Task,
        names::{self, annotation, label, manager, reasons},
        rollout::{RolloutVerify, Verifying},
    },
    controller::{
        agent::{
            Agents,
            leaving::is_told,
            observe::{self, Seen, ours},
            write,
        },
        request::limited,
    },
    status::{Failure, Note},
    task::verifies,
};

impl Agents {
    /// The next step of the verification of what is applied, if its pods have a gate.
    pub(super) async fn verify(&self, who: &Who<'_>, seen: &Seen, acted: &mut Acted) -> Result<(), Failure> {
        let live = self.own_deployment(who.agent);
        let it = live.as_deref().and_then(a_try);
        self.drop_verifications(who, it.as_ref()).await?;
        let Some(live) = live.filter(|live| has_gate(live)) else { return Ok(()) };
        let Some(it) = it else { return Ok(()) };
        let pods: Vec<_> = self.pods(who.agent).into_iter().filter(|pod| is_of(pod, &it)).collect();
        let closed: Vec<&Pod> = pods.iter().map(AsRef::as_ref).filter(|pod| !says(pod, GATE)).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let Some(wanted) = verify::wanted(&seen.spec) else {
            // Nobody wants it any more; pods without a gate are on their way, or wait.
            return self.admit(who, &closed).await;
        };
        let memory = Memory::of(live.annotations());
        let up = closed.iter().any(|pod| address(pod).is_some());
        match verify::step(&it, &memory, &verify::seen(self.verification(who.agent, &it).as_deref()), up) {
            Step::Nothing => Ok(()),
            Step::Begin => self.begin_verification(who, &it, wanted, acted).await,
            Step::Remember(memory) => self.remember_verification(who, &live, &it, &memory, acted).await,
            Step::Admit => self.admit(who, &closed).await,
        }
    }

    /// Takes away what was to verify another revision than `it` and has not begun: nobody asks for that any more.
    async fn drop_verifications(&self, who: &Who<'_>, it: Option<&Try>) -> Result<(), Failure> {
        let wanted = it.map(|it| it.task(&who.name));
        for name in
            self.tasks.waiting(&who.namespace, &who.name).into_iter().filter(|name| Some(name) != wanted.as_ref())
        {
            let Some(found) = self.context.caches.tasks.get(&who.namespace, &name).filter(|found| verifies(found))
            else {
                continue;
            };
            let begun = self.context.caches.task_pods.get(&who.namespace, &names::task::pod(&name)).is_some();
            if begun || ours("Task", "", found.owner_references(), who.agent).is_err() {
                continue;
            }
            write::delete::<Task>(&self.context.client, &who.namespace, &name, &found.uid().unwrap_or_default())
                .await?;
        }
        Ok(())
    }

    /// The Task of a try, if it is the agent's own.
    fn verification(&self, agent: &Agent, it: &Try) -> Option<std::sync::Arc<Task>> {
        let task = self.context.caches.tasks.get(&agent.namespace()?, &it.task(&agent.name_any()))?;
        ours("Task", "", task.owner_references(), agent).is_ok().then_some(task)
    }

    async fn begin_verification(
        &self,
        who: &Who<'_>,
        it: &Try,
        wanted: &RolloutVerify,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let name = it.task(&who.name);
        let body = json!({
            "apiVersion": API_VERSION, "kind": "Task",
            "metadata": {
                "name": name, "namespace": who.namespace, "ownerReferences": [owner(who.agent)],
                "labels": { label::AGENT: names::label_value(&who.name), label::VERIFIES: it.hash },
            },
            "spec": {
                "agentRef": { "name": who.name }, "description": wanted.description,
                "timeout": verify::timeout(wanted),
            },
        });
        let made = write::create::<Task>(&self.context.client, &who.namespace, &body, who.agent).await?;
        if made.is_some() {
            let message = format!("Task {name} verifies revision {} before it takes work", it.hash);
            acted.notes.push(Note::normal(reasons::VERIFICATION_STARTED, "Verify", message));
        }
        Ok(())
    }

    async fn remember_verification(
        &self,
        who: &Who<'_>,
        live: &Deployment,
        it: &Try,
        memory: &Memory,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let body = write::remember(&json!(live), "apps/v1", "Deployment", &memory.annotations());
        let marks = Some(live.annotations());
        let written = write::write::<Deployment>(&self.context.client, &who.namespace, body, marks, who.agent).await?;
        let Some(written) = written else {
            self.deployments.forget(&who.namespace, &live.name_any());
            acted.again();
            return Ok(());
        };
        if memory.has_passed(it) {
            let message = format!("revision {} passed its verification", it.hash);
            acted.notes.push(Note::normal(reasons::VERIFICATION_PASSED, "Verify", message));
        }
        self.deployments.wrote(written.into());
        acted.soon();
        Ok(())
    }

    /// Opens the gates of pods.
    async fn admit(&self, who: &Who<'_>, pods: &[&Pod]) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &who.namespace);
        for pod in pods {
            let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
            let (patch, what) = (gate_patch(pod, self.context.now()), "opening the readiness gate of a pod");
            match limited(what, api.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch))).await? {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => {
                    return Err(Failure::transient(reasons::APPLY_FAILED, format!("{what}: {error}")));
                }
            }
        }
        Ok(())
    }

    /// The Task that the newest revision has to pass, while what came of it is not remembered.
    pub(in crate::controller::agent) fn verifying(
        &self,
        agent: &Agent,
        deployment: Option<&Deployment>,
    ) -> Option<Verifying> {
        let it = a_try(deployment.filter(|live| has_gate(live))?)?;
        let memory = Memory::of(deployment?.annotations());
        if memory.has_passed(&it) || memory.failed(&it).is_some() {
            return None;
        }
        let task = self.verification(agent, &it)?.name_any();
        let pods = self.pods(agent);
        let found = pods.iter().filter(|pod| is_of(pod, &it)).find_map(|pod| Some((address(pod)?, pod.uid()?)));
        let (address, uid) = found?;
        Some(Verifying { task, url: format!("http://{address}"), pod: Some(uid) })
    }
}

/// Why what a Deployment has did not pass its verification, if it did not.
pub(in crate::controller::agent) fn unverified(live: &Deployment) -> Option<String> {
    let it = a_try(live)?;
    Memory::of(live.annotations()).failed(&it).map(String::from)
}

/// The patch names the pod's uid, so that it means no other of that name.
fn gate_patch(pod: &Pod, now: jiff::Timestamp) -> Value {
    let condition = json!({"type": GATE, "status": "True", "reason": reasons::VERIFICATION_PASSED,
        "lastTransitionTime": now.to_string()});
    json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}})
}

fn has_gate(live: &Deployment) -> bool {
    let pod = live.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    pod.into_iter().flat_map(|p| p.readiness_gates.iter().flatten()).any(|gate| gate.condition_type == GATE)
}

/// What is applied.
fn a_try(live: &Deployment) -> Option<Try> {
    let generation = live.annotations().get(state::TEMPLATE_GENERATION)?.clone();
    Some(Try { hash: observe::applied_hash(live)?, generation })
}

fn is_of(pod: &Pod, it: &Try) -> bool {
    pod.annotations().get(annotation::TEMPLATE_HASH) == Some(&it.hash) && !is_told(pod)
}

fn says(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).any(|c| c.status == "True")
}

/// Where the door of a pod is that runs.
fn address(pod: &Pod) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let port = u16::try_from(DOOR_PORT).ok()?;
    says(pod, "ContainersReady").then(|| SocketAddr::new(ip, port))
}
