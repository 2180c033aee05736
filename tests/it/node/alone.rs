//! Tasks with a pod of their own: the real opencode in it, with everything that the template names, and nothing after it.

use serde_json::{Value, json};

use super::{
    jobs::ended,
    world::{Place, condition, place, restarts},
};
use crate::common::model::Script;

const SKILL: &str = "---\nname: review\ndescription: Looks at changes twice\n---\n\nDo it well.\n";

fn template(place: &Place, name: &str, fields: &Value) {
    let mut spec = place.spec();
    spec["serviceAccountName"] = json!("default");
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    place.apply(&json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "AgentTemplate", "metadata": {"name": name}, "spec": spec,
    }));
}

fn submit(place: &Place, name: &str, template: &str, description: &str, contexts: &Value) {
    place.apply(&json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": name},
        "spec": {"templateRef": {"name": template}, "description": description, "contexts": contexts},
    }));
}

/// What the model was shown of what the agent did and knew.
fn shown(place: &Place, prompt: &str) -> String {
    let calls = place.model.calls();
    let of_task = calls.iter().filter(|c| c.text().contains(prompt));
    of_task.map(|c| c.body["messages"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_an_agent_has_all_of_its_template_and_ends_with_its_pod() {
    let Some(place) = place("alone").await else { return };
    let commit = place
        .repository
        .commit("main", &[("handbook/a.md", "word-of-the-handbook"), ("skills/review/SKILL.md", SKILL)]);
    place.kubectl(&["annotate", "--overwrite", "repository/team", &format!("pilothouse.dev/reconcile-at={commit}")]);
    let published = |r: &Value| r["status"]["artifact"]["revision"].as_str().unwrap_or_default().ends_with(&commit);
    place.until("the commit is published", "repository/team", published).await;
    place.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"token": "t0p"}}),
    );
    let from = |path: &str| json!({"repositoryRef": {"name": "team"}, "path": path});
    let all = json!({
        "contexts": [
            {"name": "rules", "type": "Text", "text": "word-of-the-rules"},
            {"name": "handbook", "type": "Git", "mountPath": "docs/handbook", "git": from("handbook")},
        ],
        "skills": [{"name": "team", "git": from("skills")}],
        "credentials": [{"name": "key", "secretRef": {"name": "key", "key": "token"}, "env": "TOKEN"}],
    });
    template(&place, "all", &all);

    // The agent looks with its own hands.
    let look = "cat docs/handbook/a.md notes/own.md; printf 'token %s in %s\\n' \"$TOKEN\" \"$PWD\"";
    place.model.play(Script::tool("bash", json!({"command": look, "description": "looks around"})));
    let own = json!([{"name": "own", "type": "Text", "text": "word-of-the-task", "mountPath": "notes/own.md"}]);
    submit(&place, "whole", "all", "Look around alone. [[words=3]]", &own);
    let task = ended(&place, "whole").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}\n{}", place.story());
    assert_eq!(task["status"]["result"], "word0 word1 word2", "{task:#}");
    let said = shown(&place, "Look around alone.");
    for word in ["word-of-the-rules", "word-of-the-handbook", "word-of-the-task", "token t0p in /workspace"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert!(place.model.calls().iter().any(|c| c.body.to_string().contains("Looks at changes twice")), "its skills");
    let inputs = &task["status"]["inputs"];
    assert_eq!(
        *inputs,
        json!([{"id": "contexts/handbook", "commit": commit}, {"id": "skills/team", "commit": commit}])
    );
    assert!(task["status"]["session"]["id"].as_str().unwrap().starts_with("ses_"), "{task:#}");
    let log = place.kubectl(&["logs", "whole-pod", "-c", "task"]);
    assert!(log.contains("word0 word1 word2"), "{log}");
    // The server has ended with it.
    let over = |pod: &Value| pod["status"]["phase"] == "Succeeded";
    let pod = place.until("the pod has ended", "pod/whole-pod", over).await;
    assert_eq!(restarts(&pod), 0, "{pod:#}");

    // Stopped: the session is aborted, and the pod is gone.
    place.model.play(Script::default());
    submit(&place, "stopped", "all", "Never end alone. [[words=6 hold]]", &Value::Null);
    place.model_was_asked("Never end alone.", 0).await;
    place.until("the Task runs", "task/stopped", |task| task["status"]["phase"] == "Running").await;
    place.kubectl(&["annotate", "task/stopped", "pilothouse.dev/stop=true"]);
    let task = ended(&place, "stopped").await;
    assert_eq!(condition(&task, "Stopped")[..2], ["True", "UserStopped"], "{task:#}");
    assert!(task["status"]["session"]["summary"].is_object(), "it said its last words: {task:#}");
    place.until("the pod is gone", "pod/stopped-pod", Value::is_null).await;

    // A command in the place of server and client: it has what they would have.
    let mut command = all.clone();
    command["command"] = json!(["sh", "-c", "cat task.md docs/handbook/a.md; opencode --version; exit 3"]);
    template(&place, "command", &command);
    submit(&place, "command", "command", "the-prompt", &Value::Null);
    let task = ended(&place, "command").await;
    assert_eq!(condition(&task, "Stalled")[..2], ["True", "PodFailed"], "{task:#}");
    assert!(condition(&task, "Stalled")[2].ends_with("exit code 3"), "{task:#}");
    let log = task["status"]["logTail"].as_str().unwrap_or_default();
    assert!(log.contains("the-prompt") && log.contains("word-of-the-handbook") && log.contains("1."), "{task:#}");
}
