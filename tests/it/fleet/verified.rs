//! A revision that does not pass its verification goes to nobody else.

use super::*;
use crate::rollouts::{
    outcome::gets_ready,
    verify::{NO_CREDIT, comes_up, ends, gate_opens, spec},
};

const PASSED: &str = r#"{"session": {"id": "ses_1"}}"#;

/// The canary with a verification, and an agent of a later wave without; both have the image `devbox:1`.
async fn town(name: &str, strategy: &str) -> Town {
    let town = Town::start(name).await;
    let place = &town.place;
    place.agent("a", spec(1, strategy)).await;
    town.push("late", 1).await;
    let _: Agent = place.merge("a", json!({"metadata": {"labels": {"ring": "0"}}})).await;
    let (task, _) = comes_up(place, 1, "a").await;
    ends(place, &task, 0, PASSED).await;
    gate_opens(place, "devbox:1").await;
    gets_ready(place, "devbox:1").await;
    town.ready("late", 1).await;
    let waves = json!([{"name": "canary", "selector": {"matchLabels": {"ring": "0"}}}]);
    town.set(json!({"fleet": {"maxConcurrent": "100%", "waves": waves}})).await;
    town
}

#[tokio::test]
async fn a_failed_verification_stops_the_wave() {
    for strategy in ["SideBySide", "RollingUpdate"] {
        let town = town("verify-wave", strategy).await;
        let place = &town.place;
        place.agent("a", spec(2, strategy)).await;
        town.push("late", 2).await;
        let (task, _) = comes_up(place, 2, "a").await;
        town.waits("late", "WaitingForFleet").await;
        ends(place, &task, 10, NO_CREDIT).await;
        let said = town.waits("late", "FleetStopped").await;
        assert!(said.contains(&format!("Agent {}/a has failed", place.namespace)), "{said}");
        assert!(said.contains("VerificationFailed"), "{said}");
        // It stays so: with the last good revision back in the canary's place, and without.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let late = place.api::<Deployment>().get("late-server").await.unwrap();
        assert_eq!(image(&late), "devbox:1", "{strategy}");
        town.waits("late", "FleetStopped").await;

        // What is pushed next is verified, and then goes on.
        place.agent("a", spec(3, strategy)).await;
        town.push("late", 3).await;
        let (task, _) = comes_up(place, 3, "a").await;
        ends(place, &task, 0, PASSED).await;
        gate_opens(place, "devbox:3").await;
        let late = place.api::<Deployment>().get("late-server").await.unwrap();
        assert_eq!(image(&late), "devbox:1", "a canary that is not ready tells nothing");
        gets_ready(place, "devbox:3").await;
        place.deployment_where("the next wave", "late-server", |d| image(d) == "devbox:3").await;
        town.set(json!({})).await;
    }
}
