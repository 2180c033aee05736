//! Writes events: each different note of an object is one of its own, the same one again is counted in it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    api::names,
    status::{Note, condition::truncate},
};

/// What reports.
const CONTROLLER: &str = "pilothouse";
/// Longest note, in bytes: the API takes no longer one.
const NOTE: usize = 1024;
/// Longest name of an event, in bytes.
const NAME: usize = 253;
/// For how long the same note is counted in the event that it has.
const SERIES: Duration = Duration::from_mins(6);
/// Events of one object within [`SERIES`]; more are left out: something changes its mind all the time.
const PER_OBJECT: usize = 50;
/// Events that are remembered, of all objects.
const REMEMBERED: usize = 4096;

/// Writes events, one after another.
pub(super) struct Recorder {
    client: Client,
    instance: String,
    known: Known,
}

/// What an event says, of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// uid, else namespace and name.
    object: String,
    warning: bool,
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// An event that was written.
#[derive(Clone, Debug)]
struct Written {
    name: String,
    count: i32,
    last: Instant,
}

/// What to do with a note.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    New,
    Again { name: String, count: i32 },
    LeftOut,
}

/// What was written lately.
#[derive(Debug, Default)]
struct Known(HashMap<Key, Written>);

impl Recorder {
    /// `instance` is the pod that reports.
    pub(super) fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.into(), known: Known::default() }
    }

    /// Writes one event of the object.
    pub(super) async fn publish(&mut self, note: &Note, of: &ObjectReference) -> Result<(), kube::Error> {
        let key = key(note, of);
        let namespace = of.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let now = Instant::now();
        let turn = self.known.turn(&key, now);
        if let Turn::Again { name, count } = turn {
            let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(Timestamp::now())}});
            match events.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await {
                // It lived for its hour, or was deleted.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => {
                    other?;
                    self.known.wrote(key, name, count, now);
                    return Ok(());
                }
            }
        } else if turn == Turn::LeftOut {
            tracing::debug!("event {} of {} is left out: it has too many", note.reason, key.object);
            return Ok(());
        }
        let event = self.event(note, of, key.note.clone());
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        self.known.wrote(key, name, 1, now);
        Ok(())
    }

    fn event(&self, note: &Note, of: &ObjectReference, text: String) -> Event {
        let now = Timestamp::now();
        let end = format!(".{:x}", now.as_nanosecond());
        let name = names::shortened(of.name.as_deref().unwrap_or(CONTROLLER), NAME - end.len().min(NAME)) + &end;
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: of.namespace.clone(), ..ObjectMeta::default() },
            type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
            reason: Some(note.reason.into()),
            action: Some(note.action.into()),
            note: Some(text),
            regarding: Some(of.clone()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

fn key(note: &Note, of: &ObjectReference) -> Key {
    let named = || format!("{:?}/{:?}/{:?}", of.kind, of.namespace, of.name);
    Key {
        object: of.uid.clone().unwrap_or_else(named),
        warning: note.warning,
        reason: note.reason,
        action: note.action,
        note: truncate(&note.message, NOTE),
    }
}

impl Known {
    fn turn(&mut self, key: &Key, now: Instant) -> Turn {
        self.0.retain(|_, w| now.duration_since(w.last) < SERIES);
        match self.0.get(key) {
            Some(written) => Turn::Again { name: written.name.clone(), count: written.count.saturating_add(1) },
            None if self.0.keys().filter(|k| k.object == key.object).count() >= PER_OBJECT => Turn::LeftOut,
            None => Turn::New,
        }
    }

    fn wrote(&mut self, key: Key, name: String, count: i32, now: Instant) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, w)| w.last).map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
        self.0.insert(key, Written { name, count, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(object: &str, text: &str) -> Key {
        key(
            &Note::warning("Failed", "Apply", text),
            &ObjectReference { uid: Some(object.into()), ..Default::default() },
        )
    }

    #[test]
    fn each_note_is_an_event_and_the_same_again_is_counted() {
        let (mut known, now) = (Known::default(), Instant::now());
        assert_eq!(known.turn(&of("a", "x"), now), Turn::New);
        known.wrote(of("a", "x"), "e1".into(), 1, now);
        assert_eq!(known.turn(&of("a", "y"), now), Turn::New);
        assert_eq!(known.turn(&of("b", "x"), now), Turn::New);
        assert_eq!(known.turn(&of("a", "x"), now), Turn::Again { name: "e1".into(), count: 2 });
        known.wrote(of("a", "x"), "e1".into(), 2, now + Duration::from_mins(5));
        assert!(matches!(known.turn(&of("a", "x"), now + Duration::from_mins(10)), Turn::Again { count: 3, .. }));
        assert_eq!(known.turn(&of("a", "x"), now + Duration::from_mins(11)), Turn::New);
    }

    #[test]
    fn what_changes_all_the_time_is_bounded() {
        let (mut known, now) = (Known::default(), Instant::now());
        for n in 0..PER_OBJECT {
            known.wrote(of("a", &n.to_string()), n.to_string(), 1, now);
        }
        assert_eq!(known.turn(&of("a", "one more"), now), Turn::LeftOut);
        assert_eq!(known.turn(&of("b", "one more"), now), Turn::New);
        assert_eq!(known.turn(&of("a", "one more"), now + SERIES), Turn::New);
        for n in 0..=REMEMBERED {
            known.wrote(of(&n.to_string(), "x"), "e".into(), 1, now);
        }
        assert_eq!(known.0.len(), REMEMBERED);
    }
}
