//! Contexts and skills from Git on a real control plane with real Git servers: which commit an agent gets, and when.
//!
//! There are no nodes here. What was decided is read from the annotation that says what was applied.

mod by_sync;
mod kills;
mod reach;
mod restart;
mod revisions;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
};
use pilothouse::{
    agent::{Pieces, Resolved, state},
    api::{Agent, Repository},
};
use serde_json::{Value, json};

use crate::common::{
    audit::AuditLog,
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    git_server::{Asked, GitServer, SshServer, basic},
    wait::{eventually, poll},
};

struct World {
    cluster: &'static Cluster,
    client: Client,
    namespace: String,
    /// All of them; `namespace` is the first.
    namespaces: Vec<String>,
    release: Release,
    controller: Controller,
    server: GitServer,
}

impl World {
    async fn new() -> Self {
        Self::among(1).await
    }

    /// With a controller that works in so many namespaces.
    async fn among(count: usize) -> Self {
        let cluster = control_plane();
        let mut namespaces = vec![];
        for _ in 0..count {
            namespaces.push(cluster.namespace("inputs").await);
        }
        let (release, namespace) = (Release::install(cluster, &namespaces).await, namespaces[0].clone());
        let (controller, client) = (release.start(&[]), cluster.client().await);
        Self { client, cluster, namespace, namespaces, release, controller, server: GitServer::http() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        self.api_of("").0
    }

    /// Where `namespace/name` is, and its name; without a namespace it is in the first one.
    fn api_of<'a, K>(&self, name: &'a str) -> (Api<K>, &'a str)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        let (namespace, name) = name.split_once('/').unwrap_or((&self.namespace, name));
        (Api::namespaced(self.client.clone(), namespace), name)
    }

    async fn agent(&self, name: &str, contexts: Value, skills: Value) {
        let spec = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1",
            "contexts": contexts, "skills": skills});
        self.apply::<Agent>("Agent", name, json!({}), spec).await;
    }

    async fn apply<K>(&self, kind: &str, name: &str, meta: Value, spec: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let (api, name) = self.api_of::<K>(name);
        let mut body =
            json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        body["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }

    async fn merge<K>(&self, name: &str, patch: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn secret(&self, name: &str, data: &[(&str, &[u8])]) {
        let (api, name) = self.api_of::<Secret>(name);
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.to_vec()))).collect();
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret)).await.unwrap();
    }

    /// What was applied of an agent, of both policies.
    async fn applied(&self, agent: &str) -> Pieces {
        let mut found = Pieces::new();
        let (deployments, name) = self.api_of::<Deployment>(agent);
        let deployment = deployments.get_opt(&format!("{name}-server")).await.unwrap();
        found.extend(deployment.map(|d| state::pieces(d.annotations())).unwrap_or_default());
        let map = self.api_of::<ConfigMap>(agent).0.get_opt(&format!("{name}-server-content")).await.unwrap();
        found.extend(map.map(|m| state::pieces(m.annotations())).unwrap_or_default());
        found
    }

    /// The piece once it is of this commit.
    async fn at(&self, agent: &str, id: &str, commit: &str) -> Resolved {
        let what = format!("{agent}: {id} at {commit}");
        let check = || async { self.applied(agent).await.remove(id).filter(|now| now.revision.ends_with(commit)) };
        // Many agents on a busy machine take their time; as long as something is done, it may come.
        for _ in 0..10 {
            let audit = self.cluster.audit().later();
            if let Some(found) = poll(Duration::from_mins(1), Duration::from_millis(50), check).await {
                return found;
            }
            assert!(!self.all_writes(&audit).is_empty(), "nothing is written any more, and there is not: {what}");
        }
        panic!("after 10 min there is still not: {what}");
    }

    /// The reason and message of Ready once `check` holds of them.
    async fn ready(&self, agent: &str, what: &str, check: impl Fn(&str, &str) -> bool) {
        eventually(what, 60, || async {
            let (agents, name) = self.api_of::<Agent>(agent);
            let status = agents.get(name).await.unwrap().status?;
            let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready")?;
            check(&ready.reason, &ready.message).then_some(())
        })
        .await;
    }

    /// What is told of an input.
    async fn told(&self, agent: &str, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(what, 60, || async {
            let status = serde_json::to_value(self.api::<Agent>().get(agent).await.unwrap().status?).unwrap();
            let all = status["gitSyncStatuses"].as_array()?.clone();
            all.into_iter().find(|s| s["name"] == name && check(s))
        })
        .await
    }

    /// Waits until the controller has written nothing for a while: what has happened so far is done.
    async fn calm(&self) {
        eventually("the controller writes nothing for three seconds", 60, || async {
            let audit = self.cluster.audit().later();
            tokio::time::sleep(Duration::from_secs(3)).await;
            audit.writes(&self.release.user()).is_empty().then_some(())
        })
        .await;
    }

    /// What the controller writes while `seconds` go by, without statuses and events.
    async fn writes_during(&self, seconds: u64) -> Vec<String> {
        let audit = self.cluster.audit().later();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.writes(&audit)
    }

    fn writes(&self, audit: &AuditLog) -> Vec<String> {
        self.all_writes(audit).into_iter().filter(|write| !write.ends_with("/status")).collect()
    }

    /// The same with statuses.
    fn all_writes(&self, audit: &AuditLog) -> Vec<String> {
        let writes = audit.writes(&self.release.user());
        let objects = writes.iter().filter(|w| w.resource() != "events");
        objects.map(|w| format!("{} {}", w.verb, w.object())).collect()
    }
}

