//! Leader election by a Lease: one replica reconciles, the others keep their caches warm.
//!
//! The decisions are in [`crate::status::lease`]. Writes carry the `resourceVersion` that was read, so that two
//! candidates never both win.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::shift::Shift;
use crate::{
    api::names::reasons,
    server::{metrics::Metrics, voice::Leadership},
    status::{
        Failure,
        lease::{Seen, Step, expired, step},
    },
};

/// Annotation of the Lease: where the leader accepts the sidecars' connections.
pub const ADDRESS_ANNOTATION: &str = "pilothouse.dev/leader-address";

/// How often a candidate looks. A Lease that was given back is taken within this.
const LOOK: Duration = Duration::from_secs(1);
/// How often the Lease is given back when somebody writes it meanwhile, such as this replica's own last renewal.
const RELEASES: usize = 3;

const LOST: &str = "leadership was lost; the process ends so that no late write meets the new leader";

/// Which Lease, and who asks for it.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Unique among the replicas: the pod's name.
    pub identity: String,
    /// `host:port` for [`ADDRESS_ANNOTATION`].
    pub address: String,
    /// How long a leader may be silent before another replica takes over.
    pub duration: Duration,
}

/// The Lease as this replica last saw it, and when it last changed by our clock.
struct Sight {
    lease: Option<Lease>,
    since: Instant,
}

impl Sight {
    fn seen(&self) -> Option<Seen> {
        let spec = self.lease.as_ref()?.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
        Some(Seen {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: Duration::from_secs(seconds),
            unchanged_for: self.since.elapsed(),
        })
    }
}

/// A candidate: the election, and what it has seen.
pub struct Candidate {
    election: Election,
    api: Api<Lease>,
    sight: Sight,
    /// When the last renewal was asked for. It came to the API server after that, so others wait for longer than we count.
    renewed: Instant,
    known: watch::Sender<Leadership>,
}

impl Candidate {
    /// Prepares to compete; `known` is told who leads.
    pub fn new(client: Client, election: Election, known: watch::Sender<Leadership>) -> Self {
        let api = Api::namespaced(client, &election.namespace);
        let now = Instant::now();
        Self { election, api, sight: Sight { lease: None, since: now }, renewed: now, known }
    }

    /// Waits until this replica leads.
    pub async fn acquired(&mut self) {
        loop {
            // A half-open connection must not keep a follower from looking again.
            match timeout(self.election.duration / 3, self.look()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(lease = self.election.lease, "leader election: {error}"),
                Err(_) => warn!(lease = self.election.lease, "leader election: the API server does not answer"),
            }
            sleep(LOOK.mul_f64(0.8 + 0.4 * rand::random::<f64>())).await;
        }
    }

    /// Keeps the Lease; resolves when it is lost.
    pub async fn lost(&mut self) {
        let (pause, patience) = (self.election.duration / 4, self.election.duration * 2 / 3);
        let mut tried = self.renewed;
        loop {
            // From one try to the next: slow answers are no reason to give up earlier.
            sleep(pause.saturating_sub(tried.elapsed())).await;
            tried = Instant::now();
            let limit = patience.saturating_sub(self.renewed.elapsed());
            match timeout(limit, self.look()).await {
                Ok(Ok(true)) => {}
                Ok(Err(error)) => warn!("the Lease was not renewed: {error}"),
                Ok(Ok(false)) | Err(_) => return,
            }
            if expired(self.renewed.elapsed(), self.election.duration) {
                return;
            }
        }
    }

    /// Gives the Lease back so that another replica takes over at once.
    pub async fn release(mut self) {
        self.tell(Leadership::Unknown);
        match timeout(Duration::from_secs(5), self.give_back()).await {
            Ok(Ok(true)) => info!("leadership released"),
            Ok(Ok(false)) => info!("the Lease is not this replica's any more"),
            Ok(Err(error)) => warn!("the Lease was not given back, others wait for its end: {error}"),
            Err(_) => warn!("the Lease was not given back in 5 s, others wait for its end"),
        }
    }

