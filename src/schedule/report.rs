//! The words of a decision: status, conditions and events of a `CronTask`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Act, Decision, Times, World};
use crate::{
    api::{
        CronTask, CronTaskStatus, Skip, TaskRef,
        names::{annotation, condition, reasons},
    },
    status::{Condition, Next, Note, condition::remove_condition, set_condition},
};

/// Unfinished Tasks that a status names.
const NAMED: usize = 50;

/// A status in the making.
pub(super) struct Report<'a> {
    cron: &'a CronTask,
    world: &'a World,
    status: CronTaskStatus,
    notes: Vec<Note>,
    now: Timestamp,
}

impl<'a> Report<'a> {
    pub(super) fn new(cron: &'a CronTask, world: &'a World, now: Timestamp) -> Self {
        let mut status = cron.status.clone().unwrap_or_default();
        status.observed_generation = cron.metadata.generation;
        let annotations = cron.metadata.annotations.as_ref();
        status.last_handled_reconcile_at = annotations.and_then(|a| a.get(annotation::RECONCILE_AT)).cloned();
        let mut report = Self { cron, world, status, notes: vec![], now };
        report.count();
        report
    }

    fn count(&mut self) {
        let namespace = self.cron.metadata.namespace.clone().unwrap_or_default();
        let active = self.world.children.iter().filter(|child| !child.finished);
        let mut refs: Vec<_> = active
            .map(|child| TaskRef {
                kind: "Task".into(),
                name: child.name.clone(),
                namespace: namespace.clone(),
                uid: child.uid.clone(),
            })
            .collect();
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        self.status.active = i32::try_from(refs.len()).ok();
        refs.truncate(NAMED);
        self.status.active_refs = refs;
        let succeeded = self.world.children.iter().filter_map(|child| child.succeeded).max();
        let before = self.status.last_successful_time.as_ref().map(|t| t.0);
        self.status.last_successful_time = succeeded.max(before).map(Time);
        self.status.total_executions.get_or_insert(0);
    }

    /// Until when the times of the schedule are dealt with. A schedule that is new counts from now on; a status that was
    /// written when the clock was far ahead counts from now on too.
    pub(super) fn handled_until(&mut self, times: &Times, trusted: SignedDuration) -> Timestamp {
        let (now, status) = (self.now, &mut self.status);
        let latest = now.checked_add(trusted).unwrap_or(Timestamp::MAX);
        let ahead = |time: &Option<Time>| time.as_ref().is_some_and(|t| t.0 > latest);
        let skipped = status.last_skip.as_ref().map(|skip| skip.time.clone());
        let wrong = [&status.last_schedule_time, &skipped, &status.schedule_since].into_iter().any(ahead);
        if wrong {
            status.last_schedule_time = status.last_schedule_time.take().filter(|t| t.0 <= latest);
            status.last_skip = status.last_skip.take().filter(|skip| skip.time.0 <= latest);
        }
        let never_seen = self.cron.status.as_ref().is_none_or(|s| s.conditions.is_empty());
        if wrong || status.observed_schedule.as_ref() != Some(&times.text) {
            let created = self.cron.metadata.creation_timestamp.as_ref().map(|t| t.0).filter(|_| never_seen);
            status.schedule_since = Some(Time(created.filter(|t| *t <= latest).unwrap_or(now)));
            status.observed_schedule = Some(times.text.clone());
        }
        let skipped = status.last_skip.as_ref().map(|skip| skip.time.0);
        let marks =
            [status.last_schedule_time.as_ref().map(|t| t.0), skipped, status.schedule_since.as_ref().map(|t| t.0)];
        marks.into_iter().flatten().max().unwrap_or(now)
    }

    /// Whether it was suspended until now.
    pub(super) fn resumes(&self) -> bool {
        let conditions = self.cron.status.iter().flat_map(|s| &s.conditions);
        conditions.into_iter().any(|c| c.type_ == condition::READY && c.reason == reasons::SUSPENDED)
    }

    fn set(&mut self, condition: &Condition) {
        set_condition(&mut self.status.conditions, condition, self.cron.metadata.generation, self.now);
    }

    fn is_stalled_for(&self, reason: &str) -> bool {
        self.status.conditions.iter().any(|c| c.type_ == condition::STALLED && c.reason == reason)
    }

    fn executed(&mut self) {
        *self.status.total_executions.get_or_insert(0) += 1;
    }

    /// The Task of a time is there.
    pub(super) fn made(&mut self, slot: Timestamp, name: &str) {
        self.status.last_schedule_time = Some(Time(slot));
        self.executed();
        self.notes.push(Note::normal(reasons::TASK_CREATED, "Create", format!("made Task {name} for {slot}")));
    }

    pub(super) fn made_by_hand(&mut self, name: &str) {
        self.executed();
        self.notes.push(Note::normal(reasons::TRIGGERED, "Trigger", format!("made Task {name}, as asked")));
    }

    pub(super) fn not_made_by_hand(&mut self, reason: &'static str, why: &str) {
        self.notes.push(Note::warning(reason, "Trigger", format!("no Task is made by hand: {why}")));
    }

    pub(super) fn replaced(&mut self, name: &str) {
        let text = format!("Task {name} is not finished and is stopped for a new one");
        self.notes.push(Note::normal(reasons::REPLACED_TASKS, "Replace", text));
    }

