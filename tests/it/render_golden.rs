//! Golden folders: what a tree renders to, or the error; and the real kustomize on the same trees.
//!
//! `tests/golden/render/CASE/in/` is the tree, `path` (one line, optional) the folder in it, `out.yaml` or `error.txt`
//! what comes out. `UPDATE=1` writes the latter. A case with a file `differs` says in it why kustomize is not asked.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pilothouse::{
    object::{Object, yaml},
    render::{self, Context, Rendered, RepositoryFacts, SyncFacts},
    tree::{Entry, FileTree, RepoPath},
};
use serde_json::{Value, json};

use crate::common::controller::program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/render")
}

fn cases() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root()).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    assert!(found.len() > 20, "only {} cases found", found.len());
    found
}

/// A folder as a tree.
pub(crate) fn tree(folder: &Path) -> FileTree {
    let (mut tree, mut open) = (FileTree::default(), vec![folder.to_path_buf()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                let bytes = fs::read(&path).unwrap().into();
                tree.insert(RepoPath::parse(name).unwrap(), Entry { bytes, executable: false });
            }
        }
    }
    tree
}

fn start(case: &Path) -> RepoPath {
    RepoPath::parse(fs::read_to_string(case.join("path")).unwrap_or_default().trim()).unwrap()
}

fn context() -> Context {
    Context {
        values: json!({
            "team": "blue", "replicas": 2, "agents": ["one", "two"], "version": "1.10", "tricky": "a: b # \"c\"\n- d",
            "model": {"name": "m", "baseURL": "http://model/v1?a=b&c=d"},
        }),
        sync: SyncFacts { name: "team".into(), namespace: "flux".into() },
        repository: RepositoryFacts {
            name: "config".into(),
            namespace: "flux".into(),
            url: "https://git.example.com/config".into(),
            commit: "0123456789abcdef0123456789abcdef01234567".into(),
            branch: "main".into(),
            revision: "main@sha1:0123456789abcdef0123456789abcdef01234567".into(),
        },
        namespace: "agents".into(),
    }
}

fn run(case: &Path) -> Result<Rendered, render::RenderError> {
    render::render(&tree(&case.join("in")), &start(case), &context())
}

fn text(rendered: &Rendered) -> String {
    yaml::to_documents(rendered.objects.iter().map(|item| item.object.value()))
}

#[test]
fn golden() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = vec![];
    for case in cases() {
        let result = run(&case);
        let (name, other, got) = match &result {
            Ok(rendered) => {
                let warnings = rendered.warnings.iter().flat_map(|w| ["# warning: ", w, "\n"]);
                ("out.yaml", "error.txt", warnings.collect::<String>() + &text(rendered))
            }
            Err(error) => ("error.txt", "out.yaml", format!("{}\n{error}\n", error.reason.as_str())),
        };
        if update {
            fs::write(case.join(name), &got).unwrap();
            let _ = fs::remove_file(case.join(other));
        }
        let want = fs::read_to_string(case.join(name)).unwrap_or_default();
        if want != got || case.join(other).exists() {
            let diff = similar::TextDiff::from_lines(&want, &got).unified_diff().to_string();
            wrong.push(format!("{}/{name}:\n{diff}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes what comes out", wrong.join("\n"));
}

#[test]
fn what_is_written_reads_back_as_what_was_rendered() {
    for case in cases() {
        let Ok(rendered) = run(&case) else { continue };
        let back: Vec<Value> = yaml::parse_documents(&text(&rendered)).unwrap().into_iter().map(|d| d.value).collect();
        let want: Vec<Value> = rendered.objects.iter().map(|i| i.object.value().clone()).collect();
        assert_eq!(back, want, "{}", case.display());
    }
}

#[test]
fn a_tree_of_only_what_was_read_renders_the_same() {
    for case in cases() {
        let whole = tree(&case.join("in"));
        let Ok(rendered) = run(&case) else { continue };
        let read: FileTree = whole
            .iter()
            .filter(|(path, _)| rendered.read.contains(path))
            .map(|(p, e)| (p.clone(), e.clone()))
            .collect();
        assert_eq!(read.len(), rendered.read.len(), "{}", case.display());
        assert_eq!(render::render(&read, &start(&case), &context()).as_ref(), Ok(&rendered), "{}", case.display());
        for (path, _) in read.iter() {
            let less: FileTree = read.iter().filter(|(p, _)| *p != path).map(|(p, e)| (p.clone(), e.clone())).collect();
            assert_ne!(
                render::render(&less, &start(&case), &context()).as_ref(),
                Ok(&rendered),
                "{path} was not needed"
            );
        }
    }
}

/// Objects by identity, base64 without line breaks.
fn by_id(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for mut value in objects {
        for field in ["data", "binaryData"] {
            let packed = value["kind"] == "Secret" || field == "binaryData";
            if let Some(Value::Object(map)) = value.get_mut(field).filter(|_| packed) {
                for text in map.values_mut() {
                    *text = text.as_str().unwrap_or_default().replace('\n', "").into();
                }
            }
        }
        let id = Object::new(value.clone()).unwrap().id().to_string();
        assert!(found.insert(id.clone(), value).is_none(), "{id} twice");
    }
    found
}

#[test]
fn kustomize_makes_the_same_objects() {
    let kustomize = program("kustomize");
    let (mut asked, mut wrong) = (0, vec![]);
    for case in cases() {
        let folder = case.join("in").join(start(&case).as_str());
        let refused = case.join("error.txt").exists();
        let about = case.file_name().unwrap().to_string_lossy();
        assert!(
            refused == about.starts_with("error-"),
            "{about}: cases that are refused are named error-*, and only they"
        );
        let differs = case.join("differs").exists() || refused;
        if differs || !folder.join("kustomization.yaml").exists() {
            continue;
        }
        asked += 1;
        let output = Command::new(&kustomize)
            .args(["build", "--load-restrictor", "LoadRestrictionsNone"])
            .arg(&folder)
            .output()
            .unwrap();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if !output.status.success() {
            wrong.push(format!("{name}: kustomize fails: {}", String::from_utf8_lossy(&output.stderr)));
            continue;
        }
        let theirs = yaml::parse_documents(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
        let theirs = by_id(theirs.into_iter().map(|d| d.value));
        let ours = by_id(run(&case).unwrap().objects.into_iter().map(|i| i.object.into_value()));
        if ours != theirs {
            let show = |objects: &BTreeMap<String, Value>| yaml::to_documents(objects.values());
            let diff = similar::TextDiff::from_lines(show(&theirs), show(&ours)).unified_diff().to_string();
            wrong.push(format!("{name}: kustomize is -, we are +\n{diff}"));
        }
    }
    assert!(asked >= 10, "only {asked} cases for kustomize");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
