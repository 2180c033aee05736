//! `pilothouse uninstall`: what must be done when the controller is gone.

use std::process::ExitCode;

use anyhow::Context;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Global, controller::client, output, target::Place};
use crate::api::{Sync, names::PREFIX};

/// Flags of `pilothouse uninstall`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "What Syncs applied, agents included, stays as it is. Run this after \"helm uninstall\": a controller that still runs\nsets the finalizers again.\n\nExamples:\n  pilothouse uninstall -n agents\n  pilothouse uninstall --all-namespaces --dry-run"
)]
pub struct Args {
    /// Where the Syncs are.
    #[command(flatten)]
    pub place: Place,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only print what would be released
    #[arg(long, env = "PILOTHOUSE_DRY_RUN")]
    pub dry_run: bool,
}

/// Takes our finalizers off Syncs, so that nothing waits for a controller that is gone.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let client = client(global).await?;
    let syncs: Api<Sync> = if args.all_namespaces {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), &args.place.of(&client))
    };
    let mut released = vec![];
    for sync in syncs.list(&kube::api::ListParams::default()).await.context("cannot list Syncs")? {
        let keep: Vec<_> = sync.finalizers().iter().filter(|f| !f.starts_with(PREFIX)).cloned().collect();
        if keep.len() == sync.finalizers().len() {
            continue;
        }
        let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
        if !args.dry_run {
            // The resourceVersion makes this fail rather than drop a finalizer that somebody adds meanwhile.
            let patch = json!({"metadata": {"finalizers": keep, "resourceVersion": sync.resource_version()}});
            Api::<Sync>::namespaced(client.clone(), &namespace)
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .with_context(|| format!("cannot release Sync {namespace}/{name}"))?;
        }
        released.push(format!("{namespace}/{name}"));
    }
    let value = json!({ "released": released, "dryRun": args.dry_run });
    output::print(global.output, &value, || {
        let verb = if args.dry_run { "would release" } else { "released" };
        match released.len() {
            0 => "no Sync has a finalizer of ours".into(),
            _ => released.iter().map(|s| format!("{verb} Sync {s}")).collect::<Vec<_>>().join("\n"),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
