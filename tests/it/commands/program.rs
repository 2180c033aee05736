//! The program as a whole: every command with every output, its exit codes, help, and flags from the environment.

use std::{
    path::Path,
    process::{Command, Output},
};

use clap::CommandFactory as _;
use pilothouse::{cli::Cli, object::yaml::parse_documents};
use serde_json::Value;

use super::{pilothouse, text, write};
use crate::common::{
    cluster::control_plane,
    controller::{Release, install_crds},
};

/// Standard output of a run that must end well.
fn said(root: &Path, arguments: &[&str]) -> String {
    let out = pilothouse(None, root, arguments);
    assert_eq!(out.status.code(), Some(0), "{arguments:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn yaml(out: &str) -> Vec<Value> {
    let all = parse_documents(out).unwrap_or_else(|e| panic!("{e}: {out}"));
    all.into_iter().map(|d| d.value).filter(|v| !v.is_null()).collect()
}

fn commands() -> Vec<clap::Command> {
    let all = Cli::command();
    all.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect()
}

/// Commands of commands, with the names that lead to them.
fn below() -> Vec<(Vec<String>, clap::Command)> {
    let of = |command: clap::Command| {
        let path = |c: &clap::Command| vec![command.get_name().to_owned(), c.get_name().to_owned()];
        command.get_subcommands().map(|c| (path(c), c.clone())).collect::<Vec<_>>()
    };
    commands().into_iter().flat_map(of).collect()
}

#[test]
fn help_of_every_command_has_examples() {
    let here = Path::new(".");
    let names: Vec<String> = commands().iter().map(|c| c.get_name().to_owned()).collect();
    let all = [
        "controller",
        "receiver",
        "render",
        "diff",
        "plan",
        "crds",
        "reconcile",
        "rollout",
        "rollback",
        "upgrade",
        "task",
        "agent",
        "crontask",
        "cron",
        "history",
        "cost",
        "uninstall",
        "version",
        "completion",
    ];
    assert_eq!(names, all);
    for name in names.iter().map(|n| vec![n.as_str(), "--help"]).chain([vec!["--help"]]) {
        let help = said(here, &name);
        let example = help.split("Examples:\n").nth(1).unwrap_or_else(|| panic!("{name:?} has no examples:\n{help}"));
        assert!(example.contains("pilothouse "), "{example}");
    }
    for (path, _) in below().into_iter().filter(|(path, _)| path[0].starts_with("cron")) {
        let help = said(here, &[path[0].as_str(), path[1].as_str(), "--help"]);
        assert!(help.contains("Examples:\n  pilothouse "), "{path:?} has no examples:\n{help}");
    }
    let help = said(here, &["--help"]);
    for code in ["0  done", "1  failed", "2  the command line is wrong", "3  diff: there are differences"] {
        assert!(help.contains(code), "{code} is not in:\n{help}");
    }
}

#[test]
fn what_only_pods_call_is_suggested_to_nobody() {
    for (typed, want) in [("sidecars", None), ("render-template", Some("render")), ("reconsile", Some("reconcile"))] {
        let out = pilothouse(None, Path::new("."), &[typed]);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{error}");
        for hidden in ["'sidecar'", "'drain'", "'task-run'", "'render-templates'"] {
            assert!(!error.contains(hidden), "{typed}: {error}");
        }
        if let Some(want) = want {
            assert!(error.contains(&format!("'{want}'")), "{typed}: {error}");
        }
    }
}

#[test]
fn every_flag_can_come_from_the_environment() {
    for command in commands().into_iter().chain(below().into_iter().map(|(_, command)| command)) {
        for arg in command.get_arguments().filter(|a| !a.is_positional()) {
            let flag = arg.get_long().unwrap();
            // What reaches further than it seems to is asked for each time.
            let exempt = ["help", "version", "all-namespaces"].contains(&flag);
            assert_eq!(arg.get_env().is_none(), exempt, "{} --{flag}", command.get_name());
        }
    }
    let from = |key: &str, value: &str, arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_pilothouse")).env(key, value).args(arguments).output().unwrap();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    assert!(json(&from("PILOTHOUSE_OUTPUT", "json", &["version"]).1)["version"].is_string());
    let (code, _, error) = from("PILOTHOUSE_OUTPUT", "xml", &["version"]);
    assert!(
        code == Some(2) && error.contains("xml") && error.contains("[possible values: text, json, yaml]"),
        "{error}"
    );
    let (code, _, error) = from("PILOTHOUSE_LOG", "a=b=c", &["version"]);
    assert!(code == Some(1) && error.contains("--log"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(from("PILOTHOUSE_CRDS_DIR", dir.path().to_str().unwrap(), &["crds"]).0, Some(0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 7);
}

#[test]
fn version_and_crds_in_every_format() {
    let here = Path::new(".");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(said(here, &["version"]), format!("pilothouse {version} (API pilothouse.dev/v1alpha1)\n"));
    let as_json = json(&said(here, &["version", "-o", "json"]));
    assert_eq!(as_json["version"], version);
    assert_eq!(yaml(&said(here, &["version", "-o", "yaml"])), [as_json]);
    assert_eq!(said(here, &["--version"]), format!("pilothouse {version}\n"));

    let text = said(here, &["crds"]);
    assert_eq!(text, said(here, &["crds", "-o", "yaml"]));
    let list = json(&said(here, &["crds", "-o", "json"]));
    assert_eq!(list["kind"], "List");
    assert_eq!(list["items"].as_array().unwrap(), &yaml(&text));
    assert_eq!(yaml(&text).len(), 7);
}

#[test]
fn completion_for_every_shell() {
    let here = Path::new(".");
    let bash = said(here, &["completion", "bash"]);
    for name in ["reconcile", "--watch-namespaces", "--timeout"] {
        assert!(bash.contains(name), "{name}");
    }
    let mut syntax = Command::new("bash");
    let out = syntax.args(["-n", "-c", &bash]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    // What a shell would offer.
    let script = format!(
        "{bash}\nCOMP_WORDS=(pilothouse reco); COMP_CWORD=1; _pilothouse pilothouse reco pilothouse; echo \"${{COMPREPLY[@]}}\""
    );
    let out = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(text(&out.stdout).trim(), "reconcile", "{}", text(&out.stderr));
    assert!(said(here, &["completion", "zsh"]).starts_with("#compdef pilothouse"));
    assert!(said(here, &["completion", "fish"]).contains("complete -c pilothouse"));
    assert_eq!(pilothouse(None, here, &["completion", "dos"]).status.code(), Some(2));
}

#[test]
fn render_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: \"yes\"}\n");
    let plain = said(dir.path(), &["render", "."]);
    assert!(plain.contains("# m.yaml:1"), "{plain}");
    assert_eq!(plain, said(dir.path(), &["render", ".", "-o", "yaml"]));
    let list = json(&said(dir.path(), &["render", ".", "-o", "json"]));
    assert_eq!(list["items"].as_array().unwrap(), &yaml(&plain));
    assert_eq!(list["items"][0]["data"]["k"], "yes");
}

#[tokio::test]
async fn diff_and_reconcile_in_every_format() {
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("formats").await;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n");
    let run = |arguments: &[&str]| pilothouse(Some(cluster), dir.path(), arguments);
    let diff = |format: &str| run(&["diff", ".", "-n", &namespace, "-o", format]);
    let (plain, as_json, as_yaml) = (diff("text"), diff("json"), diff("yaml"));
    for out in [&plain, &as_json, &as_yaml] {
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    }
    assert!(text(&plain.stdout).contains("+  k: v"));
    let value = json(&text(&as_json.stdout));
    assert_eq!(
        (&value[0]["change"], &value[0]["object"]),
        (&"created".into(), &format!("ConfigMap/{namespace}/m").into())
    );
    assert_eq!(yaml(&text(&as_yaml.stdout)), [value]);

    let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let _controller = release.start(&[]);
    write(
        dir.path(),
        "r/r.yaml",
        "apiVersion: pilothouse.dev/v1alpha1\nkind: AgentTemplate\nmetadata: {name: t}\nspec: {workspaceDir: /w, serviceAccountName: default}\n",
    );
    let applied =
        cluster.kubectl(["apply", "--server-side", "-n", &namespace, "-f", dir.path().join("r").to_str().unwrap()]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let reconcile = |more: &[&str]| run(&[&["reconcile", "agt/t", "-n", &namespace], more].concat());
    let ok = |out: Output| {
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert_eq!(ok(reconcile(&[])), format!("AgentTemplate {namespace}/t: asked for a reconcile\n"));
    let waited = json(&ok(reconcile(&["--wait", "--timeout", "60s", "-o", "json"])));
    assert_eq!((&waited["handled"], &waited["ready"]), (&true.into(), &"True".into()), "{waited}");
    let as_yaml = yaml(&ok(reconcile(&["-o", "yaml"])));
    assert_eq!((&as_yaml[0]["kind"], &as_yaml[0]["name"]), (&"AgentTemplate".into(), &"t".into()));
}

#[tokio::test]
async fn exit_codes_are_those_of_the_help() {
    let here = Path::new(".");
    for wrong in [&["rendr"][..], &["render"], &["version", "-o", "xml"], &["controller", "--concurrency", "0"]] {
        assert_eq!(pilothouse(None, here, wrong).status.code(), Some(2), "{wrong:?}");
    }
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("codes").await;
    for (failing, part) in [
        (vec!["render", "no/such/folder"], "cannot read no/such/folder"),
        (vec!["reconcile", "sync/none", "-n", &namespace], "there is no Sync"),
        (vec!["reconcile", "shync", "none"], "shync"),
        (vec!["diff", ".", "--sync", "none", "-n", &namespace], "cannot read Sync none"),
        (vec!["version", "--log", "[["], "--log"),
        (vec!["reconcile", "sync/none", "--context", "nowhere"], "cannot use context nowhere"),
    ] {
        let out = pilothouse(Some(cluster), here, &failing);
        assert_eq!(out.status.code(), Some(1), "{failing:?}");
        let error = text(&out.stderr);
        assert!(error.starts_with("error: ") && error.contains(part), "{failing:?}: {error}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let program = env!("CARGO_BIN_EXE_pilothouse");
    let script = format!("set -o pipefail; '{program}' crds | head -n 1");
    let out = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "---\n");
}

/// The first lines that a controller logs which reaches no API server.
fn first_lines(format: &[&str]) -> Vec<String> {
    use std::io::BufRead as _;
    let dir = tempfile::tempdir().unwrap();
    let nowhere = "{apiVersion: v1, kind: Config, current-context: c, \
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {}}], \
        contexts: [{name: c, context: {cluster: c, user: u, namespace: n}}]}";
    write(dir.path(), "kubeconfig", nowhere);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    command.env("KUBECONFIG", dir.path().join("kubeconfig")).env_remove("PILOTHOUSE_LOG_FORMAT");
    command.args(["controller", "--log", "info", "--listen", "127.0.0.1:0", "--voice-listen", "127.0.0.1:0"]);
    command.args(["--namespace", "n", "--watch-namespaces", "n", "--pod-name", "p"]).args(format);
    command.arg("--data-dir").arg(dir.path().join("data")).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn logs_are_json_or_lines_for_people() {
    // Nobody reads at a terminal here.
    for format in [&["--log-format", "json"][..], &["--log-format", "auto"], &[]] {
        let lines = first_lines(format);
        let all: Vec<Value> = lines.iter().map(|line| json(line)).collect();
        assert_eq!(all.len(), 2, "{lines:?}");
        assert_eq!(all[0]["message"], "pilothouse controller starts", "{format:?}");
        assert_eq!(all[0]["identity"], "p");
        for field in ["timestamp", "level", "message"] {
            assert!(all.iter().all(|line| line[field].is_string()), "{format:?}: no {field} in {lines:?}");
        }
    }
    let lines = first_lines(&["--log-format", "human"]);
    let (first, fields) = lines[0].split_once("pilothouse controller starts").expect("the message as it is");
    assert!(first.trim_end().ends_with("INFO") && fields.contains("identity=\"p\""), "{lines:?}");
    for line in &lines {
        assert!(serde_json::from_str::<Value>(line).is_err() && !line.contains('\x1b'), "{line:?}");
    }
}
