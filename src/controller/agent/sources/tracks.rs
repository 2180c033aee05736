//! Follows remotes for inputs: what a poller finds is made into an artifact, whether or not anybody reconciles the
//! agent. So no tree stays in memory because an agent has other problems.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    packer::{Files, Key, Origin, Packer, Packing, Rules},
    select::Selection,
};
use crate::git::{CommitId, Demand, GitError, RemoteKey, RemoteSpec, RemoteState, Resolved, Sources, Subscriber};

/// A remote, as an input follows it.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) spec: RemoteSpec,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) rules: Rules,
    pub(super) selection: Selection,
    /// The branch to check out of a whole repository, where the remote's answer does not say it.
    pub(super) branch: Option<String>,
    /// The commit whose artifact is known and in the store.
    pub(super) known: Option<CommitId>,
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The commit that the reference named last.
    pub(super) observed: Option<Resolved>,
    /// Why the last listing or fetch failed.
    pub(super) error: Option<GitError>,
    /// How far the artifact of the observed commit is.
    pub(super) packing: Packing,
}

struct Track {
    want: Want,
    key: RemoteKey,
    /// What was told last: the same again is no news.
    told: Option<Progress>,
}

/// All followed remotes, by input.
pub(super) struct Tracks {
    sources: Sources,
    packer: Arc<Packer>,
    by_input: Mutex<HashMap<Subscriber, Track>>,
}

impl Tracks {
    pub(super) fn new(sources: Sources, packer: Arc<Packer>) -> Self {
        Self { sources, packer, by_input: Mutex::default() }
    }

    /// Follows a remote, instead of what the input followed before.
    pub(super) fn follow(&self, who: &Subscriber, want: Want) -> Progress {
        let mut tracks = self.by_input.lock();
        let key = self.sources.key(&want.spec);
        let track =
            tracks.entry(who.clone()).or_insert_with(|| Track { want: want.clone(), key: key.clone(), told: None });
        (track.want, track.key) = (want, key);
        let progress = self.advance(who, track);
        track.told = Some(progress.clone());
        progress
    }

    /// Stops following.
    pub(super) fn leave(&self, who: &Subscriber) {
        if self.by_input.lock().remove(who).is_some() {
            self.sources.unsubscribe(who);
            self.packer.leave(who);
        }
    }

    /// Asks the remote of an input for a listing now.
    pub(super) fn poke(&self, who: &Subscriber) {
        let key = self.by_input.lock().get(who).map(|track| track.key.clone());
        if let Some(key) = key {
            self.sources.poke(&key);
        }
    }

    /// Something may have changed. Whether it is news for whoever follows.
    pub(super) fn woken(&self, who: &Subscriber) -> bool {
        let mut tracks = self.by_input.lock();
        let Some(track) = tracks.get_mut(who) else { return false };
        let progress = Some(self.advance(who, track));
        let news = track.told != progress;
        track.told = progress;
        news
    }

    /// Begins what can be begun, and lets go of the tree as soon as its artifact is made or cannot be.
    fn advance(&self, who: &Subscriber, track: &Track) -> Progress {
        let want = &track.want;
        let RemoteState { observed, error, .. } = self.sources.state(&track.key).unwrap_or_default();
        let packing = observed.as_ref().map_or(Packing::Absent, |observed| self.packing(who, track, observed));
        let made = matches!(packing, Packing::Done(_)).then(|| observed.as_ref().map(|o| o.commit.clone())).flatten();
        let known = made.or_else(|| want.known.clone());
        let (interval, timeout, trees) = (want.interval, want.timeout, !want.selection.is_whole());
        self.sources.subscribe(who, &want.spec, Demand { interval, timeout, trees, known });
        Progress { observed, error, packing }
    }

    fn packing(&self, who: &Subscriber, track: &Track, observed: &Resolved) -> Packing {
        let (want, commit) = (&track.want, &observed.commit);
        if want.selection.is_whole() {
            let branch = observed.branch.clone().or_else(|| want.branch.clone());
            let origin = Origin::Whole { remote: track.key.clone(), commit: commit.clone(), branch };
            let key = Key { origin, selection: want.selection.clone() };
            let packing = self.packer.look(&key, who);
            if packing != Packing::Absent || want.known.as_ref() == Some(commit) {
                return packing;
            }
            self.packer.start(key, who, Files::Remote(self.sources.clone()));
            return Packing::Running;
        }
        let origin = Origin::Commit { remote: track.key.clone(), commit: commit.clone(), rules: want.rules.clone() };
        let key = Key { origin, selection: want.selection.clone() };
        match (self.packer.look(&key, who), self.sources.tree(&track.key, commit)) {
            (Packing::Absent, Some(tree)) if want.known.as_ref() != Some(commit) => {
                self.packer.start(key, who, Files::Tree(tree));
                Packing::Running
            }
            (packing, _) => packing,
        }
    }
}