    async fn give_back(&mut self) -> Result<bool, kube::Error> {
        for _ in 0..RELEASES {
            let spec = LeaseSpec { lease_duration_seconds: Some(1), ..self.spec("") };
            if self.write(spec).await? {
                return Ok(true);
            }
            // A renewal of which the answer was not waited for.
            let lease = self.api.get_opt(&self.election.lease).await?;
            self.sight = Sight { lease, since: Instant::now() };
            if self.sight.seen().is_none_or(|seen| seen.holder != self.election.identity) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Reads the Lease and does the next step. Whether this replica holds it.
    async fn look(&mut self) -> Result<bool, kube::Error> {
        let asked = Instant::now();
        let lease = self.api.get_opt(&self.election.lease).await?;
        let version = |lease: &Option<Lease>| lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
        if version(&lease) != version(&self.sight.lease) {
            self.sight = Sight { lease, since: Instant::now() };
        }
        let holds = match step(self.sight.seen().as_ref(), &self.election.identity) {
            Step::Follow => false,
            Step::Acquire | Step::Renew => self.write(self.spec(&self.election.identity)).await?,
        };
        if holds {
            self.renewed = asked;
        }
        self.tell(if holds { Leadership::Leader } else { self.leader() });
        Ok(holds)
    }

    /// Where the leader is, by the Lease that was read last.
    fn leader(&self) -> Leadership {
        let annotations = self.sight.lease.as_ref().and_then(|l| l.metadata.annotations.as_ref());
        match annotations.and_then(|a| a.get(ADDRESS_ANNOTATION)).filter(|a| !a.is_empty()) {
            Some(address) => Leadership::Follower(address.clone()),
            None => Leadership::Unknown,
        }
    }

    fn tell(&self, leadership: Leadership) {
        self.known.send_if_modified(|known| {
            let changed = *known != leadership;
            *known = leadership;
            changed
        });
    }

    fn spec(&self, holder: &str) -> LeaseSpec {
        let old = self.sight.lease.as_ref().and_then(|l| l.spec.clone()).unwrap_or_default();
        let now = Some(MicroTime(Timestamp::now()));
        let same = old.holder_identity.as_deref() == Some(holder);
        let changes = old.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: i32::try_from(self.election.duration.as_secs()).ok(),
            renew_time: now.clone(),
            acquire_time: if same { old.acquire_time } else { now },
            lease_transitions: Some(if same || holder.is_empty() { changes } else { changes.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Writes `spec` against what was read; `false` when somebody else was quicker.
    async fn write(&mut self, spec: LeaseSpec) -> Result<bool, kube::Error> {
        let mut metadata = self.sight.lease.as_ref().map_or_else(ObjectMeta::default, |l| l.metadata.clone());
        metadata.name = Some(self.election.lease.clone());
        metadata.managed_fields = None;
        metadata.annotations.get_or_insert_default().insert(ADDRESS_ANNOTATION.into(), self.election.address.clone());
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        let written = match self.sight.lease {
            None => self.api.create(&params, &lease).await,
            Some(_) => self.api.replace(&self.election.lease, &params, &lease).await,
        };
        match written {
            Ok(lease) => {
                self.sight = Sight { lease: Some(lease), since: Instant::now() };
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                debug!("another replica wrote the Lease first");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Works while this replica leads. When it ends nothing of the shift runs any more, and only then the Lease is given back:
/// a later leader must never meet a late write of this one.
///
/// # Errors
/// Leadership was lost, or a loop was: the process must end.
pub async fn while_leading(
    mut candidate: Candidate,
    metrics: &Metrics,
    begin: impl FnOnce() -> Shift,
) -> Result<(), Failure> {
    info!("this replica leads");
    metrics.set_leader(true);
    let mut shift = begin();
    let ended = tokio::select! {
        () = candidate.lost() => Err(Failure::transient(reasons::LEADERSHIP_LOST, LOST)),
        ended = shift.over() => ended,
    };
    let nothing_runs = shift.cut().await;
    metrics.set_leader(false);
    match &ended {
        Err(failure) if failure.reason == reasons::LEADERSHIP_LOST => {}
        _ if nothing_runs => candidate.release().await,
        _ => warn!("something still works: the Lease is not given back, others wait for its end"),
    }
    ended
}

#[cfg(test)]
mod tests;
