//! Which object a command is about: KIND NAME or KIND/NAME, and a namespace.

use anyhow::{Context, bail};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Global, controller::client, reconcile::MANAGER};
use crate::{api::Agent, controller::runtime::Kind};

/// Where objects are.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// Namespace; default: the one of the kubeconfig's context
    #[arg(short, long, env = "PILOTHOUSE_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

impl Place {
    /// The namespace, as given or as the kubeconfig says.
    pub fn of(&self, client: &Client) -> String {
        self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned())
    }
}

/// One object of a kind that the command knows.
#[derive(clap::Args, Debug)]
pub struct Named {
    /// Name of the object
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where it is.
    #[command(flatten)]
    pub place: Place,
}

impl Named {
    /// The object, and where objects of its kind are in its namespace.
    ///
    /// # Errors
    /// There is none of that name, or the cluster cannot be asked.
    pub(super) async fn find<K>(&self, global: &Global) -> anyhow::Result<(Api<K>, K)>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let client = client(global).await?;
        let namespace = self.place.of(&client);
        let api: Api<K> = Api::namespaced(client, &namespace);
        let object = find(&api, &namespace, &self.name).await?;
        Ok((api, object))
    }
}

/// Arguments that name an object.
#[derive(clap::Args, Debug)]
pub struct Target {
    /// Kind, in any of its names; or KIND/NAME
    #[arg(value_name = "KIND")]
    pub kind: String,
    /// Name of the object
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub place: Place,
}

impl Target {
    /// Kind and name. `command` is what the object is for, for the message.
    ///
    /// # Errors
    /// There is no name, or there are two.
    pub fn parts(&self, command: &str) -> anyhow::Result<(&str, &str)> {
        match (self.kind.split_once('/'), &self.name) {
            (None, Some(name)) => Ok((self.kind.as_str(), name.as_str())),
            (Some((kind, name)), None) if !name.is_empty() => Ok((kind, name)),
            (Some(_), Some(_)) => bail!("write either KIND NAME or KIND/NAME"),
            _ => bail!("both KIND and NAME are needed, for example: pilothouse {command} agent coder"),
        }
    }

    /// The name of an Agent.
    ///
    /// # Errors
    /// It names another kind, or nothing.
    pub fn agent(&self, command: &str) -> anyhow::Result<&str> {
        let (kind, name) = self.parts(command)?;
        if !["agent", "agents", "ag"].contains(&kind.to_lowercase().as_str()) {
            bail!("{kind:?} is no Agent, and only Agents have this: pilothouse {command} agent {name}");
        }
        Ok(name)
    }

    /// The Agent that a command is about, and where Agents of its namespace are. `command` is as in [`parts`](Self::parts).
    ///
    /// # Errors
    /// It names another kind or nothing, there is no such Agent, or the cluster cannot be asked.
    pub(super) async fn find_agent(&self, global: &Global, command: &str) -> anyhow::Result<(Api<Agent>, Agent)> {
        let name = self.agent(command)?;
        let client = client(global).await?;
        let namespace = self.place.of(&client);
        let api: Api<Agent> = Api::namespaced(client, &namespace);
        let agent = find(&api, &namespace, name).await?;
        Ok((api, agent))
    }
}

/// Reads an object; where there is none, says which there are.
pub(super) async fn find<K: Kind>(api: &Api<K>, namespace: &str, name: &str) -> anyhow::Result<K> {
    find_any(api, &K::kind(&()), Some(namespace), name).await
}

/// The same of any kind; the cluster's have no namespace.
pub(super) async fn find_any<K>(api: &Api<K>, kind: &str, namespace: Option<&str>, name: &str) -> anyhow::Result<K>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let whole = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let found = api.get_opt(name).await.with_context(|| format!("cannot read {kind} {whole}"))?;
    match found {
        Some(found) => Ok(found),
        None => bail!("there is no {kind} {whole}{}", others(api, namespace).await),
    }
}

/// What there is instead; nothing where that cannot be listed.
async fn others<K: Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>, namespace: Option<&str>) -> String {
    match api.list_metadata(&ListParams::default().limit(10)).await {
        Ok(list) if !list.items.is_empty() => {
            let names: Vec<_> = list.items.into_iter().filter_map(|other| other.metadata.name).collect();
            format!("; there are: {}", names.join(", "))
        }
        Ok(_) => match namespace {
            Some(namespace) => format!("; there is none in namespace {namespace}; another one: -n NAMESPACE"),
            None => "; there is none there at all".into(),
        },
        Err(kube::Error::Api(status)) if status.is_not_found() => format!("; {}", super::NO_KIND),
        Err(_) => String::new(),
    }
}

/// Sets an annotation of an object or takes it away, by a merge patch: an apply would take away what other commands have
/// set. The uid keeps this from meaning another object.
pub(super) async fn annotate<K: Kind>(api: &Api<K>, object: &K, key: &str, value: Option<&str>) -> anyhow::Result<()> {
    let patch = json!({ "metadata": { "uid": object.uid(), "annotations": { key: value } } });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let name = object.name_any();
    let written = api.patch_metadata(&name, &params, &Patch::Merge(patch)).await;
    written.with_context(|| format!("cannot set the annotation {key} of {} {name}", K::kind(&())))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_named_in_two_ways() {
        for (kind, name, expected) in [
            ("agent", Some("coder"), Some("coder")),
            ("ag/coder", None, Some("coder")),
            ("Agents", Some("coder"), Some("coder")),
            ("agent", None, None),
            ("agent/", None, None),
            ("agent/a", Some("b"), None),
            ("task", Some("t"), None),
        ] {
            let target = Target { kind: kind.into(), name: name.map(String::from), place: Place { namespace: None } };
            assert_eq!(target.agent("rollout").ok(), expected, "{kind} {name:?}");
        }
    }
}
