//! A stand-in for a model: an OpenAI-compatible `/v1/chat/completions` that streams what a test wants.
//!
//! A test sets a [`Script`] for all calls; a prompt may override it for its own call with a directive in its text:
//! `[[words=20 delay_ms=200]]`, `[[fail=400]]`, `[[hold]]`.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How the model answers.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Words to say, one chunk each.
    pub(crate) words: Vec<String>,
    /// Pause after each word.
    pub(crate) delay: Duration,
    /// Say the first word, then wait for [`Model::release`].
    pub(crate) hold: bool,
    /// Answer with this HTTP status instead. 400 ends the prompt with an `APIError`, 429 and 5xx are tried again.
    pub(crate) fail: Option<u16>,
    /// Call this tool with these arguments first, where the server offers it.
    pub(crate) tool: Option<(&'static str, Value)>,
}

impl Default for Script {
    fn default() -> Self {
        Self { words: words(4), delay: Duration::from_millis(10), hold: false, fail: None, tool: None }
    }
}

impl Script {
    /// `n` words with a pause after each.
    pub(crate) fn words(n: usize, delay: Duration) -> Self {
        Self { words: words(n), delay, ..Self::default() }
    }

    /// Says what it is, one word after another: for people who watch.
    pub(crate) fn stand_in() -> Self {
        const TEXT: &str = "I am a stand-in for a model, so that this demo needs no account anywhere: whatever I am \
                            asked, I answer with these sentences, one word at a time. Give the Sync the address of a \
                            real provider in spec.values, and what you asked for will stand here instead.";
        let words = TEXT.split_whitespace().map(|word| format!("{word} ")).collect();
        Self { words, delay: Duration::from_millis(60), ..Self::default() }
    }

    /// Calls a tool, and then says what it says otherwise.
    pub(crate) fn tool(name: &'static str, arguments: Value) -> Self {
        Self { tool: Some((name, arguments)), ..Self::default() }
    }

    /// The tool that is to be called in answer to `body`: not where it was called already, or is not offered.
    fn calls(&self, body: &Value) -> Option<String> {
        let (name, arguments) = self.tool.as_ref()?;
        let offered = body["tools"].as_array()?.iter().any(|tool| tool["function"]["name"] == *name);
        let last = body["messages"].as_array()?.last()?["role"].as_str()?;
        (offered && last != "tool").then(|| tool_call(name, arguments))
    }

    /// Fails each call with this status.
    pub(crate) fn failing(status: u16) -> Self {
        Self { fail: Some(status), ..Self::default() }
    }

    /// Says one word and waits for [`Model::release`].
    pub(crate) fn held() -> Self {
        Self { hold: true, ..Self::default() }
    }

    pub(crate) fn with_directive(mut self, prompt: &str) -> Self {
        let Some((_, rest)) = prompt.rsplit_once("[[") else { return self };
        let inner = rest.split("]]").next().unwrap_or_default();
        for item in inner.split_whitespace() {
            match item.split_once('=').unwrap_or((item, "")) {
                ("words", n) => self.words = words(n.parse().unwrap_or(4)),
                ("delay_ms", n) => self.delay = Duration::from_millis(n.parse().unwrap_or(10)),
                ("fail", n) => self.fail = n.parse().ok(),
                ("hold", _) => self.hold = true,
                _ => {}
            }
        }
        self
    }
}

fn words(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("word{i} ")).collect()
}

/// One call that the model got.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// When it came.
    pub(crate) at: Instant,
    /// The request.
    pub(crate) body: Value,
}

impl Call {
    /// All texts of the request's messages, the system prompt included.
    pub(crate) fn text(&self) -> String {
        let messages = self.body["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().map(|m| content(&m["content"])).collect::<Vec<_>>().join("\n")
    }
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    calls: Mutex<Vec<Call>>,
    released: watch::Sender<u64>,
}

/// A running model; it stops with the value.
#[derive(Debug)]
pub(crate) struct Model {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Model {
    /// On a free port of loopback.
    pub(crate) async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    /// On this address, for pods on a node's network.
    pub(crate) async fn start_on(address: &str) -> Self {
        let released = watch::Sender::new(0);
        let shared = Arc::new(Shared { script: Mutex::default(), calls: Mutex::default(), released });
        let app = Router::new().route("/v1/chat/completions", post(complete)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(address).await.expect("an address for the model");
        let address = listener.local_addr().expect("the model's address");
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("the model serves") });
        Self { address, shared, task }
    }

