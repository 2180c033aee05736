//! JSON patches (RFC 6902).

use serde::Deserialize;
use serde_json::Value;

use crate::{object::yaml::Budget, render::files::Files};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Operation {
    op: String,
    path: String,
    #[serde(default)]
    from: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// `value: null` is a value.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What bounds the operations of a patch.
pub(super) trait Meter {
    /// Counts steps: one for an operation, one for each item of a list that it moves. `false`: stop.
    fn walk(&self, steps: usize) -> bool;
    /// Counts bytes of memory of what is added. `false`: stop.
    fn spend(&self, bytes: usize) -> bool;
}

impl Meter for Files<'_> {
    fn walk(&self, steps: usize) -> bool {
        Files::walk(self, steps)
    }

    fn spend(&self, bytes: usize) -> bool {
        Files::spend(self, bytes)
    }
}

/// Stands where the meter stopped, which knows why.
const STOPPED: &str = "a bound of the render is reached";

/// Applies the operations in order. The error is about the operation of that index.
pub(super) fn apply(object: &mut Value, operations: &[Operation], meter: &dyn Meter) -> Result<(), (usize, String)> {
    let mut copied = 0;
    operations
        .iter()
        .enumerate()
        .try_for_each(|(index, operation)| one(object, operation, &mut copied, meter).map_err(|e| (index, e)))
}

/// Bytes that the copies of one patch may add: a copy of a copy doubles.
const MAX_COPIED: usize = 1 << 20;

fn counted(value: &Value, copied: &mut usize, meter: &dyn Meter) -> Result<Value, String> {
    *copied = copied.saturating_add(value.to_string().len());
    if *copied > MAX_COPIED {
        return Err(format!("the patch copies more than {MAX_COPIED} bytes"));
    }
    paid(value, meter)
}

fn paid(value: &Value, meter: &dyn Meter) -> Result<Value, String> {
    if meter.spend(Budget::of(value)) { Ok(value.clone()) } else { Err(STOPPED.into()) }
}

fn moved(items: usize, meter: &dyn Meter) -> Result<(), String> {
    if meter.walk(items) { Ok(()) } else { Err(STOPPED.into()) }
}

fn one(object: &mut Value, operation: &Operation, copied: &mut usize, meter: &dyn Meter) -> Result<(), String> {
    let Operation { op, path, from, value } = operation;
    let say = |message: String| format!("{op} {path}: {message}");
    moved(1, meter)?;
    let given = || value.as_ref().ok_or_else(|| say("value is required".into()));
    let value = || paid(given()?, meter);
    let source = || from.as_deref().ok_or_else(|| say("from is required".into()));
    let done = match op.as_str() {
        "add" => add(object, path, value()?, meter),
        "remove" => remove(object, path, meter).map(drop),
        "replace" => get(object, path).map(|_| ()).and_then(|()| replace(object, path, value()?)),
        "copy" => get(object, source()?)
            .and_then(|v| counted(v, copied, meter))
            .and_then(|value| add(object, path, value, meter)),
        "move" => remove(object, source()?, meter).and_then(|value| add(object, path, value, meter)),
        "test" => moved(size(given()?), meter).and_then(|()| test(object, path, given()?)),
        _ => Err("is not known; allowed operations are add, remove, replace, move, copy, test".into()),
    };
    done.map_err(say)
}

/// Values that a comparison looks at, at most.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 64,
        _ => 1,
    }
}

fn test(object: &Value, path: &str, want: &Value) -> Result<(), String> {
    let is = get(object, path);
    match is {
        Ok(is) if is == want => Ok(()),
        Err(_) if want.is_null() => Ok(()),
        // Not shown: it may be a Secret's.
        Ok(_) => Err("the value is another one".into()),
        Err(e) => Err(e),
    }
}

/// Splits a pointer in the pointer of its parent and its last step.
fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or("a path begins with / and names a field")?;
    if !path.starts_with('/') {
        return Err("a path begins with /".into());
    }
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

/// An index of a list of `len`; negative ones count from its end.
fn index(step: &str, len: usize) -> Result<usize, String> {
    let wrong = || format!("{step} is no index of a list of {len}");
    let number: i64 = step.parse().map_err(|_| wrong())?;
    let number = if number < 0 { number + i64::try_from(len).map_err(|_| wrong())? } else { number };
    usize::try_from(number).map_err(|_| wrong())
}

fn parent<'v>(object: &'v mut Value, path: &str) -> Result<&'v mut Value, String> {
    let mut at = object;
    for step in path.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        at = match at {
            Value::Object(map) => map.get_mut(&step),
            Value::Array(items) => index(&step, items.len()).ok().and_then(|i| items.get_mut(i)),
            _ => None,
        }
        .ok_or_else(|| format!("there is no {step} on the way; add it first"))?;
    }
    Ok(at)
}

fn get<'v>(object: &'v Value, path: &str) -> Result<&'v Value, String> {
    let (way, last) = split(path)?;
    let mut at = object;
    for step in way.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).chain([last]) {
        at = match at {
            Value::Object(map) => map.get(&step),
            Value::Array(items) => index(&step, items.len()).ok().and_then(|i| items.get(i)),
            _ => None,
        }
        .ok_or_else(|| format!("there is no {step}"))?;
    }
    Ok(at)
}

