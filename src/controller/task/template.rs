//! Tasks with a pod of their own: what the template and whatever it refers to come to.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};

use super::{Tasks, contexts::On, view::config};
use crate::{
    agent::{self, ConfigMapData, Inputs, References, SecretKeys, Wanted, build::alone, once},
    api::{
        AgentSpec, AgentTemplate, Task,
        names::{annotation, reasons},
        not_yet,
    },
    controller::{agent::voice::AgentVoice as _, artifacts::Purpose, request::limited},
    status::{Class, Failure},
    task::{self, Start, Template},
};

/// Everything that a template refers to and that exists.
#[derive(Default)]
struct Content {
    config_maps: BTreeMap<String, ConfigMapData>,
    secrets: BTreeMap<String, SecretKeys>,
}

impl Tasks {
    /// The pod that a Task would have for itself, or why it cannot have one now; none for a Task of an agent. The outer
    /// failure passes.
    pub(super) async fn template(&self, task: &Task) -> Result<Result<Option<Box<Template>>, Failure>, Failure> {
        let Some(name) = task::template_of(task) else { return Ok(Ok(None)) };
        match self.made_of(task, name).await {
            Ok(template) => Ok(Ok(Some(Box::new(template)))),
            Err(failure) if failure.class == Class::Transient => Err(failure),
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn made_of(&self, task: &Task, name: &str) -> Result<Template, Failure> {
        let namespace = task.namespace().unwrap_or_default();
        self.await_on(&namespace, &task.name_any(), [(On::Template, name.to_owned())]);
        let found = self.context.caches.templates.get(&namespace, name);
        let template = found.ok_or_else(|| {
            let message = format!("waiting for AgentTemplate {name}, which does not exist in this namespace");
            Failure::waiting(reasons::TEMPLATE_NOT_FOUND, message)
        })?;
        let alone = self.alone(task, &template).await;
        let alone = alone.map_err(|failure| Failure {
            message: format!("with AgentTemplate {name}: {}", failure.message),
            ..failure
        })?;
        Ok(Template { name: name.to_owned(), revision: Some(revision(&template)), alone })
    }

    async fn alone(&self, task: &Task, template: &AgentTemplate) -> Result<agent::build::Alone, Failure> {
        let fields = not_yet::unsupported(&template.spec);
        if !fields.is_empty() {
            return Err(Failure::stalled(reasons::NOT_YET_SUPPORTED, not_yet::message(&fields)));
        }
        let (namespace, settings) = (task.namespace().unwrap_or_default(), &self.context.settings);
        let spec = once::spec(&template.spec, &task.spec);
        if settings.namespace == namespace {
            agent::refuse_own(&spec, settings.own_account())?;
        }
        let agent = once::stand_in(&namespace, &task.name_any(), &task.uid().unwrap_or_default());
        let pieces = self.pieces(&agent, &agent::wanted(&spec)?).await?;
        let content = self.content(task, &spec).await?;
        let config = config(&self.context.caches);
        let inputs = Inputs {
            agent: &agent,
            spec: &spec,
            config: config.as_deref().map(|c| &c.spec),
            system_image: settings.system_image.as_deref(),
            layout: settings.layout,
            upgrade: None,
            upgraded: None,
            grace: None,
            voice_address: settings.voice_address.as_deref(),
            suspended: false,
            pieces: &pieces,
            unread: &BTreeSet::new(),
            config_maps: &content.config_maps,
            secrets: &content.secrets,
        };
        alone(&inputs, self.voices.authority().as_deref())
    }

    /// The commits of everything from Git.
    async fn pieces(&self, agent: &crate::api::Agent, wanted: &[Wanted]) -> Result<agent::Pieces, Failure> {
        let read = self.git.read(agent, wanted, &agent::Pieces::new()).await?;
        let whole = wanted.iter().all(|wanted| read.pieces.contains_key(&wanted.id));
        if let Some(failure) = read.missing().filter(|_| read.hold.is_none()) {
            return Err(failure);
        }
        if !whole {
            let ids: Vec<_> =
                wanted.iter().map(|w| w.id.as_str()).filter(|id| !read.pieces.contains_key(*id)).collect();
            let message = format!("waiting for the first commit of {}", ids.join(", "));
            return Err(Failure::waiting(reasons::CONTENT_NOT_READY, message));
        }
        Ok(read.pieces)
    }

    /// Reads what exists of the ConfigMaps and Secrets; the builder says what it misses.
    async fn content(&self, task: &Task, spec: &AgentSpec) -> Result<Content, Failure> {
        let (namespace, References { config_maps, secrets }) =
            (task.namespace().unwrap_or_default(), agent::references(spec));
        let on = |kind: On| move |name: &String| (kind, name.clone());
        let all = config_maps.iter().map(on(On::ConfigMap)).chain(secrets.iter().map(on(On::Secret)));
        self.await_on(&namespace, &task.name_any(), all);
        let (mut content, caches) = (Content::default(), &self.context.caches);
        for name in config_maps.iter().filter(|name| caches.config_maps.get(&namespace, name).is_some()) {
            let read = limited("reading a ConfigMap", self.api::<ConfigMap>(task).get_opt(name)).await?;
            if let Some(map) = read.map_err(|e| unreadable("ConfigMap", name, &e))? {
                let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
                let data = ConfigMapData { text: map.data.unwrap_or_default(), binary: binary.collect() };
                content.config_maps.insert(name.clone(), data);
            }
        }
        // The hashes of one pod's credentials are compared with nobody's.
        let key: [u8; 32] = rand::random();
        for name in secrets.iter().filter(|name| caches.secrets.get(&namespace, name).is_some()) {
            let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
            let read = limited("reading a Secret", secrets.get_opt(name)).await?;
            if let Some(secret) = read.map_err(|e| unreadable("Secret", name, &e))? {
                let data = secret.data.unwrap_or_default();
                let keys = SecretKeys::new(&key, data.iter().map(|(k, v)| (k.as_str(), v.0.as_slice())));
                content.secrets.insert(name.clone(), keys);
            }
        }
        Ok(content)
    }

    /// Seals the artifacts that the pod may fetch.
    pub(super) fn sealed(&self, task: &Task, start: &Start) -> Option<ConfigMap> {
        let mut files = start.files.clone()?;
        let annotations = files.metadata.annotations.get_or_insert_default();
        if let Some(named) = annotations.get(annotation::ARTIFACTS) {
            let (namespace, uid) = (task.namespace().unwrap_or_default(), task.uid().unwrap_or_default());
            let seal = self.context.seal.of(Purpose::Artifacts, &namespace, &uid, named);
            annotations.insert(annotation::ARTIFACTS_SEAL.into(), seal);
        }
        Some(files)
    }
}

/// Where the template's definition is from: the commit that a Sync has applied it from, else a hash of it.
fn revision(template: &AgentTemplate) -> String {
    let commit = template.annotations().get(annotation::REVISION);
    commit.map_or_else(
        || agent::hash::short(&serde_json::json!(template.spec)),
        |revision| agent::report::short(revision),
    )
}

/// Never the answer itself: it may hold a value.
fn unreadable(kind: &str, name: &str, error: &kube::Error) -> Failure {
    let why = match error {
        kube::Error::Api(status) => status.message.clone(),
        _ => "the API server does not answer".into(),
    };
    Failure::transient(reasons::POD_CREATION_FAILED, format!("cannot read {kind} {name}: {why}"))
}
