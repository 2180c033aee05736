//! What an agent is when nothing happens any more.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use pilothouse::{
    agent::{Pieces, state},
    api::Agent,
};

use super::{
    schedule::GROUPS,
    world::{World, tag},
};

impl World {
    /// What is not as it is wanted, of all agents.
    pub(super) fn unsettled(&self) -> Vec<(String, String)> {
        let keys = (0..self.options.agents).map(|n| (n, self.key(n)));
        keys.filter_map(|(n, key)| Some((key, self.is_settled(n).err()?))).collect()
    }

    fn is_settled(&self, n: usize) -> Result<(), String> {
        let key = self.key(n);
        let agent = self.watched.agent_now(&key).ok_or("there is no Agent")?;
        let deployment = self.watched.deployment_now(&key).ok_or("there is no Deployment")?;
        said_well(&agent)?;
        self.is_defined(n, &deployment)?;
        let text = self.watched.map_now(&format!("{key}-server-context")).and_then(|map| map.data).unwrap_or_default();
        let rule = format!("Rule {} of {n}.", self.wanted[n].text);
        if !text.get("context.md").is_some_and(|text| text.contains(&rule)) {
            return Err(format!("the text lacks {rule:?}"));
        }
        self.has_content(n, &deployment)?;
        if n < self.options.live { self.is_served(n) } else { Ok(()) }
    }

    fn is_defined(&self, n: usize, deployment: &Deployment) -> Result<(), String> {
        let (wanted, spec) = (&self.wanted[n], deployment.spec.as_ref().ok_or("no spec")?);
        let server = &spec.template.spec.as_ref().ok_or("no pod")?.containers[0];
        let image = server.image.clone().unwrap_or_default();
        if image != tag(wanted) {
            return Err(format!("the image is {image}, not {}", tag(wanted)));
        }
        let step = server.env.iter().flatten().find(|v| v.name == "STEP").and_then(|v| v.value.clone());
        if step.as_deref() != Some(&*wanted.environment.to_string()) {
            return Err(format!("STEP is {step:?}, not {}", wanted.environment));
        }
        if deployment.annotations().keys().any(|key| key.ends_with("/pending-hash")) {
            return Err("a rollout waits".into());
        }
        let status = deployment.status.clone().unwrap_or_default();
        let all = (status.replicas, status.updated_replicas, status.ready_replicas);
        if all != (Some(1), Some(1), Some(1)) || status.observed_generation != deployment.metadata.generation {
            return Err(format!("pods, new ones, ready ones: {all:?}"));
        }
        Ok(())
    }

    fn has_content(&self, n: usize, deployment: &Deployment) -> Result<(), String> {
        let mut applied: Pieces = state::pieces(deployment.annotations());
        let map = self.watched.map_now(&format!("{}-server-content", self.key(n)));
        applied.extend(map.map(|map| state::pieces(map.annotations())).unwrap_or_default());
        let group = n % GROUPS;
        let mut wanted = vec![("contexts/docs", self.docs[group])];
        if self.has_skills(n) {
            wanted.push(("skills/team", self.skills[group]));
        }
        for (id, (number, commit)) in wanted {
            let revision = applied.get(id).map(|piece| piece.revision.clone()).unwrap_or_default();
            // Seen together with a later one that did not touch it, it may have that one's name.
            if !self.commits[commit..].iter().any(|later| revision.ends_with(later.as_str())) {
                let last = &self.commits[commit];
                return Err(format!("{id} is of {revision:?}, not of {last}, which has number {number}"));
            }
        }
        Ok(())
    }

    /// What the pod really has.
    fn is_served(&self, n: usize) -> Result<(), String> {
        let (key, group) = (self.key(n), n % GROUPS);
        let running = self.kubelet.running.lock().clone();
        let mut pods = running.iter().filter(|pod| pod.agent == key);
        let (Some(pod), None) = (pods.next(), pods.next()) else { return Err("there is not one pod".into()) };
        let page = std::fs::read_to_string(pod.folder.join("workspace/docs/page")).unwrap_or_default();
        let wanted = format!("page {}\n", self.docs[group].0);
        if page != wanted {
            return Err(format!("the pod has {page:?}, not {wanted:?}"));
        }
        let (skills, wanted) = (pod.server.known_skills(), format!("Step {}.", self.skills[group].0));
        if self.has_skills(n) && !skills.iter().any(|skill| skill.contains(&wanted)) {
            return Err(format!("the server knows {skills:?}, not {wanted:?}"));
        }
        Ok(())
    }
}

/// The status is about the present spec, and says that nothing is wrong and nothing waits.
fn said_well(agent: &Agent) -> Result<(), String> {
    let status = agent.status.clone().unwrap_or_default();
    if status.observed_generation != agent.metadata.generation {
        return Err("its status is about an older spec".into());
    }
    let bad = ["RolloutPending", "GitSyncPending", "TextPending", "RolloutFailed", "Stalled", "Reconciling"];
    for condition in &status.conditions {
        let good = condition.status == "True";
        let wrong = bad.contains(&condition.type_.as_str()) == good && condition.type_ != "Suspended";
        // Who has no sidecar cannot say which skills it has.
        let unknown = condition.status == "Unknown";
        if wrong && !unknown {
            return Err(format!(
                "{}={} {}: {}",
                condition.type_, condition.status, condition.reason, condition.message
            ));
        }
    }
    if status.conditions.is_empty() { Err("it has no status".into()) } else { Ok(()) }
}
