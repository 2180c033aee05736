//! `pilothouse render` and `pilothouse diff` as people run them.

mod program;
mod uninstall;

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::common::{
    cluster::{Cluster, control_plane},
    controller::install_crds,
};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn pilothouse(cluster: Option<&Cluster>, root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    command.current_dir(root).env_remove("KUBECONFIG").args(arguments);
    if let Some(cluster) = cluster {
        command.env("KUBECONFIG", &cluster.ready.kubeconfig);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn render_needs_no_cluster_and_names_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, ".git/HEAD", "");
    write(root, "base/kustomization.yaml", "resources: [map.yaml]\n");
    write(root, "base/map.yaml", "# c\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  mode: \"1\"\n");
    write(root, "overlays/dev/kustomization.yaml", "resources: [../../base]\nnamePrefix: dev-\n");
    write(root, "t/x.yaml.j2", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ values.name }}\n");
    write(root, "values.yaml", "name: given\n");
    let out = pilothouse(None, root, &["render", "overlays/dev", "--target-namespace", "agents"]);
    let shown = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for part in ["# base/map.yaml:", "name: dev-m", "namespace: agents", "mode: \"1\""] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let out = pilothouse(None, root, &["render", "t", "--values", "values.yaml", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "given");

    let out = pilothouse(None, root, &["render", "t"]);
    assert_eq!(out.status.code(), Some(1));
    let error = text(&out.stderr);
    for part in ["t/x.yaml.j2:4", "spec.values of the Sync", "--values"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert!(!error.contains("--root"), "a work tree is there: {error}");
}

#[test]
fn outside_of_git_it_says_which_folder_counts_as_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let root = std::fs::canonicalize(dir.path()).unwrap();
    write(&root, "base/kustomization.yaml", "resources: []\n");
    write(&root, "dev/kustomization.yaml", "resources: [../base]\n");
    let out = pilothouse(None, &root, &["render", "dev"]);
    let (error, folder) = (text(&out.stderr), root.join("dev"));
    let want = format!("{} counts as the whole repository; --root FOLDER", folder.display());
    assert!(out.status.code() == Some(1) && error.contains(&want), "{error}");
    let out = pilothouse(None, &root, &["render", "dev", "--root", "."]);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn a_patch_that_fits_nothing_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let patch = "patches:\n- target: {kind: ConfigMpa}\n  patch: '[{op: remove, path: /data}]'\n";
    write(dir.path(), "kustomization.yaml", &format!("resources: [m.yaml]\n{patch}"));
    write(dir.path(), "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n");
    let out = pilothouse(None, dir.path(), &["render", "."]);
    let error = text(&out.stderr);
    let want = "warning: kustomization.yaml:3: patches[0]: no object fits the target (kind: ConfigMpa), so the patch \
                does nothing; did you mean kind: ConfigMap?\n";
    assert_eq!((out.status.code(), error.as_str()), (Some(0), want));
    assert!(text(&out.stdout).contains("k: v"));
}

#[test]
fn who_reaches_no_cluster_is_told_so_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let run = |kubeconfig: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
        command.env("KUBECONFIG", dir.path().join(kubeconfig)).env_remove("KUBERNETES_SERVICE_HOST");
        let out = command.args(arguments).output().unwrap();
        (out.status.code(), text(&out.stderr))
    };
    // Port 1 of loopback: nobody is there.
    let config = "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  contexts: [{name: mine, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n";
    write(dir.path(), "config", config);
    for arguments in [&["reconcile", "sync/a"][..], &["uninstall", "-n", "x"], &["diff", "."]] {
        let (code, error) = run("config", arguments);
        let want = "error: the API server http://127.0.0.1:1 of context mine does not answer (";
        assert!(code == Some(1) && error.starts_with(want) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    let (code, error) = run("missing", &["reconcile", "sync/a"]);
    assert!(code == Some(1) && error.starts_with("error: there is no cluster to talk to"), "{error}");
    assert!(error.contains("set KUBECONFIG") && error.lines().count() == 1, "{error}");
}

#[tokio::test]
async fn diff_shows_what_would_change_and_no_secret() {
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("diff").await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let secret = |a: &str, b: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  a: {a}\n  b: {b}\n")
    };
    write(root, "s.yaml", &secret("hidden-one", "hidden-one"));
    write(root, "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  k: v\n");
    let diff = |more: &[&str]| pilothouse(Some(cluster), root, &[&["diff", ".", "-n", &namespace], more].concat());

    let out = diff(&[]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(3), "{shown}{}", text(&out.stderr));
    let head = text(&out.stderr);
    assert!(
        head.starts_with("comparing . with context ") && head.contains(&format!("namespace {namespace}\n")),
        "{head}"
    );
    let elsewhere = pilothouse(Some(cluster), root, &["diff", ".", "-n", "nowhere"]);
    assert!(text(&elsewhere.stderr).contains("warning: namespace nowhere does not exist there"), "{elsewhere:?}");
    assert!(shown.contains(&format!("created ConfigMap/{namespace}/m (m.yaml:1)")), "{shown}");
    assert!(!shown.contains("hidden") && !shown.contains("aGlkZGVu") && shown.contains("*** ("), "{shown}");
    let masks: Vec<&str> = shown.lines().filter_map(|l| l.split_once("*** (").map(|(_, mask)| mask)).collect();
    assert!(masks.len() == 2 && masks[0] == masks[1], "the same value has the same mask: {shown}");

    let file = root.display().to_string();
    let apply = ["apply", "--server-side", "--field-manager=pilothouse", "-n", &namespace, "-f", &file];
    assert!(cluster.kubectl(apply).status.success());
    let out = diff(&[]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(0), ""), "{}", text(&out.stderr));

    write(root, "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  k: w\n");
    let out = diff(&[]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(3));
    assert!(shown.contains("-  k: v") && shown.contains("+  k: w") && !shown.contains("Secret"), "{shown}");

    write(root, "m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndta: {}\n");
    let out = diff(&[]);
    assert_eq!(out.status.code(), Some(1));
    let error = text(&out.stderr);
    assert!(error.contains("m.yaml:1") && error.contains("dta"), "{error}");
}

