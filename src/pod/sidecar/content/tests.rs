use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Seek as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;

use super::{
    area::{Area, Kind, MOST},
    folder::Folder,
    ground::{self, Ground},
    skills,
    unpack::Rights,
};
use crate::{
    api::content::{Form, Piece},
    artifact::{Digest, archive},
    pod::opencode::Skill as Listed,
    tree::FileTree,
};

const POD: &str = "uid-1";

/// A workspace, and the area of it.
struct Place {
    dir: tempfile::TempDir,
    area: Area,
}

fn place(kind: Kind) -> Place {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    let area = Area::open(&dir.path().join("w"), kind, POD).unwrap();
    Place { dir, area }
}

fn workspace() -> Place {
    place(Kind::Folder(Rights::Editable))
}

fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![];
    archive::write(&files.iter().copied().collect::<FileTree>(), &mut bytes).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

impl Place {
    fn root(&self) -> PathBuf {
        self.dir.path().join("w")
    }

    fn piece(&self, id: &str, at: &str, files: &[(&str, &str)]) -> Piece {
        let bytes = packed(files);
        Piece {
            id: id.into(),
            target: self.root().join(at).to_string_lossy().trim_end_matches('/').into(),
            revision: "main@sha1:1".into(),
            digest: Digest::of(&bytes).to_string(),
            size: bytes.len() as u64,
            ..Piece::default()
        }
    }

    fn put(&mut self, piece: &Piece, files: &[(&str, &str)]) -> std::io::Result<super::area::Done> {
        self.area.stage(piece, file_of(&packed(files)))?;
        let staged = self.area.staged(piece).unwrap();
        self.area.put(&staged, piece, true)
    }

    /// Puts the files at `docs`.
    fn docs(&mut self, files: &[(&str, &str)]) -> super::area::Done {
        let piece = self.piece("contexts/docs", "docs", files);
        self.put(&piece, files).unwrap()
    }

    fn note(&self) -> String {
        self.area.placed().next().unwrap().note
    }

    fn seen(&self, at: &str) -> BTreeMap<String, String> {
        seen(&self.root().join(at))
    }

    fn reopen(&mut self, pod: &str) {
        self.area = Area::open(&self.root(), self.area.kind, pod).unwrap();
    }

    fn kept(&self) -> usize {
        self.area.state.kept.len()
    }
}

