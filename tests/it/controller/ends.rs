//! How a controller ends while it works, and how much it works on at a time: requests that the API server does not get for
//! a while say where it stands.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use pilothouse::api::Repository;
use serde_json::json;

use super::holder;
use crate::common::{
    between::Between,
    cluster::{Cluster, control_plane},
    controller::{Controller, Release, eventually},
};

/// A controller of its own namespace, with somebody between it and the API server.
struct Stage {
    release: Release,
    between: Between,
    client: Client,
    namespace: String,
}

/// What is held: the status of the Repository `held`.
const STATUS: (&str, &str) = ("/repositories/held/status", "");

impl Stage {
    async fn new(cluster: &Cluster, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let between = release.between().await;
        Self { release, between, client: cluster.client().await, namespace }
    }

    fn repositories(&self) -> Api<Repository> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.release.namespace)
    }

    /// Requests for the Lease.
    fn lease(&self) -> (&'static str, &'static str) {
        (Box::leak(format!("/leases/{}", self.release.name).into_boxed_str()), "")
    }

    /// A Repository of which there is nothing to do but to write its status.
    async fn repository(&self, name: &str) {
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name},
            "spec": {"url": "https://git.invalid/r", "suspend": true},
        });
        let object = serde_json::from_value(object).unwrap();
        match self.repositories().create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            made => drop(made.unwrap()),
        }
    }

    async fn has_status(&self, name: &str) -> bool {
        self.repositories().get(name).await.unwrap().status.is_some()
    }

    async fn waits(&self) {
        eventually("all that is held is asked for", 60, || async { self.between.all_wait().then_some(()) }).await;
    }

    /// One that leads and is in the middle of a reconcile.
    async fn works(&self, arguments: &[&str]) -> Controller {
        self.between.hold(&[STATUS]);
        let controller = self.release.start_as("one", arguments);
        eventually("it leads", 60, || async {
            (holder(&self.leases(), &self.release.name).await.as_deref() == Some("one")).then_some(())
        })
        .await;
        self.repository("held").await;
        self.waits().await;
        controller
    }

    async fn ended(&self, controller: &mut Controller) -> i32 {
        let ended = std::cell::RefCell::new(controller);
        eventually("it ends by itself", 60, || async { ended.borrow_mut().exit_code() }).await
    }
}

async fn says(controller: &Controller, words: &str) {
    eventually(&format!("it says {words:?}"), 60, || async { controller.log().contains(words).then_some(()) }).await;
}

#[tokio::test]
async fn a_reconcile_ends_before_the_lease_is_given_back() {
    let cluster = control_plane();
    let stage = Stage::new(cluster, "drain").await;
    let audit = cluster.audit().later();
    let mut controller = stage.works(&[]).await;
    controller.signal("TERM");
    says(&controller, "\"stopping\"").await;
    assert_eq!(holder(&stage.leases(), &stage.release.name).await.as_deref(), Some("one"), "it works still");
    // Nothing else is begun.
    stage.repository("late").await;
    stage.between.hold(&[]);
    assert_eq!(stage.ended(&mut controller).await, 0, "{}", controller.log());
    assert_eq!(holder(&stage.leases(), &stage.release.name).await, None, "the Lease is given back");
    assert!(stage.has_status("held").await && !stage.has_status("late").await);
    let requests = audit.requests(&stage.release.user());
    let last = |what: &str| requests.iter().rev().find(|r| r.is_write_of(what)).map(|r| (r.received, r.answered));
    let (status, lease) = (last("repositories").unwrap(), last("leases").unwrap());
    assert!(status.1 <= lease.0, "the status was written {status:?}, the Lease was given back {lease:?}");
}

