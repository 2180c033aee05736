//! From a listing of references to exactly one commit (pure).

use std::fmt;

/// A commit's id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// Accepts full ids only; an abbreviation is no id.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn algorithm(&self) -> &'static str {
        if self.0.len() == 64 { "sha256" } else { "sha1" }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a Repository follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// The remote's default branch.
    #[default]
    Head,
    /// `refs/heads/NAME`, and nothing that merely ends so.
    Branch(String),
    /// `refs/tags/NAME`, annotated tags followed to their commit.
    Tag(String),
    /// A branch of this name, or a tag where there is no such branch: what people call a ref.
    Short(String),
    /// A full name such as `refs/pull/7/head`, followed to its commit.
    Name(String),
    /// One commit, for ever.
    Commit(CommitId),
}

impl Reference {
    /// What one word means: a commit id, a full name, the default branch, or else a branch or a tag.
    pub fn of(text: &str) -> Self {
        match (CommitId::parse(text), text) {
            (Some(id), _) => Self::Commit(id),
            (None, "HEAD") => Self::Head,
            (None, name) if name.starts_with("refs/") => Self::Name(name.into()),
            (None, name) => Self::Short(name.into()),
        }
    }

    /// The full names to look for, best first; none for a commit, which needs no listing.
    pub fn full_names(&self) -> Vec<String> {
        let (branch, tag) = (|name: &str| format!("refs/heads/{name}"), |name: &str| format!("refs/tags/{name}"));
        match self {
            Self::Head => vec!["HEAD".into()],
            Self::Branch(name) => vec![branch(name)],
            Self::Tag(name) => vec![tag(name)],
            Self::Short(name) => vec![branch(name), tag(name)],
            Self::Name(name) => vec![name.clone()],
            Self::Commit(_) => vec![],
        }
    }

    /// Checks a name by Git's own rules, so that it can never be an option, a pattern or a second protocol line.
    pub fn check(&self) -> Result<(), RefError> {
        let (Self::Branch(name) | Self::Tag(name) | Self::Short(name) | Self::Name(name)) = self else {
            return Ok(());
        };
        let qualified = !matches!(self, Self::Name(_)) || name.starts_with("refs/") || name == "HEAD";
        if qualified && well_formed(name) { Ok(()) } else { Err(RefError::Malformed(self.clone())) }
    }

    /// The text before `@` in a revision, where the name leads to `target`.
    fn label<'a>(&'a self, target: Option<&'a str>) -> Option<&'a str> {
        match self {
            Self::Head => Some(target.and_then(|t| t.strip_prefix("refs/heads/")).unwrap_or("HEAD")),
            Self::Branch(name) | Self::Tag(name) | Self::Short(name) | Self::Name(name) => Some(name),
            Self::Commit(_) => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("the default branch"),
            Self::Branch(name) => write!(f, "branch {name:?}"),
            Self::Tag(name) => write!(f, "tag {name:?}"),
            Self::Short(name) => write!(f, "branch or tag {name:?}"),
            Self::Name(name) => write!(f, "reference {name:?}"),
            Self::Commit(id) => write!(f, "commit {id}"),
        }
    }
}

fn well_formed(name: &str) -> bool {
    let bad = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let component =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.to_ascii_lowercase().ends_with(".lock");
    name.len() <= 255
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
        && !name.contains(bad)
        && name.split('/').all(component)
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRef {
    /// Full name, `HEAD` included.
    pub name: String,
    /// What it stands for, annotated tags followed to the object they name. `None` for a branch without a commit.
    pub id: Option<CommitId>,
    /// The full name that a symbolic reference leads to.
    pub target: Option<String>,
}

/// A commit and how it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The commit.
    pub commit: CommitId,
    /// `main@sha1:<hex>`, `v1.2@sha1:<hex>`, or `sha1:<hex>` for a commit that was asked for by its id.
    pub revision: String,
    /// The branch, where the name led to one.
    pub branch: Option<String>,
}

/// Why a listing has no commit for a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefError {
    /// The name breaks Git's rules.
    #[error("{0} is no well-formed name; a full name begins with refs/")]
    Malformed(Reference),
    /// The remote has no such reference.
    #[error("the remote has no {reference}{}", hint(near))]
    NotFound {
        /// What was asked for.
        reference: Reference,
        /// Up to five names that look alike, best first.
        near: Vec<String>,
    },
    /// The reference exists but has no commit yet: the repository is empty.
    #[error("{0} has no commit yet; push one")]
    Unborn(Reference),
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

/// The prefixes that let a server send only what can matter for `reference`; empty for a commit.
pub fn prefixes(reference: &Reference) -> Vec<String> {
    reference.full_names()
}

