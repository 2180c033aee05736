//! What the fleet is told of an agent: read off its objects, so that it is the same after a restart.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::{
    agent::{
        fleet::{Failed, Key, Member, Of, Steps, steps},
        gate::Policy,
        report::{self, Outcome, Server},
        state,
    },
    api::{
        Agent, AgentStatus,
        agent::FleetStatus,
        content::Report,
        names::{self, annotation, condition, reasons},
    },
    controller::agent::{Agents, act::Acted, observe::ConfigMapMeta},
    status::{Class, Failure},
};

/// For how long after its time a pod that says nothing of its content counts as one that is about to take it.
const SILENCE: SignedDuration = SignedDuration::from_mins(15);

/// An agent's changes by how far they are.
#[derive(Default)]
pub(in super::super) struct Progress {
    server: Steps,
    content: Steps,
    /// Written, and neither arrived nor given up.
    flying: Steps,
    /// What has arrived, earlier times included.
    pub settled: Option<FleetStatus>,
}

impl Agents {
    /// How far the agent's changes are; `None` where the settings set no pace.
    pub(in super::super) fn progress(&self, agent: &Agent, outcome: &Outcome<'_>) -> Option<Progress> {
        if !self.fleet.is_set() {
            return None;
        }
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let deployment = self.own_packed(agent);
        let server = steps::of_annotations(deployment.as_deref().map(ResourceExt::annotations));
        let text = self.config_maps.get(&namespace, &names::agent::context(&name));
        let content = self.config_maps.get(&namespace, &names::agent::content(&name));
        let of_map = |map: &Option<Arc<ConfigMapMeta>>| steps::of_annotations(map.as_ref().map(|m| m.annotations()));
        let (texts, contents) = (of_map(&text), of_map(&content));
        let runs = !self.running_pods(agent).is_empty();
        let reports: Vec<_> =
            self.voice.content(&namespace, &name).into_iter().filter_map(|(_, report)| report).collect();
        let stages = [
            (&server, rolled(agent, outcome)),
            (&texts, stage(has_arrived(text.as_deref(), outcome), outcome.text_unseen)),
            (&contents, loaded(content.as_deref(), runs, &reports, outcome.now)),
        ];
        let of_stage = |wanted: Stage| -> Steps {
            stages.iter().filter(|(_, stage)| *stage == wanted).flat_map(|(steps, _)| (*steps).clone()).collect()
        };
        let before = agent.status.as_ref().and_then(|s| s.fleet.as_ref());
        let again = if stages[0].1 == Stage::Flying { server.clone() } else { Steps::new() };
        let settled = steps::settle(before, &again, &of_stage(Stage::Arrived), outcome.now);
        let known = settled.iter().flat_map(|s| &s.settled);
        let known: Steps = known.map(|s| s.change.clone()).collect();
        let flying = of_stage(Stage::Flying).difference(&known).cloned().collect();
        Some(Progress { flying, settled, server, content: contents })
    }

    /// Tells the fleet at the end of a reconcile.
    pub(in super::super) fn tell_fleet(
        &self,
        agent: &Agent,
        status: &AgentStatus,
        (progress, acted, failure): (Progress, &Acted, Option<&Failure>),
        failed: Option<&'static str>,
    ) {
        let key: Key = (agent.namespace().unwrap_or_default(), agent.name_any());
        if failure.is_some_and(|failure| failure.class != Class::Transient) {
            // There is nothing that it could change to.
            self.fleet.done(&key, &[Of::Server, Of::Text, Of::Content]);
        }
        let ready = status.conditions.iter().find(|c| c.type_ == condition::READY && c.status == "True");
        let settled = progress.settled.iter().flat_map(|s| &s.settled);
        let settled: BTreeMap<String, Timestamp> = settled.map(|s| (s.change.clone(), s.since.0)).collect();
        let member = Member {
            labels: agent.labels().clone(),
            failed: failing(&progress, acted, status, failed),
            flying: progress.flying,
            kept: acted.kept.clone(),
            settled,
            healthy: ready.map(|c| c.last_transition_time.0),
            suspended: status.suspended == Some(true),
        };
        self.fleet.note(&key, member, self.context.now());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Arrived,
    Flying,
    /// Nobody waits for it any more.
    Lost,
}

fn stage(arrived: bool, lost: bool) -> Stage {
    match (arrived, lost) {
        (true, _) => Stage::Arrived,
        (false, true) => Stage::Lost,
        (false, false) => Stage::Flying,
    }
}

/// Whether the pods of the applied template were ready, once.
fn rolled(agent: &Agent, outcome: &Outcome<'_>) -> Stage {
    let failed = report::failed(outcome).is_some();
    let before = agent.status.as_ref().and_then(|s| s.rollout.as_ref()?.rolled_out_revision.clone());
    let was_ready = before.is_some() && before == outcome.applied;
    stage(outcome.suspended || outcome.server == Server::Ready && !failed, failed || was_ready)
}

/// Whether the pods show the text that is written; where no sidecar speaks, nobody can tell.
fn has_arrived(map: Option<&ConfigMapMeta>, outcome: &Outcome<'_>) -> bool {
    let wanted = map.and_then(|map| map.annotations().get(annotation::CONTEXT_HASH));
    outcome.suspended || outcome.activity.is_none_or(|activity| Some(&activity.context_hash) == wanted)
}

/// Whether the pods have the content that is written.
fn loaded(map: Option<&ConfigMapMeta>, runs: bool, reports: &[Arc<Report>], now: Timestamp) -> Stage {
    let Some(map) = map else { return Stage::Arrived };
    let hash = map.annotations().get(annotation::CONTENT_HASH).map(String::as_str).unwrap_or_default();
    let arrived = !runs || !reports.is_empty() && reports.iter().all(|report| report.loaded == hash);
    let refused = reports.iter().any(|report| report.failed && report.wanted == hash);
    let since = map.annotations().get(state::SINCE).and_then(|since| since.parse::<Timestamp>().ok());
    // A busy agent takes it when its time is over at the latest.
    let time = SignedDuration::try_from(Policy::default().timeout).unwrap_or(SignedDuration::ZERO) + SILENCE;
    let over = since.and_then(|since| since.checked_add(time).ok()).is_none_or(|end| now > end);
    stage(arrived, refused || over)
}

/// What the agent has failed with, if it has.
fn failing(progress: &Progress, acted: &Acted, status: &AgentStatus, failed: Option<&'static str>) -> Option<Failed> {
    let says = |kind: &str, reason: &str| status.conditions.iter().any(|c| c.type_ == kind && c.reason == reason);
    let missing = says(condition::SKILLS_LOADED, reasons::SKILLS_MISSING);
    let refused = says(condition::GIT_SYNC_PENDING, reasons::RELOAD_FAILED);
    let (steps, why) = match failed {
        Some(why) => (progress.server.union(&acted.failed_steps).cloned().collect(), why),
        None if refused => (progress.content.clone(), reasons::RELOAD_FAILED),
        None if missing => (progress.content.union(&progress.server).cloned().collect(), reasons::SKILLS_MISSING),
        None => return None,
    };
    let steps: Steps = steps;
    (!steps.is_empty()).then(|| Failed { steps, why: why.into() })
}
