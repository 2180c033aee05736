//! Writes what was decided, in order: what a pod reads before the pod.

mod deployment;
mod exchange;
mod hold;
mod settle;
mod text;
mod touch;
mod verify;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use serde_json::json;

pub(super) use exchange::Told;
pub(super) use settle::OpenWrite;
pub(super) use touch::Touch;
pub(super) use verify::unverified;

use super::{
    Agents,
    firsts::{self, Done, First},
    fleet::is_undecided,
    observe::Seen,
    voice::Said,
    write,
};
use crate::{
    agent::{
        Desired,
        decide::{self, Action},
        fleet::Steps,
        gate::{self, Work},
        history, report,
        state::{Annotations, Failed},
    },
    api::{Agent, names::reasons, voice::Activity as Wire},
    status::{Failure, Next, Note},
};

/// What a reconcile decided and wrote, for the report.
#[derive(Default)]
pub(super) struct Acted {
    pub server: Option<Action>,
    pub text: Option<Action>,
    /// The Git inputs as they were read.
    pub git: Option<report::Git>,
    /// What was decided about content that is exchanged in the running pod.
    pub exchange: Option<Action>,
    /// The gathered text was written and the pods do not get it.
    pub text_unseen: bool,
    pub activity: Option<Wire>,
    pub template_generation: Option<i64>,
    /// Hash of the pod template that is wanted, whatever becomes of it.
    pub desired: Option<String>,
    /// Id of all that is wanted.
    pub newest: Option<String>,
    /// What failed, where the last good revision is to take its place.
    pub back: Option<Failed>,
    /// The revision that is kept in the place of what is wanted.
    pub pinned: Option<report::Pinned>,
    /// The steps from that to what is newest.
    pub kept: Steps,
    /// The steps of what failed, where the last good revision is in its place.
    pub failed_steps: Steps,
    /// The Deployment was applied.
    pub wrote: bool,
    /// Held while something urgent is written.
    pub first: Option<First>,
    /// The Deployment was made.
    pub created: bool,
    pub notes: Vec<Note>,
    pub next: Next,
    /// The Deployment was made just now, or was another one than was decided about, or nothing is decided yet: the rest and
    /// the report come with the next event.
    pub begun: bool,
}

/// Namespace and name, as most functions here need them.
pub(super) struct Who<'a> {
    pub agent: &'a Agent,
    pub namespace: String,
    pub name: String,
}

impl Agents {
    /// Converges the cluster to `desired` as far as the gate allows.
    pub(super) async fn act(
        &self,
        agent: &Agent,
        seen: &Seen,
        desired: &Desired,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let who = Who { agent, namespace: agent.namespace().unwrap_or_default(), name: agent.name_any() };
        let said = self.voice.activity(&who.namespace, &who.name);
        acted.activity = said.as_ref().map(|s| s.activity.clone());
        acted.desired = Some(desired.hash.clone());
        acted.newest = Some(history::id(desired));
        self.authority(&who.namespace).await?;
        let work = self.work(&who, said.as_ref());
        Box::pin(self.text(&who, seen, desired, work, acted)).await?;
        if acted.begun {
            return Ok(());
        }
        self.exchange(&who, seen, desired, work, acted).await?;
        if acted.begun {
            return Ok(());
        }
        Box::pin(self.deployment(&who, seen, desired, work, acted)).await?;
        if acted.begun {
            return Ok(());
        }
        self.tell(&who, seen, desired, acted).await?;
        self.touch(&who, desired, said.as_ref(), acted).await?;
        drop(acted.first.take());
        self.verify(&who, seen, acted).await?;
        if acted.begun {
            return Ok(());
        }
        if !seen.stands_in || self.services.get(&who.namespace, &who.name).is_none() {
            self.service(&who, desired, acted).await?;
        }
        if matches!(acted.server, Some(Action::Keep)) {
            self.prune(&who, desired).await?;
            self.prune_exchange(&who, seen, desired).await?;
        }
        self.introduce(&who);
        self.keep_revision(&who, desired, acted).await
    }

    /// From here on something is written that pods wait for, if `action` says so.
    fn urgent(&self, who: &Who<'_>, action: &Action, acted: &mut Acted) {
        if acted.first.is_none() && matches!(action, Action::Apply { .. }) {
            acted.first = self.firsts.first(&who.namespace, &who.name);
        }
    }

