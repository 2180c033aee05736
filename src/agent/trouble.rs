//! Why a new pod does not get ready, as far as its status says (pure). Nothing in it ticks: a container that is started
//! again and again is described in the same words whether it runs just now or not.

use std::cmp::Reverse;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

use crate::status::condition::truncate;

/// Longest message taken over from a pod, in bytes.
const MESSAGE: usize = 300;

/// The pods of the newest revision: those that were made from the same template as the newest pod.
pub fn newest<'a>(pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let of = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|l| l.get("pod-template-hash")).cloned();
    let there: Vec<_> = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).copied().collect();
    // Times are whole seconds. Of two pods of one second the ready one is the older.
    let newest = there.iter().min_by_key(|p| {
        let created = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (Reverse(created), is_ready(p), p.metadata.name.clone())
    });
    let Some(hash) = newest.map(|pod| of(pod)) else { return vec![] };
    there.into_iter().filter(|pod| of(pod) == hash).collect()
}

/// Whether a pod is ready, so that it may have been given work.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
}

/// What keeps the newest pod from getting ready; `None` where it is ready or says nothing.
pub fn trouble(pods: &[&Pod]) -> Option<String> {
    newest(pods).into_iter().filter(|pod| !is_ready(pod)).find_map(of_pod)
}

/// Why there is no pod at all: what the API server refused, as the Deployment says it.
pub fn refused(deployment: &Deployment) -> Option<String> {
    let mut conditions = deployment.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let failure = conditions.find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let message = failure.message.as_deref().unwrap_or_default();
    // The name of a pod that was never made is another one each time.
    let message = message.split_once(" is forbidden: ").map_or(message, |(_, why)| why);
    Some(format!("the pod cannot be made: {}", truncate(message, MESSAGE)))
}

fn of_pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let mut containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    if let Some(trouble) = containers.find_map(of_container) {
        return Some(trouble);
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable"));
    let message = unscheduled?.message.as_deref().unwrap_or_default();
    Some(format!("no node takes the pod: {}", truncate(message, MESSAGE)))
}

fn of_container(container: &ContainerStatus) -> Option<String> {
    let name = &container.name;
    let state = container.state.clone().unwrap_or_default();
    if let Some(waiting) = &state.waiting {
        let message = truncate(waiting.message.as_deref().unwrap_or_default(), MESSAGE);
        match waiting.reason.as_deref().unwrap_or_default() {
            // The kubelet shows them in turn.
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => {
                return Some(format!("the image {} of container {name} cannot be pulled", container.image));
            }
            reason @ ("InvalidImageName"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError") => {
                return Some(format!("container {name} cannot be made ({reason}): {message}"));
            }
            _ => {}
        }
    }
    let last = container.last_state.clone().unwrap_or_default().terminated;
    let ended = state.terminated.or(last)?;
    // An init container that did its work.
    if ended.exit_code == 0 && (container.ready || container.restart_count == 0) {
        return None;
    }
    let reason = ended.reason.filter(|r| !r.is_empty() && r != "Error" && r != "Completed");
    let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
    let code = ended.exit_code;
    Some(format!("container {name} ends with exit code {code}{reason} again and again; its log says why"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, second: u8, hash: &str, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "labels": {"pod-template-hash": hash}},
            "status": status,
        }))
        .unwrap()
    }

    fn container(state: &Value, last: &Value) -> Value {
        let container = json!({"name": "c", "image": "i:1", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last});
        json!({"containerStatuses": [container]})
    }

    #[test]
    fn the_newest_pod_says_what_is_wrong_in_words_that_stay() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "back-off 5m0s"}});
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let running = json!({"running": {}});
        let pull = "the image i:1 of container c cannot be pulled";
        let crash = "container c ends with exit code 1 again and again; its log says why";
        let table = [
            (container(&waiting("ErrImagePull"), &json!({})), Some(pull)),
            (container(&waiting("ImagePullBackOff"), &json!({})), Some(pull)),
            (container(&waiting("CrashLoopBackOff"), &ended(1, "Error")), Some(crash)),
            (container(&running, &ended(1, "Error")), Some(crash)),
            (container(&ended(1, "Error"), &json!({})), Some(crash)),
            (
                container(&running, &ended(137, "OOMKilled")),
                Some("container c ends with exit code 137 (OOMKilled) again and again; its log says why"),
            ),
            (
                container(&waiting("CreateContainerConfigError"), &json!({})),
                Some("container c cannot be made (CreateContainerConfigError): back-off 5m0s"),
            ),
            (container(&waiting("ContainerCreating"), &json!({})), None),
            (container(&running, &json!({})), None),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available"}]}),
                Some("no node takes the pod: 0/1 nodes are available"),
            ),
        ];
        let good = pod("old", 1, "a", &json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        for (status, expected) in table {
            for second in [2, 1] {
                let bad = pod("older by its name", second, "b", &status);
                assert_eq!(trouble(&[&good, &bad]).as_deref(), expected, "{status}");
                assert_eq!(newest(&[&good, &bad]), [&bad]);
            }
        }
        assert_eq!((trouble(&[&good]), trouble(&[])), (None, None));
    }

    #[test]
    fn a_pod_that_is_refused_is_told_without_its_name() {
        let deployment = |kind: &str, status: &str| -> Deployment {
            let message = "pods \"coder-server-5d8-x7k2p\" is forbidden: error looking up service account agents/nobody: \
                           serviceaccount \"nobody\" not found";
            let condition = json!({"type": kind, "status": status, "reason": "FailedCreate", "message": message});
            serde_json::from_value(json!({"metadata": {"name": "d"}, "status": {"conditions": [condition]}})).unwrap()
        };
        assert_eq!(
            refused(&deployment("ReplicaFailure", "True")).unwrap(),
            "the pod cannot be made: error looking up service account agents/nobody: serviceaccount \"nobody\" not found"
        );
        assert_eq!(refused(&deployment("ReplicaFailure", "False")), None);
        assert_eq!(refused(&deployment("Progressing", "True")), None);
    }

    #[test]
    fn an_init_container_that_is_done_is_no_trouble() {
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let status = json!({"initContainerStatuses": [{"name": "init", "image": "i", "imageID": "", "ready": true,
            "restartCount": 0, "state": done}]});
        assert_eq!(trouble(&[&pod("p", 1, "a", &status)]), None);
    }
}
