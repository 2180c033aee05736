//! What texts become in memory, and a bound for it.

use std::cell::Cell;

use serde_json::Value;

/// Bytes of memory that may still be taken. What is counted is an estimate, not less than what an allocator gives for
/// values and their lines; nothing is ever given back.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    left: Cell<usize>,
    exhausted: Cell<bool>,
}

impl Budget {
    /// One value and its line, in a list that grows by doubling.
    pub const NODE: usize = 96;
    /// What an allocator keeps for itself.
    const ALLOCATION: usize = 16;
    /// What a map allocates at a time, for [`LEAF_ENTRIES`](Self::LEAF_ENTRIES) entries or some more.
    const LEAF: usize = 640;
    /// Entries of a leaf that filled up and was split.
    const LEAF_ENTRIES: usize = 6;
    /// An entry of a map, beside its value and the text of its key.
    const KEY: usize = 48;

    /// So many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, left: Cell::new(limit), exhausted: Cell::default() }
    }

    /// Bytes that it began with.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that were taken.
    pub fn spent(&self) -> usize {
        self.limit - self.left.get()
    }

    /// Takes so many bytes. When there are not as many, nothing more is given either.
    pub fn spend(&self, bytes: usize) -> bool {
        match self.left.get().checked_sub(bytes) {
            Some(left) if !self.exhausted.get() => {
                self.left.set(left);
                true
            }
            _ => {
                self.exhausted.set(true);
                false
            }
        }
    }

    /// Whether more was wanted than there was.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// The bytes of a text of this length.
    pub fn text(len: usize) -> usize {
        (Self::NODE + Self::ALLOCATION).saturating_add(len)
    }

    /// The bytes of a map's entry, without its value, where there are `before` of them already.
    pub fn entry(before: usize, key: usize) -> usize {
        let leaf = if before.is_multiple_of(Self::LEAF_ENTRIES) { Self::LEAF } else { 0 };
        // The key stands in the values and in the lines.
        (leaf + Self::KEY).saturating_add(key.saturating_mul(2))
    }

    /// The bytes of a whole value.
    pub fn of(value: &Value) -> usize {
        let sum = |sum: usize, more: usize| sum.saturating_add(more);
        match value {
            Value::Array(items) => items.iter().map(Self::of).fold(Self::NODE, sum),
            Value::Object(map) => {
                let entries = map.iter().enumerate();
                entries
                    .map(|(n, (key, value))| Self::entry(n, key.len()).saturating_add(Self::of(value)))
                    .fold(Self::NODE, sum)
            }
            Value::String(text) => Self::text(text.len()),
            _ => Self::NODE,
        }
    }
}
