//! Writes whose answer gets lost, and which the API server carries out after everything else.

use super::*;

impl World {
    /// Lets a write come that was kept back until `marker` is written. Whether it was carried out.
    async fn let_it_come(&self, between: &Between, n: u32) -> bool {
        self.commit_to("other", n, &[("m.yaml", map("marker", &format!("v{n}")))]).await;
        eventually("the write comes late", 60, || async { between.late() }).await.is_success()
    }

    /// A Sync `app`, and another one of another Repository that writes the ConfigMap `marker`.
    async fn with_a_marker(&self, files: &[(&str, String)]) {
        let other = self.commit_to("other", 1, &[("m.yaml", map("marker", "v1"))]).await;
        self.sync("marks", json!({"repositoryRef": {"name": "other"}})).await;
        self.until_applied("marks", &other).await;
        let first = self.commit(1, files).await;
        self.sync("app", json!({})).await;
        self.until_applied("app", &first).await;
    }
}

/// Over a newer revision: it is undone, long before anybody looks for changes by others.
#[tokio::test]
async fn a_write_without_an_answer_does_not_stay() {
    let (w, between) = World::behind("late-change", &[]).await;
    w.with_a_marker(&[("a.yaml", map("a", "one"))]).await;
    between.lose("/configmaps/a", "/configmaps/marker");
    w.commit(2, &[("a.yaml", map("a", "two"))]).await;
    w.until_reason("app", "ClusterUnavailable").await;
    // What was there before the write: nothing is to be changed back, and nothing keeps the write from coming.
    let third = w.commit(3, &[("a.yaml", map("a", "one"))]).await;
    w.until_applied("app", &third).await;
    assert!(w.let_it_come(&between, 2).await, "nothing stands in its way");
    let value = async || w.maps().get("a").await.unwrap().data.unwrap()["key"].clone();
    eventually("it is undone", 30, || async { (value().await == "one").then_some(()) }).await;
    assert_eq!(reason(&w.syncs().get("app").await.unwrap().status.unwrap()), ("True", "Applied"));
}

/// Of an object that has left the files: it is in the inventory until no write can come any more.
#[tokio::test]
async fn what_is_created_late_is_deleted() {
    let (w, between) = World::behind("late-create", &[]).await;
    w.with_a_marker(&[("a.yaml", map("a", "one"))]).await;
    between.lose("/configmaps/b", "/configmaps/marker");
    w.commit(2, &[("a.yaml", map("a", "one")), ("b.yaml", map("b", "one"))]).await;
    w.until_reason("app", "ClusterUnavailable").await;
    let third = w.commit(3, &[("a.yaml", map("a", "three"))]).await;
    let status = w.until_applied("app", &third).await;
    assert!(ids(&status).contains(&format!("{}_b__ConfigMap", w.namespace)), "{:?}", ids(&status));
    assert!(w.let_it_come(&between, 2).await, "nothing stands in its way");
    eventually("it is deleted", 30, || async { w.maps().get_opt("b").await.unwrap().is_none().then_some(()) }).await;
}