fn context(name: &str, url: &str, path: &str, more: &Value) -> Value {
    let mut git = json!({"repository": url, "path": path});
    git.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": name, "type": "Git", "mountPath": format!("/content/{name}"), "git": git})
}

fn synced(policy: &str) -> Value {
    json!({"enabled": true, "interval": "1s", "policy": policy})
}

fn skill(name: &str, body: &str) -> String {
    format!("---\nname: {name}\ndescription: does {name}\n---\n{body}\n")
}

/// One remote is asked once an interval, with its password, however many agents have it. `PILOTHOUSE_AGENTS` and
/// `PILOTHOUSE_NAMESPACES` say how many there are, and in how many namespaces.
#[tokio::test]
async fn agents_on_a_private_remote_are_one_listing_an_interval_and_one_fetch_a_push() {
    let of = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok()).unwrap_or(default);
    let (count, namespaces) = (of("PILOTHOUSE_AGENTS", 50), of("PILOTHOUSE_NAMESPACES", 2));
    let world = World::among(namespaces).await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("docs/a", "1"), ("other", "1")]);
    world.server.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    let sync = json!({"enabled": true, "interval": "2s", "policy": "HotReload"});
    let more = json!({"sync": sync, "secretRef": {"name": "git"}});
    let names: Vec<String> = (0..count).map(|n| format!("{}/a{n}", world.namespaces[n % namespaces])).collect();
    let contexts = json!([context("docs", &world.server.url("r.git"), "docs", &more)]);
    for names in names.chunks(20) {
        let all = names.iter().map(|name| world.agent(name, contexts.clone(), json!([])));
        futures::future::join_all(all).await;
    }
    world
        .ready(&names[count - 1], "the Secret is waited for", |reason, message| {
            reason == "SecretNotFound" && message.contains("contexts/docs") && message.contains("git")
        })
        .await;
    assert_eq!(world.server.log().len(), 0, "nobody is asked without the credential");
    let begun = std::time::Instant::now();
    for namespace in &world.namespaces {
        world.secret(&format!("{namespace}/git"), &[("username", b"me"), ("password", b"s3cret")]).await;
    }
    let mut before = BTreeMap::new();
    for name in &names {
        before.insert(name, world.at(name, "contexts/docs", &first).await);
    }
    println!("{count} agents in {namespaces} namespaces: {:.0?} to the first commit", begun.elapsed());
    assert_eq!(world.server.count(Asked::Fetch), 1, "one fetch for all");
    world.calm().await;
    world.server.forget();
    let writes = world.writes_during(10).await;
    assert!(writes.is_empty(), "{writes:?}");
    assert!((4..=6).contains(&world.server.count(Asked::Listing)), "{} listings", world.server.count(Asked::Listing));
    assert_eq!(world.server.count(Asked::Fetch), 0);

    // A push that touches the path, and one that does not.
    let (second, pushed) = (repository.commit("main", &[("docs/a", "2")]), std::time::Instant::now());
    for name in &names {
        let after = world.at(name, "contexts/docs", &second).await;
        assert_ne!(after.digest, before[name].digest);
    }
    println!("{:.1?} from a push to the last agent, RSS {} MiB", pushed.elapsed(), world.controller.resident() >> 20);
    assert_eq!(world.server.count(Asked::Fetch), 1, "one fetch a push");
    world.calm().await;
    let audit = world.cluster.audit().later();
    repository.commit("main", &[("other", "2")]);
    eventually("the commit is fetched", 30, || async { (world.server.count(Asked::Fetch) == 2).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.all_writes(&audit), Vec::<String>::new(), "nothing of it concerns an agent");
    assert!(world.at(&names[0], "contexts/docs", &second).await.revision.ends_with(&second));
    let text = world.controller.log();
    assert!(!text.contains("s3cret"), "a secret is shown");
}

