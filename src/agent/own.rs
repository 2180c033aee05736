//! What belongs to the controller itself, and so to no agent (pure).

use serde_json::Value;

use crate::{
    api::{
        AgentSpec,
        names::{SERVING_SECRET, reasons},
    },
    status::Failure,
};

/// Refuses a merged spec that would hand the controller's identity to an agent in the controller's own namespace: its
/// `ServiceAccount` (`account`, where known), or the Secret of its certificate, wherever the spec names it.
///
/// # Errors
/// `Stalled`, naming the field.
pub fn refuse_own(spec: &AgentSpec, account: Option<&str>) -> Result<(), Failure> {
    // Without a name the pods run as "default", whose token an extra volume can ask for.
    let named = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    if account == Some(named) {
        let message = format!(
            "spec.serviceAccountName: {named:?} is the controller's own account, which no agent may use: name another"
        );
        return Err(Failure::stalled(reasons::INVALID_SPEC, message));
    }
    let spec = serde_json::to_value(spec).unwrap_or_default();
    let Some(field) = serving_secret(&spec, "spec", false) else { return Ok(()) };
    let message = format!("{field}: Secret {SERVING_SECRET:?} is the controller's own, which no agent may read");
    Err(Failure::stalled(reasons::INVALID_SPEC, message))
}

/// The first field that names the Secret: any `secretName`, and any `name` below a field that is about Secrets.
fn serving_secret(value: &Value, path: &str, of_secret: bool) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            let about = key.to_lowercase().contains("secret");
            let names_it = value == SERVING_SECRET && (about || of_secret && key == "name");
            if names_it { Some(path) } else { serving_secret(value, &path, about) }
        }),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(i, value)| serving_secret(value, &format!("{path}[{i}]"), of_secret))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(patch: &Value) -> Option<String> {
        let mut spec = json!({"workspaceDir": "/w", "serviceAccountName": "coder"});
        for (key, value) in patch.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let spec: AgentSpec = serde_json::from_value(spec).unwrap();
        refuse_own(&spec, Some("pilothouse")).err().map(|failure| {
            assert_eq!(failure.reason, reasons::INVALID_SPEC);
            failure.message
        })
    }

    #[test]
    fn what_is_the_controller_s_own_is_refused_by_name() {
        let own = SERVING_SECRET;
        let env = |of: Value| json!({"podSpec": {"extraEnv": [{"name": "E", "valueFrom": of}]}});
        let volume = |of: Value| json!({"podSpec": {"extraVolumes": [{"name": "other"}, of]}});
        for (patch, field) in [
            (json!({"serviceAccountName": "pilothouse"}), "spec.serviceAccountName"),
            (json!({"credentials": [{"name": "c", "secretRef": {"name": own}}]}), "spec.credentials[0].secretRef.name"),
            (json!({"imagePullSecrets": [{"name": own}]}), "spec.imagePullSecrets[0].name"),
            (
                env(json!({"secretKeyRef": {"name": own, "key": "tls.key"}})),
                "spec.podSpec.extraEnv[0].valueFrom.secretKeyRef.name",
            ),
            (
                volume(json!({"name": "v", "secret": {"secretName": own}})),
                "spec.podSpec.extraVolumes[1].secret.secretName",
            ),
            (
                volume(json!({"name": "v", "projected": {"sources": [{"secret": {"name": own}}]}})),
                "spec.podSpec.extraVolumes[1].projected.sources[0].secret.name",
            ),
        ] {
            let message = refused(&patch).unwrap_or_default();
            assert!(message.starts_with(&format!("{field}: ")), "{patch}: {message:?}");
        }
    }

    #[test]
    fn the_rest_passes() {
        for patch in [
            json!({}),
            json!({"credentials": [{"name": SERVING_SECRET, "secretRef": {"name": "other"}}]}),
            json!({"podSpec": {"extraEnv": [{"name": "E", "value": SERVING_SECRET}]}}),
        ] {
            assert_eq!(refused(&patch), None, "{patch}");
        }
        let unnamed: AgentSpec = serde_json::from_value(json!({"workspaceDir": "/w"})).unwrap();
        assert!(refuse_own(&unnamed, Some("default")).is_err(), "pods without an account run as default");
        assert!(refuse_own(&unnamed, None).is_ok());
    }
}
