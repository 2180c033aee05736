//! What can be wrong with what is rendered.

use crate::{
    object::yaml::YamlError,
    status::{Class, Failure},
    tree::RepoPath,
};

/// Why a tree does not render. Nothing but a change of the files, or of the Sync, helps, but for what was interrupted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", self.place())]
pub struct RenderError {
    /// The file to look at.
    pub file: RepoPath,
    /// The line in it, from 1; 0 where no line can be named.
    pub line: usize,
    /// CamelCase, stable.
    pub reason: Reason,
    /// What is wrong, what is allowed, what to do.
    pub message: String,
}

/// The kinds of [`RenderError`], for conditions and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Reason {
    /// A file or folder that something names is not there.
    FileMissing,
    /// A file is no UTF-8 or no YAML.
    InvalidYaml,
    /// A manifest lacks its identity or has fields that its kind does not know.
    InvalidManifest,
    /// A kustomization is wrong.
    InvalidKustomization,
    /// A kustomization, a kind or a field that is known but not there yet.
    NotSupported,
    /// A patch does not apply.
    PatchFailed,
    /// A template does not render.
    TemplateFailed,
    /// Two objects are the same.
    DuplicateObject,
    /// A bound is reached: sizes, counts, nesting.
    TooLarge,
    /// The machine was too slow, or ended it: the same may render another time.
    Interrupted,
}

impl Reason {
    pub(super) fn of_yaml(error: &YamlError) -> Self {
        if error.too_large { Self::TooLarge } else { Self::InvalidYaml }
    }

    /// The reason as it stands in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileMissing => "FileMissing",
            Self::InvalidYaml => "InvalidYaml",
            Self::InvalidManifest => "InvalidManifest",
            Self::InvalidKustomization => "InvalidKustomization",
            Self::NotSupported => "NotYetSupported",
            Self::PatchFailed => "PatchFailed",
            Self::TemplateFailed => "TemplateFailed",
            Self::DuplicateObject => "DuplicateObject",
            Self::TooLarge => "RenderTooLarge",
            Self::Interrupted => "RenderInterrupted",
        }
    }
}

impl RenderError {
    pub(super) fn new(file: &RepoPath, line: usize, reason: Reason, message: impl Into<String>) -> Self {
        Self { file: file.clone(), line, reason, message: message.into() }
    }

    pub(super) fn yaml(file: &RepoPath, error: &YamlError) -> Self {
        let message = format!("column {}: {}", error.column, error.message);
        Self::new(file, error.line, Reason::of_yaml(error), message)
    }

    /// The render of `file` was given up. What a render does is bounded, so another time may do.
    pub fn too_long(file: &RepoPath) -> Self {
        let message = "the render takes too long, probably because the machine is busy; it is tried again: make it smaller \
                       where that does not help";
        Self::new(file, 0, Reason::Interrupted, message)
    }

    fn place(&self) -> String {
        if self.line == 0 { self.file.to_string() } else { format!("{}:{}", self.file, self.line) }
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        let class = if error.reason == Reason::Interrupted { Class::Transient } else { Class::Stalled };
        Self { class, reason: error.reason.as_str(), message: error.to_string() }
    }
}

pub(super) type Result<T> = std::result::Result<T, RenderError>;
