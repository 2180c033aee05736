//! The custom resource definitions, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{Agent, AgentTemplate, CronTask, PilothouseConfig, Repository, Sync, Task, schema};

/// One CRD in its two forms.
#[derive(Clone, Debug)]
pub struct Crd {
    /// Kind that it defines.
    pub kind: &'static str,
    /// Name of the file that holds it, in the folder of CRDs: `agents.yaml`.
    pub file: String,
    /// The whole object as JSON, as it is installed.
    pub json: Value,
}

/// A CRD could not be brought into its form; a fault of the types, which the tests find.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A derived schema is no JSON, or no schema.
    #[error("the schema of {0} is not valid: {1}")]
    Schema(&'static str, #[source] serde_json::Error),
    /// A CRD cannot be written as YAML.
    #[error("the schema of {0} cannot be written as YAML: {1}")]
    Yaml(&'static str, String),
}

/// All CRDs, in the order of their files.
pub fn all() -> Result<Vec<Crd>, CrdError> {
    Ok(vec![
        settled::<Agent>("Agent")?,
        settled::<AgentTemplate>("AgentTemplate")?,
        settled::<CronTask>("CronTask")?,
        settled::<PilothouseConfig>("PilothouseConfig")?,
        settled::<Repository>("Repository")?,
        settled::<Sync>("Sync")?,
        settled::<Task>("Task")?,
    ])
}

/// All CRDs, typed.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    all()?.into_iter().map(|crd| serde_json::from_value(crd.json).map_err(|e| CrdError::Schema(crd.kind, e))).collect()
}

impl Crd {
    /// The CRD as a YAML document.
    pub fn yaml(&self) -> Result<String, CrdError> {
        serde_saphyr::to_string(&self.json).map_err(|e| CrdError::Yaml(self.kind, e.to_string()))
    }

    /// The schema of the kind's objects.
    pub fn schema(&self) -> &Value {
        &self.json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }
}

fn settled<T: CustomResourceExt>(kind: &'static str) -> Result<Crd, CrdError> {
    let mut json = serde_json::to_value(T::crd()).map_err(|e| CrdError::Schema(kind, e))?;
    if let Some(Value::Object(root)) = json.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        schema::settle(root);
        for (field, text) in ROOT_DESCRIPTIONS {
            if let Some(property) = root.get_mut("properties").and_then(|p| p.get_mut(field)) {
                property["description"] = json!(text);
            }
        }
    }
    let file = format!("{}.yaml", T::api_resource().plural);
    Ok(Crd { kind, file, json })
}

/// The derive gives the root's own properties no description.
const ROOT_DESCRIPTIONS: [(&str, &str); 2] =
    [("spec", "What is wanted."), ("status", "What is known. Written by the controller alone.")];
