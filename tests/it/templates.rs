//! Templates in a process of their own: the real program, with templates that mean no good.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use pilothouse::{
    controller::sandbox::{PROCESSES, Sandbox},
    render::{self, Context, Reason, RenderError, Rendered},
    tree::{FileTree, RepoPath},
};

use crate::common::controller::{eventually, pilothouse};

const FINE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ values.name }}}\n";
/// Few steps, each of which takes long.
const ENDLESS: &str = "{% set x = 'ab' * 4000000 %}{% for i in range(90000) %}{% set y = x | upper %}{% endfor %}";

/// Does the same again and again, which a loop of templates cannot: what it sets is gone after each turn.
fn again(start: &str, step: &str) -> String {
    format!("{start}{}", step.repeat(64))
}

/// Doubles a text until nothing is left.
fn grows() -> String {
    again("{% set x = '12345678' %}", "{% set x = x ~ x %}")
}

fn sandbox() -> Sandbox {
    Sandbox::of_program(pilothouse())
}

fn context() -> Context {
    let values = serde_json::json!({"name": "web", "list": [1, 2.5, null], "long": "é\u{1}\"".repeat(99)});
    Context { values, namespace: "ns".into(), ..Context::default() }
}

async fn run(sandbox: &Sandbox, files: &[(&str, &str)]) -> Result<Rendered, RenderError> {
    let tree: FileTree = files.iter().copied().collect();
    let tree = Arc::new(tree);
    // A busy machine is no outcome: a Sync tries again too.
    for _ in 0..5 {
        let place = sandbox.place("ns").await.unwrap();
        let ended = sandbox.render(place, tree.clone(), RepoPath::root(), context()).await.unwrap();
        if !matches!(&ended, Err(error) if error.reason == Reason::Interrupted) {
            return ended.map(|kept| kept.rendered);
        }
    }
    panic!("interrupted each time");
}

#[tokio::test]
async fn what_means_no_good_ends_and_is_named() {
    let lists = again("{% set x = [] %}", "{% set x = [x, range(90000) | list] %}");
    let macros = "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{% set x = '12345678' %}";
    let macros = again(macros, "{% set x = twice(x) %}");
    let bomb = "{% for a in range(90000) %}{{ 'x' * 100 }}{% endfor %}";
    let steps = "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}";
    let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let plus = format!("{{{{ 1{} }}}}", "+1".repeat(32_000));
    let parentheses = format!("{{{{ {}1 }}}}", "(".repeat(60_000));
    let sandbox = sandbox();
    for (text, want) in [
        (&*grows(), "more than 96 MiB of memory"),
        (&lists, "more than 96 MiB of memory"),
        (&macros, "more than 96 MiB of memory"),
        (ENDLESS, "takes too long"),
        (bomb, "4194304 bytes"),
        (steps, "more than 2000000 steps"),
        (recursion, "recursion"),
        (&plus, ""),
        (&parentheses, "recursion"),
    ] {
        let failed = run(&sandbox, &[("ok.yaml.j2", FINE), ("x/bad.yaml.j2", text)]).await.unwrap_err();
        assert_eq!(failed.file.as_str(), "x/bad.yaml.j2", "{failed}");
        assert!(failed.message.contains(want), "{want}: {failed}");
        assert!(
            matches!(failed.reason, Reason::TooLarge | Reason::TemplateFailed | Reason::InvalidManifest),
            "{failed}"
        );
    }
    for text in [&*grows(), ENDLESS] {
        let files = [("bad.yaml.j2", text)];
        assert_eq!(run(&sandbox, &files).await, run(&sandbox, &files).await, "the same each time");
    }
}

