//! What is said of pods of older revisions that end their work beside the newest one.

use super::Outcome;
use crate::{
    api::{AgentStatus, names::reasons},
    status::Note,
};

/// That the server takes work, and who else still works.
pub(super) fn takes_work(outcome: &Outcome<'_>) -> String {
    let text = "the server takes work";
    match finish(&outcome.finishing) {
        Some(who) => format!("{text}; {who} beside it"),
        None => text.into(),
    }
}

/// Subject and predicate, without a count that ticks.
fn finish(pods: &[String]) -> Option<String> {
    match pods {
        [] => None,
        [pod] => Some(format!("pod {pod} of an older revision ends what it has begun")),
        pods => Some(format!("pods {} of older revisions end what they have begun", pods.join(", "))),
    }
}

/// The event where that begins, and where it is over.
pub(super) fn note(before: &AgentStatus, after: &AgentStatus) -> Option<Note> {
    let pods = |status: &AgentStatus| status.rollout.clone().unwrap_or_default().finishing;
    match (pods(before).as_slice(), finish(&pods(after))) {
        ([], Some(who)) => {
            Some(Note::normal(reasons::OLD_REVISION_WORKS, "Rollout", format!("{who}; new work goes to the new pod")))
        }
        ([_, ..], None) => {
            let message = "no pod of an older revision works any more";
            Some(Note::normal(reasons::OLD_REVISION_LEFT, "Rollout", message))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_when_it_begins_and_when_it_is_over() {
        let status = |pods: &[&str]| {
            let rollout = serde_json::json!({ "finishing": pods });
            AgentStatus { rollout: Some(serde_json::from_value(rollout).unwrap()), ..AgentStatus::default() }
        };
        let begins = "pod a of an older revision ends what it has begun; new work goes to the new pod";
        let two = "pods a, b of older revisions end what they have begun; new work goes to the new pod";
        let table = [
            (&[][..], &[][..], None),
            (&[], &["a"], Some((reasons::OLD_REVISION_WORKS, begins))),
            (&[], &["a", "b"], Some((reasons::OLD_REVISION_WORKS, two))),
            (&["a"], &["a"], None),
            (&["a", "b"], &["b"], None),
            (&["b"], &[], Some((reasons::OLD_REVISION_LEFT, "no pod of an older revision works any more"))),
        ];
        for (before, after, expected) in table {
            let said = note(&status(before), &status(after));
            let said = said.as_ref().map(|n| (n.reason, n.message.as_str()));
            assert_eq!(said, expected, "{before:?} {after:?}");
        }
    }
}
