//! Whether new Tasks wait for a rollout of their agent (pure).

use crate::{
    api::{
        AgentSpec, AgentStatus,
        names::{condition, reasons},
    },
    status::condition::is_true,
};

/// Reasons of a change that waits for something else than running work.
const HELD_BACK: [&str; 4] = [reasons::HELD, reasons::WAITING_FOR_FLEET, reasons::FLEET_CLOSED, reasons::FLEET_STOPPED];

/// What new Tasks wait for, as a message; `None` where they may start. `spec` is the merged one.
///
/// They wait while a change waits for running work, and until the pods of the new revision are ready. A change that
/// somebody or the fleet holds back, or that failed, is waited for by nobody: that may take days.
pub fn draining(name: &str, spec: &AgentSpec, status: &AgentStatus) -> Option<String> {
    if !spec.rollout.as_ref().is_some_and(|r| r.drain) || is_true(&status.conditions, condition::ROLLOUT_FAILED) {
        return None;
    }
    let rollout = status.rollout.as_ref()?;
    if rollout.pending.is_some() {
        let pending = status.conditions.iter().find(|c| c.type_ == condition::ROLLOUT_PENDING)?;
        let waits = pending.status == "True" && !HELD_BACK.contains(&pending.reason.as_str());
        let causes = rollout.causes.join(", ");
        return waits.then(|| {
            format!(
                "Agent {name} takes no new Task until its rollout, which waits for running work (changed: {causes})"
            )
        });
    }
    let on_its_way = rollout.rolled_out_revision.is_some() && rollout.rolled_out_revision != rollout.applied;
    // Side by side it is ready all the same: the old pod ends what it begins.
    (on_its_way && status.suspended != Some(true) && status.ready != Some(true))
        .then(|| format!("Agent {name} takes no new Task until the pod of its new revision is ready"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn says(drain: bool, rollout: &Value, conditions: &Value) -> Option<String> {
        says_while(drain, rollout, conditions, false)
    }

    fn says_while(drain: bool, rollout: &Value, conditions: &Value, ready: bool) -> Option<String> {
        let spec = serde_json::from_value(json!({"rollout": {"drain": drain}})).unwrap();
        let conditions: Vec<Value> = conditions
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                json!({"type": c[0], "status": c[1], "reason": c[2], "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let status = json!({"rollout": rollout, "conditions": conditions, "ready": ready});
        draining("coder", &spec, &serde_json::from_value(status).unwrap())
    }

    #[test]
    fn tasks_wait_for_what_waits_and_for_what_is_on_its_way() {
        let rest = json!({"applied": "a", "rolledOutRevision": "a"});
        let pending = json!({"applied": "a", "rolledOutRevision": "a", "pending": "b", "causes": ["config", "image"]});
        let coming = json!({"applied": "b", "rolledOutRevision": "a"});
        let first = json!({"applied": "a"});
        let waits = json!([["RolloutPending", "True", "WaitingForTasks"]]);
        let held = json!([["RolloutPending", "True", "Held"]]);
        let frozen = json!([["RolloutPending", "True", "FleetClosed"]]);
        let failed = json!([["RolloutFailed", "True", "ProgressDeadlineExceeded"]]);
        let none = json!([]);
        let table = [
            (true, &rest, &none, None),
            (true, &pending, &waits, Some("changed: config, image")),
            (false, &pending, &waits, None),
            (true, &pending, &held, None),
            (true, &pending, &frozen, None),
            (true, &coming, &none, Some("is ready")),
            (false, &coming, &none, None),
            (true, &coming, &failed, None),
            (true, &first, &none, None),
        ];
        for (drain, rollout, conditions, expected) in table {
            let said = says(drain, rollout, conditions);
            assert_eq!(said.is_some(), expected.is_some(), "{drain} {rollout} {conditions}: {said:?}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()), "{rollout}");
        }
        assert_eq!(says(true, &Value::Null, &none), None);
        assert_eq!(says_while(true, &coming, &none, true), None, "side by side the old pod takes it");
    }
}
