//! What this process has written and the cache may not show yet.

use std::collections::{BTreeSet, HashMap};

use kube::ResourceExt;
use parking_lot::Mutex;

use super::Work;
use crate::api::CronTask;

/// By namespace and name.
#[derive(Default)]
pub(super) struct Memory {
    known: Mutex<HashMap<(String, String), Known>>,
    /// Uids of those of which the cache has been as new as the API server: it never goes back.
    followed: Mutex<HashMap<(String, String), String>>,
}

struct Known {
    /// The object as it was left.
    cron: CronTask,
    /// Versions of the cache that are older than it.
    older: BTreeSet<String>,
}

impl Memory {
    /// Begins with the newest that is known: what the cache has, unless it is older than what was written here.
    pub(super) fn begin(&self, cached: &CronTask) -> Work {
        let version = cached.resource_version().unwrap_or_default();
        let known = self.known.lock();
        let newer = known.get(&key(cached)).filter(|k| k.older.contains(&version) && k.cron.uid() == cached.uid());
        let (cron, older) =
            newer.map_or_else(|| (cached.clone(), BTreeSet::new()), |k| (k.cron.clone(), k.older.clone()));
        let (taken, stopped) = (BTreeSet::new(), BTreeSet::new());
        Work { before: cron.status.clone(), cron, older, taken, stopped, notes: vec![] }
    }

    /// Keeps how the object was left, if that is not how the cache has it.
    pub(super) fn keep(&self, cached: &CronTask, work: &Work) {
        let same = work.cron.status == cached.status && work.cron.annotations() == cached.annotations();
        if same {
            self.known.lock().remove(&key(cached));
            return;
        }
        let mut older = work.older.clone();
        older.extend(cached.resource_version());
        older.extend(work.cron.resource_version());
        self.known.lock().insert(key(cached), Known { cron: work.cron.clone(), older });
    }

    /// Whether the cache has shown an object as the API server had it at that moment.
    pub(super) fn is_followed(&self, cached: &CronTask) -> bool {
        self.followed.lock().get(&key(cached)) == cached.metadata.uid.as_ref()
    }

    /// The cache is as new as the API server.
    pub(super) fn follows(&self, cached: &CronTask) {
        self.followed.lock().insert(key(cached), cached.uid().unwrap_or_default());
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.followed.lock().remove(&(namespace.to_owned(), name.to_owned()));
        self.known.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }
}

fn key(cron: &CronTask) -> (String, String) {
    (cron.namespace().unwrap_or_default(), cron.name_any())
}
