//! Writes what was decided, in order: what a pod reads before the pod.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Agents,
    observe::Seen,
    voice::{self, Said},
    write,
};
use crate::{
    agent::{
        Desired,
        decide::{self, Action},
        gate::{Activity, Policy, Work},
        state::{self, Annotations},
    },
    api::{
        Agent,
        names::{self, annotation, manager, reasons},
        voice::Activity as Wire,
    },
    status::{Backoff, Failure, Next, Note},
};

/// First wait before a pod is touched again, doubled up to [`TOUCH_MAX`].
const TOUCH_FIRST: Duration = Duration::from_millis(700);
const TOUCH_MAX: Duration = Duration::from_secs(30);

/// Delays before a confirmation that failed is asked for again.
const CONFIRM: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_mins(1) };
/// A write is not begun when the hold ends sooner.
const WRITE: Duration = Duration::from_millis(300);

/// What a reconcile decided and wrote, for the report.
#[derive(Default)]
pub(super) struct Acted {
    pub server: Option<Action>,
    pub text: Option<Action>,
    pub activity: Option<Wire>,
    pub template_generation: Option<i64>,
    pub notes: Vec<Note>,
    pub next: Next,
    /// The Deployment was made just now; the rest and the report come with its first event.
    pub begun: bool,
}

/// Gathered text on its way into the pods.
pub(super) struct Touch {
    hash: String,
    attempt: u32,
    again: Instant,
}

