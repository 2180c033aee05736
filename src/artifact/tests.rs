use std::{collections::BTreeSet, fs, io, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::tree::{Entry, FileTree, RepoPath};

fn tree(files: &[(&str, &str)]) -> FileTree {
    files.iter().copied().collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("artifacts"), 1 << 20).unwrap();
    (folder, store)
}

/// A store on the same folder that remembers nothing.
fn cold(folder: &tempfile::TempDir) -> Store {
    Store::new(&folder.path().join("artifacts"), 0).unwrap()
}

/// A tree that is too large to be kept at hand is read once, however many want it at a time.
#[test]
fn who_wants_the_same_tree_shares_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::new(folder.path(), 10).unwrap());
    let tree: FileTree = [("a.txt", "longer than what is kept")].into_iter().collect();
    let digest = store.put(&tree).unwrap().digest;
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || store.open(&digest).unwrap())
        })
        .collect();
    let opened: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let again = store.recent(&digest).expect("while somebody has it in hand");
    assert!(opened.iter().all(|one| Arc::ptr_eq(one, &again)));
    drop((opened, again));
    assert!(store.recent(&digest).is_none());
    assert_eq!(*store.open(&digest).unwrap(), tree);
}

#[test]
fn what_is_put_is_found_again() {
    let (folder, store) = store();
    let mut wanted = tree(&[("a", "1"), ("dir/b.yaml", "b: 2\n"), ("empty", "")]);
    wanted.insert(RepoPath::parse("run.sh").unwrap(), Entry { bytes: (*b"#!").into(), executable: true });
    wanted.insert(RepoPath::parse(&"long/".repeat(60)).unwrap(), Entry { bytes: (*b"x").into(), executable: false });
    let stored = store.put(&wanted).unwrap();
    assert_eq!(stored.size, fs::metadata(store.path(&stored.digest)).unwrap().len());
    assert_eq!(*cold(&folder).open(&stored.digest).unwrap(), wanted);
    assert_eq!(Digest::of(&fs::read(store.path(&stored.digest)).unwrap()), stored.digest);
}

#[test]
fn the_digest_is_pinned() {
    // A new release that packs differently would make every pod fetch everything again.
    let (_folder, store) = store();
    let stored = store.put(&tree(&[("a.yaml", "a: 1\n"), ("dir/b", "2")])).unwrap();
    assert_eq!(stored.digest.to_string(), PINNED);
}

const PINNED: &str = "sha256:50e716834f6194a5332dca3d5e5235166bde9030ed846f8c26c456a8614c88cf";

#[test]
fn damage_is_found_and_removed() {
    let (folder, store) = store();
    let stored = store.put(&tree(&[("a", "one")])).unwrap();
    let path = store.path(&stored.digest);
    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    changed[512] = b'O';
    let mut padding = whole.clone();
    *padding.last_mut().unwrap() = 1;
    for bad in [changed, padding, whole[..600].to_vec(), vec![], [whole.as_slice(), b"x"].concat()] {
        fs::write(&path, bad).unwrap();
        let store = cold(&folder);
        assert!(matches!(store.open(&stored.digest), Err(StoreError::Damaged(d)) if d == stored.digest));
        assert!(matches!(store.open(&stored.digest), Err(StoreError::Missing(_))));
    }
    store.put(&tree(&[("a", "one")])).unwrap();
    assert!(cold(&folder).open(&stored.digest).is_ok());
}

