//! Politeness towards hosts: few operations at a time, and none before a host asked to be left alone until then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::git::RemoteUrl;

/// A host that asks for more than this is asked again after it all the same.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

pub(super) struct Hosts {
    per_host: usize,
    overall: Arc<Semaphore>,
    by_name: Mutex<HashMap<String, Arc<Host>>>,
}

struct Host {
    slots: Arc<Semaphore>,
    not_before: Mutex<Option<Instant>>,
}

/// Leave to use a host; given back when dropped.
pub(super) struct Turn {
    _host: OwnedSemaphorePermit,
    _overall: OwnedSemaphorePermit,
}

impl Hosts {
    pub(super) fn new(per_host: usize, overall: usize) -> Self {
        Self { per_host, overall: Arc::new(Semaphore::new(overall)), by_name: Mutex::default() }
    }

    fn host(&self, url: &RemoteUrl) -> Arc<Host> {
        let name = format!("{}:{}", url.host(), url.port().unwrap_or_default());
        let mut hosts = self.by_name.lock();
        // Hosts that nobody waits for or holds are forgotten, unless they asked for a pause.
        if hosts.len() > 1000 {
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || host.pause().is_some());
        }
        let new = || Arc::new(Host { slots: Arc::new(Semaphore::new(self.per_host)), not_before: Mutex::default() });
        hosts.entry(name).or_insert_with(new).clone()
    }

    /// Waits for a pause to end, then for a free place: first at the host, so that a slow host fills no place that
    /// others could use. `None` never comes in practice: the semaphores are not closed.
    pub(super) async fn turn(&self, url: &RemoteUrl) -> Option<Turn> {
        let host = self.host(url);
        let place = host.slots.clone().acquire_owned().await.ok()?;
        while let Some(until) = host.pause() {
            tokio::time::sleep_until(until).await;
        }
        let overall = self.overall.clone().acquire_owned().await.ok()?;
        Some(Turn { _host: place, _overall: overall })
    }

    /// Leaves the host alone for `pause`.
    pub(super) fn pause(&self, url: &RemoteUrl, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        let host = self.host(url);
        let mut not_before = host.not_before.lock();
        *not_before = (*not_before).max(Some(until));
    }
}

impl Host {
    fn pause(&self) -> Option<Instant> {
        (*self.not_before.lock()).filter(|until| *until > Instant::now())
    }
}
