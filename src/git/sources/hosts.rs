//! Politeness towards hosts: few operations at a time, and none before the time until which a host asked to be left alone.
//!
//! What a host says to one namespace, which may have written the path or the credential so that it says it, holds for that
//! namespace with that credential. Whoever shares the host finds out by itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::git::RemoteUrl;

/// A host that asks for more than this is asked again after it all the same.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// How long after the end of a pause somebody comes at the latest.
const LATEST: Duration = Duration::from_secs(30);

pub(super) struct Hosts {
    per_host: usize,
    per_namespace: usize,
    overall: Arc<Semaphore>,
    namespaces: Mutex<HashMap<String, Arc<Semaphore>>>,
    by_name: Mutex<HashMap<String, Arc<Host>>>,
}

struct Host {
    slots: Arc<Semaphore>,
    pauses: Mutex<HashMap<Asker, Instant>>,
}

/// Whom a host asked to leave it alone: the fingerprint of a credential, and a namespace.
type Asker = ([u8; 32], String);

/// Who wants to use a host: one of these namespaces, with this credential.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) credential: [u8; 32],
    pub(super) namespaces: Vec<String>,
}

/// Leave to use a host; given back when dropped.
pub(super) struct Turn {
    asker: Asker,
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
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || host.asks_for_a_pause());
        }
        let new = || Arc::new(Host { slots: Arc::new(Semaphore::new(self.per_host)), pauses: Mutex::default() });
        hosts.entry(name).or_insert_with(new).clone()
    }

    /// Waits until one of the namespaces has no pause, then for a free place: first of the namespace, so that one
    /// namespace never queues in front of all others, then at the host, so that a slow host fills no place that others
    /// could use. After `news` it looks again who asks. `None` never comes in practice: the semaphores are not closed.
    pub(super) async fn turn(&self, url: &RemoteUrl, who: impl Fn() -> Who, news: &Notify) -> Option<Turn> {
        let host = self.host(url);
        loop {
            let asker = match host.first_without_a_pause(who()) {
                Ok(asker) => asker,
                Err(until) => {
                    let until = spread(until, rand::random());
                    tokio::select! { () = tokio::time::sleep_until(until) => {}, () = news.notified() => {} }
                    continue;
                }
            };
            let own = self.namespace(&asker.1).acquire_owned().await.ok()?;
            let place = host.slots.clone().acquire_owned().await.ok()?;
            // The host may have asked for a pause meanwhile; nobody sleeps on a place.
            if host.pause_of(&asker).is_none() {
                let overall = self.overall.clone().acquire_owned().await.ok()?;
                return Some(Turn { asker, _namespace: own, _host: place, _overall: overall });
            }
        }
    }

    /// Whoever had this turn leaves the host alone for `pause`.
    pub(super) fn pause(&self, url: &RemoteUrl, turn: &Turn, pause: Duration) {
        let now = Instant::now();
        let until = now + pause.min(LONGEST_PAUSE);
        let host = self.host(url);
        let mut pauses = host.pauses.lock();
        pauses.retain(|_, until| *until > now);
        let known = pauses.entry(turn.asker.clone()).or_insert(until);
        *known = (*known).max(until);
    }
}

impl Host {
    fn asks_for_a_pause(&self) -> bool {
        let now = Instant::now();
        self.pauses.lock().values().any(|until| *until > now)
    }

    fn pause_of(&self, asker: &Asker) -> Option<Instant> {
        self.pauses.lock().get(asker).copied().filter(|until| *until > Instant::now())
    }

    /// Or when the first pause ends.
    fn first_without_a_pause(&self, Who { credential, namespaces }: Who) -> Result<Asker, Instant> {
        let all = namespaces.into_iter().map(|namespace| (credential, namespace));
        let first = all.map(|asker| (self.pause_of(&asker), asker)).min_by_key(|(until, _)| *until);
        match first {
            Some((None, asker)) => Ok(asker),
            Some((Some(until), _)) => Err(until),
            None => Ok((credential, String::new())),
        }
    }
}

/// Not all who wait for the end of a pause come at that moment: each up to a tenth of it later, 30 s at most. `share` is
/// drawn from `0.0..1.0`.
fn spread(until: Instant, share: f64) -> Instant {
    let left = until.saturating_duration_since(Instant::now());
    until + (left / 10).min(LATEST).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn turn_now(hosts: &Hosts, url: &RemoteUrl, who: &Who) -> Option<Turn> {
        hosts.turn(url, || who.clone(), &Notify::new()).now_or_never().flatten()
    }

    fn who(namespace: &str) -> Who {
        Who { credential: [0; 32], namespaces: vec![namespace.into()] }
    }

    /// A namespace can make a host that others use ask for a pause: by its own token's limit, or by a path of its own.
    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_those_who_were_asked_for_it() {
        let hosts = Hosts::new(10, 10, 10);
        let url = RemoteUrl::parse("https://forge.example.com/a", false).unwrap();
        let now = |who: &Who| turn_now(&hosts, &url, who);
        let turn = now(&who("greedy")).unwrap();
        hosts.pause(&url, &turn, Duration::from_mins(10));
        let both = Who { namespaces: vec!["greedy".into(), "modest".into()], ..who("") };
        let other_token = Who { credential: [1; 32], ..who("greedy") };
        assert!(now(&who("greedy")).is_none());
        assert_eq!(now(&who("modest")).unwrap().asker.1, "modest");
        assert_eq!(now(&both).unwrap().asker.1, "modest", "what two share goes on for the other");
        assert!(now(&other_token).is_some());
        let (news, asks) = (Notify::new(), Mutex::new(who("greedy")));
        let joined = async {
            *asks.lock() = both.clone();
            news.notify_one();
        };
        let start = Instant::now();
        let (turn, ()) = tokio::join!(hosts.turn(&url, || asks.lock().clone(), &news), joined);
        assert!(turn.is_some() && start.elapsed() < Duration::from_secs(1), "who joins does not wait for others");
        tokio::time::advance(Duration::from_secs(601)).await;
        assert!(now(&who("greedy")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn not_all_come_at_the_end_of_a_pause_and_none_before() {
        let (hosts, start) = (Hosts::new(100, 100, 100), Instant::now());
        let url = RemoteUrl::parse("https://forge.example.com/a", false).unwrap();
        let turn = turn_now(&hosts, &url, &who("ns")).unwrap();
        hosts.pause(&url, &turn, Duration::from_mins(10));
        let (nothing, asks) = (Notify::new(), || who("ns"));
        let all = (0..50).map(|_| async {
            hosts.turn(&url, asks, &nothing).await.unwrap();
            start.elapsed()
        });
        let mut came = futures::future::join_all(all).await;
        came.sort();
        let (first, last) = (came[0], came[49]);
        assert!(first >= Duration::from_mins(10) && last <= Duration::from_secs(631), "{first:?} to {last:?}");
        assert!(last > first + Duration::from_secs(10), "{first:?} to {last:?}");
    }

    #[tokio::test]
    async fn one_namespace_leaves_places_for_others() {
        let hosts = Hosts::new(10, 2, 3);
        let url = RemoteUrl::parse("https://slow.example.com/a", false).unwrap();
        let now = |namespace: &str| turn_now(&hosts, &url, &who(namespace));
        let (first, second) = (now("greedy"), now("greedy"));
        assert!(first.is_some() && second.is_some());
        assert!(now("greedy").is_none(), "its places are taken");
        let other = now("modest");
        assert!(other.is_some());
        drop(first);
        assert!(now("greedy").is_some());
    }
}
