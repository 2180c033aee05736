//! Paths to fields, as kustomize's field specifications write them.

use serde_json::{Map, Value};

use crate::render::manifest::Resource;

/// A field of some kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldSpec<'a> {
    /// Empty: any.
    pub(super) group: &'a str,
    /// Empty: any.
    pub(super) version: &'a str,
    /// Empty: any.
    pub(super) kind: &'a str,
    /// Steps separated by `/`. Lists are gone through on the way; a step that ends in `[]` must be one. A `/` inside a
    /// step is written `\/`.
    pub(super) path: &'a str,
    /// Whether a missing field is made.
    pub(super) create: bool,
}

/// What a missing last step becomes.
#[derive(Clone, Copy)]
pub(super) enum Leaf {
    Mapping,
    Text,
}

impl FieldSpec<'_> {
    pub(super) fn matches(&self, resource: &Resource) -> bool {
        let fits = |want: &str, is: &str| want.is_empty() || want == is;
        fits(self.kind, resource.kind()) && fits(self.group, resource.group()) && fits(self.version, resource.version())
    }

    /// Calls `change` with every value at the path. `Err` holds the step at which neither mapping nor list stands.
    pub(super) fn visit(
        &self,
        value: &mut Value,
        leaf: Leaf,
        change: &mut dyn FnMut(&mut Value),
    ) -> Result<(), String> {
        visit(value, &split(self.path), self.create.then_some(leaf), change)
    }
}

fn split(path: &str) -> Vec<String> {
    let (mut steps, mut step) = (vec![], String::new());
    let mut chars = path.trim_matches('/').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'/') => {
                chars.next();
                step.push('/');
            }
            '/' => steps.push(std::mem::take(&mut step)),
            c => step.push(c),
        }
    }
    steps.push(step);
    steps
}

fn visit(
    value: &mut Value,
    path: &[String],
    create: Option<Leaf>,
    change: &mut dyn FnMut(&mut Value),
) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else {
        change(value);
        return Ok(());
    };
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter_mut().try_for_each(|item| visit(item, path, create, change)),
        Value::Object(map) => {
            let (name, is_list) = step.strip_suffix("[]").map_or((step.as_str(), false), |name| (name, true));
            match (map.get_mut(name), create.filter(|_| !is_list)) {
                (None, None) => Ok(()),
                (None | Some(Value::Null), Some(leaf)) => {
                    map.insert(name.to_owned(), made(leaf, rest.is_empty()));
                    map.get_mut(name).map_or(Ok(()), |next| visit(next, rest, Some(leaf), change))
                }
                (Some(next), _) => visit(next, rest, create, change),
            }
        }
        _ => Err(step.clone()),
    }
}

fn made(leaf: Leaf, last: bool) -> Value {
    match leaf {
        Leaf::Text if last => Value::String(String::new()),
        _ => Value::Object(Map::new()),
    }
}
