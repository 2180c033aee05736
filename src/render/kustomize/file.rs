//! A kustomization file, read strictly.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    object::yaml::{Document, Lines},
    render::{
        MAX_OBJECTS,
        error::{Reason, RenderError, Result},
        files::Files,
    },
    tree::RepoPath,
};

mod keys;

/// A kustomization.
#[derive(Debug, Default)]
pub(super) struct Kustomization {
    pub(super) file: RepoPath,
    lines: Lines,
    pub(super) resources: Vec<String>,
    pub(super) namespace: String,
    pub(super) name_prefix: String,
    pub(super) name_suffix: String,
    pub(super) labels: Vec<Label>,
    pub(super) common_labels: BTreeMap<String, String>,
    pub(super) common_annotations: BTreeMap<String, String>,
    pub(super) images: Vec<Image>,
    pub(super) patches: Vec<Patch>,
    pub(super) config_map_generator: Vec<Generator>,
    pub(super) secret_generator: Vec<Generator>,
    pub(super) generator_options: GeneratorOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Label {
    pub(super) pairs: BTreeMap<String, String>,
    pub(super) include_selectors: bool,
    pub(super) include_templates: bool,
    pub(super) fields: Vec<LabelField>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelField {
    pub(super) path: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) create: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) new_name: String,
    pub(super) new_tag: String,
    pub(super) digest: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Patch {
    pub(super) path: String,
    #[serde(rename = "patch")]
    pub(super) inline: String,
    pub(super) target: Option<Target>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) label_selector: String,
    pub(super) annotation_selector: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Generator {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) behavior: String,
    pub(super) files: Vec<String>,
    pub(super) literals: Vec<String>,
    pub(super) envs: Vec<String>,
    /// Secrets only.
    #[serde(rename = "type")]
    pub(super) type_: String,
    pub(super) options: GeneratorOptions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct GeneratorOptions {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) disable_name_suffix_hash: bool,
    pub(super) immutable: bool,
}

impl Kustomization {
    pub(super) fn read(files: &Files<'_>, path: &RepoPath) -> Result<Self> {
        let mut documents = files.documents(path)?;
        let document = match (documents.pop(), documents.first()) {
            (Some(document), None) => document,
            (None, _) => {
                let message = format!("the kustomization is empty; allowed keys are {}", keys::allowed());
                return Err(RenderError::new(path, 0, Reason::InvalidKustomization, message));
            }
            (Some(last), Some(_)) => {
                let message = "a kustomization is one document";
                return Err(RenderError::new(path, last.line, Reason::InvalidKustomization, message));
            }
        };
        keys::check(path, &document)?;
        Self::from_document(path, document)
    }

    fn from_document(path: &RepoPath, document: Document) -> Result<Self> {
        let Document { value, lines, .. } = document;
        check_lengths(path, &lines, &value)?;
        let mut reader = Reader { file: path, lines: &lines, value };
        let mut read = Self {
            file: path.clone(),
            resources: reader.take("resources")?,
            namespace: reader.take("namespace")?,
            name_prefix: reader.take("namePrefix")?,
            name_suffix: reader.take("nameSuffix")?,
            labels: reader.take("labels")?,
            common_labels: reader.take("commonLabels")?,
            common_annotations: reader.take("commonAnnotations")?,
            images: reader.take("images")?,
            patches: reader.take("patches")?,
            config_map_generator: reader.take("configMapGenerator")?,
            secret_generator: reader.take("secretGenerator")?,
            generator_options: reader.take("generatorOptions")?,
            lines: Lines::default(),
        };
        read.lines = lines;
        Ok(read)
    }

    /// The line of the field at a JSON pointer.
    pub(super) fn line(&self, pointer: &str) -> usize {
        self.lines.at(pointer)
    }

    pub(super) fn error(&self, pointer: &str, reason: Reason, message: impl Into<String>) -> RenderError {
        RenderError::new(&self.file, self.line(pointer), reason, message)
    }

    /// A path that a field names, relative to the kustomization's folder.
    pub(super) fn path(&self, dir: &RepoPath, pointer: &str, text: &str) -> Result<RepoPath> {
        dir.join(text).map_err(|e| self.error(pointer, Reason::InvalidKustomization, e.to_string()))
    }
}

/// An entry takes more memory than what is written, which may be `{}`.
fn check_lengths(path: &RepoPath, lines: &Lines, value: &Value) -> Result<()> {
    for key in ["labels", "images", "patches", "configMapGenerator", "secretGenerator"] {
        if value.get(key).and_then(Value::as_array).is_some_and(|list| list.len() > MAX_OBJECTS) {
            let message = format!("{key} has more than {MAX_OBJECTS} entries");
            return Err(RenderError::new(path, lines.at(&format!("/{key}")), Reason::TooLarge, message));
        }
    }
    Ok(())
}

struct Reader<'a> {
    file: &'a RepoPath,
    lines: &'a Lines,
    value: Value,
}

impl Reader<'_> {
    /// The value of a key; its default where it is missing or null.
    fn take<T: DeserializeOwned + Default>(&mut self, key: &str) -> Result<T> {
        match self.value.get_mut(key).map(Value::take) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => serde_json::from_value(value).map_err(|e| {
                let line = self.lines.at(&format!("/{key}"));
                RenderError::new(self.file, line, Reason::InvalidKustomization, format!("{key}: {e}"))
            }),
        }
    }
}
