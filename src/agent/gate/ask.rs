//! What a person asks of an agent's changes, by the annotation `pilothouse.dev/rollout` of the Agent.

use crate::{api::names::annotation, status::condition::truncate};

/// Begins the value that lets nothing go out; a reason may follow, after a colon.
pub const HOLD: &str = "hold";
/// Begins the value that lets one change go out now. The id of all that is wanted, or the hash of the pod template that
/// waits, follows, and then, after a hyphen, anything that makes the value another than the one before.
pub const NOW: &str = "now-";

/// Longest part of a value that is repeated, in bytes.
const LONGEST: usize = 100;

/// What somebody asks for, whatever the policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// This change goes out now, also over work.
    Now,
    /// No change goes out.
    Hold {
        /// Why, in the person's words; may be empty.
        why: &'a str,
    },
}

/// What `value` means for a change that has one of the names `desired`; `handled` is the value that the last rollout had seen. So "now" counts
/// once, and only for what the person saw waiting.
pub fn asked<'a>(value: Option<&'a str>, handled: Option<&str>, desired: &[&str]) -> Ask<'a> {
    let Some(value) = value else { return Ask::Nothing };
    if let Some(rest) = value.strip_prefix(HOLD) {
        return match rest.strip_prefix(':') {
            Some(why) => Ask::Hold { why: why.trim() },
            None if rest.is_empty() => Ask::Hold { why: "" },
            None => Ask::Nothing,
        };
    }
    let hash = value.strip_prefix(NOW).map(|rest| rest.split('-').next().unwrap_or_default());
    let meant = hash.is_some_and(|hash| desired.contains(&hash));
    if meant && handled != Some(value) { Ask::Now } else { Ask::Nothing }
}

/// What is wrong with a value that means nothing, if it does: in words, for whoever wrote it.
pub fn misunderstood(value: &str) -> Option<String> {
    let value = value.trim();
    let known = value.is_empty() || value == HOLD || value.strip_prefix(HOLD).is_some_and(|rest| rest.starts_with(':'));
    let now = value.strip_prefix(NOW).is_some_and(|rest| !rest.is_empty());
    (!known && !now).then(|| {
        format!(
            "the annotation {} is {:?}, which means nothing and has no effect; it may be {HOLD}, \"{HOLD}: why\", or {NOW} and \
             what pilothouse rollout agent NAME --now puts there",
            annotation::ROLLOUT,
            truncate(value, LONGEST)
        )
    })
}

/// Whether the value asks for one change to go out now.
pub fn is_now(value: &str) -> bool {
    value.starts_with(NOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_counts_once_and_for_what_was_seen() {
        let hold = |why| Ask::Hold { why };
        let table = [
            (None, None, Ask::Nothing),
            (Some(""), None, Ask::Nothing),
            (Some("hold"), None, hold("")),
            (Some("hold: the demo, ask Jo"), None, hold("the demo, ask Jo")),
            (Some("holding"), None, Ask::Nothing),
            (Some("now"), None, Ask::Nothing),
            (Some("now-"), None, Ask::Nothing),
            (Some("now-abc"), None, Ask::Now),
            (Some("now-abc-1"), None, Ask::Now),
            (Some("now-abc-1"), Some("now-abc-1"), Ask::Nothing),
            (Some("now-abc-2"), Some("now-abc-1"), Ask::Now),
            (Some("now-abcd"), None, Ask::Nothing),
            (Some("now-other"), None, Ask::Nothing),
        ];
        for (value, handled, expected) in table {
            assert_eq!(asked(value, handled, &["abc"]), expected, "{value:?} {handled:?}");
        }
        assert_eq!(asked(Some("now-all-1"), None, &["abc", "all"]), Ask::Now);
    }

    #[test]
    fn a_value_that_means_nothing_is_said() {
        for good in ["", " ", "hold", "hold: why", "hold:", "now-abc", "now-abc-1"] {
            assert_eq!(misunderstood(good), None, "{good}");
        }
        for bad in ["now", "now-", "pause", "Hold", "holding", "hold it", "true"] {
            assert!(misunderstood(bad).is_some_and(|said| said.contains(&format!("is {bad:?}"))), "{bad}");
        }
        assert!(misunderstood(&"x".repeat(5000)).unwrap().len() < 500);
    }
}
