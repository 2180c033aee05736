//! Whole repositories in a real pod: `.git` is there, the agent's edits are kept, and a push goes where one is allowed.

use serde_json::{Value, json};

use super::world::{Place, condition, place};

/// Git as the agent would run it, in the context's folder.
fn git(place: &Place, folder: &str, args: &[&str]) -> String {
    let me = ["git", "-C", folder, "-c", "user.name=agent", "-c", "user.email=agent@example.com"];
    place.exec(&[&me[..], args].concat()).trim().to_owned()
}

async fn at(place: &Place, name: &str, commit: &str) {
    place
        .until(&format!("{name} is at {commit} in the pod"), "agent/coder", |agent| {
            let all = agent["status"]["gitSyncStatuses"].as_array().cloned().unwrap_or_default();
            agent["status"]["state"] == "Ready" && all.iter().any(|s| s["name"] == name && s["commitHash"] == commit)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_worked_in_brought_forward_and_pushed() {
    let Some(place) = place("wholes").await else { return };
    let (service, url) = place.another_repository("service");
    let (notes, notes_url) = place.another_repository("notes");
    let first = service.commit("main", &[("a.md", "one\n"), ("b.md", "one\n")]);
    let note = notes.commit("main", &[("n.md", "one\n")]);
    let login = ["--from-literal=username=me", "--from-literal=password=s3cret"];
    place.kubectl(&[&["create", "secret", "generic", "push"][..], &login].concat());
    let whole = |name: &str, at: &str, git: Value| json!({"name": name, "type": "Git", "mountPath": at, "git": git});
    let sync = json!({"enabled": true, "interval": "1s", "policy": "HotReload"});
    let mut spec = place.spec();
    spec["contexts"] = json!([
        whole("service", ".", json!({"repository": url, "ref": "main", "sync": sync})),
        whole(
            "notes",
            "notes",
            json!({"repository": notes_url, "ref": "main", "depth": 0, "push": true, "secretRef": {"name": "push"}})
        ),
    ]);
    place.push(&spec, &[]);
    let pod = place.ready("").await;
    at(&place, "service", &first).await;
    assert_eq!(git(&place, "/workspace", &["rev-parse", "HEAD"]), first);
    assert_eq!(git(&place, "/workspace", &["symbolic-ref", "--short", "HEAD"]), "main");
    let clean = git(&place, "/workspace", &["status", "--porcelain", "--", "a.md", "b.md"]);
    assert_eq!(clean, "", "what is there is what was committed");

    // An edit is kept, and says why a commit that would overwrite it waits; undone, it comes, without a new pod.
    place.exec(&["sh", "-c", "echo mine > /workspace/a.md; echo new > /workspace/c.md"]);
    let second = service.commit("main", &[("a.md", "two\n")]);
    let agent = place
        .until("the edit is in the way", "agent/coder", |a| {
            condition(a, "GitSyncPending")[..2] == ["True", "WorkspaceDirty"]
        })
        .await;
    assert!(condition(&agent, "GitSyncPending")[2].contains("a.md"), "{agent:#}");
    assert_eq!(place.exec(&["cat", "/workspace/a.md"]), "mine");
    git(&place, "/workspace", &["checkout", "--", "a.md"]);
    at(&place, "service", &second).await;
    assert_eq!(place.exec(&["cat", "/workspace/a.md", "/workspace/c.md"]), "two\nnew");
    assert_eq!(git(&place, "/workspace", &["rev-parse", "HEAD"]), second);

    // A push goes out with the credential of the Secret, and from the other repository it has none.
    place.exec(&["sh", "-c", "echo two > /workspace/notes/n.md"]);
    git(&place, "/workspace/notes", &["commit", "-qam", "from the pod"]);
    git(&place, "/workspace/notes", &["push", "-q"]);
    let pushed = git(&place, "/workspace/notes", &["rev-parse", "HEAD"]);
    assert_eq!(notes.run(&["rev-parse", "main"]), pushed);
    assert_ne!(pushed, note);
    let config = |folder: &str| place.exec(&["cat", &format!("{folder}/.git/config")]);
    assert!(config("/workspace/notes").contains("/pilothouse/git/") && !config("/workspace").contains("helper"));
    assert!(!config("/workspace/notes").contains("s3cret"));
    place.stays(&pod, 1).await;
}
