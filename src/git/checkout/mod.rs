//! A commit as a whole repository: its files, an index and a `.git` with its history, as plain files of an archive
//! ([`crate::api::content::checkout`]).
//!
//! All of it is made here, out of objects that were fetched: nothing that a server sends becomes a file of `.git` by
//! itself, so there are no hooks and no foreign configuration. The same commit makes the same bytes, on every machine.

mod history;
mod index;
mod pack;
mod worktree;

use std::sync::Arc;

use super::{
    budget::Budget,
    error::{GitError, Reason},
    remote::{Fetched, Limits, Stop},
    submodules::Modules,
    url::{RemoteUrl, Scheme},
};
use crate::{
    api::content::checkout::{GIT, REST},
    tree::{Entry, FileTree, RepoPath},
};

/// What is wanted of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whole {
    /// Commits of history, 0 for all.
    pub depth: u32,
    /// The branch that is checked out; `None` leaves HEAD at the commit itself.
    pub branch: Option<String>,
    /// Folder in the pod with the keys of a Secret, as which Git there pushes and fetches. The configuration names it; what is
    /// in it is never seen here.
    pub push: Option<String>,
}

/// Makes the files of `commit`, whose history is in `repo` as deep as asked.
pub(super) fn make(
    (repo, commit): (&gix::Repository, gix::ObjectId),
    modules: &Modules,
    (url, namespaces): (&RemoteUrl, &[String]),
    whole: &Whole,
    (limits, budget, stop): (Limits, &Arc<Budget>, &Stop),
) -> Result<Fetched, GitError> {
    let mut share = budget.take(namespaces, limits.tree, stop.left()).ok_or_else(super::walk::busy)?;
    let mut tree = worktree::read((repo, commit), modules, limits, stop)?;
    let objects = history::collect(repo, commit, whole.depth, stop)?;
    let packed = pack::write(repo, &objects, limits.tree.saturating_sub(tree.bytes), stop)?;
    let bytes = tree.bytes + packed.data.len() as u64 + packed.index.len() as u64;
    let kind = repo.object_hash();
    let mut dot_git = |path: String, bytes: Vec<u8>| put(&mut tree.files, &format!("{GIT}{path}"), bytes);
    dot_git(format!("objects/pack/pack-{}.pack", packed.name), packed.data)?;
    dot_git(format!("objects/pack/pack-{}.idx", packed.name), packed.index)?;
    dot_git("index".into(), index::write(kind, &mut tree.entries)?)?;
    dot_git("config".into(), config(url, whole, kind).into_bytes())?;
    if !objects.shallow.is_empty() {
        dot_git(
            "shallow".into(),
            objects.shallow.iter().fold(String::new(), |text, id| text + &id.to_string() + "\n").into_bytes(),
        )?;
    }
    let line = |text: String| format!("{text}\n").into_bytes();
    if let Some(branch) = &whole.branch {
        dot_git(format!("refs/heads/{branch}"), line(commit.to_string()))?;
        dot_git(format!("refs/remotes/origin/{branch}"), line(commit.to_string()))?;
    }
    let head = whole.branch.as_ref().map_or_else(|| commit.to_string(), |branch| format!("ref: refs/heads/{branch}"));
    dot_git("HEAD".into(), line(head))?;
    let rest = serde_json::to_vec(&tree.rest).map_err(|_| malformed("a link"))?;
    put(&mut tree.files, REST, rest)?;
    share.shrink_to(bytes);
    Ok(Fetched { tree: tree.files, skipped: vec![], share: Some(Arc::new(share)) })
}

fn put(files: &mut FileTree, path: &str, bytes: Vec<u8>) -> Result<(), GitError> {
    let path = RepoPath::parse(path).map_err(|_| malformed(path))?;
    files.insert(path, Entry { bytes: bytes.into(), executable: false });
    Ok(())
}

fn malformed(what: &str) -> GitError {
    GitError::new(Reason::ProtocolError, format!("{what} cannot be part of a checkout"))
}

fn too_large(limit: u64) -> GitError {
    let limit = limit >> 20;
    let message = format!(
        "the repository with its history exceeds {limit} MiB, the limit for a context with .git; take less history (depth: 1), \
         or set path to a directory"
    );
    GitError::new(Reason::TooLarge, message)
}

/// As `git clone` writes it, without anything that a credential could be in.
fn config(url: &RemoteUrl, whole: &Whole, kind: gix::hash::Kind) -> String {
    let (version, extension) = match kind {
        gix::hash::Kind::Sha256 => (1, "[extensions]\n\tobjectFormat = sha256\n"),
        _ => (0, ""),
    };
    let branch = whole.branch.as_deref().map(quoted);
    // A shallow clone follows its branch alone.
    let followed = match &branch {
        Some(branch) if whole.depth > 0 => branch.as_str(),
        _ => "*",
    };
    let (core, access) = whole.push.as_deref().map(|folder| credential(url, folder)).unwrap_or_default();
    let mut text = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         {core}{extension}[remote \"origin\"]\n\turl = \"{}\"\n\tfetch = \"+refs/heads/{followed}:refs/remotes/origin/{followed}\"\n",
        quoted(&url.to_string())
    );
    if let Some(branch) = branch {
        let section = format!("[branch \"{branch}\"]\n\tremote = origin\n\tmerge = \"refs/heads/{branch}\"\n");
        text.push_str(&section);
    }
    text + &access
}

/// How Git in the pod proves who it is: lines of `[core]`, and a section of its own. Values are read from files by the shell
/// that Git starts, in builtins and pipes: they are in no argument.
fn credential(url: &RemoteUrl, folder: &str) -> (String, String) {
    match url.scheme() {
        Scheme::Ssh => {
            let command = format!(
                "ssh -i {folder}/identity -i {folder}/ssh-privatekey -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
                 -o UserKnownHostsFile={folder}/known_hosts -o GlobalKnownHostsFile=/dev/null"
            );
            (format!("\tsshCommand = \"{command}\"\n"), String::new())
        }
        Scheme::Http | Scheme::Https => {
            let read = |key: &str| format!("$(cat {folder}/{key})");
            let helper = format!(
                "!f() {{ test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \"{}\" \"{}\"; }}; f",
                read("username"),
                read("password")
            );
            let text = url.to_string();
            let host = text.find("://").and_then(|at| text[at + 3..].find('/').map(|end| &text[..at + 3 + end]));
            let host = quoted(host.unwrap_or(&text));
            // The empty one forgets those of other configurations, for this host.
            (String::new(), format!("[credential \"{host}\"]\n\thelper =\n\thelper = \"{}\"\n", quoted(&helper)))
        }
        Scheme::File => Default::default(),
    }
}

/// Names and addresses hold no control characters; these two would end a quoted text.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests;
