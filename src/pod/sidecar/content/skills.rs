//! Which skills are in place, and whether the server lists exactly them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rustix::fs::FileType;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::folder::Folder;
use crate::pod::opencode::Skill as Listed;

const FILE: &str = "SKILL.md";
/// Longest file that is compared; longer ones are refused before they reach a pod.
const MAX: u64 = 4 << 20;
/// Skills that are named in a message.
const NAMED: usize = 5;

/// A skill as its file says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Skill {
    /// Path of the file, as the server sees it.
    pub(super) location: String,
    /// What it is called; the name of its folder where its head cannot be read here.
    name: String,
    description: Option<String>,
    /// To see that the body is the same, without keeping it.
    body: [u8; 32],
    /// Whether a server has to list it. It passes over files without a head and hidden folders.
    required: bool,
}

#[derive(Default, Deserialize)]
struct Head {
    name: Option<String>,
    description: Option<String>,
}

/// Adds the skills below `folder`, which the server sees at `path`.
pub(super) fn find(folder: &Folder, path: &str, found: &mut Vec<Skill>) -> io::Result<()> {
    folder.walk(&mut |below, parent, name| {
        if name == FILE && parent.kind(name)? == Some(FileType::RegularFile) {
            let bytes = parent.read(name, MAX)?.unwrap_or_default();
            let hidden = below.split('/').any(|part| part.starts_with('.'));
            found.push(read(format!("{path}/{below}"), &String::from_utf8_lossy(&bytes), hidden));
        }
        Ok(true)
    })
}

fn read(location: String, text: &str, hidden: bool) -> Skill {
    let (head, body) = split(text);
    let has = |field: &str| head.lines().any(|line| line.starts_with(field));
    let required = !hidden && has("name:") && has("description:");
    // The server reads some heads that are no YAML. Those are compared by their body.
    let head = serde_saphyr::from_str::<Head>(head).unwrap_or_default();
    let name = head.name.unwrap_or_else(|| location.rsplit('/').nth(1).unwrap_or_default().to_owned());
    let description = head.description.map(|text| text.trim().to_owned());
    Skill { location, name, description, body: digest(body), required }
}

fn digest(body: &str) -> [u8; 32] {
    Sha256::digest(body.trim()).into()
}

/// The fields between two lines of hyphens, and what follows.
fn split(text: &str) -> (&str, &str) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some(rest) = text.strip_prefix("---").and_then(|rest| rest.split_once('\n')).map(|(_, rest)| rest) else {
        return ("", text);
    };
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return (&rest[..end], &rest[end + line.len()..]);
        }
        end += line.len();
    }
    ("", text)
}

/// Compares what the server lists with what is in place below `roots`. Skills from elsewhere are the user's own.
///
/// # Errors
/// What the server does not list as it is, or lists although it is gone.
pub(super) fn compare(wanted: &[Skill], listed: &[Listed], roots: &BTreeSet<String>) -> Result<(), String> {
    let by_place: BTreeMap<&str, &Listed> = listed.iter().map(|skill| (skill.location.as_str(), skill)).collect();
    // Of two with one name the server takes one, which is its business.
    let taken = |name: &str| listed.iter().any(|other| other.name == name);
    let mut wrong = BTreeSet::new();
    for skill in wanted {
        match by_place.get(skill.location.as_str()) {
            None if !skill.required || taken(&skill.name) => {}
            None => _ = wrong.insert(format!("{} is not listed", skill.name)),
            Some(same) if digest(&same.content) != skill.body => {
                _ = wrong.insert(format!("{} is an older one", skill.name));
            }
            Some(same) if skill.description.as_deref().is_some_and(|text| !is_described(same, text)) => {
                _ = wrong.insert(format!("{} has an older description", skill.name));
            }
            Some(_) => {}
        }
    }
    for skill in listed {
        let ours =
            roots.iter().any(|root| skill.location.strip_prefix(root.as_str()).is_some_and(|l| l.starts_with('/')));
        if ours && !wanted.iter().any(|w| w.location == skill.location) {
            wrong.insert(format!("{} is listed although it is gone", skill.name));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let more = wrong.len().saturating_sub(NAMED);
    let mut text = wrong.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    Err(format!("the server does not list the skills that are in place: {text}"))
}

fn is_described(listed: &Listed, text: &str) -> bool {
    listed.description.as_deref().is_some_and(|other| other.trim() == text)
}

/// Names, sorted.
pub(super) fn names(listed: &[Listed]) -> Vec<String> {
    let names: BTreeSet<&String> = listed.iter().map(|skill| &skill.name).collect();
    names.into_iter().cloned().collect()
}
