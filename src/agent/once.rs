//! What a Task with a pod of its own has in the place of an agent (pure): the template, with the Task's contexts behind its
//! own, and everything from Git at the newest commit of the moment in which it starts.

use std::collections::BTreeMap;

use super::merge;
use crate::api::{
    Agent, AgentSpec, AgentTemplateSpec, ContextItem, ContextType, TaskSpec,
    context::{Follow, GitSync, RepositoryRef},
};

/// File in the workspace with what is to be done, for a command of the template's.
const PROMPT_FILE: &str = "task.md";

/// The spec of the agent that a Task would have for itself.
pub fn spec(template: &AgentTemplateSpec, task: &TaskSpec) -> AgentSpec {
    let mut spec = merge(&AgentSpec::default(), Some(template));
    // Nobody asks this pod for anything, and it follows nothing.
    (spec.rollout, spec.extra_ports, spec.max_concurrent_tasks, spec.quota) = (None, None, None, None);
    let own = task.contexts.iter().flatten().cloned();
    let prompt = spec.command.is_some().then(|| prompt(task));
    let mut contexts: Vec<_> = spec.contexts.take().into_iter().flatten().chain(own).chain(prompt).collect();
    for git in contexts.iter_mut().filter_map(|item| item.git.as_mut()) {
        pin(&mut git.sync, git.repository_ref.as_mut());
    }
    for git in spec.skills.iter_mut().flatten().filter_map(|source| source.git.as_mut()) {
        pin(&mut git.sync, git.repository_ref.as_mut());
    }
    spec.contexts = Some(contexts);
    spec
}

/// What a Repository has published is what counts, whoever applied the Task or its template.
fn pin(sync: &mut Option<GitSync>, repository: Option<&mut RepositoryRef>) {
    *sync = None;
    if let Some(repository) = repository {
        repository.follow = Some(Follow::Branch);
    }
}

fn prompt(task: &TaskSpec) -> ContextItem {
    ContextItem {
        name: Some("spec.description".into()),
        kind: ContextType::Text,
        mount_path: Some(PROMPT_FILE.into()),
        text: task.description.clone(),
        ..ContextItem::default()
    }
}

/// An Agent with the metadata of a Task: its identity for whatever is made or fetched for it.
pub fn stand_in(namespace: &str, name: &str, uid: &str) -> Agent {
    let mut agent = Agent::new(name, AgentSpec::default());
    agent.metadata.namespace = Some(namespace.into());
    agent.metadata.uid = Some(uid.into());
    agent.metadata.annotations = Some(BTreeMap::new());
    agent
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::wanted;

    #[test]
    fn a_task_has_the_template_and_its_own_contexts_behind() {
        let template: AgentTemplateSpec = serde_json::from_value(json!({
            "workspaceDir": "/w", "serviceAccountName": "s", "maxConcurrentTasks": 3,
            "quota": {"maxTaskStarts": 1, "windowSeconds": 60}, "rollout": {"protect": "None"},
            "contexts": [
                {"name": "rules", "type": "Text", "text": "r"},
                {"name": "docs", "type": "Git", "mountPath": "docs", "git": {
                    "repositoryRef": {"name": "team", "follow": "Sync"}, "sync": {"enabled": true}}},
            ],
            "skills": [{"name": "s", "git": {"repository": "https://example.org/s", "sync": {"enabled": true}}}],
        }))
        .unwrap();
        let task = |contexts| TaskSpec { contexts, description: Some("Do it.".into()), ..TaskSpec::default() };
        let own: Vec<ContextItem> =
            serde_json::from_value(json!([{"name": "o", "type": "Text", "text": "own"}])).unwrap();
        let with = spec(&template, &task(Some(own)));
        let names = |spec: &AgentSpec| -> Vec<String> {
            spec.contexts.iter().flatten().filter_map(|c| c.name.clone()).collect()
        };
        assert_eq!(names(&with), ["rules", "docs", "o"], "the Task's come last: they have more weight");
        assert_eq!((with.rollout, with.quota, with.max_concurrent_tasks), (None, None, None));
        for input in wanted(&spec(&template, &task(None))).unwrap() {
            assert_eq!(input.sync, None, "nothing is followed: {}", input.id);
            let follow = match input.source {
                crate::agent::pieces::Source::Repository { follow, .. } => follow,
                crate::agent::pieces::Source::Remote { .. } => Some(Follow::Branch),
            };
            assert_eq!(follow, Some(Follow::Branch));
        }
        let command = AgentTemplateSpec { command: Some(vec!["make".into()]), ..template };
        let with = spec(&command, &task(None));
        let file = with.contexts.iter().flatten().last().cloned().unwrap();
        assert_eq!((file.mount_path.as_deref(), file.text.as_deref()), (Some("task.md"), Some("Do it.")));
    }
}