#[test]
fn what_is_sent_is_checked_once_a_version() {
    let (folder, store) = store();
    let stored = store.put(&tree(&[("a", "one")])).unwrap();
    let read = |store: &Store| {
        let opened = store.serve(&stored.digest)?;
        let text = io::read_to_string(opened.file)?;
        assert_eq!(text.len() as u64, opened.size);
        Ok::<_, StoreError>(Digest::of(text.as_bytes()))
    };
    for _ in 0..2 {
        assert_eq!(read(&store).unwrap(), stored.digest);
    }
    let path = store.path(&stored.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[512] = b'O';
    fs::write(&path, &bytes).unwrap();
    let told = Arc::new(parking_lot::Mutex::new(0));
    let count = told.clone();
    store.on_missing(move |_| *count.lock() += 1);
    assert!(matches!(read(&store), Err(StoreError::Damaged(_))));
    assert!(matches!(read(&store), Err(StoreError::Missing(_))));
    assert_eq!(*told.lock(), 2);
    fs::write(&path, b"cut").unwrap();
    assert!(matches!(read(&cold(&folder)), Err(StoreError::Damaged(_))));
}

#[test]
fn an_archive_of_another_machine_is_taken_in() {
    let (_one, from) = store();
    let (_two, to) = store();
    let stored = from.put(&tree(&[("a", "one")])).unwrap();
    let part = tempfile::NamedTempFile::new_in(to.parts()).unwrap();
    fs::copy(from.path(&stored.digest), part.path()).unwrap();
    to.adopt(part, &stored.digest).unwrap();
    assert_eq!(*to.open(&stored.digest).unwrap(), tree(&[("a", "one")]));
    assert_eq!(fs::read_dir(to.parts()).unwrap().count(), 0);
}

#[test]
fn archives_become_folders_whole_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = tree(&[("a", "1"), ("dir/sub/b.yaml", "b: 2\n"), ("empty", "")]);
    wanted.insert(RepoPath::parse("run.sh").unwrap(), Entry { bytes: (*b"#!").into(), executable: true });
    let mut bytes = vec![];
    archive::write(&wanted, &mut bytes).unwrap();
    let to = folder.path().join("content");
    archive::unpack(&*bytes, &to).unwrap();
    for (path, entry) in wanted.iter() {
        let file = to.join(path.as_str());
        assert_eq!(fs::read(&file).unwrap(), *entry.bytes);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o111 != 0, entry.executable, "{path}");
    }
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(archive::unpack(&*bytes, &to).is_err(), "it is there already");
    for (name, bad) in [("cut", &bytes[..bytes.len() / 2]), ("noise", &[7; 2048])] {
        assert!(archive::unpack(bad, &folder.path().join(name)).is_err(), "{name}");
    }
    // A file where others have a folder.
    let mut both = vec![];
    let mut builder = tar::Builder::new(&mut both);
    for path in ["x", "x/y"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, &b"1"[..]).unwrap();
    }
    builder.into_inner().unwrap();
    assert!(archive::unpack(&*both, &folder.path().join("both")).is_err());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["content"]);
}

#[test]
fn whoever_can_make_it_again_is_told() {
    let (folder, store) = store();
    let stored = store.put(&tree(&[("a", "1")])).unwrap();
    let store = cold(&folder);
    let told = Arc::new(parking_lot::Mutex::new(vec![]));
    let log = told.clone();
    store.on_missing(move |digest| log.lock().push(*digest));
    store.open(&stored.digest).unwrap();
    assert!(told.lock().is_empty());
    fs::write(store.path(&stored.digest), "rubbish").unwrap();
    assert!(store.open(&stored.digest).is_err() && store.open(&stored.digest).is_err());
    assert_eq!(*told.lock(), [stored.digest, stored.digest]);
}

#[test]
fn one_tree_is_parsed_once() {
    let (_folder, store) = store();
    let stored = store.put(&tree(&[("a", "1")])).unwrap();
    assert!(Arc::ptr_eq(&store.open(&stored.digest).unwrap(), &store.open(&stored.digest).unwrap()));
}

#[test]
fn memory_is_bounded_and_keeps_what_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path(), 30_000).unwrap();
    let big = "x".repeat(10_000);
    let put = |name: &str| store.put(&tree(&[(name, &big)])).unwrap().digest;
    let (first, second) = (put("1"), put("2"));
    store.open(&first).unwrap();
    put("3");
    assert_eq!(store.in_memory(), 2);
    assert!(store.recent(&first).is_some() && store.recent(&second).is_none());
    let huge = "x".repeat(40_000);
    let digest = store.put(&tree(&[("huge", &huge)])).unwrap().digest;
    assert!(store.recent(&digest).is_none() && store.open(&digest).is_ok());
}

