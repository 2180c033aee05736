//! From a Repository's artifact to the objects that a Sync wants.

use std::sync::Arc;

use kube::ResourceExt;
use serde_json::Value;

use super::{has_verdict, pass::Pass, state::Input};
use crate::{
    api::{
        self, Artifact, Repository,
        names::{condition, reasons},
        not_yet,
    },
    apply::{self, Problem},
    artifact::Digest,
    controller::sandbox::{Place, Room},
    object::Object,
    plan::{Origin, Wanted, digest},
    render,
    status::{Class, Failure},
    tree::{FileTree, RepoPath},
};

/// What is to be applied.
pub(super) struct Desired {
    pub(super) input: Input,
    pub(super) wanted: Vec<Wanted>,
    pub(super) digest: String,
    /// For as long as the objects are in memory.
    pub(super) _room: Room,
}

impl Pass<'_> {
    /// The Repository and its artifact, or why there is nothing to apply.
    pub(super) fn desired_input(&self) -> Result<(Arc<Repository>, Artifact), Failure> {
        let gaps = not_yet::unsupported(&self.sync.spec);
        if !gaps.is_empty() {
            return Err(Failure::stalled(reasons::NOT_YET_SUPPORTED, not_yet::message(&gaps)));
        }
        let name = &self.sync.spec.repository_ref.name;
        let repository = self.all.context.caches.repositories.get(&self.namespace(), name).ok_or_else(|| {
            let message = format!("there is no Repository {name} in namespace {}", self.namespace());
            Failure::waiting(reasons::REPOSITORY_NOT_FOUND, message)
        })?;
        let artifact = repository.status.as_ref().and_then(|s| s.artifact.clone()).ok_or_else(|| {
            let conditions = repository.status.iter().flat_map(|s| &s.conditions);
            let mut problems = conditions.filter(|c| c.type_ == condition::READY && c.status == "False");
            let why =
                problems.next().map_or_else(|| "see its conditions".into(), |c| format!("{}: {}", c.reason, c.message));
            let message = format!("Repository {name} has no artifact yet; {why}");
            Failure::waiting(reasons::REPOSITORY_NOT_READY, message)
        })?;
        Ok((repository, artifact))
    }

    /// Whether the Repository is there and nothing is known of its remote yet.
    pub(super) fn is_first_fetch(&self) -> bool {
        let name = &self.sync.spec.repository_ref.name;
        let repository = self.all.context.caches.repositories.get(&self.namespace(), name);
        repository.is_some_and(|repository| !has_verdict(&repository))
    }

    pub(super) fn input(&self, artifact: &Artifact) -> Input {
        Input {
            revision: artifact.revision.clone(),
            digest: artifact.digest.clone(),
            generation: self.sync.metadata.generation,
        }
    }

    pub(super) async fn desired(&self, repository: &Repository, artifact: &Artifact) -> Result<Desired, Failure> {
        let place = self.all.sandbox.place(&self.namespace()).await?;
        let tree = self.tree(artifact).await?;
        let (rendered, room) = self.render(place, tree.clone(), repository, artifact).await?;
        let wanted = apply::prepare(&self.all.kinds, rendered, &self.target(), Some(&self.owner()))
            .await
            .map_err(|problems| failure(&problems))?;
        self.all_watched(&wanted)?;
        let wanted = self.mark_followed(wanted, tree).await?;
        Ok(Desired { input: self.input(artifact), digest: digest::of_all(&wanted), wanted, _room: room })
    }

    /// Nobody would act on objects of ours elsewhere.
    fn all_watched(&self, wanted: &[Wanted]) -> Result<(), Failure> {
        let namespaces = &self.all.context.settings.watch_namespaces;
        let elsewhere = wanted.iter().map(|w| (w.object.id(), &w.origin)).find(|(id, _)| {
            let nobody = !namespaces.is_empty() && !id.namespace.is_empty() && !namespaces.contains(&id.namespace);
            nobody && id.group == api::GROUP
        });
        let Some((id, origin)) = elsewhere else { return Ok(()) };
        let message = format!(
            "{origin}: {}: this controller does not watch namespace {}: add it to agentNamespaces of the chart \
             (--watch-namespaces), or let spec.targetNamespace be one of {}",
            id.short(),
            id.namespace,
            namespaces.join(", ")
        );
        Err(Failure::stalled(reasons::NAMESPACE_NOT_WATCHED, message))
    }

    async fn tree(&self, artifact: &Artifact) -> Result<Arc<FileTree>, Failure> {
        let digest = Digest::parse(&artifact.digest).ok_or_else(|| {
            Failure::waiting(reasons::ARTIFACT_INVALID, "the Repository's artifact has no digest of ours")
        })?;
        if let Some(tree) = self.all.context.artifacts.recent(&digest) {
            return Ok(tree);
        }
        let store = self.all.context.artifacts.clone();
        let opened = tokio::task::spawn_blocking(move || store.open(&digest)).await;
        match opened {
            Ok(Ok(tree)) => Ok(tree),
            // The Repository's reconciler makes it again from Git, and no event tells when: ask again.
            Ok(Err(error)) => Err(Failure { class: Class::Transient, ..error.to_failure() }),
            Err(_) => Err(Failure::transient(reasons::INTERNAL_ERROR, "reading the artifact panicked")),
        }
    }

    async fn render(
        &self,
        place: Place,
        tree: Arc<FileTree>,
        repository: &Repository,
        artifact: &Artifact,
    ) -> Result<(Vec<(Object, Origin)>, Room), Failure> {
        let path = RepoPath::parse(&self.sync.spec.path)
            .map_err(|e| Failure::stalled(reasons::INVALID_SPEC, format!("spec.path: {e}")))?;
        if tree.get(&path).is_none() && !tree.is_dir(&path) {
            let message = format!(
                "spec.path: the repository has no folder {path} at {}{}",
                short(&artifact.revision),
                folders(&tree)
            );
            return Err(Failure::stalled(reasons::PATH_NOT_FOUND, message));
        }
        let context = self.render_context(repository, artifact);
        let kept = self
            .all
            .sandbox
            .render(place, tree, path, context)
            .await?
            .map_err(|e| Failure { reason: reasons::RENDER_FAILED, ..e.into() })?;
        self.state.progress.lock().warnings.clone_from(&kept.rendered.warnings);
        let taken = |item: render::Item| (item.object, Origin { file: item.file.to_string(), line: item.line });
        Ok((kept.rendered.objects.into_iter().map(taken).collect(), kept.room))
    }

    fn render_context(&self, repository: &Repository, artifact: &Artifact) -> render::Context {
        let reference = repository.spec.reference.as_ref();
        let follows_branch = reference.is_none_or(|r| r.branch.is_some());
        render::Context {
            values: self.sync.spec.values.clone().map_or_else(|| serde_json::json!({}), Value::Object),
            sync: render::SyncFacts { name: self.sync.name_any(), namespace: self.namespace() },
            repository: render::RepositoryFacts::of(
                &repository.name_any(),
                &self.namespace(),
                &repository.spec.url,
                &artifact.revision,
                follows_branch,
            ),
            namespace: self.target(),
        }
    }
}

/// Folders that a path may have meant: those with a kustomization.
fn folders(tree: &FileTree) -> String {
    const SHOWN: usize = 5;
    let is_kustomization = |path: &RepoPath| path.file_name().is_some_and(|name| name.starts_with("kustomization.y"));
    let mut found: Vec<String> =
        tree.iter().filter(|(path, _)| is_kustomization(path)).map(|(path, _)| path.parent().to_string()).collect();
    found.sort();
    found.dedup();
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    match (found.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!("; folders with a kustomization: {}", found.join(", ")),
        (false, more) => format!("; folders with a kustomization: {} and {more} more", found.join(", ")),
    }
}

/// One failure for all problems.
pub(super) fn failure(problems: &[Problem]) -> Failure {
    apply::failure(problems).unwrap_or_else(|| Failure::transient(reasons::INTERNAL_ERROR, "nothing went wrong"))
}

/// `main@1a2b3c4` of `main@sha1:1a2b3c4…`.
pub(super) fn short(revision: &str) -> String {
    match revision.split_once('@') {
        Some((name, commit)) => {
            let hex = commit.split_once(':').map_or(commit, |(_, hex)| hex);
            format!("{name}@{}", hex.chars().take(7).collect::<String>())
        }
        None => revision.into(),
    }
}
