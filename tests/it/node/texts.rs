//! Gathered text reaches a running server, and the server's door is the only way in.

use serde_json::{Value, json};

use super::world::{Place, place};

const BOOK: &str = "book.yaml";
/// How long a text takes at most, from the push to the container, if its pods are touched.
const ARRIVES: std::time::Duration = std::time::Duration::from_secs(15);

fn book(text: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "book"}, "data": {"rules.md": text}})
        .to_string()
}

fn read(place: &Place) -> String {
    place.exec(&["cat", "/pilothouse/context/context.md"])
}

/// Waits until the running container has a text. The kubelet alone looks after up to 68 s.
async fn arrives(place: &Place, text: &str) {
    let started = std::time::Instant::now();
    while !read(place).contains(text) {
        assert!(started.elapsed() < ARRIVES, "not in the container: {text}\n{}", place.story());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_reaches_the_next_prompt_without_a_new_pod() {
    let Some(place) = place("texts").await else { return };
    let mut spec = place.spec();
    spec["contexts"] = json!([{"name": "rules", "type": "ConfigMap", "configMap": {"name": "book"}}]);
    place.push(&spec, &[(BOOK, &book("Rule one: test first."))]);
    let pod = place.ready("").await;

    place.push(&spec, &[(BOOK, &book("Rule two: small steps."))]);
    arrives(&place, "Rule two: small steps.").await;
    place.ask("What are the rules? [[words=2]]").await.await.unwrap();
    assert!(system_text(&place, "What are the rules?").contains("Rule two: small steps."));
    place.stays(&pod, 1).await;

    let answer = place.ask("Work on. [[words=3 hold]]").await;
    place.push(&spec, &[(BOOK, &book("Rule three: rest."))]);
    let known = |book: &Value| book["data"]["rules.md"] == "Rule three: rest.";
    place.until("the text is in the cluster", "configmap/book", known).await;
    place.until("the text is pending", "agent/coder", |a| a.to_string().contains("TextPending")).await;
    place.stays(&pod, 3).await;
    assert!(!read(&place).contains("Rule three"), "a text came while the agent worked");
    place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2");
    arrives(&place, "Rule three: rest.").await;
    place.ask("And now? [[words=2]]").await.await.unwrap();
    assert!(system_text(&place, "And now?").contains("Rule three: rest."));
    place.stays(&pod, 1).await;
    the_door_is_the_only_way_in(&place, &pod);
}

/// The system text of the call in which the agent answered a prompt: the one that may use tools.
fn system_text(place: &Place, prompt: &str) -> String {
    let calls = place.model.calls();
    let call = calls.iter().rev().find(|c| c.text().contains(prompt) && c.body["tools"].is_array());
    let messages = call.expect("a call for the prompt").body["messages"].as_array().cloned().unwrap();
    messages.iter().filter(|m| m["role"] == "system").map(|m| m["content"].to_string()).collect()
}

/// From another pod of the namespace: the password is asked for, and opencode itself does not answer.
fn the_door_is_the_only_way_in(place: &Place, pod: &Value) {
    let image = place.node.image("executor");
    place.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"},
        "spec": {
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c", "image": image, "command": ["sleep", "1000"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }));
    place.kubectl(&["wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s"]);
    let (url, right) = place.door();
    let address = pod["status"]["podIP"].as_str().unwrap();
    let host = url.trim_start_matches("http://");
    let service = host.rsplit_once(':').unwrap();

    let (ip, port) = service;
    let [without, wrong, good] =
        [String::new(), basic(&right.username, "wrong"), basic(&right.username, &right.password)];
    assert_eq!(status(place, ip, port, &without), "401");
    assert_eq!(status(place, ip, port, &wrong), "401");
    assert_eq!(status(place, ip, port, &good), "200", "the right password is let in");
    assert_eq!(status(place, address, "14096", &wrong), "401", "the door itself asks too");
    assert_eq!(status(place, address, "4096", &good), "", "opencode answers on the pod's address");
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {text}\\r\\n")
}

/// The HTTP status that the stranger gets for opencode's list of sessions; empty without a connection.
fn status(place: &Place, ip: &str, port: &str, header: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{ip}/{port} || exit 0; \
         printf 'GET /session HTTP/1.1\\r\\nHost: x\\r\\n{header}Connection: close\\r\\n\\r\\n' >&3; \
         read -r -t 20 _ status _ <&3; echo \"$status\""
    );
    place.kubectl(&["exec", "stranger", "--", "bash", "-c", &format!("( {script} ) 2>/dev/null || true")])
}
