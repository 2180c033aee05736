//! `images`: other names, tags and digests.

use serde_json::Value;

use super::{
    fields::{FieldSpec, Leaf},
    file::{Image, Kustomization},
    transform::visit,
};
use crate::{
    api::GROUP,
    render::{
        error::{Reason, Result},
        files::Files,
        manifest::Resource,
    },
};

/// Images outside of containers: those of kustomize, then those of our kinds.
const FIELDS: &[(&str, &str, &str)] = &[
    ("", "", "spec/volumes[]/image/reference"),
    ("", "", "spec/template/spec/volumes[]/image/reference"),
    (GROUP, "Agent", "spec/agentImage"),
    (GROUP, "Agent", "spec/attachImage"),
    (GROUP, "Agent", "spec/executorImage"),
    (GROUP, "AgentTemplate", "spec/agentImage"),
    (GROUP, "AgentTemplate", "spec/attachImage"),
    (GROUP, "AgentTemplate", "spec/executorImage"),
    (GROUP, "PilothouseConfig", "spec/agentImage"),
    (GROUP, "PilothouseConfig", "spec/attachImage"),
    (GROUP, "PilothouseConfig", "spec/executorImage"),
    (GROUP, "PilothouseConfig", "spec/systemImage/image"),
];

pub(super) fn apply_all(files: &Files<'_>, kustomization: &Kustomization, resources: &mut [Resource]) -> Result<()> {
    for (index, image) in kustomization.images.iter().enumerate() {
        if image.name.is_empty() {
            let message = format!("images[{index}]: name is required");
            return Err(kustomization.error(&format!("/images/{index}"), Reason::InvalidKustomization, message));
        }
        let pattern = pattern(&image.name).map_err(|e| {
            let message = format!("images[{index}]: name is no regular expression: {e}");
            kustomization.error(&format!("/images/{index}/name"), Reason::InvalidKustomization, message)
        })?;
        let change = |slot: &mut Value| {
            if let Value::String(text) = slot
                && pattern.is_match(text)
            {
                let new = changed(text, image);
                if files.spend(new.len()) {
                    *text = new;
                }
            }
        };
        for resource in resources.iter_mut().filter(|r| r.kind() != "CustomResourceDefinition") {
            containers(&mut resource.value, &change);
            files.paid(&kustomization.file)?;
            for (group, kind, path) in FIELDS {
                let spec = FieldSpec { group, version: "", kind, path, create: false };
                if spec.matches(resource) {
                    visit(resource, &spec, Leaf::Text, &mut |slot| change(slot))?;
                }
            }
        }
    }
    Ok(())
}

fn pattern(name: &str) -> std::result::Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^{name}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$"))
        .size_limit(1 << 20)
        .build()
}

/// The images of every list named `containers` or `initContainers`, wherever it stands.
fn containers(value: &mut Value, change: &dyn Fn(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| containers(item, change)),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if let ("containers" | "initContainers", Value::Array(items)) = (key.as_str(), &mut *value) {
                    items.iter_mut().filter_map(|item| item.get_mut("image")).for_each(change);
                } else {
                    containers(value, change);
                }
            }
        }
        _ => {}
    }
}

fn changed(text: &str, image: &Image) -> String {
    let (mut name, mut tag, mut digest) = split(text);
    if !image.new_name.is_empty() {
        name = &image.new_name;
    }
    match (image.new_tag.as_str(), image.digest.as_str()) {
        ("", "") => {}
        (new_tag, new_digest) => (tag, digest) = (new_tag, new_digest),
    }
    let tag = if tag.is_empty() { String::new() } else { format!(":{tag}") };
    let digest = if digest.is_empty() { String::new() } else { format!("@{digest}") };
    format!("{name}{tag}{digest}")
}

/// Name, tag and digest. A colon before the first slash belongs to a registry's port.
fn split(text: &str) -> (&str, &str, &str) {
    let host = text.find('/').unwrap_or(0);
    let (rest, digest) = match text[host..].find('@') {
        Some(at) => (&text[..host + at], &text[host + at + 1..]),
        None => (text, ""),
    };
    match rest[host..].find(':') {
        Some(at) => (&rest[..host + at], &rest[host + at + 1..], digest),
        None => (rest, "", digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_digests() {
        for (text, want) in [
            ("nginx", ("nginx", "", "")),
            ("nginx:1.2", ("nginx", "1.2", "")),
            ("localhost:5000/a/nginx:1@sha256:ab", ("localhost:5000/a/nginx", "1", "sha256:ab")),
            ("localhost:5000/nginx", ("localhost:5000/nginx", "", "")),
            ("nginx@sha256:ab", ("nginx", "", "sha256:ab")),
        ] {
            assert_eq!(split(text), want, "{text}");
        }
    }
}
