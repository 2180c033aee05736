//! The server's event stream, followed for as long as somebody wants to know.

use std::{collections::VecDeque, time::Duration};

use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rand::Rng as _;
use serde::Deserialize;

use super::{Client, Error, MessageInfo, Part, SessionError, SessionStatus, sse};

/// The server beats every 10 s; a stream that is silent for longer than this is dead.
const SILENCE: Duration = Duration::from_secs(35);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// One event. `/event` has the payload alone, `/global/event` names the directory too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Directory of the instance, on the global stream.
    pub directory: Option<String>,
    /// What happened.
    pub payload: Payload,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// `session.status`, `message.part.delta` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields that are used here, over all kinds.
    pub properties: Properties,
}

/// The fields of all kinds of events that are used here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// The request's id, for `permission.asked`.
    pub id: Option<String>,
    /// The session concerned.
    #[serde(rename = "sessionID")]
    pub session_id: Option<String>,
    /// The message concerned, for `message.part.delta`.
    #[serde(rename = "messageID")]
    pub message_id: Option<String>,
    /// The part concerned, for `message.part.delta`.
    #[serde(rename = "partID")]
    pub part_id: Option<String>,
    /// New state, for `session.status`.
    #[serde(deserialize_with = "lenient")]
    pub status: Option<SessionStatus>,
    /// The message, for `message.updated`; sessions have an `info` too, read leniently.
    #[serde(deserialize_with = "lenient")]
    pub info: Option<MessageInfo>,
    /// The part, for `message.part.updated`.
    #[serde(deserialize_with = "lenient")]
    pub part: Option<Part>,
    /// Which field grows, for `message.part.delta`.
    pub field: Option<String>,
    /// By what it grows.
    #[serde(deserialize_with = "lenient")]
    pub delta: Option<String>,
    /// What went wrong, for `session.error`.
    #[serde(deserialize_with = "lenient")]
    pub error: Option<SessionError>,
}

/// Other kinds of events use the same names for other things: such a value is nothing, not a broken stream.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).ok())
}

impl Event {
    fn parse(data: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Global {
            directory: Option<String>,
            payload: Payload,
        }
        if let Ok(Global { directory, payload }) = serde_json::from_slice(data) {
            return Some(Self { directory, payload });
        }
        serde_json::from_slice(data).ok().map(|payload| Self { directory: None, payload })
    }
}

/// What a [`Follower`] has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// The stream stands: events from now on are complete. What was before must be asked for.
    Connected,
    /// An event.
    Event(Box<Event>),
    /// The stream broke; the next call connects again after a pause.
    Lost(Error),
}

/// Follows an event stream and connects again when it breaks.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    path: &'static str,
    body: Option<Incoming>,
    decoder: sse::Decoder,
    ready: VecDeque<Event>,
    /// Failures in a row.
    failures: u32,
}

impl Client {
    /// Follows `/event`: this client's directory.
    pub fn events(&self) -> Follower {
        self.follow("/event")
    }

    /// Follows `/global/event`: all directories.
    pub fn global_events(&self) -> Follower {
        self.follow("/global/event")
    }

    fn follow(&self, path: &'static str) -> Follower {
        let client = self.clone();
        Follower { client, path, body: None, decoder: sse::Decoder::default(), ready: VecDeque::new(), failures: 0 }
    }
}

impl Follower {
    /// The next signal. Safe to drop and call again: nothing is lost.
    pub async fn next(&mut self) -> Signal {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Signal::Event(Box::new(event));
            }
            let step = match self.body {
                None => self.connect().await.map(|()| Some(Signal::Connected)),
                Some(_) => self.read().await.map(|()| None),
            };
            match step {
                Ok(Some(signal)) => return signal,
                Ok(None) => {}
                Err(error) => return self.lost(error),
            }
        }
    }

    fn lost(&mut self, error: Error) -> Signal {
        self.body = None;
        self.decoder = sse::Decoder::default();
        self.failures = self.failures.saturating_add(1);
        Signal::Lost(error)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        if self.failures > 0 {
            let ceiling = LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow(self.failures.min(10) - 1));
            let pause = ceiling.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(pause).await;
        }
        let sent = self.client.send(Method::GET, self.path, Vec::new());
        let response = tokio::time::timeout(self.client.timeout, sent).await;
        self.body = Some(response.unwrap_or_else(|_| Err(self.client.late()))?.into_body());
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let broken = |why: &str| Error::Unreachable { url: self.client.base.clone(), why: why.to_owned(), sent: true };
        let Some(body) = self.body.as_mut() else { return Ok(()) };
        let frame = tokio::time::timeout(SILENCE, body.frame())
            .await
            .map_err(|_| broken("the event stream is silent"))?
            .ok_or_else(|| broken("the event stream ended"))?
            .map_err(|e| self.client.unreachable(&e, true))?;
        self.failures = 0;
        if let Some(bytes) = frame.data_ref() {
            let ready = &mut self.ready;
            self.decoder.feed(bytes, |data| ready.extend(Event::parse(data)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams() {
        let plain =
            br#"{"id":"evt_1","type":"session.status","properties":{"sessionID":"ses_1","status":{"type":"busy"}}}"#;
        let global =
            br#"{"directory":"/w","project":"p","payload":{"type":"session.idle","properties":{"sessionID":"ses_1"}}}"#;
        let event = Event::parse(plain).unwrap();
        assert_eq!((event.directory, event.payload.properties.status), (None, Some(SessionStatus::Busy)));
        let event = Event::parse(global).unwrap();
        assert_eq!((event.directory.as_deref(), event.payload.kind.as_str()), (Some("/w"), "session.idle"));
    }

    #[test]
    fn foreign_fields_do_not_break_an_event() {
        let odd = br#"{"type":"x.y","properties":{"status":"open","info":7,"part":7,"delta":{"a":1},"error":"no"}}"#;
        let event = Event::parse(odd).unwrap();
        assert_eq!(event.payload, Payload { kind: "x.y".into(), properties: Properties::default() });
        assert_eq!(Event::parse(b"not json"), None);
    }
}
