//! The pace is kept whatever happens to the controller: it dies at its writes, or another replica takes over.

use std::{collections::BTreeSet, sync::Arc};

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};

use super::*;
use crate::common::{between::Stop, wait::get};

/// Images of Deployments over time, each change once.
type Story = Arc<parking_lot::Mutex<Vec<(String, String)>>>;

async fn watched(api: Api<Deployment>, story: Story) {
    let mut changes = Box::pin(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(Ok(deployment)) = changes.next().await {
        let seen = (deployment.name_any().trim_end_matches("-server").to_string(), image(&deployment));
        let mut story = story.lock();
        if story.iter().rev().find(|(name, _)| *name == seen.0) != Some(&seen) {
            story.push(seen);
        }
    }
}

/// One after the other, each with a controller that dies at a write of its own.
#[tokio::test]
async fn a_controller_that_dies_at_any_write_lets_no_more_go_than_may() {
    let turn = TURN.lock().await;
    let namespace = cluster().namespace("pace-kills").await;
    let mut release = Release::install(cluster(), std::slice::from_ref(&namespace)).await;
    let between = release.between().await;
    let mut town = Town::run(turn, namespace, release).await;
    town.people(&[("a", "0"), ("b", "0"), ("c", "0")]).await;
    town.set(json!({"fleet": {"maxConcurrent": 1}})).await;
    let story = Story::default();
    let watch = tokio::spawn(watched(town.place.api(), story.clone()));
    let all: BTreeSet<String> = town.names.iter().cloned().collect();
    let parts = ["deployments/a-server", "deployments/b-server", "agents/a/status", "agents/b/status"];
    let stops = parts.iter().flat_map(|of| [false, true].map(|carried_out| Stop { of, after: 0, carried_out }));
    let mut tag = 1;
    for stop in stops {
        tag += 1;
        between.stop_at(stop);
        town.push_all(tag).await;
        let mut killed = false;
        let mut out = BTreeSet::new();
        while out != all {
            let next = eventually(&format!("the next one goes, after {out:?}: {stop:?}"), 60, || async {
                if between.stopped().is_some() && !killed {
                    return Some(None);
                }
                let with = town.with(tag).await;
                let mut new = with.into_iter().filter(|name| !out.contains(name));
                new.next().map(|first| Some((first, new.next())))
            })
            .await;
            let Some((name, another)) = next else {
                town.place.controller.kill();
                between.go_on();
                town.place.controller = town.place.release.start(&["--leader-elect", "false"]);
                killed = true;
                continue;
            };
            assert_eq!(another, None, "{stop:?}: {name} is not ready yet");
            if killed || between.stopped().is_none() {
                // One that dies while it waits is started anew in the next round.
                let ready = town.ready_or(&name, tag, || !killed && between.stopped().is_some()).await;
                if ready {
                    out.insert(name);
                }
            }
        }
        assert!(killed, "{stop:?} is never written");
        between.go_on();
    }
    watch.abort();
    let story = story.lock().clone();
    for name in &all {
        let images: Vec<_> = story.iter().filter(|(of, _)| of == name).map(|(_, image)| image.clone()).collect();
        let wanted: Vec<_> = (1..=tag).map(|tag| format!("devbox:{tag}")).collect();
        assert_eq!(images, wanted, "{name}: one after the other, each once");
    }
    town.set(json!({})).await;
}

async fn shown(town: &Town, name: &str) -> Value {
    let mut agent = json!(town.place.api::<Agent>().get(name).await.unwrap());
    agent["metadata"]["managedFields"].take();
    agent
}

/// An agent of which nothing is written any more.
async fn settled(town: &Town, name: &str) -> Value {
    let mut last = shown(town, name).await;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = shown(town, name).await;
        if now == last {
            return now;
        }
        last = now;
    }
}

/// The leader dies while the canary is on its way; who follows knows no less.
#[tokio::test]
async fn another_leader_goes_on_in_the_middle_of_a_wave() {
    let mut town = Town::new("pace-leaders", &[("first", "0"), ("late", "1")]).await;
    let waves = json!([{"name": "canary", "selector": {"matchLabels": {"ring": "0"}}}]);
    town.set(json!({"fleet": {"waves": waves}})).await;
    town.place.controller.kill();
    let leads = async |health: String| {
        eventually("it leads", 60, || async {
            let metrics = get(&format!("{health}/metrics")).await?.1;
            metrics.lines().any(|line| line == "pilothouse_leader 1").then_some(())
        })
        .await;
    };
    town.place.controller = town.place.release.start(&["--leader-elect", "true"]);
    leads(town.place.controller.health.clone()).await;
    let second = town.place.release.start(&["--leader-elect", "true"]);
    town.push_all(2).await;
    town.only("the canary alone", 2, &["first"]).await;
    town.waits("late", "WaitingForFleet").await;
    // What it says is said.
    let before = settled(&town, "late").await;
    town.place.controller.kill();
    leads(second.health.clone()).await;
    town.place.controller = second;
    // It is longer in office than a later wave waits for a push to reach all.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(town.with(2).await, ["first"], "the canary is not ready");
    assert_eq!(shown(&town, "late").await, before, "a new leader writes no status");
    town.ready("first", 2).await;
    town.only("the second wave", 2, &["first", "late"]).await;
    town.ready("late", 2).await;
    town.set(json!({})).await;
}
