//! What must be in place before the server starts.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

/// Name of the gathered text in its volume and in the workspace's `.kubeopencode`.
pub(super) const TEXT: &str = "context.md";
const FOLDER: &str = ".kubeopencode";
const RETRY: Duration = Duration::from_secs(1);

/// Puts everything in place, tries again where it fails, and says so through `placed`.
pub(super) async fn place(workspace: PathBuf, context: Option<PathBuf>, placed: watch::Sender<Result<(), Arc<str>>>) {
    loop {
        let (workspace, context) = (workspace.clone(), context.clone());
        let done = tokio::task::spawn_blocking(move || link_text(&workspace, context.as_deref())).await;
        match done.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                let _ = placed.send_replace(Ok(()));
                // The receivers stay; nothing else changes until the pod does.
                return placed.closed().await;
            }
            Err(error) => {
                tracing::warn!(%error, "the content is not in place");
                let _ = placed.send_replace(Err(error.to_string().into()));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// `{workspace}/.kubeopencode/context.md` becomes a link to the mounted text, kept out of Git's sight. Without a
/// mounted text, a link of ours that was left by an earlier pod goes.
fn link_text(workspace: &Path, context: Option<&Path>) -> io::Result<()> {
    let link = workspace.join(FOLDER).join(TEXT);
    let old = std::fs::read_link(&link).ok();
    let Some(context) = context else {
        return if old.is_some() { std::fs::remove_file(&link) } else { Ok(()) };
    };
    let target = context.join(TEXT);
    if !target.exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", target.display())));
    }
    if old.as_deref() != Some(target.as_path()) {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot link {}: {e}", link.display()));
        replace_link(&target, &link).map_err(named)?;
    }
    exclude(workspace)
}

/// Renames over what is there: a reader sees the old text or the new one. A real file of the user's is not ours to
/// replace.
fn replace_link(target: &Path, link: &Path) -> io::Result<()> {
    if link.symlink_metadata().is_ok_and(|m| !m.is_symlink()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file of that name is in the workspace: remove it"));
    }
    let folder = link.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let new = folder.join(".context.md.new");
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new)?;
    std::fs::rename(&new, link)
}

/// Adds the folder to `.git/info/exclude` where the workspace is a Git checkout.
fn exclude(workspace: &Path) -> io::Result<()> {
    let git = workspace.join(".git");
    if !git.is_dir() {
        return Ok(());
    }
    let (info, entry) = (git.join("info"), format!("/{FOLDER}/"));
    std::fs::create_dir_all(&info)?;
    let file = info.join("exclude");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if text.lines().any(|line| line == entry) {
        return Ok(());
    }
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    std::fs::write(&file, format!("{text}{newline}{entry}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        workspace: PathBuf,
        context: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let (workspace, context) = (dir.path().join("w"), dir.path().join("c"));
        std::fs::create_dir(&workspace).unwrap();
        std::fs::create_dir(&context).unwrap();
        Place { _dir: dir, workspace, context }
    }

    #[test]
    fn the_text_is_linked_once_and_excluded_once() {
        let p = place();
        std::fs::create_dir(p.workspace.join(".git")).unwrap();
        assert!(link_text(&p.workspace, Some(&p.context)).unwrap_err().to_string().contains("context.md is not there"));
        std::fs::write(p.context.join(TEXT), "hello").unwrap();
        link_text(&p.workspace, Some(&p.context)).unwrap();
        link_text(&p.workspace, Some(&p.context)).unwrap();
        let link = p.workspace.join(".kubeopencode/context.md");
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "hello");
        assert_eq!(std::fs::read_to_string(p.workspace.join(".git/info/exclude")).unwrap(), "/.kubeopencode/\n");
        link_text(&p.workspace, None).unwrap();
        assert!(link.symlink_metadata().is_err(), "an old link goes");
    }

    #[test]
    fn what_the_user_wrote_stays() {
        let p = place();
        std::fs::write(p.context.join(TEXT), "ours").unwrap();
        std::fs::create_dir_all(p.workspace.join(".git/info")).unwrap();
        std::fs::write(p.workspace.join(".git/info/exclude"), "*.log").unwrap();
        exclude(&p.workspace).unwrap();
        assert_eq!(std::fs::read_to_string(p.workspace.join(".git/info/exclude")).unwrap(), "*.log\n/.kubeopencode/\n");
        std::fs::create_dir(p.workspace.join(FOLDER)).unwrap();
        std::fs::write(p.workspace.join(".kubeopencode/context.md"), "mine").unwrap();
        let error = link_text(&p.workspace, Some(&p.context)).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
        link_text(&p.workspace, None).unwrap();
        assert_eq!(std::fs::read_to_string(p.workspace.join(".kubeopencode/context.md")).unwrap(), "mine");
    }
}
