use std::{fs, io, path::PathBuf};

use crate::{
    api::content::{Form, Piece},
    artifact::{Digest, archive},
    pod::sidecar::content::{
        area::{Area, Kind},
        unpack::Rights,
    },
    tree::FileTree,
};

struct Place {
    dir: tempfile::TempDir,
    area: Area,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("w")).unwrap();
        let area = Self::open(&dir);
        Self { dir, area }
    }

    fn open(dir: &tempfile::TempDir) -> Area {
        Area::open(&dir.path().join("w"), Kind::Folder(Rights::Editable), "pod").unwrap()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("w")
    }

    /// Puts files in place as the workspace itself; why not, where they are not.
    fn put(&mut self, files: &[(&str, &str)]) -> io::Result<Option<String>> {
        let mut bytes = vec![];
        archive::write(&files.iter().copied().collect::<FileTree>(), &mut bytes).unwrap();
        let piece = Piece {
            id: "contexts/docs".into(),
            target: self.root().to_str().unwrap().into(),
            form: Form::Overlay,
            revision: "main@sha1:1".into(),
            digest: Digest::of(&bytes).to_string(),
            size: bytes.len() as u64,
            ..Piece::default()
        };
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, &bytes)?;
        io::Seek::rewind(&mut file)?;
        self.area.stage(&piece, file)?;
        let staged = self.area.staged(&piece).unwrap();
        let held = self.area.put(&staged, &piece, true)?.held();
        assert_eq!(self.area.holds(&piece), held.is_none());
        Ok(held)
    }

    fn done(&mut self, files: &[(&str, &str)]) {
        assert_eq!(self.put(files).unwrap(), None);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_default()
    }

    fn note(&mut self) -> String {
        self.area.look().unwrap();
        self.area.placed().next().unwrap().note
    }
}

const ONE: &[(&str, &str)] = &[("a.md", "one"), ("docs/b.md", "one"), ("docs/gone.md", "one")];
const TWO: &[(&str, &str)] = &[("a.md", "two"), ("docs/b.md", "one"), ("docs/new/c.md", "two")];

#[test]
fn a_new_commit_touches_what_it_changes_and_nothing_else() {
    let mut place = Place::new();
    place.write("mine.txt", "mine");
    place.write("src/code.rs", "code");
    place.done(ONE);
    let before = fs::metadata(place.root().join("docs/b.md")).unwrap().modified().unwrap();
    place.write("docs/note.md", "a note of the agent");
    place.done(TWO);
    assert_eq!(["a.md", "docs/b.md", "docs/new/c.md"].map(|path| place.read(path)), ["two", "one", "two"]);
    assert!(!place.root().join("docs/gone.md").exists());
    assert_eq!(
        ["mine.txt", "src/code.rs", "docs/note.md"].map(|path| place.read(path)),
        ["mine", "code", "a note of the agent"]
    );
    assert_eq!(fs::metadata(place.root().join("docs/b.md")).unwrap().modified().unwrap(), before);
    assert_eq!(place.note(), "");
}

#[test]
fn an_edit_that_a_commit_would_overwrite_holds_all_of_it_back() {
    let mut place = Place::new();
    place.done(ONE);
    place.write("a.md", "edited");
    assert!(place.note().starts_with("changed in the pod (a.md)"), "{}", place.note());
    let why = place.put(TWO).unwrap().unwrap();
    assert!(why.contains("WorkspaceDirty: a.md was changed in the pod"), "{why}");
    assert_eq!(
        (place.read("a.md"), place.read("docs/gone.md"), place.read("docs/new/c.md")),
        ("edited".into(), "one".into(), String::new())
    );
    // An edit of a file that no commit changes is no trouble; undone, the commit comes.
    place.write("docs/b.md", "mine");
    fs::write(place.root().join("a.md"), "one").unwrap();
    place.done(TWO);
    assert_eq!((place.read("a.md"), place.read("docs/b.md")), ("two".into(), "mine".into()));
    assert!(place.note().contains("docs/b.md"));
    // A removed file is an edit too, and what the agent has made itself is in the way of what would be there.
    fs::remove_file(place.root().join("a.md")).unwrap();
    let why = place.put(&[("a.md", "three"), ("docs/b.md", "one")]).unwrap().unwrap();
    assert!(why.contains("a.md"), "{why}");
    place.write("a.md", "two");
    place.write("later.md", "mine");
    let why = place.put(&[("a.md", "two"), ("docs/b.md", "one"), ("later.md", "four")]).unwrap().unwrap();
    assert!(why.contains("later.md") && place.read("later.md") == "mine", "{why}");
}

#[test]
fn what_is_there_at_first_stays_and_is_told() {
    let mut place = Place::new();
    place.write("a.md", "mine");
    place.write("docs/gone.md", "one");
    place.done(ONE);
    assert_eq!((place.read("a.md"), place.read("docs/b.md")), ("mine".into(), "one".into()));
    let note = place.note();
    assert!(note.contains("(a.md)"), "{note}");
}

#[test]
fn a_restart_goes_on_where_a_crash_was() {
    let mut place = Place::new();
    place.done(ONE);
    place.area = Place::open(&place.dir);
    // As if it had stopped between two files.
    fs::remove_file(place.root().join("docs/gone.md")).unwrap();
    place.write("a.md", "two");
    place.done(TWO);
    assert_eq!(place.read("docs/new/c.md"), "two");
    place.area = Place::open(&place.dir);
    assert_eq!(place.note(), "");
}

#[test]
fn a_link_of_the_agent_leads_nowhere_else() {
    let mut place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, place.root().join("docs")).unwrap();
    let _ = place.put(ONE);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut place = Place::new();
    let error = place.put(&[(".pilothouse/state.json", "{}")]).unwrap_err();
    assert!(error.to_string().contains("where content is prepared"), "{error}");
}
