//! The routes.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::{End, Message, Session, Shared, VERSION, now, skills};

type Server = State<Arc<Shared>>;

/// Between a disposal's answer and its end.
const DISPOSAL: Duration = Duration::from_millis(20);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/global/health", get(|| async { Json(json!({ "healthy": true, "version": VERSION })) }))
        .route("/global/event", get(|server: Server| async move { events(&server, true) }))
        .route("/event", get(|server: Server| async move { events(&server, false) }))
        .route("/session/status", get(status))
        .route("/session", get(sessions).post(create))
        .route("/session/{id}", get(session))
        .route("/session/{id}/message", get(messages))
        .route("/session/{id}/prompt_async", post(prompt))
        .route("/session/{id}/abort", post(abort))
        .route("/permission", get(|| async { Json(json!([])) }))
        .route("/skill", get(list_skills))
        .route("/global/dispose", post(dispose))
        .route("/instance/dispose", post(dispose))
        .layer(from_fn_with_state(shared.clone(), check))
        .with_state(shared)
}

/// Illness comes before the password.
async fn check(State(shared): Server, request: Request, next: Next) -> Response {
    if request.uri().path() == "/global/dispose" {
        shared.disposals.fetch_add(1, Ordering::Relaxed);
    }
    let mut illness = shared.illness.subscribe();
    let _ = illness.wait_for(|illness| !illness.wedged).await;
    let refuses = illness.borrow().refuses;
    let wanted = shared
        .setup
        .password
        .as_ref()
        .map(|(user, password)| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if refuses || wanted.is_some_and(|wanted| given != Some(&*wanted)) {
        let realm = [(header::WWW_AUTHENTICATE, "Basic realm=\"Secure Area\"")];
        return (StatusCode::UNAUTHORIZED, realm).into_response();
    }
    next.run(request).await
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "name": "NotFoundError", "data": { "message": "Session not found" } })))
        .into_response()
}

struct Listener {
    events: broadcast::Receiver<Value>,
    cut: watch::Receiver<u64>,
    first: Option<Value>,
    /// Whether the directory is told too.
    global: bool,
}

fn events(shared: &Shared, global: bool) -> Response {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let first = json!({ "payload": { "id": shared.id("evt"), "type": "server.connected", "properties": {} } });
    let listener = Listener { events: shared.events.subscribe(), cut, first: Some(first), global };
    let stream = futures::stream::unfold(listener, hear).map(Ok::<_, Infallible>);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response()
}

async fn hear(mut listener: Listener) -> Option<(Bytes, Listener)> {
    let event = if let Some(first) = listener.first.take() {
        first
    } else {
        tokio::select! {
            biased;
            _ = listener.cut.changed() => return None,
            event = listener.events.recv() => event.ok()?,
            () = tokio::time::sleep(Duration::from_secs(10)) =>
                json!({ "payload": { "id": "evt_0", "type": "server.heartbeat", "properties": {} } }),
        }
    };
    let event = if listener.global { &event } else { &event["payload"] };
    Some((Bytes::from(format!("event: message\ndata: {event}\n\n")), listener))
}

async fn status(State(shared): Server) -> Json<Value> {
    let state = shared.state.lock();
    let busy = state.sessions.iter().filter(|(_, session)| session.listed);
    Json(busy.map(|(id, _)| (id.clone(), json!({ "type": "busy" }))).collect::<serde_json::Map<_, _>>().into())
}

fn described(shared: &Shared, id: &str, session: &Session) -> Value {
    json!({ "id": id, "slug": id, "projectID": "global", "directory": shared.setup.directory, "title": session.title,
        "version": VERSION, "time": { "created": session.created, "updated": session.created } })
}

async fn sessions(State(shared): Server, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let part = query.get("search").cloned().unwrap_or_default();
    let state = shared.state.lock();
    let found = state.sessions.iter().rev().filter(|(_, session)| session.title.contains(&part));
    Json(found.map(|(id, session)| described(&shared, id, session)).collect())
}

async fn create(State(shared): Server, Json(body): Json<Value>) -> Json<Value> {
    let (id, title) = (shared.id("ses"), body["title"].as_str().unwrap_or("New session").to_owned());
    let session = Session { title, created: now(), ..Session::default() };
    let answer = described(&shared, &id, &session);
    shared.state.lock().sessions.insert(id, session);
    Json(answer)
}

async fn session(State(shared): Server, Path(id): Path<String>) -> Response {
    let state = shared.state.lock();
    state.sessions.get(&id).map_or_else(not_found, |session| Json(described(&shared, &id, session)).into_response())
}

/// What is told of a message beside its parts.
pub(super) fn info(message: &Message) -> Value {
    let mut info = json!({ "id": message.id, "role": if message.parent.is_some() { "assistant" } else { "user" },
        "time": { "created": message.created } });
    let Some(parent) = &message.parent else { return info };
    (info["parentID"], info["cost"]) = (json!(parent), json!(0));
    info["tokens"] = json!({ "input": 10, "output": 4, "reasoning": 0, "cache": { "read": 0, "write": 0 } });
    if let Some(completed) = message.completed {
        info["time"]["completed"] = json!(completed);
    }
    match message.error {
        Some(name) => info["error"] = json!({ "name": name, "data": { "message": "scripted" } }),
        None if message.completed.is_some() => info["finish"] = json!("stop"),
        None => {}
    }
    info
}

async fn messages(
    State(shared): Server,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let state = shared.state.lock();
    let Some(session) = state.sessions.get(&id) else { return not_found() };
    let newest = session.messages.iter().skip(session.messages.len().saturating_sub(limit));
    let with_parts = newest.map(|message| {
        let part = json!({ "id": format!("prt_{}", message.id), "type": "text", "messageID": message.id, "text": message.text });
        json!({ "info": info(message), "parts": if message.text.is_empty() { json!([]) } else { json!([part]) } })
    });
    Json(with_parts.collect::<Value>()).into_response()
}

async fn prompt(State(shared): Server, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    if shared.illness.send_if_modified(|illness| std::mem::take(&mut illness.deaf)) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    shared.prompt(&id, &body).map_or_else(not_found, |()| StatusCode::NO_CONTENT.into_response())
}

async fn abort(State(shared): Server, Path(id): Path<String>) -> Json<bool> {
    shared.abort(&id, End::Stopped);
    Json(true)
}

async fn list_skills(State(shared): Server) -> Json<Value> {
    let mut state = shared.state.lock();
    let known = state.skills.get_or_insert_with(|| skills::read(&shared.setup.skills));
    Json(known.clone().into())
}

/// The answer comes first.
async fn dispose(State(shared): Server) -> Json<bool> {
    tokio::spawn(async move {
        tokio::time::sleep(DISPOSAL).await;
        shared.dispose();
        shared.tell("server.instance.disposed", &json!({ "directory": shared.setup.directory }));
        shared.tell("global.disposed", &json!({}));
    });
    Json(true)
}
