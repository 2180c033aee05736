//! A person's prompt is answered whole, whatever is pushed meanwhile.

use serde_json::{Value, json};

use super::world::{NEXT_EXECUTOR, Place, place, uid};

/// A change that needs a new pod: its cause and what the new pod must have.
struct Change {
    cause: &'static str,
    make: fn(&mut Value),
    arrived: fn(&Place, &Value) -> bool,
}

fn image(pod: &Value) -> &Value {
    let containers = pod["spec"]["containers"].as_array().unwrap();
    &containers.iter().find(|c| c["name"] == "opencode-server").unwrap()["image"]
}

const CHANGES: [Change; 3] = [
    Change {
        cause: "image",
        make: |spec| spec["executorImage"] = json!(NEXT_EXECUTOR),
        arrived: |_, pod| image(pod) == NEXT_EXECUTOR,
    },
    Change {
        cause: "env",
        make: |spec| spec["podSpec"] = json!({"extraEnv": [{"name": "TEAM", "value": "blue"}]}),
        arrived: |place, _| place.exec(&["sh", "-c", "printf %s \"$TEAM\""]) == "blue",
    },
    Change {
        cause: "config",
        make: |spec| spec["config"]["username"] = json!("crew"),
        arrived: |place, _| {
            let config = place.exec(&[
                "sh",
                "-c",
                "cat \"$OPENCODE_CONFIG\" 2>/dev/null; printf %s \"$OPENCODE_CONFIG_CONTENT\"",
            ]);
            config.contains("\"crew\"")
        },
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_answered_whole_whatever_is_pushed() {
    let Some(place) = place("sessions").await else { return };
    let mut spec = place.spec();
    place.push(&spec, &[]);
    let mut pod = place.ready("").await;
    for (round, change) in CHANGES.iter().enumerate() {
        let answer = place.ask(&format!("Round {round}. [[words=6 hold]]")).await;
        (change.make)(&mut spec);
        place.push(&spec, &[]);
        let agent = place.pending(&[change.cause]).await;
        place.stays(&pod, 3).await;
        assert!(!answer.is_finished(), "{} was held", change.cause);
        assert!(agent["status"]["rollout"]["pending"].is_string(), "{agent:#}");

        place.model.release();
        let text = answer.await.unwrap();
        assert_eq!(text.trim(), "word0 word1 word2 word3 word4 word5", "{}", change.cause);
        let next = place.ready(uid(&pod)).await;
        assert!((change.arrived)(&place, &next), "{} has not arrived: {:#}", change.cause, next["spec"]);
        pod = next;
    }
}
