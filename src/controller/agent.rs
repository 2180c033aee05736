//! Agents: observe, decide with [`crate::agent`], act, report.

mod act;
mod contents;
mod counts;
mod firsts;
mod fleet;
mod fresh;
mod history;
mod index;
mod leaving;
mod listen;
mod maps;
mod observe;
mod peers;
pub(super) mod sources;
pub mod voice;
mod waits;
mod write;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{
    Context, Loop,
    runtime::{Packed, Reconcile, Triggers},
    start,
};
use crate::{
    agent::{Desired, decide::Action, report, state, trouble},
    api::{
        Agent, AgentStatus,
        names::{self, annotation, label, manager, reasons},
    },
    status::{Class, Failure, Next},
};
use act::Acted;
use contents::Contents;
use fresh::Fresh;
use index::{ByAgent, OpenTasks, Referrers};
use observe::Seen;
use sources::{GitInputs, Whose};
use voice::AgentVoice;

/// How often a name that somebody else has is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long a remote has for its first answer after a start, while something waits for what it says.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// By namespace and agent, and by what was asked.
type Refused = Mutex<HashMap<(String, String), HashMap<&'static str, u32>>>;

/// The reconciler of Agents.
pub struct Agents {
    context: Context,
    voice: Arc<dyn AgentVoice>,
    triggers: Triggers<Agent>,
    referrers: Referrers,
    tasks: OpenTasks,
    contents: Contents,
    git: Arc<GitInputs>,
    deployments: Fresh<Packed<Deployment>>,
    services: Fresh<Service>,
    config_maps: Fresh<observe::ConfigMapMeta>,
    pods_of: ByAgent<Pod>,
    maps_of: ByAgent<observe::ConfigMapMeta>,
    /// Version and hash of the authority's ConfigMap that was compared last, by namespace.
    authorities: Mutex<HashMap<String, (String, String)>>,
    /// How often in a row a confirmation failed, by namespace and agent, and by what it was asked for.
    refused: Refused,
    /// Pods of which it was said that their end cuts work.
    told: leaving::Told,
    /// Gathered text that was written and is not seen in the pods yet, by namespace and agent.
    touches: Mutex<HashMap<(String, String), act::Touch>>,
    /// Since when something waits for the first word about Git inputs, by namespace and agent.
    unread_since: Mutex<HashMap<(String, String), Instant>>,
    /// Pods that were made known to each other.
    introduced: peers::Introduced,
    /// Content that sidecars were told to exchange and do not have yet, by namespace and agent.
    loads: Mutex<HashMap<(String, String), act::Told>>,
    /// Deployments whose last write may still land, by namespace and agent.
    open_writes: Mutex<HashMap<(String, String), act::OpenWrite>>,
    firsts: firsts::Firsts,
    counts: counts::Counts,
    waits: waits::Waits,
    /// Revisions that agents are pinned to, as they were read, by namespace and agent.
    pins: Mutex<HashMap<(String, String), history::Pin>>,
    fleet: fleet::Fleet,
    /// One agent of a namespace at a time sees to its authority.
    authority_turns: maps::Turns,
}

/// Prepares the loop.
pub fn prepare(context: &Context, voice: Arc<dyn AgentVoice>) -> Loop {
    let triggers = Triggers::default();
    let agents = Arc::new(Agents {
        context: context.clone(),
        voice,
        triggers: triggers.clone(),
        referrers: Referrers::default(),
        tasks: OpenTasks::default(),
        contents: Contents::new(context.client.clone(), context.caches.clone()),
        git: GitInputs::new(context, wake(&triggers)),
        deployments: Fresh::new(context.caches.deployments.clone()),
        services: Fresh::new(context.caches.services.clone()),
        config_maps: Fresh::new(context.caches.config_maps.clone()),
        pods_of: ByAgent::new(context.caches.agent_pods.clone()),
        maps_of: ByAgent::new(context.caches.config_maps.clone()),
        authorities: Mutex::default(),
        refused: Mutex::default(),
        told: leaving::Told::default(),
        touches: Mutex::default(),
        introduced: peers::Introduced::default(),
        loads: Mutex::default(),
        unread_since: Mutex::default(),
        open_writes: Mutex::default(),
        firsts: {
            let triggers = triggers.clone();
            firsts::Firsts::new(move |namespace, agent| triggers.now(namespace, agent))
        },
        counts: counts::Counts::default(),
        waits: waits::Waits::default(),
        pins: Mutex::default(),
        fleet: fleet::Fleet::new(context.now()),
        authority_turns: maps::Turns::default(),
    });
    listen::attach(&agents);
    start(agents, context.caches.agents.clone(), triggers)
}

fn wake(triggers: &Triggers<Agent>) -> Whose {
    let triggers = triggers.clone();
    Whose::agents(move |namespace, agent| triggers.now(namespace, agent))
}

impl Reconcile for Agents {
    type Object = Agent;

