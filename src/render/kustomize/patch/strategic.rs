//! Strategic merge: mappings are merged, `null` deletes, lists of Kubernetes' own kinds are merged by key where the API
//! says so, all other lists are replaced.

use serde_json::{Map, Value};

mod keys;

/// Why a patch does not apply: the pointer in the patch, and the reason.
pub(super) type Failed = (String, String);

/// Where in the object the merge is, and what kind it is of.
#[derive(Clone)]
struct Place<'a> {
    /// Group and kind; `None` where the lists' keys are not known.
    kind: Option<(&'a str, &'a str)>,
    /// Steps without list indexes, for the keys.
    fields: Vec<String>,
    /// JSON pointer in the patch, for messages.
    pointer: String,
    /// Counts items that are compared; `false`: stop.
    walk: &'a dyn Fn(usize) -> bool,
}

impl Place<'_> {
    fn field(&self, name: &str) -> Self {
        let mut fields = self.fields.clone();
        fields.push(name.to_owned());
        let pointer = format!("{}/{}", self.pointer, name.replace('~', "~0").replace('/', "~1"));
        Self { fields, pointer, ..self.clone() }
    }

    fn item(&self, index: usize) -> Self {
        Self { pointer: format!("{}/{index}", self.pointer), ..self.clone() }
    }

    fn walk(&self, items: usize) -> Result<(), Failed> {
        if (self.walk)(items) { Ok(()) } else { self.fail("a bound of the render is reached") }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Failed> {
        Err((self.pointer.clone(), message.into()))
    }
}

/// Applies `patch` to `object`; `None` when it deletes the object. `kind` is group and kind of a kind of Kubernetes.
/// When `walk` says `false`, an error comes soon after.
pub(super) fn apply(
    object: Value,
    patch: Value,
    kind: Option<(&str, &str)>,
    walk: &dyn Fn(usize) -> bool,
) -> Result<Option<Value>, Failed> {
    merge(Some(object), patch, &Place { kind, fields: vec![], pointer: String::new(), walk })
}

#[derive(Clone, Copy, PartialEq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn merge(there: Option<Value>, patch: Value, place: &Place<'_>) -> Result<Option<Value>, Failed> {
    match patch {
        Value::Null => Ok(None),
        Value::Object(patch) => merge_mapping(there, patch, place),
        Value::Array(patch) => merge_list(there, patch, place),
        scalar => match there {
            Some(Value::Object(_) | Value::Array(_)) => {
                place.fail("a mapping or list stands there, not a single value")
            }
            _ => Ok(Some(scalar)),
        },
    }
}

fn merge_mapping(
    there: Option<Value>,
    mut patch: Map<String, Value>,
    place: &Place<'_>,
) -> Result<Option<Value>, Failed> {
    let directive = directive(&mut patch, place)?;
    let mut merged = match (directive, there) {
        (Directive::Delete, _) => return Ok(None),
        (Directive::Replace, _) | (Directive::Merge, None | Some(Value::Null)) => Map::new(),
        (Directive::Merge, Some(Value::Object(map))) => map,
        (Directive::Merge, Some(_)) => return place.fail("no mapping stands there"),
    };
    for (key, value) in patch {
        let there = merged.remove(&key);
        if let Some(value) = merge(there, value, &place.field(&key))? {
            merged.insert(key, value);
        }
    }
    Ok(Some(Value::Object(merged)))
}

/// Takes `$patch` out of a mapping.
fn directive(patch: &mut Map<String, Value>, place: &Place<'_>) -> Result<Directive, Failed> {
    let found = match patch.remove("$patch") {
        None => Directive::Merge,
        Some(Value::String(text)) if text == "merge" => Directive::Merge,
        Some(Value::String(text)) if text == "replace" => Directive::Replace,
        Some(Value::String(text)) if text == "delete" => Directive::Delete,
        Some(other) => return place.fail(format!("$patch: {other} is not known; allowed are merge, replace, delete")),
    };
    match patch
        .keys()
        .find(|key| ["$setElementOrder", "$deleteFromPrimitiveList", "$retainKeys"].iter().any(|d| key.starts_with(d)))
    {
        Some(key) => place.fail(format!("{key} is not supported; use $patch: replace or a JSON patch")),
        None => Ok(found),
    }
}

