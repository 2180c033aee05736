//! How often Tasks may start on an agent: a window that slides.
//!
//! The starts within it are `status.taskStartHistory` of the Agent, so a restart or another leader forgets none of them.
//! A start is written there before the pod is, and only over the list that was counted.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{self, Task, agent::TaskStart};

/// Starts allowed within any window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many, at least 1.
    pub starts: usize,
    /// Length of the window.
    pub window: SignedDuration,
}

impl Quota {
    /// What the spec says; numbers that the schema would have refused are the nearest it allows.
    pub fn of(spec: &api::Quota) -> Self {
        let starts = usize::try_from(spec.max_task_starts).unwrap_or_default().max(1);
        Self { starts, window: SignedDuration::from_secs(spec.window_seconds.max(1).into()) }
    }

    /// `starts` without those that the window has left behind. One in the future (a clock that was set back) counts as
    /// now.
    pub fn within(&self, starts: &[TaskStart], now: Timestamp) -> Vec<TaskStart> {
        let mut kept: Vec<_> = starts.iter().filter(|s| self.ends(s, now) > now).cloned().collect();
        for start in &mut kept {
            start.start_time = Time(start.start_time.0.min(whole_second(now)));
        }
        kept.sort_by(|a, b| (a.start_time.0, &a.task_name, a.attempt).cmp(&(b.start_time.0, &b.task_name, b.attempt)));
        kept
    }

    /// How many more may start now.
    pub fn left(&self, starts: &[TaskStart], now: Timestamp) -> usize {
        self.starts.saturating_sub(starts.iter().filter(|s| self.ends(s, now) > now).count())
    }

    /// When one more may start; none where one may now.
    pub fn frees_at(&self, starts: &[TaskStart], now: Timestamp) -> Option<Timestamp> {
        let mut ends: Vec<_> = starts.iter().map(|s| self.ends(s, now)).filter(|end| *end > now).collect();
        ends.sort();
        // So many have to leave the window first.
        let too_many = (ends.len() + 1).checked_sub(self.starts)?;
        too_many.checked_sub(1).and_then(|n| ends.get(n)).copied()
    }

    fn ends(&self, start: &TaskStart, now: Timestamp) -> Timestamp {
        start.start_time.0.min(whole_second(now)).checked_add(self.window).unwrap_or(Timestamp::MAX)
    }
}

/// The next whole second: seconds are what the API keeps, and a window must not be shorter than it says.
fn whole_second(now: Timestamp) -> Timestamp {
    let second = now.as_second().saturating_add(i64::from(now.subsec_nanosecond() > 0));
    Timestamp::from_second(second).unwrap_or(now)
}

/// The start of `task` at `now`: each of its tries is one.
pub fn start(task: &Task, now: Timestamp) -> TaskStart {
    let meta = &task.metadata;
    TaskStart {
        task_name: meta.name.clone().unwrap_or_default(),
        task_namespace: meta.namespace.clone().unwrap_or_default(),
        task_uid: meta.uid.clone(),
        attempt: i32::try_from(super::tries(task)).ok().filter(|n| *n > 0),
        start_time: Time(whole_second(now)),
    }
}

/// Whether two entries are the same start.
pub fn same(a: &TaskStart, b: &TaskStart) -> bool {
    (&a.task_uid, &a.task_name, a.attempt) == (&b.task_uid, &b.task_name, b.attempt)
}

/// Both lists, each start once.
pub fn union(known: &[TaskStart], further: &[TaskStart]) -> Vec<TaskStart> {
    let mut all = known.to_vec();
    all.extend(further.iter().filter(|s| !known.iter().any(|k| same(k, s))).cloned());
    all
}

#[cfg(test)]
mod tests;