    async fn reconcile(&self, agent: Arc<Agent>) -> Result<Next, Failure> {
        if agent.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnEvent);
        }
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let mut acted = Acted::default();
        let failure = Box::pin(self.converge(&agent, &mut acted)).await.err();
        drop(acted.first.take());
        if acted.begun && failure.is_none() {
            if acted.created {
                let (late, done) = (firsts::Late::default(), acted.done());
                self.firsts.put_off(&namespace, &name, &late, done, true);
            } else {
                self.context.reports.events(&*agent, acted.notes);
            }
            return Ok(acted.next);
        }
        self.context.metrics.agent_seen(&namespace, &name);
        let mut late = self.firsts.take(&namespace, &name);
        acted.did(std::mem::take(&mut late.done));
        let git = self.git(&agent, &acted);
        let mut outcome = report::Outcome { git: git.as_ref(), ..self.outcome(&agent, &acted, failure.as_ref()) };
        let progress = self.progress(&agent, &outcome);
        outcome.fleet = progress.as_ref().and_then(|progress| progress.settled.clone());
        let (status, notes) = report::report(&agent, &outcome);
        if let Some(progress) = progress {
            let failed = report::failed(&outcome).map(|(reason, _)| reason);
            self.tell_fleet(&agent, &status, (progress, &acted, failure.as_ref()), failed);
        }
        let (reports, current) = (&self.context.reports, own_part(&agent));
        let waits = failure.is_none() && !acted.is_forced() && self.firsts.may_wait(&late);
        if waits && (acted.has_done() || reports.is_new(&*agent, &current, &status)?) {
            acted.later();
            self.firsts.put_off(&namespace, &name, &late, acted.done(), false);
            return Ok(acted.next);
        }
        if failure.is_none()
            && notes.is_empty()
            && !acted.has_done()
            && self.only_counts(&agent, current.as_ref(), &status)?
            && let Some(left) = self.counts.wait(&namespace, &name, Instant::now())
        {
            return Ok(acted.next.or_earlier(Next::After(left)));
        }
        if acted.wrote && matches!(acted.server, Some(Action::Apply { forced: Some(_), .. })) {
            self.context.metrics.rollout_forced(&namespace, &name);
        }
        let written = reports.status(&*agent, &current, &status).await;
        // What was done is told once, here; what became different is found again while it is in no status.
        let news = if written.is_ok() { notes } else { vec![] };
        reports.events(&*agent, news.into_iter().chain(acted.notes).collect());
        written?;
        match failure {
            Some(failure) if failure.class == Class::Transient => Err(failure),
            // The other object may have no label by which it is watched.
            Some(failure) if failure.reason == reasons::NAME_CONFLICT => {
                Ok(Next::After(LOOK_AGAIN).spread(rand::random()))
            }
            _ => Ok(acted.next),
        }
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.referrers.forget(namespace, name);
        self.contents.forget(namespace, name);
        self.git.forget(namespace, name);
        self.context.metrics.forget_agent(namespace, name);
        self.touches.lock().remove(&(namespace.into(), name.into()));
        self.unread_since.lock().remove(&(namespace.into(), name.into()));
        self.introduced.lock().remove(&(namespace.into(), name.into()));
        self.open_writes.lock().remove(&(namespace.into(), name.into()));
        self.firsts.take(namespace, name);
        self.counts.forget(namespace, name);
        self.untell(namespace, name);
        self.forget_waits(namespace, name);
        self.refused.lock().remove(&(namespace.into(), name.into()));
        self.pins.lock().remove(&(namespace.into(), name.into()));
        self.told.lock().remove(&(namespace.into(), name.into()));
    }
}

impl Agents {
    /// Whether nothing is new in `status` but how many Tasks there are.
    fn only_counts(&self, agent: &Agent, current: Option<&AgentStatus>, status: &AgentStatus) -> Result<bool, Failure> {
        let Some(old) = counts::with_old_count(current, status) else { return Ok(false) };
        Ok(!self.context.reports.is_new(agent, &current, &old)?)
    }

