//! Files of contexts that belong into the workspace: copied, because a mount would leave folders of root.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::named;

/// Says which key of the mounted ConfigMap goes where.
const LIST: &str = "files.json";

#[derive(Deserialize)]
struct Item {
    key: String,
    path: PathBuf,
    #[serde(default)]
    mode: Option<u32>,
}

/// Copies every file of the list. A missing list is an empty one.
pub(super) fn put(mounted: &Path, workspace: &Path) -> io::Result<()> {
    let list = mounted.join(LIST);
    let text = match std::fs::read(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(&list, &error)),
    };
    let items: Vec<Item> = serde_json::from_slice(&text).map_err(|e| named(&list, &e.into()))?;
    items.iter().try_for_each(|item| copy(mounted, workspace, item).map_err(|e| named(&item.path, &e)))
}

fn copy(mounted: &Path, workspace: &Path, item: &Item) -> io::Result<()> {
    let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
    let inside = item.path.starts_with(workspace) && item.path != workspace;
    if !plain(&item.path) || !inside || !plain(Path::new(&item.key)) || item.key.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file below the workspace"));
    }
    let bytes = std::fs::read(mounted.join(&item.key))?;
    let folder = item.path.parent().unwrap_or(workspace);
    std::fs::create_dir_all(folder)?;
    // What is in the workspace was written by the agent: a link in it must not lead us elsewhere.
    if !folder.canonicalize()?.starts_with(workspace.canonicalize()?) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "lies behind a link that leaves the workspace"));
    }
    let new = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(new.path(), bytes)?;
    std::fs::set_permissions(new.path(), std::fs::Permissions::from_mode(item.mode.unwrap_or(0o644) & 0o777))?;
    new.persist(&item.path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        workspace: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("w");
        std::fs::create_dir(&workspace).unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        std::fs::write(dir.path().join("m/key-1"), "text").unwrap();
        Place { dir, workspace }
    }

    impl Place {
        fn put(&self, path: &Path, key: &str) -> io::Result<()> {
            let mounted = self.dir.path().join("m");
            let list = json!([{ "key": key, "path": path, "mode": 0o755 }]);
            std::fs::write(mounted.join(LIST), list.to_string()).unwrap();
            put(&mounted, &self.workspace)
        }
    }

    #[test]
    fn files_are_copied_with_their_mode_and_replaced() {
        let p = place();
        let target = p.workspace.join("docs/run.sh");
        p.put(&target, "key-1").unwrap();
        std::fs::write(&target, "changed").unwrap();
        p.put(&target, "key-1").unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "text");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_dir(p.workspace.join("docs")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn nothing_is_written_outside_the_workspace() {
        let p = place();
        std::os::unix::fs::symlink(p.dir.path(), p.workspace.join("out")).unwrap();
        for (path, key) in [
            (p.dir.path().join("x"), "key-1"),
            (p.workspace.join("../x"), "key-1"),
            (p.workspace.clone(), "key-1"),
            (p.workspace.join("out/x"), "key-1"),
            (p.workspace.join("x"), "../m/key-1"),
            (p.workspace.join("x"), "absent"),
        ] {
            assert!(p.put(&path, key).is_err(), "{} {key}", path.display());
        }
        assert!(!p.dir.path().join("x").exists());
        assert!(put(&p.dir.path().join("none"), &p.workspace).is_ok(), "no list, no files");
    }
}
