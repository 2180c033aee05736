//! Names changed; what refers to them follows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    effective_namespace,
    fields::{FieldSpec, Leaf},
    is_cluster_scoped,
};
use crate::{
    api::GROUP,
    render::{
        error::{Reason, Result},
        files::Files,
        manifest::Resource,
    },
};
pub(in crate::render::kustomize) use targets::PODS;
use targets::{Place, TARGETS, Target};

mod targets;

/// Rewrites references to names that objects had before.
pub(super) fn fix(files: &Files<'_>, resources: &mut [Resource]) -> Result<()> {
    let candidates = Candidates::new(resources);
    let renamed = |target: &&Target| candidates.all.iter().any(|c| c.is(target.group, target.kind));
    let targets: Vec<&Target> = TARGETS.iter().filter(renamed).collect();
    for (index, resource) in resources.iter_mut().enumerate() {
        let mut value = resource.value.clone();
        for target in targets.iter().copied() {
            for path in paths(resource, target) {
                let spec = FieldSpec { group: "", version: "", kind: "", path: &path, create: false };
                let mut failed = None;
                let referrer = Referrer { files, index, target, path: &path, candidates: &candidates };
                // A path that leads nowhere refers to nothing.
                let _ = spec.visit(&mut value, Leaf::Text, &mut |slot| {
                    if let Err(message) = referrer.rewrite(slot) {
                        failed.get_or_insert(message);
                    }
                });
                files.paid(&resource.origin.file)?;
                if let Some(message) = failed {
                    let message = format!("{}: {path}: {message}", resource.describe());
                    return Err(resource.error_at(Reason::InvalidManifest, &format!("/{path}"), message));
                }
            }
        }
        resource.value = value;
    }
    Ok(())
}

/// The fields of a resource that may name a target.
fn paths(resource: &Resource, target: &Target) -> Vec<String> {
    let fits =
        |place: &&Place| place.kind == resource.kind() && (place.group.is_empty() || place.group == resource.group());
    let pod = PODS.iter().find(|(kind, _)| *kind == resource.kind() && resource.group() != GROUP);
    let in_pods = pod.into_iter().flat_map(|(_, pod)| target.in_pods.iter().map(move |path| format!("{pod}/{path}")));
    in_pods.chain(target.places.iter().filter(fits).map(|place| place.path.to_owned())).collect()
}

/// What references are resolved against: a copy, because the resources are written meanwhile.
struct Candidates {
    all: Vec<Candidate>,
    by_former_name: BTreeMap<String, Vec<usize>>,
}

struct Candidate {
    kinds: Vec<String>,
    group: String,
    name: String,
    written_namespace: String,
    namespace: String,
    original_namespace: String,
    cluster: bool,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
    is_account: bool,
    role: Option<(String, String)>,
}

impl Candidates {
    fn new(resources: &[Resource]) -> Self {
        let mut by_former_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, resource) in resources.iter().enumerate() {
            for former in &resource.former {
                let list = by_former_name.entry(former.name.clone()).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        Self { all: resources.iter().map(Candidate::new).collect(), by_former_name }
    }
}

impl Candidate {
    fn new(resource: &Resource) -> Self {
        let namespace = effective_namespace(resource).to_owned();
        let text = |pointer: &str| resource.value.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
        Self {
            kinds: resource.former.iter().map(|f| f.kind.clone()).collect(),
            group: resource.group().to_owned(),
            name: resource.name().to_owned(),
            written_namespace: resource.namespace().to_owned(),
            original_namespace: resource.former.first().map_or_else(|| namespace.clone(), |f| f.namespace.clone()),
            namespace,
            cluster: is_cluster_scoped(resource),
            prefixes: resource.prefixes.clone(),
            suffixes: resource.suffixes.clone(),
            is_account: resource.kind() == "ServiceAccount",
            role: text("/roleRef/apiGroup").zip(text("/roleRef/kind")),
        }
    }

    fn is(&self, group: &str, kind: &str) -> bool {
        (group.is_empty() || group == self.group) && self.kinds.iter().any(|k| k == kind)
    }

    /// Whether both were renamed by the same kustomizations, the inner ones aside.
    fn renamed_alike(&self, other: &Self, empty_fits: bool) -> bool {
        let alike = |a: &[String], b: &[String]| {
            empty_fits && (a.is_empty() || b.is_empty()) || a.ends_with(b) || b.ends_with(a)
        };
        alike(&self.prefixes, &other.prefixes) && alike(&self.suffixes, &other.suffixes)
    }
}

struct Referrer<'a> {
    files: &'a Files<'a>,
    index: usize,
    target: &'a Target,
    path: &'a str,
    candidates: &'a Candidates,
}

impl Referrer<'_> {
    fn me(&self) -> &Candidate {
        &self.candidates.all[self.index]
    }

    /// Rewrites a name, a list of names, or mappings with a name.
    fn rewrite(&self, slot: &mut Value) -> std::result::Result<(), String> {
        match slot {
            Value::String(name) => {
                if let Some(found) = self.select(name, None)? {
                    name.clone_from(&found.name);
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.rewrite(item)),
            Value::Object(map) => {
                let text = |key: &str| map.get(key).and_then(Value::as_str);
                let Some(name) = text("name") else { return Ok(()) };
                if text("kind").is_some_and(|kind| kind != self.target.kind) {
                    return Ok(());
                }
                let Some(found) = self.select(name, text("namespace"))? else { return Ok(()) };
                map.insert("name".into(), found.name.clone().into());
                let names_namespace = matches!(self.path, "subjects" | "webhooks/clientConfig/service");
                if names_namespace && !found.written_namespace.is_empty() {
                    map.insert("namespace".into(), found.written_namespace.clone().into());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The one object that a name means, if it is among those that were renamed.
    fn select(&self, name: &str, namespace: Option<&str>) -> std::result::Result<Option<&Candidate>, String> {
        let indexes = self.candidates.by_former_name.get(name).map(Vec::as_slice).unwrap_or_default();
        if !self.files.walk(indexes.len()) {
            return Ok(None);
        }
        let mut found: Vec<&Candidate> = indexes.iter().map(|i| &self.candidates.all[*i]).collect();
        found.retain(|c| c.is(self.target.group, self.target.kind) && self.reaches(c) && self.is_role(c));
        if let Some(namespace) = namespace {
            let original = found.iter().any(|c| c.original_namespace == namespace);
            found.retain(|c| if original { c.original_namespace == namespace } else { c.namespace == namespace });
        }
        if found.len() > 1 {
            found.retain(|c| c.renamed_alike(self.me(), true));
        }
        if found.len() > 1 {
            found.retain(|c| c.renamed_alike(self.me(), false));
        }
        match found.as_slice() {
            [] => Ok(None),
            [first, rest @ ..] if rest.iter().all(|c| c.name == first.name && c.namespace == first.namespace) => {
                Ok(self.files.spend(first.name.len()).then_some(first))
            }
            several => {
                let names: Vec<&str> = several.iter().map(|c| c.name.as_str()).collect();
                Err(format!("{name} may be any of {}; give them different names before prefixes", names.join(", ")))
            }
        }
    }

    /// Whether an object in the referrer's place can mean `candidate` at all.
    fn reaches(&self, candidate: &Candidate) -> bool {
        let me = self.me();
        me.cluster
            || candidate.cluster
            || candidate.is_account && self.path == "subjects"
            || me.namespace == candidate.namespace
    }

    fn is_role(&self, candidate: &Candidate) -> bool {
        match (&self.me().role, self.path) {
            (Some((group, kind)), "roleRef/name") => candidate.is(group, kind),
            _ => true,
        }
    }
}