    /// Reads, decides, writes; a failure is an answer that the status shows.
    async fn converge(&self, agent: &Arc<Agent>, acted: &mut Acted) -> Result<(), Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        if self.firsts.can_wait(&namespace, &name) {
            acted.begin();
            return Ok(());
        }
        self.leaving(agent, acted);
        Box::pin(self.settle_open(&act::Who { agent, namespace: namespace.clone(), name: name.clone() })).await?;
        let newest = Box::pin(self.newest(agent, acted)).await;
        if acted.begun {
            return Ok(());
        }
        let broken = newest.as_ref().err().cloned();
        let (seen, newest) = newest.or_else(|broken| self.without_newest(agent, &broken))?;
        self.check_names(agent).await?;
        let desired = self.pinned(agent, newest, broken.as_ref(), acted).await?;
        Box::pin(self.act(agent, &seen, &desired, acted)).await?;
        self.label(agent).await
    }

    /// What is wanted by the newest spec, and what that was made from.
    async fn newest(&self, agent: &Arc<Agent>, acted: &mut Acted) -> Result<(Seen, Desired), Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let seen = self.observe(agent).await?;
        acted.template_generation = seen.template_generation;
        if let Some(left) = seen.git.hold.or_else(|| self.wait_for_inputs(&namespace, &name, &seen)) {
            acted.hold(left);
        } else {
            acted.git = Some(seen.inputs_seen());
            if let Some(failure) = seen.git.missing() {
                return Err(failure);
            }
        }
        let newest = seen.build(agent)?;
        Ok((seen, newest))
    }

    /// After a start, how long to wait for the first word about Git inputs that something waits for: without it a status
    /// would say for a moment that nothing waits.
    fn wait_for_inputs(&self, namespace: &str, name: &str, seen: &Seen) -> Option<Duration> {
        let map = self.config_maps.get(namespace, &names::agent::content(name));
        let key = (namespace.to_owned(), name.to_owned());
        let mut first = self.unread_since.lock();
        if !seen.waits_unread(map.as_ref().map(|map| map.annotations())) {
            first.remove(&key);
            return None;
        }
        let since = first.entry(key).or_insert_with(Instant::now);
        FIRST_WORD.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// Says on the Agent which template it is made from, so that `kubectl get agents -l` finds it. Nothing else of the
    /// Agent is touched; a label of somebody else stays.
    async fn label(&self, agent: &Agent) -> Result<(), Failure> {
        let wanted = agent.spec.template_ref.as_ref().map(|t| names::label_value(&t.name));
        let has = agent.labels().get(label::AGENT_TEMPLATE);
        if has == wanted.as_ref() || (wanted.is_none() && !self.has_label_of_ours(agent).await?) {
            return Ok(());
        }
        write::label(&self.context.client, agent, label::AGENT_TEMPLATE, wanted.as_deref()).await
    }

    /// The cache has no field managers.
    async fn has_label_of_ours(&self, agent: &Agent) -> Result<bool, Failure> {
        let namespace = agent.namespace().unwrap_or_default();
        let found = write::get_metadata::<Agent>(&self.context.client, &namespace, &agent.name_any()).await?;
        let managers = found.and_then(|f| f.metadata.managed_fields).unwrap_or_default();
        Ok(managers.iter().any(|f| f.manager.as_deref() == Some(manager::AGENT)))
    }

    /// What is known about the Git inputs, after what was done.
    fn git(&self, agent: &Agent, acted: &Acted) -> Option<report::Git> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let map = self.config_maps.get(&namespace, &names::agent::content(&name));
        let (map, deployment) = (map.as_ref().map(|map| map.annotations()), self.own_deployment(agent));
        let (fixed, exchanged) = state::applied_pieces(deployment.as_deref().map(ResourceExt::annotations), map);
        let hash = map.filter(|_| !exchanged.is_empty()).and_then(|map| state::State::of_content(map).applied);
        let reports = self.voice.content(&namespace, &name).into_iter().filter_map(|(_, report)| report).collect();
        Some(report::Git { fixed, exchanged, hash, reports, ..acted.git.clone()? })
    }

    fn outcome<'a>(&self, agent: &'a Agent, acted: &'a Acted, failure: Option<&'a Failure>) -> report::Outcome<'a> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let deployment = self.own_deployment(agent);
        let pods = self.pods(agent);
        let pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        report::Outcome {
            failure,
            desired: acted.desired.as_deref(),
            newest: acted.newest.as_deref(),
            asked: agent.annotations().get(annotation::ROLLOUT).map(String::as_str),
            back: acted.back.as_ref(),
            pinned: acted.pinned.as_ref(),
            revisions: self.revisions(agent),
            trouble: trouble::trouble(&pods).or_else(|| trouble::refused(deployment.as_deref()?)),
            wrote: acted.wrote,
            action: acted.server.as_ref(),
            text: acted.text.as_ref(),
            exchange: acted.exchange.as_ref(),
            git: None,
            text_unseen: acted.text_unseen,
            server: report::server(deployment.as_deref()),
            applied: deployment.as_deref().and_then(observe::applied_hash),
            image: deployment.as_deref().and_then(observe::image),
            suspended: deployment.as_deref().is_some_and(observe::has_no_pods),
            verifying: self.verifying(agent, deployment.as_deref()),
            unverified: deployment.as_deref().and_then(act::unverified),
            finishing: self.finishing(agent, deployment.as_deref()),
            serves_on: self.serves_on(agent, deployment.as_deref()),
            tasks: self.open_tasks(&namespace, &name),
            activity: acted.activity.as_ref(),
            url: observe::url(agent, observe::config(&self.context).as_deref()),
            layout: deployment.as_deref().and_then(observe::layout),
            template_generation: acted.template_generation,
            fleet: None,
            now: self.context.now(),
        }
    }
}

/// The status without what the reconciler of Tasks writes there.
fn own_part(agent: &Agent) -> Option<AgentStatus> {
    let status = agent.status.clone()?;
    Some(AgentStatus { task_start_history: Vec::new(), ..status })
}
