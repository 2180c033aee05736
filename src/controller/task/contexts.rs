//! ConfigMaps that the contexts of Tasks need.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::Tasks;
use crate::{
    api::{Task, names::reasons},
    controller::request::limited,
    status::Failure,
    task::contexts::{self, Maps},
};

/// What Tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum On {
    ConfigMap,
    Secret,
    Template,
}

/// Who waits for what: Tasks by namespace and what it is.
pub(super) type Awaited = HashMap<(String, On, String), BTreeSet<String>>;

impl Tasks {
    /// What of the contexts is missing, as far as the cache knows: whether the objects are there.
    pub(super) fn missing(&self, task: &Task) -> Result<(), String> {
        let namespace = task.namespace().unwrap_or_default();
        let maps = contexts::config_maps(task).into_iter().map(|name| (On::ConfigMap, name.to_owned()));
        self.await_on(&namespace, &task.name_any(), maps);
        let gone = |name: &&&str| self.context.caches.config_maps.get(&namespace, name).is_none();
        match contexts::required(task).iter().find(gone) {
            Some(name) => Err(format!("ConfigMap {name} does not exist")),
            None => Ok(()),
        }
    }

    /// The text of the contexts, read for a Task that is about to start; or what is missing.
    pub(super) async fn contexts(&self, task: &Task) -> Result<Result<String, String>, Failure> {
        let api: Api<ConfigMap> = self.api(task);
        let most = crate::task::build::MAX_PROMPT.saturating_sub(task.spec.description.as_ref().map_or(0, String::len));
        let (mut maps, mut bytes) = (Maps::new(), 0);
        for name in contexts::config_maps(task) {
            let read = limited("reading a ConfigMap of the Task's contexts", api.get_opt(name)).await?;
            let found = read.map_err(|error| {
                let message = format!("cannot read ConfigMap {name}: {error}");
                Failure::transient(reasons::POD_CREATION_FAILED, message)
            })?;
            if let Some(map) = found {
                let texts = contexts::needed(task, name, map.data.unwrap_or_default());
                // Each is part of the text at least once.
                bytes += texts.values().map(|text| text.trim_end().len()).sum::<usize>();
                if bytes > most {
                    return Ok(Err(contexts::too_long()));
                }
                maps.insert(name.to_owned(), texts);
            }
        }
        Ok(contexts::gather(task, &maps, most))
    }

    /// Notes what wakes a Task.
    pub(super) fn await_on(&self, namespace: &str, task: &str, objects: impl IntoIterator<Item = (On, String)>) {
        let mut awaited = self.awaited.lock();
        for (on, name) in objects {
            awaited.entry((namespace.to_owned(), on, name)).or_default().insert(task.to_owned());
        }
    }

    /// The Task is gone.
    pub(super) fn await_nothing(&self, task: &Task) {
        let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
        self.awaited.lock().retain(|(of, ..), tasks| {
            if *of == namespace {
                tasks.remove(&name);
            }
            !tasks.is_empty()
        });
    }

    /// Something has changed: Tasks that wait for it are looked at, and ask again for what they wait for.
    pub(super) fn changed(&self, on: On, namespace: &str, name: &str) {
        let waiting = self.awaited.lock().remove(&(namespace.to_owned(), on, name.to_owned()));
        for task in waiting.into_iter().flatten() {
            self.triggers.now(namespace, &task);
        }
    }
}
