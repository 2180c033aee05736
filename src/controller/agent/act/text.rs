//! Gathered text: into its ConfigMap, and from there into the pods.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Acted, Touch, Who, hold::within};
use crate::{
    agent::{
        Desired,
        decide::{self, Action, Situation},
        fleet::Of,
        gate::Work,
        state::{self, Annotations},
    },
    api::names::{self, annotation},
    controller::agent::{
        Agents,
        fleet::Decided,
        observe::{self, Seen},
        voice::Said,
        write,
    },
    object::Object,
    status::Failure,
};

impl Agents {
    /// Gathered text: written when idle, with prompts held, then the pods are touched.
    pub(super) async fn text(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        work: Work,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let live = self.config_maps.get(&who.namespace, &names::agent::context(&who.name));
        let annotations: Option<Annotations> = live.as_ref().map(|l| l.annotations().clone());
        let suspended = seen.deployment.as_deref().is_none_or(observe::has_no_pods);
        let asked = who.agent.annotations().get(annotation::ROLLOUT);
        let at = Situation {
            work,
            policy: decide::live_policy(&seen.spec),
            old: None,
            asked: asked.map(String::as_str),
            now: self.gate_now(who, "text", decide::waiting(annotations.as_ref())),
        };
        let decided = Decided {
            of: Of::Text,
            desired,
            hash: &desired.text_hash,
            marks: annotations.as_ref(),
            exempt: suspended || annotations.is_none() || acted.pinned.is_some(),
            now: at.now,
        };
        let decide = |work| {
            let at = Situation { work, ..at };
            self.paced(who, &decided, decide::text(desired, annotations.as_ref(), suspended, &at))
        };
        let (mut action, mut held) = (decide(work), None);
        if acted.undecided(&action) {
            return Ok(());
        }
        if matches!(action, Action::Apply { hold: true, .. }) {
            let (work, until) = self.held_work(who).await;
            (action, held) = (decide(work), Some(until));
        }
        self.confirm_again(who, "text", held.is_some(), &action, acted);
        self.urgent(who, &action, acted);
        match &action {
            Action::Keep | Action::Wait { write: false, .. } => self.let_go(who, held).await,
            Action::Apply { causes, .. } => {
                let version = live.as_ref().and_then(|l| l.resource_version());
                let mut marks = state::parts_annotation(&desired.texts);
                marks.extend(state::seen_annotation(at.asked));
                marks.extend(self.change_mark(who, &decided, causes));
                let write = self.write_map(who, &desired.context, marks, version.as_deref(), acted);
                let written = match held {
                    Some(until) => Box::pin(within(until, "text", write)).await.0,
                    None => write.await,
                };
                self.let_go(who, held).await;
                if !written? {
                    return Ok(());
                }
                if !suspended {
                    let touch = Touch::new(&desired.text_hash, Instant::now());
                    self.touches.lock().insert((who.namespace.clone(), who.name.clone()), touch);
                }
            }
            Action::Wait { pending, .. } => {
                self.let_go(who, held).await;
                self.remember_pending(who, &names::agent::context(&who.name), pending, acted).await?;
            }
        }
        let now = self.watch_wait(who, "text", &action);
        acted.wake(&action, now);
        acted.text = Some(action);
        Ok(())
    }

    /// Prompts pass again, where they were held.
    async fn let_go(&self, who: &Who<'_>, held: Option<Instant>) {
        if held.is_some() {
            self.voice.release(&who.namespace, &who.name).await;
        }
    }

    /// Writes one of the agent's ConfigMaps that change in place, which has `version` in the cache. `false` where somebody
    /// wrote in between, or the cache is behind.
    pub(super) async fn write_map(
        &self,
        who: &Who<'_>,
        wanted: &Object,
        marks: Annotations,
        version: Option<&str>,
        acted: &mut Acted,
    ) -> Result<bool, Failure> {
        let body = write::body(wanted, marks, version);
        let client = &self.context.client;
        let written = match version {
            Some(_) => write::apply::<ConfigMap>(client, &who.namespace, &body).await?,
            None => write::create::<ConfigMap>(client, &who.namespace, &body, who.agent).await?,
        };
        self.took(written.as_ref());
        if written.is_none() {
            self.config_maps.forget(&who.namespace, wanted.name());
            acted.soon();
        }
        Ok(written.is_some())
    }

    /// Makes the kubelet look at the gathered text at once, until the sidecar has seen it.
    pub(super) async fn touch(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        said: Option<&Said>,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let key = (who.namespace.clone(), who.name.clone());
        if !matches!(acted.text, Some(Action::Keep | Action::Apply { .. })) {
            return Ok(());
        }
        let arrived = said.map(|s| s.activity.context_hash == desired.text_hash);
        let Some(attempt) = self.next_touch(&key, &desired.text_hash, arrived, acted) else { return Ok(()) };
        let map = self.config_maps.get(&who.namespace, &names::agent::context(&who.name));
        let version = map.and_then(|m| m.resource_version()).unwrap_or_default();
        let mark = if attempt == 0 { version } else { format!("{version}.{attempt}") };
        for pod in self.pods(who.agent) {
            self.touch_pod(&who.namespace, &pod, &mark).await?;
        }
        self.voice.touched(&who.namespace, &who.name, &desired.text_hash);
        Ok(())
    }

    /// The number of the attempt that is due now, if any. Without a sidecar (`arrived` is `None`) one attempt is all.
    fn next_touch(&self, key: &(String, String), hash: &str, arrived: Option<bool>, acted: &mut Acted) -> Option<u32> {
        let mut touches = self.touches.lock();
        if arrived == Some(true) {
            touches.remove(key);
            return None;
        }
        let now = Instant::now();
        if arrived == Some(false) && touches.get(key).is_none_or(|t| t.hash != hash) {
            touches.insert(key.clone(), Touch::missing(hash, now));
        }
        let touch = touches.get_mut(key)?;
        let (attempt, wait) = touch.due(now, rand::random());
        acted.text_unseen = touch.is_in_vain();
        if attempt.is_some() && arrived.is_none() {
            touches.remove(key);
        } else {
            acted.after(wait);
        }
        attempt
    }

    async fn touch_pod(&self, namespace: &str, pod: &Pod, mark: &str) -> Result<(), Failure> {
        if pod.annotations().get(annotation::CONTEXT_VERSION).map(String::as_str) == Some(mark) {
            return Ok(());
        }
        let patch = touch_patch(pod, mark);
        write::merge_metadata::<Pod>(&self.context.client, namespace, &pod.name_any(), patch).await.map(drop)
    }
}

/// The uid keeps another pod of that name from being meant.
fn touch_patch(pod: &Pod, mark: &str) -> Value {
    json!({ "metadata": { "uid": pod.uid(), "annotations": { annotation::CONTEXT_VERSION: mark } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_means_one_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let patch = json!({"metadata": {"uid": "u", "annotations": {"pilothouse.dev/context-version": "7.1"}}});
        assert_eq!(touch_patch(&pod, "7.1"), patch);
    }
}
