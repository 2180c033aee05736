//! `configMapGenerator` and `secretGenerator`.

use serde_json::{Map, Value, json};

use super::{
    file::{Generator, GeneratorOptions, Kustomization},
    hash, id,
};
use crate::{
    object::yaml::Budget,
    render::{
        error::{Reason, Result},
        files::Files,
        manifest::{Origin, Resource, mapping},
    },
    tree::RepoPath,
};

/// Adds what is generated, or merges it into what is there.
pub(super) fn absorb(
    files: &Files<'_>,
    kustomization: &Kustomization,
    dir: &RepoPath,
    resources: &mut Vec<Resource>,
) -> Result<()> {
    for (kind, field, generators) in [
        ("ConfigMap", "configMapGenerator", &kustomization.config_map_generator),
        ("Secret", "secretGenerator", &kustomization.secret_generator),
    ] {
        for (index, generator) in generators.iter().enumerate() {
            let one = One { files, kustomization, dir, kind, generator, pointer: format!("/{field}/{index}") };
            files.count(&kustomization.file, 1)?;
            one.absorb(resources)?;
        }
    }
    Ok(())
}

/// One entry of a generator.
struct One<'a> {
    files: &'a Files<'a>,
    kustomization: &'a Kustomization,
    dir: &'a RepoPath,
    kind: &'a str,
    generator: &'a Generator,
    pointer: String,
}

impl One<'_> {
    fn absorb(&self, resources: &mut Vec<Resource>) -> Result<()> {
        let mut made = self.make()?;
        let wanted = id(&made);
        let old = resources.iter().position(|r| id(r) == wanted || was(r, &made));
        match (self.generator.behavior.as_str(), old) {
            ("" | "create" | "unspecified", None) => resources.push(made),
            ("" | "create" | "unspecified", Some(old)) => {
                let there = &resources[old];
                let message = format!(
                    "{} exists already, in {} line {}; set behavior to merge or replace",
                    there.describe(),
                    there.origin.file,
                    there.origin.line
                );
                return Err(self.error("", Reason::DuplicateObject, message));
            }
            ("merge" | "replace", None) => {
                let message = format!("behavior {}: there is no {} yet", self.generator.behavior, made.describe());
                return Err(self.error("/behavior", Reason::InvalidKustomization, message));
            }
            (behavior @ ("merge" | "replace"), Some(old)) => {
                inherit(&mut made, &resources[old], behavior == "merge");
                resources[old] = made;
            }
            (other, _) => {
                let message = format!("behavior {other:?} is not known; allowed are create, merge, replace");
                return Err(self.error("/behavior", Reason::InvalidKustomization, message));
            }
        }
        Ok(())
    }

    fn make(&self) -> Result<Resource> {
        if self.generator.name.is_empty() {
            return Err(self.error("", Reason::InvalidKustomization, "name is required"));
        }
        let mut value = json!({"apiVersion": "v1", "kind": self.kind, "metadata": {"name": self.generator.name}});
        if !self.generator.namespace.is_empty() {
            value["metadata"]["namespace"] = self.generator.namespace.as_str().into();
        }
        if self.kind == "Secret" {
            let type_ = if self.generator.type_.is_empty() { "Opaque" } else { &self.generator.type_ };
            value["type"] = type_.into();
            mapping(&mut value, "data");
        }
        let mut seen = Map::new();
        let pairs = self.pairs()?;
        // In the object they may be base64.
        let pair = |(n, (key, bytes)): (usize, &(String, Vec<u8>))| {
            Budget::entry(n, key.len()) + Budget::text(3 * bytes.len() / 2)
        };
        self.files.pay(&self.kustomization.file, pairs.iter().enumerate().map(pair).sum())?;
        for (key, bytes) in pairs {
            if seen.insert(key.clone(), Value::Null).is_some() {
                return Err(self.error("", Reason::InvalidKustomization, format!("key {key:?} is given twice")));
            }
            match std::str::from_utf8(&bytes) {
                Ok(text) if self.kind == "ConfigMap" => mapping(&mut value, "data").insert(key, text.into()),
                _ if self.kind == "ConfigMap" => {
                    mapping(&mut value, "binaryData").insert(key, hash::base64(&bytes).into())
                }
                _ => mapping(&mut value, "data").insert(key, hash::base64(&bytes).into()),
            };
        }
        let options = options(&self.generator.options, &self.kustomization.generator_options);
        set_options(&mut value, &options);
        let line = self.kustomization.line(&self.pointer);
        let mut resource = Resource::new(value, Origin::generated(&self.kustomization.file, line));
        resource.hash_suffix = !options.disable_name_suffix_hash;
        Ok(resource)
    }

    /// Keys and contents in kustomize's order: env files, literals, files.
    fn pairs(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut pairs = vec![];
        for (index, file) in self.generator.envs.iter().enumerate() {
            let path = self.path(&format!("/envs/{index}"), file)?;
            let text = self.files.words(&path)?;
            for (line, text) in text.trim_start_matches('\u{feff}').lines().enumerate() {
                let text = text.trim_start();
                if text.is_empty() || text.starts_with('#') {
                    continue;
                }
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                self.check_key(&format!("/envs/{index}"), key, &format!("{path} line {}", line + 1))?;
                pairs.push((key.to_owned(), value.as_bytes().to_vec()));
            }
        }
        for (index, literal) in self.generator.literals.iter().enumerate() {
            let pointer = format!("/literals/{index}");
            let (key, value) = literal.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                self.error(&pointer, Reason::InvalidKustomization, format!("literals[{index}] must be key=value"))
            })?;
            self.check_key(&pointer, key, &format!("literals[{index}]"))?;
            pairs.push((key.to_owned(), unquoted(value).as_bytes().to_vec()));
        }
        for (index, source) in self.generator.files.iter().enumerate() {
            let pointer = format!("/files/{index}");
            let (key, file) = match source.split_once('=') {
                None => (key_of(source), source.as_str()),
                Some((key, file)) if !key.is_empty() && !file.is_empty() && !file.contains('=') => (key, file),
                Some(_) => {
                    let message = format!("files[{index}] must be a path or key=path");
                    return Err(self.error(&pointer, Reason::InvalidKustomization, message));
                }
            };
            self.check_key(&pointer, key, &format!("files[{index}]"))?;
            let path = self.path(&pointer, file)?;
            pairs.push((key.to_owned(), self.files.content(&path)?.into_owned()));
        }
        Ok(pairs)
    }

    fn check_key(&self, pointer: &str, key: &str, place: &str) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !key.is_empty() && key.len() <= 253 && key.chars().all(allowed) && key != "." && !key.starts_with("..") {
            return Ok(());
        }
        let message = format!("{place}: key {key:?} must have letters, digits, `-`, `_` and `.` only");
        Err(self.error(pointer, Reason::InvalidKustomization, message))
    }

    /// The path of an input, which must be there.
    fn path(&self, pointer: &str, text: &str) -> Result<RepoPath> {
        let path = self.kustomization.path(self.dir, &format!("{}{pointer}", self.pointer), text)?;
        if !self.files.is_file(&path) {
            return Err(self.error(pointer, Reason::FileMissing, format!("there is no file {path}")));
        }
        Ok(path)
    }

    fn error(&self, pointer: &str, reason: Reason, message: impl AsRef<str>) -> crate::render::RenderError {
        let field = self.pointer.trim_start_matches('/').replacen('/', "[", 1) + "]";
        let message = format!("{field} {}: {}", self.generator.name, message.as_ref());
        self.kustomization.error(&format!("{}{pointer}", self.pointer), reason, message)
    }
}

