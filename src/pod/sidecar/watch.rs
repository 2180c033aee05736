//! Follows the server's events and listings, and tells the work.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::watch::{Receiver, Sender},
    time::{MissedTickBehavior, interval, timeout},
};

use super::work::Work;
use crate::pod::opencode::{Client, Error, Event, SessionStatus, Signal};

/// Between listings while something works or is expected to.
const BUSY_POLL: Duration = Duration::from_secs(2);
/// Every this many of those, a listing is read even if nothing works.
const REST: u32 = 15;
/// Directories whose listing is read; more are known from events alone.
const MAX_DIRECTORIES: usize = 32;
const CALL: Duration = Duration::from_secs(5);
/// Between looks whether the server listens on the pod's address.
const EXPOSURE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
struct Facts {
    directories: BTreeSet<String>,
    version: String,
    exposed: bool,
}

/// The server behind the door, and what was learned of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    client: Client,
    work: Work,
    facts: Arc<Mutex<Facts>>,
    /// How often all instances were disposed.
    disposals: Sender<u64>,
}

impl Server {
    pub(super) fn new(client: Client, work: Work) -> Self {
        Self { client: client.with_timeout(CALL), work, facts: Arc::default(), disposals: Sender::new(0) }
    }

    /// A client of the server.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Changes whenever the server has disposed all instances.
    pub(super) fn disposals(&self) -> Receiver<u64> {
        self.disposals.subscribe()
    }

    /// Version of opencode; empty while unknown.
    pub(super) fn version(&self) -> String {
        self.facts.lock().version.clone()
    }

    /// Whether the server answers on the pod's address too, past the door and its password.
    pub(super) fn exposed(&self) -> bool {
        self.facts.lock().exposed
    }

    /// Stops what the sessions of a Task do; those that do nothing stay as they are.
    pub(super) async fn abort(&self, title: &str) -> Result<(), Error> {
        for session in self.client.sessions_of(title).await? {
            self.client.abort(&session.id).await?;
        }
        Ok(())
    }

    /// Never returns. The server is *known* while the event stream stands and the last listing was answered.
    pub(super) async fn follow(self) {
        let mut follower = self.client.global_events();
        let mut poll = interval(BUSY_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut streaming, mut rests) = (false, 0);
        loop {
            tokio::select! {
                signal = follower.next() => match signal {
                    Signal::Connected => {
                        streaming = true;
                        self.greet().await;
                    }
                    Signal::Event(event) => self.event(*event),
                    Signal::Lost(error) => {
                        streaming = false;
                        self.lost(&error);
                    }
                },
                _ = poll.tick(), if streaming => {
                    rests += 1;
                    if self.work.has_sessions() || rests >= REST || !self.work.snapshot().known {
                        rests = 0;
                        self.list().await;
                    }
                }
            }
        }
    }

    async fn greet(&self) {
        if let Ok(health) = self.client.health().await {
            self.facts.lock().version = health.version;
        }
        self.list().await;
    }

    fn event(&self, event: Event) {
        if let Some(directory) = event.directory.filter(|d| d.starts_with('/')) {
            let mut facts = self.facts.lock();
            if facts.directories.len() < MAX_DIRECTORIES {
                facts.directories.insert(directory);
            }
        }
        let (kind, fields) = (event.payload.kind, event.payload.properties);
        if kind == "global.disposed" {
            self.disposals.send_modify(|count| *count += 1);
        }
        if kind == "session.status"
            && let (Some(session), Some(status)) = (fields.session_id, fields.status)
        {
            self.work.update(|activity, now| activity.status(&session, &status, now));
        }
    }

    fn lost(&self, error: &Error) {
        if self.work.snapshot().known {
            tracing::warn!(%error, "the agent's server is not followed any more");
        }
        self.work.update(|activity, now| activity.follow(false, now));
    }

    /// Reads the listing of every directory seen, and the server's own.
    async fn list(&self) {
        match self.listings().await {
            Ok(all) => self.work.update(|activity, now| {
                activity.listed(&all, now);
                activity.follow(true, now);
            }),
            Err(error) => self.lost(&error),
        }
    }

    /// Reads the listings before somebody decides by them: work that came past the door is found too.
    pub(super) async fn confirm(&self) {
        if self.work.snapshot().known {
            match self.listings().await {
                Ok(all) => self.work.update(|activity, now| activity.listed(&all, now)),
                Err(error) => self.lost(&error),
            }
        }
    }

    async fn listings(&self) -> Result<Vec<(String, SessionStatus)>, Error> {
        let directories = self.facts.lock().directories.clone();
        let mut all: Vec<_> = self.client.status().await?.into_iter().collect();
        for directory in &directories {
            all.extend(self.client.clone().in_directory(directory).status().await?);
        }
        Ok(all)
    }

    /// Never returns: looks now and then whether the server can be reached past the door.
    pub(super) async fn look_past_the_door(self, pod: IpAddr, port: u16) {
        loop {
            let connected = timeout(Duration::from_secs(1), TcpStream::connect((pod, port))).await;
            let exposed = matches!(connected, Ok(Ok(_)));
            let before = std::mem::replace(&mut self.facts.lock().exposed, exposed);
            if before != exposed {
                tracing::warn!(exposed, "whether the server listens on the pod's address, past the door, changed");
                self.work.update(super::activity::Activity::note);
            }
            tokio::time::sleep(EXPOSURE).await;
        }
    }
}
