//! `patches`: strategic merge and JSON patches.

use std::sync::Arc;

use serde_json::Value;

use super::{
    effective_namespace,
    file::{Kustomization, Patch},
    remember,
    selector::{self, Selector},
};
use crate::{
    object::yaml::{Budget, Document},
    render::{
        MAX_OPERATIONS,
        error::{Reason, RenderError, Result},
        files::Files,
        import,
        manifest::{Origin, Resource},
        namespace::builtin_scope,
        suggest,
    },
    tree::RepoPath,
};

mod json6902;
mod strategic;

pub(super) fn apply_all(
    files: &Files<'_>,
    kustomization: &Kustomization,
    dir: &RepoPath,
    resources: &mut Vec<Resource>,
) -> Result<()> {
    for (index, patch) in kustomization.patches.iter().enumerate() {
        let entry = Entry { kustomization, patch, pointer: format!("/patches/{index}"), index };
        let (source, documents) = entry.load(files, dir)?;
        entry.apply(files, &source, &documents, resources)?;
    }
    Ok(())
}

/// Where the text of a patch stands.
struct Source {
    file: RepoPath,
    /// Added to lines of the text: inline patches begin somewhere in the kustomization.
    offset: usize,
}

struct Entry<'a> {
    kustomization: &'a Kustomization,
    patch: &'a Patch,
    pointer: String,
    index: usize,
}

impl Entry<'_> {
    fn error(&self, field: &str, reason: Reason, message: impl AsRef<str>) -> RenderError {
        let message = format!("patches[{}]: {}", self.index, message.as_ref());
        self.kustomization.error(&format!("{}{field}", self.pointer), reason, message)
    }

    fn load(&self, files: &Files<'_>, dir: &RepoPath) -> Result<(Source, Vec<Document>)> {
        match (self.patch.path.as_str(), self.patch.inline.as_str()) {
            ("", "") => Err(self.error("", Reason::InvalidKustomization, "one of path and patch is required")),
            (path, "") => {
                let path = self.kustomization.path(dir, &format!("{}/path", self.pointer), path)?;
                if !files.is_file(&path) {
                    return Err(self.error("/path", Reason::FileMissing, format!("there is no file {path}")));
                }
                Ok((Source { file: path.clone(), offset: 0 }, files.documents(&path)?))
            }
            ("", text) => {
                let line = self.kustomization.line(&format!("{}/patch", self.pointer));
                let source = Source { file: self.kustomization.file.clone(), offset: line };
                let documents = files.parse(text).map_err(|e| {
                    let message = format!("patches[{}].patch: line {} of it: {}", self.index, e.line, e.message);
                    RenderError::new(&source.file, line + e.line, Reason::of_yaml(&e), message)
                })?;
                Ok((source, documents))
            }
            _ => Err(self.error("", Reason::InvalidKustomization, "only one of path and patch may be set")),
        }
    }

    fn apply(
        &self,
        files: &Files<'_>,
        source: &Source,
        documents: &[Document],
        resources: &mut Vec<Resource>,
    ) -> Result<()> {
        let target = match &self.patch.target {
            Some(target) => Some(selector::compile(target).map_err(|(field, message)| {
                self.error(
                    &format!("/target/{field}"),
                    Reason::InvalidKustomization,
                    format!("target.{field}: {message}"),
                )
            })?),
            None => None,
        };
        files.step(&source.file, resources.len())?;
        if target.as_ref().is_some_and(|target| !resources.iter().any(|r| target.matches(r))) {
            self.warn_of_nothing(files, resources);
        }
        match documents {
            [] => Err(self.error("", Reason::InvalidKustomization, "the patch is empty")),
            [Document { value: Value::Array(_), .. }] => {
                self.json(files, source, &documents[0], target.as_ref(), resources)
            }
            [_, _, ..] if target.is_some() => {
                Err(self.error("", Reason::InvalidKustomization, "a patch with a target is one document"))
            }
            _ => documents
                .iter()
                .try_for_each(|document| self.strategic(files, source, document, target.as_ref(), resources)),
        }
    }

    /// kustomize says nothing of a target that fits no object, and a base may have patches for what only some have.
    fn warn_of_nothing(&self, files: &Files<'_>, resources: &[Resource]) {
        let Some(target) = &self.patch.target else { return };
        let fields =
            [("group", &target.group), ("version", &target.version), ("kind", &target.kind), ("name", &target.name)];
        let more = [
            ("namespace", &target.namespace),
            ("labelSelector", &target.label_selector),
            ("annotationSelector", &target.annotation_selector),
        ];
        let said: Vec<String> =
            fields.iter().chain(&more).filter(|f| !f.1.is_empty()).map(|(k, v)| format!("{k}: {v}")).collect();
        let near = suggest::nearest(&target.kind, resources.iter().map(Resource::kind));
        let near = near.filter(|near| *near != target.kind).map(|near| format!("; did you mean kind: {near}?"));
        let message = format!(
            "patches[{}]: no object fits the target ({}), so the patch does nothing{}",
            self.index,
            said.join(", "),
            near.unwrap_or_default()
        );
        files.warn(&self.kustomization.file, self.kustomization.line(&format!("{}/target", self.pointer)), &message);
    }

    fn json(
        &self,
        files: &Files<'_>,
        source: &Source,
        document: &Document,
        target: Option<&Selector>,
        resources: &mut [Resource],
    ) -> Result<()> {
        let Some(target) = target else {
            return Err(self.error("", Reason::InvalidKustomization, "a JSON patch needs a target"));
        };
        let at = |index: usize| source.offset + document.lines.at(&format!("/{index}"));
        let list = document.value.as_array().map(Vec::as_slice).unwrap_or_default();
        if list.len() > MAX_OPERATIONS {
            let message = format!("patches[{}]: a JSON patch has at most {MAX_OPERATIONS} operations", self.index);
            return Err(RenderError::new(&source.file, at(MAX_OPERATIONS), Reason::TooLarge, message));
        }
        let mut operations = vec![];
        for (index, operation) in list.iter().enumerate() {
            operations.push(serde_json::from_value::<json6902::Operation>(operation.clone()).map_err(|e| {
                let message = format!("patches[{}]: operation {index}: {e}", self.index);
                RenderError::new(&source.file, at(index), Reason::InvalidKustomization, message)
            })?);
        }
        let size = document.value.to_string().len();
        for resource in resources.iter_mut().filter(|r| target.matches(r)) {
            remember(resource);
            files.charge(&source.file, size)?;
            let applied = json6902::apply(&mut resource.value, &operations, files);
            files.paid(&source.file)?;
            applied.map_err(|(index, message)| {
                let message = format!("patches[{}]: {}: {message}", self.index, resource.describe());
                RenderError::new(&source.file, at(index), Reason::PatchFailed, message)
            })?;
        }
        Ok(())
    }

    fn strategic(
        &self,
        files: &Files<'_>,
        source: &Source,
        document: &Document,
        target: Option<&Selector>,
        resources: &mut Vec<Resource>,
    ) -> Result<()> {
        let origin = Origin::of(&source.file, document.line + source.offset, Arc::new(document.lines.clone()));
        let mut patch = Resource::new(document.value.clone(), origin);
        if !patch.value.is_object() {
            return Err(patch.error(Reason::InvalidKustomization, "a patch is a mapping, or a list of operations"));
        }
        import::map(&mut patch)?;
        let chosen = self.choose(&patch, target, resources)?;
        files.charge(&source.file, patch.value.to_string().len().saturating_mul(chosen.len()))?;
        files.pay(&source.file, Budget::of(&patch.value).saturating_mul(chosen.len()))?;
        let (mut kept, mut failed) = (Vec::with_capacity(resources.len()), None);
        for (index, mut resource) in resources.drain(..).enumerate() {
            if chosen.binary_search(&index).is_err() {
                kept.push(resource);
                continue;
            }
            let merged = patched(&mut resource, &patch, &|steps| files.walk(steps));
            files.paid(&source.file)?;
            match merged {
                Ok(true) => kept.push(resource),
                Ok(false) => {}
                Err((pointer, message)) => {
                    let line = source.offset + document.lines.at(&pointer);
                    let field = pointer.trim_start_matches('/').replace('/', ".");
                    let message = format!("patches[{}]: {}: {field}: {message}", self.index, resource.describe());
                    failed.get_or_insert_with(|| RenderError::new(&source.file, line, Reason::PatchFailed, message));
                }
            }
        }
        *resources = kept;
        failed.map_or(Ok(()), Err)
    }

    /// The objects that a patch is for: those of its target, else the one whose identity it has.
    fn choose(&self, patch: &Resource, target: Option<&Selector>, resources: &[Resource]) -> Result<Vec<usize>> {
        let indexes = |fits: &dyn Fn(&Resource) -> bool| -> Vec<usize> {
            resources.iter().enumerate().filter(|(_, r)| fits(r)).map(|(index, _)| index).collect()
        };
        if let Some(target) = target {
            return Ok(indexes(&|r| target.matches(r)));
        }
        if patch.api_version().is_empty() || patch.kind().is_empty() || patch.name().is_empty() {
            let message = format!(
                "patches[{}]: without a target the patch needs the apiVersion, kind and metadata.name of its object",
                self.index
            );
            return Err(patch.error(Reason::InvalidKustomization, message));
        }
        let chosen = indexes(&|r| is_or_was(r, patch));
        match chosen.len() {
            1 => Ok(chosen),
            0 => {
                let message = format!(
                    "patches[{}]: there is no {} {} to patch",
                    self.index,
                    patch.api_version(),
                    patch.describe()
                );
                Err(patch.error(Reason::PatchFailed, message))
            }
            _ => {
                let message =
                    format!("patches[{}]: several objects are {}; use a target", self.index, patch.describe());
                Err(patch.error(Reason::PatchFailed, message))
            }
        }
    }
}

