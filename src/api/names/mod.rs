//! Names that the world sees: labels, annotations, generated objects, field managers, condition types and reasons.

mod reason_table;

pub use reason_table::{REASONS, Reason, reason, text as reasons};

use sha2::{Digest, Sha256};

/// Prefix of our labels and annotations.
pub const PREFIX: &str = "pilothouse.dev/";
/// The same, of the API that manifests may still be written for.
pub const OLD_PREFIX: &str = "kubeopencode.io/";
/// Group of that API.
pub const OLD_GROUP: &str = "kubeopencode.io";

/// Who writes which fields; see server-side apply.
pub mod manager {
    /// What a Sync applies.
    pub const SYNC: &str = "pilothouse";
    /// Objects generated for an Agent, and labels set on others for it.
    pub const AGENT: &str = "pilothouse-agent";
    /// Objects generated for a Task, and labels set on others for it.
    pub const TASK: &str = "pilothouse-task";
    /// The status subresource of every kind.
    pub const STATUS: &str = "pilothouse-status";
    /// Our finalizers.
    pub const FINALIZER: &str = "pilothouse-finalizer";
    /// Tasks made by a `CronTask`, and its trigger annotation.
    pub const CRONTASK: &str = "pilothouse-crontask";
    /// The reconcile annotation of Repositories that a webhook was for.
    pub const RECEIVER: &str = "pilothouse-receiver";
}

/// Types of conditions.
pub mod condition {
    /// Every kind: as wanted.
    pub const READY: &str = "Ready";
    /// Every kind, only while true: on the way to what is wanted.
    pub const RECONCILING: &str = "Reconciling";
    /// Every kind, only while true: nothing but a change of the spec or of an input helps.
    pub const STALLED: &str = "Stalled";
    /// Agent: the Deployment has a ready pod.
    pub const SERVER_READY: &str = "ServerReady";
    /// Agent: the server answers.
    pub const SERVER_HEALTHY: &str = "ServerHealthy";
    /// Agent: stopped as asked. Exists once a suspension has been, and then stays.
    pub const SUSPENDED: &str = "Suspended";
    /// Agent: a synced context waits for work to end. Exists once there was a synced context, and then stays.
    pub const GIT_SYNC_PENDING: &str = "GitSyncPending";
    /// Agent: a new pod template waits for work to end.
    pub const ROLLOUT_PENDING: &str = "RolloutPending";
    /// Agent: a new pod template did not get ready in time. Exists once one did not, and then stays.
    pub const ROLLOUT_FAILED: &str = "RolloutFailed";
    /// Agent: an older revision is kept, as asked. Exists once one was, and then stays.
    pub const PINNED: &str = "Pinned";
    /// Agent, only while true: the annotation pilothouse.dev/rollout has a value that means nothing.
    pub const ORDER_UNKNOWN: &str = "OrderUnknown";
    /// Agent: new text waits until the server is idle. Exists once one has waited, and then stays.
    pub const TEXT_PENDING: &str = "TextPending";
    /// Agent: the server has loaded the skills it was given. Exists only where there are skills.
    pub const SKILLS_LOADED: &str = "SkillsLoaded";
    /// Repository: its webhook has a path. Exists only while there is a webhook.
    pub const WEBHOOK_READY: &str = "WebhookReady";
    /// Task: waits for the agent or for a free place.
    pub const QUEUED: &str = "Queued";
    /// Task: ended by a stop or by its time limit.
    pub const STOPPED: &str = "Stopped";

    /// All of them.
    pub const ALL: [&str; 16] = [
        READY,
        RECONCILING,
        STALLED,
        SERVER_READY,
        SERVER_HEALTHY,
        SUSPENDED,
        GIT_SYNC_PENDING,
        ROLLOUT_PENDING,
        ROLLOUT_FAILED,
        PINNED,
        ORDER_UNKNOWN,
        TEXT_PENDING,
        SKILLS_LOADED,
        WEBHOOK_READY,
        QUEUED,
        STOPPED,
    ];
}

