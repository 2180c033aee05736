//! Where things are in an agent's pod. A change of meaning here needs a new [`NEWEST`], and what is rendered for the one
//! before it stays what it was: [`Inputs::layout`](super::Inputs::layout) says which one is asked for.

/// Version of the newest layout, in the pod template's annotation `pilothouse.dev/layout`.
pub const NEWEST: u32 = 1;
/// So many older ones are rendered too: an agent keeps its own until another cause rolls it.
const KEPT: u32 = 2;

/// Whether pods of layout `version` are left as they are by a controller that gives new pods the layout `given`.
pub fn is_kept(version: u32, given: u32) -> bool {
    (1..=given).contains(&version) && version + KEPT >= given
}

/// Container of the agent's work.
pub const SERVER: &str = "opencode-server";
/// Init container that brings the opencode binary.
pub const OPENCODE_INIT: &str = "opencode-init";
/// Native sidecar: door, activity, voice.
pub const SIDECAR: &str = "sidecar";

/// Port of the door.
pub const DOOR_PORT: i32 = 14096;
/// Name of that port.
pub const DOOR_NAME: &str = "door";

/// Folder of the opencode binary.
pub const TOOLS: &str = "/tools";
/// File with opencode's configuration.
pub const CONFIG: &str = "/tools/opencode.json";
/// Folder of the gathered text, which follows its ConfigMap.
pub const CONTEXT: &str = "/pilothouse/context";
/// The gathered text.
pub const CONTEXT_FILE: &str = "/pilothouse/context/context.md";
/// Key of the gathered text in its ConfigMap.
pub const CONTEXT_KEY: &str = "context.md";
/// Sidecar: folder of the files ConfigMap.
pub const FILES: &str = "/pilothouse/files";
/// Key that says which files the sidecar puts where in the workspace.
pub const FILES_KEY: &str = "files.json";
/// Key of opencode's configuration in the files ConfigMap.
pub const CONFIG_KEY: &str = "opencode.json";
/// Sidecar: folder of the content `ConfigMap`, which follows it.
pub const CONTENT: &str = "/pilothouse/content";
/// Key of the [`Manifest`](crate::api::content::Manifest): in the content ConfigMap of what is exchanged in the running
/// pod, in the files ConfigMap of what changes by a rollout alone.
pub const CONTENT_KEY: &str = "content.json";
/// Folder with a folder for each source of skills.
pub const SKILLS: &str = "/skills";
/// Sidecar: folder of single files from Git that are mounted outside of the workspace.
pub const SINGLE: &str = "/pilothouse/single";
/// Sidecar: folder with `username` and `password` of the door.
pub const AUTH: &str = "/pilothouse/auth";
/// Sidecar: folder with the certificate of the controller's authority.
pub const AUTHORITY: &str = "/pilothouse/authority";
/// Sidecar: folder with the token for the controller.
pub const TOKEN: &str = "/pilothouse/token";
/// Folder of the folders with credentials for `push: true`.
pub const PUSH: &str = "/pilothouse/git";
/// Home of both containers.
pub const HOME: &str = "/tmp";
