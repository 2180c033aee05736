//! A Repository with an artifact that the test put into the controller's store, published as the controller does it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use pilothouse::{
    api::Repository,
    controller::artifacts::{Purpose, Seal},
};
use serde_json::json;

use super::wait::{eventually, poll};

/// What the controllers seal with; `release` is the namespace of their release.
pub(crate) async fn seal(client: &Client, release: &str) -> Seal {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), release);
    let get = || async { secrets.get_opt("pilothouse-serving").await.unwrap() };
    let secret = eventually("the authority", 30, get).await;
    Seal::new(std::str::from_utf8(&secret.data.unwrap()["ca.key"].0).unwrap()).unwrap()
}

/// The Repository is suspended, so that its own reconciler leaves it alone.
pub(crate) async fn publish(repositories: &Api<Repository>, seal: &Seal, name: &str, revision: &str, digest: &str) {
    let meta = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name}});
    let (mut object, mut status) = (meta.clone(), meta);
    object["spec"] = json!({"url": "https://git.invalid/repo", "suspend": true});
    let apply = PatchParams::apply("test").force();
    let there = repositories.patch(name, &apply, &Patch::Apply(object)).await.unwrap();
    // Its own reconciler says once that it is suspended: on a busy machine with what the status had a moment before.
    if there.status.is_none() {
        let said = || async { repositories.get(name).await.unwrap().status?.observed_generation };
        poll(Duration::from_secs(10), Duration::from_millis(20), said).await;
    }
    let (namespace, uid) = (there.namespace().unwrap(), there.uid().unwrap());
    let sealed = seal.of(Purpose::Published, &namespace, &uid, &format!("{revision}\n{digest}"));
    status["status"] = json!({"artifact": {"revision": revision, "digest": digest, "seal": sealed,
        "lastUpdateTime": "2026-01-01T00:00:00Z", "url": "http://unused.invalid"}});
    repositories.patch_status(name, &apply, &Patch::Apply(status)).await.unwrap();
}
