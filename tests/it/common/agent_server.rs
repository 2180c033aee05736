//! A scripted stand-in for the opencode server, for tests that need many of them, or one that is ill.
//!
//! It speaks what the door, the sidecar and `task-run` use of the API. Prompts are answered by the [`Script`] of the model's
//! stand-in, directives included (`[[words=20 delay_ms=200]]`, `[[hold]]`, `[[fail=400]]`), without a model. That it
//! behaves like the real one is what `pod::contract` tests, by one script against both.

mod answers;
pub(crate) mod ledger;
mod skills;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use ledger::{End, Ledger};
pub(crate) use skills::Root;

use super::model::Script;

/// The version that it says it is: that of the real one in the contract.
pub(crate) const VERSION: &str = "1.18.33";
/// Between a prompt and the moment when the listing shows it.
const LATE: Duration = Duration::from_millis(100);

/// What a server is like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// User and password, if it asks for any.
    pub(crate) password: Option<(String, String)>,
    /// Its working directory, as it names it.
    pub(crate) directory: String,
    /// Where skills are.
    pub(crate) skills: Vec<Root>,
    /// What its work is written down in, and as whose.
    pub(crate) ledger: Ledger,
    pub(crate) agent: String,
    pub(crate) pod: String,
}

/// How it is ill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Illness {
    /// It accepts and does not answer.
    pub(crate) wedged: bool,
    /// It refuses every password.
    pub(crate) refuses: bool,
    /// Its events are lost, and nobody is told.
    pub(crate) mute: bool,
    /// It does not take the next prompt, and somebody before it says that there was no answer.
    pub(crate) deaf: bool,
    /// After the end of its work it says for so long that it goes on.
    pub(crate) late_idle: Duration,
}

struct Message {
    id: String,
    /// For an answer: the message that it answers.
    parent: Option<String>,
    text: String,
    created: i64,
    completed: Option<i64>,
    error: Option<&'static str>,
}

#[derive(Default)]
struct Session {
    title: String,
    created: i64,
    messages: Vec<Message>,
    /// Prompts that are at work or wait for their turn.
    turns: usize,
    listed: bool,
    /// Ends what it does.
    stop: CancellationToken,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<String, Session>,
    /// What was read of the skills at the first question.
    skills: Option<Vec<Value>>,
}

struct Shared {
    setup: Setup,
    state: Mutex<State>,
    illness: watch::Sender<Illness>,
    events: broadcast::Sender<Value>,
    /// Cuts all streams of events.
    cut: watch::Sender<u64>,
    released: watch::Sender<u64>,
    /// Requests to dispose all instances, whatever became of them.
    disposals: AtomicU64,
    ids: AtomicU64,
}

