//! What is in the history, what is not yet, and who waits for that (no I/O).

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use crate::store::{SyncRecord, TaskRecord};

/// Namespace and name.
pub(super) type Key = (String, String);

/// Records of deleted objects that wait for the database at most; beyond, the oldest are lost.
pub(super) const LEFT: usize = 1000;

/// See the module.
#[derive(Default)]
pub(super) struct Desk {
    /// Whether this replica writes. The others remember nothing.
    open: bool,
    tasks: BTreeSet<Key>,
    syncs: BTreeSet<Key>,
    left: VecDeque<Left>,
    /// Uids of Tasks that are in the history.
    stored: HashSet<String>,
    /// Hash of what is in the history of a Sync, by uid.
    known: HashMap<String, u64>,
    /// Uids of Tasks that asked, and are not.
    asked: HashSet<String>,
    lost: u64,
}

enum Left {
    Task(Box<TaskRecord>),
    Syncs(Vec<SyncRecord>),
}

/// What to write next.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) tasks: Vec<Key>,
    pub(super) syncs: Vec<Key>,
    /// Of objects that are gone.
    pub(super) left: Records,
}

/// Records.
#[derive(Default)]
pub(super) struct Records {
    pub(super) tasks: Vec<TaskRecord>,
    pub(super) syncs: Vec<SyncRecord>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.syncs.is_empty() && self.left.tasks.is_empty() && self.left.syncs.is_empty()
    }
}

/// What was written of objects that are there.
pub(super) struct Done {
    /// Uid, namespace and name.
    tasks: Vec<(String, Key)>,
    /// Hash of its records by uid, with namespace and name.
    syncs: HashMap<String, (Key, u64)>,
}

impl Done {
    pub(super) fn of(tasks: &[TaskRecord], syncs: &[SyncRecord]) -> Self {
        let mut by_uid = HashMap::<&str, Vec<&SyncRecord>>::new();
        for record in syncs {
            by_uid.entry(&record.uid).or_default().push(record);
        }
        Self {
            tasks: tasks.iter().map(|t| (t.uid.clone(), (t.namespace.clone(), t.name.clone()))).collect(),
            syncs: by_uid
                .into_iter()
                .map(|(uid, records)| (uid.to_owned(), (key(records[0]), hash(records))))
                .collect(),
        }
    }
}

fn key(sync: &SyncRecord) -> Key {
    (sync.namespace.clone(), sync.name.clone())
}

fn hash<'a>(records: impl IntoIterator<Item = &'a SyncRecord>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for r in records {
        (&r.revision, &r.result, r.applied.as_nanosecond(), &r.digest, &r.message).hash(&mut hasher);
    }
    hasher.finish()
}

impl Desk {
    /// This replica writes from now on.
    pub(super) fn begin(&mut self) {
        self.open = true;
    }

    /// A finished Task changed, or is gone and left its record. Whether there is something to write.
    pub(super) fn task(&mut self, key: &Key, uid: &str, left: Option<TaskRecord>) -> bool {
        if !self.open {
            return false;
        }
        let Some(record) = left else {
            return !self.stored.contains(uid) && self.tasks.insert(key.clone());
        };
        self.asked.remove(uid);
        if self.stored.remove(uid) {
            return false;
        }
        self.leave(Left::Task(Box::new(record)));
        true
    }

    /// A Sync changed, or is gone. Whether there is something to write.
    pub(super) fn sync(&mut self, key: &Key, uid: &str, records: Vec<SyncRecord>, deleted: bool) -> bool {
        let known = self.known.get(uid) == Some(&hash(&records));
        if deleted {
            self.known.remove(uid);
        }
        match (self.open && !known && !records.is_empty(), deleted) {
            (false, _) => false,
            (true, false) => self.syncs.insert(key.clone()),
            (true, true) => {
                self.leave(Left::Syncs(records));
                true
            }
        }
    }

    fn leave(&mut self, left: Left) {
        if self.left.len() >= LEFT {
            self.left.pop_front();
            self.lost += 1;
        }
        self.left.push_back(left);
    }

    /// The next to write, `most` of each kind. They are not asked for again unless they change.
    pub(super) fn take(&mut self, most: usize) -> Batch {
        let some = |keys: &mut BTreeSet<Key>| (0..most).map_while(|_| keys.pop_first()).collect();
        let mut batch = Batch { tasks: some(&mut self.tasks), syncs: some(&mut self.syncs), left: Records::default() };
        let count = self.left.len().min(most);
        for left in self.left.drain(..count) {
            match left {
                Left::Task(record) => batch.left.tasks.push(*record),
                Left::Syncs(records) => batch.left.syncs.extend(records),
            }
        }
        batch
    }

    /// These are in the history now. Returns the Tasks that have asked. Of those that are not there any more nothing is
    /// remembered: they were told as deleted already.
    pub(super) fn done(&mut self, done: Done, is_there: impl Fn(&Key, &str) -> bool) -> Vec<Key> {
        for (uid, (key, hash)) in done.syncs {
            if is_there(&key, &uid) {
                self.known.insert(uid, hash);
            }
        }
        let mut woken = vec![];
        for (uid, key) in done.tasks {
            let asked = self.asked.remove(&uid);
            if is_there(&key, &uid) {
                self.stored.insert(uid);
                woken.extend(asked.then_some(key));
            }
        }
        woken
    }