/// W1: what is applied of one context does not depend on what happens to another one.
#[tokio::test]
async fn two_contexts_of_one_agent_move_independently() {
    let world = World::new().await;
    let (one, two) = (world.server.repository("one.git"), world.server.repository("two.git"));
    let (one_1, two_1) = (one.commit("main", &[("d/a", "1")]), two.commit("main", &[("d/a", "1")]));
    let git =
        |name: &str| context(name, &world.server.url(&format!("{name}.git")), "d", &json!({"sync": synced("Rollout")}));
    world.agent("a", json!([git("one"), git("two")]), json!([])).await;
    world.at("a", "contexts/one", &one_1).await;
    world.at("a", "contexts/two", &two_1).await;
    let two_2 = two.commit("main", &[("d/a", "2")]);
    world.at("a", "contexts/two", &two_2).await;
    world.at("a", "contexts/one", &one_1).await;
    let one_2 = one.commit("main", &[("d/a", "2")]);
    world.at("a", "contexts/one", &one_2).await;
    world.at("a", "contexts/two", &two_2).await;
    let told = world.told("a", "one", "its commit", |s| s["commitHash"] == one_2.as_str()).await;
    assert_eq!(told["policy"], "Rollout");
    world.told("a", "two", "its commit", |s| s["commitHash"] == two_2.as_str()).await;
    world.calm().await;
}

/// W5, W6: names are compared whole, annotated tags lead to their commit, and a commit id is a reference.
#[tokio::test]
async fn every_kind_of_reference_is_one_commit() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let main = repository.commit("main", &[("d/a", "main")]);
    let feature = repository.commit("feature/main", &[("d/a", "feature")]);
    let tagged = repository.commit("old", &[("d/a", "old")]);
    repository.tag("v1", &tagged);
    repository.set_ref("refs/pull/7/head", &feature);
    let url = world.server.url("r.git");
    let cases = [
        ("none", None, &main),
        ("branch", Some("main"), &main),
        ("slash", Some("feature/main"), &feature),
        ("tag", Some("v1"), &tagged),
        ("full", Some("refs/pull/7/head"), &feature),
        ("id", Some(&*tagged), &tagged),
    ];
    let contexts: Vec<Value> = cases
        .iter()
        .map(|(name, r, _)| context(name, &url, "d", &r.map_or(json!({}), |r| json!({"ref": r}))))
        .collect();
    world.agent("a", json!(contexts), json!([])).await;
    for (name, _, commit) in cases {
        world.at("a", &format!("contexts/{name}"), commit).await;
    }
}

