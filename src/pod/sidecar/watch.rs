//! Follows the server's events and listings, and tells the work.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::work::Work;
use crate::pod::opencode::{Client, Error, Event, Follower, SessionStatus, Signal};

/// Between listings while something works or is expected to.
const BUSY_POLL: Duration = Duration::from_secs(2);
/// Every this many of those, a listing is read even if nothing works.
const REST: u32 = 15;
/// Directories whose listing is read; more are known from events alone.
const MAX_DIRECTORIES: usize = 32;

struct Watch {
    server: Client,
    work: Work,
    directories: BTreeSet<String>,
    follower: Follower,
}

/// Never returns. The server is *known* while the event stream stands and the last listing was answered.
pub(super) async fn follow(server: Client, work: Work) {
    let follower = server.global_events();
    let mut watch =
        Watch { server: server.with_timeout(Duration::from_secs(5)), work, directories: BTreeSet::new(), follower };
    let mut poll = interval(BUSY_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut streaming, mut rests) = (false, 0);
    loop {
        tokio::select! {
            signal = watch.follower.next() => match signal {
                Signal::Connected => {
                    streaming = true;
                    watch.list().await;
                }
                Signal::Event(event) => watch.event(*event),
                Signal::Lost(error) => {
                    streaming = false;
                    watch.lost(&error);
                }
            },
            _ = poll.tick(), if streaming => {
                rests += 1;
                if watch.work.has_sessions() || rests >= REST || !watch.work.snapshot().known {
                    rests = 0;
                    watch.list().await;
                }
            }
        }
    }
}

impl Watch {
    fn event(&mut self, event: Event) {
        if let Some(directory) = event.directory.filter(|d| d.starts_with('/'))
            && self.directories.len() < MAX_DIRECTORIES
        {
            self.directories.insert(directory);
        }
        let (kind, fields) = (event.payload.kind, event.payload.properties);
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
        let begun = Instant::now();
        match self.listings().await {
            Ok(all) => self.work.update(|activity, now| {
                activity.listed(&all, now);
                activity.follow(true, now);
            }),
            Err(error) => self.lost(&error),
        }
        tracing::trace!(took = ?begun.elapsed(), "listed sessions");
    }

    async fn listings(&self) -> Result<Vec<(String, SessionStatus)>, Error> {
        let mut all: Vec<_> = self.server.status().await?.into_iter().collect();
        for directory in &self.directories {
            all.extend(self.server.clone().in_directory(directory).status().await?);
        }
        Ok(all)
    }
}
