//! Skills as the server lists them: read once, at the first question.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A folder of skills.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// What the server calls it.
    pub(crate) seen: PathBuf,
    /// Where it is.
    pub(crate) at: PathBuf,
}

/// All skills below these folders.
pub(super) fn read(roots: &[Root]) -> Vec<Value> {
    let mut found = vec![];
    for root in roots {
        walk(root, &root.at, &mut found);
    }
    found
}

fn walk(root: &Root, folder: &Path, found: &mut Vec<Value>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map_while(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            walk(root, &path, found);
        } else if path.ends_with("SKILL.md")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.extend(skill(&text, &root.seen.join(path.strip_prefix(&root.at).expect("it is below"))));
        }
    }
}

fn skill(text: &str, location: &Path) -> Option<Value> {
    let (front, body) = text.strip_prefix("---\n")?.split_once("\n---\n")?;
    let field = |name: &str| front.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(json!({ "name": field("name")?, "description": field("description")?, "location": location, "content": body }))
}