/// All files below a folder, through links too, as a reader sees them; nothing where there is none.
fn seen(path: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let Ok(entries) = fs::read_dir(path) else { return all };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("..") || name == ".pilothouse" {
            continue;
        }
        match fs::read_to_string(entry.path()) {
            Ok(text) => _ = all.insert(name, text),
            Err(_) => {
                all.extend(seen(&entry.path()).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
            }
        }
    }
    all
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

const ONE: &[(&str, &str)] = &[("a.md", "one"), ("deep/er/b.md", "one")];
const TWO: &[(&str, &str)] = &[("a.md", "two!"), ("c.md", "two!")];

#[test]
fn a_tree_is_put_exchanged_and_taken_out() {
    let mut p = workspace();
    p.docs(ONE);
    assert_eq!(p.seen("docs"), files(ONE));
    let reader = fs::File::open(p.root().join("docs")).unwrap();
    p.docs(TWO);
    assert_eq!(p.seen("docs"), files(TWO));
    assert_eq!(p.kept(), 1);
    assert_eq!(p.note(), "");
    let held = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    assert_eq!(seen(&held), files(ONE), "who opened the folder before reads the old tree to its end");
    p.area.take("contexts/docs").unwrap();
    assert!(!p.root().join("docs").exists() && p.area.placed().next().is_none());
    assert_eq!(p.kept(), 2);
}

#[test]
fn what_is_in_place_is_known_after_a_restart() {
    let mut p = workspace();
    p.docs(ONE);
    let piece = p.piece("contexts/docs", "docs", ONE);
    for (pod, same) in [(POD, true), ("uid-2", false), ("", false)] {
        p.reopen(pod);
        assert_eq!(p.area.same_pod, same, "{pod:?}");
        assert!(p.area.holds(&piece));
    }
    for other in [
        Piece { digest: Digest::of(b"").to_string(), ..piece.clone() },
        Piece { form: Form::File, ..piece.clone() },
        Piece { id: "contexts/other".into(), ..piece.clone() },
        Piece { target: format!("{}x", piece.target), ..piece.clone() },
    ] {
        assert!(!p.area.holds(&other), "{other:?}");
    }
    fs::remove_dir_all(p.root().join("docs")).unwrap();
    assert!(!p.area.holds(&piece), "the agent removed it");
}

#[test]
fn files_are_put_too() {
    let mut p = workspace();
    let one = Piece {
        form: Form::File,
        mode: Some(0o600),
        ..p.piece("contexts/f", "etc/tool.conf", &[("x/tool.conf", "one")])
    };
    p.put(&one, &[("x/tool.conf", "one")]).unwrap();
    let path = p.root().join("etc/tool.conf");
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let two = Piece { form: Form::File, ..p.piece("contexts/f", "etc/tool.conf", &[("x/tool.conf", "two")]) };
    p.put(&two, &[("x/tool.conf", "two")]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    fs::write(&path, "mine").unwrap();
    p.put(&one, &[("x/tool.conf", "one")]).unwrap();
    assert!(p.note().contains("edited in the pod (") && fs::read_to_string(&path).unwrap() == "one", "{}", p.note());
    let several = Piece { form: Form::File, ..p.piece("contexts/f", "etc/tool.conf", ONE) };
    assert!(p.put(&several, ONE).unwrap_err().to_string().contains("more files than one"));
    p.area.take("contexts/f").unwrap();
    assert!(!p.root().join("etc").exists(), "the folder was made for it");
}

#[test]
fn edits_are_told_and_kept() {
    let mut p = workspace();
    p.docs(ONE);
    assert!(!p.area.look().unwrap(), "nothing was edited");
    fs::write(p.root().join("docs/a.md"), "my own").unwrap();
    fs::remove_file(p.root().join("docs/deep/er/b.md")).unwrap();
    fs::write(p.root().join("docs/new.md"), "my own").unwrap();
    assert!(p.area.look().unwrap() && !p.area.look().unwrap(), "told once");
    assert!(p.note().starts_with("edited in the pod (a.md, deep/er/b.md, new.md)"), "{}", p.note());
    p.docs(TWO);
    let note = p.note();
    assert!(note.contains("the edits are in "), "{note}");
    let at = note.split("the edits are in ").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(seen(Path::new(at)), files(&[("a.md", "my own"), ("new.md", "my own")]));
    // Edits outlive what nobody edited.
    p.docs(ONE);
    for kept in &mut p.area.state.kept {
        kept.until = kept.until.map(|until| until - super::area::STAYS.as_secs() - 5);
    }
    p.area.expire().unwrap();
    assert_eq!(p.kept(), 1);
    assert!(Path::new(at).exists());
    assert_eq!(p.note(), "", "the note is about what was replaced last");
}

#[test]
fn what_is_kept_is_bounded() {
    let mut p = workspace();
    for n in 0..MOST + 5 {
        p.docs(&[("a.md", &n.to_string())]);
    }
    p.area.expire().unwrap();
    assert_eq!(p.kept(), MOST);
    let oldest = &p.area.state.kept[0].slot;
    let trees = p.root().join(".pilothouse/trees");
    assert_eq!(seen(&trees.join(oldest)), files(&[("a.md", "4")]), "the oldest went");
    assert_eq!(fs::read_dir(&trees).unwrap().count(), MOST);
    assert_eq!(fs::read_dir(p.root().join(".pilothouse/indexes")).unwrap().count(), 1);
    for kept in &mut p.area.state.kept {
        kept.until = Some(0);
    }
    assert_eq!(p.area.expire().unwrap(), None);
    assert_eq!(fs::read_dir(&trees).unwrap().count(), 0);
}

#[test]
fn somebody_s_work_at_the_target_is_moved_aside_for_good() {
    for what in ["folder", "file", "link"] {
        let mut p = workspace();
        let at = p.root().join("docs");
        match what {
            "folder" => {
                fs::create_dir(&at).unwrap();
                fs::write(at.join("mine"), "mine").unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(0o555)).unwrap();
            }
            "file" => fs::write(&at, "mine").unwrap(),
            _ => symlink(p.dir.path(), &at).unwrap(),
        }
        p.docs(ONE);
        assert_eq!(p.seen("docs"), files(ONE), "{what}");
        assert!(p.note().starts_with("what was there before is in "), "{what}: {}", p.note());
        let kept = p.note().split(" is in ").nth(1).map(PathBuf::from).unwrap();
        assert!(kept.symlink_metadata().is_ok() && p.area.state.kept[0].until.is_none(), "{what}");
        assert!(!p.dir.path().join("a.md").exists());
        p.area.expire().unwrap();
        p.reopen("uid-2");
        assert!(kept.symlink_metadata().is_ok(), "{what}");
    }
    let mut p = workspace();
    fs::create_dir(p.root().join("docs")).unwrap();
    p.docs(ONE);
    assert_eq!((p.note().as_str(), p.kept()), ("", 0), "an empty folder is nobody's work");
}

#[test]
fn no_link_of_the_agent_leads_elsewhere() {
    let mut p = workspace();
    let outside = p.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, p.root().join("linked")).unwrap();
    let piece = p.piece("contexts/x", "linked/x", ONE);
    let error = p.put(&piece, ONE).unwrap_err().to_string();
    assert!(error.contains("\"linked\"") && error.contains("remove it"), "{error}");
    p.area.forget(|_| false);
    // Our own folders, exchanged for links.
    for name in [".pilothouse", ".pilothouse/trees", ".pilothouse/indexes", ".pilothouse/state.json"] {
        let ours = p.root().join(name);
        fs::rename(&ours, p.dir.path().join("gone")).unwrap();
        symlink(&outside, &ours).unwrap();
        p.docs(ONE);
        p.docs(TWO);
        assert_eq!(p.seen("docs"), files(TWO), "{name}");
        let gone = p.dir.path().join("gone");
        if gone.is_dir() { fs::remove_dir_all(gone).unwrap() } else { fs::remove_file(gone).unwrap() }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was written there");
    // A link in what is removed is removed itself.
    fs::write(outside.join("precious"), "").unwrap();
    symlink(&outside, p.root().join("docs/link")).unwrap();
    p.docs(ONE);
    for kept in &mut p.area.state.kept {
        kept.until = Some(0);
    }
    p.area.expire().unwrap();
    assert!(outside.join("precious").exists());
}

#[test]
fn targets_are_below_the_root_and_not_ours() {
    let p = workspace();
    let root = p.root().to_string_lossy().into_owned();
    for bad in ["", "/../x", "/.git/hooks", "/.pilothouse", "/.pilothouse/x", "/a//b", "/a/./b", "x"] {
        assert!(p.area.relative(&format!("{root}{bad}")).is_err(), "{bad}");
    }
    assert_eq!(p.area.relative(&format!("{root}/a/b")).unwrap().as_str(), "a/b");
}

#[test]
fn a_forgotten_state_costs_no_work() {
    let mut p = workspace();
    p.docs(ONE);
    fs::write(p.root().join("docs/mine"), "mine").unwrap();
    p.docs(TWO);
    for broken in ["", "{", "[]", "{\"pieces\": 1}"] {
        fs::write(p.root().join(".pilothouse/state.json"), broken).unwrap();
        p.reopen(POD);
        assert!(!p.area.same_pod && p.kept() == 1 && p.area.state.kept[0].edited, "{broken}");
    }
    p.docs(ONE);
    assert_eq!(p.seen("docs"), files(ONE));
    assert_eq!(p.kept(), 2, "what was in place is kept too");
}

#[test]
fn a_crash_between_exchange_and_record_is_settled() {
    for exchanged in [false, true] {
        let mut p = workspace();
        p.docs(ONE);
        let before = p.area.state.clone();
        let piece = p.piece("contexts/docs", "docs", TWO);
        p.area.stage(&piece, file_of(&packed(TWO))).unwrap();
        let staged = p.area.staged(&piece).unwrap();
        let indexes = p.root().join(".pilothouse/indexes");
        let names: BTreeSet<_> = fs::read_dir(&indexes).unwrap().map(|e| e.unwrap().file_name()).collect();
        if exchanged {
            p.area.put(&staged, &piece, true).unwrap();
        }
        assert_eq!(names.len(), 2);
        // What was on disk at the crash: the intention, and not the record.
        let mut state = before.clone();
        let slot = names.iter().map(|n| n.to_str().unwrap()).max().unwrap().to_owned();
        let next = super::state::Placing { piece: piece.clone(), slot, linked: false };
        state.pieces.get_mut("contexts/docs").unwrap().next = Some(next);
        state.write(&Folder::open(&p.root().join(".pilothouse")).unwrap()).unwrap();
        p.reopen(POD);
        assert_eq!(p.area.holds(&piece), exchanged);
        assert_eq!(p.seen("docs"), files(if exchanged { TWO } else { ONE }));
        assert_eq!(p.kept(), usize::from(exchanged), "the old tree is not forgotten");
        assert_eq!(fs::read_dir(p.root().join(".pilothouse/trees")).unwrap().count(), usize::from(exchanged));
    }
}

#[test]
fn skills_are_read_only() {
    let mut p = place(Kind::Folder(Rights::ReadOnly));
    p.docs(ONE);
    let mode = |path: &str| p.root().join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("docs/a.md"), mode("docs/deep/er"), mode("docs/deep/er/b.md")), (0o444, 0o555, 0o444));
    p.docs(TWO);
    p.area.state.kept[0].until = Some(0);
    p.area.expire().unwrap();
    assert_eq!(fs::read_dir(p.root().join(".pilothouse/trees")).unwrap().count(), 0, "and go nevertheless");
}

