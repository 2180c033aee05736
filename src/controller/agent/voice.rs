//! What the reconciler asks the agents' sidecars, and what it does without an answer.

use std::time::Duration;

use futures::future::BoxFuture;

pub use crate::agent::gate::Said;
use crate::api::{
    content::{Load, Report},
    voice::{Activity, Peer},
};

/// How long prompts are held while a change is decided and written: shorter than a person would notice. What is not
/// written by then is decided again.
pub const HOLD: Duration = Duration::from_secs(3);

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

    /// What the connected pods that stay said of their content, by name of the pod; `None` for one that has not yet.
    fn content(&self, namespace: &str, agent: &str) -> Vec<(String, Option<std::sync::Arc<Report>>)>;

    /// Tells the connected pods which content is wanted. Waits for nothing: what became of it is in
    /// [`content`](Self::content).
    fn load(&self, namespace: &str, agent: &str, load: Load);

    /// Names of all connected pods, those that end included, sorted.
    fn connected(&self, namespace: &str, agent: &str) -> Vec<String>;

    /// Tells all connected pods which pods the agent has. Waits for nothing.
    fn introduce(&self, namespace: &str, agent: &str, peers: Vec<Peer>);

    /// Certificate of the authority that sidecars trust, in PEM; `None` while nothing is served.
    fn authority(&self) -> Option<String>;

    /// Calls `listener` after each change.
    fn on_change(&self, listener: Listener);
}
