//! The parts of the server's JSON that are read or written here; unknown fields are ignored.

use serde::{Deserialize, Serialize};

/// Answer of `/global/health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Whether the server calls itself healthy.
    pub healthy: bool,
    /// Version of opencode.
    pub version: String,
}

/// A skill as the server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Skill {
    /// Its name.
    pub name: String,
    /// What it is for; a skill may say nothing.
    pub description: Option<String>,
    /// Path of its file; built-in ones have none.
    pub location: String,
    /// The text after the front matter.
    pub content: String,
}

/// Something that waits for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Its id.
    pub(super) id: String,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Session {
    /// `ses_…`.
    pub id: String,
    /// Title; Tasks are found by it.
    pub title: String,
    /// Directory that the session works in.
    pub directory: String,
    /// Cost so far, in US dollars as the server computes it.
    pub cost: Option<f64>,
    /// Tokens so far.
    pub tokens: Option<Tokens>,
    /// Changes of files.
    pub summary: Option<Changes>,
    /// Creation and end.
    pub time: Times,
}

/// Changes of files in a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Changes {
    /// Lines added.
    pub additions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// Files touched.
    pub files: u64,
}

/// Times in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Times {
    /// When it was made.
    pub created: f64,
    /// When it ended, for messages.
    pub completed: Option<f64>,
}

/// Tokens of a message or a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Read by the model.
    pub input: f64,
    /// Written by the model.
    pub output: f64,
    /// Spent on thinking.
    pub reasoning: f64,
    /// The provider's cache.
    pub cache: CacheTokens,
}

/// Tokens of the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CacheTokens {
    /// Read from it.
    pub read: f64,
    /// Written to it.
    pub write: f64,
}

/// State of a session in `/session/status` and in `session.status` events. The map omits idle sessions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SessionStatus {
    /// Nothing runs. It says "stopped", not "succeeded".
    Idle,
    /// The model or a tool works.
    Busy,
    /// Waits to try again after an error of the model's provider.
    Retry {
        /// What went wrong.
        #[serde(default)]
        message: String,
    },
    /// A state this version does not know: treated as work.
    #[serde(other)]
    Other,
}

/// A message of a session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Who, when, how it ended.
    pub info: MessageInfo,
    /// Its parts in order.
    pub parts: Vec<Part>,
}

impl Message {
    /// All text parts, joined.
    pub fn text(&self) -> String {
        self.parts.iter().filter(|p| p.kind == "text").filter_map(|p| p.text.as_deref()).collect()
    }
}

/// Who wrote a message and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MessageInfo {
    /// `msg_…`.
    pub id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// For an answer: the message it answers.
    #[serde(rename = "parentID")]
    pub parent_id: Option<String>,
    /// Cost in US dollars.
    pub cost: f64,
    /// Tokens.
    pub tokens: Option<Tokens>,
    /// `stop`, `tool-calls`, `length` …; absent while it runs.
    pub finish: Option<String>,
    /// How it failed.
    pub error: Option<SessionError>,
    /// Creation and end.
    pub time: Times,
}

/// An error as the server reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SessionError {
    /// `APIError`, `ProviderAuthError`, `MessageAbortedError` …
    pub name: String,
    /// Details; only the message is used.
    pub data: ErrorData,
}

/// Details of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorData {
    /// For a person.
    pub message: Option<String>,
}

/// One part of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Part {
    /// `prt_…`.
    pub id: String,
    /// `text`, `tool`, `reasoning`, `step-finish` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The message it belongs to.
    #[serde(rename = "messageID")]
    pub message_id: String,
    /// Text so far, for text and reasoning.
    pub text: Option<String>,
    /// The tool's name, for tools.
    pub tool: Option<String>,
}

/// A prompt to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prompt {
    /// Id of the user's message (`msg_…`); the same id twice is one message.
    #[serde(rename = "messageID", skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Agent of opencode to use; its default otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Model to use; the agent's otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    parts: Vec<TextPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TextPart {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
}

impl Prompt {
    /// One text.
    pub fn text(text: impl Into<String>) -> Self {
        let parts = vec![TextPart { kind: "text", text: text.into() }];
        Self { message_id: None, agent: None, model: None, parts }
    }

    /// With a text that comes before it.
    #[must_use]
    pub fn after(mut self, text: impl Into<String>) -> Self {
        self.parts.insert(0, TextPart { kind: "text", text: text.into() });
        self
    }
}

/// A model of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelRef {
    /// Provider, as in the configuration.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Model, as in the configuration.
    #[serde(rename = "modelID")]
    pub model_id: String,
}

/// A permission rule of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What is asked for: `question`, `plan_enter` …
    pub permission: &'static str,
    /// For what: `*` is everything.
    pub pattern: &'static str,
    /// `allow`, `ask` or `deny`.
    pub action: &'static str,
}

impl Rule {
    /// Refuses a permission for everything.
    pub const fn deny(permission: &'static str) -> Self {
        Self { permission, pattern: "*", action: "deny" }
    }
}

/// Body of `POST /session`.
#[derive(Serialize)]
pub(super) struct NewSession<'a> {
    pub(super) title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Rule]>::is_empty")]
    pub(super) permission: &'a [Rule],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let parse = |text: &str| serde_json::from_str::<SessionStatus>(text).unwrap();
        assert_eq!(parse(r#"{"type":"busy"}"#), SessionStatus::Busy);
        assert_eq!(parse(r#"{"type":"idle"}"#), SessionStatus::Idle);
        assert_eq!(parse(r#"{"type":"compacting"}"#), SessionStatus::Other);
        let retry = r#"{"type":"retry","attempt":2,"message":"overloaded","next":1760000000000}"#;
        assert_eq!(parse(retry), SessionStatus::Retry { message: "overloaded".into() });
    }

    #[test]
    fn a_real_answer() {
        let text = r#"{"info":{"id":"msg_1","role":"assistant","time":{"created":1795256721122,"completed":1795256722710},
            "parentID":"msg_0","cost":0,"tokens":{"total":14,"input":10,"output":4,"reasoning":0,"cache":{"read":0}},"finish":"stop"},
            "parts":[{"id":"prt_1","type":"step-start","messageID":"msg_1"},{"id":"prt_2","type":"text","text":"word0 ","messageID":"msg_1"},
            {"id":"prt_3","type":"text","text":"word1","messageID":"msg_1"},{"id":"prt_4","type":"reasoning","text":"hm","messageID":"msg_1"}]}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(message.text(), "word0 word1");
        assert_eq!(message.info.finish.as_deref(), Some("stop"));
        assert!((message.info.tokens.unwrap().input - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_prompt_without_options_has_parts_alone() {
        let json = serde_json::to_string(&Prompt::text("hi")).unwrap();
        assert_eq!(json, r#"{"parts":[{"type":"text","text":"hi"}]}"#);
        let json = serde_json::to_string(&Prompt::text("hi").after("know this")).unwrap();
        assert_eq!(json, r#"{"parts":[{"type":"text","text":"know this"},{"type":"text","text":"hi"}]}"#);
    }
}
