//! `pilothouse reconcile`: asks the controller to look at an object now.

mod kinds;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use futures::{Stream, StreamExt};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    runtime::watcher,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Global,
    controller::client,
    output,
    target::{self, Target},
};
use crate::api::{
    duration,
    names::{annotation::RECONCILE_AT, condition},
};
use kinds::Named;

/// Field manager of what the commands write.
pub const MANAGER: &str = "pilothouse-cli";

/// Flags of `pilothouse reconcile`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Kinds: repository (repo), sync, agent (ag), agenttemplate (agt), task (tk), crontask (ct),
pilothouseconfig (phc).

Examples:
  pilothouse reconcile repository team-config -n agents
  pilothouse reconcile sync/team-config --wait --timeout 2m
  pilothouse reconcile ag coder --wait -o json

With --wait the exit code is 0 once the controller has looked at the object and it is ready, and 1 when it is stalled
or the time is over.")]
pub struct Args {
    /// The object
    #[command(flatten)]
    pub target: Target,
    /// Wait until the controller has looked at it and it is ready
    #[arg(short, long, env = "PILOTHOUSE_WAIT")]
    pub wait: bool,
    /// How long to wait, for example 30s or 5m
    #[arg(long, env = "PILOTHOUSE_TIMEOUT", default_value = "5m", value_parser = duration::parse, value_name = "DURATION")]
    pub timeout: Duration,
}

/// What is printed in the end.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    requested_at: String,
    #[serde(flatten)]
    seen: Option<Seen>,
}

/// What the status of the object says.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Seen {
    /// Whether this request has been handled.
    handled: bool,
    ready: String,
    reason: String,
    message: String,
    #[serde(skip)]
    stalled: bool,
    #[serde(skip)]
    reconciling: bool,
}

/// Asks, and waits if told to.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let (kind, name) = args.target.parts("reconcile")?;
    let (kind, name) = (kinds::named(kind)?, name.to_owned());
    let client = client(global).await?;
    let namespace = kind.namespaced.then(|| args.target.place.of(&client));
    let api = kind.api(&client, namespace.as_deref());
    let found = target::find_any(&api, kind.kind, namespace.as_deref(), &name).await?;
    let requested_at = jiff::Timestamp::now().to_string();
    // From before the request on: no change of the status is missed.
    let changes = Box::pin(watcher::watch_object(api.clone(), &name));
    ask(&api, &kind, &found, &requested_at).await?;
    let mut outcome = Outcome { kind: kind.kind.into(), namespace, name, requested_at, seen: None };
    if args.wait {
        outcome.seen = Some(wait(&outcome, args.timeout, changes).await?);
    }
    output::print(global.output, &outcome, || outcome.text())?;
    let failed = outcome.seen.as_ref().is_some_and(|seen| !seen.is_ready());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Applies the annotation alone. The uid keeps this from creating what was just deleted.
async fn ask(api: &Api<DynamicObject>, kind: &Named, found: &DynamicObject, at: &str) -> anyhow::Result<()> {
    let name = found.metadata.name.clone().unwrap_or_default();
    let patch = json!({
        "apiVersion": crate::api::API_VERSION, "kind": kind.kind,
        "metadata": { "name": name, "uid": found.metadata.uid, "annotations": { RECONCILE_AT: at } },
    });
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(patch))
        .await
        .with_context(|| format!("cannot set the annotation {RECONCILE_AT} of {} {name}", kind.kind))?;
    Ok(())
}

/// Follows the object until the request was handled and it is ready or stalled; says on stderr what happens.
async fn wait(
    outcome: &Outcome,
    timeout: Duration,
    changes: impl Stream<Item = watcher::Result<Option<DynamicObject>>> + Unpin,
) -> anyhow::Result<Seen> {
    let mut last = Seen::default();
    let followed = tokio::time::timeout(timeout, follow(outcome, changes, &mut last)).await;
    match followed {
        Ok(done) => done?,
        Err(_) if last.handled => {
            bail!("{} is not ready after {}: {}", outcome.object(), duration::format(timeout), last.line())
        }
        Err(_) => bail!(
            "no controller has looked at {} in {}; is one running, and does it watch this namespace?{}",
            outcome.object(),
            duration::format(timeout),
            last.before()
        ),
    }
    Ok(last)
}

async fn follow(
    outcome: &Outcome,
    mut changes: impl Stream<Item = watcher::Result<Option<DynamicObject>>> + Unpin,
    last: &mut Seen,
) -> anyhow::Result<()> {
    let mut existed = false;
    while let Some(change) = changes.next().await {
        let object = match change {
            Ok(Some(object)) => object,
            Ok(None) if existed => bail!("{} was deleted", outcome.object()),
            Ok(None) => continue,
            // The watch comes back by itself; the time limit ends it where it does not.
            Err(error) => {
                tracing::debug!("watch: {error}");
                continue;
            }
        };
        existed = true;
        let seen = Seen::of(&object.data, &outcome.requested_at);
        if seen != *last {
            eprintln!("{}: {}", outcome.object(), seen.line());
            *last = seen;
        }
        if last.is_over() {
            return Ok(());
        }
    }
    bail!("the watch of {} ended", outcome.object())
}

impl Outcome {
    fn object(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    fn text(&self) -> String {
        match &self.seen {
            None => format!("{}: asked for a reconcile", self.object()),
            Some(seen) => format!("{}: {}", self.object(), seen.line()),
        }
    }
}

impl Seen {
    fn of(object: &Value, requested_at: &str) -> Self {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let find = |kind: &str| conditions.into_iter().flatten().find(|c| c["type"] == kind);
        let text = |field: &str| find(condition::READY).and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
        let holds = |kind: &str| find(kind).is_some_and(|c| c["status"] == "True");
        Self {
            handled: object.pointer("/status/lastHandledReconcileAt").and_then(Value::as_str) == Some(requested_at),
            ready: text("status"),
            reason: text("reason"),
            message: text("message"),
            stalled: holds(condition::STALLED),
            reconciling: holds(condition::RECONCILING),
        }
    }

    fn is_ready(&self) -> bool {
        self.ready == "True"
    }

    fn is_over(&self) -> bool {
        self.handled && !self.reconciling && (self.is_ready() || self.stalled)
    }

    /// What was said last, before anybody asked.
    fn before(&self) -> String {
        match self.reason.as_str() {
            "" => String::new(),
            reason => format!(" It said last: {reason}: {}", self.message),
        }
    }

    fn line(&self) -> String {
        let state = match self.ready.as_str() {
            _ if !self.handled => return "waiting for the controller".into(),
            "True" => "ready",
            _ if self.stalled => "stalled",
            _ => "not ready",
        };
        format!("{state}, {}: {}", self.reason, self.message)
    }
}

#[cfg(test)]
mod tests;
