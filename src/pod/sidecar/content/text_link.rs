//! The gathered text, seen from the workspace.

use std::{io, path::Path};

use rustix::fs::FileType;

use super::{TEXT, folder::Folder, named};

/// Where the link is.
pub(super) const FOLDER: &str = ".kubeopencode";
/// Longest list of excluded files that is changed.
const MAX_EXCLUDE: u64 = 1 << 20;

/// `{workspace}/.kubeopencode/context.md` becomes a link to the mounted text, kept out of Git's sight. Without a
/// mounted text, a link of ours that was left by an earlier pod goes.
pub(super) fn link(workspace: &Path, context: Option<&Path>) -> io::Result<()> {
    let link = workspace.join(FOLDER).join(TEXT);
    let old = std::fs::read_link(&link).ok();
    let Some(target) = context.map(|dir| dir.join(TEXT)).filter(|target| target.exists()) else {
        return if old.is_some() { std::fs::remove_file(&link) } else { Ok(()) };
    };
    if old.as_deref() != Some(target.as_path()) {
        replace_link(&target, &link).map_err(|e| named(&link, &e))?;
    }
    exclude(workspace, FOLDER)
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

/// Adds a folder to `.git/info/exclude` where the workspace is a Git checkout; through no link, which the agent might
/// have planted.
pub(super) fn exclude(workspace: &Path, folder: &str) -> io::Result<()> {
    let root = Folder::open(workspace)?;
    if root.kind(".git")? != Some(FileType::Directory) {
        return Ok(());
    }
    let (info, entry) = (root.enter(".git")?.make("info")?, format!("/{folder}/"));
    let text = info.read("exclude", MAX_EXCLUDE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if text.lines().any(|line| line == entry) {
        return Ok(());
    }
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    info.replace("exclude", format!("{text}{newline}{entry}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
        link(&p.workspace, Some(&p.context)).unwrap();
        assert!(!p.workspace.join(FOLDER).exists(), "no text, no link");
        std::fs::write(p.context.join(TEXT), "hello").unwrap();
        link(&p.workspace, Some(&p.context)).unwrap();
        link(&p.workspace, Some(&p.context)).unwrap();
        let linked = p.workspace.join(".kubeopencode/context.md");
        assert_eq!(std::fs::read_to_string(&linked).unwrap(), "hello");
        assert_eq!(std::fs::read_to_string(p.workspace.join(".git/info/exclude")).unwrap(), "/.kubeopencode/\n");
        link(&p.workspace, None).unwrap();
        assert!(linked.symlink_metadata().is_err(), "an old link goes");
    }

    #[test]
    fn what_the_user_wrote_stays() {
        let p = place();
        std::fs::write(p.context.join(TEXT), "ours").unwrap();
        std::fs::create_dir_all(p.workspace.join(".git/info")).unwrap();
        std::fs::write(p.workspace.join(".git/info/exclude"), "*.log").unwrap();
        exclude(&p.workspace, FOLDER).unwrap();
        assert_eq!(std::fs::read_to_string(p.workspace.join(".git/info/exclude")).unwrap(), "*.log\n/.kubeopencode/\n");
        std::fs::create_dir(p.workspace.join(FOLDER)).unwrap();
        std::fs::write(p.workspace.join(".kubeopencode/context.md"), "mine").unwrap();
        let error = link(&p.workspace, Some(&p.context)).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
        link(&p.workspace, None).unwrap();
        assert_eq!(std::fs::read_to_string(p.workspace.join(".kubeopencode/context.md")).unwrap(), "mine");
    }
}
