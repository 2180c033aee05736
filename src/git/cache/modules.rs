//! Submodules beside the repository of their superproject: fetched with it, kept with it, forgotten with it.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    sync::Arc,
};

use super::{Fetch, GixRemote, packs};
use crate::git::{
    disk::Room,
    error::GitError,
    remote::{Access, Limits, Stop},
    submodules::{self, Modules},
    url::RemoteUrl,
};

/// Between a remote's folder and the name of a submodule.
const MODULE: &str = "-m";

/// Where a submodule of a remote is kept: beside it, by its address.
fn module_folder(cache: &str, url: &RemoteUrl) -> String {
    use sha2::{Digest as _, Sha256};
    let hash: [u8; 32] = Sha256::digest(url.to_string()).into();
    hash.iter().take(16).fold(format!("{cache}{MODULE}"), |name, byte| name + &format!("{byte:02x}"))
}

impl GixRemote {
    /// All submodules of a commit, where they are wanted, each fetched: theirs too.
    pub(super) fn modules(
        &self,
        access: &Access,
        (repo, commit): (&gix::Repository, gix::ObjectId),
        (room, stop): (&Room<'_>, &Arc<Stop>),
    ) -> Result<Modules, GitError> {
        let mut modules = Modules { are_wanted: access.submodules, ..Modules::default() };
        if !access.submodules {
            return Ok(modules);
        }
        let (mut left, mut folders) = (self.limits.pack, BTreeSet::new());
        let mut open = VecDeque::from([(access.clone(), String::new(), 0, (repo.clone(), commit))]);
        while let Some((above, prefix, nesting, (repo, commit))) = open.pop_front() {
            for link in submodules::links(&repo, commit, stop)? {
                let path = format!("{prefix}{}", link.path);
                let Some(url) = link.url else {
                    modules.unused.insert(path);
                    continue;
                };
                submodules::check_room(&path, modules.at.len(), nesting)?;
                let below = submodules::access(&above, &path, &url)?;
                let folder = module_folder(&access.cache, &below.url);
                let fetched = self.module(&below, &folder, link.commit, &mut left, (room, stop));
                let found = fetched.map_err(|error| submodules::named(&above, &path, &below.url, error))?;
                folders.insert(folder);
                open.push_back((below, format!("{path}/"), nesting + 1, (found.clone(), link.commit)));
                modules.at.insert(path, (found, link.commit));
            }
        }
        self.forget_modules(&access.cache, &folders);
        Ok(modules)
    }

    /// One submodule. `left` is what all of them may still send.
    fn module(
        &self,
        access: &Access,
        folder: &str,
        id: gix::ObjectId,
        left: &mut u64,
        (room, stop): (&Room<'_>, &Arc<Stop>),
    ) -> Result<gix::Repository, GitError> {
        let repo = self.repository(folder, id.kind())?;
        if repo.has_object(id) {
            return Ok(repo);
        }
        let before = packs(&self.path(folder)).1;
        let limits = Limits { pack: *left, ..self.limits };
        self.download(access, &Fetch { repo: &repo, id, depth: 1, limits, room }, stop)?;
        *left = left.saturating_sub(packs(&self.path(folder)).1.saturating_sub(before));
        Ok(repo)
    }

    /// Removes what was kept of submodules that are not among `kept`.
    fn forget_modules(&self, cache: &str, kept: &BTreeSet<String>) {
        let prefix = format!("{cache}{MODULE}");
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let folder = name.strip_suffix(".git").filter(|folder| folder.starts_with(&prefix));
            if folder.is_some_and(|folder| !kept.contains(folder)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
