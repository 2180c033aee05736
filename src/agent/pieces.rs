//! Git inputs of an agent: which contexts and skills it wants, and what was decided for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Invalid, build::layout, content::name_of, hash};
use crate::{
    api::{
        AgentSpec, CaBundle, ContextItem, ContextType, GitContext, GitSkillSource, Proxy, SkillSource,
        content::{CONTEXTS, MAX_PIECES, SKILLS},
        context::{Follow, GitSync, SyncPolicy},
        names::reasons,
    },
    status::Failure,
    tree::RepoPath,
};

/// How often a remote is asked where `sync.interval` names no time.
const DEFAULT_INTERVAL: Duration = Duration::from_mins(5);
/// Longest name of a Git context, in bytes.
const MAX_NAME: usize = 253;

/// One Git input of a merged spec: a context of type Git, or a source of skills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `contexts/NAME` or `skills/NAME`, unique in the spec.
    pub id: String,
    /// Where it is from.
    pub source: Source,
    /// File or directory in the repository, normalised; `""` is its root.
    pub path: String,
    /// The whole repository, with `.git` and so many commits of history (all for 0); else files alone.
    pub whole: Option<u32>,
    /// Of a whole repository that the agent may push to: the Secret with the credential, which the pod gets.
    pub push: Option<String>,
    /// Of skills: the names to take. All where `None`.
    pub names: Option<Vec<String>>,
    /// How new commits are followed. `None`: pinned at the commit of its first resolution until its source changes.
    pub sync: Option<Following>,
}

/// Where a Git input is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A remote of its own.
    Remote {
        /// URL of the repository.
        url: String,
        /// Branch, tag, full ref or commit id; `None` is HEAD.
        reference: Option<String>,
        /// Secret with the credential, in the agent's namespace.
        secret: Option<String>,
        /// Whether submodules are fetched too.
        submodules: bool,
        /// How hosts are reached.
        reach: Box<Reach>,
    },
    /// A Repository object.
    Repository {
        /// Its name, in the agent's namespace.
        name: String,
        /// What decides the commit; `None`: the Sync of the agent where that is one of this Repository, else the branch.
        follow: Option<Follow>,
    },
}

/// How an agent reaches hosts: what its spec says of proxies and of authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Proxies; those of the cluster's settings where there are none.
    pub proxy: Option<Proxy>,
    /// Authorities that are trusted beside the system's.
    pub ca: Option<CaBundle>,
}

/// How new commits are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Following {
    /// How often the remote is asked; a Repository has an interval of its own instead.
    pub interval: Duration,
    /// How a new commit arrives in a running agent.
    pub policy: SyncPolicy,
}

/// What a [`Wanted`] is at the newest commit that may be used, or at the one that was applied last where nothing newer is
/// known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resolved {
    /// `main@sha1:` and 40 digits.
    pub revision: String,
    /// The artifact: `sha256:` and 64 digits.
    pub digest: String,
    /// Bytes of the artifact.
    pub size: u64,
    /// Whether the path is a file: the only one of the artifact.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_file: bool,
    /// Names of the skills in the artifact, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
    /// Of a whole repository: the branch that is checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Skills that were left out: name, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bad_skills: Vec<(String, String)>,
    /// [`Wanted::source_hash`] of what it was resolved for.
    pub source_hash: String,
}

/// What is known of a [`Wanted`] beside what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceState {
    /// The newest revision that changes something of it, or cannot be used; `main@sha1:` and 40 digits. `None` where nobody
    /// has answered, or nothing is followed.
    pub observed: Option<String>,
    /// What is wrong, or what is waited for. What was applied stays in use meanwhile.
    pub problem: Option<Failure>,
}

/// What was decided, by id.
pub type Pieces = BTreeMap<String, Resolved>;

impl Wanted {
    /// Hash of source, path and names: a decided commit of another one is somebody else's. How it is fetched
    /// (credential) and followed does not count; depth does for a whole repository alone.
    pub fn source_hash(&self) -> String {
        let source = match &self.source {
            Source::Remote { url, reference, submodules, .. } => json!(["remote", url, reference, submodules]),
            Source::Repository { name, follow } => json!(["repository", name, follow]),
        };
        match self.whole {
            None => hash::short(&json!([source, self.path, self.names])),
            Some(depth) => hash::short(&json!([source, "whole", depth, self.push.as_ref().map(|_| "push")])),
        }
    }