/// The key of a file: its name, of a template that of what it writes.
fn key_of(source: &str) -> &str {
    let name = source.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".j2").filter(|name| !name.is_empty()).unwrap_or(name)
}

/// One pair of quotes around a literal's value is taken off.
fn unquoted(text: &str) -> &str {
    ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(text)
}

/// Options of the whole kustomization fill what the generator's own leave open.
fn options(own: &GeneratorOptions, all: &GeneratorOptions) -> GeneratorOptions {
    let mut merged = all.clone();
    merged.labels.extend(own.labels.clone());
    merged.annotations.extend(own.annotations.clone());
    merged.disable_name_suffix_hash |= own.disable_name_suffix_hash;
    merged.immutable |= own.immutable;
    merged
}

fn set_options(value: &mut Value, options: &GeneratorOptions) {
    for (field, pairs) in [("labels", &options.labels), ("annotations", &options.annotations)] {
        if !pairs.is_empty() {
            value["metadata"][field] = json!(pairs);
        }
    }
    if options.immutable {
        value["immutable"] = true.into();
    }
}

/// Whether `there` had the identity of `made` before it was renamed.
fn was(there: &Resource, made: &Resource) -> bool {
    there.api_version() == made.api_version()
        && there.former.iter().any(|former| {
            let namespace = if made.namespace().is_empty() { "default" } else { made.namespace() };
            former.kind == made.kind() && former.name == made.name() && former.namespace == namespace
        })
}

/// What a generated object keeps of the one that it takes the place of.
fn inherit(made: &mut Resource, old: &Resource, merge: bool) {
    let fields: &[&str] = if merge { &["data", "binaryData"] } else { &[] };
    for field in fields {
        let Some(Value::Object(before)) = old.value.get(*field) else { continue };
        let now = mapping(&mut made.value, field);
        for (key, value) in before {
            now.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    for field in ["labels", "annotations"] {
        let Some(Value::Object(before)) = old.value["metadata"].get(field) else { continue };
        let now = mapping(&mut made.value["metadata"], field);
        for (key, value) in before {
            now.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    made.set_name(old.name());
    match old.namespace() {
        "" => {
            made.metadata_mut().remove("namespace");
        }
        namespace => made.set_namespace(namespace),
    }
    made.former.clone_from(&old.former);
    made.prefixes.clone_from(&old.prefixes);
    made.suffixes.clone_from(&old.suffixes);
    made.hash_suffix &= old.hash_suffix;
}
