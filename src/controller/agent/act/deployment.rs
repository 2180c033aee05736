//! The Deployment, through the gate.

use std::{borrow::Cow, time::Instant};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Acted, Who, hold::within, settle, unverified};
use crate::{
    agent::{
        Desired, beside,
        decide::{self, Action, Situation},
        effect::classify,
        fleet::{Of, Steps, steps},
        gate::{self, Policy, Work},
        report,
        rollback::{self, Look},
        state::{self, Annotations, Failed, State},
        trouble, verify,
    },
    api::names::{self, annotation, reasons},
    controller::agent::{
        Agents,
        fleet::Decided,
        leaving,
        observe::{self, Seen},
        write,
    },
    status::{Failure, Note},
};

/// What the decisions of one reconcile about the Deployment share.
struct Turn<'a> {
    who: &'a Who<'a>,
    desired: Cow<'a, Desired>,
    /// What failed, where the last good revision is to take its place.
    back: Option<Failed>,
    live: Option<Value>,
    policy: Policy,
    /// Side by side: how many pods end their work.
    old: Option<usize>,
    asked: Option<String>,
    /// Whether the revision that `live` has is, or was, ready.
    ready: bool,
    /// An older revision is wanted by name.
    pinned: bool,
    /// The pods that would go have never been given work, whatever goes on in others.
    without_work: bool,
    wanted: bool,
}

impl Turn<'_> {
    /// What an apply remembers besides what it applies.
    fn memory(&self) -> Annotations {
        let (live, back) = (self.live.as_ref(), self.back.as_ref());
        let mut memory = rollback::memory(&self.desired, live, back, self.wanted, self.ready);
        memory.extend(state::seen_annotation(self.asked.as_deref()));
        memory.extend(live.map(decide::annotations).and_then(|marks| verify::kept(&marks)));
        memory
    }

    /// The decision, for the fleet. Nobody waits for its turn to get a first pod or none, or to go back, by itself or
    /// because somebody says so.
    fn decided<'a>(&'a self, marks: Option<&'a Annotations>, now: Timestamp) -> Decided<'a> {
        let pods = self.live.as_ref().and_then(|live| live.pointer("/spec/replicas")).and_then(Value::as_i64);
        let back = self.back.is_some() || self.pinned;
        let exempt = self.live.is_none() || pods == Some(0) || self.desired.suspended || back;
        Decided { of: Of::Server, desired: &self.desired, hash: &self.desired.hash, marks, exempt, now }
    }

    /// What failed consists of, where the last good revision takes its place, or has: the same before and after that is
    /// written, so that no other agent gets it in between.
    fn failed_steps(&self, wanted: &Desired) -> Steps {
        if self.back.is_none() {
            return Steps::new();
        }
        let causes = classify(&self.desired.parts, &wanted.parts).causes;
        steps::steps(Of::Server, wanted, &self.who.namespace, &causes)
    }
}

impl Agents {
    /// The Deployment, through the gate.
    pub(super) async fn deployment(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        work: Work,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let mut turn = self.turn(who, seen, desired, acted.pinned.is_some());
        if let Some(good) = self.good_content(who, &turn).await? {
            turn.desired = Cow::Owned(good);
        }
        let live = turn.live.as_ref();
        acted.back.clone_from(&turn.back);
        let mut action = self.decide(&turn, live, work);
        if acted.undecided(&action) {
            return Ok(());
        }
        self.urgent(who, &action, acted);
        acted.failed_steps = turn.failed_steps(desired);
        if matches!(action, Action::Apply { .. }) {
            // Before prompts are held: a hold is short.
            self.files(who.agent, &turn.desired).await?;
        }
        // From here to the end of the write no Task starts; one that did while this was prepared counts too.
        let mut switch =
            matches!(action, Action::Apply { .. }).then(|| self.context.task_starts.switch(&who.namespace, &who.name));
        if switch.is_some() {
            let work = Work { running_tasks: self.open_tasks(&who.namespace, &who.name).0, ..work };
            action = self.decide(&turn, live, work);
        }
        let mut held = None;
        if matches!(action, Action::Apply { hold: true, .. }) {
            let (confirmed, until) = self.confirm(&turn).await;
            (action, held) = (confirmed, Some(until));
        }
        self.confirm_again(who, "Deployment", held.is_some(), &action, acted);
        let applies = matches!(action, Action::Apply { .. });
        let first = if applies { self.exchange_first(who, seen, &turn.desired, acted).await } else { Ok(true) };
        if !matches!(first, Ok(true)) {
            if held.is_some() {
                self.voice.release(&who.namespace, &who.name).await;
            }
            return first.map(drop);
        }
        let write = self.write_deployment(&turn, &action, acted);
        let applies = applies && live.is_some();
        let (mut written, sent) = match held {
            Some(until) if applies => Box::pin(within(until, "Deployment", write)).await,
            _ => (write.await, true),
        };
        if applies && sent && settle::may_land(&written) {
            let found = Box::pin(self.settle(who, held.is_some(), &mut switch)).await;
            if found.is_some_and(|found| self.decide(&turn, Some(&json!(found)), work) == Action::Keep) {
                (written, acted.wrote) = (Ok(()), true);
            }
        }
        drop(switch);
        if held.is_some() {
            self.voice.release(&who.namespace, &who.name).await;
        }
        let now = self.watch_wait(who, "Deployment", &action);
        acted.wake(&action, now);
        acted.server = Some(action);
        written
    }