/// Finds the one commit that `reference` names in `refs`. Names are compared whole: `main` is never `feature/main`.
pub fn choose(refs: &[RemoteRef], reference: &Reference) -> Result<Resolved, RefError> {
    reference.check()?;
    if let Reference::Commit(id) = reference {
        let revision = format!("{}:{id}", id.algorithm());
        return Ok(Resolved { commit: id.clone(), revision, branch: None });
    }
    let names = reference.full_names();
    let Some(found) = names.iter().find_map(|name| refs.iter().find(|r| r.name == *name)) else {
        return Err(RefError::NotFound { reference: reference.clone(), near: near(refs, reference) });
    };
    let commit = found.id.clone().ok_or_else(|| RefError::Unborn(reference.clone()))?;
    // A server may say anything there. It becomes part of statuses and of files in `.git`.
    let target = found.target.as_deref().filter(|target| well_formed(target));
    let label = reference.label(target).unwrap_or_default();
    let branch = target.unwrap_or(&found.name).strip_prefix("refs/heads/").map(Into::into);
    Ok(Resolved { revision: format!("{label}@{}:{commit}", commit.algorithm()), commit, branch })
}

/// A help for typing errors is not worth more work than this.
const MOST_COMPARED: usize = 5000;

/// Names of the listing that resemble what was asked for, best first, at most five.
fn near(refs: &[RemoteRef], reference: &Reference) -> Vec<String> {
    let wanted = match reference {
        Reference::Branch(name) | Reference::Tag(name) | Reference::Short(name) | Reference::Name(name) => {
            name.as_str()
        }
        Reference::Head | Reference::Commit(_) => return vec![],
    };
    let wanted = wanted.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_ascii_lowercase();
    let mut scored: Vec<(usize, &str)> = refs
        .iter()
        .filter(|r| r.name != "HEAD" && well_formed(&r.name))
        .take(MOST_COMPARED)
        .filter_map(|r| Some((likeness(&wanted, &short(&r.name).to_ascii_lowercase())?, r.name.as_str())))
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(5).map(|(_, name)| name.to_owned()).collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/")).unwrap_or(name)
}

/// 0 for the same name in another place, small numbers for alike names, `None` for strangers.
fn likeness(wanted: &str, name: &str) -> Option<usize> {
    if name == wanted {
        return Some(0);
    }
    if name.rsplit('/').next() == Some(wanted) || name.trim_start_matches('v') == wanted.trim_start_matches('v') {
        return Some(1);
    }
    let limit = wanted.chars().count().max(3) / 3;
    if wanted.chars().count().abs_diff(name.chars().count()) > limit {
        return None;
    }
    let distance = edit_distance(wanted, name);
    (distance <= limit).then_some(1 + distance)
}

