//! Content from Git that is exchanged in the running pod: into its ConfigMap, and from there to the sidecars.
//!
//! What a pod that starts takes and what the sidecars are told is one decision, written once. Telling them is repeated
//! until they have it, whoever tells: nothing of it has to be remembered beyond a process, and being told twice is
//! being told once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::json;

use super::{Acted, Who};
use crate::{
    agent::{
        Desired,
        build::Exchange,
        decide::{self, Action, Situation},
        effect::classify,
        fleet::Of,
        gate::Work,
        report,
        state::{self, Annotations},
    },
    api::{
        content::{Load, Report},
        names::{self, annotation, reasons},
        rollout,
    },
    controller::agent::{
        Agents,
        fleet::Decided,
        observe::{self, ConfigMapMeta, Seen, ours},
        write,
    },
    status::{Failure, Note},
};

/// How long a sidecar has to say that it was told, before it is told again.
const AGAIN: Duration = Duration::from_secs(5);

/// What an agent's sidecars were told last.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Told {
    hash: String,
    immediately: bool,
    force: bool,
    withdrawn: bool,
    at: Instant,
}

impl Agents {
    /// The ConfigMap: written when the gate opens.
    pub(super) async fn exchange(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        work: Work,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let nothing = || self.fleet.done(&(who.namespace.clone(), who.name.clone()), &[Of::Content]);
        let Some(wanted) = &desired.exchange else {
            nothing();
            return Ok(());
        };
        let live = self.exchange_map(who);
        let map = live.as_ref().map(|l| l.annotations());
        let there = decide::Live {
            map,
            rolled: seen.has_applied(&desired.hash),
            suspended: seen.deployment.as_deref().is_none_or(observe::has_no_pods),
        };
        let at = Situation {
            work,
            policy: decide::live_policy(&seen.spec),
            old: None,
            asked: who.agent.annotations().get(annotation::ROLLOUT).map(String::as_str),
            now: self.gate_now(who, "content", decide::waiting(map)),
        };
        let Some(action) = decide::exchange(desired, there, &at) else {
            nothing();
            return Ok(());
        };
        let exempt = there.suspended || acted.pinned.is_some();
        let action = self.paced(who, &decided(desired, map, exempt, at.now), action);
        if acted.undecided(&action) {
            return Ok(());
        }
        self.urgent(who, &action, acted);
        match &action {
            Action::Keep => self.seal_again(who.agent, &wanted.object).await?,
            Action::Wait { write: false, .. } => {}
            Action::Apply { .. } => {
                if !self.write_exchange(who, desired, wanted, acted).await? {
                    return Ok(());
                }
            }
            Action::Wait { pending, .. } => {
                self.remember_pending(who, &names::agent::content(&who.name), pending, acted).await?;
            }
        }
        let now = self.watch_wait(who, "content", &action);
        acted.wake(&action, now);
        acted.exchange = Some(action);
        Ok(())
    }

    /// A pod template has the ConfigMap that fits it: written just before it, whatever else waits, because new pods start
    /// with what is decided by then. Pods that run are not touched by it. `false`: decide again.
    pub(super) async fn exchange_first(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        acted: &mut Acted,
    ) -> Result<bool, Failure> {
        let Some(wanted) = &desired.exchange else { return Ok(true) };
        let rolled = seen.has_applied(&desired.hash);
        let map = self.exchange_map(who);
        let state = map.map(|map| state::State::of_content(map.annotations())).unwrap_or_default();
        if rolled || state.applied.as_ref() == Some(&wanted.hash) {
            return Ok(true);
        }
        let written = self.write_exchange(who, desired, wanted, acted).await?;
        if written {
            acted.exchange = Some(Action::Keep);
        }
        Ok(written)
    }

    fn exchange_map(&self, who: &Who<'_>) -> Option<Arc<ConfigMapMeta>> {
        self.config_maps.get(&who.namespace, &names::agent::content(&who.name))
    }

    /// What the connected pods say of their content, those that did.
    fn reports(&self, who: &Who<'_>) -> impl Iterator<Item = Arc<Report>> + use<> {
        self.voice.content(&who.namespace, &who.name).into_iter().filter_map(|(_, report)| report)
    }

    /// Whether pods wait for what is decided.
    fn is_lacked(&self, who: &Who<'_>, map: &Annotations) -> bool {
        let pieces = state::pieces(map);
        self.reports(who).any(|report| decide::lacks(map, &pieces, &report))
    }