#[test]
fn only_old_and_unnamed_archives_are_collected() {
    let (_folder, store) = store();
    let (kept, dropped) = (store.put(&tree(&[("a", "1")])).unwrap(), store.put(&tree(&[("a", "2")])).unwrap());
    let keep = BTreeSet::from([kept.digest]);
    assert_eq!(store.collect(&keep, |_| Duration::from_hours(1)).unwrap(), Collected::default());
    let done = store.collect(&keep, |_| Duration::ZERO).unwrap();
    assert_eq!(done, Collected { archives: 1, bytes: dropped.size });
    assert!(store.contains(&kept.digest) && !store.contains(&dropped.digest));
    assert!(matches!(store.open(&dropped.digest), Err(StoreError::Missing(_))));
}

#[test]
fn half_written_parts_do_not_stay() {
    let (folder, _store) = store();
    let parts = folder.path().join("artifacts/parts");
    fs::write(parts.join("old"), "half").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    fs::File::options().append(true).open(parts.join("old")).unwrap().set_modified(long_ago).unwrap();
    fs::write(parts.join("young"), "somebody writes this now").unwrap();
    cold(&folder);
    let left: Vec<_> = fs::read_dir(parts).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["young"]);
}

struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_said_plainly() {
    let error: StoreError = archive::write(&tree(&[("a", "1")]), Full).unwrap_err().into();
    assert!(matches!(error, StoreError::Full));
    assert_eq!(error.to_failure().reason, "StorageFailed");
}

#[test]
fn foreign_archives_are_refused() {
    let pack = |path: &str, kind: tar::EntryType| {
        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    };
    for (path, kind) in [
        ("../a", tar::EntryType::Regular),
        ("/a", tar::EntryType::Regular),
        ("a/../b", tar::EntryType::Regular),
        (".git/config", tar::EntryType::Regular),
        ("a", tar::EntryType::Symlink),
        ("a", tar::EntryType::Directory),
        ("a", tar::EntryType::Link),
    ] {
        assert_eq!(
            archive::read(&*pack(path, kind)),
            Err(archive::ArchiveError::Foreign(path.into())),
            "{path} {kind:?}"
        );
    }
    assert!(archive::read(&*pack("a", tar::EntryType::Regular)).is_ok());
}

#[test]
fn digests_are_strict() {
    let good = Digest::of(b"x").to_string();
    assert_eq!(Digest::parse(&good), Some(Digest::of(b"x")));
    for bad in ["", "sha256:", &good[7..], &good.to_uppercase(), &good.replace("sha256", "sha512"), "sha256:../../etc"]
    {
        assert_eq!(Digest::parse(bad), None, "{bad}");
    }
}

#[test]
fn ignored_files_stay_out() {
    let all = [
        ("README.md", ""),
        ("apps/a.yaml", ""),
        ("apps/secret/key", ""),
        ("apps/test/a.yaml", ""),
        ("docs/x.png", ""),
        ("docs/y.md", ""),
    ];
    for (spec, nested, want) in [
        ("", vec![], "README.md apps/a.yaml apps/secret/key apps/test/a.yaml docs/x.png docs/y.md"),
        ("*.png\n/docs/y.md", vec![], "README.md apps/a.yaml apps/secret/key apps/test/a.yaml"),
        ("# all but apps\n/*\n!/apps", vec![], "apps/a.yaml apps/secret/key apps/test/a.yaml"),
        ("test/", vec![], "README.md apps/a.yaml apps/secret/key docs/x.png docs/y.md"),
        ("", vec![(".sourceignore", "docs\n")], "README.md apps/a.yaml apps/secret/key apps/test/a.yaml"),
        ("", vec![("apps/.sourceignore", "/secret\n*.yaml\n!/a.yaml\n")], "README.md apps/a.yaml docs/x.png docs/y.md"),
        (
            "!docs/x.png",
            vec![(".sourceignore", "docs\n")],
            "README.md apps/a.yaml apps/secret/key apps/test/a.yaml docs/x.png",
        ),
        (
            "",
            vec![(".sourceignore", "*.md\n"), ("docs/.sourceignore", "!y.md\n")],
            "apps/a.yaml apps/secret/key apps/test/a.yaml docs/x.png docs/y.md",
        ),
    ] {
        let tree = tree(&all.iter().copied().chain(nested.clone()).collect::<Vec<_>>());
        let kept = filter(&tree, Some(spec)).unwrap();
        let paths: Vec<_> = kept.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths.join(" "), want, "{spec:?} {nested:?}");
    }
}

