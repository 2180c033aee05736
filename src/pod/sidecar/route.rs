//! What a request is, from its method and path (pure).

use http::Method;

use crate::pod::opencode::PROOF_PATH;

/// How the door treats a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The door's own answers, without a password.
    Probe(Probe),
    /// Starts work in a session: counted, and waits while prompts are held. The session is empty if the path has none.
    Prompt {
        /// Session named by the path.
        session: String,
        /// The answer comes only when the work is done.
        waits: bool,
    },
    /// May change something: counted while in flight.
    Change,
    /// Reads, streams and upgrades: passed on.
    Read,
}

/// The door's own paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`: the sidecar runs.
    Health,
    /// `/readyz`: the server behind answers and its content is in place.
    Ready,
    /// `/server-livez`: the server behind answers, or the door is young.
    ServerLive,
    /// `/drained`: the pod ends and its work has ended; waits for both.
    Drained,
    /// [`PROOF_PATH`]: whether this is a certain pod's door.
    Proof,
    /// `/startz`: the content is in place; the sidecar's own startup probe.
    Started,
}

/// Last parts of paths that start work of a model or a shell.
const PROMPTS: [&str; 8] =
    ["message", "prompt_async", "prompt", "command", "shell", "summarize", "init", "submit-prompt"];

impl Route {
    /// Classifies a request. Unknown ones that are no plain read count as work while they last.
    pub fn of(method: &Method, path: &str) -> Self {
        let read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match path {
            "/healthz" if read => return Self::Probe(Probe::Health),
            "/readyz" if read => return Self::Probe(Probe::Ready),
            "/drained" if *method == Method::GET => return Self::Probe(Probe::Drained),
            PROOF_PATH if *method == Method::GET => return Self::Probe(Probe::Proof),
            "/startz" if read => return Self::Probe(Probe::Started),
            "/server-livez" if read => return Self::Probe(Probe::ServerLive),
            _ => {}
        }
        if read {
            return Self::Read;
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [.., "session", id, verb] if method == Method::POST && PROMPTS.contains(verb) => {
                Self::Prompt { session: (*id).to_owned(), waits: !matches!(*verb, "prompt_async" | "prompt") }
            }
            [.., verb] if method == Method::POST && PROMPTS.contains(verb) => {
                Self::Prompt { session: String::new(), waits: false }
            }
            _ => Self::Change,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let prompt = |session: &str, waits| Route::Prompt { session: session.into(), waits };
        for (method, path, route) in [
            (Method::GET, "/healthz", Route::Probe(Probe::Health)),
            (Method::GET, "/readyz", Route::Probe(Probe::Ready)),
            (Method::GET, "/server-livez", Route::Probe(Probe::ServerLive)),
            (Method::GET, "/startz", Route::Probe(Probe::Started)),
            (Method::GET, "/drained", Route::Probe(Probe::Drained)),
            (Method::POST, "/drained", Route::Change),
            (Method::GET, "/pilothouse/proof", Route::Probe(Probe::Proof)),
            (Method::POST, "/healthz", Route::Change),
            (Method::GET, "/healthz/", Route::Read),
            (Method::GET, "/session/ses_1/message", Route::Read),
            (Method::POST, "/session/ses_1/message", prompt("ses_1", true)),
            (Method::POST, "/session/ses_1/shell", prompt("ses_1", true)),
            (Method::POST, "//session//ses_1/prompt_async/", prompt("ses_1", false)),
            (Method::POST, "/api/session/ses_1/prompt", prompt("ses_1", false)),
            (Method::POST, "/tui/submit-prompt", prompt("", false)),
            (Method::POST, "/session/ses_1/abort", Route::Change),
            (Method::POST, "/session", Route::Change),
            (Method::DELETE, "/session/ses_1/message", Route::Change),
            (Method::PATCH, "/config", Route::Change),
            (Method::OPTIONS, "/session/ses_1/message", Route::Read),
        ] {
            assert_eq!(Route::of(&method, path), route, "{method} {path}");
        }
    }
}