/// Objects, files read and errors are those of `pilothouse render`.
#[tokio::test]
async fn a_process_of_its_own_changes_nothing_else() {
    let big = "#".repeat(70_000);
    let include = "{% from 'lib/_m.j2' import name %}apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ name('a') }}}\ndata: {v: {{ values | tojson | quote }}}\n";
    let sandbox = sandbox();
    for files in [
        vec![
            ("a.yaml.j2", include),
            ("lib/_m.j2", "{% macro name(x) %}{{ x }}-{{ values.name }}{% endmacro %}"),
            ("b.yaml.j2", FINE),
        ],
        vec![
            ("kustomization.yaml", "resources: [a.yaml.j2]\nnamePrefix: p-\n"),
            ("a.yaml.j2", FINE),
            ("other.j2", "{% x"),
        ],
        vec![("a.yaml.j2", "a: {{ values.nam }}\n")],
        vec![("a.yaml.j2", "\n{% include 'none.j2' %}")],
        vec![("a.yaml.j2", "{% include '../../a.j2' %}")],
        vec![("a.yaml.j2", "{% include 'secret' %}"), ("secret", "x")],
        vec![("a.yaml.j2", "{% include '_big.j2' %}"), ("_big.j2", &big)],
        vec![("a.yaml.j2", &big)],
        vec![
            ("a.yaml.j2", "{% import '_b.j2' as b %}{{ b.x() }}"),
            ("_b.j2", "\n{% macro x() %}{{ 1 / 0 }}{% endmacro %}"),
        ],
        vec![("a.yaml.j2", "x: [{{ values.long }}")],
        vec![("a.yaml.j2", "{{ values.long | int }}")],
        vec![("a.yaml.j2", "")],
    ] {
        let tree: FileTree = files.iter().copied().collect();
        let here = render::render(&tree, &RepoPath::root(), &context());
        assert_eq!(run(&sandbox, &files).await, here, "{files:?}");
    }
}

/// A sandbox whose processes write down who they are.
struct Watched {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
}

impl Watched {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, log) = (folder.path().join("run"), folder.path().join("log"));
        let script = format!("#!/bin/sh\necho $$ >> {}\nexec {} \"$@\"\n", log.display(), pilothouse().display());
        std::fs::write(&log, "").unwrap();
        std::fs::write(folder.path().join("script"), script).unwrap();
        // Copied by another process: a program that this one has open for writing cannot be started from its threads.
        let copied =
            Command::new("install").args(["-m", "755"]).arg(folder.path().join("script")).arg(&program).status();
        assert!(copied.unwrap().success());
        Self { sandbox: Sandbox::of_program(program), folder }
    }

    /// Those that still run.
    fn running(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let command = |id: &&str| std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        log.lines().filter(|id| command(id).contains("render-templates")).count()
    }
}

#[tokio::test]
async fn few_run_at_a_time_and_none_outlives_who_waits_for_it() {
    let watched = Watched::new();
    let render = |_| {
        let sandbox = watched.sandbox.clone();
        tokio::spawn(async move { run(&sandbox, &[("bad.yaml.j2", ENDLESS)]).await })
    };
    let renders: Vec<_> = (0..3 * PROCESSES).map(render).collect();
    let full = || async { (watched.running() == PROCESSES).then_some(()) };
    eventually("as many as may", 60, full).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(watched.running() <= PROCESSES);
    }
    renders.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("none", 10, || async { (watched.running() == 0).then_some(()) }).await;
    let fine = tokio::time::timeout(Duration::from_secs(30), run(&watched.sandbox, &[("a.yaml.j2", FINE)])).await;
    assert_eq!(fine.expect("the places are free again").unwrap().objects.len(), 1);
}

#[tokio::test]
async fn a_render_without_templates_starts_nothing() {
    let nowhere = Sandbox::of_program(Path::new("/nowhere").into());
    let plain = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    assert_eq!(run(&nowhere, &[("a.yaml", plain), ("_unused.j2", FINE)]).await.unwrap().objects.len(), 1);
    let tree: FileTree = [("a.yaml.j2", FINE)].into_iter().collect();
    let place = nowhere.place("ns").await.unwrap();
    let failed = nowhere.render(place, Arc::new(tree), RepoPath::root(), context()).await.unwrap_err();
    assert!(failed.message.contains("cannot start the process that renders templates"), "{failed}");
}