#[tokio::test]
async fn diff_of_a_sync_shows_what_it_would_delete() {
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("diff-sync").await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata: {{k: v}}\n");
    write(root, "all.yaml", &format!("{}---\n{}", map("kept"), map("dropped")));
    let file = root.join("all.yaml").display().to_string();
    let args = ["apply", "--server-side", "--field-manager=pilothouse", "-n", &namespace, "-f", &file];
    assert!(cluster.kubectl(args).status.success());
    let ours = format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Repository\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{url: 'https://git.invalid/r'}}\n---\napiVersion: pilothouse.dev/v1alpha1\nkind: Sync\n\
         metadata: {{name: s, namespace: {namespace}}}\nspec: {{repositoryRef: {{name: r}}}}\nstatus:\n  inventory:\n    entries:\n    \
         - {{id: {namespace}_kept__ConfigMap, v: v1}}\n    - {{id: {namespace}_dropped__ConfigMap, v: v1}}\n"
    );
    let state = tempfile::tempdir().unwrap();
    write(state.path(), "ours.yaml", &ours);
    let file = state.path().join("ours.yaml").display().to_string();
    assert!(cluster.kubectl(["apply", "--server-side", "-f", &file]).status.success());
    let out = cluster.kubectl(["apply", "--server-side", "--subresource=status", "--field-manager=test", "-f", &file]);
    assert!(out.status.success(), "{}", text(&out.stderr));

    write(root, "all.yaml", &map("kept"));
    let out = pilothouse(Some(cluster), root, &["diff", ".", "-n", &namespace, "--sync", "s", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let deleted: Vec<_> = shown.as_array().unwrap().iter().filter(|s| s["change"] == "deleted").collect();
    assert_eq!(deleted.len(), 1, "{shown}");
    assert_eq!(deleted[0]["object"], format!("ConfigMap/{namespace}/dropped"));
}

/// Two agents of one template: one reads a text from a ConfigMap, the other one has a text of its own.
fn agents(image: &str, profile: &str) -> String {
    let agent = |name: &str, context: &str, more: &str| {
        format!(
            "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {{name: {name}}}\nspec:\n  templateRef: {{name: t}}\n  \
             {more}\n  contexts: [{{name: rules, type: {context}}}]\n"
        )
    };
    let template = format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: AgentTemplate\nmetadata: {{name: t}}\n\
         spec: {{workspaceDir: /w, serviceAccountName: default, executorImage: '{image}'}}\n"
    );
    let reader = agent("reader", "ConfigMap, configMap: {name: texts, key: rules}", "profile: x");
    let other = agent("other", "Text, text: Be kind.", &format!("profile: {profile}\n  rollout: {{protect: None}}"));
    [template, reader, other].join("---\n")
}

