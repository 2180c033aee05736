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
    per_namespace: usize,
    overall: Arc<Semaphore>,
    namespaces: Mutex<HashMap<String, Arc<Semaphore>>>,
    by_name: Mutex<HashMap<String, Arc<Host>>>,
}

struct Host {
    slots: Arc<Semaphore>,
    not_before: Mutex<Option<Instant>>,
}

/// Leave to use a host; given back when dropped.
pub(super) struct Turn {
    _namespace: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
    _overall: OwnedSemaphorePermit,
}

impl Hosts {
    pub(super) fn new(per_host: usize, per_namespace: usize, overall: usize) -> Self {
        let overall = Arc::new(Semaphore::new(overall));
        Self { per_host, per_namespace, overall, namespaces: Mutex::default(), by_name: Mutex::default() }
    }

    fn namespace(&self, name: &str) -> Arc<Semaphore> {
        let mut namespaces = self.namespaces.lock();
        if namespaces.len() > 1000 {
            namespaces.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let new = || Arc::new(Semaphore::new(self.per_namespace));
        namespaces.entry(name.to_owned()).or_insert_with(new).clone()
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

    /// Waits for a pause to end, then for a free place: first of the namespace, so that one namespace never queues in
    /// front of all others, then at the host, so that a slow host fills no place that others could use. `None` never
    /// comes in practice: the semaphores are not closed.
    pub(super) async fn turn(&self, url: &RemoteUrl, namespace: &str) -> Option<Turn> {
        let (host, own) = (self.host(url), self.namespace(namespace));
        loop {
            while let Some(until) = host.pause() {
                tokio::time::sleep_until(until).await;
            }
            let own = own.clone().acquire_owned().await.ok()?;
            let place = host.slots.clone().acquire_owned().await.ok()?;
            // The host may have asked for a pause meanwhile; nobody sleeps on a place.
            if host.pause().is_none() {
                let overall = self.overall.clone().acquire_owned().await.ok()?;
                return Some(Turn { _namespace: own, _host: place, _overall: overall });
            }
        }
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_namespace_leaves_places_for_others() {
        let hosts = Hosts::new(10, 2, 3);
        let url = RemoteUrl::parse("https://slow.example.com/a", false).unwrap();
        let now = |namespace: &'static str| hosts.turn(&url, namespace).now_or_never().flatten();
        let (first, second) = (now("greedy"), now("greedy"));
        assert!(first.is_some() && second.is_some());
        assert!(now("greedy").is_none(), "its places are taken");
        let other = now("modest");
        assert!(other.is_some());
        drop(first);
        assert!(now("greedy").is_some());
    }
}
