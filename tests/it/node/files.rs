//! Files and secrets of an agent in a real pod, under Pod Security "restricted": where they lie, and that the server's own
//! user reads them. The Repository is followed over SSH, by a controller that is a pod with little. The door is reached
//! through the API server's proxy too.

use pilothouse::pod::{opencode::POD_HEADER, sidecar::auth::OWN_HEADER};
use serde_json::{Value, json};

use super::world::{Place, condition, get, place};
use crate::common::{
    git_server::{Repository, SshServer},
    node::GATEWAY,
};

/// Everything that an agent may have in files, and the four forms of a credential.
fn spec(place: &Place) -> Value {
    let mut spec = place.spec();
    spec["contexts"] = json!([
        {"name": "guide", "type": "Text", "text": "the guide", "mountPath": "docs/guide.md"},
        {"name": "outside", "type": "Text", "text": "the rules", "mountPath": "/opt/rules/rules.md"},
        {"name": "chapter", "type": "ConfigMap", "configMap": {"name": "books", "key": "a.md"}, "mountPath": "docs/a.md"},
        {"name": "inside", "type": "ConfigMap", "configMap": {"name": "books"}, "mountPath": "docs/books"},
        {"name": "shelf", "type": "ConfigMap", "configMap": {"name": "books"}, "mountPath": "/opt/books"},
    ]);
    spec["credentials"] = json!([
        {"name": "one", "secretRef": {"name": "keys", "key": "token"}, "env": "TOKEN"},
        {"name": "all", "secretRef": {"name": "keys"}},
        {"name": "file", "secretRef": {"name": "keys", "key": "token"}, "mountPath": "/opt/token"},
        {"name": "dir", "secretRef": {"name": "keys"}, "mountPath": "/opt/keys"},
    ]);
    spec
}

/// What the agent's own search finds.
async fn finds(place: &Place, word: &str) -> String {
    let (url, credentials) = place.door();
    let (status, text) = get(&format!("{url}/find?pattern={word}"), &credentials).await;
    assert_eq!(status, 200, "{text}");
    text
}

/// A request to the agent's Service through the API server, with the password in this header: the status of the answer, and
/// whether the door has signed it.
async fn proxied(place: &Place, header: &'static str) -> (u16, bool) {
    let port = place.get("service/coder")["spec"]["ports"][0]["port"].clone();
    let path = format!("/api/v1/namespaces/{}/services/coder:{port}/proxy/session", place.namespace);
    let request = http::Request::get(path).header(header, place.door().1.header().unwrap());
    let client = place.node.cluster.client().await;
    let answer = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
    (answer.status().as_u16(), answer.headers().contains_key(POD_HEADER))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_secrets_are_where_the_spec_says_and_the_server_reads_them() {
    let Some(place) = place("files").await else { return };
    over_ssh(&place).await;
    place.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "books"},
        "data": {"a.md": "chapter one", "b.md": "chapter two"}}));
    place.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"token": "t0p", "OTHER": "0ther"}}));
    place.push(&spec(&place), &[]);
    place.ready("").await;
    let user = |of: &str| {
        let status = place.exec(&["cat", &format!("/proc/{of}/status")]);
        status.lines().find(|l| l.starts_with("Uid:")).unwrap_or_default().to_owned()
    };
    assert_eq!(user("1"), user("self"), "what is read below is read as the server reads it");
    assert_ne!(user("1").split_whitespace().nth(1), Some("0"));
    for (file, text) in [
        ("/workspace/docs/guide.md", "the guide"),
        ("/opt/rules/rules.md", "the rules"),
        ("/workspace/docs/a.md", "chapter one"),
        ("/workspace/docs/books/a.md", "chapter one"),
        ("/workspace/docs/books/b.md", "chapter two"),
        ("/opt/books/a.md", "chapter one"),
        ("/opt/books/b.md", "chapter two"),
        ("/opt/token", "t0p"),
        ("/opt/keys/token", "t0p"),
        ("/opt/keys/OTHER", "0ther"),
    ] {
        assert_eq!(place.exec(&["cat", file]).trim(), text, "{file}");
    }
    // The server has started with them, and nobody else's name for them.
    let environment = place.exec(&["cat", "/proc/1/environ"]);
    let environment: Vec<&str> = environment.split('\0').collect();
    for variable in ["TOKEN=t0p", "token=t0p", "OTHER=0ther"] {
        assert!(environment.contains(&variable), "{variable} is not there");
    }
    // A file in the workspace is one that the agent finds.
    for (word, file) in [("guide", "docs/guide.md"), ("two", "docs/books/b.md")] {
        let found = finds(&place, word).await;
        assert!(found.contains(file), "{word}: {found}");
    }
    let shown = place.get("deployment/coder-server").to_string() + &place.get("agent/coder").to_string();
    assert!(!shown.contains("t0p") && !shown.contains("0ther"), "a secret is shown");
    // The API server takes `Authorization` for itself; the header of our own reaches the door.
    assert_eq!(proxied(&place, "authorization").await, (401, true), "the API server passes it on: no need for our own");
    assert_eq!(proxied(&place, OWN_HEADER).await, (200, true));
}

/// The private key is handed to `ssh`, which runs as 65532 and finds no home, no name for itself and nothing to write to.
async fn over_ssh(place: &Place) {
    let Some(ssh) = SshServer::start_on(GATEWAY) else { return };
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::create(&folder.path().join("r.git"));
    let commit = repository.commit("main", &[("a.yaml", "a: 1\n")]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    for (name, hosts) in [("ssh", ssh.known_hosts()), ("wrong", ssh.wrong_known_hosts())] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"identity": text(ssh.identity()), "known_hosts": text(hosts)}});
        place.apply(&secret);
        place.apply(&json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name},
            "spec": {"url": ssh.url(repository.path()), "ref": {"branch": "main"}, "secretRef": {"name": name}}}));
    }
    let wanted = format!("main@sha1:{commit}");
    let fetched = |r: &Value| r["status"]["artifact"]["revision"] == wanted;
    place.until("it is fetched over SSH", "repository/ssh", fetched).await;
    let mismatch = |r: &Value| condition(r, "Ready")[1] == "HostKeyMismatch";
    let refused = place.until("another key is refused", "repository/wrong", mismatch).await;
    assert!(refused["status"]["artifact"].is_null());
}
