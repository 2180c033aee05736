//! Namespace, names, labels, annotations and images, in kustomize's order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    effective_namespace,
    fields::{FieldSpec, Leaf},
    file::{Kustomization, Label},
    id, image, is_cluster_scoped, remember,
};
use crate::{
    object::yaml::Budget,
    render::{
        error::{Reason, Result},
        files::Files,
        manifest::Resource,
    },
};

mod specs;

pub(super) fn apply_all(files: &Files<'_>, kustomization: &Kustomization, resources: &mut [Resource]) -> Result<()> {
    pay_for_names(files, kustomization, resources)?;
    namespace(kustomization, resources)?;
    prefix(&kustomization.name_prefix, resources);
    suffix(&kustomization.name_suffix, resources);
    for label in &kustomization.labels {
        labels(files, kustomization, label, resources)?;
    }
    let common = Label { pairs: kustomization.common_labels.clone(), include_selectors: true, ..Label::default() };
    labels(files, kustomization, &common, resources)?;
    for resource in resources.iter_mut() {
        set_pairs(files, resource, &kustomization.common_annotations, specs::ANNOTATIONS.iter().copied())?;
        files.paid(&kustomization.file)?;
    }
    image::apply_all(files, kustomization, resources)
}

/// Every object gets the names, and remembers how it was called.
fn pay_for_names(files: &Files<'_>, kustomization: &Kustomization, resources: &[Resource]) -> Result<()> {
    let names = [&kustomization.namespace, &kustomization.name_prefix, &kustomization.name_suffix];
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let old = |r: &Resource| r.name().len() + r.namespace().len() + r.kind().len();
        let bytes = resources.iter().map(|r| 2 * Budget::NODE + 4 * name.len() + old(r)).sum();
        files.pay(&kustomization.file, bytes)?;
    }
    Ok(())
}

fn namespace(kustomization: &Kustomization, resources: &mut [Resource]) -> Result<()> {
    let namespace = kustomization.namespace.as_str();
    if namespace.is_empty() {
        return Ok(());
    }
    for resource in resources.iter_mut() {
        remember(resource);
        if !is_cluster_scoped(resource) {
            resource.set_namespace(namespace);
        }
        subjects(resource, namespace);
        for spec in specs::NAMESPACE {
            if spec.matches(resource) {
                visit(resource, spec, Leaf::Text, &mut |value| *value = namespace.into())?;
            }
        }
    }
    let mut seen = BTreeSet::new();
    match resources.iter().find(|r| !seen.insert(id(r))) {
        Some(twice) => {
            let message =
                format!("namespace: two objects become {} in {}", twice.describe(), effective_namespace(twice));
            Err(kustomization.error("/namespace", Reason::DuplicateObject, message))
        }
        None => Ok(()),
    }
}

/// Role bindings that name the account `default` mean the one of the new namespace.
fn subjects(resource: &mut Resource, namespace: &str) {
    if !matches!(resource.kind(), "RoleBinding" | "ClusterRoleBinding") {
        return;
    }
    let Some(Value::Array(subjects)) = resource.value.get_mut("subjects") else { return };
    for subject in subjects.iter_mut().filter(|s| s.get("name").is_some_and(|name| name == "default")) {
        subject["namespace"] = namespace.into();
    }
}

/// Kinds whose names belong to somebody else.
fn keeps_name(resource: &Resource) -> bool {
    let original = resource.former.first().map_or(resource.kind(), |former| former.kind.as_str());
    match original {
        "CustomResourceDefinition" | "Namespace" => true,
        "APIService" => resource.group() == "apiregistration.k8s.io",
        _ => false,
    }
}

fn prefix(prefix: &str, resources: &mut [Resource]) {
    for resource in resources.iter_mut().filter(|r| !prefix.is_empty() && !keeps_name(r)) {
        remember(resource);
        resource.prefixes.push(prefix.to_owned());
        resource.set_name(&format!("{prefix}{}", resource.name()));
    }
}

fn suffix(suffix: &str, resources: &mut [Resource]) {
    for resource in resources.iter_mut().filter(|r| !suffix.is_empty() && !keeps_name(r)) {
        remember(resource);
        resource.suffixes.push(suffix.to_owned());
        resource.set_name(&format!("{}{suffix}", resource.name()));
    }
}

fn labels(files: &Files<'_>, kustomization: &Kustomization, label: &Label, resources: &mut [Resource]) -> Result<()> {
    let own = label.fields.iter().map(|field| FieldSpec {
        group: &field.group,
        version: &field.version,
        kind: &field.kind,
        path: &field.path,
        create: field.create,
    });
    let (selectors, templates): (&[FieldSpec<'_>], &[FieldSpec<'_>]) =
        match (label.include_selectors, label.include_templates) {
            (true, _) => (specs::SELECTORS, specs::LABELS),
            (false, true) => (&[], specs::LABELS),
            (false, false) => (&[], &specs::LABELS[..1]),
        };
    let specs: Vec<FieldSpec<'_>> = own.chain(selectors.iter().copied()).chain(templates.iter().copied()).collect();
    resources.iter_mut().try_for_each(|resource| {
        set_pairs(files, resource, &label.pairs, specs.iter().copied())?;
        files.paid(&kustomization.file)
    })
}

/// Sets keys of the mappings at some fields.
fn set_pairs<'s>(
    files: &Files<'_>,
    resource: &mut Resource,
    pairs: &BTreeMap<String, String>,
    specs: impl Iterator<Item = FieldSpec<'s>>,
) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let pair = |(n, (key, text)): (usize, (&String, &String))| Budget::entry(n, key.len()) + Budget::text(text.len());
    let cost = pairs.iter().enumerate().map(pair).sum();
    for spec in specs {
        if !spec.matches(resource) {
            continue;
        }
        visit(resource, &spec, Leaf::Mapping, &mut |value| {
            if !files.spend(cost) {
                return;
            }
            if !value.is_object() {
                *value = json!({});
            }
            for (key, text) in pairs {
                value[key.as_str()] = text.as_str().into();
            }
        })?;
    }
    Ok(())
}

/// [`FieldSpec::visit`] with an error that names the field.
pub(super) fn visit(
    resource: &mut Resource,
    spec: &FieldSpec<'_>,
    leaf: Leaf,
    change: &mut dyn FnMut(&mut Value),
) -> Result<()> {
    let mut value = resource.value.take();
    let visited = spec.visit(&mut value, leaf, change);
    resource.value = value;
    visited.map_err(|step| {
        let message = format!("{}: {} leads through {step}, where no mapping stands", resource.describe(), spec.path);
        resource.error_at(Reason::InvalidManifest, &format!("/{}", spec.path), message)
    })
}
