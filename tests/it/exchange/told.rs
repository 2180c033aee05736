//! What sidecars are told of content that is decided, seen by a door that is played.

use pilothouse::api::content::{Placed, Report};

use super::*;
use crate::common::{
    door::{Door, busy, idle},
    opencode::free_port,
};

/// An agent with its first content in place, and the door of its pod.
struct Told {
    place: Place,
    repository: Repository,
    door: Door,
    spec: Value,
    first: ConfigMap,
}

impl Told {
    async fn new() -> Self {
        let port = free_port();
        let (listen, address) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
        let place = Place::with(&["--voice-listen", &listen, "--voice-address", &address]).await;
        let repository = place.server.repository("r.git");
        push(&repository, "1", &[]);
        let mut spec = place.inputs();
        spec["rollout"] = json!({"timeout": "10s"});
        place.agent(spec.clone()).await;
        let first = place.map_where("the first content", |_, _| true).await;
        let pod = place.let_run().await;
        let mut door = Door::open(&place.client, "coder", &pod, port).await;
        door.say(idle()).await;
        door.content(Report { loaded: manifest(&first).hash(), ..placed(&first) }).await;
        Self { place, repository, door, spec, first }
    }

    /// What is pushed is decided while the pod is idle, and then it is busy.
    async fn decide(&mut self) -> ConfigMap {
        let before = manifest(&self.first).hash();
        push(&self.repository, "2", &[]);
        let second = self.place.map_where("the second is decided", |_, m| m.hash() != before).await;
        self.door.say(busy()).await;
        let wanted = manifest(&second).hash();
        self.door.content(Report { wanted, why: "waits".into(), ..placed(&self.first) }).await;
        second
    }

    async fn pending(&self, what: &str, held: bool) {
        let is = |map: &ConfigMap| state::State::of_content(map.annotations()).pending.is_some_and(|p| p.held == held);
        self.place.map_where(what, |map, _| is(map)).await;
    }
}

/// A pod with what this says in place.
fn placed(map: &ConfigMap) -> Report {
    let placed = |piece: pilothouse::api::content::Piece| Placed {
        id: piece.id,
        revision: piece.revision,
        digest: piece.digest,
        note: String::new(),
    };
    Report { pieces: manifest(map).pieces.into_iter().map(placed).collect(), ..Report::default() }
}

fn since(map: &ConfigMap) -> &str {
    &map.annotations()["pilothouse.dev/content-since"]
}

/// Of an agent that is never idle: a push moves what it is to have, and not the time at which it has it over its work.
#[tokio::test]
async fn what_pods_wait_for_is_told_on_and_keeps_its_clock_whatever_is_pushed() {
    let mut told = Told::new().await;
    let second = told.decide().await;
    assert_eq!(told.door.load().await.manifest, manifest(&second));
    // The times that are compared below have whole seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    push(&told.repository, "3", &[]);
    told.pending("the third waits", false).await;
    let over = loop {
        let load = told.door.load().await;
        if load.force {
            break load;
        }
    };
    assert_eq!(over.manifest, manifest(&second), "the time of what was decided first is over first");
    let mut spec = told.spec.clone();
    spec["rollout"]["live"] = json!("Immediately");
    told.place.agent(spec).await;
    let before = manifest(&second).hash();
    let third = told.place.map_where("the third is decided", |_, m| m.hash() != before).await;
    assert_eq!(since(&third), since(&second));
}
