//! A folder on disk as the file tree that a commit of it would be.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use ignore::WalkBuilder;

use crate::{
    artifact,
    git::Limits,
    tree::{Entry, FileTree, RepoPath},
};

/// Largest folder: what is refused here the controller would refuse too.
const LIMITS: Limits = Limits::STANDARD;

/// A folder of a local tree.
pub(super) struct Local {
    /// Everything in the root.
    pub(super) tree: FileTree,
    /// The folder that was asked for, in it.
    pub(super) path: RepoPath,
    /// The root, where nothing says that it is a whole repository.
    pub(super) alone: Option<PathBuf>,
}

/// Reads the repository around `path`: `root`, else the enclosing Git work tree, else `path` itself, so that
/// kustomizations can refer to folders above. What Git ignores stays out. Links to files inside the root become these
/// files; all others stay out, as they do when the controller fetches a commit.
pub(super) fn local_tree(path: &Path, root: Option<&Path>) -> anyhow::Result<Local> {
    let path = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (root, found) = match root {
        Some(root) => (fs::canonicalize(root).with_context(|| format!("cannot read {}", root.display()))?, true),
        None => enclosing(&path),
    };
    let Ok(inside) = path.strip_prefix(&root) else {
        bail!("{} is not inside {}; give --root a folder around it", path.display(), root.display());
    };
    let inside = RepoPath::parse(&inside.to_string_lossy())?;
    let tree = read(&root)?;
    let tree = artifact::filter(&tree, None)?;
    Ok(Local { tree, path: inside, alone: (!found).then_some(root) })
}

/// The Git work tree around `path`, else its folder; whether it is the former.
fn enclosing(path: &Path) -> (PathBuf, bool) {
    let work_tree = path.ancestors().find(|dir| dir.join(".git").exists());
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    (work_tree.or(folder).unwrap_or(path).to_owned(), work_tree.is_some())
}

fn read(root: &Path) -> anyhow::Result<FileTree> {
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .git_exclude(true)
        .parents(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut tree = FileTree::default();
    let mut bytes = 0;
    for entry in walk {
        let entry = entry?;
        let Some(file) = regular(root, entry.path()) else { continue };
        let meta = fs::metadata(&file)?;
        bytes += meta.len();
        if bytes > LIMITS.tree || tree.len() >= LIMITS.files {
            bail!(
                "{} is too large (more than {} MiB or {} files, the limits of the controller too); give --root a smaller folder",
                root.display(),
                LIMITS.tree >> 20,
                LIMITS.files,
            );
        }
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        // Names that no commit may have are left out.
        let Ok(path) = RepoPath::parse(&relative.to_string_lossy()) else { continue };
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        tree.insert(path, Entry { bytes: content.into(), executable: is_executable(&meta) });
    }
    Ok(tree)
}

/// The regular file at `path`, links resolved; `None` where there is none inside `root`.
fn regular(root: &Path, path: &Path) -> Option<PathBuf> {
    let target = fs::canonicalize(path).ok()?;
    let inside = target.strip_prefix(root).ok()?;
    (target.is_file() && !inside.starts_with(".git")).then_some(target)
}

fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

/// Values for templates from a YAML file.
pub(super) fn values(file: Option<&Path>) -> anyhow::Result<serde_json::Value> {
    let Some(file) = file else { return Ok(serde_json::json!({})) };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read --values {}", file.display()))?;
    let documents = crate::object::yaml::parse_documents(&text)
        .map_err(|e| anyhow::anyhow!("{}:{}: {}", file.display(), e.line, e.message))?;
    let value = match documents.len() {
        0 => serde_json::json!({}),
        1 => documents.into_iter().next().map(|d| d.value).unwrap_or_default(),
        n => bail!("{}: one document is expected, there are {n}", file.display()),
    };
    if !value.is_object() {
        return Err(io::Error::other(format!("{}: a mapping is expected", file.display())).into());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_what_a_commit_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".git/config", "x");
        write(".gitignore", "target/\n");
        write("target/big", "x");
        write("base/a.yaml", "a");
        write("overlays/dev/b.yaml", "b");
        write(".sourceignore", "*.md\n");
        write("README.md", "x");
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("base/out.yaml")).unwrap();
        std::os::unix::fs::symlink("../base/a.yaml", root.join("overlays/link.yaml")).unwrap();
        std::os::unix::fs::symlink("../base", root.join("overlays/folder")).unwrap();
        let local = local_tree(&root.join("overlays/dev"), None).unwrap();
        assert_eq!(local.path.as_str(), "overlays/dev");
        let files: Vec<&str> = local.tree.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(files, [".gitignore", "base/a.yaml", "overlays/dev/b.yaml", "overlays/link.yaml"]);
        assert!(local_tree(&root.join("overlays/dev"), Some(&root.join("base"))).is_err());
    }
}