    fn work(&self, who: &Who<'_>, said: Option<&Said>) -> Work {
        let running = self.running_pods(who.agent);
        Work { running_tasks: self.open_tasks(&who.namespace, &who.name).0, activity: gate::activity(said, &running) }
    }

    async fn service(&self, who: &Who<'_>, desired: &Desired, acted: &mut Acted) -> Result<(), Failure> {
        let live = self.services.get(&who.namespace, &who.name);
        if live.as_ref().is_some_and(|l| decide::same_object(&json!(&**l), desired.service.value())) {
            return Ok(());
        }
        let version = live.as_ref().and_then(|l| l.resource_version());
        let body = write::body(&desired.service, Annotations::new(), version.as_deref());
        let marks = live.as_ref().map(|l| l.annotations());
        let service = write::write::<Service>(&self.context.client, &who.namespace, body, marks, who.agent).await?;
        let Some(service) = service else {
            self.services.forget(&who.namespace, &who.name);
            acted.soon();
            return Ok(());
        };
        self.services.wrote(service);
        if live.is_none() {
            acted.notes.push(Note::normal(reasons::SERVICE_CREATED, "Create", format!("created Service {}", who.name)));
        }
        Ok(())
    }
}

impl Acted {
    pub(super) fn after(&mut self, delay: Duration) {
        self.next = self.next.or_earlier(Next::After(delay));
    }

    /// Pods take long to start, and other agents may wait for theirs: those go first.
    pub(super) fn begin(&mut self) {
        self.begun = true;
        self.after(Duration::from_millis(50));
    }

    /// What is decided now would be decided again in a moment, when artifacts are made.
    pub(super) fn hold(&mut self, left: Duration) {
        self.begun = true;
        self.after(left);
    }

    /// Whether the fleet has not answered yet: it wakes the agent when it does.
    fn undecided(&mut self, action: &Action) -> bool {
        let undecided = is_undecided(action);
        if undecided {
            self.hold(Duration::from_secs(1));
        }
        undecided
    }

    /// Others lack what their pods wait for; what is left here only tells.
    pub(super) fn later(&mut self) {
        self.after(firsts::PATIENCE);
    }

    /// Whether work was cut: that is told at once.
    pub(super) fn is_forced(&self) -> bool {
        let is = |action: &Option<Action>| matches!(action, Some(Action::Apply { forced: Some(_), .. }));
        is(&self.server) || is(&self.text) || is(&self.exchange)
    }

    /// Whether there is something to tell of this reconcile.
    pub(super) fn has_done(&self) -> bool {
        self.wrote || !self.notes.is_empty()
    }

    /// What is told later, when the report is put off.
    pub(super) fn done(&mut self) -> Done {
        let server = self.server.take().filter(|_| self.wrote);
        Done { notes: std::mem::take(&mut self.notes), server }
    }

    /// Takes over what was done before and not told.
    pub(super) fn did(&mut self, done: Done) {
        self.notes.splice(..0, done.notes);
        match (&self.server, done.server) {
            (None | Some(Action::Keep), Some(before)) => (self.server, self.wrote) = (Some(before), true),
            (_, Some(Action::Apply { causes, .. })) if !causes.is_empty() => {
                let causes: Vec<_> = causes.into_iter().collect();
                let message = format!("a new pod for: {}", causes.join(", "));
                self.notes.push(Note::normal(reasons::ROLLOUT_STARTED, "Rollout", message));
            }
            _ => {}
        }
    }

    /// Nothing was done; what was decided is not reported, and decided anew.
    fn again(&mut self) {
        self.begun = true;
        self.soon();
    }

    /// The cache is behind; its next event wakes the agent as well.
    pub(super) fn soon(&mut self) {
        self.after(Duration::from_millis(200));
    }

    /// A wait with an end wakes at its end.
    fn wake(&mut self, action: &Action, now: Timestamp) {
        if let Action::Wait { until, .. } = action {
            self.wake_at(*until, now);
        }
    }

    fn wake_at(&mut self, until: Option<Timestamp>, now: Timestamp) {
        if let Some(until) = until {
            let left = until.duration_since(now);
            self.after(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(50));
        }
    }
}
