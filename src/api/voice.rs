//! What the sidecar of an agent's pod and the controller tell each other: JSON, one message a frame.
//!
//! The sidecar connects, says [`Hello`] and then [`Activity`] whenever something changed; the controller sends orders,
//! and each is answered by an [`Ack`] with the same id. Losing the connection changes nothing in the pod. Unknown
//! fields are ignored and unknown messages are skipped, so that a sidecar outlives many releases of the controller.

use serde::{Deserialize, Serialize};

use super::content::{Load, Report};

/// Version of this protocol; rises when a message changes its meaning.
pub const PROTOCOL: u32 = 1;

/// Longest time that prompts are ever held, in milliseconds, whatever an order says.
pub const MAX_HOLD_MS: u64 = 5_000;

/// Longest message of the controller, in bytes: a [`Load`] of [`super::content::MAX_PIECES`] pieces is the largest.
pub const MAX_ORDER: usize = 256 << 10;

/// Longest message of a sidecar, in bytes: a [`Report`] of as many pieces and skills as one may name is the largest.
pub const MAX_REPORT: usize = 256 << 10;

/// Where artifacts are, below the address of the sidecars' connection: this and the 64 digits of the digest. The answer
/// is the archive. Every replica answers; who does not have it says 404 and, where another one leads, [`LEADER_HEADER`].
pub const ARTIFACTS_PATH: &str = "/artifacts/";

/// Where the history is, for people, on the same port.
pub const HISTORY_PATH: &str = "/history/";

/// Whose request it is, as in `Authorization`, which the API server drops where it proxies.
pub const CALLER_HEADER: &str = "x-pilothouse-authorization";

/// Header of a 421 answer: where the replica that leads is reached, `host:port`.
pub const LEADER_HEADER: &str = "x-pilothouse-leader";

/// From the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromSidecar {
    /// First, once a connection.
    Hello(Hello),
    /// Whenever something changed, and every 10 s at least.
    Activity(Activity),
    /// Once for each order.
    Ack(Ack),
    /// After the first activity, and whenever it changed.
    Content(Report),
    /// A message of a newer sidecar; skipped.
    #[serde(other)]
    Unknown,
}

/// From the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromController {
    /// Answer to [`Hello`].
    Welcome {
        /// The controller's [`PROTOCOL`].
        protocol: u32,
    },
    /// Hold new prompts and say what goes on.
    Hold {
        /// Id of the order, unique in the connection.
        id: u64,
        /// Release by itself after this many milliseconds; [`MAX_HOLD_MS`] at most.
        max_ms: u64,
    },
    /// Let prompts through again.
    Release {
        /// Id of the order.
        id: u64,
    },
    /// The gathered text was written and the pod touched: look at the volume until this hash is there.
    Touched {
        /// Id of the order.
        id: u64,
        /// Hash of the gathered text that is expected.
        context_hash: String,
    },
    /// Bring this content into the pod. The [`Ack`] says that the order was taken; what became of it, and when, is said
    /// by [`FromSidecar::Content`]. The newest order counts.
    Load {
        /// Id of the order.
        id: u64,
        /// What is wanted.
        load: Load,
    },
    /// These are the agent's pods now, whoever is asked among them: who has a session is asked for it by the others.
    Peers {
        /// Id of the order.
        id: u64,
        /// The pods, sorted by uid.
        peers: Vec<Peer>,
    },
    /// Nobody follows the sessions of a Task any more: stop what they do.
    Abort {
        /// Id of the order.
        id: u64,
        /// Title of the Task's session; those of further tries have it and `/` in front.
        title: String,
    },
    /// A message of a newer controller; skipped.
    #[serde(other)]
    Unknown,
}

/// One of the agent's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Uid of the pod.
    pub pod: String,
    /// Address of its door, `ip:port`.
    pub door: String,
}

/// Who speaks. The controller believes the token that came with the connection, and checks that this agrees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The sidecar's [`PROTOCOL`].
    pub protocol: u32,
    /// Name of the Agent.
    pub agent: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    #[serde(default)]
    pub pod_uid: String,
    /// Version of the pod's layout.
    pub layout: u32,
    /// Release of the sidecar.
    pub version: String,
}