    /// The history will never have one of the records.
    pub(super) fn lose(&mut self) {
        self.lost += 1;
    }

    /// Whether the Task of this uid is in the history. Who is not will be told.
    pub(super) fn is_recorded(&mut self, uid: &str) -> bool {
        self.stored.contains(uid) || {
            self.asked.insert(uid.to_owned());
            false
        }
    }

    /// How many objects' records wait.
    pub(super) fn waiting(&self) -> usize {
        self.tasks.len() + self.syncs.len() + self.left.len()
    }

    /// How many records are lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn key(name: &str) -> Key {
        ("team".into(), name.into())
    }

    fn record(name: &str) -> TaskRecord {
        TaskRecord { uid: name.into(), namespace: "team".into(), name: name.into(), ..TaskRecord::default() }
    }

    fn tried(uid: &str, result: &str) -> SyncRecord {
        SyncRecord {
            uid: uid.into(),
            namespace: "team".into(),
            name: uid.into(),
            revision: "main@1".into(),
            result: result.into(),
            applied: Timestamp::UNIX_EPOCH,
            digest: None,
            message: None,
        }
    }

    fn open() -> Desk {
        let mut desk = Desk::default();
        desk.begin();
        desk
    }

    #[test]
    fn a_replica_that_does_not_write_remembers_nothing() {
        let mut desk = Desk::default();
        assert!(!desk.task(&key("a"), "a", None) && !desk.task(&key("b"), "b", Some(record("b"))));
        assert!(!desk.sync(&key("s"), "s", vec![tried("s", "Applied")], false));
        assert_eq!(desk.waiting(), 0);
    }

    #[test]
    fn a_task_is_written_once_and_who_asked_is_told() {
        let mut desk = open();
        assert!(desk.task(&key("a"), "a", None));
        assert!(!desk.task(&key("a"), "a", None), "it waits already");
        assert!(!desk.is_recorded("a"));
        assert_eq!(desk.take(9).tasks, [key("a")]);
        assert!(desk.take(9).is_empty());
        // It changes while it is written.
        assert!(desk.task(&key("a"), "a", None));
        assert_eq!(desk.done(Done::of(&[record("a")], &[]), |_, _| true), [key("a")]);
        assert!(desk.is_recorded("a"));
        assert_eq!(desk.take(9).tasks, [key("a")], "once more at most");
        assert!(desk.done(Done::of(&[record("a")], &[]), |_, _| true).is_empty());
        assert!(!desk.task(&key("a"), "a", None));
        assert!(!desk.task(&key("a"), "a", Some(record("a"))), "it is in the history");
        assert_eq!(desk.waiting(), 0);
    }

    /// It is deleted while it is written.
    #[test]
    fn of_what_is_gone_nothing_is_remembered() {
        let mut desk = open();
        desk.task(&key("a"), "a", None);
        desk.sync(&key("s"), "s", vec![tried("s", "Applied")], false);
        assert!(!desk.is_recorded("a"));
        desk.take(9);
        assert!(desk.done(Done::of(&[record("a")], &[tried("s", "Applied")]), |_, _| false).is_empty());
        assert_eq!((desk.stored.len(), desk.known.len(), desk.asked.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_deleted_first_leaves_its_record() {
        let mut desk = open();
        desk.task(&key("a"), "a", None);
        assert!(desk.task(&key("a"), "a", Some(record("a"))));
        assert!(desk.sync(&key("s"), "s", vec![tried("s", "Applied"), tried("s", "Failed")], true));
        let batch = desk.take(9);
        assert_eq!((batch.left.tasks.len(), batch.left.syncs.len()), (1, 2));
        assert_eq!(desk.waiting(), 0);
    }

    #[test]
    fn a_sync_is_written_when_it_says_something_else() {
        let mut desk = open();
        let one = vec![tried("s", "Applied")];
        assert!(desk.sync(&key("s"), "s", one.clone(), false));
        desk.take(9);
        desk.done(Done::of(&[], &one), |_, _| true);
        assert!(!desk.sync(&key("s"), "s", one.clone(), false));
        let two = vec![tried("s", "RenderFailed"), tried("s", "Applied")];
        assert!(desk.sync(&key("s"), "s", two.clone(), false));
        desk.take(9);
        desk.done(Done::of(&[], &two), |_, _| true);
        assert!(!desk.sync(&key("s"), "s", two, true));
        assert!(!desk.sync(&key("t"), "t", vec![], false), "it has tried nothing");
    }

    #[test]
    fn memory_is_bounded() {
        let mut desk = open();
        for n in 0..LEFT + 5 {
            desk.task(&key("a"), &n.to_string(), Some(record(&n.to_string())));
        }
        assert_eq!((desk.waiting(), desk.lost()), (LEFT, 5));
        assert_eq!(desk.take(LEFT).left.tasks[0].uid, "5", "the oldest are lost");
        let mut many = open();
        for n in 0..250 {
            many.task(&key(&n.to_string()), &n.to_string(), None);
        }
        assert_eq!(
            (many.take(100).tasks.len(), many.take(100).tasks.len(), many.take(100).tasks.len()),
            (100, 100, 50)
        );
    }
}
