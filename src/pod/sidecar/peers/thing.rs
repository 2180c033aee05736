//! What a path names that one pod alone has.

use crate::pod::opencode::{Client, Error};

/// What one server has and another has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    /// A session, by id.
    Session(String),
    /// A permission that a session waits for.
    Permission(String),
    /// A question that a session waits for.
    Question(String),
}

/// A longer id is none of the server's.
const LONGEST: usize = 128;

impl Thing {
    /// What a path names, if that is one.
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        parts.windows(2).find_map(|pair| {
            let id = |begin: &str| pair[1].starts_with(begin) && pair[1].len() <= LONGEST;
            match pair[0] {
                "session" if id("ses_") => Some(Self::Session(pair[1].into())),
                "permission" if id("per_") => Some(Self::Permission(pair[1].into())),
                "question" if id("que_") => Some(Self::Question(pair[1].into())),
                _ => None,
            }
        })
    }

    /// Whether a server has it; `None` where it does not say.
    pub(super) async fn is_at(&self, server: &Client) -> Option<bool> {
        match self {
            Self::Session(id) => match server.session(id).await {
                Ok(_) => Some(true),
                Err(Error::Refused { status: 404, .. }) => Some(false),
                Err(_) => None,
            },
            Self::Permission(id) => server.asks("permission").await.ok().map(|ids| ids.contains(id)),
            Self::Question(id) => server.asks("question").await.ok().map(|ids| ids.contains(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_paths_name() {
        let session = Some(Thing::Session("ses_1".into()));
        for (path, thing) in [
            ("/session/ses_1", session.clone()),
            ("/session/ses_1/message", session.clone()),
            ("//api//session/ses_1/prompt/", session),
            ("/session/status", None),
            ("/session", None),
            ("/sessions/ses_1", None),
            ("/permission/per_2/reply", Some(Thing::Permission("per_2".into()))),
            ("/permission", None),
            ("/question/que_3/reject", Some(Thing::Question("que_3".into()))),
            ("/event", None),
            ("", None),
        ] {
            assert_eq!(Thing::of(path), thing, "{path}");
        }
        assert_eq!(Thing::of(&format!("/session/ses_{}", "x".repeat(LONGEST))), None);
    }
}