/// Namespace and name, as most functions here need them.
struct Who<'a> {
    agent: &'a Agent,
    namespace: String,
    name: String,
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
        self.authority(&who.namespace).await?;
        let work = self.work(&who, said.as_ref());
        self.text(&who, seen, desired, work, acted).await?;
        Box::pin(self.deployment(&who, seen, desired, work, acted)).await?;
        if acted.begun {
            return Ok(());
        }
        self.service(&who, desired, acted).await?;
        self.prune(&who, desired, acted).await?;
        self.touch(&who, desired, said.as_ref(), acted).await
    }

    fn work(&self, who: &Who<'_>, said: Option<&Said>) -> Work {
        let running = self.running_pods(who.agent);
        Work { running_tasks: self.open_tasks(&who.namespace, &who.name).0, activity: voice::activity(said, &running) }
    }

    /// Gathered text: written when idle, then the pods are touched.
    async fn text(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        work: Work,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let live = self.config_maps.get(&who.namespace, &names::agent::context(&who.name));
        let annotations: Option<Annotations> = live.as_ref().map(|l| l.annotations().clone());
        let suspended = seen.deployment.as_deref().is_none_or(super::observe::has_no_pods);
        let policy = decide::live_policy(&seen.spec);
        let action = decide::text(desired, annotations.as_ref(), suspended, work, policy, self.context.now());
        match &action {
            Action::Keep | Action::Wait { write: false, .. } => {}
            Action::Apply { .. } => {
                let version = live.as_ref().and_then(|l| l.resource_version());
                let body = write::body(&desired.context, Annotations::new(), version.as_deref());
                let client = &self.context.client;
                let written = match version {
                    Some(_) => write::apply::<ConfigMap>(client, &who.namespace, &body).await?,
                    None => write::create::<ConfigMap>(client, &who.namespace, &body, who.agent).await?,
                };
                self.took(written.as_ref());
                if written.is_none() {
                    // Somebody wrote in between, or the cache is behind.
                    self.config_maps.forget(&who.namespace, &names::agent::context(&who.name));
                    acted.soon();
                    return Ok(());
                }
                if !suspended {
                    let touch = Touch { hash: desired.text_hash.clone(), attempt: 0, again: Instant::now() };
                    self.touches.lock().insert((who.namespace.clone(), who.name.clone()), touch);
                }
            }
            Action::Wait { pending, .. } => {
                let Some(old) =
                    write::get::<ConfigMap>(&self.context.client, &who.namespace, &names::agent::context(&who.name))
                        .await?
                else {
                    return Ok(());
                };
                let body = remember(&json!(old), "v1", "ConfigMap", &state::pending_annotations(pending));
                let written = write::apply::<ConfigMap>(&self.context.client, &who.namespace, &body).await?;
                self.took(written.as_ref());
                if written.is_none() {
                    acted.soon();
                }
            }
        }
        acted.wake(&action, self.context.now());
        acted.text = Some(action);
        Ok(())
    }

    async fn service(&self, who: &Who<'_>, desired: &Desired, acted: &mut Acted) -> Result<(), Failure> {
        let live = self.services.get(&who.namespace, &who.name);
        if live.as_ref().is_some_and(|l| decide::same_object(&json!(&**l), desired.service.value())) {
            return Ok(());
        }
        let version = live.as_ref().and_then(|l| l.resource_version());
        let body = write::body(&desired.service, Annotations::new(), version.as_deref());
        let marked = live.as_ref().map(|l| write::is_marked(&json!(&**l)));
        let service = write::write::<Service>(&self.context.client, &who.namespace, &body, marked, who.agent).await?;
        let Some(service) = service else {
            self.services.forget(&who.namespace, &who.name);
            acted.soon();
            return Ok(());
        };
        self.services.wrote(service);
        if live.is_none() {
            acted.notes.push(Note::normal("ServiceCreated", "Create", format!("created Service {}", who.name)));
        }
        Ok(())
    }

    /// The Deployment, through the gate.
    async fn deployment(
        &self,
        who: &Who<'_>,
        seen: &Seen,
        desired: &Desired,
        work: Work,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let live = seen.deployment.as_deref().map(|d| json!(d));
        let policy = decide::policy(&seen.spec);
        let mut action = decide::server(desired, live.as_ref(), work, policy, self.context.now());
        if matches!(action, Action::Apply { .. }) {
            // Before prompts are held: a hold is short.
            self.files(who.agent, desired).await?;
        }
        let mut held = None;
        if matches!(action, Action::Apply { hold: true, .. }) {
            let (confirmed, until) = self.confirm(who, desired, live.as_ref(), policy).await;
            (action, held) = (confirmed, Some(until));
        }
        self.confirm_again(who, held.is_some(), &action, acted);
        let write = self.write_deployment(who, desired, live.as_ref(), &action, acted);
        let written = match held {
            Some(until) if matches!(action, Action::Apply { .. }) => Box::pin(within(until, write)).await,
            _ => write.await,
        };
        if held.is_some() {
            self.voice.release(&who.namespace, &who.name).await;
        }
        acted.wake(&action, self.context.now());
        acted.server = Some(action);
        written
    }

    /// Holds prompts and decides again from what the doors confirm and from the Tasks that run by now. Also returned is
    /// until when the hold lasts for sure.
    async fn confirm(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        live: Option<&Value>,
        policy: Policy,
    ) -> (Action, Instant) {
        let until = Instant::now() + voice::HOLD;
        let said = self.voice.hold(&who.namespace, &who.name).await;
        let running = self.running_pods(who.agent);
        let activity =
            if running.is_empty() { Activity::NoServer } else { voice::held_activity(said.as_ref(), &running) };
        let work = Work { running_tasks: self.open_tasks(&who.namespace, &who.name).0, activity };
        (decide::server(desired, live, work, policy, self.context.now()), until)
    }

    /// A confirmation that did not come (no answer, an order refused) is no event: it is asked for again.
    fn confirm_again(&self, who: &Who<'_>, asked: bool, action: &Action, acted: &mut Acted) {
        let key = (who.namespace.clone(), who.name.clone());
        let mut refused = self.refused.lock();
        if !asked || !matches!(action, Action::Wait { .. }) {
            refused.remove(&key);
            return;
        }
        let count = refused.entry(key).and_modify(|n| *n = n.saturating_add(1)).or_insert(1);
        acted.after(CONFIRM.delay(*count, rand::random()));
    }

    async fn write_deployment(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        live: Option<&Value>,
        action: &Action,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let version = live.and_then(|l| l.pointer("/metadata/resourceVersion")).and_then(Value::as_str);
        let body = match action {
            Action::Keep | Action::Wait { write: false, .. } => return Ok(()),
            Action::Wait { pending, .. } => {
                let Some(live) = live else { return Ok(()) };
                remember(live, "apps/v1", "Deployment", &state::pending_annotations(pending))
            }
            Action::Apply { causes, .. } => {
                let mut annotations = state::applied_annotations(&desired.hash, &desired.parts);
                annotations.insert(state::TEMPLATE_GENERATION.into(), template_generation(live, causes.is_empty()));
                write::body(&desired.deployment, annotations, version)
            }
        };
        let marked = live.map(write::is_marked);
        let written =
            write::write::<Deployment>(&self.context.client, &who.namespace, &body, marked, who.agent).await?;
        let Some(written) = written else {
            // Somebody wrote in between; what was decided may be wrong by now.
            self.deployments.forget(&who.namespace, &names::agent::deployment(&who.name));
            acted.soon();
            return Ok(());
        };
        if live.is_none() {
            acted.begin();
            let message = format!("created Deployment {}", written.name_any());
            acted.notes.push(Note::normal("DeploymentCreated", "Create", message));
        }
        self.deployments.wrote(written);
        Ok(())
    }

    /// The last two `ConfigMaps` of files stay: the present one and the one before, which old pods may still mount.
    async fn prune(&self, who: &Who<'_>, desired: &Desired, acted: &Acted) -> Result<(), Failure> {
        if !matches!(acted.server, Some(Action::Keep)) {
            return Ok(());
        }
        let prefix = names::agent::files_prefix(&who.name);
        let uid = who.agent.uid().unwrap_or_default();
        let mut maps = self.maps_of.objects(&who.namespace, &who.name);
        maps.retain(|map| {
            let name = map.name_any();
            name.starts_with(&prefix)
                && name != desired.files.name()
                && map.owner_references().iter().any(|o| o.uid == uid)
        });
        maps.sort_by_key(|map| std::cmp::Reverse((map.creation_timestamp().map(|t| t.0), map.name_any())));
        for old in maps.iter().skip(1) {
            let uid = old.uid().unwrap_or_default();
            write::delete::<ConfigMap>(&self.context.client, &who.namespace, &old.name_any(), &uid).await?;
        }
        Ok(())
    }

    /// Makes the kubelet look at the gathered text at once, until the sidecar has seen it.
    async fn touch(
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
            touches.insert(key.clone(), Touch { hash: hash.into(), attempt: 0, again: now + TOUCH_FIRST });
        }
        let touch = touches.get_mut(key)?;
        if touch.again > now {
            acted.after(touch.again - now);
            return None;
        }
        let attempt = touch.attempt;
        if arrived.is_none() {
            touches.remove(key);
            return Some(attempt);
        }
        let wait = TOUCH_MAX.min(TOUCH_FIRST * 2_u32.saturating_pow(attempt.min(10)));
        touch.attempt = attempt.saturating_add(1);
        touch.again = now + wait;
        acted.after(wait);
        Some(attempt)
    }

    async fn touch_pod(&self, namespace: &str, pod: &Pod, mark: &str) -> Result<(), Failure> {
        if pod.annotations().get(annotation::CONTEXT_VERSION).map(String::as_str) == Some(mark) {
            return Ok(());
        }
        let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
        let patch = json!({ "metadata": { "annotations": { annotation::CONTEXT_VERSION: mark } } });
        let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
        match api.patch_metadata(&pod.name_any(), &params, &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => write::limited("touching a pod", async { answer }).await.map(|_| ()),
        }
    }
}

