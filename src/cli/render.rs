//! `pilothouse render`.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use super::{
    Global, local_tree,
    output::{self, Format},
};
use crate::{
    object::yaml,
    render::{self, Rendered},
};

/// Flags that say what is rendered, of `render` and `diff`.
#[derive(clap::Args, Debug)]
pub struct Source {
    /// The folder, as spec.path of a Sync would name it
    pub path: PathBuf,
    /// Folder that stands for the whole repository; default: the Git work tree around PATH, else PATH
    #[arg(long, env = "PILOTHOUSE_ROOT", value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// YAML file with the values for templates (spec.values of a Sync)
    #[arg(long, env = "PILOTHOUSE_VALUES", value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// Namespace that all namespaced objects go to
    #[arg(long, env = "PILOTHOUSE_TARGET_NAMESPACE", value_name = "NAME")]
    pub target_namespace: Option<String>,
}

/// Flags of `pilothouse render`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "It needs no cluster. Templates see a commit of zeros and the branch \"local\".\n\nExamples:\n  pilothouse render overlays/dev\n  pilothouse render overlays/dev --values dev.yaml --target-namespace agents\n  pilothouse render . -o json | jq -r '.items[].kind'"
)]
pub struct Args {
    /// What is rendered
    #[command(flatten)]
    pub source: Source,
}

/// Prints what a folder renders to.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let context = local_context(&args.source)?;
    let mut rendered = render(&args.source, &context)?;
    if let Some(namespace) = &args.source.target_namespace {
        set_namespaces(&mut rendered, namespace);
    }
    let objects: Vec<_> = rendered.objects.iter().map(|item| item.object.value()).collect();
    if global.output == Format::Json {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        output::write(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for item in &rendered.objects {
        write!(text, "---\n# {}:{}\n{}", item.file, item.line, yaml::to_string(item.object.value()))?;
    }
    output::write(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Kinds that the files do not tell about stay as they are written: only a cluster knows them.
fn set_namespaces(rendered: &mut Rendered, namespace: &str) {
    for item in &mut rendered.objects {
        let gvk = item.object.gvk();
        if render::builtin_scope(&gvk.group, &gvk.kind) == Some(render::Scope::Namespaced) {
            item.object.set_namespace(namespace);
        }
    }
}

/// What templates see without a cluster.
pub(super) fn local_context(source: &Source) -> anyhow::Result<render::Context> {
    let namespace = source.target_namespace.clone().unwrap_or_else(|| "default".into());
    let commit = "0".repeat(40);
    Ok(render::Context {
        values: local_tree::values(source.values.as_deref())?,
        sync: render::SyncFacts { name: "local".into(), namespace: namespace.clone() },
        repository: render::RepositoryFacts {
            name: "local".into(),
            namespace: namespace.clone(),
            url: String::new(),
            revision: format!("local@sha1:{commit}"),
            commit,
            branch: "local".into(),
        },
        namespace,
    })
}

/// Renders the folder; errors name file and line.
pub(super) fn render(source: &Source, context: &render::Context) -> anyhow::Result<Rendered> {
    let local = local_tree::local_tree(&source.path, source.root.as_deref())?;
    let rendered = render::render(&local.tree, &local.path, context).map_err(|error| match &local.alone {
        Some(folder) => anyhow::anyhow!(
            "{error}\nnote: no Git work tree is around {0}, so {0} counts as the whole repository; --root FOLDER names a larger one",
            folder.display()
        ),
        None => error.into(),
    })?;
    for warning in &rendered.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(rendered)
}