    /// `false` where somebody wrote in between, or the cache is behind.
    async fn write_exchange(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        wanted: &Exchange,
        acted: &mut Acted,
    ) -> Result<bool, Failure> {
        let live = self.exchange_map(who);
        let map = live.as_ref().map(|l| l.annotations());
        let mut annotations = state::parts_annotation(&wanted.parts);
        annotations.extend(self.remembered(who.agent, &wanted.pieces));
        annotations.extend(self.sealed(who.agent, &wanted.object));
        annotations.insert(state::SHAPE.into(), wanted.shape.clone());
        let asked = who.agent.annotations().get(annotation::ROLLOUT);
        annotations.extend(state::seen_annotation(asked.map(String::as_str)));
        let lacking = map.is_some_and(|map| self.is_lacked(who, map));
        let since = decide::since(wanted, map, lacking, self.context.now());
        annotations.insert(state::SINCE.into(), seconds(since).to_string());
        let before = map.map(|map| state::State::of_content(map).parts);
        let causes = before.map(|before| classify(&before, &wanted.parts).causes).unwrap_or_default();
        let suspended = self.own_deployment(who.agent).as_deref().is_none_or(observe::has_no_pods);
        let exempt = suspended || acted.pinned.is_some();
        annotations.extend(self.change_mark(who, &decided(desired, map, exempt, self.context.now()), &causes));
        let version = live.as_ref().and_then(|l| l.resource_version());
        self.write_map(who, &wanted.object, annotations, version.as_deref(), acted).await
    }

    /// Tells the sidecars what is decided until they have it, or say that they cannot. That goes on while something newer
    /// is wanted and waits. What somebody holds is withdrawn.
    pub(super) async fn tell(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let Some(wanted) = &desired.exchange else {
            self.untell(&who.namespace, &who.name);
            return Ok(());
        };
        let Some(map) = self.exchange_map(who) else { return Ok(()) };
        let marks = map.annotations();
        let Some(manifest) = decide::decided(wanted, marks, || self.recall(who.agent, marks)) else { return Ok(()) };
        // What was decided has the hash that is written down.
        let hash = marks.get(annotation::CONTENT_HASH).cloned().unwrap_or_default();
        let behind: Vec<_> = self.reports(who).filter(|report| is_behind(report, &hash)).collect();
        let asked = who.agent.annotations().get(annotation::ROLLOUT).map(String::as_str);
        let held = decide::is_held(asked);
        let known = |report: &Report| if held { report.wanted != hash } else { report.wanted == hash };
        let heard = behind.iter().all(|report| known(report));
        self.keep_time(who, &map, held, acted).await?;
        if behind.is_empty() || held && heard {
            self.untell(&who.namespace, &who.name);
            return Ok(());
        }
        let load = if held {
            Load { manifest, withdrawn: true, ..Load::default() }
        } else {
            let since = decide::since(wanted, Some(marks), true, self.context.now());
            let (policy, now) = (decide::policy(&seen.spec), self.gate_now(who, "sidecars", Some(since)));
            let immediately = seen.spec.rollout.as_ref().is_some_and(|r| r.live == rollout::Live::Immediately);
            let urgent = hash == wanted.hash && decide::is_urgent(desired, asked);
            let (load, until) = decide::load(manifest, since, policy, (immediately, urgent), now);
            acted.wake_at(until, now);
            load
        };
        if !heard {
            acted.after(AGAIN);
        }
        self.order(who, (hash, load), heard, desired, acted);
        Ok(())
    }

    /// Nothing is to be told: what was is forgotten, and nobody waits for its pods.
    pub(in super::super) fn untell(&self, namespace: &str, name: &str) {
        self.loads.lock().remove(&(namespace.into(), name.into()));
        self.firsts.fetched(namespace, name);
    }

    /// Sends an order, unless it was sent and there is no need to say it again.
    fn order(&self, who: &Who<'_>, (hash, load): (String, Load), heard: bool, desired: &Desired, acted: &mut Acted) {
        let Load { immediately, force, withdrawn, .. } = load;
        let key = (who.namespace.clone(), who.name.clone());
        let told = Told { hash, immediately, force, withdrawn, at: Instant::now() };
        let mut loads = self.loads.lock();
        if is_due(loads.get(&key), &told, heard) {
            acted.notes.extend(forced(loads.get(&key), &told, desired));
            if !told.withdrawn && loads.get(&key).is_none_or(|before| before.hash != told.hash) {
                self.firsts.fetch(&key.0, &key.1);
            }
            loads.insert(key, told);
            self.voice.load(&who.namespace, &who.name, load);
        }
    }