#[tokio::test]
async fn past_its_time_a_reconcile_is_cut_before_the_lease_is_given_back() {
    let cluster = control_plane();
    let stage = Stage::new(cluster, "cut").await;
    let mut controller = stage.works(&["--drain", "1", "--lease-duration", "60"]).await;
    let lease = stage.lease();
    stage.between.hold(&[STATUS, lease]);
    controller.signal("TERM");
    says(&controller, "and are cut").await;
    // Now it could write, if anybody still wanted to.
    stage.between.hold(&[lease]);
    stage.waits().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!stage.has_status("held").await, "it was written while the Lease is given back");
    stage.between.hold(&[]);
    assert_eq!(stage.ended(&mut controller).await, 0, "{}", controller.log());
    assert!(!stage.has_status("held").await, "it was written afterwards");
}

#[tokio::test]
async fn a_leader_that_cannot_renew_ends_before_another_may_begin() {
    let cluster = control_plane();
    let stage = Stage::new(cluster, "lost").await;
    let mut controller = stage.works(&["--lease-duration", "15"]).await;
    let lease = stage.lease();
    stage.between.hold(&[STATUS, lease]);
    let code = stage.ended(&mut controller).await;
    let ended = Timestamp::now();
    let log = controller.log();
    assert!(code == 1 && log.contains("leadership was lost"), "{code}: {log}");
    let spec = stage.leases().get(&stage.release.name).await.unwrap().spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("one"), "nothing was given back");
    let renewed = spec.renew_time.unwrap().0;
    assert!(ended.duration_since(renewed).as_secs() < 15, "{renewed} to {ended}: another may have begun\n{log}");
    // What it was about to write comes to nothing.
    stage.between.hold(&[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!stage.has_status("held").await);
}

#[tokio::test]
async fn so_many_objects_of_a_kind_are_worked_on_at_a_time_and_no_more() {
    let cluster = control_plane();
    let stage = Stage::new(cluster, "places").await;
    let mut controller = stage.works(&["--concurrency", "2"]).await;
    let begun = Instant::now();
    stage.repository("second").await;
    eventually("the other place is used", 60, || async { stage.has_status("second").await.then_some(()) }).await;
    let took = begun.elapsed();
    controller.kill();
    let _controller = stage.works(&["--concurrency", "1"]).await;
    stage.repository("third").await;
    // In this time it would have come, as the other did.
    tokio::time::sleep(took * 3 + Duration::from_secs(1)).await;
    assert!(!stage.has_status("third").await, "there is one place, and it is taken");
    stage.between.hold(&[]);
    eventually("it is its turn", 60, || async { stage.has_status("third").await.then_some(()) }).await;
    assert!(stage.has_status("held").await);
}

/// One namespace's authority that nobody answers about is not waited for by others.
#[tokio::test]
async fn namespaces_do_not_wait_for_each_others_authority() {
    let cluster = control_plane();
    let (first, second) = (cluster.namespace("turn").await, cluster.namespace("turn").await);
    let mut release = Release::install(cluster, &[first.clone(), second.clone()]).await;
    let between = release.between().await;
    let controller = release.start(&[]);
    let held: &'static str = Box::leak(format!("/namespaces/{first}/configmaps/pilothouse-authority").into_boxed_str());
    between.hold(&[(held, "")]);
    let client = cluster.client().await;
    let agent = |namespace: &str| {
        let api: Api<pilothouse::api::Agent> = Api::namespaced(client.clone(), namespace);
        let images = ("localhost/agent:1", "localhost/executor:1");
        let spec = json!({"agentImage": images.0, "executorImage": images.1, "workspaceDir": "/w", "serviceAccountName": "default"});
        let object =
            json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": "a"}, "spec": spec});
        async move { api.patch("a", &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap() }
    };
    agent(&first).await;
    eventually("the first is held", 60, || async { between.all_wait().then_some(()) }).await;
    agent(&second).await;
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(client.clone(), &second);
    eventually("the second goes on", 60, || async { deployments.get_opt("a-server").await.unwrap() }).await;
    assert!(!controller.log().contains("no answer in"), "only when the first had given up:\n{}", controller.log());
}
