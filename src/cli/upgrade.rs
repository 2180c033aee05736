//! `pilothouse upgrade`: agents get pods of the release that runs.

use std::process::ExitCode;

use anyhow::{Context, bail};
use futures::{StreamExt as _, stream};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;

use super::{Global, controller::client, output, reconcile::MANAGER, target::Place};
use crate::api::{Agent, names::annotation::UPGRADE};

/// Agents that are asked at a time.
const AT_A_TIME: usize = 8;

/// Flags of `pilothouse upgrade`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A new release of Pilothouse replaces no pod: agents keep their layout and their sidecar until something else rolls them, for two
layouts. This asks for it now. It goes through the gate of each agent and the pace of the fleet like any other rollout, and
whoever is up to date already keeps its pod.

Examples:
  pilothouse upgrade agents -n agents
  pilothouse upgrade agents coder reviewer
  pilothouse upgrade agents --all-namespaces --selector ring=canary -o json

It sets the annotation pilothouse.dev/upgrade of each Agent, which no Sync touches, to one value for all of them. The exit code is
1 where an Agent that is named does not exist, or one could not be asked.")]
pub struct Args {
    /// agents (or agent, ag)
    #[arg(value_name = "KIND")]
    pub kind: String,
    /// Names of Agents; none: all of the namespace
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Where the Agents are.
    #[command(flatten)]
    pub place: Place,
    /// Agents of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    pub all_namespaces: bool,
    /// Only Agents with these labels
    #[arg(short = 'l', long, env = "PILOTHOUSE_SELECTOR", conflicts_with = "names", value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// What is printed.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    upgrade: String,
    agents: Vec<String>,
}

/// Asks.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    if !["agent", "agents", "ag"].contains(&args.kind.to_lowercase().as_str()) {
        bail!("{:?} cannot be upgraded; agents can: pilothouse upgrade agents", args.kind);
    }
    let client = client(global).await?;
    let namespace = args.place.of(&client);
    let api: Api<Agent> =
        if args.all_namespaces { Api::all(client.clone()) } else { Api::namespaced(client.clone(), &namespace) };
    let agents = found(&api, args).await?;
    let upgrade = jiff::Timestamp::now().to_string();
    let asked = stream::iter(agents).map(|agent| ask(&client, agent, &upgrade)).buffered(AT_A_TIME);
    let asked: Vec<_> = asked.collect().await;
    let outcome = Outcome { upgrade, agents: asked.into_iter().collect::<anyhow::Result<_>>()? };
    output::print(global.output, &outcome, || outcome.text())?;
    Ok(ExitCode::SUCCESS)
}

async fn found(api: &Api<Agent>, args: &Args) -> anyhow::Result<Vec<Agent>> {
    let list = ListParams { label_selector: args.selector.clone(), ..ListParams::default() };
    let all = api.list(&list).await.context("cannot list Agents")?.items;
    if args.names.is_empty() {
        return Ok(all);
    }
    let there = |name: &String| all.iter().any(|agent| agent.name_any() == *name);
    if let Some(missing) = args.names.iter().find(|name| !there(name)) {
        bail!("there is no Agent {missing}; nothing was asked");
    }
    Ok(all.into_iter().filter(|agent| args.names.contains(&agent.name_any())).collect())
}

/// A merge patch: an apply would take away what other commands have set. The uid keeps this from meaning another Agent.
async fn ask(client: &kube::Client, agent: Agent, upgrade: &str) -> anyhow::Result<String> {
    let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
    let patch = json!({ "metadata": { "uid": agent.uid(), "annotations": { UPGRADE: upgrade } } });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let api: Api<Agent> = Api::namespaced(client.clone(), &namespace);
    let asked = api.patch_metadata(&name, &params, &Patch::Merge(patch)).await;
    asked.with_context(|| format!("cannot set the annotation {UPGRADE} of Agent {namespace}/{name}"))?;
    Ok(format!("{namespace}/{name}"))
}

impl Outcome {
    fn text(&self) -> String {
        match self.agents.len() {
            0 => "there is no Agent".into(),
            _ => format!("asked to upgrade: {}", self.agents.join(", ")),
        }
    }
}
