//! Suspension waits for work, and a controller that dies meanwhile forgets nothing.

use serde_json::{Value, json};

use super::world::{CONTROLLER, Place, SYSTEM, place, uid};

fn since(deployment: &Value) -> &Value {
    &deployment["metadata"]["annotations"]["pilothouse.dev/pending-since"]
}

/// Deletes the controller's pod as a lost node would, and waits for its successor.
fn kill_the_controller(place: &Place) {
    let cluster = &place.node.cluster;
    let label = "app.kubernetes.io/component=controller";
    let killed =
        cluster.kubectl(["delete", "pod", "-n", SYSTEM, "-l", label, "--grace-period=0", "--force", "--wait=false"]);
    assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
    place.node.rolled_out(SYSTEM, "pilothouse");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_waits_for_work_also_without_the_controller() {
    let Some(place) = place("pauses").await else { return };
    let mut spec = place.spec();
    place.push(&spec, &[]);
    let pod = place.ready("").await;

    let answer = place.ask("Before the pause. [[words=4 hold]]").await;
    spec["suspend"] = json!(true);
    place.push(&spec, &[]);
    place.pending(&["suspend"]).await;
    let before = place.get("deployment/coder-server");
    assert!(since(&before).is_string(), "no clock: {:#}", before["metadata"]["annotations"]);
    let outage = CONTROLLER.write().await;
    kill_the_controller(&place);
    place.stays(&pod, 10).await;
    drop(outage);
    let after = place.get("deployment/coder-server");
    assert_eq!(since(&after), since(&before), "the clock began anew");
    assert_eq!(after["spec"]["replicas"], 1);
    place.pending(&["suspend"]).await;

    place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3");
    place.until("the agent sleeps", "agent/coder", |a| a["status"]["state"] == "Suspended").await;
    place.until("no replicas are left", "deployment/coder-server", |d| d["spec"]["replicas"] == 0).await;
    spec["suspend"] = json!(false);
    place.push(&spec, &[]);
    place.ready(uid(&pod)).await;
    let answer = place.ask("After the pause. [[words=2]]").await;
    assert_eq!(answer.await.unwrap().trim(), "word0 word1");
}
