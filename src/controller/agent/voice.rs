//! What the reconciler asks the agents' sidecars, and what it does without an answer.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::{agent::gate, api::voice::Activity};

/// How long prompts are held while a change is decided and written: shorter than a person would notice. What is not
/// written by then is decided again.
pub const HOLD: Duration = Duration::from_secs(3);

/// What the connected pods of an agent say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Their activities as one.
    pub activity: Activity,
    /// Names of the pods, sorted.
    pub pods: Vec<String>,
}

impl Said {
    /// Whether every pod of `running` speaks: one that does not may do anything.
    fn is_whole(&self, running: &[String]) -> bool {
        running.iter().all(|pod| self.pods.contains(pod))
    }
}

/// Whose sidecars have something new to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// Those of one agent.
    One {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        agent: &'a str,
    },
    /// Nobody knows: every agent's may have.
    Any,
}

/// Is told of each change.
pub type Listener = Box<dyn Fn(Whose<'_>) + Send + Sync>;

/// The sidecars, as the reconciler sees them.
pub trait AgentVoice: Send + Sync + 'static {
    /// What the agent's sidecars said last; `None` while none is connected.
    fn activity(&self, namespace: &str, agent: &str) -> Option<Said>;

    /// What the agent's pods say that were told to end, by name.
    fn leaving(&self, namespace: &str, agent: &str) -> Vec<(String, Activity)>;

    /// Holds prompts at the doors and returns what goes on then; `None` where one did not answer in time.
    fn hold<'a>(&'a self, namespace: &'a str, agent: &'a str) -> BoxFuture<'a, Option<Said>>;

    /// Lets prompts through again.
    fn release<'a>(&'a self, namespace: &'a str, agent: &'a str) -> BoxFuture<'a, ()>;

    /// The gathered text was written: look at the volume until `hash` is there.
    fn touched(&self, namespace: &str, agent: &str, hash: &str);

    /// Certificate of the authority that sidecars trust, in PEM; `None` while nothing is served.
    fn authority(&self) -> Option<String>;

    /// Calls `listener` after each change.
    fn on_change(&self, listener: Listener);
}

/// What the gate counts. `running` are the pods in which a server process may run.
pub(super) fn activity(said: Option<&Said>, running: &[String]) -> gate::Activity {
    match said {
        _ if running.is_empty() => gate::Activity::NoServer,
        Some(said) if said.activity.works_on() > 0 || said.activity.attached > 0 => gate::Activity::Busy,
        Some(said) if said.activity.server_ready && said.is_whole(running) => gate::Activity::Idle,
        Some(_) | None => gate::Activity::Unknown,
    }
}

/// The same after prompts were held: idle is only what every door confirms.
pub(super) fn held_activity(said: Option<&Said>, running: &[String]) -> gate::Activity {
    match said {
        Some(said) if !said.is_whole(running) || !said.activity.server_ready => gate::Activity::Unknown,
        Some(said) if said.activity.is_quiet() && said.activity.attached == 0 => gate::Activity::Idle,
        Some(_) => gate::Activity::Busy,
        None => gate::Activity::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use gate::Activity as A;

    use super::*;

    #[test]
    fn silence_is_never_idle() {
        let say = |activity: Activity| Said { activity, pods: vec!["p".into()] };
        let ready = Activity { server_ready: true, ..Activity::default() };
        let table = [
            (None, vec!["p"], A::Unknown, A::Unknown),
            (None, vec![], A::NoServer, A::Unknown),
            (Some(say(ready.clone())), vec!["p"], A::Idle, A::Busy),
            (Some(say(ready.clone())), vec!["p", "other"], A::Unknown, A::Unknown),
            (Some(say(Activity { held: true, idle: true, ..ready.clone() })), vec!["p"], A::Idle, A::Idle),
            (Some(say(Activity { busy_sessions: vec!["s".into()], ..ready.clone() })), vec!["p"], A::Busy, A::Busy),
            (Some(say(Activity { attached: 1, held: true, idle: true, ..ready })), vec!["p"], A::Busy, A::Busy),
            (Some(say(Activity::default())), vec!["p"], A::Unknown, A::Unknown),
        ];
        for (said, running, before, held) in table {
            let running: Vec<String> = running.into_iter().map(String::from).collect();
            assert_eq!(activity(said.as_ref(), &running), before, "{said:?} {running:?}");
            assert_eq!(held_activity(said.as_ref(), &running), held, "{said:?} {running:?}");
        }
    }
}