#[test]
fn a_mount_has_links_to_one_tree() {
    let mut p = place(Kind::Mount);
    let one = p.piece("contexts/m", "", ONE);
    p.put(&one, ONE).unwrap();
    assert_eq!(p.seen(""), files(ONE));
    assert!(p.area.holds(&one));
    let resolved = p.root().join("..data").canonicalize().unwrap();
    let two = p.piece("contexts/m", "", TWO);
    let done = p.put(&two, TWO).unwrap();
    assert_eq!(p.seen(""), files(TWO), "names that are gone go");
    assert_eq!(seen(&resolved), files(ONE), "who resolved the path reads on");
    p.reopen(POD);
    assert!(p.area.holds(&two) && !p.area.holds(&one));
    p.area.undo(done).unwrap();
    assert_eq!(p.seen(""), files(ONE));
    p.area.take("contexts/m").unwrap();
    assert_eq!(p.seen(""), files(&[]));
}

#[test]
fn a_file_system_that_exchanges_nothing_gets_links() {
    let mut p = workspace();
    p.area.exchanges = false;
    let piece = p.piece("contexts/docs", "sub/docs", ONE);
    fs::create_dir_all(p.root().join("sub/docs")).unwrap();
    fs::write(p.root().join("sub/docs/mine"), "mine").unwrap();
    let first = p.put(&piece, ONE).unwrap();
    assert_eq!(p.seen("sub/docs"), files(ONE));
    assert!(
        p.note().starts_with("a link instead of a folder") && p.note().contains("what was there before"),
        "{}",
        p.note()
    );
    let two = p.piece("contexts/docs", "sub/docs", TWO);
    let second = p.put(&two, TWO).unwrap();
    assert_eq!(p.seen("sub/docs"), files(TWO));
    p.reopen(POD);
    assert!(p.area.holds(&two));
    p.area.undo(second).unwrap();
    assert_eq!(p.seen("sub/docs"), files(ONE));
    p.area.undo(first).unwrap();
    assert_eq!(p.seen("sub/docs"), files(&[("mine", "mine")]));
}

