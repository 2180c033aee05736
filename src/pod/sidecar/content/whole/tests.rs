use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use crate::{
    api::content::{Form, Piece, checkout::Rest},
    artifact::{Digest, archive},
    pod::sidecar::content::{
        area::{Area, Kind},
        ground::Ground,
        unpack::Rights,
    },
    tree::{Entry, FileTree, RepoPath},
};

/// Files of a work tree: path and text; a text of `-> x` is a link to x.
type Files<'a> = [(&'a str, &'a str)];

/// A checkout of commit `id` as the controller would make it; what Git alone reads is made up.
fn artifact(id: &str, files: &Files<'_>) -> FileTree {
    let line = format!("{id}\n");
    let mut all: Vec<(String, String)> = vec![
        ("git/HEAD".into(), "ref: refs/heads/main\n".into()),
        ("git/config".into(), "[core]\n".into()),
        ("git/index".into(), format!("index of {id}")),
        ("git/shallow".into(), line.clone()),
        ("git/refs/heads/main".into(), line.clone()),
        ("git/refs/remotes/origin/main".into(), line),
        (format!("git/objects/pack/pack-{id}.idx"), "i".into()),
        (format!("git/objects/pack/pack-{id}.pack"), "p".into()),
    ];
    let mut rest = Rest::default();
    for (path, text) in files {
        match text.strip_prefix("-> ") {
            Some(target) => _ = rest.links.insert((*path).into(), target.into()),
            None => all.push((format!("tree/{path}"), (*text).into())),
        }
    }
    all.push(("checkout.json".into(), serde_json::to_string(&rest).unwrap()));
    tree(&all)
}

fn tree(files: &[(String, String)]) -> FileTree {
    let entry = |(path, text): &(String, String)| {
        let entry = Entry { bytes: text.as_bytes().into(), executable: path.contains("bin/") };
        (RepoPath::parse(path).unwrap(), entry)
    };
    files.iter().map(entry).collect()
}

struct Place {
    dir: tempfile::TempDir,
    area: Area,
    at: &'static str,
}

impl Place {
    fn new(at: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("w")).unwrap();
        let area = Area::open(&dir.path().join("w"), Kind::Folder(Rights::Editable), "pod").unwrap();
        Self { dir, area, at }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("w").join(self.at)
    }

    fn piece(&self, id: &str, bytes: &[u8]) -> Piece {
        let target = self.dir.path().join("w").join(self.at);
        Piece {
            id: "contexts/repo".into(),
            target: target.to_str().unwrap().trim_end_matches('/').into(),
            form: Form::Checkout,
            revision: format!("main@sha1:{id}"),
            digest: Digest::of(bytes).to_string(),
            size: bytes.len() as u64,
            ..Piece::default()
        }
    }

    /// Puts a commit in place; why not, where it is not.
    fn put(&mut self, id: &str, files: &Files<'_>) -> Option<String> {
        self.put_tree(id, &artifact(id, files)).unwrap()
    }

    fn put_tree(&mut self, id: &str, tree: &FileTree) -> std::io::Result<Option<String>> {
        let mut bytes = vec![];
        archive::write(tree, &mut bytes).unwrap();
        let piece = self.piece(id, &bytes);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        self.area.stage(&piece, file)?;
        let staged = self.area.staged(&piece).unwrap();
        Ok(self.area.put(&staged, &piece, true)?.held())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_default()
    }

    fn note(&self) -> String {
        self.area.placed().next().unwrap().note
    }

    /// All of the work tree, `.git` included; links by their targets.
    fn all(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        walk(&self.root(), "", &mut found);
        found
    }

    /// The same without `.git`.
    fn work_tree(&self) -> BTreeMap<String, String> {
        self.all().into_iter().filter(|(path, _)| !path.starts_with(".git/")).collect()
    }
}

