//! The receiver's only write: the reconcile annotation.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{index::Target, lane::Lane};
use crate::api::{
    Repository,
    names::{annotation::RECONCILE_AT, manager},
};

/// A write that failed for now is tried this often.
const TRIES: u32 = 3;
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Forges give up after ten seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// How a delivery's request for a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poked {
    /// The controller will look after this delivery came.
    Asked,
    /// The API server did not take the annotation.
    Failed,
    /// The Repository is gone.
    Gone,
}

/// Numbers up to which writes have ended, and up to which they were taken.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    ended: u64,
    taken: u64,
    gone: bool,
}

#[derive(Default)]
struct Slot {
    lane: Mutex<Lane>,
    told: watch::Sender<Told>,
}

/// Writes, one at a time for each Repository.
pub(super) struct Pokes {
    client: Client,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Pokes {
    /// Nothing is under way.
    pub(super) fn new(client: Client) -> Self {
        Self { client, slots: Mutex::default() }
    }

    /// Asks for a look and waits until it is asked for. Deliveries that come together are one write, and none of them
    /// is answered by a write that had begun before it came.
    pub(super) async fn poke(&self, target: &Arc<Target>) -> Poked {
        let slot = self.slots.lock().entry(target.uid.clone()).or_default().clone();
        let mut told = slot.told.subscribe();
        let (number, begin) = slot.lane.lock().ask();
        if begin {
            tokio::spawn(run(self.client.clone(), target.clone(), slot.clone()));
        }
        let ended = tokio::time::timeout(ANSWER_WITHIN, told.wait_for(|told| told.ended >= number)).await;
        match ended {
            Ok(Ok(told)) if told.taken >= number => Poked::Asked,
            Ok(Ok(told)) if told.gone => Poked::Gone,
            _ => Poked::Failed,
        }
    }

    /// Forgets a Repository; a write under way ends.
    pub(super) fn forget(&self, uid: &str) {
        self.slots.lock().remove(uid);
    }
}

/// Writes until nobody has asked since.
async fn run(client: Client, target: Arc<Target>, slot: Arc<Slot>) {
    loop {
        let wait = slot.lane.lock().wait(Instant::now());
        tokio::time::sleep(wait).await;
        let covered = slot.lane.lock().begin(Instant::now());
        // Whoever comes after a panic is not to wait for it.
        let poked = AssertUnwindSafe(write(&client, &target)).catch_unwind().await.unwrap_or(Poked::Failed);
        slot.told.send_modify(|told| {
            told.ended = covered;
            told.gone = poked == Poked::Gone;
            if poked == Poked::Asked {
                told.taken = covered;
            }
        });
        if !slot.lane.lock().end(covered) {
            return;
        }
    }
}

async fn write(client: &Client, target: &Target) -> Poked {
    let Target { namespace, name, uid, .. } = target;
    for attempt in 1..=TRIES {
        let why = match tokio::time::timeout(TRY_TIMEOUT, patch(client, target)).await {
            Ok(Ok(())) => {
                info!(namespace, repository = name, "asked for a look at the remote");
                return Poked::Asked;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Poked::Gone,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server did not answer".to_owned(),
        };
        warn!(namespace, repository = name, uid, attempt, "the reconcile annotation cannot be written: {why}");
        if attempt < TRIES {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Poked::Failed
}

async fn patch(client: &Client, target: &Target) -> kube::Result<()> {
    let api: Api<Repository> = Api::namespaced(client.clone(), &target.namespace);
    let value = jiff::Timestamp::now().to_string();
    // With the uid another object of that name, made meanwhile, is a conflict.
    let body = json!({"metadata": {"uid": target.uid, "annotations": {RECONCILE_AT: value}}});
    let parameters = PatchParams { field_manager: Some(manager::RECEIVER.into()), ..PatchParams::default() };
    api.patch_metadata(&target.name, &parameters, &Patch::Merge(body)).await.map(|_| ())
}
