//! `pilothouse rollback`: an older revision in the place of what is wanted, until released.

use std::process::ExitCode;

use anyhow::bail;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    Global, output,
    target::{self, Target},
};
use crate::{
    agent::history,
    api::{
        Agent,
        agent::KeptRevision,
        names::{annotation::PINNED_TO, condition, manager},
    },
};

/// Flags of `pilothouse rollback`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Without a flag it lists the revisions that are kept: those that were ready, five at most.

Examples:
  pilothouse rollback agent coder -n agents
  pilothouse rollback agent coder --to 4f0c91d2ab
  pilothouse rollback agent coder --to main@1a2b3c4
  pilothouse rollback agent coder --release

A revision is the pod template, the gathered text and the content from Git together, as they were. Going back waits for
running work like any rollout (pilothouse rollout agent NAME --now does not wait). Until --release, what is pushed does
not arrive. Both set the annotation pilothouse.dev/pinned-to of the Agent, which may stand in Git as well. The exit code
is 1 where there is no such Agent or revision.")]
pub struct Args {
    /// The Agent
    #[command(flatten)]
    pub target: Target,
    /// Go back to this revision: an id, or a commit such as main@1a2b3c4
    #[arg(long, env = "PILOTHOUSE_ROLLBACK_TO", value_name = "REVISION", conflicts_with = "release")]
    pub to: Option<String>,
    /// Let the newest come again
    #[arg(long, env = "PILOTHOUSE_ROLLBACK_RELEASE")]
    pub release: bool,
    /// List the revisions that are kept
    #[arg(long, env = "PILOTHOUSE_ROLLBACK_LIST", conflicts_with_all = ["to", "release"])]
    pub list: bool,
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    namespace: String,
    name: String,
    /// The annotation, as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_to: Option<String>,
    /// What the Agent says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    revisions: Vec<KeptRevision>,
}

/// Lists, pins or releases.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let (api, agent) = args.target.find_agent(global, "rollback").await?;
    let mut outcome = Outcome::of(&agent);
    if let Some(wanted) = &args.to {
        let id = find(&outcome.revisions, wanted)?;
        target::annotate(&api, &agent, PINNED_TO, Some(&id)).await?;
        outcome.pinned_to = Some(id);
    } else if args.release {
        if outcome.pinned_to.is_none() {
            bail!("Agent {}/{} is not pinned", outcome.namespace, outcome.name);
        }
        warn_of_sync(&agent);
        target::annotate(&api, &agent, PINNED_TO, None).await?;
        outcome.pinned_to = None;
    }
    output::print(global.output, &outcome, || outcome.text(args))?;
    Ok(ExitCode::SUCCESS)
}

/// The id of the revision that somebody means, or which there are.
fn find(revisions: &[KeptRevision], wanted: &str) -> anyhow::Result<String> {
    let known = revisions.iter().map(|kept| (kept.id.as_str(), kept.revision.as_deref()));
    history::find_among(known, wanted).map(String::from).map_err(anyhow::Error::msg)
}

/// What stands in Git comes again with the next apply.
fn warn_of_sync(agent: &Agent) {
    let fields = agent.managed_fields().iter().filter(|f| f.manager.as_deref() == Some(manager::SYNC));
    let owns =
        |pointer: &str| fields.clone().any(|f| f.fields_v1.as_ref().is_some_and(|v| v.0.pointer(pointer).is_some()));
    if owns("/f:metadata/f:annotations/f:pilothouse.dev~1pinned-to") {
        eprintln!("warning: the annotation {PINNED_TO} is in Git too: its Sync sets it again; remove it there");
    }
}

impl Outcome {
    fn of(agent: &Agent) -> Self {
        let status = agent.status.clone().unwrap_or_default();
        let pinned = status.conditions.into_iter().find(|c| c.type_ == condition::PINNED && c.status == "True");
        Self {
            namespace: agent.namespace().unwrap_or_default(),
            name: agent.name_any(),
            pinned_to: agent.annotations().get(PINNED_TO).cloned(),
            message: pinned.map(|c| c.message),
            revisions: status.revisions,
        }
    }

    fn text(&self, args: &Args) -> String {
        let whole = format!("Agent {}/{}", self.namespace, self.name);
        match &self.pinned_to {
            Some(id) if args.to.is_some() => {
                return format!(
                    "{whole}: goes back to {id} when its work ends; to let the newest come again: \
                     pilothouse rollback agent {} --release",
                    self.name
                );
            }
            _ if args.release => return format!("{whole}: the newest comes when its work ends"),
            _ => {}
        }
        let pinned = self.pinned_to.as_ref().map(|id| format!(", pinned to {id}")).unwrap_or_default();
        let mut lines = vec![match self.revisions.len() {
            0 => format!("{whole}{pinned}: no revision is kept yet; one is when it was ready"),
            _ => format!("{whole}{pinned}: revisions, newest first"),
        }];
        lines.extend(self.revisions.iter().map(row));
        lines.extend(self.message.iter().map(|message| format!("  {message}")));
        lines.join("\n")
    }
}

fn row(kept: &KeptRevision) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    format!("  {}  {}  since {}  {}", kept.id, text(&kept.revision), kept.since.0, text(&kept.image))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn a_revision_is_meant_by_id_or_commit_and_others_are_named() {
        let kept = |id: &str, revision: Option<&str>| KeptRevision {
            id: id.into(),
            revision: revision.map(String::from),
            image: None,
            since: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        let all = [kept("aaaa111111", Some("main@1a2b3c4")), kept("bbbb222222", None)];
        assert_eq!(find(&all, "main@1a2b3c4").unwrap(), "aaaa111111");
        assert_eq!(find(&all, "bbbb2").unwrap(), "bbbb222222");
        let error = find(&all, "cccc").unwrap_err().to_string();
        assert!(error.ends_with("newest first: aaaa111111 (main@1a2b3c4), bbbb222222"), "{error}");
        assert!(find(&[], "aaaa").unwrap_err().to_string().ends_with("none yet"));
    }
}
