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

fn error(files: &[(&str, &str)], at: &str) -> RenderError {
    run(files, at).unwrap_err()
}

#[test]
fn repetition_is_bounded() {
    let mut files: Vec<(String, String)> = (0..30)
        .map(|i| (format!("k{i}/kustomization.yaml"), format!("resources: [../k{n}, ../k{n}]\n", n = i + 1)))
        .collect();
    files.push(("k30/kustomization.yaml".into(), "resources: []\nnamePrefix: a-\n".into()));
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let failed = error(&files, "k0");
    assert_eq!(failed.reason, Reason::TooLarge, "{failed}");
    assert!(failed.message.contains("1000 times"), "{failed}");
}

#[test]
fn the_bytes_of_all_documents_count() {
    let big = "x".repeat(MAX_FILE_BYTES);
    let each = (0..9).fold(String::new(), |all, n| all + &format!("- {{name: c{n}, files: [big]}}\n"));
    let kustomization = format!("configMapGenerator:\n{each}");
    let failed = error(&[("big", &big), ("kustomization.yaml", &kustomization)], "");
    assert_eq!((failed.reason, failed.message.as_str()), (Reason::TooLarge, "more than 32 MiB in one Sync; split it"));
}

#[test]
fn a_copy_of_a_copy_is_bounded() {
    let copies =
        (0..40).fold(String::new(), |all, n| all + &format!("  - {{op: copy, from: /data, path: /data/c{n}}}\n"));
    let kustomization = format!(
        "resources: [a.yaml]\npatches:\n- target: {{kind: ConfigMap}}\n  patch: |-\n{}",
        copies.replace("  - ", "    - ")
    );
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}\n";
    let failed = error(&[("a.yaml", manifest), ("kustomization.yaml", &kustomization)], "");
    assert!(failed.message.contains("copies more than"), "{failed}");
}

/// A generator asks for what a template writes, not for its source.
#[test]
fn generators_take_what_templates_write() {
    let files = [
        (
            "k/kustomization.yaml",
            "configMapGenerator:\n- name: a\n  options: {disableNameSuffixHash: true}\n  files: \
          [conf/app.conf.j2, other.conf=conf/app.conf.j2, raw.j2=conf/raw]\n  envs: [vars.env.j2]\n",
        ),
        ("k/conf/app.conf.j2", "{% include 'part.j2' %} of {{ values.name }}\n"),
        ("k/conf/part.j2", "part"),
        ("k/conf/raw", "{{ raw }}"),
        ("k/vars.env.j2", "{% for n in values.list %}KEY_{{ n }}={{ loop.index }}\n{% endfor %}"),
    ];
    let rendered = run(&files, "k").unwrap();
    let want = serde_json::json!({
        "KEY_a": "1", "KEY_b": "2", "app.conf": "part of web\n", "other.conf": "part of web\n", "raw.j2": "{{ raw }}",
    });
    assert_eq!(rendered.objects[0].object.value()["data"], want);
    assert_eq!(rendered.read.len(), files.len(), "what they include is read too: {:?}", rendered.read);
    let failed = error(&[files[0], ("k/conf/app.conf.j2", "{{ values.nane }}"), files[3], files[4]], "k");
    assert_eq!((failed.reason, failed.file.as_str()), (Reason::TemplateFailed, "k/conf/app.conf.j2"));
}

