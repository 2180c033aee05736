//! `pilothouse diff`.

pub(super) mod effects;
mod pace;

use std::{collections::BTreeMap, fmt::Write, io::IsTerminal, process::ExitCode};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use self::effects::Effect;
use super::{
    Global, controller,
    output::{self, Format},
    render::{self, Source},
    target::Place,
};
use crate::{
    api::{InventoryEntry, Repository, Sync as SyncObject},
    apply::{self, Account, Difference, Kinds, Owner, Problem},
    object::{ObjectId, yaml},
    plan::{self, Origin, Plan, mask},
    render::RepositoryFacts,
};

/// Exit status where there are differences.
pub(super) const DIFFERENT: u8 = 3;

/// Gone from the files, and yet not deleted.
const KEPT: &str = "kept";
/// The same object, reached by a change of what it refers to.
const UNTOUCHED: &str = "untouched";

/// Flags of `pilothouse diff`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Asks the API server by dry runs, with your own rights; nothing is written. Of each Agent that runs it says how the change reaches it: Live (the running server reads the new text or files), Reload (they are exchanged when the server is idle, which then reads its skills anew), Rollout (a new pod, which waits for running work unless told otherwise), or not at all; and, where spec.fleet of PilothouseConfig cluster sets a pace, its wave and what it waits for. Changed Secrets are not looked into for this. Values of Secrets are masked: the same value has the same mask within one run.\nExits with 0 when nothing differs, with 3 when something does.\n\nExamples:\n  pilothouse diff overlays/dev -n agents\n  pilothouse diff overlays/dev --sync team-a -n agents\n  pilothouse diff . -o json | jq -r '.[].object'"
)]
pub struct Args {
    /// What is compared
    #[command(flatten)]
    pub source: Source,
    /// Compare as this Sync would apply: with its values and target namespace, and with what it would delete
    #[arg(long, env = "PILOTHOUSE_SYNC", value_name = "NAME")]
    pub sync: Option<String>,
    /// Where the Sync is, and objects for which no other namespace is given.
    #[command(flatten)]
    pub place: Place,
}

/// What is known of the Sync, or stands for it.
struct Subject {
    owner: Option<Owner>,
    target: String,
    inventory: Vec<InventoryEntry>,
    prune: bool,
    context: crate::render::Context,
}

/// One object in machine-readable output.
#[derive(serde::Serialize)]
struct Shown {
    object: String,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Of an Agent that runs: how the change arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<Effect>,
    diff: String,
}

/// What an apply would change.
pub(super) struct Compared {
    pub client: Client,
    pub plan: Plan,
    pub differences: Vec<Difference>,
    /// By Agent that runs: how the change reaches it.
    pub effects: BTreeMap<ObjectId, Effect>,
}

/// Asks the API server, by dry runs.
pub(super) async fn compare(global: &Global, args: &Args) -> anyhow::Result<Compared> {
    let client = controller::client(global).await?;
    let subject = subject(&client, args).await?;
    let place = controller::place(global).unwrap_or_else(|| "this cluster".into());
    eprintln!("comparing {} with {place}, namespace {}", args.source.path.display(), subject.target);
    let namespace = Api::<Namespace>::all(client.clone()).get_opt(&subject.target).await;
    if matches!(namespace, Ok(None)) {
        eprintln!("warning: namespace {} does not exist there; create it, or choose another with -n", subject.target);
    }
    let rendered = render::render(&args.source, &subject.context)?;
    let (kinds, account) = (Kinds::new(Account::own(client.clone())), Account::own(client.clone()));
    let objects = rendered.objects.into_iter();
    let objects = objects.map(|i| (i.object, Origin { file: i.file.to_string(), line: i.line })).collect();
    let wanted = apply::prepare(&kinds, objects, &subject.target, subject.owner.as_ref())
        .await
        .map_err(|problems| refused(&problems))?;
    let observed = apply::observe_tasks(&account, &kinds, &wanted).await.map_err(|p| refused(&[p]))?;
    let plan = plan::plan(plan::Input {
        wanted,
        inventory: &subject.inventory,
        tasks: &observed.tasks,
        legacies: &[],
        refused: &BTreeMap::new(),
        prune: subject.prune,
    })?;
    let (differences, problems) = apply::preview(&account, &kinds, &plan).await;
    if !problems.is_empty() {
        return Err(refused(&problems));
    }
    let effects = Box::pin(effects::effects(&client, &plan, &differences, jiff::Timestamp::now())).await;
    Ok(Compared { client, plan, differences, effects })
}

