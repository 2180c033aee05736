//! Which pod this is, for those who must not leave it by mistake.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, Request};

use crate::pod::opencode::{DOOR_HEADER, OFFERED, POD_HEADER, PROOF_HEADER};

/// What the door says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Uid of the pod; unknown outside of one.
    pod: Option<HeaderValue>,
    /// Address of the door, past the Service.
    door: Option<HeaderValue>,
}

impl Name {
    /// A pod's name; an empty uid is none.
    pub fn new(pod_uid: &str, door: Option<SocketAddr>) -> Self {
        let pod = Some(pod_uid).filter(|uid| !uid.is_empty()).and_then(|uid| HeaderValue::from_str(uid).ok());
        Self { pod, door: door.and_then(|door| HeaderValue::from_str(&door.to_string()).ok()) }
    }

    /// Whether a request means another pod than this one.
    pub fn is_not(&self, headers: &HeaderMap) -> bool {
        match (headers.get(POD_HEADER), &self.pod) {
            (Some(meant), Some(pod)) => meant != pod,
            _ => false,
        }
    }

    /// The pod's uid, where it is known.
    pub fn pod(&self) -> Option<&HeaderValue> {
        self.pod.as_ref()
    }

    /// Signs an answer. What the server behind says of this is taken off.
    pub fn sign(&self, headers: &mut HeaderMap) {
        match self.pod {
            Some(_) => _ = headers.insert(PROOF_HEADER, OFFERED),
            None => _ = headers.remove(PROOF_HEADER),
        }
        for (header, value) in [(POD_HEADER, &self.pod), (DOOR_HEADER, &self.door)] {
            match value {
                Some(value) => _ = headers.insert(header, value.clone()),
                None => _ = headers.remove(header),
            }
        }
    }
}

/// Whether somebody listens to the server's events.
pub fn listens<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && request.uri().path().ends_with("/event")
}

/// Whether somebody listens to the server's events who stays with this pod to the end of a session.
pub fn follows<B>(request: &Request<B>) -> bool {
    listens(request) && request.headers().contains_key(POD_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (k.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_the_door_signs() {
        let name = Name::new("uid-1", Some("[fd00::7]:14096".parse().unwrap()));
        let mut headers = map(&[(POD_HEADER, "forged"), (DOOR_HEADER, "192.0.2.1:1"), (PROOF_HEADER, "forged")]);
        name.sign(&mut headers);
        let signed = [(POD_HEADER, "uid-1"), (DOOR_HEADER, "[fd00::7]:14096"), (PROOF_HEADER, "offered")];
        assert_eq!(headers, map(&signed));
        Name::new("", None).sign(&mut headers);
        assert_eq!(headers, HeaderMap::new());
    }

    #[test]
    fn a_request_may_mean_another_pod() {
        for (meant, pod, other) in
            [(Some("a"), "a", false), (Some("a"), "b", true), (Some("a"), "", false), (None, "a", false)]
        {
            let headers: Vec<_> = meant.map(|m| (POD_HEADER, m)).into_iter().collect();
            assert_eq!(Name::new(pod, None).is_not(&map(&headers)), other, "{meant:?} {pod}");
        }
    }
}