/// Insertions, deletions, replacements and swaps of neighbours between two texts.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> CommitId {
        CommitId::parse(&digit.to_string().repeat(40)).unwrap()
    }

    fn listing() -> Vec<RemoteRef> {
        let line = |name: &str, digit, target: Option<&str>| RemoteRef {
            name: name.into(),
            id: Some(id(digit)),
            target: target.map(Into::into),
        };
        vec![
            line("HEAD", 'a', Some("refs/heads/trunk")),
            line("refs/heads/feature/main", 'b', None),
            line("refs/heads/main", 'c', None),
            line("refs/heads/trunk", 'a', None),
            line("refs/pull/7/head", 'd', None),
            line("refs/tags/main", 'e', None),
            line("refs/tags/v1.0", 'f', None),
            RemoteRef { name: "refs/heads/empty".into(), id: None, target: None },
        ]
    }

    #[test]
    fn one_reference_one_commit() {
        use Reference::{Branch, Commit, Head, Name, Short, Tag};
        for (reference, digit, label) in [
            (Head, 'a', "trunk@"),
            (Branch("main".into()), 'c', "main@"),
            (Branch("feature/main".into()), 'b', "feature/main@"),
            (Tag("main".into()), 'e', "main@"),
            (Tag("v1.0".into()), 'f', "v1.0@"),
            (Short("main".into()), 'c', "main@"),
            (Short("feature/main".into()), 'b', "feature/main@"),
            (Short("v1.0".into()), 'f', "v1.0@"),
            (Name("refs/pull/7/head".into()), 'd', "refs/pull/7/head@"),
            (Name("refs/tags/v1.0".into()), 'f', "refs/tags/v1.0@"),
            (Commit(id('9')), '9', ""),
        ] {
            let found = choose(&listing(), &reference).unwrap();
            assert_eq!(found.commit, id(digit), "{reference}");
            assert_eq!(found.revision, format!("{label}sha1:{}", id(digit)), "{reference}");
        }
    }

    #[test]
    fn where_head_leads_is_believed_only_if_it_is_a_name() {
        let long = format!("refs/heads/{}", "x".repeat(245));
        for (target, label) in [
            ("refs/heads/trunk", Some("trunk")),
            ("refs/heads/../../config", None),
            ("refs/heads/a\u{1b}]52;c;aGk=\u{7}", None),
            ("refs/heads/a b", None),
            ("refs/heads/", None),
            ("refs/heads/x.lock", None),
            (&long, None),
        ] {
            let head = RemoteRef { name: "HEAD".into(), id: Some(id('a')), target: Some(target.into()) };
            let found = choose(&[head], &Reference::Head).unwrap();
            assert_eq!(found.branch.as_deref(), label, "{target:?}");
            assert_eq!(found.revision, format!("{}@sha1:{}", label.unwrap_or("HEAD"), id('a')));
        }
    }

    #[test]
    fn names_that_break_the_rules_are_no_hint() {
        let line = |name: &str| RemoteRef { name: name.into(), id: Some(id('a')), target: None };
        let long = format!("refs/heads/{}/main", "x".repeat(300));
        let listing = [line("refs/heads/\u{1b}[2J/main"), line(&long), line("refs/heads/team/main")];
        let error = choose(&listing, &Reference::Branch("main".into())).unwrap_err();
        let RefError::NotFound { near, .. } = error else { panic!("{error}") };
        assert_eq!(near, ["refs/heads/team/main"]);
    }

    #[test]
    fn one_word_is_any_kind_of_reference() {
        use Reference::{Commit, Head, Name, Short};
        for (text, wanted) in [
            ("main", Short("main".into())),
            ("HEAD", Head),
            ("refs/tags/v1.0", Name("refs/tags/v1.0".into())),
            (&"A".repeat(40), Commit(id('a'))),
            (&"a".repeat(7), Short("aaaaaaa".into())),
        ] {
            assert_eq!(Reference::of(text), wanted, "{text}");
        }
        assert!(Reference::of("--upload-pack=x").check().is_err());
    }

    #[test]
    fn sha256_is_named() {
        let long = CommitId::parse(&"0A".repeat(32)).unwrap();
        assert_eq!(choose(&[], &Reference::Commit(long)).unwrap().revision, format!("sha256:{}", "0a".repeat(32)));
    }

    #[test]
    fn a_branch_is_never_the_end_of_another_name() {
        let only = [RemoteRef { name: "refs/heads/feature/main".into(), id: Some(id('b')), target: None }];
        let error = choose(&only, &Reference::Branch("main".into())).unwrap_err();
        assert_eq!(error.to_string(), "the remote has no branch \"main\"; did you mean refs/heads/feature/main?");
    }

    #[test]
    fn misses_name_what_is_near() {
        for (reference, want) in [
            (Reference::Branch("trnuk".into()), vec!["refs/heads/trunk"]),
            (Reference::Branch("mian".into()), vec!["refs/heads/main", "refs/tags/main"]),
            (Reference::Branch("trunc".into()), vec!["refs/heads/trunk"]),
            (Reference::Tag("1.0".into()), vec!["refs/tags/v1.0"]),
            (Reference::Tag("trunk".into()), vec!["refs/heads/trunk"]),
            (Reference::Branch("utterly-different".into()), vec![]),
        ] {
            let Err(RefError::NotFound { near, .. }) = choose(&listing(), &reference) else {
                panic!("{reference} was found");
            };
            assert_eq!(near, want, "{reference}");
        }
        let unborn = Reference::Branch("empty".into());
        assert_eq!(choose(&listing(), &unborn), Err(RefError::Unborn(unborn)));
    }

    #[test]
    fn malformed_names_never_reach_a_server() {
        for name in [
            "", "-x", "a b", "a\nb", "a..b", "a~1", "a^", "a:b", "a*", "/a", "a/", "a//b", ".a", "a.lock", "a.", "@",
            "a@{0}",
        ] {
            let reference = Reference::Branch(name.into());
            assert_eq!(reference.check(), Err(RefError::Malformed(reference.clone())), "{name:?}");
        }
        assert!(Reference::Name("main".into()).check().is_err());
        assert!(Reference::Name("refs/heads/main".into()).check().is_ok());
        assert!(Reference::Branch("release/2.0@next".into()).check().is_ok());
    }

    #[test]
    fn commits_are_full_ids() {
        for text in ["", "abc", &"g".repeat(40), &"a".repeat(41), &"a".repeat(39)] {
            assert_eq!(CommitId::parse(text), None, "{text}");
        }
    }
}
