//! What people decide against the pace: when it is open, and an older revision by name.

use super::*;

/// Months from now; a window of an hour there is neither open now nor while a test runs.
fn far_away() -> String {
    let month = jiff::Zoned::now().month();
    format!("0 0 1 {} *", (month + 5) % 12 + 1)
}

/// What `pilothouse plan` and `pilothouse diff` say about another image of an agent.
fn previews(town: &Town, name: &str, tag: u32) -> [String; 2] {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    std::fs::write(dir.path().join(".git/HEAD"), "").unwrap();
    let agent = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": name}, "spec": {
        "workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": format!("devbox:{tag}")}});
    std::fs::write(dir.path().join("agent.yaml"), agent.to_string()).unwrap();
    ["plan", "diff"].map(|command| {
        let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .current_dir(dir.path())
            .env("KUBECONFIG", &cluster().ready.kubeconfig)
            .args([command, ".", "-n", &town.place.namespace, "--log", "warn"])
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    })
}

#[tokio::test]
async fn nothing_goes_out_before_a_window_opens() {
    let town = Town::new("windows", &[("a", "0"), ("b", "0")]).await;
    let windows = |schedule: &str| json!({"fleet": {"windows": [{"schedule": schedule, "duration": "1h"}]}});
    town.set(windows(&far_away())).await;
    town.push("a", 2).await;
    let said = town.waits("a", "FleetClosed").await;
    assert!(said.contains("spec.fleet.windows") && said.contains("the next one opens at 20"), "{said}");
    let text =
        json!({"executorImage": "devbox:1", "contexts": [{"name": "rules", "type": "Text", "text": "new rules"}]});
    town.place.agent("b", text).await;
    town.place.agent_where("text waits too", "b", |a| reason(a, "TextPending") == "True FleetClosed").await;
    town.only("nobody outside of a window", 2, &[]).await;
    for said in previews(&town, "a", 7) {
        assert!(said.contains("in the windows of spec.fleet.windows alone"), "{said}");
        assert!(said.contains("10% of the agents at a time") && said.contains("; not before 20"), "{said}");
    }
    // A window that opened within this hour, whatever the hour is.
    town.set(windows("* * * * *")).await;
    town.only("it is open", 2, &["a"]).await;
    town.ready("a", 2).await;
    town.place.agent_where("text is written", "b", |a| !reason(a, "TextPending").starts_with("True Fleet")).await;
    town.set(json!({})).await;
}

async fn pin(town: &Town, name: &str, to: Option<&str>) {
    let patch = json!({"metadata": {"annotations": {"pilothouse.dev/pinned-to": to}}});
    let _: Agent = town.place.merge(name, patch).await;
}

#[tokio::test]
async fn a_person_takes_an_agent_back_in_a_freeze_and_keeps_the_change_from_later_waves() {
    let town = Town::new("pins", &[("first", "0"), ("late", "1")]).await;
    let kept = |image: &'static str| {
        move |a: &Agent| a.status.as_ref().unwrap().revisions.first().is_some_and(|r| r.image.as_deref() == Some(image))
    };
    let agent = town.place.agent_where("it is kept", "first", kept("devbox:1")).await;
    let one = agent.status.unwrap().revisions[0].id.clone();
    town.push_all(2).await;
    town.ready("first", 2).await;
    town.ready("late", 2).await;
    town.place.agent_where("it is kept", "first", kept("devbox:2")).await;

    // A freeze is for changes; to go back is a person's word about one agent.
    town.set(json!({"fleet": {"freeze": true}})).await;
    pin(&town, "first", Some(&one)).await;
    town.only("it is back", 1, &["first"]).await;
    town.ready("first", 1).await;
    town.place.agent_where("it is pinned", "first", |a| reason(a, "Pinned") == "True Pinned").await;

    // What it does not get, later waves do not get before it.
    let waves = json!([{"name": "canary", "selector": {"matchLabels": {"ring": "0"}}}]);
    town.set(json!({"fleet": {"waves": waves}})).await;
    town.push_all(3).await;
    let said = town.waits("late", "WaitingForFleet").await;
    assert!(said.contains("until wave 1 (canary) has the same change"), "{said}");
    // Longer than a later wave waits for a push to reach all.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!((town.with(1).await, town.with(3).await), (vec!["first".to_string()], vec![]));
    pin(&town, "first", None).await;
    town.only("released, it goes first", 3, &["first"]).await;
    town.ready("first", 3).await;
    town.only("then the others", 3, &["first", "late"]).await;
    town.set(json!({})).await;
}
