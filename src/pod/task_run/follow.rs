//! Follows a session to its end: events for speed, listing and messages for the truth.

use std::{io::Write, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    PATIENCE,
    ending::{Ending, Outcome},
    print::Printer,
};
use crate::pod::opencode::{Client, Error, Event, Follower, Message, SessionError, SessionStatus, Signal};

/// Between looks at the truth.
const POLL: Duration = Duration::from_secs(3);
/// A prompt that was taken shows work within this time, or never will.
const BEGIN: Duration = Duration::from_mins(1);
/// Looks in a row that must find a session at rest before an unfinished answer counts as lost.
const LOST_AFTER: u32 = 3;
/// The newest messages hold the answer; a long tool run has many.
const NEWEST: usize = 40;

/// What the listing and the messages say.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// It goes on.
    Working,
    /// At rest, and the answer is whole.
    Done,
    /// At rest, and the answer failed.
    Failed(SessionError),
    /// At rest, but the answer is not whole, or not begun.
    Unfinished,
}

fn verdict(status: Option<&SessionStatus>, messages: &[Message]) -> Verdict {
    if status.is_some_and(|status| *status != SessionStatus::Idle) {
        return Verdict::Working;
    }
    let Some(answer) = messages.last().map(|last| &last.info).filter(|info| info.role == "assistant") else {
        return Verdict::Unfinished;
    };
    match (&answer.error, answer.time.completed, answer.finish.as_deref()) {
        (Some(error), ..) => Verdict::Failed(error.clone()),
        // After a call of a tool the model is asked again: this is no end.
        (None, Some(_), finish) if finish != Some("tool-calls") => Verdict::Done,
        _ => Verdict::Unfinished,
    }
}

pub(super) struct Follow {
    client: Client,
    session: String,
    follower: Follower,
    printer: Printer,
    /// Looks in a row that found the session at rest without a whole answer.
    unfinished: u32,
    /// The last error that an event reported.
    error: Option<SessionError>,
    /// Text of the newest answer.
    answer: String,
    /// The message after which the work begins, where the session is older.
    before: Option<String>,
    begun: Instant,
    heard: Instant,
}

impl Follow {
    pub(super) fn new(client: Client, session: &str) -> Self {
        let (follower, now) = (client.events(), Instant::now());
        let (printer, session) = (Printer::default(), session.to_owned());
        Self {
            client,
            session,
            follower,
            printer,
            unfinished: 0,
            error: None,
            answer: String::new(),
            before: None,
            begun: now,
            heard: now,
        }
    }

    /// What there is up to this message is over.
    pub(super) fn begin_after(&mut self, message: &Message) {
        self.before = Some(message.info.id.clone());
    }

    /// Waits for the event stream.
    pub(super) async fn connect(&mut self) -> Result<(), Error> {
        loop {
            match self.follower.next().await {
                Signal::Lost(error) => return Err(error),
                Signal::Connected => return Ok(()),
                Signal::Event(_) => {}
            }
        }
    }

    pub(super) async fn finish(&mut self, out: &mut (impl Write + Send)) -> Ending {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        (self.begun, self.heard) = (Instant::now(), Instant::now());
        loop {
            let look = tokio::select! {
                signal = self.follower.next() => self.hear(signal, out).await,
                _ = poll.tick() => true,
            };
            if look && let Some(ending) = self.look(out).await {
                self.printer.finish(out);
                return ending.answering(&self.answer);
            }
        }
    }

    /// Returns whether the truth should be looked at now.
    async fn hear(&mut self, signal: Signal, out: &mut (impl Write + Send)) -> bool {
        match signal {
            Signal::Connected => true,
            Signal::Lost(error) => {
                self.printer.missed();
                tracing::warn!(%error, "the event stream is lost; connecting again");
                false
            }
            Signal::Event(event) => self.event(*event, out).await,
        }
    }