fn merge_list(there: Option<Value>, mut patch: Vec<Value>, place: &Place<'_>) -> Result<Option<Value>, Failed> {
    let there = match there {
        None | Some(Value::Null) => vec![],
        Some(Value::Array(items)) => items,
        Some(_) => return place.fail("no list stands there"),
    };
    let Some(keys) = place.kind.and_then(|(group, kind)| keys::of(group, kind, &place.fields)) else {
        return Ok(Some(Value::Array(patch)));
    };
    match list_directive(&mut patch, place)? {
        Directive::Delete => return Ok(None),
        Directive::Replace => return Ok(Some(Value::Array(patch))),
        Directive::Merge => {}
    }
    if keys.is_empty() {
        let mut rest = vec![];
        for item in there {
            place.walk(patch.len())?;
            if !patch.contains(&item) {
                rest.push(item);
            }
        }
        patch.extend(rest);
        return Ok(Some(Value::Array(patch)));
    }
    merge_keyed(there, patch, keys, place).map(|items| Some(Value::Array(items)))
}

/// A list item that is nothing but `$patch` speaks for the whole list.
fn list_directive(patch: &mut Vec<Value>, place: &Place<'_>) -> Result<Directive, Failed> {
    let alone = |item: &Value| item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key("$patch"));
    let Some(at) = patch.iter().position(alone) else { return Ok(Directive::Merge) };
    match patch.remove(at) {
        Value::Object(mut map) => directive(&mut map, &place.item(at)),
        _ => Ok(Directive::Merge),
    }
}

/// kustomize's order: the patch's items come first, in their order, then what it does not name. Where items are told
/// by several keys, only new ones come first and the others stay where they are.
fn merge_keyed(there: Vec<Value>, patch: Vec<Value>, keys: &[&str], place: &Place<'_>) -> Result<Vec<Value>, Failed> {
    place.walk(patch.len() + there.len())?;
    let used = keys.iter().filter(|key| patch.iter().chain(&there).any(|item| item.get(**key).is_some())).count();
    let mut there: Vec<Option<Value>> = there.into_iter().map(Some).collect();
    let mut first: Vec<Value> = vec![];
    for (index, item) in patch.into_iter().enumerate() {
        let place = place.item(index);
        place.walk(first.len() + there.len())?;
        if !keys.iter().any(|key| item.get(*key).is_some()) {
            return place.fail(format!("the item has no {}, by which this list is merged", keys.join(" or ")));
        }
        let same = |other: &Value| same(other, &item, keys);
        if let Some(twin) = first.iter().position(same) {
            let merged = merge(Some(first.remove(twin)), item, &place)?;
            if let Some(item) = merged {
                first.insert(twin, item);
            }
        } else if let Some(old) = there.iter().position(|other| other.as_ref().is_some_and(same)) {
            let merged = merge(there[old].take(), item, &place)?;
            if used > 1 { there[old] = merged } else { first.extend(merged) }
        } else {
            first.extend(merge(None, item, &place)?);
        }
    }
    first.extend(there.into_iter().flatten());
    Ok(first)
}

/// Whether two items are the same by their keys; one that is missing (a port's protocol) fits any.
fn same(a: &Value, b: &Value, keys: &[&str]) -> bool {
    let mut common = false;
    for key in keys {
        match (a.get(*key), b.get(*key)) {
            (Some(x), Some(y)) if x == y => common = true,
            (Some(_), Some(_)) => return false,
            _ => {}
        }
    }
    common
}
