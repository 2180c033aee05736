//! What the gate counts, from what the doors say and the cluster shows. Unknown is never idle.

use super::Activity;
use crate::api::voice;

/// What the connected pods of an agent say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Their activities as one.
    pub activity: voice::Activity,
    /// Names of the pods, sorted.
    pub pods: Vec<String>,
}

impl Said {
    /// Whether every pod of `running` speaks: one that does not may do anything.
    fn is_whole(&self, running: &[String]) -> bool {
        running.iter().all(|pod| self.pods.contains(pod))
    }

    /// Whether somebody works or is attached. A door remembers the sessions of a server that died: those of an only pod
    /// count no more once the kubelet says so too.
    fn is_busy(&self, running: &[String]) -> bool {
        let said = &self.activity;
        let died = running.is_empty() && !said.server_ready && said.in_flight == 0 && self.pods.len() <= 1;
        said.attached > 0 || (said.works_on() > 0 && !died)
    }
}

/// What goes on. `running` are the pods in which a server process runs as far as the cluster shows: the kubelet may say
/// so later than the door, so the door's word goes first.
pub fn activity(said: Option<&Said>, running: &[String]) -> Activity {
    match said {
        Some(said) if said.is_busy(running) => Activity::Busy,
        Some(said) if said.activity.server_ready && said.is_whole(running) => Activity::Idle,
        _ if running.is_empty() => Activity::NoServer,
        Some(_) | None => Activity::Unknown,
    }
}

/// The same after prompts were held: idle is only what every door confirms. A server that was there a moment ago is not
/// taken for gone.
pub fn held_activity(said: Option<&Said>, running: &[String]) -> Activity {
    match said {
        Some(said) if said.is_busy(running) => Activity::Busy,
        Some(said) if said.activity.server_ready && said.is_whole(running) => {
            if said.activity.is_quiet() {
                Activity::Idle
            } else {
                Activity::Busy
            }
        }
        Some(_) | None => Activity::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use Activity as A;
    use proptest::prelude::*;
    use voice::Activity as Wire;

    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "as the table wants it")]
    fn say(activity: Wire) -> Option<Said> {
        Some(Said { activity, pods: vec!["p".into()] })
    }

    #[test]
    fn silence_is_never_idle() {
        let ready = Wire { server_ready: true, ..Wire::default() };
        let quiet = Wire { held: true, idle: true, ..ready.clone() };
        let busy = Wire { busy_sessions: vec!["s".into()], ..ready.clone() };
        let attached = Wire { attached: 1, ..quiet.clone() };
        let died = Wire { server_ready: false, ..busy.clone() };
        let two = |activity| Some(Said { activity, pods: vec!["o".into(), "p".into()] });
        let table = [
            (None, vec!["p"], A::Unknown, A::Unknown),
            (None, vec![], A::NoServer, A::Unknown),
            (say(ready.clone()), vec!["p"], A::Idle, A::Busy),
            (say(ready.clone()), vec!["p", "other"], A::Unknown, A::Unknown),
            (say(quiet.clone()), vec!["p"], A::Idle, A::Idle),
            (say(busy.clone()), vec!["p"], A::Busy, A::Busy),
            (say(busy.clone()), vec!["p", "other"], A::Busy, A::Busy),
            (say(attached.clone()), vec!["p"], A::Busy, A::Busy),
            (say(Wire::default()), vec!["p"], A::Unknown, A::Unknown),
            (say(died.clone()), vec!["p"], A::Busy, A::Busy),
            // The kubelet's word is late.
            (say(busy), vec![], A::Busy, A::Busy),
            (say(attached), vec![], A::Busy, A::Busy),
            (say(Wire { attached: 1, ..Wire::default() }), vec![], A::Busy, A::Busy),
            (say(Wire { in_flight: 1, ..Wire::default() }), vec![], A::Busy, A::Busy),
            (say(ready), vec![], A::Idle, A::Busy),
            (say(quiet), vec![], A::Idle, A::Idle),
            // Or it is right: no server has come up, or it died at work.
            (say(Wire::default()), vec![], A::NoServer, A::Unknown),
            (say(died.clone()), vec![], A::NoServer, A::Unknown),
            (two(died), vec![], A::Busy, A::Busy),
        ];
        for (said, running, before, held) in table {
            let running: Vec<String> = running.into_iter().map(String::from).collect();
            assert_eq!(activity(said.as_ref(), &running), before, "{said:?} {running:?}");
            assert_eq!(held_activity(said.as_ref(), &running), held, "{said:?} {running:?}");
        }
    }

    proptest! {
        /// Whatever the cluster shows, who works at a server that answers is seen.
        #[test]
        fn who_works_is_seen(flights in 0..3_u32, sessions in 0..3_usize, attached in 0..3_u32, pods in 0..3_usize) {
            prop_assume!(flights > 0 || sessions > 0 || attached > 0);
            let busy_sessions = (0..sessions).map(|n| n.to_string()).collect();
            let wire = Wire { in_flight: flights, busy_sessions, attached, server_ready: true, ..Wire::default() };
            let running: Vec<String> = ["p", "other"].iter().take(pods).map(ToString::to_string).collect();
            prop_assert_eq!(activity(say(wire.clone()).as_ref(), &running), A::Busy);
            prop_assert_eq!(held_activity(say(wire).as_ref(), &running), A::Busy);
        }
    }
}