#[test]
fn a_kustomization_is_no_template() {
    let manifest = ("k/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
    for name in ["kustomization.yaml", "kustomization.yml", "Kustomization"] {
        let template = format!("k/{name}.j2");
        let other = format!("resources: [../k/{name}.j2]\n");
        let whole = [manifest, (template.as_str(), "resources: [a.yaml]\n"), ("x/kustomization.yaml", other.as_str())];
        // The folder itself, one above it, the very file, and a kustomization that names it.
        for at in ["k", "", template.as_str(), "x"] {
            let failed = error(&whole, at);
            assert_eq!((failed.reason, failed.file.as_str()), (Reason::NotSupported, template.as_str()), "{at:?}");
            assert!(failed.message.contains(&format!("write {name}")), "{failed}");
        }
    }
}

#[test]
fn a_render_stops_when_nobody_waits() {
    let tree: FileTree = [("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")].into_iter().collect();
    let failed = render_until(&tree, &path(""), &context(), &|| true).unwrap_err();
    assert_eq!(failed.reason, Reason::Interrupted);
}

#[test]
fn an_api_version_is_no_path() {
    for bad in ["../../v1", "a/b/v1", "v1?x=1", "/v1", "V1", "apps/", "apps/v1/deployments"] {
        let failed = error(&[("a.yaml", &format!("apiVersion: \"{bad}\"\nkind: Pod\nmetadata: {{name: a}}\n"))], "");
        assert!(failed.message.contains("apiVersion"), "{failed}");
    }
}

#[test]
fn a_template_has_a_largest_size() {
    let failed = error(&[("a.yaml.j2", &"#".repeat(template::MAX_SOURCE + 1))], "");
    assert!(failed.message.contains("at most 64 KiB"), "{failed}");
}

#[test]
fn bounds_hold() {
    let long = format!("# {}\n", "x".repeat(MAX_FILE_BYTES));
    assert_eq!(error(&[("a.yaml", &long)], "").reason, Reason::TooLarge);
    let many = (0..=MAX_OBJECTS)
        .fold(String::new(), |text, i| text + &format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}}}\n"));
    assert_eq!(error(&[("a.yaml", &many)], "").reason, Reason::TooLarge);
    let deep: Vec<(String, String)> =
        (0..40).map(|i| (format!("k{i}/kustomization.yaml"), format!("resources: [../k{}]\n", i + 1))).collect();
    let deep: Vec<(&str, &str)> = deep.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let found = error(&deep, "k0");
    assert_eq!(found.reason, Reason::TooLarge);
    assert!(found.message.contains("32 levels"), "{found}");
    let wide = "{% for a in range(90000) %}{{ 'x' * 100 }}{% endfor %}";
    let found = error(&[("a.yaml.j2", wide)], "");
    assert!(found.message.contains("4194304 bytes"), "{found}");
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert_eq!(error(&[("a.yaml.j2", recursive)], "").reason, Reason::TemplateFailed);
}

#[test]
fn as_many_objects_as_allowed_render() {
    let many = (0..MAX_OBJECTS).fold(String::new(), |text, i| {
        text + &format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: p{i}}}\n")
    });
    let rendered =
        run(&[("kustomization.yaml", "resources: [a.yaml]\nnamespace: x\nnamePrefix: p-\n"), ("a.yaml", &many)], "");
    assert_eq!(rendered.unwrap().objects.len(), MAX_OBJECTS);
}

#[test]
fn files_that_are_not_text_are_named() {
    let mut tree: FileTree = [("b.yaml", "a: b\n")].into_iter().collect();
    let bytes: &[u8] = b"a: 1\nb: \xff\n";
    tree.insert(path("a.yaml"), crate::tree::Entry { bytes: bytes.into(), executable: false });
    let found = render(&tree, &RepoPath::root(), &context()).unwrap_err();
    assert_eq!((found.file.as_str(), found.line), ("a.yaml", 2));
}

#[test]
fn values_cannot_break_out_of_quotes() {
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: {{ values.tricky | quote }}\n  b: {{ values.version | quote }}\n  c: {{ values.tricky | tojson }}\n";
    let rendered = run(&[("a.yaml.j2", template)], "").unwrap();
    let data = &rendered.objects[0].object.value()["data"];
    let tricky = &context().values["tricky"];
    assert_eq!((&data["a"], &data["c"], &data["b"]), (tricky, tricky, &serde_json::json!("1.10")));
}

#[test]
fn a_single_file_may_be_the_path() {
    let rendered =
        run(&[("x/a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"), ("x/b.yaml", "no: [")], "x/a.yaml");
    assert_eq!(names(&rendered.unwrap()), ["Pod/p"]);
}