    /// Where in the pod the credential for [`push`](Self::push) is.
    pub fn push_folder(&self) -> Option<String> {
        self.push.as_ref().map(|_| format!("{}/{}", layout::PUSH, hash::short(&json!(self.id))))
    }

    /// The name of the context or of the source of skills.
    pub fn name(&self) -> &str {
        self.id.split_once('/').map_or(&self.id, |(_, name)| name)
    }

    /// Whether it is a source of skills.
    pub fn is_skills(&self) -> bool {
        self.id.starts_with(SKILLS)
    }

    /// Whether a new commit is exchanged in the running pod; otherwise it needs a new one.
    pub fn is_hot(&self) -> bool {
        self.sync.is_some_and(|sync| sync.policy == SyncPolicy::HotReload)
    }
}

/// The Git inputs of a merged spec, sorted by id.
///
/// # Errors
/// What a field holds that cannot be, or that this release does not have, by the field's name.
pub fn wanted(spec: &AgentSpec) -> Result<Vec<Wanted>, Invalid> {
    let contexts = spec.contexts.iter().flatten().enumerate().filter(|(_, item)| item.kind == ContextType::Git);
    let reach = Reach { proxy: spec.proxy.clone(), ca: spec.ca_bundle.clone() };
    let contexts = contexts.map(|(index, item)| context(item, &reach, &format!("spec.contexts[{index}]")));
    let skills = spec.skills.iter().flatten().enumerate();
    let skills = skills.map(|(index, source)| skill(source, &reach, &format!("spec.skills[{index}]")));
    let mut wanted: Vec<Wanted> = contexts.chain(skills).collect::<Result<_, _>>()?;
    wanted.sort_by(|a, b| a.id.cmp(&b.id));
    check(&wanted)?;
    Ok(wanted)
}

fn check(wanted: &[Wanted]) -> Result<(), Invalid> {
    let mut ids = BTreeSet::new();
    if let Some(twice) = wanted.iter().find(|w| !ids.insert(&w.id)) {
        let (list, name) = (if twice.is_skills() { "skills" } else { "contexts of type Git" }, twice.name());
        return Err(invalid(format!("{list}: the name {name:?} is there twice; give each a name of its own")));
    }
    if wanted.len() > MAX_PIECES {
        return Err(invalid(format!(
            "{} contexts of type Git and sources of skills; at most {MAX_PIECES} are allowed: take some together in one \
             directory",
            wanted.len()
        )));
    }
    Ok(())
}

fn context(item: &ContextItem, reach: &Reach, at: &str) -> Result<Wanted, Invalid> {
    let git = item.git.as_ref().ok_or_else(|| invalid(format!("{at}.git is required when type is Git")))?;
    if item.mount_path.as_deref().is_none_or(str::is_empty) {
        return Err(invalid(format!("{at}.mountPath is required for a context of type Git")));
    }
    let name = name_of(item);
    check_name(&name, at)?;
    let path = path(git.path.as_deref(), at)?;
    let whole = if path.is_empty() { Some(depth(git.depth, at)?) } else { None };
    let (id, sync) = (format!("{CONTEXTS}{name}"), following(git.sync.as_ref()));
    let push = push(git, &path, at)?;
    Ok(Wanted { id, source: source(&Git::from(git), reach, at)?, path, whole, push, names: None, sync })
}

fn skill(item: &SkillSource, reach: &Reach, at: &str) -> Result<Wanted, Invalid> {
    let git = item.git.as_ref().ok_or_else(|| invalid(format!("{at}.git is required")))?;
    check_name(&item.name, at)?;
    let path = path(git.path.as_deref(), at)?;
    let mut names = git.names.clone().filter(|names| !names.is_empty());
    if let Some(names) = &mut names {
        names.sort();
        names.dedup();
    }
    let (id, sync) = (format!("{SKILLS}{}", item.name), following(git.sync.as_ref()));
    Ok(Wanted { id, source: source(&Git::from(git), reach, at)?, path, whole: None, push: None, names, sync })
}

/// What the two kinds of `git` blocks have in common.
struct Git<'a> {
    url: Option<&'a str>,
    repository: Option<&'a crate::api::context::RepositoryRef>,
    reference: Option<&'a str>,
    submodules: Option<bool>,
    secret: Option<&'a str>,
}

