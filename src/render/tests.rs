use super::*;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

fn context() -> Context {
    Context {
        values: serde_json::json!({"name": "web", "list": ["a", "b"], "tricky": "a: b\n\"c\" #", "version": "1.10"}),
        sync: SyncFacts { name: "s".into(), namespace: "ns".into() },
        repository: RepositoryFacts { commit: "c0ffee".into(), branch: "main".into(), ..RepositoryFacts::default() },
        namespace: "target".into(),
    }
}

fn run(files: &[(&str, &str)], at: &str) -> std::result::Result<Rendered, RenderError> {
    let tree: FileTree = files.iter().copied().collect();
    render(&tree, &path(at), &context())
}

fn names(rendered: &Rendered) -> Vec<String> {
    rendered.objects.iter().map(|item| item.object.id().short()).collect()
}

#[test]
fn a_plain_folder_is_every_manifest_below_it() {
    let rendered = run(
        &[
            ("x/b/deep/c.yml", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n- {apiVersion: v1, kind: Pod, metadata: {name: q}}\n"),
            ("x/a.yaml", "# c\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n"),
            ("x/z.json", "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"j\"}}"),
            ("x/t.yaml.j2", "{% for n in values.list %}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: {{ n }}}\n{% endfor %}\n"),
            ("x/README.md", "no"),
            ("x/.github/w.yaml", "on: push"),
            ("x/_macros.j2", "{% macro m() %}{% endmacro %}"),
            ("y/other.yaml", "broken: ["),
        ],
        "x",
    )
    .unwrap();
    assert_eq!(names(&rendered), ["ConfigMap/a", "Secret/b", "Pod/p", "Pod/q", "Service/a", "Service/b", "Service/j"]);
    let lines: Vec<usize> = rendered.objects.iter().map(|i| i.line).collect();
    assert_eq!(lines, [3, 7, 4, 5, 2, 6, 1]);
    let read: Vec<&str> = rendered.read.iter().map(RepoPath::as_str).collect();
    assert_eq!(read, ["x/a.yaml", "x/b/deep/c.yml", "x/t.yaml.j2", "x/z.json"]);
}
