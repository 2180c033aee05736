//! What the kubelet asks the door.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::watch;

use super::{door::Age, route::Probe};
use crate::pod::opencode::Client;

/// While the door is younger than this, the server counts as alive: a restart of the door must not kill it.
pub const YOUNG: Duration = Duration::from_mins(1);

/// The door's own answers.
#[derive(Clone, Debug)]
pub struct Probes {
    server: Client,
    /// `Ok` when all content is in place, else what is missing.
    content: watch::Receiver<Result<(), Arc<str>>>,
    age: Age,
}

impl Probes {
    /// Probes that ask `server`, which should have a short timeout (the kubelet's is one second unless set).
    pub fn new(server: Client, content: watch::Receiver<Result<(), Arc<str>>>, age: Age) -> Self {
        Self { server, content, age }
    }

    /// Status and text of one probe.
    pub async fn answer(&self, probe: Probe) -> (StatusCode, String) {
        let ok = (StatusCode::OK, "ok".to_owned());
        let verdict = match probe {
            // The door answers the latter two itself.
            Probe::Health | Probe::Drained | Probe::Proof => return ok,
            Probe::ServerLive if self.age.younger_than(YOUNG) => return ok,
            Probe::ServerLive => self.server().await,
            Probe::Started => self.content(),
            Probe::Ready => match self.content() {
                Ok(()) => self.server().await,
                missing => missing,
            },
        };
        verdict.map_or_else(|why| (StatusCode::SERVICE_UNAVAILABLE, why), |()| ok)
    }

    fn content(&self) -> Result<(), String> {
        self.content.borrow().clone().map_err(|why| why.to_string())
    }

    async fn server(&self) -> Result<(), String> {
        match self.server.health().await {
            Ok(health) if health.healthy => Ok(()),
            Ok(_) => Err("the agent's server says that it is not healthy".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that says this of its health, or takes the question and never answers.
    async fn server(says: Option<&'static str>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut silent = vec![];
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(says) = says else {
                    silent.push(stream);
                    continue;
                };
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
                let _ = stream.write_all(format!("{head} {}\r\n\r\n{says}", says.len()).as_bytes()).await;
            }
        });
        Client::new(&url, None).unwrap().with_timeout(Duration::from_millis(300))
    }

    /// The kubelet restarts the server after some 503 of `/server-livez`.
    #[tokio::test]
    async fn a_hung_server_counts_as_alive_only_while_the_door_is_young() {
        let (hung, well) = (server(None).await, server(Some(r#"{"healthy":true,"version":"1"}"#)).await);
        let sick = server(Some(r#"{"healthy":false,"version":"1"}"#)).await;
        let (_placed, content) = watch::channel(Ok(()));
        for (server, age, live, ready) in [
            (&hung, Duration::ZERO, 200, 503),
            (&hung, YOUNG, 503, 503),
            (&sick, Duration::ZERO, 200, 503),
            (&sick, YOUNG, 503, 503),
            (&well, Duration::ZERO, 200, 200),
            (&well, YOUNG, 200, 200),
        ] {
            let probes = Probes::new(server.clone(), content.clone(), Age::of(age));
            let status = async |probe| probes.answer(probe).await.0.as_u16();
            let found = (status(Probe::ServerLive).await, status(Probe::Ready).await);
            assert_eq!(found, (live, ready), "{server:?} behind a door of {age:?}");
            assert_eq!(status(Probe::Health).await, 200, "the door itself is well");
        }
    }
}