#[test]
fn a_full_disk_leaves_nothing_behind_and_says_so() {
    struct Full(std::io::Cursor<Vec<u8>>);
    impl std::io::Read for Full {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::ErrorKind::StorageFull.into()),
                n => Ok(n),
            }
        }
    }
    let p = workspace();
    let trees = Folder::open(&p.root()).unwrap().make("trees").unwrap();
    let mut bytes = packed(ONE);
    bytes.truncate(512);
    let from = Full(std::io::Cursor::new(bytes));
    let error =
        super::unpack::unpack(from, &trees, "slot", &p.piece("contexts/a", "a", ONE), Rights::Editable).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(trees.names().unwrap().is_empty());
}

#[test]
fn readers_never_see_two_commits_at_once() {
    let mut p = workspace();
    let names: Vec<String> = (0..1000).map(|n| format!("d{}/f{n}", n % 10)).collect();
    let tree = |text: &str| -> Vec<u8> {
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text)).collect();
        packed(&files)
    };
    let put = |p: &mut Place, text: &str| {
        let bytes = tree(text);
        let piece = Piece { digest: Digest::of(&bytes).to_string(), ..p.piece("contexts/docs", "docs", &[]) };
        p.area.stage(&piece, file_of(&bytes)).unwrap();
        let staged = p.area.staged(&piece).unwrap();
        p.area.put(&staged, &piece, true).unwrap();
        p.area.expire().unwrap();
    };
    put(&mut p, "commit 0");
    let (root, stop) = (p.root(), AtomicBool::new(false));
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let docs = Folder::open(&root.join("docs")).unwrap();
                        let mut texts = BTreeSet::new();
                        let mut count = 0;
                        docs.walk(&mut |_, folder, name| {
                            texts.insert(folder.read(name, 100)?.unwrap());
                            count += 1;
                            Ok(true)
                        })
                        .unwrap();
                        assert_eq!((texts.len(), count), (1, 1000), "{texts:?}");
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        for n in 1..=100 {
            put(&mut p, &format!("commit {n}"));
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<u32>>()
    });
    assert!(reads.iter().all(|reads| *reads > 0), "{reads:?}");
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u8),
    Take(u8),
    Edit(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..3u8, 0..4u8).prop_map(|(id, version)| Op::Put(id, version)),
        1 => (0..3u8).prop_map(Op::Take),
        1 => (0..3u8).prop_map(Op::Edit),
    ];
    prop::collection::vec(op, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was done is taken back, whatever the agent did between, in both ways of exchange and over restarts.
    #[test]
    fn all_can_be_taken_back(first in ops(), second in ops(), exchanges in any::<bool>(), restart in any::<bool>()) {
        let mut p = workspace();
        p.area.exchanges = exchanges;
        let run = |p: &mut Place, ops: &[Op], edits: bool| {
            let mut done = vec![];
            for op in ops {
                match op {
                    Op::Put(id, version) => {
                        let (id, at, text) = (format!("contexts/{id}"), format!("x{}/c{id}", id % 2), version.to_string());
                        let piece = p.piece(&id, &at, &[("f", &text)]);
                        done.push(p.put(&piece, &[("f", &text)]).unwrap());
                    }
                    Op::Take(id) => done.push(p.area.take(&format!("contexts/{id}")).unwrap()),
                    Op::Edit(id) if edits => {
                        let at = p.root().join(format!("x{}/c{id}", id % 2));
                        let _ = fs::create_dir_all(&at);
                        let _ = fs::write(at.join("mine"), "mine");
                    }
                    Op::Edit(_) => {}
                }
            }
            done
        };
        run(&mut p, &first, true);
        if restart {
            p.reopen(POD);
            p.area.exchanges = exchanges;
        }
        let (before, pieces) = (p.seen(""), p.area.state.pieces.clone());
        let done = run(&mut p, &second, false);
        for done in done.into_iter().rev() {
            p.area.undo(done).unwrap();
        }
        prop_assert_eq!(p.seen(""), before);
        prop_assert_eq!(&p.area.state.pieces, &pieces);
    }
}

