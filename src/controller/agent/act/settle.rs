//! A write whose answer did not come: it may still land, when nobody counts any more.
//!
//! Every write of a Deployment names the version that it was decided for. So a further write, of an annotation alone,
//! settles it: either the earlier one has landed before, or it never can.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;
use tokio::{join, time::timeout};

use super::Who;
use crate::{
    agent::{decide, state},
    api::names::{self, reasons},
    controller::{
        agent::{Agents, observe, write},
        task_starts::Switch,
    },
    status::Failure,
};

/// How long prompts are held for it, at most.
const SETTLE: Duration = Duration::from_secs(10);
/// A hold is renewed before it ends.
const RENEW: Duration = Duration::from_secs(2);
/// After this a request lands no more, whatever became of it: an API server ends each after a minute.
const LANDS: Duration = Duration::from_secs(90);
/// How often somebody else may write in between.
const TRIES: u8 = 5;

/// A write that may still land; no Task starts on its agent.
pub(in super::super) struct OpenWrite {
    since: Instant,
    _switch: Switch,
}

/// Whether a write that failed so may have been carried out, or may still be.
pub(super) fn may_land(written: &Result<(), Failure>) -> bool {
    let reason = written.as_ref().err().map(|failure| failure.reason);
    reason.is_some_and(|reason| [reasons::TIMEOUT, reasons::CLUSTER_UNAVAILABLE].contains(&reason))
}

impl Agents {
    /// Settles a write within a bounded time, prompts `held` all along; what the Deployment is then. Where that is not
    /// known in time, no Task starts until [`settle_open`](Self::settle_open) has learned it.
    pub(super) async fn settle(&self, who: &Who<'_>, held: bool, switch: &mut Option<Switch>) -> Option<Deployment> {
        let since = Instant::now();
        let mut fence = pin!(self.fence(who));
        let mut settled = None;
        while settled.is_none() && since.elapsed() < SETTLE {
            let renewal = async {
                if held {
                    self.voice.hold(&who.namespace, &who.name).await;
                }
            };
            ((), settled) = join!(renewal, async { timeout(RENEW, &mut fence).await.ok() });
        }
        if let Some(Ok(found)) = settled {
            return found;
        }
        if let Some(switch) = switch.take() {
            let open = OpenWrite { since, _switch: switch };
            self.open_writes.lock().insert((who.namespace.clone(), who.name.clone()), open);
        }
        None
    }

    /// Settles what an earlier reconcile left open; a failure while it is.
    pub(in super::super) async fn settle_open(&self, who: &Who<'_>) -> Result<(), Failure> {
        let key = (who.namespace.clone(), who.name.clone());
        let Some(since) = self.open_writes.lock().get(&key).map(|open| open.since) else { return Ok(()) };
        let fenced = self.fence(who).await;
        if since.elapsed() < LANDS {
            fenced?;
        }
        self.open_writes.lock().remove(&key);
        Ok(())
    }

    /// After this no write lands that was sent before it. Returned is the Deployment, unless there is none of ours.
    async fn fence(&self, who: &Who<'_>) -> Result<Option<Deployment>, Failure> {
        let (client, name) = (&self.context.client, names::agent::deployment(&who.name));
        for _ in 0..TRIES {
            let Some(live) = write::get::<Deployment>(client, &who.namespace, &name).await? else { return Ok(None) };
            if observe::ours("Deployment", &name, live.owner_references(), who.agent).is_err() {
                return Ok(None);
            }
            let version = live.resource_version().unwrap_or_default();
            let live = json!(live);
            let fence = BTreeMap::from([(state::FENCE.to_owned(), version)]);
            let body = write::remember(&live, "apps/v1", "Deployment", &fence);
            let marks = decide::annotations(&live);
            let written = write::write::<Deployment>(client, &who.namespace, body, Some(&marks), who.agent).await?;
            if let Some(written) = written {
                self.deployments.wrote(written.clone().into());
                return Ok(Some(written));
            }
        }
        Err(Failure::transient(reasons::TIMEOUT, "the Deployment changes too often to see whether a write landed"))
    }
}
