//! One decision from a `CronTask`, its Tasks and the time.
//!
//! Nothing is remembered but what stands in the status and what is there: the name of a Task follows from the time it is
//! for, so whoever decides twice, or after a crash, or at the same time as somebody else, makes the same Task again, which
//! the API server refuses.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use sha2::{Digest, Sha256};

use super::{
    Schedule, child,
    child::Child,
    cron,
    report::{Report, skip},
};
use crate::{
    api::{
        self, ConcurrencyPolicy, CronTask, CronTaskStatus, Task,
        names::{self, annotation, condition, reasons},
        not_yet,
    },
    status::{Condition, Failure, Next, Note, set_condition},
};

/// How far ahead of the clock a time in the status may be. Beyond, the clock was wrong when it was written.
const TRUSTED: SignedDuration = SignedDuration::from_mins(10);

/// How long after it was asked for a run by hand may still be made under that time.
const BY_HAND: SignedDuration = SignedDuration::from_hours(24);

/// Missed times that are counted.
const COUNTED: usize = 100;

/// The smallest difference of two times.
const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// Everything besides the `CronTask` that a decision depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Its Tasks, finished ones too.
    pub children: Vec<Child>,
    /// Names of Tasks that were to be made and belong to somebody else.
    pub taken: BTreeSet<String>,
}

impl World {
    fn has(&self, name: &str) -> bool {
        self.children.iter().any(|child| child.name == name)
    }

    fn active(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().filter(|child| !child.finished)
    }

    /// Whether as many Tasks exist as may.
    pub(super) fn is_full(&self, cron: &CronTask) -> bool {
        usize::try_from(cron.spec.max_retained_tasks).is_ok_and(|max| self.children.len() >= max)
    }
}

/// What is done to the world, one thing at a time: then it is decided again.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Nothing: the status is written.
    Nothing,
    /// The trigger annotation gets a time, and with it the Task its name.
    Claim {
        /// The time, in whole seconds.
        at: Timestamp,
    },
    /// A Task is asked to stop.
    Stop {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// A Task is made.
    Create(Box<Task>),
    /// The trigger annotation is taken away.
    Clear,
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is done first.
    pub act: Act,
    /// The status, whole.
    pub status: CronTaskStatus,
    /// Events.
    pub notes: Vec<Note>,
    /// When the `CronTask` is looked at again if nothing changes.
    pub next: Next,
}

/// Whether no Tasks are to be made by schedule: by its annotation or its spec.
pub fn is_suspended(cron: &CronTask) -> bool {
    api::is_suspended(&cron.metadata, cron.spec.suspend)
}

fn annotation_of<'a>(cron: &'a CronTask, key: &str) -> Option<&'a str> {
    cron.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What happens to `cron` now. Total: every `CronTask` and every world have an answer.
pub fn decide(cron: &CronTask, world: &World, now: Timestamp) -> Decision {
    let report = Report::new(cron, world, now);
    if cron.metadata.deletion_timestamp.is_some() {
        return report.decide(Act::Nothing, Next::OnEvent);
    }
    let refused = refused(cron);
    if let Some(value) = annotation_of(cron, annotation::TRIGGER) {
        return by_hand(cron, world, value, refused.as_ref(), report, now);
    }
    if let Some((reason, message)) = refused {
        return report.invalid(reason, &message);
    }
    match Times::of(cron) {
        Err(message) => report.invalid(reasons::INVALID_SCHEDULE, &message),
        Ok(_) if is_suspended(cron) => report.suspended(),
        Ok(times) => by_schedule(cron, world, &times, report, now),
    }
}

/// Whether a Task for `at` would be made, or made again if it were gone: its time is not written down, or the wish for it
/// is still there.
pub fn is_owed(cron: &CronTask, at: Timestamp, now: Timestamp) -> bool {
    if cron.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let asked = annotation_of(cron, annotation::TRIGGER).and_then(|value| value.parse::<Timestamp>().ok());
    let world = World::default();
    let mut report = Report::new(cron, &world, now);
    let scheduled = |times: Times| !report.resumes() && times.is_one(at) && report.handled_until(&times, TRUSTED) < at;
    asked == Some(at) || Times::of(cron).is_ok_and(scheduled)
}