impl<'a> From<&'a GitContext> for Git<'a> {
    fn from(git: &'a GitContext) -> Self {
        Self {
            url: git.repository.as_deref(),
            repository: git.repository_ref.as_ref(),
            reference: git.reference.as_deref(),
            submodules: git.recurse_submodules,
            secret: git.secret_ref.as_ref().map(|s| s.name.as_str()),
        }
    }
}

impl<'a> From<&'a GitSkillSource> for Git<'a> {
    fn from(git: &'a GitSkillSource) -> Self {
        Self {
            url: git.repository.as_deref(),
            repository: git.repository_ref.as_ref(),
            reference: git.reference.as_deref(),
            submodules: git.recurse_submodules,
            secret: git.secret_ref.as_ref().map(|s| s.name.as_str()),
        }
    }
}

fn source(git: &Git<'_>, reach: &Reach, at: &str) -> Result<Source, Invalid> {
    let (url, repository) = (git.url.filter(|u| !u.is_empty()), git.repository.filter(|r| !r.name.is_empty()));
    match (url, repository) {
        (Some(url), None) => Ok(Source::Remote {
            url: url.into(),
            reference: git.reference.filter(|r| !r.is_empty()).map(String::from),
            secret: git.secret.filter(|s| !s.is_empty()).map(String::from),
            submodules: git.submodules == Some(true),
            reach: Box::new(reach.clone()),
        }),
        (None, Some(repository)) if git.submodules == Some(true) => Err(invalid(format!(
            "{at}.git.recurseSubmodules is not for repositoryRef: set spec.recurseSubmodules of Repository {}",
            repository.name
        ))),
        (None, Some(repository)) if git.reference.is_none_or(str::is_empty) => {
            Ok(Source::Repository { name: repository.name.clone(), follow: repository.follow })
        }
        (None, Some(_)) => Err(invalid(format!("{at}.git.ref cannot be set together with repositoryRef"))),
        _ => Err(invalid(format!("{at}.git: exactly one of repository or repositoryRef must be specified"))),
    }
}

fn following(sync: Option<&GitSync>) -> Option<Following> {
    let sync = sync.filter(|sync| sync.enabled == Some(true))?;
    let interval = sync.interval.as_ref().map_or(DEFAULT_INTERVAL, |text| text.or(DEFAULT_INTERVAL));
    let interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
    Some(Following { interval, policy: sync.policy })
}

fn push(git: &GitContext, path: &str, at: &str) -> Result<Option<String>, Invalid> {
    let secret = git.secret_ref.as_ref().map(|secret| secret.name.clone()).filter(|name| !name.is_empty());
    match (git.push == Some(true), path, secret) {
        (false, ..) => Ok(None),
        (true, "", Some(secret)) => Ok(Some(secret)),
        (true, "", None) => {
            Err(invalid(format!("{at}.git.push needs {at}.git.secretRef: the Secret whose credential the pod gets")))
        }
        (true, ..) => Err(invalid(format!("{at}.git.push needs the whole repository: remove {at}.git.path"))),
    }
}

fn depth(depth: i32, at: &str) -> Result<u32, Invalid> {
    u32::try_from(depth)
        .map_err(|_| invalid(format!("{at}.git.depth must be a number of commits, or 0 for all of them")))
}

fn path(text: Option<&str>, at: &str) -> Result<String, Invalid> {
    let path = RepoPath::parse(text.unwrap_or_default()).map_err(|error| invalid(format!("{at}.git.path: {error}")))?;
    Ok(path.as_str().into())
}

/// Names are part of ids, which stand in lists with commas.
fn check_name(name: &str, at: &str) -> Result<(), Invalid> {
    let bad = |c: char| c.is_control() || matches!(c, ',' | '/' | '\\');
    if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) || [".", ".."].contains(&name) {
        return Err(invalid(format!(
            "{at}.name {name:?}: a Git input needs a name of at most {MAX_NAME} bytes without commas, slashes and \
             control characters"
        )));
    }
    Ok(())
}

fn invalid(message: String) -> Invalid {
    Invalid::stalled(reasons::INVALID_SPEC, message)
}

/// The pieces as an annotation keeps them.
pub fn to_json(pieces: &Pieces) -> String {
    hash::canonical(&json!(pieces))
}

/// Reads what [`to_json`] wrote; what cannot be read counts as absent, piece by piece.
pub fn from_json(text: &str) -> Pieces {
    let found: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_default();
    found.into_iter().filter_map(|(id, value)| Some((id, serde_json::from_value(value).ok()?))).collect()
}

#[cfg(test)]
mod tests;