    async fn event(&mut self, event: Event, out: &mut (impl Write + Send)) -> bool {
        let fields = &event.payload.properties;
        if fields.session_id.as_deref() != Some(self.session.as_str()) {
            return false;
        }
        match event.payload.kind.as_str() {
            "session.status" => fields.status == Some(SessionStatus::Idle),
            "session.error" => {
                self.error.clone_from(&fields.error);
                true
            }
            "permission.asked" => {
                if let Some(id) = &fields.id {
                    tracing::warn!(request = id, "the agent asks for a permission; nobody can give it");
                    if let Err(error) = self.client.reject_permission(id).await {
                        tracing::warn!(%error, "the permission could not be refused");
                    }
                }
                false
            }
            _ => {
                self.printer.event(&event.payload, out);
                false
            }
        }
    }

    /// Looks at the truth; `None` while it goes on.
    async fn look(&mut self, out: &mut (impl Write + Send)) -> Option<Ending> {
        match self.truth(out).await {
            Ok(verdict) => {
                self.heard = Instant::now();
                self.decide(verdict)
            }
            Err(error) if (error.is_transient() || error.is_of_another_pod()) && self.heard.elapsed() < PATIENCE => {
                tracing::warn!(%error, "the session cannot be looked at; trying again");
                None
            }
            Err(error) => Some(Ending::from_error(&error)),
        }
    }

    async fn truth(&mut self, out: &mut (impl Write + Send)) -> Result<Verdict, Error> {
        let status = self.client.status().await?;
        let mut messages = self.client.messages(&self.session, NEWEST).await?;
        if let Some(at) = messages.iter().position(|m| Some(&m.info.id) == self.before.as_ref()) {
            messages.drain(..=at);
        }
        self.printer.messages(&messages, out);
        if let Some(answer) =
            messages.iter().rev().filter(|m| m.info.role == "assistant").map(Message::text).find(|t| !t.is_empty())
        {
            self.answer = answer;
        }
        Ok(verdict(status.get(&self.session), &messages))
    }

    fn decide(&mut self, verdict: Verdict) -> Option<Ending> {
        match verdict {
            Verdict::Done => return Some(Ending::new(Outcome::Completed, "")),
            Verdict::Failed(error) => return Some(Ending::from_session_error(&error)),
            Verdict::Working => self.unfinished = 0,
            Verdict::Unfinished => self.unfinished += 1,
        }
        if self.unfinished < LOST_AFTER {
            return None;
        }
        if let Some(error) = &self.error {
            return Some(Ending::from_session_error(error));
        }
        // The first prompt of an instance takes its time to begin.
        (self.begun.elapsed() > BEGIN).then(|| {
            let text = "the session stopped before its answer was whole; the agent's server was probably restarted";
            Ending::new(Outcome::SessionLost, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts() {
        let message = |info: serde_json::Value| serde_json::from_value::<Message>(json!({ "info": info })).unwrap();
        let user = message(json!({ "id": "m1", "role": "user" }));
        let answer = |patch: serde_json::Value| {
            let mut info = json!({ "id": "m2", "role": "assistant", "time": { "created": 1, "completed": 2 } });
            info.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            vec![user.clone(), message(info)]
        };
        let aborted = SessionError { name: "MessageAbortedError".into(), ..SessionError::default() };
        let busy = SessionStatus::Busy;
        let retry = SessionStatus::Retry { message: String::new() };
        for (status, messages, expected) in [
            (None, vec![], Verdict::Unfinished),
            (None, vec![user.clone()], Verdict::Unfinished),
            (Some(&busy), answer(json!({ "finish": "stop" })), Verdict::Working),
            (Some(&retry), answer(json!({ "finish": "stop" })), Verdict::Working),
            (Some(&SessionStatus::Idle), answer(json!({ "finish": "stop" })), Verdict::Done),
            (None, answer(json!({ "finish": "stop" })), Verdict::Done),
            (None, answer(json!({ "finish": "length" })), Verdict::Done),
            (None, answer(json!({ "finish": "tool-calls" })), Verdict::Unfinished),
            (None, answer(json!({ "time": { "created": 1 } })), Verdict::Unfinished),
            (None, answer(json!({ "error": { "name": "MessageAbortedError" } })), Verdict::Failed(aborted)),
        ] {
            assert_eq!(verdict(status, &messages), expected, "{status:?} {messages:?}");
        }
    }
}
