//! Conditions in the sense of the Kubernetes API conventions and kstatus.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Wire, Time};

/// A condition to be set: everything but the transition time, which [`set_condition`] keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// CamelCase type such as `Ready`.
    pub kind: &'static str,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub status: Option<bool>,
    /// CamelCase reason, stable.
    pub reason: &'static str,
    /// For people. No times, durations or counters that tick.
    pub message: String,
}

impl Condition {
    /// Type `kind` is `True`.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(true), reason, message: message.into() }
    }

    /// Type `kind` is `False`.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Some(false), reason, message: message.into() }
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Sets `condition` in `list`, sorted by type; the transition time changes only when the status does.
///
/// Messages are cut to 1,024 bytes so that a status stays small whatever a remote says.
pub fn set_condition(list: &mut Vec<Wire>, condition: &Condition, generation: Option<i64>, now: Timestamp) {
    let status = condition.status_text();
    let since = list
        .iter()
        .find(|c| c.type_ == condition.kind && c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    list.retain(|c| c.type_ != condition.kind);
    list.push(Wire {
        type_: condition.kind.into(),
        status: status.into(),
        reason: condition.reason.into(),
        message: truncate(&condition.message, 1024),
        observed_generation: generation,
        last_transition_time: since,
    });
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Removes the condition of this type, if present (negative conditions exist only while true).
pub fn remove_condition(list: &mut Vec<Wire>, kind: &str) {
    list.retain(|c| c.type_ != kind);
}

/// Whether the condition of this type is `True`.
pub fn is_true(list: &[Wire], kind: &str) -> bool {
    list.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Cuts `text` to at most `max` bytes at a character boundary, marking the cut.
pub fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.into();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = vec![];
        set_condition(&mut list, &Condition::no("Ready", "A", "a"), Some(1), at(1));
        set_condition(&mut list, &Condition::no("Ready", "B", "b"), Some(2), at(2));
        assert_eq!(list[0].last_transition_time, Time(at(1)));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("B", Some(2)));
        set_condition(&mut list, &Condition::yes("Ready", "C", ""), Some(2), at(3));
        assert_eq!(list[0].last_transition_time, Time(at(3)));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let cut = truncate(&"ä".repeat(600), 1024);
        assert!(cut.len() <= 1024 && cut.ends_with('…'));
    }
}
