//! What the kubelet asks the door.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::watch;

use super::{door::Age, route::Probe};
use crate::pod::opencode::Client;

/// While the door is younger than this, the server counts as alive: a restart of the door must not kill it.
pub const YOUNG: Duration = Duration::from_mins(1);

/// The door's own answers.
#[derive(Clone, Debug)]
pub struct Probes {
    server: Client,
    /// `Ok` when all content is in place, else what is missing.
    content: watch::Receiver<Result<(), Arc<str>>>,
    age: Age,
}

impl Probes {
    /// Probes that ask `server`, which should have a short timeout (the kubelet's is one second unless set).
    pub fn new(server: Client, content: watch::Receiver<Result<(), Arc<str>>>, age: Age) -> Self {
        Self { server, content, age }
    }

    /// Status and text of one probe.
    pub async fn answer(&self, probe: Probe) -> (StatusCode, String) {
        let ok = (StatusCode::OK, "ok".to_owned());
        let verdict = match probe {
            // The door answers the latter two itself.
            Probe::Health | Probe::Drained | Probe::Proof => return ok,
            Probe::ServerLive if self.age.younger_than(YOUNG) => return ok,
            Probe::ServerLive => self.server().await,
            Probe::Started => self.content(),
            Probe::Ready => match self.content() {
                Ok(()) => self.server().await,
                missing => missing,
            },
        };
        verdict.map_or_else(|why| (StatusCode::SERVICE_UNAVAILABLE, why), |()| ok)
    }

    fn content(&self) -> Result<(), String> {
        self.content.borrow().clone().map_err(|why| why.to_string())
    }

    async fn server(&self) -> Result<(), String> {
        match self.server.health().await {
            Ok(health) if health.healthy => Ok(()),
            Ok(_) => Err("the agent's server says that it is not healthy".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