impl Acted {
    fn after(&mut self, delay: Duration) {
        self.next = self.next.or_earlier(Next::After(delay));
    }

    /// Pods take long to start, and other agents may wait for theirs: those go first.
    fn begin(&mut self) {
        self.begun = true;
        self.soon();
    }

    /// The cache is behind; its next event wakes the agent as well.
    fn soon(&mut self) {
        self.after(Duration::from_millis(200));
    }

    /// A wait with an end wakes at its end.
    fn wake(&mut self, action: &Action, now: Timestamp) {
        if let Action::Wait { until: Some(until), .. } = action {
            let left = until.duration_since(now);
            self.after(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(50));
        }
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

/// Runs a write that is right only while prompts are held; what was decided is decided again after that.
async fn within(until: Instant, write: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let left = until.saturating_duration_since(Instant::now());
    let answer = if left < WRITE { None } else { tokio::time::timeout(left, write).await.ok() };
    answer.unwrap_or_else(|| {
        let message = "the Deployment could not be written while prompts were held; the rollout is decided again";
        Err(Failure::transient(reasons::TIMEOUT, message))
    })
}

/// What is there, as we would apply it, with further annotations: the template stays as it is, only annotations
/// change. Fields that nobody asked for (defaults) become ours by this, and nobody's again with the next real apply.
fn remember(live: &Value, api_version: &str, kind: &str, annotations: &Annotations) -> Value {
    let of = |pointer: &str| live.pointer(pointer).cloned().unwrap_or(Value::Null);
    let kept = live.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut marks: BTreeMap<String, Value> = kept
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(names::PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    marks.extend(annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
    let mut body = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {
            "name": of("/metadata/name"), "namespace": of("/metadata/namespace"),
            "resourceVersion": of("/metadata/resourceVersion"),
            "labels": of("/metadata/labels"), "ownerReferences": of("/metadata/ownerReferences"),
            "annotations": marks,
        },
    });
    for field in ["spec", "data", "binaryData", "immutable"] {
        if let Some(value) = live.get(field) {
            body[field] = value.clone();
        }
    }
    body
}
