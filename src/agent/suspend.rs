//! Whether an agent is to have no pod (pure).

use crate::api::{Agent, is_suspended};

/// Whether it is asked to be suspended, by its annotation or its spec.
pub fn wants_suspension(agent: &Agent) -> bool {
    is_suspended(&agent.metadata, agent.spec.suspend)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::names::annotation;

    #[test]
    fn the_annotation_wins_if_it_says_yes_or_no() {
        let table = [
            (json!(null), None, false),
            (json!(true), None, true),
            (json!(false), Some("true"), true),
            (json!(true), Some("false"), false),
            (json!(true), Some("maybe"), true),
            (json!(null), Some("maybe"), false),
        ];
        for (suspend, word, expected) in table {
            let mut agent = Agent::new("a", serde_json::from_value(json!({"suspend": suspend})).unwrap());
            let value: Option<Value> = word.map(|w| json!({annotation::SUSPEND_OVERRIDE: w}));
            agent.metadata.annotations = value.map(|v| serde_json::from_value(v).unwrap());
            assert_eq!(wants_suspension(&agent), expected, "{suspend} {word:?}");
        }
    }
}
