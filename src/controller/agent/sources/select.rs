//! What of a tree an input is (pure).

use crate::{
    agent::{Wanted, skills},
    api::names::reasons,
    git::{Skipped, Whole},
    status::Failure,
    tree::{FileTree, RepoPath},
};

/// Most bytes of files that one input may have.
const MAX_BYTES: u64 = 32 << 20;
/// Most files of one input.
const MAX_FILES: usize = 20_000;
/// Most bad skills that a message names.
const NAMED: usize = 3;

/// What is taken of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::controller) struct Selection {
    path: RepoPath,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    /// Files as they are.
    Files,
    /// Skills, which are checked; all where there are no names.
    Skills(Option<Vec<String>>),
    /// The repository itself, with so many commits of history, and where the credential for pushes is.
    Whole(u32, Option<String>),
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::controller) struct Selected {
    /// The files, below the path.
    pub(in crate::controller) tree: FileTree,
    /// Whether the path is a file: the only one of the tree.
    pub(in crate::controller) is_file: bool,
    /// Names of the skills in it.
    pub(in crate::controller) skills: Vec<String>,
    /// Skills that were left out, and why.
    pub(in crate::controller) bad_skills: Vec<(String, String)>,
}

impl Selection {
    /// What an input asks for. The path of a [`Wanted`] is normalised, so it always parses.
    pub(in crate::controller) fn of(wanted: &Wanted) -> Self {
        let path = RepoPath::parse(&wanted.path).unwrap_or_default();
        let what = match wanted.whole {
            Some(depth) => What::Whole(depth, wanted.push_folder()),
            None if wanted.is_skills() => What::Skills(wanted.names.clone()),
            None => What::Files,
        };
        Self { path, what }
    }

    /// Whether the whole repository is wanted: it is made by [`crate::git::Sources::checkout`].
    pub(in crate::controller) fn is_whole(&self) -> bool {
        matches!(self.what, What::Whole(..))
    }

    /// What is asked for then.
    pub(in crate::controller) fn whole(&self, branch: Option<&str>) -> Option<Whole> {
        let What::Whole(depth, push) = &self.what else { return None };
        Some(Whole { depth: *depth, branch: branch.map(Into::into), push: push.clone() })
    }

    /// Takes it of `tree`. `skipped` is what of the commit could not be part of the tree. Nothing but another commit or
    /// another spec mends a failure; its message does not depend on the commit.
    pub(in crate::controller) fn take(&self, tree: &FileTree, skipped: &[Skipped]) -> Result<Selected, Failure> {
        if self.is_whole() {
            return Ok(Selected { tree: tree.clone(), ..Selected::default() });
        }
        let (files, is_file) = match self.file(tree) {
            Some(file) => (file, true),
            None => (self.folder(tree, skipped)?, false),
        };
        self.check_size(&files)?;
        let What::Skills(names) = &self.what else {
            return Ok(Selected { tree: files, is_file, ..Selected::default() });
        };
        if is_file {
            let message = format!("{} is a file; skills are in a directory", self.path);
            return Err(Failure::stalled(reasons::PATH_NOT_FOUND, message));
        }
        let chosen = skills::skills(&files, names.as_deref());
        if chosen.good.is_empty() {
            return Err(Failure::stalled(reasons::NO_SKILLS, self.no_skills(&chosen.bad)));
        }
        Ok(Selected { tree: chosen.tree, is_file, skills: chosen.good, bad_skills: chosen.bad })
    }

    fn file(&self, tree: &FileTree) -> Option<FileTree> {
        let (entry, name) = (tree.get(&self.path)?, RepoPath::parse(self.path.file_name()?).ok()?);
        Some([(name, entry.clone())].into_iter().collect())
    }

    fn folder(&self, tree: &FileTree, skipped: &[Skipped]) -> Result<FileTree, Failure> {
        let below = |(path, entry): (&RepoPath, &crate::tree::Entry)| {
            Some((path.relative_to(&self.path).filter(|p| !p.is_root())?, entry.clone()))
        };
        let files: FileTree = tree.under(&self.path).filter_map(below).collect();
        if !files.is_empty() {
            return Ok(files);
        }
        let why = match self.skipped(skipped) {
            Some(skipped) if skipped.why == Skipped::SUBMODULE => {
                format!("{} is a submodule; set recurseSubmodules: true", skipped.path)
            }
            Some(skipped) => format!("{} is {} and cannot be used", skipped.path, skipped.why),
            None if self.path.is_root() => "the repository has no files".into(),
            None => format!("the repository has no file or directory {}", self.path),
        };
        Err(Failure::stalled(reasons::PATH_NOT_FOUND, why))
    }

