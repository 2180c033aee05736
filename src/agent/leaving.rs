//! Pods that end while they work: whether their time suffices (pure).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{api::names::reasons, status::Note};

/// So long before the kubelet stops a pod its work is looked at: afterwards nobody can tell.
const BEFORE: SignedDuration = SignedDuration::from_secs(1);

/// A pod that was told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its name.
    pub pod: String,
    /// When the kubelet stops it at the latest.
    pub ends: Timestamp,
    /// Seconds that it was given.
    pub grace: i64,
    /// Pieces of work that go on in it.
    pub work: usize,
}

/// What is to be said of a pod, or when it is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It does nothing, so its end cuts nothing.
    Idle,
    /// It works, and has this long before it is looked at.
    Works(Duration),
    /// It works, and its time is over.
    Cut(Note),
}

/// Looks at one pod.
pub fn look(pod: &Leaving, now: Timestamp) -> Look {
    if pod.work == 0 {
        return Look::Idle;
    }
    let left = pod.ends.duration_since(now).saturating_sub(BEFORE);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Look::Works(left),
        _ => Look::Cut(cut(pod)),
    }
}

fn cut(pod: &Leaving) -> Note {
    let work = if pod.work == 1 { "1 piece of work".to_owned() } else { format!("{} pieces of work", pod.work) };
    let message = format!(
        "pod {} is stopped with {work} going on: it was told to end, and the {} s that it had for that are over; \
         spec.rollout.timeout sets them",
        pod.pod, pod.grace
    );
    Note::warning(reasons::WORK_CUT, "Drain", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_that_still_works_at_its_end_is_spoken_of() {
        let ends = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |seconds| ends + SignedDuration::from_secs(seconds);
        let pod = |work| Leaving { pod: "coder-server-a-b".into(), ends, grace: 30, work };
        for (work, now, expected) in [
            (0, -30, Some(Look::Idle)),
            (0, 5, Some(Look::Idle)),
            (1, -30, Some(Look::Works(Duration::from_secs(29)))),
            (1, -2, Some(Look::Works(Duration::from_secs(1)))),
            (1, -1, None),
            (2, 100, None),
        ] {
            match (look(&pod(work), at(now)), expected) {
                (Look::Cut(note), None) => {
                    assert!(note.warning && note.message.contains("coder-server-a-b") && note.message.contains("30 s"));
                }
                (look, expected) => assert_eq!(Some(look), expected, "{work} {now}"),
            }
        }
        assert_eq!(look(&pod(2), at(0)), look(&pod(2), at(3)), "the same words whenever it is looked at");
    }
}