    /// The last good revision that is about to take the place of one that failed, with the content from Git that it had, as
    /// far as that is kept: its pods may have other pieces.
    async fn good_content(&self, who: &Who<'_>, turn: &Turn<'_>) -> Result<Option<Desired>, Failure> {
        let applied = turn.live.as_ref().and_then(|live| State::of_deployment(&decide::annotations(live)).applied);
        if turn.back.is_none() || applied.as_ref() == Some(&turn.desired.hash) {
            return Ok(None);
        }
        let record = self.record_of(who.agent, &turn.desired.hash).await?;
        Ok(record.map(|record| record.with_content(&turn.desired)))
    }

    fn turn<'a>(&self, who: &'a Who<'a>, seen: &Seen, desired: &'a Desired, pinned: bool) -> Turn<'a> {
        let live = seen.deployment.as_deref().map(|d| json!(d));
        let asked = who.agent.annotations().get(annotation::ROLLOUT).cloned();
        let wanted = rollback::is_wanted(&seen.spec);
        let server = report::server(seen.deployment.as_deref());
        let pods = self.pods(who.agent);
        let pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        let unverified = seen.deployment.as_deref().and_then(unverified);
        let why = unverified.clone().or_else(|| trouble::trouble(&pods)).unwrap_or_default();
        let failed = unverified.is_some() || matches!(server, report::Server::Failed { .. });
        let failed = failed.then_some(why.as_str());
        let instead = rollback::instead(desired, live.as_ref(), &Look { wanted, asked: asked.as_deref(), failed });
        let applied = seen.deployment.as_deref().and_then(observe::applied_hash);
        let was_ready = who.agent.status.as_ref().and_then(|s| s.rollout.as_ref()?.rolled_out_revision.clone());
        Turn {
            who,
            without_work: instead.is_some() && !trouble::newest(&pods).into_iter().any(trouble::is_ready),
            back: instead.as_ref().map(|(_, failed)| failed.clone()),
            desired: instead.map_or(Cow::Borrowed(desired), |(good, _)| Cow::Owned(good)),
            live,
            pinned,
            policy: decide::policy(&seen.spec),
            old: beside::is_wanted(&seen.spec).then(|| pods.iter().filter(|p| leaving::is_told(p)).count()),
            asked,
            ready: server == report::Server::Ready || applied.is_some() && applied == was_ready,
            wanted,
        }
    }

    fn decide(&self, turn: &Turn<'_>, live: Option<&Value>, work: Work) -> Action {
        let waiting = decide::waiting(live.map(decide::annotations).as_ref());
        let none = Work { running_tasks: 0, activity: gate::Activity::NoServer };
        let at = Situation {
            work: if turn.without_work { none } else { work },
            policy: turn.policy,
            old: turn.old,
            asked: turn.asked.as_deref(),
            now: self.gate_now(turn.who, "Deployment", waiting),
        };
        let marks = live.map(decide::annotations);
        self.paced(turn.who, &turn.decided(marks.as_ref(), at.now), decide::server(&turn.desired, live, &at))
    }

    /// Holds prompts and decides again from what the doors confirm and from the Tasks that run by now. Also returned is
    /// until when the hold lasts for sure.
    async fn confirm(&self, turn: &Turn<'_>) -> (Action, Instant) {
        let (work, until) = self.held_work(turn.who).await;
        (self.decide(turn, turn.live.as_ref(), work), until)
    }

    async fn write_deployment(&self, turn: &Turn<'_>, action: &Action, acted: &mut Acted) -> Result<(), Failure> {
        let (who, desired, live) = (turn.who, &turn.desired, turn.live.as_ref());
        let version = live.and_then(|l| l.pointer("/metadata/resourceVersion")).and_then(Value::as_str);
        let body = match action {
            Action::Keep | Action::Wait { write: false, .. } => return Ok(()),
            Action::Wait { pending, .. } => {
                let Some(live) = live else { return Ok(()) };
                write::remember(live, "apps/v1", "Deployment", &state::pending_annotations(pending))
            }
            Action::Apply { causes, .. } => {
                let mut annotations = state::applied_annotations(&desired.hash, &desired.parts);
                annotations.extend(self.remembered(who.agent, &desired.pieces));
                annotations.insert(state::TEMPLATE_GENERATION.into(), template_generation(live, causes.is_empty()));
                annotations.extend(turn.memory());
                let marks = live.map(decide::annotations);
                annotations.extend(self.change_mark(who, &turn.decided(marks.as_ref(), self.context.now()), causes));
                write::body(&desired.deployment, annotations, version)
            }
        };
        let marks = live.map(decide::annotations);
        let written =
            write::write::<Deployment>(&self.context.client, &who.namespace, body, marks.as_ref(), who.agent).await?;
        let Some(written) = written else {
            // Somebody wrote in between; what was decided may be wrong by now.
            self.deployments.forget(&who.namespace, &names::agent::deployment(&who.name));
            acted.again();
            return Ok(());
        };
        acted.wrote = matches!(action, Action::Apply { .. });
        if live.is_none() {
            acted.begin();
            acted.created = true;
            let message = format!("created Deployment {}", written.name_any());
            acted.notes.push(Note::normal(reasons::DEPLOYMENT_CREATED, "Create", message));
        }
        self.deployments.wrote(written.into());
        Ok(())
    }
}

/// The generation that a write makes (`resourceVersion` pins the one before it), or the one that stays the template's.
fn template_generation(live: Option<&Value>, same: bool) -> String {
    let Some(live) = live else { return "1".into() };
    let kept = live.pointer("/metadata/annotations").and_then(|a| a.get(state::TEMPLATE_GENERATION)?.as_str());
    match kept {
        Some(kept) if same => kept.into(),
        _ => (live.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0) + 1).to_string(),
    }
}
