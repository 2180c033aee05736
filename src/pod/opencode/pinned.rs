//! Which pod answers, and how to stay with it.
//!
//! A Service sends each connection to any ready pod. A session lives in one pod only, and goes on there while that pod
//! ends and the Service knows it no more. So the door names its pod in every answer to who knows the password, and takes
//! no request that means another one. What else answers is taken for no answer, and gets no password; see
//! [`proof`](super::proof).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, uri::PathAndQuery};
use hyper::body::Incoming;

use super::{CALL_TIMEOUT, Client, Credentials, Error, Key, PROOF_HEADER, chain, connections, proof::Pin};

/// Uid of the pod: in every answer of a door, and in requests that mean this pod and no other.
pub const POD_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-pod");
/// Address of the door in the pod, `ip:port`, past the Service: in every answer of a door that knows it.
pub const DOOR_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-door");

/// The door of a pod, past the Service.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it is.
    pub address: SocketAddr,
    /// Uid of the pod.
    pub pod: HeaderValue,
    /// What it has to show that it knows.
    pub key: Key,
}

impl Door {
    fn pin(&self) -> Pin {
        Pin { pod: self.pod.clone(), key: self.key.clone() }
    }

    fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes a request there with all that it carries, once the door has shown that it is this pod's. The answer's body
    /// comes as it is.
    ///
    /// # Errors
    /// It is not reached, or something else has its address.
    pub async fn take(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Error> {
        let url = self.base();
        let failed = |why: String, sent| Error::Unreachable { url: url.clone(), why, sent };
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let authority = self.address.to_string();
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|e| failed(e.to_string(), false))?;
        *request.version_mut() = http::Version::HTTP_11;
        request.headers_mut().insert(POD_HEADER, self.pod.clone());
        let answer = connections(Some(self.pin())).request(request).await;
        answer.map_err(|e| failed(chain(&e), !e.is_connect()))
    }
}

impl Client {
    /// A client of a pod's door, which shows this as its `Authorization`.
    pub fn of_door(door: &Door, auth: Option<HeaderValue>) -> Self {
        Self {
            base: door.base(),
            auth,
            key: None,
            directory: None,
            pod: Some(door.pod.clone()),
            timeout: CALL_TIMEOUT,
            pool: connections(Some(door.pin())),
        }
    }

    /// A client of one pod by its own address, `http://ip:port`. It has to prove that it is that pod before it gets anything.
    ///
    /// # Errors
    /// The address or the uid is none.
    pub fn of_pod(url: &str, uid: &str, credentials: &Credentials) -> Result<Self, Error> {
        let pod = HeaderValue::try_from(uid).map_err(|_| Error::BadUrl(url.to_owned()))?;
        let pin = Pin { pod: pod.clone(), key: credentials.key() };
        Ok(Self { pod: Some(pod), pool: connections(Some(pin)), ..Self::new(url, Some(credentials))? })
    }

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