/// Why no Task can be made at all: reason and message.
fn refused(cron: &CronTask) -> Option<(&'static str, String)> {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    if name.len() > crate::api::crontask::MAX_NAME {
        return Some((reasons::INVALID_SPEC, "the name has more than 52 characters".into()));
    }
    let fields = not_yet::unsupported_in_template(&cron.spec.task_template.spec);
    (!fields.is_empty()).then(|| (reasons::NOT_YET_SUPPORTED, not_yet::message(&fields)))
}

/// A run that somebody asked for. It needs no schedule, does not count as one of its times, and waits for nobody.
fn by_hand(
    cron: &CronTask,
    world: &World,
    value: &str,
    refused: Option<&(&'static str, String)>,
    mut report: Report<'_>,
    now: Timestamp,
) -> Decision {
    if ["", "false"].contains(&value) {
        return report.decide(Act::Clear, Next::OnEvent);
    }
    let asked = value.parse::<Timestamp>().ok().filter(|at| now.duration_since(*at).abs() <= BY_HAND);
    let Some(at) = asked else {
        let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
        return report.decide(Act::Claim { at }, Next::OnEvent);
    };
    let name = task_name(cron, at);
    if world.has(&name) {
        report.made_by_hand(&name);
    } else if let Some((reason, message)) = refused {
        report.not_made_by_hand(reason, message);
    } else if world.taken.contains(&name) {
        report.not_made_by_hand(reasons::NAME_CONFLICT, &skip::taken(&name));
    } else if world.is_full(cron) {
        report.not_made_by_hand(reasons::MAX_RETAINED_TASKS_REACHED, &skip::full(cron));
    } else {
        return report.decide(Act::Create(Box::new(child::build(cron, at))), Next::OnEvent);
    }
    report.decide(Act::Clear, Next::OnEvent)
}

fn task_name(cron: &CronTask, at: Timestamp) -> String {
    names::crontask::task(cron.metadata.name.as_deref().unwrap_or_default(), at.as_second())
}

/// When a `CronTask` is due.
pub(super) struct Times {
    schedule: Schedule,
    zone: TimeZone,
    jitter: SignedDuration,
    /// Schedule and zone, as the status names them.
    pub(super) text: String,
}

impl Times {
    fn of(cron: &CronTask) -> Result<Self, String> {
        let name = cron.spec.time_zone.as_deref().unwrap_or("UTC");
        let schedule = Schedule::parse(&cron.spec.schedule);
        let schedule = schedule.map_err(|e| format!("spec.schedule {:?}, {e}", cron.spec.schedule))?;
        let zone = cron::zone(name).map_err(|e| format!("spec.timeZone: {e}"))?;
        Ok(Self { schedule, zone, jitter: jitter(cron), text: format!("{} {name}", cron.spec.schedule.trim()) })
    }

    /// The times after `time`.
    pub(super) fn after(&self, time: Timestamp) -> impl Iterator<Item = Timestamp> {
        self.schedule.after(time, &self.zone)
    }

    /// The time before `slot`.
    fn before(&self, slot: Timestamp) -> Option<Timestamp> {
        self.schedule.last(slot.checked_sub(TICK).ok()?, Timestamp::MIN, &self.zone)
    }

    /// Whether the schedule names `time`.
    fn is_one(&self, time: Timestamp) -> bool {
        self.schedule.last(time, time, &self.zone) == Some(time)
    }

    /// The last time that is due at `now` and later than `handled`.
    fn due(&self, handled: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = now.checked_sub(self.jitter).ok()?;
        self.schedule.last(until, handled.checked_add(TICK).ok()?, &self.zone)
    }

    /// How long until `slot` is due.
    fn wait(&self, slot: Timestamp, now: Timestamp) -> Duration {
        let due = slot.checked_add(self.jitter).unwrap_or(Timestamp::MAX);
        Duration::try_from(due.duration_since(now)).unwrap_or_default()
    }
}

/// The delay of every run: from the uid, so that it is the same for whoever decides, and another one for each `CronTask`.
fn jitter(cron: &CronTask) -> SignedDuration {
    let most = u64::try_from(cron.spec.jitter_seconds.unwrap_or_default()).unwrap_or_default();
    let hash: [u8; 32] = Sha256::digest(cron.metadata.uid.as_deref().unwrap_or_default()).into();
    let drawn = u64::from_be_bytes([0, hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6]]);
    SignedDuration::from_secs(i64::try_from(drawn % (most + 1)).unwrap_or_default())
}