fn add(object: &mut Value, path: &str, value: Value, meter: &dyn Meter) -> Result<(), String> {
    let (way, last) = split(path)?;
    match parent(object, way)? {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => {
            let negative = last.starts_with('-');
            let at = index(&last, items.len() + usize::from(negative))?;
            if at > items.len() {
                return Err(format!("{last} is beyond the end of a list of {}", items.len()));
            }
            moved(items.len() - at, meter)?;
            items.insert(at, value);
            Ok(())
        }
        _ => Err("the parent is neither mapping nor list".into()),
    }
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (way, last) = split(path)?;
    match parent(object, way)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) => {
            let at = index(&last, items.len())?;
            items[at] = value;
        }
        _ => {}
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str, meter: &dyn Meter) -> Result<Value, String> {
    let (way, last) = split(path)?;
    match parent(object, way)? {
        Value::Object(map) => map.remove(&last).ok_or_else(|| format!("there is no {last}")),
        Value::Array(items) => {
            let at = index(&last, items.len())?;
            if at >= items.len() {
                return Err(format!("{last} is beyond the end of a list of {}", items.len()));
            }
            moved(items.len() - at, meter)?;
            Ok(items.remove(at))
        }
        _ => Err(format!("there is no {last}")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    fn run(mut object: Value, operations: Value) -> Result<Value, String> {
        let operations: Vec<Operation> = serde_json::from_value(operations).map_err(|e| e.to_string())?;
        apply(&mut object, &operations, &Purse::new(usize::MAX)).map_err(|(index, e)| format!("{index}: {e}"))?;
        Ok(object)
    }

    /// Steps and bytes that are left.
    struct Purse(Cell<usize>, Cell<usize>);

    impl Purse {
        fn new(each: usize) -> Self {
            Self(each.into(), each.into())
        }
    }

    impl Meter for Purse {
        fn walk(&self, steps: usize) -> bool {
            self.0.set(self.0.get().saturating_sub(steps));
            self.0.get() > 0
        }

        fn spend(&self, bytes: usize) -> bool {
            self.1.set(self.1.get().saturating_sub(bytes));
            self.1.get() > 0
        }
    }

    #[test]
    fn what_operations_move_and_make_counts() {
        let list = || json!({"l": vec![0; 1000]});
        for (operation, steps, bytes) in [
            (json!({"op": "remove", "path": "/l/0"}), 1001, 0),
            (json!({"op": "add", "path": "/l/400", "value": 1}), 601, Budget::NODE),
            (json!({"op": "add", "path": "/l/-", "value": "xyz"}), 1, Budget::text(3)),
            (json!({"op": "move", "path": "/m", "from": "/l/999"}), 2, 0),
            (json!({"op": "copy", "path": "/m", "from": "/l"}), 1, 1001 * Budget::NODE),
            (json!({"op": "test", "path": "/l", "value": vec![0; 1000]}), 1002, 0),
        ] {
            let operations: Vec<Operation> = serde_json::from_value(json!([operation])).unwrap();
            let purse = Purse::new(1 << 30);
            apply(&mut list(), &operations, &purse).unwrap();
            assert_eq!(((1 << 30) - purse.0.get(), (1 << 30) - purse.1.get()), (steps, bytes), "{operation}");
            let (poor, mut object) = (Purse::new(1), list());
            assert!(apply(&mut object, &operations, &poor).is_err());
            assert_eq!(object, list(), "nothing is done for nothing: {operation}");
        }
    }

    #[test]
    fn operations() {
        let object = json!({"a": {"b/c": 1}, "l": [1, 2, 3], "n": null});
        let ok = |ops: Value, pointer: &str, want: Value| {
            let got = run(object.clone(), ops).unwrap();
            assert_eq!(got.pointer(pointer).unwrap_or(&json!("gone")), &want);
        };
        ok(json!([{"op": "add", "path": "/a/x", "value": {"y": 1}}]), "/a/x/y", json!(1));
        ok(json!([{"op": "add", "path": "/l/-", "value": 4}]), "/l", json!([1, 2, 3, 4]));
        ok(json!([{"op": "add", "path": "/l/1", "value": 9}]), "/l", json!([1, 9, 2, 3]));
        ok(json!([{"op": "replace", "path": "/l/-1", "value": 9}]), "/l", json!([1, 2, 9]));
        ok(json!([{"op": "remove", "path": "/a/b~1c"}]), "/a", json!({}));
        ok(json!([{"op": "move", "from": "/a/b~1c", "path": "/m"}]), "/m", json!(1));
        ok(json!([{"op": "copy", "from": "/l", "path": "/m"}]), "/m", json!([1, 2, 3]));
        ok(
            json!([{"op": "test", "path": "/n", "value": null}, {"op": "replace", "path": "/n", "value": 1}]),
            "/n",
            json!(1),
        );
        for bad in [
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            json!([{"op": "test", "path": "/l/0", "value": 2}]),
            json!([{"op": "add", "path": "/l/9", "value": 2}]),
            json!([{"op": "add", "path": "/l/0"}]),
            json!([{"op": "patch", "path": "/l"}]),
            json!([{"op": "add", "path": "l", "value": 2}]),
            json!([{"op": "add", "path": "/l/0", "vlaue": 2}]),
        ] {
            assert!(run(object.clone(), bad.clone()).is_err(), "{bad}");
        }
    }
}
