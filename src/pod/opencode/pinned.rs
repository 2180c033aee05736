//! Which pod answers, and how to stay with it.
//!
//! A Service sends each connection to any ready pod. A session lives in one pod only, and goes on there while that pod
//! ends and the Service knows it no more. So the door names its pod in every answer to who knows the password, and takes
//! no request that means another one. What else answers is taken for no answer, and gets no password; see
//! [`proof`](super::proof).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, Method};

use super::{Client, Error, PROOF_HEADER, connections, proof::Pin};

/// Uid of the pod: in every answer of a door, and in requests that mean this pod and no other.
pub const POD_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-pod");
/// Address of the door in the pod, `ip:port`, past the Service: in every answer of a door that knows it.
pub const DOOR_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-door");

impl Client {
    /// A client of the pod that answers now, with connections of its own. Where the door names no pod (an old one),
    /// it is a client of the same address as before.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn pinned(&self) -> Result<Self, Error> {
        let asked = self.send(Method::GET, "/global/health", Vec::new());
        let answer = tokio::time::timeout(self.timeout, asked).await.unwrap_or_else(|_| Err(self.late()))?;
        Ok(self.to_door_of(answer.headers()))
    }

    fn to_door_of(&self, headers: &HeaderMap) -> Self {
        let pod = headers.get(POD_HEADER).cloned();
        let door = headers.get(DOOR_HEADER).and_then(|door| door.to_str().ok()?.parse::<SocketAddr>().ok());
        let base = door.map_or_else(|| self.base.clone(), |door| format!("http://{door}"));
        // Behind a Service only its own pods answer; and an old door cannot be asked.
        let asks = door.is_some() && headers.contains_key(PROOF_HEADER);
        let pin = pod.clone().zip(self.key.clone()).filter(|_| asks).map(|(pod, key)| Pin { pod, key });
        Self { base, pod, pool: connections(pin), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_door_says_where_it_is() {
        let client = Client::new("http://coder.team.svc:4096", None).unwrap();
        for (door, base) in [
            (Some("10.0.0.7:14096"), "http://10.0.0.7:14096"),
            (Some("[fd00::7]:14096"), "http://[fd00::7]:14096"),
            (Some("elsewhere.example:80"), "http://coder.team.svc:4096"),
            (Some("10.0.0.7:14096/x"), "http://coder.team.svc:4096"),
            (None, "http://coder.team.svc:4096"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(POD_HEADER, HeaderValue::from_static("uid-1"));
            headers.extend(door.map(|door| (DOOR_HEADER, HeaderValue::from_str(door).unwrap())));
            let pinned = client.to_door_of(&headers);
            let pod = pinned.pod.unwrap();
            assert_eq!((pinned.base.as_str(), pod.to_str().unwrap()), (base, "uid-1"), "{door:?}");
        }
        assert_eq!(client.to_door_of(&HeaderMap::new()).pod, None, "an old door");
    }
}