/// The annotation asks for a look now; nobody looks for an agent that is gone.
#[tokio::test]
async fn looks_are_asked_for_and_end_with_the_agent() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1")]);
    let slow = json!({"sync": {"enabled": true, "interval": "1h", "policy": "HotReload"}});
    let url = world.server.url("r.git");
    world.agent("slow", json!([context("c", &url, "d", &slow)]), json!([])).await;
    world.at("slow", "contexts/c", &first).await;
    let second = repository.commit("main", &[("d/a", "2")]);
    world.merge::<Agent>("slow", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "now"}}})).await;
    world.at("slow", "contexts/c", &second).await;

    world.agent("quick", json!([context("c", &url, "d", &json!({"sync": synced("HotReload")}))]), json!([])).await;
    world.at("quick", "contexts/c", &second).await;
    for name in ["slow", "quick"] {
        world.api::<Agent>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    let quiet = || async {
        world.server.forget();
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.server.log().is_empty().then_some(())
    };
    eventually("nobody looks any more", 30, quiet).await;
}

/// W7: what is not synced stays at its first commit, and nobody asks for another one.
#[tokio::test]
async fn what_is_not_synced_stays_until_its_source_changes() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1"), ("e/a", "1")]);
    let url = world.server.url("r.git");
    world.agent("a", json!([context("c", &url, "d", &json!({}))]), json!([])).await;
    world.at("a", "contexts/c", &first).await;
    world.calm().await;
    world.server.forget();
    let second = repository.commit("main", &[("d/a", "2")]);
    let writes = world.writes_during(4).await;
    assert!(writes.is_empty() && world.server.log().is_empty(), "{writes:?} {:?}", world.server.log());
    // Another path is another source.
    world.agent("a", json!([context("c", &url, "e", &json!({}))]), json!([])).await;
    world.at("a", "contexts/c", &second).await;
}

#[tokio::test]
async fn over_ssh_and_with_a_password_that_changes() {
    let world = World::new().await;
    let Some(ssh) = SshServer::start() else { return };
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("skills/one/SKILL.md", &skill("one", "1"))]);
    world.secret("key", &[("ssh-privatekey", &ssh.identity()), ("known_hosts", &ssh.known_hosts())]).await;
    let git = json!({"repository": ssh.url(repository.path()), "path": "skills", "secretRef": {"name": "key"},
        "sync": synced("HotReload")});
    world.agent("s", json!([]), json!([{"name": "team", "git": git}])).await;
    let found = world.at("s", "skills/team", &first).await;
    assert_eq!(found.skills, ["one"]);

    world.server.behave(|b| b.authorization = Some(basic("me", "old")));
    world.secret("git", &[("username", b"me"), ("password", b"old")]).await;
    let more = json!({"sync": synced("HotReload"), "secretRef": {"name": "git"}});
    world.agent("h", json!([context("c", &world.server.url("r.git"), "skills", &more)]), json!([])).await;
    world.at("h", "contexts/c", &first).await;
    world.server.behave(|b| b.authorization = Some(basic("me", "new")));
    world
        .told("h", "c", "the refusal", |s| s["message"].as_str().is_some_and(|m| m.contains("correct Secret git")))
        .await;
    let second = repository.commit("main", &[("skills/one/SKILL.md", &skill("one", "2"))]);
    world.secret("git", &[("username", b"me"), ("password", b"new")]).await;
    world.at("h", "contexts/c", &second).await;
    world.at("s", "skills/team", &second).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_and_what_was_applied_stays() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1"), ("skills/one/SKILL.md", &skill("one", "1"))]);
    let url = world.server.url("r.git");
    for (name, item, reason, part) in [
        (
            "path",
            context("c", &url, "dd", &json!({})),
            "PathNotFound",
            "contexts/c: the repository has no file or directory dd",
        ),
        ("branch", context("c", &url, "d", &json!({"ref": "mian"})), "ReferenceNotFound", "did you mean"),
        ("word", context("c", &url, "d", &json!({"ref": "--upload-pack=x"})), "InvalidSpec", "git.ref"),
        ("helper", context("c", "ext::sh -c x", "d", &json!({})), "InvalidSpec", "git.repository"),
        ("none", context("c", &world.server.url("none.git"), "d", &json!({})), "RepositoryNotFound", "contexts/c"),
        ("metadata", context("c", "http://169.254.169.254/x", "d", &json!({})), "AddressRefused", "link-local"),
    ] {
        world.agent(name, json!([item]), json!([])).await;
        world.ready(name, part, |found, message| found == reason && message.contains(part)).await;
    }
    let skills = json!([{"name": "team", "git": {"repository": url, "path": "skills", "sync": synced("Rollout")}}]);
    world.agent("a", json!([context("c", &url, "d", &json!({"sync": synced("Rollout")}))]), skills).await;
    world.at("a", "contexts/c", &first).await;
    world.at("a", "skills/team", &first).await;
    let broken = repository.commit("main", &[("d/a", ""), ("e", "x"), ("skills/one/SKILL.md", "no front matter")]);
    world
        .told("a", "c", "the path is gone", |s| {
            s["observedCommit"] == broken.as_str()
                && s["message"].as_str().is_some_and(|m| m.contains("no file or directory d"))
        })
        .await;
    let applied = world.applied("a").await;
    assert!(applied.len() == 2 && applied.values().all(|resolved| resolved.revision.ends_with(&first)), "{applied:?}");
    let mended = repository.commit("main", &[("d/a", "2"), ("skills/one/SKILL.md", &skill("one", "2"))]);
    world.at("a", "contexts/c", &mended).await;
    world.at("a", "skills/team", &mended).await;
}