/// How late it is at `now` for a time of the schedule, jitter left out.
pub fn due_after(cron: &CronTask, slot: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(slot) - jitter(cron)).unwrap_or_default()
}

/// What a Task that could not be made does to the status, and the events.
pub fn creation_failed(cron: &CronTask, failure: &Failure, now: Timestamp) -> (CronTaskStatus, Vec<Note>) {
    let mut status = cron.status.clone().unwrap_or_default();
    let ready = Condition::no(condition::READY, reasons::TASK_CREATION_FAILED, failure.message.as_str());
    set_condition(&mut status.conditions, &ready, cron.metadata.generation, now);
    (status, vec![Note::warning(reasons::TASK_CREATION_FAILED, "Create", failure.message.as_str())])
}

/// What the schedule asks for now.
fn by_schedule(cron: &CronTask, world: &World, times: &Times, mut report: Report<'_>, now: Timestamp) -> Decision {
    let handled = report.handled_until(times, TRUSTED);
    let Some(slot) = times.due(handled, now) else {
        return waiting(times, handled, report, now);
    };
    let name = task_name(cron, slot);
    if report.resumes() {
        report.skipped(slot, skip::suspended());
    } else if world.has(&name) {
        let missed = times.after(handled).take_while(|time| *time < slot).take(COUNTED + 1).count();
        report.missed(missed, times.before(slot), COUNTED);
        report.made(slot, &name);
    } else if let Some(skip) = obstacle(cron, world, times, slot, now) {
        report.skipped(slot, skip);
    } else if let Some(old) = replaced(cron, world) {
        report.replaced(&old.name);
        return report.decide(Act::Stop { name: old.name.clone(), uid: old.uid.clone() }, Next::OnEvent);
    } else {
        return report.decide(Act::Create(Box::new(child::build(cron, slot))), Next::OnEvent);
    }
    waiting(times, slot, report, now)
}

/// Why no Task is made for a time that is due.
fn obstacle(cron: &CronTask, world: &World, times: &Times, slot: Timestamp, now: Timestamp) -> Option<skip::Why> {
    let late = now.duration_since(slot) - times.jitter;
    let name = task_name(cron, slot);
    if cron.spec.starting_deadline_seconds.is_some_and(|most| late > SignedDuration::from_secs(most)) {
        Some(skip::late())
    } else if world.taken.contains(&name) {
        Some(skip::Why { reason: reasons::NAME_CONFLICT, event: reasons::NAME_CONFLICT, message: skip::taken(&name) })
    } else if world.is_full(cron) {
        let reason = reasons::MAX_RETAINED_TASKS_REACHED;
        Some(skip::Why { reason, event: reason, message: skip::full(cron) })
    } else if cron.spec.concurrency_policy == ConcurrencyPolicy::Forbid && world.active().next().is_some() {
        Some(skip::active())
    } else {
        None
    }
}

/// A Task that has to stop first.
fn replaced<'a>(cron: &CronTask, world: &'a World) -> Option<&'a Child> {
    let replaces = cron.spec.concurrency_policy == ConcurrencyPolicy::Replace;
    world.active().find(|child| replaces && !child.stopping)
}

/// Nothing is due.
fn waiting(times: &Times, handled: Timestamp, mut report: Report<'_>, now: Timestamp) -> Decision {
    let coming: Vec<_> = times.after(handled).take(3).collect();
    let next = coming.first().map_or(Next::OnEvent, |slot| Next::After(times.wait(*slot, now)));
    report.scheduled(&coming);
    report.decide(Act::Nothing, next)
}

#[cfg(test)]
mod tests;