/// What goes on in the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Activity {
    /// Rises with every prompt that passes the door and every change below; starts anew with the sidecar.
    pub sequence: u64,
    /// Prompts between door and answer.
    pub in_flight: u32,
    /// Ids of sessions that work, sorted.
    pub busy_sessions: Vec<String>,
    /// Sessions that wait to try a model again.
    pub retrying: u32,
    /// Permissions and questions that wait for a person.
    pub pending_questions: u32,
    /// People attached: open terminals and event streams with a recent heartbeat.
    pub attached: u32,
    /// Nothing of the above, and unchanged for 100 ms.
    pub idle: bool,
    /// Whether new prompts are held right now.
    pub held: bool,
    /// Whether the pod ends: it takes no new prompts, and what it still does is nobody's concern any more.
    pub draining: bool,
    /// Whether the server answers.
    pub server_ready: bool,
    /// Version of opencode; empty while unknown.
    pub server_version: String,
    /// Whether the server can be reached on the pod's address, past the door and its password.
    pub server_exposed: bool,
    /// Hash of the gathered text in the volume (SHA-256 in hex); empty where there is none.
    pub context_hash: String,
}

impl Activity {
    /// Whether a change that cuts work may go now: only with prompts held, and never on a server that does not answer.
    pub fn is_quiet(&self) -> bool {
        self.held && self.idle && self.server_ready && self.works_on() == 0
    }

    /// How many pieces of work go on.
    pub fn works_on(&self) -> usize {
        let counted = self.in_flight.saturating_add(self.retrying).saturating_add(self.pending_questions);
        self.busy_sessions.len().saturating_add(usize::try_from(counted).unwrap_or(usize::MAX))
    }
}

/// Answer to an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// Id of the order.
    pub id: u64,
    /// Empty where the order was carried out, else why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What goes on after the order.
    pub activity: Activity,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    #[test]
    fn messages_have_their_wire_form() {
        let hello = FromSidecar::Hello(Hello {
            protocol: 1,
            agent: "coder".into(),
            namespace: "team".into(),
            pod: "coder-server-abc".into(),
            pod_uid: "u".into(),
            layout: 1,
            version: "0.1.0".into(),
        });
        let table: Vec<(Value, Value)> = vec![
            (
                to_value(&hello).unwrap(),
                json!({"type": "hello", "protocol": 1, "agent": "coder", "namespace": "team",
                    "pod": "coder-server-abc", "podUid": "u", "layout": 1, "version": "0.1.0"}),
            ),
            (
                to_value(FromController::Hold { id: 7, max_ms: 5000 }).unwrap(),
                json!({"type": "hold", "id": 7, "maxMs": 5000}),
            ),
            (to_value(FromController::Release { id: 7 }).unwrap(), json!({"type": "release", "id": 7})),
        ];
        for (written, expected) in table {
            assert_eq!(written, expected);
        }
        assert_eq!(from_value::<FromSidecar>(to_value(&hello).unwrap()).unwrap(), hello);
    }

    #[test]
    fn newer_messages_and_fields_are_borne() {
        let newer = json!({"type": "dispose", "id": 1, "what": "all"});
        assert_eq!(from_value::<FromController>(newer).unwrap(), FromController::Unknown);
        let newer = json!({"type": "activity", "sequence": 3, "mood": "fine"});
        assert_eq!(
            from_value::<FromSidecar>(newer).unwrap(),
            FromSidecar::Activity(Activity { sequence: 3, ..Activity::default() })
        );
    }

    #[test]
    fn only_a_held_idle_answering_server_is_quiet() {
        let quiet = Activity { held: true, idle: true, server_ready: true, ..Activity::default() };
        assert!(quiet.is_quiet());
        let loud = [
            Activity { held: false, ..quiet.clone() },
            Activity { idle: false, ..quiet.clone() },
            Activity { server_ready: false, ..quiet.clone() },
            Activity { in_flight: 1, ..quiet.clone() },
            Activity { retrying: 1, ..quiet.clone() },
            Activity { pending_questions: 1, ..quiet.clone() },
            Activity { busy_sessions: vec!["ses_1".into()], ..quiet.clone() },
        ];
        for activity in loud {
            assert!(!activity.is_quiet(), "{activity:?}");
        }
    }
}
