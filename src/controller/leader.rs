//! Leader election by a Lease: one replica reconciles, the others keep their caches warm.

use std::{future::pending, sync::Arc};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use kube_lease_manager::LeaseManagerBuilder;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{server::metrics::Metrics, status::Failure};

/// Annotation of the Lease: where the leader accepts the sidecars' connections.
pub const ADDRESS_ANNOTATION: &str = "pilothouse.dev/leader-address";

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
    /// Seconds after the last renewal until another replica may take over.
    pub duration_s: u64,
}

/// Leadership as others see it: dropping it gives the Lease back.
pub struct Leadership {
    state: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<kube_lease_manager::Result<kube_lease_manager::LeaseManager>>,
}

impl Election {
    /// Starts to compete; returns at once.
    pub async fn start(&self, client: Client) -> Result<Leadership, Failure> {
        let manager = LeaseManagerBuilder::new(client, &self.lease)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_duration(self.duration_s)
            .with_grace(self.duration_s / 2)
            .build()
            .await
            .map_err(|e| Failure::transient("LeaseFailed", format!("cannot use the Lease {}: {e}", self.lease)))?;
        let (state, task) = manager.watch().await;
        Ok(Leadership { state, task })
    }

    /// Publishes where the leader is reached; followers send sidecars there.
    pub async fn publish_address(&self, client: Client) {
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": self.lease, "annotations": { ADDRESS_ANNOTATION: self.address } },
        });
        let params = PatchParams::apply("pilothouse-leader").force();
        let api = Api::<Lease>::namespaced(client, &self.namespace);
        if let Err(error) = api.patch(&self.lease, &params, &Patch::Apply(body)).await {
            warn!("the leader's address is not published, followers cannot redirect sidecars: {error}");
        }
    }
}

impl Leadership {
    /// Waits until this replica leads.
    pub async fn acquired(&mut self) {
        if self.state.wait_for(|leads| *leads).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Resolves when leadership is lost, also when the election itself broke.
    pub async fn lost(&mut self) {
        let _ = self.state.wait_for(|leads| !*leads).await;
    }

    /// Gives the Lease back so that another replica takes over at once.
    pub async fn release(self) {
        drop(self.state);
        match self.task.await {
            Ok(Ok(_)) => info!("leadership released"),
            Ok(Err(error)) => warn!("the Lease was not given back, others wait for its end: {error}"),
            Err(error) => warn!("leader election ended badly: {error}"),
        }
    }
}

/// Runs `work` while this replica leads. Returns `true` after a graceful stop and `false` when leadership was lost,
/// after which the process must end: a later leader must never meet a late write of this one.
pub async fn while_leading<F>(
    mut leadership: Leadership,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    work: impl FnOnce(CancellationToken) -> F,
) -> bool
where
    F: Future<Output = ()>,
{
    tokio::select! {
        () = leadership.acquired() => {}
        () = stop.cancelled() => {
            leadership.release().await;
            return true;
        }
    }
    info!("this replica leads");
    metrics.set_leader(true);
    let mut working = std::pin::pin!(work(stop.clone()));
    let graceful = tokio::select! {
        () = leadership.lost() => false,
        () = &mut working => true,
    };
    metrics.set_leader(false);
    if graceful {
        leadership.release().await;
    }
    graceful
}