    /// No Task is made for a time, and none will be.
    pub(super) fn skipped(&mut self, slot: Timestamp, why: skip::Why) {
        if !why.event.is_empty() {
            let text = format!("no Task is made for {slot}: {}", why.message);
            let calm = why.event == reasons::TASK_STILL_ACTIVE;
            let note = if calm { Note::normal } else { Note::warning };
            self.notes.push(note(why.event, "Create", text));
        }
        self.status.last_skip = Some(Skip { time: Time(slot), reason: why.reason.into(), message: why.message });
    }

    /// Times before the one that gets a Task passed unseen.
    pub(super) fn missed(&mut self, count: usize, last: Option<Timestamp>, counted: usize) {
        let Some(last) = last.filter(|_| count > 0) else { return };
        let many = count > counted;
        let reason = if many { reasons::TOO_MANY_MISSED } else { reasons::SLOTS_MISSED };
        let message = "it passed while no controller looked, and a later one got a Task";
        self.status.last_skip = Some(Skip { time: Time(last), reason: reason.into(), message: message.into() });
        let number = if many { format!("more than {counted}") } else { count.to_string() };
        let text =
            format!("{number} times of the schedule passed while no controller looked; only the last one gets a Task");
        self.notes.push(Note::warning(reason, "Create", text));
    }

    /// What comes, and how things are.
    pub(super) fn scheduled(&mut self, coming: &[Timestamp]) {
        self.status.next_schedule_time = coming.first().copied().map(Time);
        self.status.next_schedule_times = coming.iter().copied().map(Time).collect();
        remove_condition(&mut self.status.conditions, condition::STALLED);
        if self.world.is_full(self.cron) {
            self.set(&Condition::no(condition::READY, reasons::MAX_RETAINED_TASKS_REACHED, skip::full(self.cron)));
            return;
        }
        let ran = self.status.last_schedule_time.as_ref().map(|t| t.0);
        let skip = self.status.last_skip.clone().filter(|skip| ran.is_none_or(|ran| skip.time.0 > ran));
        let shown = [reasons::ACTIVE_TASK_EXISTS, reasons::MISSED_DEADLINE];
        let known = skip.and_then(|skip| Some((*shown.iter().find(|known| **known == skip.reason)?, skip.message)));
        let (reason, message) = known.map_or_else(
            || (reasons::SCHEDULED, "the next Task is made at status.nextScheduleTime".to_owned()),
            |(reason, message)| (reason, format!("the last time of the schedule was skipped: {message}")),
        );
        self.set(&Condition::yes(condition::READY, reason, message));
    }

    fn without_times(&mut self) {
        self.status.next_schedule_time = None;
        self.status.next_schedule_times.clear();
    }

    pub(super) fn suspended(mut self) -> Decision {
        self.without_times();
        remove_condition(&mut self.status.conditions, condition::STALLED);
        let message = "no Task is made by schedule; times that pass now are not made up for";
        self.set(&Condition::yes(condition::READY, reasons::SUSPENDED, message));
        self.decide(Act::Nothing, Next::OnEvent)
    }

    pub(super) fn invalid(mut self, reason: &'static str, message: &str) -> Decision {
        self.without_times();
        // What passes until it is mended is not made up for.
        self.status.observed_schedule = None;
        if !self.is_stalled_for(reason) {
            self.notes.push(Note::warning(reason, "Validate", message));
        }
        self.set(&Condition::no(condition::READY, reason, message));
        self.set(&Condition::yes(condition::STALLED, reason, message));
        self.decide(Act::Nothing, Next::OnEvent)
    }

    pub(super) fn decide(self, act: Act, next: Next) -> Decision {
        Decision { act, status: self.status, notes: self.notes, next }
    }
}

/// Why no Task is made for a time.
pub(super) mod skip {
    use crate::api::{CronTask, names::reasons};

    /// A reason.
    pub(in crate::schedule) struct Why {
        /// In the status.
        pub(in crate::schedule) reason: &'static str,
        /// Of the event; none where it is empty.
        pub(in crate::schedule) event: &'static str,
        /// For people.
        pub(in crate::schedule) message: String,
    }

    fn why(reason: &'static str, event: &'static str, message: &str) -> Why {
        Why { reason, event, message: message.into() }
    }

    pub(in crate::schedule) fn suspended() -> Why {
        why(reasons::SUSPENDED, "", "the CronTask was suspended")
    }

    pub(in crate::schedule) fn late() -> Why {
        let message = "the controller came to it after startingDeadlineSeconds";
        why(reasons::MISSED_DEADLINE, reasons::MISSED_DEADLINE, message)
    }

    pub(in crate::schedule) fn active() -> Why {
        let message = "a Task of this CronTask is not finished, and concurrencyPolicy is Forbid";
        why(reasons::ACTIVE_TASK_EXISTS, reasons::TASK_STILL_ACTIVE, message)
    }

    pub(in crate::schedule) fn taken(name: &str) -> String {
        format!("Task {name} exists and does not belong to this CronTask; it is left alone")
    }

    pub(in crate::schedule) fn full(cron: &CronTask) -> String {
        format!(
            "as many of its Tasks exist as maxRetainedTasks allows ({}); delete old ones, or let spec.cleanup of \
             PilothouseConfig do it",
            cron.spec.max_retained_tasks
        )
    }
}
