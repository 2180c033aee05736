//! Reasons of conditions and events: stable, documented, one place. `docs/troubleshooting.md` is made from this table.

/// A reason, what it means, and what its reader should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// As it stands in conditions and events.
    pub name: &'static str,
    /// Kinds whose conditions or events show it.
    pub kinds: &'static [&'static str],
    /// What it means, in a sentence.
    pub meaning: &'static str,
    /// What to do, in a sentence.
    pub remedy: &'static str,
}

/// The entry for a reason.
pub fn reason(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|r| r.name == name)
}

const ALL: &[&str] = &["Repository", "Sync", "Agent", "AgentTemplate", "Task", "CronTask", "PilothouseConfig"];

/// In no condition and no event: the log of the controller alone has it.
const PROCESS: &[&str] = &["the controller's log"];

/// Declares each reason once: its constant (documented by its meaning) and its row in the table.
macro_rules! reasons {
    ($($constant:ident $name:literal $kinds:expr, $meaning:literal, $remedy:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*

        /// Every reason, in the order of the documentation: common ones, then by kind.
        pub const REASONS: &[Reason] =
            &[$(Reason { name: $name, kinds: $kinds, meaning: $meaning, remedy: $remedy }),*];
    };
}

/// The reasons, as constants.
#[allow(clippy::doc_markdown)] // sentences for people, shown as they are in the documentation
pub mod text {
    use super::{ALL, PROCESS, Reason};

    reasons! {
        // Common.
        PROGRESSING "Progressing" &["Repository", "Sync", "Agent", "Task"],
            "Work towards the spec is going on.", "Wait; the message says what for.";
        SUSPENDED "Suspended" &["Repository", "Sync", "Agent", "CronTask"],
            "The object is suspended and left as it is.", "Set spec.suspend to false to go on.";
        NOT_YET_SUPPORTED "NotYetSupported" ALL,
            "The object uses a field that this release does not implement.",
            "Remove the fields that the message names, or install a release that has them.";
        INVALID_SPEC "InvalidSpec" &["Repository", "Sync", "Agent", "Task", "PilothouseConfig"],
            "The spec contradicts itself or names something impossible.", "Change the field that the message names.";
        VALID "Valid" &["AgentTemplate", "PilothouseConfig"],
            "The object is valid and in use.", "Nothing.";
        INTERNAL_ERROR "InternalError" ALL,
            "The controller met a fault of its own and keeps trying.",
            "Report it with the controller's log of that time.";
        TIMEOUT "Timeout" ALL,
            "Something took longer than its limit.",
            "See what the message names; raise the limit (spec.timeout) if the time is needed.";
        STATUS_WRITE_FAILED "StatusWriteFailed" PROCESS,
            "The status could not be written; the controller keeps trying.",
            "Check the API server and the controller's rights to the status subresource.";
        LISTEN_FAILED "ListenFailed" PROCESS,
            "The controller cannot listen on one of its addresses, and ends.",
            "Free the port that the message names, or choose another by --listen or --voice-listen.";
        LEADERSHIP_LOST "LeadershipLost" PROCESS,
            "The controller could not renew its Lease and ends, so that no late write meets the next leader.",
            "Nothing: it is started again. Where it repeats, see how long the API server takes to answer.";
        CLUSTER_UNAVAILABLE "ClusterUnavailable" &["Repository", "Sync", "Agent"],
            "The API server did not answer or refused for now; the controller keeps trying.",
            "Check the API server.";
        GONE "Gone" &["Sync"],
            "The object was deleted while it was reconciled; nothing more happens to it.",
            "Nothing is to be done.";
        SERVING_SECRET_CONFLICT "ServingSecretConflict" PROCESS,
            "Other replicas keep writing the Secret pilothouse-serving; the controller does not start.",
            "See who else writes it; it must belong to one installation only.";
        SERVING_CERTIFICATE_BROKEN "ServingCertificateBroken" PROCESS,
            "The certificate of the sidecars' connection cannot be made or read; the controller does not start.",
            "Delete the Secret pilothouse-serving: it is made anew.";
        SERVING_SECRET_UNAVAILABLE "ServingSecretUnavailable" PROCESS,
            "The Secret pilothouse-serving cannot be read or written; the controller does not start.",
            "Check the controller's rights in its own namespace (the chart's Role).";
        FORBIDDEN "Forbidden" &["Sync", "Agent"],
            "The API server refuses the account that acts.",
            "Bind the role that the message names to that account.";
        SECRET_NOT_FOUND "SecretNotFound" &["Repository", "Agent", "Task"],
            "A Secret that the spec names does not exist.", "Create it; it is taken up at once.";
        SECRET_INVALID "SecretInvalid" &["Repository", "Agent", "Task"],
            "A Secret lacks the keys that are needed, or holds values that make no sense.",
            "Correct the keys that the message names.";
        CONFIG_MAP_NOT_FOUND "ConfigMapNotFound" &["Agent", "Task"],
            "A ConfigMap that the spec names, or a key of it, does not exist.", "Create it; it is taken up at once.";

        // Repository.
        FETCHED "Fetched" &["Repository"],
            "The artifact is what the remote has.", "Nothing.";
        PATH_PUBLISHED "PathPublished" &["Repository"],
            "status.webhookPath is what the forge is to call.", "Nothing.";
        AUTHENTICATION_FAILED "AuthenticationFailed" &["Repository", "Agent", "Task"],
            "The remote refuses the credential, or wants one.",
            "Check the Secret of secretRef: its keys, and whether the token is still valid and may read.";
        REPOSITORY_NOT_FOUND "RepositoryNotFound" &["Repository", "Sync", "Agent", "Task"],
            "There is no such repository, or the credential may not see it.",
            "Check the URL or the name, and the rights of the credential.";
        REFERENCE_NOT_FOUND "ReferenceNotFound" &["Repository", "Agent", "Task"],
            "The remote has no such branch, tag or ref.", "Check the ref, or push it.";
        COMMIT_NOT_FOUND "CommitNotFound" &["Repository", "Agent", "Task"],
            "The remote does not hand out that commit.",
            "Check the id; some forges only hand out commits that a branch or a tag reaches.";
        HOST_KEY_MISMATCH "HostKeyMismatch" &["Repository", "Agent", "Task"],
            "The SSH host key is not among the known hosts.",
            "Compare the key with what the forge publishes and put it into known_hosts of the Secret.";
        TLS_FAILED "TLSFailed" &["Repository", "Agent", "Task"],
            "The certificate of the remote is not trusted or does not fit.",
            "Put the authority's certificate into ca.crt of the Secret, or correct the URL.";
        UNREACHABLE "Unreachable" &["Repository", "Agent", "Task"],
            "No connection to the remote.", "Check the address, DNS, proxies and NetworkPolicies.";
        RATE_LIMITED "RateLimited" &["Repository", "Agent", "Task"],
            "The remote asks for fewer requests.", "Use a credential with a higher limit, or longer intervals.";
        TOO_LARGE "TooLarge" &["Repository", "Agent", "Task"],
            "A listing, a pack or a tree is larger than allowed, or a path that an Agent wants.",
            "Leave out files with spec.ignore where the tree is too large, choose a path below it, or use a smaller repository. The limits are fixed.";
        CHECKOUT_REFUSED "CheckoutRefused" &["Agent", "Task"],
            "A file of the commit has a name or a link that cannot be put into a pod, so the repository cannot be mounted as a whole.",
            "Rename the file that the message names, or set `path` to a directory without it.";
        SUBMODULE_REFUSED "SubmoduleRefused" &["Repository", "Agent", "Task"],
            "A submodule has no address in .gitmodules, or one that cannot be used, or there are too many or too deep ones.",
            "Correct .gitmodules at the path that the message names, remove the submodule, or do not set `recurseSubmodules`.";
        ADDRESS_REFUSED "AddressRefused" &["Repository", "Agent", "Task"],
            "The host of the URL, or of a redirect, leads to loopback, a link-local or metadata address, or the API server, where no Git server may be.",
            "Use another URL, or correct what the name resolves to. Where a Git server is there on purpose: `--allow-git-address` (chart: `controller.git.allowAddresses`).";
        PROTOCOL_ERROR "ProtocolError" &["Repository", "Agent", "Task"],
            "What the remote sent makes no sense as Git.", "Check that the URL is that of a Git repository.";
        STORAGE_FAILED "StorageFailed" &["Repository", "Sync", "Agent", "Task"],
            "The controller's own disk failed or is full, or there is no room left in a share of it.",
            "The message says which share and what may be left out; or give the controller's volume more room.";
        CANCELLED "Cancelled" &["Repository"],
            "The fetch was given up because nobody wants it any more.", "Nothing.";

        // Sync.
        APPLIED "Applied" &["Sync"],
            "Everything is applied and, where asked, healthy.", "Nothing.";
        REPOSITORY_NOT_READY "RepositoryNotReady" &["Sync", "Agent", "Task"],
            "The Repository has no artifact yet, or fails.", "See the Repository's own conditions.";
        PATH_NOT_FOUND "PathNotFound" &["Sync", "Agent", "Task"],
            "The repository has no such file or directory at this commit.", "Correct the path, or push the directory.";
        RENDER_FAILED "RenderFailed" &["Sync"],
            "The files do not render; what was applied before stays.",
            "Correct the file and line that the message names, and push; pilothouse render PATH shows the same.";
        RENDER_WARNING "RenderWarning" &["Sync"],
            "The files render, and something in them looks wrong: a patch whose target fits no object, for example.",
            "Correct the file and line that the message names, or leave it: it is applied as it is.";
        NAMESPACE_NOT_WATCHED "NamespaceNotWatched" &["Sync"],
            "An object of a kind of Pilothouse goes to a namespace that the controller does not watch: nobody would act on it.",
            "Add the namespace to agentNamespaces of the chart (--watch-namespaces), or choose another by spec.targetNamespace.";
        EMPTY_RENDER "EmptyRender" &["Sync"],
            "The files render to nothing, and pruning everything is refused.",
            "Correct spec.path; to remove everything, delete the Sync.";
        INVENTORY_TOO_LARGE "InventoryTooLarge" &["Sync"],
            "The list of all objects of the Sync does not fit into its status; nothing of the commit is applied.",
            "Split the Sync: a folder and a Sync for each part of the files; the message says where two pushes are enough.";
        ARTIFACT_INVALID "ArtifactInvalid" &["Sync", "Agent"],
            "A stored artifact does not have the content it was published with.",
            "It is fetched again; where it comes back, check the volume.";
        APPLY_FAILED "ApplyFailed" &["Sync", "Agent"],
            "The API server refuses an object.", "Correct the object that the message names.";
        PRUNE_FAILED "PruneFailed" &["Sync"],
            "An object that is gone from the files could not be deleted.", "See the message.";
        OWNED_BY_ANOTHER_SYNC "OwnedByAnotherSync" &["Sync"],
            "An object belongs to the inventory of another Sync.",
            "Keep the object in the files of one of the two only.";
        KIND_NOT_FOUND "KindNotFound" &["Sync"],
            "The cluster does not know a kind in the files.",
            "Install its CustomResourceDefinition, or put it into an earlier Sync.";
        HEALTH_CHECKING "HealthChecking" &["Sync"],
            "Everything is applied; not everything is healthy yet.", "Wait; the message names what is not.";
        HEALTH_CHECK_FAILED "HealthCheckFailed" &["Sync"],
            "An applied object is not healthy, or did not get so in time.",
            "See that object's own conditions and events.";

        PRUNE_SKIPPED "PruneSkipped" &["Sync"],
            "An object that is gone from the files was not deleted; the event says which, and why.",
            "Delete it by hand, if it is to go.";

        // Agent.
        AVAILABLE "Available" &["Agent"],
            "The server takes work.", "Nothing.";
        TEMPLATE_NOT_FOUND "TemplateNotFound" &["Agent", "Task"],
            "The AgentTemplate does not exist.", "Create it, or correct templateRef; it is taken up at once.";
        IMAGE_MISSING "ImageMissing" &["Agent", "Task"],
            "No image is set, neither here nor in the template nor in PilothouseConfig.",
            "Set the field that the message names, best pinned, in PilothouseConfig for all.";
        INVALID_CONFIG "InvalidConfig" &["Agent", "AgentTemplate", "Task"],
            "config is no JSON object.", "Correct it; the message has the position.";
        CONTEXT_TOO_LARGE "ContextTooLarge" &["Agent", "Task"],
            "The contexts are larger than a ConfigMap may be.",
            "Shorten the items that the message names, or move them to Git.";
        NO_SKILLS "NoSkills" &["Agent", "Task"],
            "A source of skills has none that the server could load.",
            "Correct the SKILL.md that the message names, or the path; what was applied before stays.";
        CONTEXT_CONFLICT "ContextConflict" &["Agent", "Task"],
            "Two items go to the same path.", "Give one of them another mountPath.";
        NAME_CONFLICT "NameConflict" &["Sync", "Agent", "Task", "CronTask"],
            "An object of a generated name exists and is not ours; it is left alone.",
            "Rename the Agent or Task, or delete that object.";
        DEPLOYMENT_READY "DeploymentReady" &["Agent"],
            "The Deployment has a ready pod.", "Nothing.";
        POD_NOT_STARTING "PodNotStarting" &["Agent"],
            "The agent's pod cannot be made, finds no node, gets no image, or ends again and again.",
            "The message says which; correct the field, the image or the Secret, or see the container's log.";
        DEPLOYMENT_NOT_READY "DeploymentNotReady" &["Agent"],
            "The Deployment has no ready pod.", "See the pod's events and logs.";
        DEPLOYMENT_NOT_FOUND "DeploymentNotFound" &["Agent"],
            "The Deployment does not exist.", "It is created again; see the other conditions.";
        DEPLOYMENT_HEALTHY "DeploymentHealthy" &["Agent"],
            "The server answers.", "Nothing.";
        PROGRESS_DEADLINE_EXCEEDED "ProgressDeadlineExceeded" &["Agent"],
            "The pods of a new revision do not get ready in time; an older one serves on, if there is one.",
            "See the message, and the pod's events and logs; undo the change. spec.rollout.autoRollback does that by itself.";
        UNPROTECTED_SERVER "UnprotectedServer" &["Agent"],
            "A custom command makes the server listen on all addresses, beside the door that asks for the password.",
            "Let it listen on 127.0.0.1.";
        USER_REQUESTED "UserRequested" &["Agent"],
            "Suspended by spec.suspend or by the annotation pilothouse.dev/suspend-override.",
            "Set it to false to wake the agent.";
        ACTIVE "Active" &["Agent"],
            "Not suspended.", "Nothing.";
        WAITING_FOR_TASKS "WaitingForTasks" &["Agent"],
            "A change waits for work to end.",
            "Wait, or lower spec.rollout.timeout; the message says what is waited for.";
        HELD "Held" &["Agent"],
            "The annotation pilothouse.dev/rollout of the Agent holds all changes.",
            "pilothouse rollout agent NAME --resume, when whoever set it agrees.";
        ORDER_UNKNOWN "OrderUnknown" &["Agent"],
            "The annotation pilothouse.dev/rollout of the Agent has a value that means nothing; it has no effect.",
            "Use pilothouse rollout agent NAME --now, --hold or --resume, which set and remove it.";
        PINNED "Pinned" &["Agent"],
            "An older revision is kept, as the annotation pilothouse.dev/pinned-to asks; nothing newer arrives.",
            "pilothouse rollback agent NAME --release, when the newest may come.";
        RELEASED "Released" &["Agent"],
            "The agent is pinned no more: what is newest comes.", "Nothing.";
        REVISION_UNKNOWN "RevisionUnknown" &["Agent"],
            "The annotation pilothouse.dev/pinned-to names a revision that is not kept; what runs goes on.",
            "Take one of those that the message names, or take the annotation away.";
        WAITING_FOR_FLEET "WaitingForFleet" &["Agent"],
            "A change waits until other agents are through with theirs: spec.fleet of PilothouseConfig cluster sets the pace.",
            "Wait; for this agent alone: pilothouse rollout agent NAME --now.";
        FLEET_CLOSED "FleetClosed" &["Agent"],
            "No change goes out now: spec.fleet of PilothouseConfig cluster has a freeze or windows, or is not valid.",
            "Wait for the time that the message names, or ask who set the freeze; pilothouse rollout agent NAME --now goes out all the same.";
        FLEET_STOPPED "FleetStopped" &["Agent"],
            "Another agent has failed with the same change, so it goes out to nobody else.",
            "Mend the agent that the message names, or push something newer; pilothouse rollout agent NAME --now goes out all the same.";
        WAIT_ENDED "WaitEnded" &["Agent"],
            "A change that waited was taken back.", "Nothing.";
        ROLLED_BACK "RolledBack" &["Agent"],
            "The pods of a new revision did not get ready in time; the last good revision runs in its place.",
            "Correct what the message names and push; pilothouse rollout agent NAME --now tries the same again.";
        ROLLOUT_FORCED "RolloutForced" &["Agent"],
            "A change went out although work had not ended: its time was over, or somebody asked for that.",
            "For more patience raise spec.rollout.timeout, or set onTimeout to Wait.";
        WORK_CUT "WorkCut" &["Agent"],
            "A pod was told to end and was stopped in the middle of its work, because its time for that was over.",
            "For more time raise spec.rollout.timeout; a node that goes at once leaves none.";
        WAITING_FOR_IDLE "WaitingForIdle" &["Agent"],
            "New text waits until the server is idle; the pod stays.",
            "Wait, or set spec.rollout.live to Immediately; the message says which text, and what is waited for.";
        TEXT_FORCED "TextForced" &["Agent"],
            "New text was written although work had not ended, because its time was over.",
            "Nothing, unless the work has to end with the text that it began with: then raise spec.rollout.timeout.";
        TEXT_UNSEEN "TextUnseen" &["Agent"],
            "New text was written and the pods were touched, but none shows it.",
            "See whether the pod's node and its kubelet are well; a new pod has the text from its start.";
        CONTENT_NOT_READY "ContentNotReady" &["Agent", "Task"],
            "A Git context or a source of skills has no commit yet.",
            "Wait; where it lasts, see status.gitSyncStatuses and the Repository: address, credential, reference, path.";
        WAITING_FOR_RELOAD "WaitingForReload" &["Agent"],
            "New commits of Git contexts or skills are decided and not in the running pod yet.",
            "Wait: they arrive when the server is idle; the message says what is waited for.";
        WORKSPACE_DIRTY "WorkspaceDirty" &["Agent"],
            "A new commit of a whole repository changes files that were changed in the pod, or the branch there has commits of its own. Nothing was touched.",
            "Push the work elsewhere or undo it; the commit comes in by itself then. A new pod begins with the commit.";
        CONTENT_PENDING "ContentPending" &["Agent"],
            "New commits of Git contexts or skills begin to wait for work to end.",
            "Wait, or set spec.rollout.live to Immediately: contexts do not wait then.";
        CONTENT_FORCED "ContentForced" &["Agent"],
            "New commits of Git contexts or skills were brought although work had not ended, because its time was over.",
            "For more patience raise spec.rollout.timeout, or set onTimeout to Wait.";
        CONTENT_LOADED "ContentLoaded" &["Agent"],
            "A new commit of a Git context or of skills is in the running pod.", "Nothing.";
        RELOAD_FAILED "ReloadFailed" &["Agent"],
            "The server did not take new content; what was there before is back, and this commit is not tried again.",
            "Correct what the message names and push; a new pod tries the same commit once more.";
        SKILLS_IN_USE "SkillsInUse" &["Agent"],
            "The server has loaded every skill that it was given.", "Nothing.";
        SKILLS_INVALID "SkillsInvalid" &["Agent"],
            "Some skills break the rules of a SKILL.md and were left out; the others are loaded.",
            "Correct the files that the message names, and push.";
        SKILLS_MISSING "SkillsMissing" &["Agent"],
            "The server does not list skills that are in its pod.",
            "See the server's log; a permission in spec.config may hide them, or another skill has the same name.";
        SKILLS_UNKNOWN "SkillsUnknown" &["Agent"],
            "No pod has said yet which skills its server has loaded.",
            "Wait for the pod to get ready; see its sidecar's log where it does not.";
        SYNCED "Synced" &["Agent"],
            "Nothing waits.", "Nothing.";

        USER_SUSPENDED "UserSuspended" &["Agent"],
            "The agent was suspended and has no pod any more.",
            "Set spec.suspend or the annotation pilothouse.dev/suspend-override to false to wake it.";
        RESUMED "Resumed" &["Agent"],
            "The agent is not suspended any more and gets a pod.", "Nothing.";
        READY "Ready" &["Agent"],
            "The server takes work.", "Nothing.";
        NOT_READY "NotReady" &["Agent"],
            "The server took work and takes none now.", "See the Agent's conditions, and the pod's events and logs.";
        ROLLOUT_PENDING "RolloutPending" &["Agent"],
            "A change that needs a new pod begins to wait for work to end.",
            "Wait, or lower spec.rollout.timeout; the message says what is waited for.";
        TEXT_PENDING "TextPending" &["Agent"],
            "New text begins to wait until the server is idle.",
            "Wait, or set spec.rollout.live to Immediately.";
        ROLLOUT_STARTED "RolloutStarted" &["Agent"],
            "A new pod was asked for; the message names what changed.", "Nothing.";
        VERIFICATION_FAILED "VerificationFailed" &["Agent"],
            "A new revision did not pass the Task of spec.rollout.verify; it takes no work, and it is not tried again.",
            "See that Task and its pod's log, correct what it found and push. Where the last good revision runs in its \
             place, pilothouse rollout agent NAME --now tries the same again.";
        VERIFICATION_STARTED "VerificationStarted" &["Agent"],
            "The Task was made that the new revision has to pass before it takes work.", "Nothing.";
        VERIFICATION_PASSED "VerificationPassed" &["Agent"],
            "A new revision passed its verification and takes work.", "Nothing.";
        OLD_REVISION_WORKS "OldRevisionWorks" &["Agent"],
            "Side by side: the new revision takes work, and a pod of an older one ends what it has begun.",
            "Nothing: it goes when that ends, after spec.rollout.timeout at the latest.";
        OLD_REVISION_LEFT "OldRevisionLeft" &["Agent"],
            "Side by side: no pod of an older revision works any more.", "Nothing.";
        SERVICE_CREATED "ServiceCreated" &["Agent"],
            "The agent's Service was created.", "Nothing.";
        DEPLOYMENT_CREATED "DeploymentCreated" &["Agent"],
            "The agent's Deployment was created.", "Nothing.";

        // Task.
        QUEUED "Queued" &["Task"],
            "The Task waits for the agent or for a free place.", "Wait; the condition Queued says for what.";
        RUNNING "Running" &["Task"],
            "The Task runs.", "Nothing.";
        HISTORY_UNAVAILABLE "HistoryUnavailable" &["Task"],
            "The database of the history cannot be used; or a Task was deleted a day after its end, although it was not in the history.",
            "Check the database and its URL (the controller's log says what is wrong); metric pilothouse_history_up.";
        BUDGET_EXCEEDED "BudgetExceeded" &["Task"],
            "The session cost more, or took more tokens, than spec.budget allows, and was aborted.",
            "Raise spec.budget, or give the agent less to do at a time.";
        COMPLETED "Completed" &["Task"],
            "The Task has ended well.", "Nothing.";
        FAILED "Failed" &["Task"],
            "The Task has ended in an error.", "See the message and the logs of its pod.";
        AGENT_NOT_FOUND "AgentNotFound" &["Task"],
            "The Agent does not exist.", "Create it, or correct agentRef; it is taken up at once.";
        AGENT_SUSPENDED "AgentSuspended" &["Task"],
            "The agent is suspended.", "Wake the agent.";
        AGENT_SERVER_NOT_READY "AgentServerNotReady" &["Task"],
            "The agent's server does not take work yet.", "See the Agent's conditions.";
        AGENT_DRAINING "AgentDraining" &["Task"],
            "A rollout of the agent waits for the work that runs there, or is on its way, and spec.rollout.drain lets no more begin.",
            "Wait: the Task starts after the rollout; the message says what is waited for.";
        AGENT_AT_CAPACITY "AgentAtCapacity" &["Task"],
            "The agent runs as many Tasks as maxConcurrentTasks allows.", "Wait, or raise it.";
        QUOTA_EXCEEDED "QuotaExceeded" &["Task"],
            "As many Tasks as the agent's quota allows have started within its window.",
            "Wait: the next one starts when the window has left a start behind; or raise the quota.";
        CATCHING_UP "CatchingUp" &["Task"],
            "The controller has just begun to lead, and does not see all pods of Tasks of the namespace yet.",
            "Wait; if it lasts, see the controller's log for watches that fail.";
        RETRYING "Retrying" &["Task"],
            "A try has failed; another one follows after the backoff.", "Nothing; status.tries has what failed.";
        CAPACITY_AVAILABLE "CapacityAvailable" &["Task"],
            "There was a free place.", "Nothing.";
        NO_LIMITS "NoLimits" &["Task"],
            "The agent has no limits.", "Nothing.";
        USER_STOPPED "UserStopped" &["Task"],
            "Stopped by the annotation pilothouse.dev/stop.", "Nothing.";
        AGENT_ERROR "AgentError" &["Task"],
            "The agent's server reports an error for the session.",
            "See the message: mostly the model provider's credential, quota or name.";
        ABORTED "Aborted" &["Task"],
            "The session was aborted before it was done.",
            "Create the Task again; somebody stopped its session or its pod.";
        OOM_KILLED "OOMKilled" &["Task"],
            "The Task's pod used more memory than its limit.", "Report it: the answer of the agent was very large.";
        IMAGE_PULL_FAILED "ImagePullFailed" &["Task"],
            "The image of the Task's pod cannot be pulled.",
            "Check spec.systemImage of PilothouseConfig, and images and imagePullSecrets of the agent or the template.";
        POD_UNSCHEDULABLE "PodUnschedulable" &["Task"],
            "No node takes the Task's pod.", "See the message: nodes, taints, resources.";
        CONTAINER_NOT_CREATED "ContainerNotCreated" &["Task"],
            "A container of the Task's pod cannot be created, or ends again and again.",
            "See the message, the pod's events, and the container's log.";
        CRASH_LOOP "CrashLoop" &["Task"],
            "A container of the Task's pod ended again and again before the work began; the pod was deleted.",
            "See its exit code in the message, and its log in another pod of the same template.";
        POD_CREATED "PodCreated" &["Task"],
            "The Task's pod was created.", "Nothing.";
        POD_CREATION_FAILED "PodCreationFailed" &["Task"],
            "The Task's pod could not be created; it is tried again, and others go first.",
            "See the message: quotas, admission rules, rights of the controller.";
        STOPPED "Stopped" &["Task"],
            "The Task was stopped.", "Nothing.";
        POD_EVICTED "PodEvicted" &["Task"],
            "The node evicted the Task's pod.", "Create the Task again, or set spec.retry; see the node's events.";
        POD_DELETED "PodDeleted" &["Task"],
            "The Task's pod was deleted before the Task ended, and has aborted its session.",
            "Create the Task again, or set spec.retry; see who deletes pods: a drained node, a person.";
        POD_LOST "PodLost" &["Task"],
            "The Task's pod is gone before the Task ended, and has said nothing.", "Create the Task again, or set spec.retry; see the node's events.";
        POD_FAILED "PodFailed" &["Task"],
            "The Task's pod failed.", "See the message and the pod's events.";
        SESSION_LOST "SessionLost" &["Task"],
            "The agent's server no longer knows the session, or was restarted under it.", "Create the Task again, or set spec.retry.";

        // CronTask.
        SCHEDULED "Scheduled" &["CronTask"],
            "The next Task will be made at status.nextScheduleTime.", "Nothing.";
        INVALID_SCHEDULE "InvalidSchedule" &["CronTask"],
            "spec.schedule or spec.timeZone makes no sense; no Task is made by schedule.",
            "Correct the field at the position that the message names; pilothouse cron next shows what an expression means.";
        ACTIVE_TASK_EXISTS "ActiveTaskExists" &["CronTask"],
            "A time of the schedule was skipped, because a Task of this CronTask was not finished and concurrencyPolicy is Forbid.",
            "Nothing, or give the Task a timeout, or set concurrencyPolicy to Allow or Replace.";
        TASK_STILL_ACTIVE "TaskStillActive" &["CronTask"],
            "A time of the schedule is skipped, because a Task of this CronTask is not finished and concurrencyPolicy is Forbid.",
            "Nothing, or give the Task a timeout, or set concurrencyPolicy to Allow or Replace.";
        MISSED_DEADLINE "MissedDeadline" &["CronTask"],
            "A time of the schedule was skipped: when the controller came to it, startingDeadlineSeconds were over.",
            "See why the controller did not run then; raise startingDeadlineSeconds if late runs are welcome.";
        TOO_MANY_MISSED "TooManyMissed" &["CronTask"],
            "More than 100 times of the schedule passed while no controller looked; one Task at most is made for them.",
            "See why the controller did not run then.";
        SLOTS_MISSED "SlotsMissed" &["CronTask"],
            "Times of the schedule passed while no controller looked; only the last one gets a Task.",
            "See why the controller did not run then.";
        MAX_RETAINED_TASKS_REACHED "MaxRetainedTasksReached" &["CronTask"],
            "As many Tasks of this CronTask exist as maxRetainedTasks allows, so no more are made.",
            "Delete old ones, or let spec.cleanup of PilothouseConfig do it; or raise maxRetainedTasks.";
        TASK_CREATED "TaskCreated" &["CronTask"],
            "A Task was made for a time of the schedule.", "Nothing.";
        TRIGGERED "Triggered" &["CronTask"],
            "A Task was made by hand.", "Nothing.";
        REPLACED_TASKS "ReplacedTasks" &["CronTask"],
            "Tasks that were not finished are stopped for a new one, as concurrencyPolicy Replace says.", "Nothing.";
        TASK_CREATION_FAILED "TaskCreationFailed" &["CronTask"],
            "The Task could not be made; it is tried again.",
            "See the message: quotas, admission rules, rights of the controller, or spec.taskTemplate.";
    }
}

pub use text::REASONS;