    /// While somebody holds what pods lack, its time does not run; it begins when that ends.
    async fn keep_time(
        &self,
        who: &Who<'_>,
        map: &ConfigMapMeta,
        held: bool,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let lacking = held && self.is_lacked(who, map.annotations());
        let since = decide::held_since(map.annotations(), (held, lacking), seconds(self.context.now()));
        let Some(since) = since else { return Ok(()) };
        let version = map.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {state::SINCE: since}}});
        let (client, name) = (&self.context.client, map.name_any());
        match write::merge_metadata::<ConfigMap>(client, &who.namespace, &name, patch).await? {
            Some(written) => self.config_maps.wrote(written),
            None => acted.soon(),
        }
        Ok(())
    }

    /// Takes the ConfigMap away that no pod has a use for any more.
    pub(super) async fn prune_exchange(&self, who: &Who<'_>, seen: &Seen, desired: &Desired) -> Result<(), Failure> {
        let Some(map) = self.exchange_map(who).filter(|_| desired.exchange.is_none()) else { return Ok(()) };
        // Pods of the template before may still start again.
        if report::server(seen.deployment.as_deref()) != report::Server::Ready && !seen.has_no_pods() {
            return Ok(());
        }
        let (name, uid) = (map.name_any(), map.uid().unwrap_or_default());
        ours("ConfigMap", &name, map.owner_references(), who.agent)?;
        write::delete::<ConfigMap>(&self.context.client, &who.namespace, &name, &uid).await?;
        self.config_maps.forget(&who.namespace, &name);
        Ok(())
    }

    /// Writes beside what is there that something waits.
    pub(super) async fn remember_pending(
        &self,
        who: &Who<'_>,
        map: &str,
        pending: &crate::agent::gate::Pending,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let client = &self.context.client;
        let Some(old) = write::get::<ConfigMap>(client, &who.namespace, map).await? else { return Ok(()) };
        let body = write::remember(&json!(old), "v1", "ConfigMap", &state::pending_annotations(pending));
        let written = write::apply::<ConfigMap>(client, &who.namespace, &body).await?;
        self.took(written.as_ref());
        if written.is_none() {
            acted.soon();
        }
        Ok(())
    }
}

/// The decision about the ConfigMap, for the fleet.
fn decided<'a>(desired: &'a Desired, marks: Option<&'a Annotations>, exempt: bool, now: Timestamp) -> Decided<'a> {
    let hash = desired.exchange.as_ref().map(|exchange| exchange.hash.as_str()).unwrap_or_default();
    Decided { of: Of::Content, desired, hash, marks, exempt: exempt || marks.is_none(), now }
}

/// Annotations show whole seconds.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether a pod lacks what is decided, and may still get it.
fn is_behind(report: &Report, hash: &str) -> bool {
    report.loaded != hash && !(report.failed && report.wanted == hash)
}

/// Whether it is time to tell: never told, something else now, or nobody says to have heard.
fn is_due(before: Option<&Told>, now: &Told, heard: bool) -> bool {
    before.is_none_or(|before| {
        let how = |told: &Told| (told.immediately, told.force, told.withdrawn);
        let same = before.hash == now.hash && how(before) == how(now);
        !same || (!heard && now.at.saturating_duration_since(before.at) >= AGAIN)
    })
}

/// Said once, when what waited until then waits no more. Who protects nothing is not told.
fn forced(before: Option<&Told>, now: &Told, desired: &Desired) -> Option<Note> {
    let waited = before.is_some_and(|before| before.hash == now.hash && !before.force);
    let ids: Vec<_> = desired.exchange.iter().flat_map(|e| e.pieces.keys()).map(String::as_str).collect();
    (waited && now.force).then(|| {
        let message = format!("the protection of work ended: what is new in {} comes now", ids.join(", "));
        Note::warning(reasons::CONTENT_FORCED, "Exchange", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_until_they_have_it_or_cannot() {
        let report = |loaded: &str, wanted: &str, failed: bool| Report {
            loaded: loaded.into(),
            wanted: wanted.into(),
            failed,
            ..Report::default()
        };
        let table = [
            (report("", "", false), true),
            (report("old", "", false), true),
            (report("old", "new", false), true),
            (report("old", "new", true), false),
            (report("old", "older", true), true),
            (report("new", "", false), false),
        ];
        for (report, expected) in table {
            assert_eq!(is_behind(&report, "new"), expected, "{report:?}");
        }
    }

    #[test]
    fn the_same_is_not_told_with_every_reconcile() {
        let start = Instant::now();
        let told = |hash: &str, force: bool, after: Duration| Told {
            hash: hash.into(),
            immediately: false,
            force,
            withdrawn: false,
            at: start + after,
        };
        let before = told("h", false, Duration::ZERO);
        let soon = Duration::from_millis(10);
        assert!(is_due(None, &before, false), "never told");
        assert!(!is_due(Some(&before), &told("h", false, soon), false), "just told");
        assert!(is_due(Some(&before), &told("h", false, AGAIN), false), "nobody heard");
        assert!(!is_due(Some(&before), &told("h", false, AGAIN), true), "it is known and waits");
        assert!(is_due(Some(&before), &told("i", false, soon), true), "something newer");
        assert!(is_due(Some(&before), &told("h", true, soon), true), "something stronger");
        let withdrawn = Told { withdrawn: true, ..told("h", false, soon) };
        assert!(is_due(Some(&before), &withdrawn, false) && is_due(Some(&withdrawn), &before, true), "back, and again");
    }
}