fn is_or_was(resource: &Resource, patch: &Resource) -> bool {
    let namespace = effective_namespace(patch);
    let is = resource.kind() == patch.kind()
        && resource.name() == patch.name()
        && effective_namespace(resource) == namespace;
    let was =
        || resource.former.iter().any(|f| f.kind == patch.kind() && f.name == patch.name() && f.namespace == namespace);
    resource.api_version() == patch.api_version() && (is || was())
}

/// Merges; whether the object is still there. Its identity stays, whatever the patch says.
fn patched(
    resource: &mut Resource,
    patch: &Resource,
    walk: &dyn Fn(usize) -> bool,
) -> std::result::Result<bool, strategic::Failed> {
    let (api_version, kind) = (resource.api_version().to_owned(), resource.kind().to_owned());
    let (name, namespace) = (resource.name().to_owned(), resource.namespace().to_owned());
    let (group, _) = api_version.split_once('/').unwrap_or(("", ""));
    let known = (group != crate::api::GROUP && builtin_scope(group, &kind).is_some()).then_some((group, kind.as_str()));
    let Some(merged) = strategic::apply(resource.value.clone(), patch.value.clone(), known, walk)? else {
        return Ok(false);
    };
    resource.value = merged;
    if let Some(map) = resource.value.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
    resource.set_name(&name);
    if namespace.is_empty() {
        resource.metadata_mut().remove("namespace");
    } else {
        resource.set_namespace(&namespace);
    }
    Ok(true)
}
