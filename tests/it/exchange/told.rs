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

/// Somebody holds an agent whose pod waits for what is decided: it is withdrawn, and its time begins anew afterwards.
#[tokio::test]
async fn what_somebody_holds_does_not_come_and_its_time_does_not_run() {
    let mut told = Told::new().await;
    let second = told.decide().await;
    let hash = manifest(&second).hash();
    assert_eq!(told.door.load().await.manifest.hash(), hash);
    let ask = |value: Value| json!({"metadata": {"annotations": {"pilothouse.dev/rollout": value}}});
    let agents = told.place.api::<Agent>();
    agents.patch("coder", &PatchParams::default(), &Patch::Merge(ask(json!("hold: ask Jo")))).await.unwrap();
    let back = loop {
        let load = told.door.load().await;
        if load.withdrawn {
            break load;
        }
    };
    assert_eq!((back.manifest.hash(), back.force, back.immediately), (hash.clone(), false, false));
    told.door.content(placed(&told.first)).await;
    told.place.map_where("the time that does not run", |map, _| since(map) == "held").await;
    let said = |a: &Agent| condition(a, "GitSyncPending").is_some_and(|c| c.0 == "True" && c.2.contains("(ask Jo)"));
    told.place.agent_where("who to ask", said).await;

    // Not when its time would be over, nor for a newer one, nor for who wants it at once.
    push(&told.repository, "3", &[]);
    told.pending("the third is held", true).await;
    let mut spec = told.spec.clone();
    spec["rollout"] = json!({"live": "Immediately", "protect": "None"});
    told.place.agent(spec).await;
    let come = told.door.load_within(Duration::from_secs(12)).await;
    assert!(come.is_none_or(|load| load.withdrawn), "it came");
    let map = told.place.map_where("the ConfigMap", |_, _| true).await;
    assert_eq!(manifest(&map).hash(), hash, "nothing is decided meanwhile");

    told.place.agent(told.spec.clone()).await;
    let resumed = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    agents.patch("coder", &PatchParams::default(), &Patch::Merge(ask(Value::Null))).await.unwrap();
    let again = told.door.load().await;
    assert_eq!((again.manifest.hash(), again.withdrawn), (hash.clone(), false), "what is decided is told again");
    let begun = |map: &ConfigMap| since(map).parse::<Timestamp>().is_ok_and(|since| since >= resumed);
    told.place.map_where("its time begins", |map, _| begun(map)).await;
}
