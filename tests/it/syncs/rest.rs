//! What stays as it is: a cluster that is as Git says, and what others add to objects.

use pilothouse::api::Agent;

use super::*;

fn agent(image: &str) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {{name: a, labels: {{ours: x}}}}\nspec: {{workspaceDir: /w, \
         serviceAccountName: default, agentImage: i, executorImage: '{image}'}}\n"
    )
}

/// Looks at the interval, not asked for by anybody, find that all is as it should be.
#[tokio::test]
async fn looks_at_every_interval_write_nothing() {
    let w = World::new("rest-interval").await;
    w.may_edit(&w.namespace);
    let first =
        w.commit(1, &[("a.yaml", map("a", "one")), ("d.yaml", deployment("d")), ("g.yaml", agent("i:1"))]).await;
    w.sync("app", json!({"interval": "10s", "wait": false})).await;
    w.until_applied("app", &first).await;
    eventually("the agent has its objects and what happened is told", 60, || async {
        let log = w.log();
        tokio::time::sleep(Duration::from_secs(5)).await;
        w.writes(&log).is_empty().then_some(())
    })
    .await;
    let log = w.log();
    tokio::time::sleep(Duration::from_secs(25)).await;
    let looks = log.requests(&w.release.user());
    let looks =
        looks.iter().filter(|r| r.verb == "get" && r.object() == format!("{}/configmaps/a", w.namespace)).count();
    assert!(looks >= 1, "nobody looked in two and a half intervals");
    // With events.
    assert_eq!(log.summary(&w.release.user()), [].into());
}

#[tokio::test]
async fn what_others_set_on_an_agent_stays_and_its_spec_is_that_of_git() {
    let w = World::new("rest-label").await;
    let first = w.commit(1, &[("a.yaml", agent("i:1"))]).await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &first).await;
    let agents: Api<Agent> = Api::namespaced(w.client.clone(), &w.namespace);
    let before = agents.get("a").await.unwrap();
    let by_hand = json!({"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "mine"}}});
    let apply = PatchParams { field_manager: Some("kubectl-label".into()), ..PatchParams::default() };
    agents.patch("a", &apply, &Patch::Merge(by_hand)).await.unwrap();
    let shown = |agent: &Agent| {
        let label = |key: &str| agent.labels().get(key).cloned();
        (label("team"), label("ours"), agent.annotations().get("note").cloned(), agent.spec.executor_image.clone())
    };
    let with = |image: &str| {
        let text = |t: &str| Some(t.to_owned());
        (text("blue"), text("x"), text("mine"), text(image))
    };
    // A look finds nothing to do.
    let log = w.log();
    w.reconcile("app", "1").await;
    let after = agents.get("a").await.unwrap();
    assert_eq!((shown(&after), &after.spec), (with("i:1"), &before.spec));
    assert!(!w.writes(&log).contains(&format!("patch {}/agents/a", w.namespace)), "{:?}", w.writes(&log));
    // The Sync applies it anew, and takes back what is its own.
    let second = w.commit(2, &[("a.yaml", agent("i:2"))]).await;
    w.until_applied("app", &second).await;
    assert_eq!(shown(&agents.get("a").await.unwrap()), with("i:2"));
    let both = json!({"metadata": {"labels": {"ours": "theirs"}}, "spec": {"executorImage": "by-hand:1"}});
    agents.patch("a", &apply, &Patch::Merge(both)).await.unwrap();
    w.reconcile("app", "2").await;
    assert_eq!(shown(&agents.get("a").await.unwrap()), with("i:2"));
}