/// Labels.
pub mod label {
    /// Agent that an object belongs to; selector of its Deployment and Service.
    pub const AGENT: &str = "pilothouse.dev/agent";
    /// Template that an Agent or a Task names.
    pub const AGENT_TEMPLATE: &str = "pilothouse.dev/agent-template";
    /// Task that a pod or a `ConfigMap` belongs to.
    pub const TASK: &str = "pilothouse.dev/task";
    /// Task: the `CronTask` that made it.
    pub const CRONTASK: &str = "pilothouse.dev/crontask";
    /// Task: hash of the revision that it verifies.
    pub const VERIFIES: &str = "pilothouse.dev/verifies";
    /// Sync that applied an object: its name.
    pub const SYNC_NAME: &str = "pilothouse.dev/sync-name";
    /// Sync that applied an object: its namespace.
    pub const SYNC_NAMESPACE: &str = "pilothouse.dev/sync-namespace";
    /// What an object is, in the common vocabulary.
    pub const NAME: &str = "app.kubernetes.io/name";
    /// Which one of several it is.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Which part it plays.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// Who made it.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
}

/// Values of labels.
pub mod value {
    /// `app.kubernetes.io/name` of an agent's objects.
    pub const AGENT_NAME: &str = "pilothouse-agent";
    /// `app.kubernetes.io/component` of an agent's server.
    pub const SERVER: &str = "server";
    /// `app.kubernetes.io/name` of a Task's objects.
    pub const TASK_NAME: &str = "pilothouse-task";
    /// `app.kubernetes.io/component` of a Task's pod.
    pub const TASK: &str = "task";
    /// `app.kubernetes.io/managed-by` of all generated objects.
    pub const MANAGED_BY: &str = "pilothouse";
}

/// Annotations that people and tools set.
pub mod annotation {
    /// Task: `"true"` stops it.
    pub const STOP: &str = "pilothouse.dev/stop";
    /// Pod of a Task: how many tries were before this one; absent on the first.
    pub const ATTEMPT: &str = "pilothouse.dev/attempt";
    /// Pod of a Task: commits of the contexts and skills that it was started with, as JSON by their ids.
    pub const INPUTS: &str = "pilothouse.dev/inputs";
    /// Pod of a Task: `"true"` where it runs a command of the template, whose exit code counts.
    pub const COMMAND: &str = "pilothouse.dev/command";
    /// `CronTask`: `"true"` makes a Task now; the controller puts the time in its place, and takes it away when the Task is
    /// there.
    pub const TRIGGER: &str = "pilothouse.dev/trigger";
    /// Task made by a `CronTask`: the time of the schedule that it was made for, RFC 3339.
    pub const SCHEDULED_AT: &str = "pilothouse.dev/scheduled-at";
    /// Any kind: a new value asks for a reconcile now; echoed in `status.lastHandledReconcileAt`.
    pub const RECONCILE_AT: &str = "pilothouse.dev/reconcile-at";
    /// Agent and `CronTask`: `"true"` or `"false"`, wins over `spec.suspend`; owned by no Sync.
    pub const SUSPEND_OVERRIDE: &str = "pilothouse.dev/suspend-override";
    /// Agent: `hold` (or `hold: why`) lets no change go out; `now-HASH` lets the pod template of that hash go out at once,
    /// once; owned by no Sync.
    pub const ROLLOUT: &str = "pilothouse.dev/rollout";
    /// Agent: a revision that is kept in the place of what is wanted, by its id or commit; see `status.revisions`.
    pub const PINNED_TO: &str = "pilothouse.dev/pinned-to";
    /// Task in Git: a new value asks for another run.
    pub const RUN_ID: &str = "pilothouse.dev/run-id";
    /// Task in Git: `completed` makes the Sync wait for its end.
    pub const WAIT: &str = "pilothouse.dev/wait";
    /// Value of [`WAIT`].
    pub const WAIT_COMPLETED: &str = "completed";
    /// Set by a Sync: the revision that last changed the object's rendered bytes, or content that it follows.
    pub const REVISION: &str = "pilothouse.dev/revision";
    /// Agent, set by a Sync: hash of the content of the Sync's Repository that the Agent follows.
    pub const FOLLOWED: &str = "pilothouse.dev/followed";
    /// Any object in Git: `"disabled"` keeps it where pruning would delete it; `"enabled"` allows pruning of kinds that
    /// are kept otherwise (`CustomResourceDefinition`, Namespace, `PersistentVolume` and its claims).
    pub const PRUNE: &str = "pilothouse.dev/prune";
    /// Task created by a Sync: hash of the content that it was created for.
    pub const SPEC_HASH: &str = "pilothouse.dev/spec-hash";

