//! `CronTask`: Tasks on a schedule.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TaskSpec, form, schema};

/// Longest name: that of a Task is made from it and a time, and has at most 63 characters.
pub const MAX_NAME: usize = 52;

/// When a Task is made, and which.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "CronTask",
    namespaced,
    shortname = "ct",
    category = "pilothouse",
    status = "CronTaskStatus",
    derive = "PartialEq",
    doc = "Tasks on a schedule.",
    validation = Rule::new("self.metadata.name.size() <= 52")
        .message("a CronTask's name has at most 52 characters, because those of its Tasks are made from it"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last Schedule", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.active", priority = "1"),
    // As text: a column of type date shows how long ago something was, and this is still to come.
    printcolumn(name = "Next Schedule", type_ = "string", json_path = ".status.nextScheduleTime", priority = "1")
)]
#[serde(rename_all = "camelCase")]
pub struct CronTaskSpec {
    /// When: five cron fields (minute, hour, day of the month, month, day of the week) with spaces between.
    #[schemars(length(min = 9, max = 256))]
    #[x_kube(
        validation = (
            "self.matches('^ *[^ ]+( +[^ ]+){4} *$')",
            "schedule has five fields with spaces between: minute, hour, day of the month, month, day of the week"
        ),
        validation = (
            "!self.matches('^ *[^ ]+( +[^ ]+){4} *$') || self.matches('^ *([*?]|[0-5]?[0-9](-[0-5]?[0-9])?)(/(0?[1-9]|[1-9][0-9]))?(,([*?]|[0-5]?[0-9](-[0-5]?[0-9])?)(/(0?[1-9]|[1-9][0-9]))?)* ')",
            "schedule: the first field (minute) is made of 0 to 59, *, ranges (1-5), lists (1,3) and steps (*/2)"
        ),
        validation = (
            "!self.matches('^ *[^ ]+( +[^ ]+){4} *$') || self.matches('^ *[^ ]+ +([*?]|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3]))?)(/(0?[1-9]|[1-9][0-9]))?(,([*?]|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3]))?)(/(0?[1-9]|[1-9][0-9]))?)* ')",
            "schedule: the second field (hour) is made of 0 to 23, *, ranges (1-5), lists (1,3) and steps (*/2)"
        ),
        validation = (
            "!self.matches('^ *[^ ]+( +[^ ]+){4} *$') || self.matches('^ *([^ ]+ +){2}([*?]|(0?[1-9]|[12][0-9]|3[01])(-(0?[1-9]|[12][0-9]|3[01]))?)(/(0?[1-9]|[1-9][0-9]))?(,([*?]|(0?[1-9]|[12][0-9]|3[01])(-(0?[1-9]|[12][0-9]|3[01]))?)(/(0?[1-9]|[1-9][0-9]))?)* ')",
            "schedule: the third field (day of the month) is made of 1 to 31, *, ranges (1-5), lists (1,3) and steps (*/2)"
        ),
        validation = (
            "!self.matches('^ *[^ ]+( +[^ ]+){4} *$') || self.matches('^ *([^ ]+ +){3}([*?]|(0?[1-9]|1[0-2]|[A-Za-z]{3})(-(0?[1-9]|1[0-2]|[A-Za-z]{3}))?)(/(0?[1-9]|[1-9][0-9]))?(,([*?]|(0?[1-9]|1[0-2]|[A-Za-z]{3})(-(0?[1-9]|1[0-2]|[A-Za-z]{3}))?)(/(0?[1-9]|[1-9][0-9]))?)* ')",
            "schedule: the fourth field (month) is made of 1 to 12 or JAN to DEC, *, ranges (1-5), lists (1,3) and steps (*/2)"
        ),
        validation = (
            "!self.matches('^ *[^ ]+( +[^ ]+){4} *$') || self.matches('^ *([^ ]+ +){4}([*?]|(0?[0-7]|[A-Za-z]{3})(-(0?[0-7]|[A-Za-z]{3}))?)(/(0?[1-9]|[1-9][0-9]))?(,([*?]|(0?[0-7]|[A-Za-z]{3})(-(0?[0-7]|[A-Za-z]{3}))?)(/(0?[1-9]|[1-9][0-9]))?)* *$')",
            "schedule: the fifth field (day of the week) is made of 0 to 7 or SUN to SAT, *, ranges (1-5), lists (1,3) and steps (*/2)"
        )
    )]
    pub schedule: String,
    /// Time zone of the schedule, by its name in the time zone database: Europe/Berlin. UTC unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = form::ZONE.pattern))]
    pub time_zone: Option<String>,
    /// What happens when a Task of this `CronTask` is not finished: Forbid (nothing is made, and the time is skipped), Allow
    /// (one more), Replace (it is stopped, and one is made).
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Whether no Task is made. Those that run go on; times that pass meanwhile are not made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How many seconds late a Task may still be made, after an outage of the controller. Any number unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub starting_deadline_seconds: Option<i64>,
    /// How many Tasks of this `CronTask` there may be, finished ones counted. Nothing is made beyond, and nothing deleted.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub max_retained_tasks: i32,
    /// Each run is late by a number of seconds from 0 to this one: always the same for one `CronTask`, so that many with one
    /// schedule spread. 0 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub jitter_seconds: Option<i32>,
    /// The Task that is made.
    pub task_template: TaskTemplate,
}

fn ten() -> i32 {
    10
}

/// What happens when a Task of the `CronTask` is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// One more is made.
    Allow,
    /// Nothing is made, and the time is skipped.
    #[default]
    Forbid,
    /// It is stopped, and a new one is made.
    Replace,
}

/// A Task to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskTemplate {
    /// What it carries besides its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TaskTemplateMeta>,
    /// Its spec.
    pub spec: TaskSpec,
}

/// What a Task to be made carries besides its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskTemplateMeta {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is known about a `CronTask`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CronTaskStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Value of the annotation pilothouse.dev/reconcile-at that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Ready, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How many of its Tasks are not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<i32>,
    /// Its Tasks that are not finished, 50 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub active_refs: Vec<TaskRef>,
    /// The time of the schedule that a Task was made for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// When one of its Tasks last ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
    /// The time of the schedule that a Task will be made for next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
    /// The next three times of the schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "atomic"))]
    pub next_schedule_times: Vec<Time>,
    /// How many Tasks were made, by schedule and by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_executions: Option<i64>,
    /// The last time of the schedule for which no Task was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_skip: Option<Skip>,
    /// Schedule and time zone that the times are those of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_schedule: Option<String>,
    /// Since when they are: nothing is made up for what was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_since: Option<Time>,
}

/// A Task of a `CronTask`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRef {
    /// Task.
    pub kind: String,
    /// Name of the Task.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

/// A time of the schedule for which no Task was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skip {
    /// The time.
    pub time: Time,
    /// Why, in a word.
    pub reason: String,
    /// Why.
    pub message: String,
}
