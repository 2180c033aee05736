//! What a person asks of an agent's changes, by the annotation `pilothouse.dev/rollout` of the Agent.

/// Begins the value that lets nothing go out; a reason may follow, after a colon.
pub const HOLD: &str = "hold";
/// Begins the value that lets one change go out now. The hash of the pod template that waits follows, and then, after a
/// hyphen, anything that makes the value another than the one before.
pub const NOW: &str = "now-";

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

/// What `value` means for a change to `desired`; `handled` is the value that the last rollout had seen. So "now" counts
/// once, and only for what the person saw waiting.
pub fn asked<'a>(value: Option<&'a str>, handled: Option<&str>, desired: &str) -> Ask<'a> {
    let Some(value) = value else { return Ask::Nothing };
    if let Some(rest) = value.strip_prefix(HOLD) {
        return match rest.strip_prefix(':') {
            Some(why) => Ask::Hold { why: why.trim() },
            None if rest.is_empty() => Ask::Hold { why: "" },
            None => Ask::Nothing,
        };
    }
    let hash = value.strip_prefix(NOW).map(|rest| rest.split('-').next().unwrap_or_default());
    if hash == Some(desired) && handled != Some(value) { Ask::Now } else { Ask::Nothing }
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
            assert_eq!(asked(value, handled, "abc"), expected, "{value:?} {handled:?}");
        }
    }
}