#[test]
fn manifests_are_checked() {
    let piece = |id: &str, target: &str| Piece {
        id: id.into(),
        target: target.into(),
        digest: Digest::of(b"").to_string(),
        ..Piece::default()
    };
    let fixed = [piece("contexts/a", "/w/a")];
    assert_eq!(ground::check(&fixed, &[piece("skills/a", "/skills/a")]), Ok(()));
    for (bad, why) in [
        (piece("contexts/a", "/w/b"), "there twice"),
        (piece("x", "/w/b"), "no name"),
        (piece("contexts/b", "w/b"), "no absolute path"),
        (piece("contexts/b", "/w/../b"), "no absolute path"),
        (piece("contexts/b", "/w/a"), "in the place of"),
        (piece("contexts/b", "/w/a/below"), "in the place of"),
        (Piece { digest: "sha256:x".into(), ..piece("contexts/b", "/w/b") }, "no digest"),
    ] {
        let error = ground::check(&fixed, std::slice::from_ref(&bad)).unwrap_err();
        assert!(error.contains(why), "{bad:?}: {error}");
    }
    let many: Vec<Piece> = (0..101).map(|n| piece(&format!("contexts/n{n}"), &format!("/w/n{n}"))).collect();
    assert!(ground::check(&[], &many).unwrap_err().contains("at most 100"));
}