    /// Deployment: which revisions passed their verification, and which one failed it, as JSON.
    pub const VERIFICATION: &str = "pilothouse.dev/verification";
    /// Deployment, and pods that are verified: hash of the pod template that was applied.
    pub const TEMPLATE_HASH: &str = "pilothouse.dev/template-hash";
    /// Deployment: hash of the pod template that waits.
    pub const PENDING_HASH: &str = "pilothouse.dev/pending-hash";
    /// Deployment: since when it waits, RFC 3339.
    pub const PENDING_SINCE: &str = "pilothouse.dev/pending-since";
    /// Deployment: what changed, sorted, separated by commas.
    pub const PENDING_CAUSES: &str = "pilothouse.dev/pending-causes";
    /// Deployment: `"true"` while it waits because [`ROLLOUT`] holds it.
    pub const PENDING_HELD: &str = "pilothouse.dev/pending-held";
    /// Pod template: version of the pod's layout.
    pub const LAYOUT: &str = "pilothouse.dev/layout";
    /// Agent: a new value asks for pods of the newest layout and sidecar. Deployment: the newest value that was carried out or
    /// had nothing to do. Pod template: the one that it was made for.
    pub const UPGRADE: &str = "pilothouse.dev/upgrade";
    /// Pod: `resourceVersion` of the gathered text; writing it makes the kubelet look at once.
    pub const CONTEXT_VERSION: &str = "pilothouse.dev/context-version";
    /// `ConfigMap` of gathered text: hash of it.
    pub const CONTEXT_HASH: &str = "pilothouse.dev/context-hash";
    /// `ConfigMaps` of an agent: digests of the artifacts that they name, sorted, with commas between. What a pod may
    /// fetch, and what is kept, is read from here.
    pub const ARTIFACTS: &str = "pilothouse.dev/artifacts";
    /// Beside [`ARTIFACTS`]: that the controller wrote it, for this Agent.
    pub const ARTIFACTS_SEAL: &str = "pilothouse.dev/artifacts-seal";
    /// `ConfigMap` of exchangeable content: hash of its manifest.
    pub const CONTENT_HASH: &str = "pilothouse.dev/content-hash";
}

/// Names of the objects that an Agent gets.
pub mod agent {
    /// The Deployment.
    pub fn deployment(agent: &str) -> String {
        format!("{agent}-server")
    }

    /// The Service: the agent's own name.
    pub fn service(agent: &str) -> String {
        agent.into()
    }

    /// The `ConfigMap` of gathered text, which changes in place.
    pub fn context(agent: &str) -> String {
        format!("{agent}-server-context")
    }

    /// The `ConfigMap` that says which content from Git is exchanged in the running pod; changes in place.
    pub fn content(agent: &str) -> String {
        format!("{agent}-server-content")
    }

    /// The `ConfigMap` that keeps revisions that were in use.
    pub fn history(agent: &str) -> String {
        format!("{agent}-server-history")
    }

    /// The `ConfigMap` of all other files; immutable, so its content (`hash`, ten digits of it) is in the name.
    pub fn files(agent: &str, hash: &str) -> String {
        format!("{}{}", files_prefix(agent), hash.chars().take(10).collect::<String>())
    }

    /// What the names of all such `ConfigMaps` of an agent begin with.
    pub fn files_prefix(agent: &str) -> String {
        format!("{agent}-server-files-")
    }

    /// The Secret with the server's password.
    pub fn auth(agent: &str) -> String {
        format!("{agent}-server-auth")
    }

    /// The claim that keeps sessions.
    pub fn sessions(agent: &str) -> String {
        format!("{agent}-server-sessions")
    }

