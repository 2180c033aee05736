//! The caches that kinds share: one watch a kind, however many reconcilers read it.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Service},
};
use kube::{core::PartialObjectMeta, runtime::watcher};

use super::{
    artifacts::Seal,
    repository::published,
    runtime::{Cache, Packed, Watches, watch::without_last_applied},
};
use crate::{
    agent::{beside, build::layout},
    api::{Agent, AgentTemplate, CronTask, PilothouseConfig, Repository, Sync, Task},
};

/// Label selectors of generated objects: only those with one of our labels are cached whole.
const OF_AGENTS: &str = "pilothouse.dev/agent";
const OF_TASKS: &str = "pilothouse.dev/task";

/// Objects a page of a listing. What is dropped of one page (the fields' managers are half of an object) makes room for
/// the next one; of a listing in one piece the holes would stay.
const PAGE: u32 = 50;

/// Stands in the annotations of a cached pod alone, whatever the pod itself has there: a volume has forty times the size
/// of the name that is read of it.
const MOUNTED: &str = "cached.pilothouse.dev/mounted-config-maps";

/// Every cache of the controller. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    /// Repositories.
    pub repositories: Cache<Repository>,
    /// Syncs.
    pub syncs: Cache<Sync>,
    /// Agents.
    pub agents: Cache<Agent>,
    /// Templates.
    pub templates: Cache<AgentTemplate>,
    /// Tasks.
    pub tasks: Cache<Task>,
    /// `CronTasks`.
    pub crontasks: Cache<CronTask>,
    /// The configuration singleton.
    pub configs: Cache<PilothouseConfig>,
    /// Deployments labelled with an agent.
    pub deployments: Cache<Packed<Deployment>>,
    /// Services labelled with an agent.
    pub services: Cache<Service>,
    /// Pods of agents' Deployments.
    pub agent_pods: Cache<Pod>,
    /// Pods labelled with a Task.
    pub task_pods: Cache<Pod>,
    /// All ConfigMaps, metadata only: what Agents refer to, and what is generated for them.
    pub config_maps: Cache<PartialObjectMeta<ConfigMap>>,
    /// All Secrets, metadata only.
    pub secrets: Cache<PartialObjectMeta<Secret>>,
}

impl Caches {
    /// Opens the watches. `seal` tells which artifacts of Repositories are the controller's word.
    pub fn open(watches: &mut Watches, seal: &Seal) -> Self {
        let all = watcher::Config::default().page_size(PAGE);
        let (agents, seal) = (all.clone().labels(OF_AGENTS), seal.clone());
        // Ours do not carry both labels. A pod that somebody gave both is a Task's, and is in that cache alone.
        let servers = all.clone().labels(&format!("{OF_AGENTS},!{OF_TASKS}"));
        Self {
            repositories: watches.trimmed(&all, move |repository| published::trim(&seal, repository)),
            syncs: watches.objects(&all),
            agents: watches.objects(&all),
            templates: watches.objects(&all),
            tasks: watches.objects(&all),
            crontasks: watches.trimmed(&all, without_last_applied::<CronTask>),
            configs: watches.cluster_objects(&all),
            deployments: watches.objects(&agents),
            services: watches.objects(&agents),
            agent_pods: watches.trimmed(&servers, trim_pod),
            task_pods: watches.trimmed(&all.clone().labels(OF_TASKS), trim_pod),
            config_maps: watches.metadata(&all),
            secrets: watches.metadata(&all),
        }
    }
}

/// A pod is read for its state, for the `ConfigMaps` that it holds on to, and for how it ends; most of its memory is the
/// rest.
fn trim_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let volumes = spec.volumes.take().into_iter().flatten();
    let maps: Vec<_> = volumes.filter_map(|volume| Some(volume.config_map?.name)).collect();
    let marked = spec.init_containers.take().into_iter().flatten().filter_map(only_mark);
    let marked: Vec<_> = marked.collect();
    *spec = PodSpec {
        node_name: spec.node_name.take(),
        init_containers: (!marked.is_empty()).then(|| marked.into_boxed_slice().into_vec()),
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        ..PodSpec::default()
    };
    pod.metadata.annotations.get_or_insert_default().insert(MOUNTED.into(), maps.join(","));
}

/// Names of the `ConfigMaps` that a cached pod holds on to.
pub fn mounted_maps(pod: &Pod) -> impl Iterator<Item = &str> {
    let names = pod.metadata.annotations.as_ref().and_then(|marks| marks.get(MOUNTED));
    names.into_iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty())
}

/// That a pod ends what it has begun beside a newer one: [`beside::ends_what_it_begins`].
fn only_mark(container: Container) -> Option<Container> {
    let env = container.env.filter(|_| container.name == layout::SIDECAR)?;
    let mark = env.into_iter().find(|variable| variable.name == beside::MARK)?;
    Some(Container { name: container.name, env: Some(vec![mark]), ..Container::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pods_volumes_the_names_of_config_maps_stay() {
        let pod = |marks: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "annotations": marks},
                "spec": {"containers": [{"name": "c"}], "volumes": [
                    {"name": "a", "configMap": {"name": "one"}}, {"name": "b", "emptyDir": {}},
                    {"name": "c", "configMap": {"name": "two"}}]},
            }))
            .unwrap()
        };
        for marks in [json!(null), json!({MOUNTED: "forged"})] {
            let mut pod = pod(marks);
            trim_pod(&mut pod);
            assert_eq!(mounted_maps(&pod).collect::<Vec<_>>(), ["one", "two"]);
            assert_eq!(pod.spec.unwrap().volumes, None);
        }
        let mut bare: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        trim_pod(&mut bare);
        assert_eq!(mounted_maps(&bare).count(), 0);
    }
}
