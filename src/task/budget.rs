//! What a Task may cost.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::{
    Task, TaskSession,
    money::{MICROS, micros},
    task::TaskTry,
};

/// `spec.budget`, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// In millionths of a US dollar.
    pub cost: Option<i64>,
    /// Of all kinds.
    pub tokens: Option<i64>,
}

impl Budget {
    /// Reads the spec; what the schema cannot refuse is an error that names the field.
    pub fn of(task: &Task) -> Result<Self, String> {
        let Some(spec) = &task.spec.budget else { return Ok(Self::default()) };
        let cost = spec.max_cost.as_ref().map(dollars).transpose()?;
        Ok(Self { cost, tokens: spec.max_tokens })
    }

    /// What is left of it for the next try: sessions that earlier tries have ended are paid already.
    #[must_use]
    pub fn left(self, task: &Task) -> Self {
        // In a pod of its own every try has a session of its own.
        let has_own = task.spec.template_ref.is_some();
        let paid = task.status.as_ref().map(|s| paid(&s.tries, has_own)).unwrap_or_default();
        let less = |most: Option<i64>, paid: i64| most.map(|most| most.saturating_sub(paid).max(0));
        Self { cost: less(self.cost, paid.0), tokens: less(self.tokens, paid.1) }
    }

    /// Whether nothing is left of it.
    pub fn is_spent(self) -> bool {
        self.cost == Some(0) || self.tokens == Some(0)
    }
}

/// US dollars as people write them, `5` or `2.50`, in millionths.
fn dollars(value: &IntOrString) -> Result<i64, String> {
    let refused = || "spec.budget.maxCost is no number of US dollars above 0: write 5 or \"2.50\"".to_owned();
    let found = match value {
        IntOrString::Int(whole) => i64::from(*whole).saturating_mul(MICROS),
        IntOrString::String(text) => micros(text).ok_or_else(refused)?,
    };
    if found > 0 { Ok(found) } else { Err(refused()) }
}

/// Cost and tokens of the sessions of these tries that no further try goes on with.
fn paid(tries: &[TaskTry], all: bool) -> (i64, i64) {
    let over = tries.iter().filter(|t| all || super::retry::ends_session(&t.reason));
    over.filter_map(|t| t.session.as_ref())
        .map(took)
        .fold((0, 0), |a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)))
}

fn took(session: &TaskSession) -> (i64, i64) {
    let summary = session.summary.clone().unwrap_or_default();
    let used = summary.token_usage.unwrap_or_default();
    let tokens = [used.input, used.output, used.reasoning, used.cache].into_iter().flatten().filter(|n| *n > 0);
    (summary.cost.as_deref().and_then(micros).unwrap_or_default(), tokens.fold(0, i64::saturating_add))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(budget: &serde_json::Value, tries: &serde_json::Value) -> Task {
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": "t"},
            "spec": {"budget": budget}, "status": {"tries": tries},
        }))
        .unwrap()
    }

    #[test]
    fn money_as_people_write_it() {
        for (value, micros) in [
            (json!(5), Some(5_000_000)),
            (json!("5"), Some(5_000_000)),
            (json!("2.50"), Some(2_500_000)),
            (json!("0.000001"), Some(1)),
            (json!(0), None),
            (json!(-1), None),
            (json!("0.0000001"), None),
            (json!("-1"), None),
            (json!("1e3"), None),
            (json!(".5"), None),
            (json!(""), None),
            (json!("five"), None),
            (json!("99999999999999999999"), None),
        ] {
            let budget = Budget::of(&task(&json!({ "maxCost": value }), &json!([])));
            assert_eq!(budget.as_ref().ok().and_then(|b| b.cost), micros, "{value}: {budget:?}");
        }
        assert_eq!(Budget::of(&task(&json!(null), &json!([]))), Ok(Budget::default()));
    }

    /// A try that goes on with the session of the one before has its cost in its own.
    #[test]
    fn further_tries_share_it() {
        let tried = |reason: &str, cost: &str| json!({"reason": reason, "session": {"id": cost, "summary": {"cost": cost, "tokenUsage": {"input": 10}}}});
        let budget = json!({"maxCost": "1.00", "maxTokens": 25});
        for (tries, cost, tokens) in [
            (json!([]), 1_000_000, 25),
            (json!([tried("PodLost", "0.400000")]), 1_000_000, 25),
            (json!([tried("PodLost", "0.400000"), tried("AgentError", "0.500000")]), 500_000, 15),
            (json!([tried("AgentError", "0.900000"), tried("AgentError", "0.900000")]), 0, 5),
        ] {
            let task = task(&budget, &tries);
            let left = Budget::of(&task).unwrap().left(&task);
            assert_eq!(left, Budget { cost: Some(cost), tokens: Some(tokens) }, "{tries}");
            assert_eq!(left.is_spent(), cost == 0);
        }
        // In a pod of its own nothing is gone on with.
        let mut alone = task(&budget, &json!([tried("PodLost", "0.400000")]));
        alone.spec.template_ref = Some(serde_json::from_value(json!({"name": "base"})).unwrap());
        let left = Budget::of(&alone).unwrap().left(&alone);
        assert_eq!(left, Budget { cost: Some(600_000), tokens: Some(15) });
    }
}