#[test]
fn a_bad_pattern_is_named_by_place_and_line() {
    let error = filter(&tree(&[("a", "")]), Some("ok\n{a")).unwrap_err();
    assert_eq!((error.place.as_str(), error.line), ("spec.ignore", 2));
    let error = filter(&tree(&[("x/.sourceignore", "{a\n")]), None).unwrap_err();
    assert_eq!((error.place.as_str(), error.line), ("x/.sourceignore", 1));
}

fn files() -> impl Strategy<Value = Vec<(String, Vec<u8>, bool)>> {
    let file = (
        "[a-zA-Z0-9._ äß-]{1,12}(/[a-z0-9._-]{1,120}){0,3}",
        prop::collection::vec(any::<u8>(), 0..700),
        any::<bool>(),
    );
    prop::collection::vec(file, 0..12)
}

fn build(files: &[(String, Vec<u8>, bool)]) -> FileTree {
    files
        .iter()
        .filter_map(|(path, bytes, executable)| {
            let path = RepoPath::parse(path).ok().filter(|p| !p.is_root())?;
            Some((path, Entry { bytes: bytes.as_slice().into(), executable: *executable }))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_survives_its_archive(files in files()) {
        let tree = build(&files);
        let mut bytes = vec![];
        archive::write(&tree, &mut bytes).unwrap();
        prop_assert_eq!(archive::read(&*bytes).unwrap(), tree);
    }

    #[test]
    fn the_order_of_insertion_leaves_no_trace(files in files(), seed in any::<prop::sample::Index>()) {
        let mut paths = BTreeSet::new();
        let unique: Vec<_> = files.into_iter().filter(|(path, ..)| {
            RepoPath::parse(path).is_ok_and(|p| paths.insert(p))
        }).collect();
        let mut turned = unique.clone();
        if !turned.is_empty() {
            let at = seed.index(turned.len());
            turned.rotate_left(at);
            turned.reverse();
        }
        let pack = |files: &[(String, Vec<u8>, bool)]| {
            let mut bytes = vec![];
            archive::write(&build(files), &mut bytes).unwrap();
            Digest::of(&bytes)
        };
        prop_assert_eq!(pack(&unique), pack(&turned));
    }
}

/// Who has decided for artifacts keeps them before any object names them, until he decides for others or goes.
#[test]
fn what_somebody_has_decided_for_is_not_collected() {
    let (_folder, store) = store();
    let put = |text: &str| store.put(&tree(&[("a", text)])).unwrap().digest;
    let (one, two, three) = (put("1"), put("2"), put("3"));
    let there = || [one, two, three].map(|digest| store.contains(&digest));
    let collect = || store.collect(&BTreeSet::new(), |_| Duration::ZERO).unwrap().archives;
    store.hold("a", BTreeSet::from([one, two]));
    store.hold("b", BTreeSet::from([two, three]));
    assert_eq!((collect(), there()), (0, [true; 3]));
    store.hold("a", BTreeSet::from([three]));
    assert_eq!((collect(), there()), (1, [false, true, true]), "another holds one of them still");
    store.hold("b", BTreeSet::new());
    assert_eq!((collect(), there()), (1, [false, false, true]));
    store.hold("a", BTreeSet::new());
    assert_eq!((collect(), there()), (1, [false; 3]));
}