#[test]
fn a_pod_waits_for_what_it_needs_and_leaves_alone_what_is_for_others() {
    use super::manifests::read;
    let (fixed, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let read = || read(Some(fixed.path()), Some(live.path()));
    assert_eq!(read().unwrap(), super::manifests::Manifests::default(), "no files, no pieces");
    let piece = |id: &str| serde_json::json!({ "id": id, "target": "/w", "revision": "", "digest": "", "size": 0 });
    let write = |dir: &tempfile::TempDir, value: serde_json::Value| {
        fs::write(dir.path().join("content.json"), value.to_string()).unwrap();
    };
    write(&fixed, serde_json::json!({ "pieces": [piece("contexts/a")], "live": ["contexts/b"] }));
    assert_eq!(read().unwrap().missing, ["contexts/b"]);
    write(&live, serde_json::json!({ "pieces": [piece("contexts/b"), piece("contexts/c")] }));
    let manifests = read().unwrap();
    let own: Vec<String> = manifests.own(&manifests.live).into_iter().map(|piece| piece.id).collect();
    assert_eq!((own, manifests.missing), (vec!["contexts/b".to_owned()], vec![]));
    // What was ordered counts for what the file lacks.
    write(&live, serde_json::json!({ "pieces": [piece("contexts/c")] }));
    let mut manifests = read().unwrap();
    assert_eq!(manifests.missing, ["contexts/b"]);
    manifests.order(serde_json::from_value(serde_json::json!({ "pieces": [piece("contexts/b")] })).unwrap());
    assert_eq!((manifests.own(&manifests.live).len(), manifests.missing), (1, vec![]));
    write(&live, serde_json::json!(1));
    assert!(read().unwrap_err().to_string().contains("content.json: "));
}

#[test]
fn an_apply_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (w, s) = (dir.path().join("w"), dir.path().join("s"));
    fs::create_dir(&w).unwrap();
    fs::create_dir(&s).unwrap();
    let mut ground = Ground::open(&w, &s, POD).unwrap();
    let piece = |id: &str, target: PathBuf, text: &str| {
        let bytes = packed(&[("f", text)]);
        let piece = Piece {
            id: id.into(),
            target: target.to_str().unwrap().into(),
            digest: Digest::of(&bytes).to_string(),
            ..Piece::default()
        };
        (piece, bytes)
    };
    let apply = |ground: &mut Ground, all: &[(Piece, Vec<u8>)]| {
        let pieces: Vec<Piece> = all.iter().map(|(piece, _)| piece.clone()).collect();
        while let Some(lacking) = ground.lacks(&pieces)? {
            let bytes = &all.iter().find(|(piece, _)| *piece == lacking).unwrap().1;
            ground.stage(&lacking, file_of(bytes))?;
        }
        ground.apply(&pieces, true, |_, live| live)
    };
    let one = [piece("contexts/a", w.join("a"), "1"), piece("skills/b", s.join("b"), "1")];
    apply(&mut ground, &one).unwrap();
    let live = ground.live();
    // The second target cannot be reached.
    symlink(dir.path().join("nowhere"), w.join("link")).unwrap();
    let two = [piece("contexts/a", w.join("a"), "2"), piece("contexts/z", w.join("link/z"), "2")];
    let error = apply(&mut ground, &two).unwrap_err().to_string();
    assert!(error.contains("contexts/z") && error.contains("remove it"), "{error}");
    assert_eq!(ground.live(), live);
    assert_eq!((seen(&w.join("a")), seen(&s)), (files(&[("f", "1")]), files(&[("b/f", "1")])));
    // A target that moved, and a piece that is gone.
    let three = [piece("contexts/a", w.join("elsewhere/a"), "1")];
    let undo = apply(&mut ground, &three).unwrap();
    assert_eq!((seen(&w), seen(&s)), (files(&[("elsewhere/a/f", "1")]), files(&[])));
    ground.undo(undo).unwrap();
    assert_eq!((seen(&w.join("a")), seen(&s)), (files(&[("f", "1")]), files(&[("b/f", "1")])));
    assert_eq!(ground.live(), live);
}

