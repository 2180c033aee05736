//! Where each field of a document is written.

use std::collections::BTreeMap;

/// A tree beside the value: the line of every node, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    line: u32,
    children: Children,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Children {
    #[default]
    None,
    /// By their keys, in order: of most mappings there are few, and a map would have room for many.
    Mapping(Box<[(Box<str>, Lines)]>),
    Sequence(Box<[Lines]>),
}

impl Lines {
    pub(super) fn scalar(line: usize) -> Self {
        Self { line: u32::try_from(line).unwrap_or(u32::MAX), children: Children::None }
    }

    pub(super) fn sequence(line: usize, items: Vec<Self>) -> Self {
        Self { children: Children::Sequence(items.into()), ..Self::scalar(line) }
    }

    pub(super) fn mapping(line: usize, fields: BTreeMap<Box<str>, Self>) -> Self {
        Self { children: Children::Mapping(fields.into_iter().collect()), ..Self::scalar(line) }
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Self)> {
        let map = match &self.children {
            Children::Mapping(map) => Some(map),
            _ => None,
        };
        map.into_iter().flat_map(|map| map.iter()).map(|(key, lines)| (key.as_ref(), lines))
    }

    /// The line of this node, from 1; 0 when unknown.
    pub fn line(&self) -> usize {
        self.line as usize
    }

    /// The node below this one at `step`, a key or an index.
    pub fn get(&self, step: &str) -> Option<&Self> {
        match &self.children {
            Children::None => None,
            Children::Mapping(map) => map
                .binary_search_by(|(key, _)| key.as_ref().cmp(step))
                .ok()
                .and_then(|at| map.get(at))
                .map(|(_, lines)| lines),
            Children::Sequence(items) => items.get(step.parse::<usize>().ok()?),
        }
    }

    /// The line of the field at a JSON pointer, or of its nearest parent that was written.
    pub fn at(&self, pointer: &str) -> usize {
        let mut node = self;
        for step in pointer.split('/').skip(1) {
            match node.get(&step.replace("~1", "/").replace("~0", "~")) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line()
    }
}