    /// What was left out of the commit and holds the path, or is below it.
    fn skipped<'a>(&self, skipped: &'a [Skipped]) -> Option<&'a Skipped> {
        skipped.iter().find(|s| {
            RepoPath::parse(&s.path).is_ok_and(|left| self.path.is_within(&left) || left.is_within(&self.path))
        })
    }

    fn check_size(&self, files: &FileTree) -> Result<(), Failure> {
        let bytes: u64 = files.iter().map(|(_, entry)| entry.bytes.len() as u64).sum();
        let limit = if bytes > MAX_BYTES {
            format!("{} MiB", MAX_BYTES >> 20)
        } else if files.len() > MAX_FILES {
            format!("{MAX_FILES} files")
        } else {
            return Ok(());
        };
        let message =
            format!("path {} has more than {limit}, the limit for one input; choose a path below it", self.path);
        Err(Failure::stalled(reasons::TOO_LARGE, message))
    }

    fn no_skills(&self, bad: &[(String, String)]) -> String {
        let named: Vec<_> = bad.iter().take(NAMED).map(|(name, why)| format!("{name}: {why}")).collect();
        match (bad.len().saturating_sub(named.len()), named.is_empty()) {
            (_, true) => format!("{} has no skill: a directory with a file SKILL.md", self.path),
            (0, _) => format!("{} has no skill that can be used: {}", self.path, named.join("; ")),
            (more, _) => {
                format!("{} has no skill that can be used: {}; and {more} more", self.path, named.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::pieces::Source, tree::Entry};

    fn selection(id: &str, path: &str, names: Option<&[&str]>) -> Selection {
        let names = names.map(|names| names.iter().map(ToString::to_string).collect());
        let source = Source::Repository { name: "r".into(), follow: None };
        Selection::of(&Wanted { id: id.into(), source, path: path.into(), whole: None, push: None, names, sync: None })
    }

    fn tree() -> FileTree {
        let skill = |name: &str| format!("---\nname: {name}\ndescription: does it\n---\nBody\n");
        let (one, two) = (skill("one"), skill("other"));
        [("docs/a.md", "a"), ("docs/b/c.md", "c"), ("skills/one/SKILL.md", &one), ("skills/two/SKILL.md", &two)]
            .into_iter()
            .collect()
    }

    fn paths(tree: &FileTree) -> Vec<&str> {
        tree.iter().map(|(path, _)| path.as_str()).collect()
    }

    #[test]
    fn a_folder_a_file_and_the_root() {
        for (path, want, is_file) in [
            ("docs", vec!["a.md", "b/c.md"], false),
            ("docs/b", vec!["c.md"], false),
            ("docs/a.md", vec!["a.md"], true),
            ("", vec!["docs/a.md", "docs/b/c.md", "skills/one/SKILL.md", "skills/two/SKILL.md"], false),
        ] {
            let taken = selection("contexts/c", path, None).take(&tree(), &[]).unwrap();
            assert_eq!((paths(&taken.tree), taken.is_file), (want, is_file), "{path}");
        }
    }

    #[test]
    fn good_skills_are_taken_and_bad_ones_named() {
        let taken = selection("skills/s", "skills", None).take(&tree(), &[]).unwrap();
        assert_eq!((taken.skills, paths(&taken.tree)), (vec!["one".to_string()], vec!["one/SKILL.md"]));
        assert!(taken.bad_skills.len() == 1 && taken.bad_skills[0].0 == "two", "{:?}", taken.bad_skills);
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        let skipped = [Skipped { path: "lib".into(), why: Skipped::SUBMODULE }];
        for (id, path, names, reason, part) in [
            ("contexts/c", "dcos", None, "PathNotFound", "no file or directory dcos"),
            ("contexts/c", "lib", None, "PathNotFound", "lib is a submodule; set recurseSubmodules"),
            ("contexts/c", "lib/x", None, "PathNotFound", "lib is a submodule"),
            ("skills/s", "docs/a.md", None, "PathNotFound", "skills are in a directory"),
            ("skills/s", "docs", None, "NoSkills", "SKILL.md"),
            ("skills/s", "skills", Some(&["two"][..]), "NoSkills", "two: "),
            ("skills/s", "skills", Some(&["tree"][..]), "NoSkills", "tree: there is no tree/SKILL.md"),
        ] {
            let failure = selection(id, path, names).take(&tree(), &skipped).unwrap_err();
            assert!(failure.reason == reason && failure.message.contains(part), "{id} {path}: {failure:?}");
        }
        let failure = selection("contexts/c", "", None).take(&FileTree::default(), &[]).unwrap_err();
        assert_eq!(failure.message, "the repository has no files");
    }

    #[test]
    fn sizes_are_bounded() {
        let bytes: std::sync::Arc<[u8]> = vec![0; 1 << 20].into();
        let entry =
            |n: usize| (RepoPath::parse(&format!("a/{n}")).unwrap(), Entry { bytes: bytes.clone(), executable: false });
        let take = |n| selection("contexts/c", "a", None).take(&(0..n).map(entry).collect(), &[]);
        assert!(take(32).is_ok());
        let failure = take(33).unwrap_err();
        assert!(failure.reason == "TooLarge" && failure.message.contains("path a has more than 32 MiB"), "{failure:?}");
    }
}