    /// The claim that keeps the workspace.
    pub fn workspace(agent: &str) -> String {
        format!("{agent}-server-workspace")
    }
}

/// Names of the objects that a Task gets. Of a Task whose name leaves no room for more its beginning is in them, and a hash.
pub mod task {
    use super::{MAX, label, label_value, shortened};

    /// Digits of the hash in [`files`].
    const HASH: usize = 10;

    /// The pod.
    pub fn pod(task: &str) -> String {
        with(task, "-pod")
    }

    /// The `ConfigMap`. No Agent has one of this name, whatever the Task is called.
    pub fn context(task: &str) -> String {
        with(task, "-task-context")
    }

    /// The `ConfigMap` of what a pod of its own reads; immutable, so its content (`hash`, ten digits of it) is in the name. No
    /// Agent has one of this name, whatever the Task is called.
    pub fn files(task: &str, hash: &str) -> String {
        format!("{}{}", files_prefix(task), hash.chars().take(HASH).collect::<String>())
    }

    /// What the names of all such `ConfigMaps` of a Task begin with.
    pub fn files_prefix(task: &str) -> String {
        const END: &str = "-task-files-";
        format!("{}{END}", shortened(task, MAX - END.len() - HASH))
    }

    /// Key and value of the label by which a Task is found: its Agent's, else that of the template that its own pod is
    /// made of.
    pub fn label(agent: Option<&str>, template: Option<&str>) -> Option<(&'static str, String)> {
        let agent = agent.map(|name| (label::AGENT, name));
        let (key, name) = agent.or_else(|| Some((label::AGENT_TEMPLATE, template?)))?;
        Some((key, label_value(name)))
    }

    fn with(task: &str, end: &str) -> String {
        format!("{}{end}", shortened(task, MAX - end.len()))
    }

    /// Title of the session on the agent's server: `pilothouse/<namespace>/<task>/<first 8 of the uid>`.
    pub fn session_title(namespace: &str, task: &str, uid: &str) -> String {
        format!("pilothouse/{namespace}/{task}/{}", uid.chars().take(8).collect::<String>())
    }
}

/// Names of the objects that a `CronTask` gets.
pub mod crontask {
    /// The Task for a time, in whole seconds since the epoch: whoever makes it gives it the same name.
    pub fn task(crontask: &str, second: i64) -> String {
        format!("{crontask}-{second}")
    }
}

/// Finalizer of a Sync whose deletion deletes what it applied.
pub const SYNC_FINALIZER: &str = "pilothouse.dev/sync";
/// Secret of the release namespace with the controller's authority and certificate for sidecars.
pub const SERVING_SECRET: &str = "pilothouse-serving";
/// `ConfigMap` of every agent namespace with the certificate of that authority, under [`AUTHORITY_KEY`].
pub const AUTHORITY_CONFIG_MAP: &str = "pilothouse-authority";
/// Key in [`AUTHORITY_CONFIG_MAP`].
pub const AUTHORITY_KEY: &str = "ca.crt";
/// Audience of the projected tokens that sidecars present.
pub const AUDIENCE: &str = "pilothouse";
/// Name of the only `PilothouseConfig`.
pub const CONFIG: &str = "cluster";

/// Longest name of an object, in bytes.
const MAX: usize = 253;

/// A label's value for an object's name: the name itself up to 63 characters, else its beginning and a hash of all.
pub fn label_value(name: &str) -> String {
    shortened(name, 63)
}

/// A name of at most `most` bytes, which are more than 11: the name itself, else its beginning and a hash of all.
pub fn shortened(name: &str, most: usize) -> String {
    if name.len() <= most {
        return name.into();
    }
    let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let suffix = format!("{:010x}", u64::from_be_bytes([0, 0, 0, hash[0], hash[1], hash[2], hash[3], hash[4]]));
    let head: String = name.chars().filter(char::is_ascii).take(most.saturating_sub(suffix.len() + 1)).collect();
    format!("{}-{suffix}", head.trim_end_matches(['-', '.', '_']))
}

#[cfg(test)]
mod tests;
