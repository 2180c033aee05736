//! A mount that is a target itself: a volume's root cannot be exchanged, so its content is links to one folder of the tree
//! that counts, `..data`, and the exchange is that of one link. The kubelet does it so for `ConfigMaps`.

use std::io;

use rustix::fs::FileType;

use super::folder::Folder;

const DATA: &str = "..data";
const TREES: &str = "..pilothouse/trees";

/// The slot that counts.
pub(super) fn slot(mount: &Folder) -> Option<String> {
    let target = mount.link_target(DATA)?;
    Some(target.strip_prefix(TREES).ok()?.to_str()?.to_owned())
}

/// Makes that slot count.
pub(super) fn switch(mount: &Folder, slot: &str) -> io::Result<()> {
    let new = mount.descend(TREES, None)?.enter(slot)?.names()?;
    mount.link(DATA, &format!("{TREES}/{slot}"))?;
    for name in &new {
        if mount.kind(name)?.is_none() {
            mount.link(name, &format!("{DATA}/{name}"))?;
        }
    }
    remove_links(mount, &new)
}

/// Removes all that is ours.
pub(super) fn clear(mount: &Folder) -> io::Result<()> {
    remove_links(mount, &[])?;
    mount.remove(DATA)
}

fn remove_links(mount: &Folder, but: &[String]) -> io::Result<()> {
    for name in mount.names()?.into_iter().filter(|name| !name.starts_with("..") && !but.contains(name)) {
        let ours = mount.link_target(&name).is_some_and(|to| to == std::path::Path::new(DATA).join(&name));
        if ours && mount.kind(&name)? == Some(FileType::Symlink) {
            mount.remove(&name)?;
        }
    }
    Ok(())
}