#[test]
fn namespaces_go_to_what_has_one() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: other}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: b}\n---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.x.io}\nspec: {group: x.io, scope: Cluster, names: {kind: Thing}}\n---\napiVersion: x.io/v1\nkind: Thing\nmetadata: {name: c}\n---\napiVersion: y.io/v1\nkind: Known\nmetadata: {name: d}\n---\napiVersion: y.io/v1\nkind: Unknown\nmetadata: {name: e}\n---\napiVersion: pilothouse.dev/v1alpha1\nkind: PilothouseConfig\nmetadata: {name: cluster}\nspec: {}\n";
    let mut rendered = run(&[("a.yaml", text)], "").unwrap();
    set_namespace(&mut rendered.objects, "target", |gvk| (&*gvk.kind == "Known").then_some(Scope::Cluster));
    let set: Vec<(&str, Option<&str>)> =
        rendered.objects.iter().map(|i| (i.object.kind(), i.object.namespace())).collect();
    assert_eq!(
        set,
        [
            ("ConfigMap", Some("target")),
            ("ClusterRole", None),
            ("CustomResourceDefinition", None),
            ("Thing", None),
            ("Known", None),
            ("Unknown", Some("target")),
            ("PilothouseConfig", None),
        ]
    );
}

#[test]
fn a_folder_without_a_manifest_renders_to_nothing_and_says_so() {
    let files = [
        ("x/README.md", "no"),
        ("x/_m.j2", ""),
        ("y/a.yaml", "# nothing\n"),
        ("z/k/kustomization.yaml", "namePrefix: a-\nresources: []\n"),
    ];
    for (at, warning) in [("x", Some("x: no file below it is a manifest")), ("y", None), ("z", None)] {
        let rendered = run(&files, at).unwrap();
        assert_eq!(rendered.objects, []);
        let found = rendered.warnings.first().is_some_and(|found| warning.is_some_and(|text| found.starts_with(text)));
        assert!(found || warning.is_none() && rendered.warnings.is_empty(), "{at}: {:?}", rendered.warnings);
    }
    let rendered = run(&[("README.md", "no")], "").unwrap();
    assert!(rendered.warnings[0].starts_with("the repository: "), "{:?}", rendered.warnings);
}

#[test]
fn names_are_those_that_the_api_server_takes() {
    let manifest = |kind: &str, name: &str| {
        let version = match kind {
            "Role" => "rbac.authorization.k8s.io/v1",
            "Agent" => crate::api::API_VERSION,
            _ => "v1",
        };
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name:?}\nspec: {{workspaceDir: /w, serviceAccountName: s}}\n"
        )
    };
    let long = "a".repeat(254);
    for (kind, name, good) in [
        ("Agent", "a-1.b", true),
        ("Agent", "Coder", false),
        ("Agent", "a_b", false),
        ("ConfigMap", "-a", false),
        ("ConfigMap", "a.", false),
        ("ConfigMap", "a..b", false),
        ("ConfigMap", &long, false),
        ("ConfigMap", "a-.b", false),
        ("Role", "system:a_B", true),
    ] {
        let rendered = run(&[("a.yaml", &manifest(kind, name))], "a.yaml");
        match rendered {
            Ok(_) => assert!(good, "{kind} {name}"),
            Err(error) => {
                let said = error.to_string();
                assert!(
                    !good && said.contains("a.yaml:4: ") && said.contains("metadata.name"),
                    "{kind} {name}: {said}"
                );
            }
        }
    }
}

#[test]
fn schedules_and_time_zones_are_read() {
    let manifest = |schedule: &str, zone: &str| {
        format!(
            "apiVersion: {}\nkind: CronTask\nmetadata: {{name: c}}\nspec:\n  schedule: {schedule:?}\n  timeZone: {zone}\n  \
             taskTemplate: {{spec: {{description: d, agentRef: {{name: a}}}}}}\n",
            crate::api::API_VERSION
        )
    };
    let table = [
        ("0 3 * * *", "Europe/Berlin", None),
        ("0 3 * * *", "Europe/Berlinn", Some("a.yaml:6: CronTask c: spec.timeZone: ")),
        ("0 25 * * *", "UTC", Some("a.yaml:5: CronTask c: spec.schedule: position 3: ")),
        ("0 0 31 2 *", "UTC", Some("a.yaml:5: CronTask c: spec.schedule: ")),
    ];
    for (schedule, zone, wrong) in table {
        let said = run(&[("a.yaml", &manifest(schedule, zone))], "a.yaml").unwrap().warnings.pop();
        assert!(
            said.as_deref().is_none_or(|said| wrong.is_some_and(|wrong| said.contains(wrong))),
            "{schedule} {zone}: {said:?}"
        );
        assert_eq!(said.is_some(), wrong.is_some(), "{schedule} {zone}");
    }
}
