//! Content that an Agent follows is part of the Agent: where it changes, the Agent is applied again, with the revision.
//!
//! So definition and content of one commit arrive in one decision, and a commit that touches neither writes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::pass::Pass;
use crate::{
    agent::{self, pieces::Source},
    api::{
        self, AgentSpec, AgentTemplateSpec,
        context::Follow,
        names::{annotation, reasons},
    },
    artifact,
    controller::agent::sources::select::Selection,
    object::{Object, ObjectId},
    plan::{Wanted, digest, is_agent},
    status::Failure,
    tree::FileTree,
};

/// Agents by their place in the list, with what each follows: the input's id, and what it selects.
type Followed = Vec<(usize, Vec<(String, Selection)>)>;

impl Pass<'_> {
    /// Writes on each Agent what the content is that it follows. Nothing is followed in another namespace: a
    /// `repositoryRef` does not lead there.
    pub(super) async fn mark_followed(
        &self,
        mut wanted: Vec<Wanted>,
        tree: Arc<FileTree>,
    ) -> Result<Vec<Wanted>, Failure> {
        if self.target() != self.namespace() {
            return Ok(wanted);
        }
        let followed = self.followed(&wanted);
        if followed.is_empty() {
            return Ok(wanted);
        }
        let hashing = tokio::task::spawn_blocking(move || hashes(&followed, &tree));
        let hashes = hashing
            .await
            .map_err(|_| Failure::transient(reasons::INTERNAL_ERROR, "reading the followed content panicked"))?;
        for (place, hash) in hashes {
            wanted[place].object.set_annotation(annotation::FOLLOWED, &hash);
        }
        Ok(wanted)
    }

    fn followed(&self, wanted: &[Wanted]) -> Followed {
        let templates: HashMap<String, AgentTemplateSpec> = wanted
            .iter()
            .filter(|w| is_template(&w.object.id()))
            .filter_map(|w| Some((w.object.id().name, spec_of(&w.object)?)))
            .collect();
        let agents = wanted.iter().enumerate().filter(|(_, w)| is_agent(&w.object.id()));
        agents
            .filter_map(|(place, w)| Some((place, self.followed_by(&spec_of(&w.object)?, &templates))))
            .filter(|(_, followed)| !followed.is_empty())
            .collect()
    }

    /// An Agent that cannot be read follows nothing: it says by itself what is wrong.
    fn followed_by(
        &self,
        spec: &AgentSpec,
        templates: &HashMap<String, AgentTemplateSpec>,
    ) -> Vec<(String, Selection)> {
        let template = spec.template_ref.as_ref().and_then(|reference| {
            let rendered = templates.get(&reference.name).cloned();
            rendered.or_else(|| {
                let cached = self.all.context.caches.templates.get(&self.namespace(), &reference.name)?;
                Some(cached.spec.clone())
            })
        });
        let inputs = agent::wanted(&agent::merge(spec, template.as_ref())).unwrap_or_default();
        let own = &self.sync.spec.repository_ref.name;
        let follows = |source: &Source| matches!(source, Source::Repository { name, follow } if name == own && *follow != Some(Follow::Branch));
        let followed = inputs.iter().filter(|input| follows(&input.source));
        followed.map(|input| (input.id.clone(), Selection::of(input))).collect()
    }
}

fn is_template(id: &ObjectId) -> bool {
    id.group == api::GROUP && id.kind == "AgentTemplate"
}

fn spec_of<T: serde::de::DeserializeOwned>(object: &Object) -> Option<T> {
    serde_json::from_value(object.value().get("spec")?.clone()).ok()
}

/// One hash for each Agent; what many follow is read once.
fn hashes(followed: &Followed, tree: &FileTree) -> Vec<(usize, String)> {
    let mut known: HashMap<&Selection, String> = HashMap::new();
    let mut hash_of = |selection| known.entry(selection).or_insert_with(|| hash(selection, tree)).clone();
    let mut all = Vec::with_capacity(followed.len());
    for (place, inputs) in followed {
        let inputs: BTreeMap<&String, String> = inputs.iter().map(|(id, selection)| (id, hash_of(selection))).collect();
        let mut hash = digest::of_value(&serde_json::json!(inputs));
        hash.truncate(32);
        all.push((*place, hash));
    }
    all
}

fn hash(selection: &Selection, tree: &FileTree) -> String {
    match selection.take(tree, &[]) {
        Ok(selected) => artifact::digest_of(&selected.tree).to_string(),
        Err(failure) => failure.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Wanted as Input;

    fn selection(path: &str) -> Selection {
        let source = Source::Repository { name: "r".into(), follow: None };
        Selection::of(&Input {
            id: "contexts/c".into(),
            source,
            path: path.into(),
            whole: None,
            push: None,
            names: None,
            sync: None,
        })
    }

    #[test]
    fn the_hash_follows_the_content_of_the_path_alone() {
        let hash = |path: &str, tree: &FileTree| {
            let followed = vec![(3, vec![("contexts/c".to_string(), selection(path))])];
            hashes(&followed, tree).remove(0)
        };
        let one: FileTree = [("docs/a", "1"), ("agent.yaml", "x")].into_iter().collect();
        let other_file: FileTree = [("docs/a", "1"), ("agent.yaml", "y")].into_iter().collect();
        let other_content: FileTree = [("docs/a", "2"), ("agent.yaml", "x")].into_iter().collect();
        let none: FileTree = [("agent.yaml", "x")].into_iter().collect();
        assert_eq!(hash("docs", &one), hash("docs", &other_file));
        assert_ne!(hash("docs", &one).1, hash("docs", &other_content).1);
        assert_ne!(hash("docs", &one).1, hash("docs", &none).1);
        assert_eq!(hash("docs", &one).0, 3);
    }
}