    /// Answers like this from now on.
    pub(crate) fn play(&self, script: Script) {
        *self.shared.script.lock() = script;
    }

    /// Lets all held answers go on.
    pub(crate) fn release(&self) {
        self.shared.released.send_modify(|n| *n += 1);
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().clone()
    }

    /// Configuration of opencode that uses this model for everything, reached under `host`.
    pub(crate) fn config_for(&self, host: &str) -> Value {
        let url = format!("http://{host}:{}/v1", self.address.port());
        json!({
            "model": "fake/m",
            "small_model": "fake/m",
            "autoupdate": false,
            "share": "disabled",
            "provider": { "fake": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Fake",
                "options": { "baseURL": url, "apiKey": "x" },
                "models": { "m": { "name": "m" } },
            }},
        })
    }

    /// Configuration of an opencode on this machine.
    pub(crate) fn config(&self) -> Value {
        self.config_for("127.0.0.1")
    }
}

async fn complete(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    let prompt = last_user_text(&body);
    let script = shared.script.lock().clone().with_directive(&prompt);
    let call = script.calls(&body);
    shared.calls.lock().push(Call { at: Instant::now(), body });
    if let Some(status) = script.fail {
        let error = json!({ "error": { "message": "scripted failure", "type": "scripted" } });
        return (StatusCode::from_u16(status).expect("a status"), Json(error)).into_response();
    }
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    if let Some(call) = call {
        return (headers, call).into_response();
    }
    // Whoever heard the first word may release: that is not to be missed.
    let released = shared.released.subscribe();
    let stream = futures::stream::unfold((0, script, released), speak);
    (headers, Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>))).into_response()
}

type Speech = (usize, Script, watch::Receiver<u64>);

async fn speak((n, script, mut released): Speech) -> Option<(Bytes, Speech)> {
    let total = script.words.len();
    if n > total {
        return None;
    }
    if n > 0 {
        tokio::time::sleep(script.delay).await;
    }
    if n == 1 && script.hold {
        let _ = released.changed().await;
    }
    let text = if n < total { chunk(&script.words[n]) } else { last_chunk(total) };
    Some((Bytes::from(text), (n + 1, script, released)))
}

fn chunk(word: &str) -> String {
    let choice = json!({ "index": 0, "delta": { "role": "assistant", "content": word }, "finish_reason": null });
    frame(&json!({ "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice] }))
}

fn tool_call(name: &str, arguments: &Value) -> String {
    let function = json!({ "name": name, "arguments": arguments.to_string() });
    let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
    let choice = |delta: Value, reason: Value| json!({ "index": 0, "delta": delta, "finish_reason": reason });
    let choices = [
        choice(json!({ "role": "assistant", "content": null, "tool_calls": [call] }), Value::Null),
        choice(json!({}), "tool_calls".into()),
    ];
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11 });
    let chunk = |choice: &Value| {
        let (choices, usage) = ([choice], if choice["finish_reason"].is_null() { &Value::Null } else { &usage });
        json!({
            "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, "usage": usage,
        })
    };
    choices.iter().map(|choice| frame(&chunk(choice))).collect::<String>() + "data: [DONE]\n\n"
}

fn last_chunk(words: usize) -> String {
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words });
    let choice = json!({ "index": 0, "delta": {}, "finish_reason": "stop" });
    let end = json!({
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], "usage": usage,
    });
    frame(&end) + "data: [DONE]\n\n"
}

fn frame(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn last_user_text(body: &Value) -> String {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    messages.iter().rev().find(|m| m["role"] == "user").map(|m| content(&m["content"])).unwrap_or_default()
}

/// `content` is a text, or a list of parts.
fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}