/// A whole repository follows its branch like anything else, and costs one fetch a push.
#[tokio::test]
async fn whole_repositories_come_from_urls_and_from_repositories() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("a", "1")]);
    world
        .apply::<Repository>("Repository", "r", json!({}), json!({"url": world.server.url("r.git"), "interval": "1s"}))
        .await;
    let whole = |name: &str, git: Value| json!({"name": name, "type": "Git", "mountPath": name, "git": git});
    let url = json!({"repository": world.server.url("r.git"), "sync": synced("HotReload"), "ref": "main"});
    let by_object = json!({"repositoryRef": {"name": "r"}, "path": ".", "sync": synced("Rollout"), "depth": 0});
    world.agent("a", json!([whole("url", url.clone()), whole("object", by_object)]), json!([])).await;
    for next in [None, Some("2")] {
        let commit = next.map_or_else(|| first.clone(), |text| repository.commit("main", &[("a", text)]));
        let url = world.at("a", "contexts/url", &commit).await;
        let object = world.at("a", "contexts/object", &commit).await;
        assert_eq!((url.branch.as_deref(), object.branch.as_deref()), (Some("main"), Some("main")));
        assert_ne!(url.digest, object.digest, "another depth is other bytes");
    }
    let content = world.api::<ConfigMap>().get("a-server-content").await.unwrap().data.unwrap();
    let manifest: Value = serde_json::from_str(&content["content.json"]).unwrap();
    assert_eq!(manifest["pieces"][0]["form"], "checkout");
    assert_eq!(manifest["pieces"][0]["target"], "/workspace/url");

    // Alone, it costs what files would.
    let other = world.server.repository("other.git");
    let first = other.commit("main", &[("a", "1")]);
    let mut git = url;
    git["repository"] = json!(world.server.url("other.git"));
    let at_root = json!({"name": "repo", "type": "Git", "mountPath": ".", "git": git});
    world.server.forget();
    world.agent("b", json!([at_root]), json!([])).await;
    world.at("b", "contexts/repo", &first).await;
    let fetched =
        || world.server.log().iter().filter(|l| l.asked == Asked::Fetch && l.path.contains("other.git")).count();
    assert_eq!(fetched(), 1);
    let second = other.commit("main", &[("a", "2")]);
    world.at("b", "contexts/repo", &second).await;
    assert_eq!(fetched(), 2);
}

/// What is waited for is named, all of it, with the reason of each.
#[tokio::test]
async fn every_input_without_a_commit_is_named() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    let of = |name: &str, reference: &str| {
        context(name, &world.server.url("r.git"), "a", &json!({"ref": reference, "sync": synced("HotReload")}))
    };
    world.agent("a", json!([of("one", "dev"), of("two", "main"), of("three", "test")]), json!([])).await;
    world
        .ready("a", "both are named, and the one that is there is not", |reason, message| {
            reason == "ReferenceNotFound"
                && message.contains("contexts/one: ")
                && message.contains("contexts/three: ")
                && !message.contains("contexts/two")
        })
        .await;
}