/// Prints what an apply of the folder would change.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let Compared { plan, differences, mut effects, .. } = Box::pin(compare(global, args)).await?;
    let key = format!("{:032x}", rand::random::<u128>());
    let mut shown: Vec<Shown> =
        differences.into_iter().map(|d| Shown { effect: effects.remove(&d.id), ..show(d, &key) }).collect();
    shown.extend(effects.into_iter().map(|(id, effect)| untouched(&id, effect)));
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match global.output {
        Format::Text => output::write(&text(&shown, &plan, color))?,
        format => output::print(format, &shown, String::new)?,
    }
    let changed = shown.iter().any(|s| !matches!(s.change, KEPT | UNTOUCHED));
    Ok(if changed { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

fn refused(problems: &[Problem]) -> anyhow::Error {
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.sort();
    anyhow::anyhow!("{}", lines.join("\nerror: "))
}

async fn subject(client: &Client, args: &Args) -> anyhow::Result<Subject> {
    let namespace = args.place.of(client);
    let mut context = render::local_context(&args.source)?;
    let Some(name) = &args.sync else {
        let target = args.source.target_namespace.clone().unwrap_or(namespace);
        context.namespace.clone_from(&target);
        return Ok(Subject { owner: None, target, inventory: vec![], prune: false, context });
    };
    let syncs: Api<SyncObject> = Api::namespaced(client.clone(), &namespace);
    let sync = syncs.get(name).await.with_context(|| format!("cannot read Sync {name} in namespace {namespace}"))?;
    if args.source.values.is_none() {
        context.values = sync.spec.values.clone().map_or_else(|| serde_json::json!({}), Value::Object);
    }
    let wanted = args.source.target_namespace.clone().or_else(|| sync.spec.target_namespace.clone());
    let target = wanted.unwrap_or_else(|| namespace.clone());
    context.namespace.clone_from(&target);
    context.sync = crate::render::SyncFacts { name: name.clone(), namespace: namespace.clone() };
    context.repository = repository(client, &namespace, &sync).await?;
    Ok(Subject {
        owner: Some(Owner { namespace, name: name.clone() }),
        target,
        prune: sync.spec.prune,
        inventory: sync.status.and_then(|s| s.inventory).map(|i| i.entries).unwrap_or_default(),
        context,
    })
}

/// The Repository at the commit that is published, so that templates give what the controller renders.
async fn repository(client: &Client, namespace: &str, sync: &SyncObject) -> anyhow::Result<RepositoryFacts> {
    let name = &sync.spec.repository_ref.name;
    let all: Api<Repository> = Api::namespaced(client.clone(), namespace);
    let Some(found) = all.get_opt(name).await.with_context(|| format!("cannot read Repository {name}"))? else {
        bail!("the Repository {name} of the Sync does not exist in namespace {namespace}");
    };
    let revision = found.status.and_then(|s| s.artifact).map(|a| a.revision).unwrap_or_default();
    let follows_branch = found.spec.reference.as_ref().is_none_or(|r| r.branch.is_some());
    Ok(RepositoryFacts::of(name, namespace, &found.spec.url, &revision, follows_branch))
}

fn show(difference: Difference, key: &str) -> Shown {
    let Difference { id, before, after, note } = difference;
    let change = match (&before, &after) {
        (None, _) => "created",
        (Some(_), None) => "deleted",
        (Some(b), Some(a)) if a == b => KEPT,
        (Some(_), Some(_)) => "changed",
    };
    let lines = |object: Option<Value>| {
        object.map_or_else(String::new, |mut object| {
            mask::mask(&mut object, key);
            yaml::to_string(&object)
        })
    };
    let (before, after) = (lines(before), lines(after));
    let diff = TextDiff::from_lines(&before, &after).unified_diff().context_radius(3).to_string();
    Shown { object: id.short(), change, note, effect: None, diff }
}

/// An Agent whose own fields stay, and which a change of its template or of a ConfigMap reaches.
fn untouched(id: &ObjectId, effect: Effect) -> Shown {
    Shown { object: id.short(), change: UNTOUCHED, note: None, effect: Some(effect), diff: String::new() }
}

fn text(shown: &[Shown], plan: &Plan, color: bool) -> String {
    let paint = |code: &str, text: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() };
    let mut out = String::new();
    for one in shown.iter().filter(|one| one.change != UNTOUCHED) {
        let origin = plan.steps().find(|s| s.id.short() == one.object);
        let place = origin.map_or(String::new(), |s| format!(" ({})", s.wanted.origin));
        let note = one.note.as_ref().map_or(String::new(), |n| format!(": {n}"));
        let _ = writeln!(out, "{}", paint("1", &format!("{} {}{place}{note}", one.change, one.object)));
        for line in one.diff.lines() {
            let painted = match tag(line) {
                Some(ChangeTag::Insert) => paint("32", line),
                Some(ChangeTag::Delete) => paint("31", line),
                Some(ChangeTag::Equal) => line.into(),
                None => paint("36", line),
            };
            let _ = writeln!(out, "{painted}");
        }
    }
    for (one, effect) in shown.iter().filter_map(|one| Some((one, one.effect.as_ref()?))) {
        let line = format!("{}: {effect}", one.object.replacen('/', " ", 1));
        let _ = writeln!(out, "{}", paint("1", &line));
    }
    out
}

/// What a line of a unified diff is; `None` for the head of a hunk.
fn tag(line: &str) -> Option<ChangeTag> {
    match line.as_bytes().first() {
        Some(b'+') => Some(ChangeTag::Insert),
        Some(b'-') => Some(ChangeTag::Delete),
        Some(b'@') => None,
        _ => Some(ChangeTag::Equal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_say_what_comes_and_goes_and_nothing_else_needs_them() {
        let object = |value: &str| serde_json::json!({"data": {"a": value, "b": "same"}});
        let (namespace, name, group, kind) = ("team".into(), "rules".into(), String::new(), "ConfigMap".into());
        let id = ObjectId { namespace, name, group, kind };
        let difference = Difference { id, before: Some(object("old")), after: Some(object("new")), note: None };
        let shown = [show(difference, "key")];
        let plain = text(&shown, &Plan::default(), false);
        assert!(plain.contains("-  a: old\n+  a: new\n   b: same\n"), "{plain}");
        assert!(!plain.contains('\x1b'));
        let coloured = text(&shown, &Plan::default(), true);
        for line in [
            "\x1b[31m-  a: old\x1b[0m\n",
            "\x1b[32m+  a: new\x1b[0m\n",
            "\n   b: same\n",
            "\x1b[36m@@",
            "\x1b[1mchanged",
        ] {
            assert!(coloured.contains(line), "{line:?} in {coloured:?}");
        }
        let codes = ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[36m"];
        assert_eq!(codes.iter().fold(coloured, |text, code| text.replace(code, "")), plain);
    }
}