/// Both agents get a new pod; one of them protects its work, and a Task runs on it.
fn plan_says_when(cluster: &Cluster, root: &Path, namespace: &str) {
    let task = "apiVersion: pilothouse.dev/v1alpha1\nkind: Task\nmetadata: {name: review}\n\
                spec: {agentRef: {name: reader}, description: x}\nstatus: {phase: Running}\n";
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "task.yaml", task);
    let file = dir.path().join("task.yaml").display().to_string();
    let apply = ["apply", "--server-side", "-n", namespace, "-f", &file];
    let out = cluster.kubectl(apply);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let [verb, ssa, n, to, f, path] = apply;
    let out = cluster.kubectl([verb, ssa, n, to, f, path, "--subresource=status", "--field-manager=test"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let plan = |more: &[&str]| pilothouse(Some(cluster), root, &[&["plan", ".", "-n", namespace], more].concat());
    let out = plan(&["-o", "json"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let (other, reader) = (&said["agents"][0], &said["agents"][1]);
    assert_eq!((&other["name"], &other["message"]), (&"other".into(), &"at once".into()), "{said}");
    assert_eq!((&reader["name"], &reader["class"]), (&"reader".into(), &"Rollout".into()), "{said}");
    assert_eq!(reader["runningTasks"], serde_json::json!(["review"]), "{said}");
    assert_eq!((&reader["waitsForSessions"], reader["forcedAt"].is_string()), (&true.into(), true), "{said}");
    assert!(text(&plan(&["-o", "yaml"]).stdout).contains("class: Rollout"));
    assert!(
        text(&plan(&[]).stdout).contains(&format!("{namespace}/reader: Rollout (image, text/rules): after the work"))
    );
    let comment = text(&plan(&["--markdown"]).stdout);
    assert!(
        comment
            .contains(&format!("| {namespace}/reader | Rollout | image, text/rules | Tasks review, busy sessions |")),
        "{comment}"
    );
    assert!(cluster.kubectl(["delete", "task", "review", "-n", namespace]).status.success());
}

#[tokio::test]
async fn diff_says_how_a_change_reaches_agents_that_run() {
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("diff-agents").await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let map = |rules: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: texts}}\ndata: {{rules: {rules}, more: x}}\n")
    };
    let diff = |more: &[&str]| pilothouse(Some(cluster), root, &[&["diff", ".", "-n", &namespace], more].concat());
    let effects = |out: &Output| {
        let shown = text(&out.stdout);
        let lines = shown.lines().filter(|l| l.starts_with("Agent ")).map(|l| l.replace(&namespace, "ns"));
        (out.status.code(), lines.collect::<Vec<_>>(), shown.clone())
    };
    write(root, "agents.yaml", &agents("devbox:1", "x"));
    write(root, "map.yaml", &map("one"));
    let (_, lines, shown) = effects(&diff(&[]));
    assert!(lines.is_empty(), "what is created reaches nobody: {shown}");
    let file = root.display().to_string();
    let apply = ["apply", "--server-side", "--field-manager=pilothouse", "-n", &namespace, "-f", &file];
    assert!(cluster.kubectl(apply).status.success());
    assert_eq!(effects(&diff(&[])), (Some(0), vec![], String::new()));

    write(root, "map.yaml", &map("two"));
    let (code, lines, shown) = effects(&diff(&[]));
    let live = "Agent ns/reader: Live (text/rules): the running server reads it, nothing restarts";
    assert_eq!((code, lines), (Some(3), vec![live.into()]), "{shown}");

    write(root, "agents.yaml", &agents("devbox:2", "x"));
    let (_, lines, shown) = effects(&diff(&[]));
    let other = "Agent ns/other: Rollout (image): a new pod, at once";
    let reader = "Agent ns/reader: Rollout (image, text/rules): a new pod; waits for running work";
    assert_eq!(lines, [other, reader], "{shown}");
    plan_says_when(cluster, root, &namespace);
    let list: serde_json::Value = serde_json::from_slice(&diff(&["-o", "json"]).stdout).unwrap();
    let of_reader = list.as_array().unwrap().iter().find(|o| o["object"] == format!("Agent/{namespace}/reader"));
    let of_reader = of_reader.unwrap_or_else(|| panic!("{list}"));
    assert_eq!(of_reader["effect"]["class"], "Rollout");
    assert_eq!(of_reader["effect"]["causes"], serde_json::json!(["image", "text/rules"]));
    assert_eq!((&of_reader["change"], &of_reader["diff"]), (&"untouched".into(), &"".into()));

    write(root, "map.yaml", &map("one"));
    write(root, "agents.yaml", &agents("devbox:1", "slow"));
    let (_, lines, shown) = effects(&diff(&[]));
    assert_eq!(lines, ["Agent ns/other: nothing of it is for its pod"], "{shown}");
    let out = pilothouse(Some(cluster), root, &["plan", ".", "-n", &namespace]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stdout));
    assert!(shown.contains("+  profile: slow"), "{shown}");
}