/// A running server; it stops with the value, and what is at work then is cut.
pub(crate) struct AgentServer {
    /// Port on loopback.
    pub(crate) port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for AgentServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl AgentServer {
    /// Starts it on a free port.
    pub(crate) async fn start(setup: Setup) -> Self {
        let shared = Arc::new(Shared {
            setup,
            state: Mutex::default(),
            illness: watch::Sender::default(),
            events: broadcast::Sender::new(4096),
            cut: watch::Sender::default(),
            released: watch::Sender::default(),
            disposals: AtomicU64::new(0),
            ids: AtomicU64::new(1),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("an address for the server");
        let port = listener.local_addr().expect("its address").port();
        let app = answers::router(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("the server serves") });
        Self { port, shared, task }
    }

    /// Makes it ill, or well again.
    pub(crate) fn feels(&self, illness: Illness) {
        self.shared.illness.send_replace(illness);
    }

    /// Cuts all streams of events; they may be opened again at once.
    pub(crate) fn cut_events(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Lets all held answers go on.
    pub(crate) fn release(&self) {
        self.shared.released.send_modify(|n| *n += 1);
    }

    /// As another process with the same disk: what was at work is not, and the listing is empty.
    pub(crate) fn restart(&self) {
        self.shared.end_all("the server was restarted");
        self.shared.state.lock().skills = None;
        self.cut_events();
    }

    /// Ends it; what is at work is cut.
    pub(crate) fn stop(&self) {
        self.task.abort();
        self.shared.end_all("the server was stopped");
    }

    /// How often it was asked to dispose all instances.
    pub(crate) fn disposals(&self) -> u64 {
        self.shared.disposals.load(Ordering::Relaxed)
    }

    /// Texts of the skills that it has read.
    pub(crate) fn known_skills(&self) -> Vec<String> {
        let state = self.shared.state.lock();
        let known = state.skills.iter().flatten();
        known.filter_map(|skill| skill["content"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Prompts that are at work or wait for their turn.
    pub(crate) fn at_work(&self) -> usize {
        self.shared.state.lock().sessions.values().map(|session| session.turns).sum()
    }
}

impl Shared {
    fn id(&self, kind: &str) -> String {
        // Later ids sort later, as the real ones do.
        format!("{kind}_{:012x}{:06}", now(), self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn tell(&self, kind: &str, properties: &Value) {
        if !self.illness.borrow().mute {
            let payload = json!({ "id": self.id("evt"), "type": kind, "properties": properties });
            let _ = self.events.send(json!({ "directory": self.setup.directory, "payload": payload }));
        }
    }

    /// Everything ends without a word: the process is gone.
    fn end_all(&self, why: &'static str) {
        let mut state = self.state.lock();
        for session in state.sessions.values_mut() {
            std::mem::take(&mut session.stop).cancel();
            (session.turns, session.listed) = (0, false);
        }
        self.setup.ledger.cut(&self.setup.pod, why);
    }

    /// Ends the work of all sessions, as a disposal of their instance does.
    fn dispose(&self) {
        self.state.lock().skills = None;
        let ids: Vec<String> = self.state.lock().sessions.keys().cloned().collect();
        for id in &ids {
            self.abort(id, End::Cut("its instance was disposed"));
        }
    }

    /// Ends the work of a session.
    fn abort(&self, id: &str, end: End) {
        let mut state = self.state.lock();
        let Some(session) = state.sessions.get_mut(id) else { return };
        if session.turns == 0 {
            return;
        }
        std::mem::take(&mut session.stop).cancel();
        (session.turns, session.listed) = (0, false);
        for answer in session.messages.iter_mut().filter(|m| m.parent.is_some() && m.completed.is_none()) {
            (answer.error, answer.completed) = (Some("MessageAbortedError"), Some(now()));
        }
        drop(state);
        self.setup.ledger.end(&self.setup.pod, id, end);
        self.tell("session.status", &json!({ "sessionID": id, "status": { "type": "idle" } }));
    }

    /// Takes a prompt: `None` where there is no such session.
    fn prompt(self: &Arc<Self>, session: &str, body: &Value) -> Option<()> {
        let text =
            body["parts"].as_array().into_iter().flatten().filter_map(|p| p["text"].as_str()).collect::<String>();
        let id = body["messageID"].as_str().map_or_else(|| self.id("msg"), ToOwned::to_owned);
        let mut state = self.state.lock();
        let of = state.sessions.get_mut(session)?;
        if of.messages.iter().any(|m| m.id == id) {
            return Some(());
        }
        let created = now();
        of.messages.push(Message {
            id: id.clone(),
            parent: None,
            text: text.clone(),
            created,
            completed: None,
            error: None,
        });
        of.turns += 1;
        let (stop, turn) = (of.stop.clone(), of.turn.clone());
        drop(state);
        let work = self.setup.ledger.begin(&self.setup, session);
        let (shared, session) = (self.clone(), session.to_owned());
        let script = Script::default().with_directive(&text);
        tokio::spawn(async move {
            let whole = async {
                let _turn = turn.lock().await;
                tokio::time::sleep(LATE).await;
                shared.clone().answer(&session, &id, &script).await
            };
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                end = whole => end,
            };
            shared.setup.ledger.finish(work, end);
            shared.rest(&session).await;
        });
        Some(())
    }

    /// Says what the script says.
    async fn answer(self: Arc<Self>, session: &str, prompt: &str, script: &Script) -> End {
        let answer = self.id("msg");
        let message = Message {
            id: answer.clone(),
            parent: Some(prompt.to_owned()),
            text: String::new(),
            created: now(),
            completed: None,
            error: None,
        };
        self.change(session, |of| {
            of.listed = true;
            of.messages.push(message);
        });
        self.tell("session.status", &json!({ "sessionID": session, "status": { "type": "busy" } }));
        self.tell_message(session, &answer);
        if script.fail.is_some() {
            self.complete(session, &answer, Some("APIError"));
            return End::Failed;
        }
        let mut released = self.released.subscribe();
        for (n, word) in script.words.iter().enumerate() {
            let part = format!("prt_{answer}");
            self.grow(session, &answer, word);
            self.tell(
                "message.part.delta",
                &json!({ "sessionID": session, "messageID": answer, "partID": part,
                "field": "text", "delta": word }),
            );
            if n == 0 && script.hold {
                let _ = released.changed().await;
            }
            tokio::time::sleep(script.delay).await;
        }
        self.complete(session, &answer, None);
        End::Done
    }

    fn change(&self, session: &str, change: impl FnOnce(&mut Session)) {
        if let Some(of) = self.state.lock().sessions.get_mut(session) {
            change(of);
        }
    }

    fn grow(&self, session: &str, answer: &str, word: &str) {
        self.change(session, |of| {
            of.messages.iter_mut().filter(|m| m.id == answer).for_each(|m| m.text.push_str(word));
        });
        let part = json!({ "id": format!("prt_{answer}"), "type": "text", "messageID": answer, "sessionID": session, "text": "" });
        self.tell("message.part.updated", &json!({ "sessionID": session, "part": part }));
    }

    fn complete(&self, session: &str, answer: &str, error: Option<&'static str>) {
        self.change(session, |of| {
            for message in of.messages.iter_mut().filter(|m| m.id == answer) {
                (message.completed, message.error) = (Some(now()), error);
            }
        });
        self.tell_message(session, answer);
    }

    fn tell_message(&self, session: &str, id: &str) {
        let state = self.state.lock();
        let info = state.sessions.get(session).and_then(|s| s.messages.iter().find(|m| m.id == id)).map(answers::info);
        drop(state);
        self.tell("message.updated", &json!({ "sessionID": session, "info": info }));
    }

    /// A turn has ended; the session is at rest when it was the last.
    async fn rest(&self, session: &str) {
        let late = self.illness.borrow().late_idle;
        tokio::time::sleep(late).await;
        let mut idle = false;
        self.change(session, |of| {
            of.turns = of.turns.saturating_sub(1);
            idle = of.turns == 0;
            of.listed = !idle;
        });
        if idle {
            self.tell("session.status", &json!({ "sessionID": session, "status": { "type": "idle" } }));
            self.tell("session.idle", &json!({ "sessionID": session }));
        }
    }
}

/// A root of skills that is where it seems to be.
pub(crate) fn root(path: PathBuf) -> Root {
    Root { seen: path.clone(), at: path }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