fn walk(at: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name == ".pilothouse" {
            continue;
        }
        let (path, kind) = (format!("{prefix}{name}"), entry.file_type().unwrap());
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_symlink() {
            found.insert(path, format!("-> {}", fs::read_link(entry.path()).unwrap().display()));
        } else {
            found.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn files(list: &Files<'_>) -> BTreeMap<String, String> {
    list.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

const ONE: &Files<'_> = &[("a", "1"), ("bin/run", "1"), ("deep/er/b", "1"), ("l", "-> a"), ("same", "s")];
const TWO: &Files<'_> = &[("a", "2"), ("bin/run", "1"), ("new/c", "2"), ("l", "-> same"), ("same", "s")];

#[test]
fn it_is_filled_once_and_goes_forward_file_by_file() {
    for at in ["", "repo", "deep/repo"] {
        let mut p = Place::new(at);
        assert_eq!(p.put("c1", ONE), None, "{at}");
        assert_eq!(p.work_tree(), files(ONE), "{at}");
        p.write("notes/mine", "untracked");
        p.write("same", "mine");
        assert_eq!(p.put("c2", TWO), None, "{at}");
        let mut want = files(TWO);
        want.extend([("notes/mine".into(), "untracked".into()), ("same".into(), "mine".into())]);
        assert_eq!(p.work_tree(), want, "{at}: only what changed was touched, and edits of other files stay");
        assert_eq!(
            (p.read(".git/refs/heads/main"), p.read(".git/refs/remotes/origin/main")),
            ("c2\n".into(), "c2\n".into())
        );
        assert_eq!(p.read(".git/shallow"), "c1\nc2\n", "the older commit is there too");
        assert_eq!(
            (p.read(".git/index"), p.read(".git/objects/pack/pack-c1.pack")),
            ("index of c2".into(), "p".into())
        );
        assert!(!p.root().join("deep/er").exists(), "{at}: folders that are empty go");
        assert!(p.area.look().unwrap() && p.note().contains("same"), "{at}: {}", p.note());
        p.write("same", "s");
        assert!(p.area.look().unwrap() && p.note().is_empty(), "{at}: {}", p.note());
        let trees = p.dir.path().join("w/.pilothouse/trees");
        assert_eq!(fs::read_dir(trees).unwrap().count(), 0, "{at}: nothing is left beside");
    }
}

#[test]
fn at_the_root_what_is_there_stays_and_what_is_ours_is_not_seen_by_git() {
    let mut p = Place::new("");
    p.write("a", "from a ConfigMap");
    p.write(".kubeopencode/context.md", "text");
    assert_eq!(p.put("c1", ONE), None);
    assert_eq!((p.read("a"), p.read("deep/er/b")), ("from a ConfigMap".into(), "1".into()));
    assert_eq!(p.read(".git/info/exclude"), "/.pilothouse/\n/.kubeopencode/\n");
    let held = p.put("c2", TWO).unwrap();
    assert!(held.contains("contexts/repo: WorkspaceDirty: a "), "{held}");
}

#[test]
fn a_repository_of_somebody_else_is_left_alone() {
    let mut p = Place::new("repo");
    p.write(".git/HEAD", "theirs");
    p.write("a", "theirs");
    let before = p.all();
    assert_eq!(p.put("c1", ONE), None);
    assert_eq!(p.all(), before);
    assert!(p.note().contains("was there before"), "{}", p.note());
    assert!(p.put("c2", TWO).unwrap().contains("WorkspaceDirty"));
    assert_eq!(p.all(), before);
}

#[test]
fn work_of_the_agent_holds_a_commit_back_as_a_whole() {
    type Change = fn(&Place);
    let changes: [(&str, Change); 14] = [
        ("a", |p| p.write("a", "mine")),
        ("a", |p| fs::remove_file(p.root().join("a")).unwrap()),
        ("deep/er/b", |p| p.write("deep/er/b", "mine")),
        ("new/c", |p| p.write("new/c", "mine")),
        ("new/c", |p| p.write("new", "a file")),
        ("new/c", |p| p.write("new/c/d", "a folder")),
        ("l", |p| {
            fs::remove_file(p.root().join("l")).unwrap();
            symlink("elsewhere", p.root().join("l")).unwrap();
        }),
        ("deep/er/b", |p| {
            fs::remove_dir_all(p.root().join("deep")).unwrap();
            fs::create_dir_all(p.dir.path().join("outside/er")).unwrap();
            fs::write(p.dir.path().join("outside/er/b"), "outside").unwrap();
            symlink(p.dir.path().join("outside"), p.root().join("deep")).unwrap();
        }),
        (".git/refs/heads/main", |p| p.write(".git/refs/heads/main", "own\n")),
        (".git/refs/heads/main", |p| {
            fs::remove_file(p.root().join(".git/refs/heads/main")).unwrap();
            p.write(".git/packed-refs", "# pack-refs\nown refs/heads/main\n");
        }),
        (".git/HEAD", |p| p.write(".git/HEAD", "ref: refs/heads/topic\n")),
        (".git/MERGE_HEAD", |p| p.write(".git/MERGE_HEAD", "x")),
        (".git/rebase-merge", |p| p.write(".git/rebase-merge/head", "x")),
        (".git/index.lock", |p| p.write(".git/index.lock", "")),
    ];
    for (n, (named, change)) in changes.into_iter().enumerate() {
        let mut p = Place::new("repo");
        p.put("c1", ONE);
        change(&p);
        let before = p.all();
        let held = p.put("c2", TWO).unwrap_or_else(|| panic!("{n}: {named} was not seen"));
        assert!(held.contains("WorkspaceDirty") && held.contains(named), "{n}: {held}");
        assert_eq!(p.all(), before, "{n}: nothing is half done");
        assert!(p.note().contains(named), "{n}: {}", p.note());
        let outside = p.dir.path().join("outside/er/b");
        assert!(!outside.exists() || fs::read_to_string(outside).unwrap() == "outside");
    }
}

#[test]
fn what_the_agent_did_by_itself_is_no_conflict() {
    let mut p = Place::new("repo");
    p.put("c1", ONE);
    // As after `git pull` and `git pack-refs`.
    p.write("a", "2");
    p.write(".git/packed-refs", "c2 refs/heads/main\n");
    fs::remove_file(p.root().join(".git/refs/heads/main")).unwrap();
    // A file that was written anew as it was.
    p.write("deep/er/b", "1");
    assert_eq!(p.put("c2", TWO), None);
    assert_eq!(p.work_tree(), files(TWO));
}

#[test]
fn an_edit_that_is_undone_lets_the_commit_in() {
    let mut p = Place::new("repo");
    p.put("c1", ONE);
    p.write("a", "mine");
    assert!(p.put("c2", TWO).is_some());
    p.write("a", "1");
    assert_eq!(p.put("c2", TWO), None);
    assert_eq!((p.work_tree(), p.note()), (files(TWO), String::new()));
}

#[test]
fn files_become_folders_and_folders_files() {
    let mut p = Place::new("repo");
    p.put("c1", &[("x", "1"), ("y/z", "1")]);
    assert_eq!(p.put("c2", &[("x/in", "2"), ("y", "2")]), None);
    assert_eq!(p.work_tree(), files(&[("x/in", "2"), ("y", "2")]));
    p.write("x/mine", "untracked");
    assert!(p.put("c3", &[("x", "3"), ("y", "2")]).is_some(), "somebody's file is in the folder");
    assert_eq!(p.read("x/in"), "2");
}

#[test]
fn what_was_interrupted_is_finished_by_the_next_start() {
    // A fill: `.git` was not there yet.
    let mut p = Place::new("");
    p.write("a", "1");
    p.write("deep/er/b", "1");
    assert_eq!(p.put("c1", ONE), None);
    assert_eq!(p.work_tree(), files(ONE));
    // A way forward: some files are as they will be.
    p.write("a", "2");
    fs::remove_file(p.root().join("deep/er/b")).unwrap();
    p.write(".git/index", "index of c2");
    p.area = Area::open(&p.dir.path().join("w"), Kind::Folder(Rights::Editable), "pod").unwrap();
    assert_eq!(p.put("c2", TWO), None);
    assert_eq!(p.work_tree(), files(TWO));
}

#[test]
fn forged_archives_are_refused_and_write_nowhere() {
    let forged: [(&str, &str, &str); 7] = [
        ("git/hooks/post-checkout", "evil", ""),
        ("git/info/attributes", "evil", ""),
        ("git/modules/x/config", "evil", ""),
        ("other/a", "evil", ""),
        ("tree/a/b", "evil", r#"{"links": {"a": "/tmp"}}"#),
        ("tree/a", "1", r#"{"links": {"../a": "/tmp"}}"#),
        ("tree/a", "1", r#"{"links": {".git/hooks": "/tmp"}}"#),
    ];
    for (path, text, rest) in forged {
        let mut p = Place::new("repo");
        let mut tree = artifact("c1", &[]);
        tree.insert(RepoPath::parse(path).unwrap(), Entry { bytes: text.as_bytes().into(), executable: false });
        if !rest.is_empty() {
            let entry = Entry { bytes: rest.as_bytes().into(), executable: false };
            tree.insert(RepoPath::parse("checkout.json").unwrap(), entry);
        }
        assert!(p.put_tree("c1", &tree).is_err(), "{path} {rest}");
        assert!(!p.root().exists(), "{path}: nothing shows");
    }
}

/// Others are exchanged although a work tree is held back, and the work tree is tried again.
#[test]
fn one_that_is_held_back_keeps_nobody_else() {
    let p = Place::new("repo");
    let workspace = p.dir.path().join("w");
    let mut ground = Ground::open(&workspace, &p.dir.path().join("none"), "pod").unwrap();
    let make = |id: &str, tree: &FileTree, form, at: &str| {
        let mut bytes = vec![];
        archive::write(tree, &mut bytes).unwrap();
        let piece =
            Piece { id: id.into(), form, target: workspace.join(at).to_str().unwrap().into(), ..p.piece("x", &bytes) };
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        (piece, file)
    };
    let mut held = vec![];
    for (id, list, text) in [("c1", ONE, "1"), ("c2", TWO, "2")] {
        let repo = make("contexts/repo", &artifact(id, list), Form::Checkout, "repo");
        let docs = make("contexts/docs", &tree(&[("d".into(), text.into())]), Form::Tree, "docs");
        let pieces = [docs.0.clone(), repo.0.clone()];
        for (piece, file) in [docs, repo] {
            ground.stage(&piece, file).unwrap();
        }
        let undo = ground.apply(&pieces, true, |_, live| live).unwrap();
        held = undo.iter().filter_map(|(_, done)| done.held()).collect();
        assert_eq!(ground.differs(&pieces, |_| true).unwrap(), !held.is_empty());
        fs::write(workspace.join("repo/a"), "mine").unwrap();
    }
    assert!(held.len() == 1 && held[0].starts_with("contexts/repo: "), "{held:?}");
    assert_eq!(fs::read_to_string(workspace.join("docs/d")).unwrap(), "2");
    assert_eq!(fs::read_to_string(workspace.join("repo/a")).unwrap(), "mine");
}

fn work_tree() -> impl Strategy<Value = BTreeMap<String, String>> {
    let path = prop::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/f", "g", "g/h"]);
    prop::collection::btree_map(path.prop_map(String::from), "[xyz]", 0..5).prop_map(|mut files| {
        // Git has no file and folder of one name.
        if files.contains_key("g/h") {
            files.remove("g");
        }
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the agent did between two commits: its work is there afterwards, and the new commit is whole or not at all.
    #[test]
    fn no_edit_is_ever_lost(one in work_tree(), two in work_tree(), edits in work_tree()) {
        let packed = |files: &BTreeMap<String, String>| {
            artifact("c", &files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
        };
        let (first, second) = (packed(&one), packed(&two));
        let mut p = Place::new("repo");
        p.put_tree("c1", &first).unwrap();
        for (path, text) in &edits {
            let to = p.root().join(path);
            if fs::create_dir_all(to.parent().unwrap()).is_ok() && !to.is_dir() {
                let _ = fs::write(to, format!("mine {text}"));
            }
        }
        let before = p.work_tree();
        let held = p.put_tree("c2", &second).unwrap();
        let after = p.work_tree();
        for (path, text) in before.iter().filter(|(_, text)| text.starts_with("mine")) {
            prop_assert_eq!(after.get(path), Some(text), "{} was lost", path);
        }
        if held.is_some() {
            prop_assert_eq!(before, after);
        } else {
            for (path, text) in &two {
                let was_edited = before.get(path).is_some_and(|text| text.starts_with("mine"));
                prop_assert!(was_edited && one.get(path) == Some(text) || after.get(path) == Some(text), "{}", path);
            }
        }
    }
}