#[test]
fn the_server_s_list_is_compared_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    for (at, text) in [
        ("a", "---\nname: a\ndescription: First\n---\n\n# A\n"),
        ("b", "---\nname: b\ndescription: Use when: it burns\n---\nB\n"),
        ("c", "no head"),
        (".hidden/d", "---\nname: d\ndescription: D\n---\nD\n"),
    ] {
        fs::create_dir_all(dir.path().join(at)).unwrap();
        fs::write(dir.path().join(at).join("SKILL.md"), text).unwrap();
    }
    let mut wanted = vec![];
    skills::find(&Folder::open(dir.path()).unwrap(), "/skills/team", &mut wanted).unwrap();
    let listed = |name: &str, description: &str, content: &str| Listed {
        name: name.into(),
        description: Some(description.into()),
        location: format!("/skills/team/{name}/SKILL.md"),
        content: content.into(),
    };
    let own = Listed { name: "own".into(), location: "<built-in>".into(), ..Listed::default() };
    let (a, b) = (listed("a", "First", "\n# A\n"), listed("b", "Use when: it burns", "B\n"));
    let elsewhere = Listed { location: "/home/a/SKILL.md".into(), content: "mine".into(), ..a.clone() };
    let gone = listed("gone", "", "");
    for (list, why) in [
        (vec![own.clone(), a.clone(), b.clone()], ""),
        (vec![b.clone(), elsewhere], ""),
        (vec![own.clone(), a.clone()], "b is not listed"),
        (vec![listed("a", "First", "old"), b.clone()], "a is an older one"),
        (vec![listed("a", "Old", "# A"), b.clone()], "a has an older description"),
        (vec![a.clone(), b.clone(), gone], "gone is listed although it is gone"),
    ] {
        let verdict = skills::compare(&wanted, &list, &BTreeSet::from(["/skills".to_owned()]));
        match verdict {
            Ok(()) => assert_eq!(why, ""),
            Err(text) => assert!(!why.is_empty() && text.ends_with(why), "{text} should say {why:?}"),
        }
    }
    assert_eq!(skills::names(&[b, own, a]), ["a", "b", "own"]);
}

#[test]
fn without_anybody_who_orders_nothing_comes() {
    use futures::FutureExt as _;
    let (sender, orders) = tokio::sync::watch::channel(0);
    assert!(super::keeper::another(orders.clone()).now_or_never().is_none());
    sender.send_replace(1);
    assert!(super::keeper::another(orders.clone()).now_or_never().is_some());
    let mut seen = orders;
    seen.borrow_and_update();
    drop(sender);
    assert!(super::keeper::another(seen).now_or_never().is_none(), "its keeper would turn for ever");
}
