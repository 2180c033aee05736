//! What a render may cost: memory and steps of all that it reads and makes together, counted, not measured.

use std::cell::Cell;

use super::*;

type Outcome = std::result::Result<Rendered, RenderError>;

fn run(files: &[(String, String)]) -> Outcome {
    run_until(files, &|| false)
}

fn run_until(files: &[(String, String)], stopped: &dyn Fn() -> bool) -> Outcome {
    let tree: FileTree = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    render_until(&tree, &RepoPath::root(), &Context::default(), stopped)
}

fn file(path: &str, text: impl Into<String>) -> (String, String) {
    (path.to_owned(), text.into())
}

/// A manifest whose data is written in flow style.
fn manifest(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\nspec: {data}\n")
}

fn too_large(files: &[(String, String)]) -> RenderError {
    let failed = run(files).unwrap_err();
    assert_eq!(failed.reason, Reason::TooLarge, "{failed}");
    assert!(failed.message.contains("more than 64 MiB of memory"), "{failed}");
    failed
}

/// 40 copies of a list of 1,000 in each file: none is much, all together are.
#[test]
fn many_small_files_with_aliases_are_refused() {
    let list = "x,".repeat(1000);
    let aliases = "*a,".repeat(40);
    let files: Vec<_> = (0..20)
        .map(|n| {
            file(&format!("{n:02}.yaml"), manifest(&format!("m{n}"), &format!("{{a: &a [{list}], b: [{aliases}]}}")))
        })
        .collect();
    assert!(run(&files[..3]).is_ok());
    let failed = too_large(&files);
    assert!(failed.file.as_str() > "03.yaml" && failed.line > 0, "{failed}");
}

#[test]
fn small_nodes_count_for_what_they_become() {
    let json = |inner: &str| format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{inner}{{}}]}}");
    for (path, text) in [
        ("a.yaml", manifest("a", &format!("[{}]", "a,".repeat(1 << 20)))),
        ("a.yaml", manifest("a", &format!("[{}]", "{a: b},".repeat(100_000)))),
        ("a.yaml", manifest("a", &format!("[{}]", "[],".repeat(1 << 20)))),
        ("a.json", json(&"{},".repeat(1 << 20))),
        ("a.json", json(&"{\"a\":1},".repeat(100_000))),
        ("a.json", "{}".repeat(1 << 20)),
    ] {
        assert_eq!(too_large(&[file(path, text)]).file.as_str(), path);
    }
    let template = format!("{{% for n in range(90000) %}}{}{{% endfor %}}", "[],".repeat(12));
    too_large(&[file("a.yaml.j2", manifest("a", &format!("[{template}]")))]);
}

/// Thousands of manifests as people write them.
#[test]
fn a_large_repository_renders() {
    let deployment = |n: usize| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web-{n}\n  labels: {{app: web, part-of: shop}}\nspec:\n  replicas: 2\n  \
             selector:\n    matchLabels: {{app: web}}\n  template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      containers:\n      \
             - name: web\n        image: registry.example/shop/web:1.2.3\n        ports:\n        - containerPort: 8080\n        \
             resources:\n          requests: {{cpu: 100m, memory: 128Mi}}\n          limits: {{memory: 256Mi}}\n        env:\n        - \
             name: MODE\n          value: production\n        readinessProbe:\n          httpGet: {{path: /ready, port: 8080}}\n"
        )
    };
    let files: Vec<_> = (0..3000).map(|n| file(&format!("{n:04}.yaml"), deployment(n))).collect();
    assert_eq!(run(&files).unwrap().objects.len(), 3000);
}

#[test]
fn what_kustomizations_multiply_counts() {
    let many = (0..1000).fold(String::new(), |text, n| text + "---\n" + &manifest(&format!("m{n}"), "{a: b}"));
    let long = "x".repeat(100_000);
    let containers = "{image: a},".repeat(1000);
    let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{containers}]}}\n");
    for (kustomization, manifests) in [
        (format!("commonAnnotations: {{a: {long}}}\n"), &many),
        (format!("labels: [{{pairs: {{a: {long}}}}}]\n"), &many),
        (format!("namePrefix: {long}\n"), &many),
        (format!("namespace: {long}\n"), &many),
        (format!("images: [{{name: a, newName: {long}}}]\n"), &pod),
        (format!("patches: [{{target: {{kind: ConfigMap}}, patch: '{{\"x\": [{}1]}}'}}]\n", "1,".repeat(1000)), &many),
        (
            format!(
                "patches:\n- target: {{kind: ConfigMap}}\n  patch: '[{{\"op\": \"add\", \"path\": \"/x\", \"value\": [{}1]}}]'\n",
                "1,".repeat(1000)
            ),
            &many,
        ),
    ] {
        let kustomization = format!("resources: [a.yaml]\n{kustomization}");
        let failed = too_large(&[file("a.yaml", manifests), file("kustomization.yaml", kustomization)]);
        assert!(["kustomization.yaml", "a.yaml"].contains(&failed.file.as_str()), "{failed}");
    }
}

/// `operations` on a list of 100,000.
fn patched(operations: &str) -> Vec<(String, String)> {
    let patch = format!("[{}]", operations.trim_end_matches(','));
    vec![
        file("a.yaml", manifest("a", &format!("[{}]", "1,".repeat(100_000)))),
        file("p.yaml", patch),
        file("kustomization.yaml", "resources: [a.yaml]\npatches: [{path: p.yaml, target: {kind: ConfigMap}}]\n"),
    ]
}

const SHIFT: &str = "{op: remove, path: /spec/0},";

#[test]
fn a_patch_has_few_operations_and_moves_little() {
    assert!(run(&patched(&SHIFT.repeat(1000))).is_ok());
    let failed = run(&patched(&SHIFT.repeat(MAX_OPERATIONS + 1))).unwrap_err();
    assert_eq!((failed.reason, failed.file.as_str()), (Reason::TooLarge, "p.yaml"));
    assert!(failed.message.contains("at most 10000 operations"), "{failed}");
    let failed = run(&patched(&SHIFT.repeat(5000))).unwrap_err();
    assert_eq!((failed.reason, failed.file.as_str()), (Reason::TooLarge, "p.yaml"));
    assert!(failed.message.contains("steps"), "{failed}");
}

/// Each operation asks whether somebody still waits; so do a merge of lists and the search for references.
#[test]
fn a_patch_asks_whether_to_go_on() {
    let asked = |files: &[(String, String)]| {
        let count = Cell::new(0);
        run_until(files, &|| {
            count.set(count.get() + 1);
            false
        })
        .unwrap();
        count.get()
    };
    let (few, more) = (patched(SHIFT), patched(&SHIFT.repeat(101)));
    assert!(asked(&more) >= asked(&few) + 100);
    let all = asked(&more);
    let left = Cell::new(all - 50);
    let stopped = run_until(&more, &|| {
        left.set(left.get() - 1);
        left.get() < 0
    });
    assert_eq!(stopped.unwrap_err().reason, Reason::Interrupted);

    let containers = |n: usize| (0..n).fold(String::new(), |text, i| text + &format!("{{name: c{i}}},"));
    let pod =
        |n| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{}]}}\n", containers(n));
    let merge = |n| {
        let kustomization = "resources: [a.yaml]\npatches: [{path: p.yaml}]\n";
        [file("a.yaml", pod(200)), file("p.yaml", pod(n)), file("kustomization.yaml", kustomization)]
    };
    assert!(asked(&merge(101)) >= asked(&merge(1)) + 100);
}
