//! Submodules of a commit: where each is from, and what may be sent there.
//!
//! The commit itself names the commit of each submodule, so the same commit is the same files, whenever it is read. Their
//! addresses are what whoever may push wrote into `.gitmodules`: they get no credential but that of their own superproject
//! for its own host, and what the network guard refuses to a remote is refused to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gix::{ObjectId, bstr::BStr, objs::tree::EntryKind};

use super::{
    credential::{Auth, Credential},
    error::{GitError, Reason},
    objects::{know, root},
    remote::{Access, Skipped, Stop},
    url::RemoteUrl,
};

/// Submodules of one commit, those of submodules included.
pub(super) const MAX_COUNT: usize = 50;
/// Submodules in submodules.
pub(super) const MAX_NESTING: usize = 4;
/// Bytes of a `.gitmodules`.
const MAX_FILE: u64 = 64 << 10;
/// Submodules that a `.gitmodules` names, those included that the commit does not have.
const MAX_NAMED: usize = 500;
/// Names in the path of one.
const MAX_NAMES: usize = 128;

/// What lies at the paths of submodules.
#[derive(Default)]
pub(super) struct Modules {
    /// Whether submodules are wanted at all.
    pub(super) are_wanted: bool,
    /// Each with its commit, by its path from the root of the outermost repository.
    pub(super) at: BTreeMap<String, (gix::Repository, ObjectId)>,
    /// Paths of those that say `update = none`.
    pub(super) unused: BTreeSet<String>,
}

/// What a walk finds at a path that is another repository's commit.
pub(super) enum Module<'a> {
    /// Its files.
    Files(&'a gix::Repository, gix::Tree<'a>),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

impl Modules {
    /// What to do at the path of a submodule.
    pub(super) fn look(&self, path: &str, stop: &Stop) -> Result<Module<'_>, GitError> {
        if !self.are_wanted {
            return Ok(Module::Nothing(Skipped::SUBMODULE));
        }
        if self.unused.contains(path) {
            return Ok(Module::Nothing("a submodule with `update = none`"));
        }
        let Some((repo, commit)) = self.at.get(path) else {
            return Err(refused(path, ".gitmodules has no path and url for it; add them, or remove the submodule"));
        };
        Ok(Module::Files(repo, root(repo, *commit, stop)?))
    }
}

/// One submodule, as its superproject names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Path below the superproject.
    pub(super) path: String,
    pub(super) commit: ObjectId,
    /// What `.gitmodules` says; `None` where it is not to be fetched.
    pub(super) url: Option<String>,
}

/// The submodules that `.gitmodules` of a commit names and the commit has, sorted by path.
pub(super) fn links(repo: &gix::Repository, commit: ObjectId, stop: &Stop) -> Result<Vec<Link>, GitError> {
    let tree = root(repo, commit, stop)?;
    let Some(bytes) = listing(repo, &tree, stop)? else { return Ok(vec![]) };
    let mut found = vec![];
    for (path, url) in parse(&bytes)? {
        if let Some((EntryKind::Commit, commit)) = entry(repo, &tree, &path, stop)? {
            found.push(Link { path, commit, url });
        }
    }
    Ok(found)
}

/// What is at a path.
fn entry(
    repo: &gix::Repository,
    root: &gix::Tree<'_>,
    path: &str,
    stop: &Stop,
) -> Result<Option<(EntryKind, ObjectId)>, GitError> {
    let (mut names, mut below) = (path.split('/').peekable(), None);
    while let Some(name) = names.next() {
        stop.check()?;
        let found = below.as_ref().unwrap_or(root).find_entry(Name(name.as_bytes()));
        let Some((kind, id)) = found.map(|entry| (entry.mode().kind(), entry.object_id())) else { return Ok(None) };
        match (kind, names.peek()) {
            (_, None) => return Ok(Some((kind, id))),
            (EntryKind::Tree, Some(_)) => below = Some(know((repo, id), stop)?.tree()?),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// A name of a path, comparable with those of a tree.
struct Name<'a>(&'a [u8]);

impl PartialEq<BStr> for Name<'_> {
    fn eq(&self, other: &BStr) -> bool {
        other == self.0
    }
}

/// The file; a link in its place is none, as for Git.
fn listing(repo: &gix::Repository, tree: &gix::Tree<'_>, stop: &Stop) -> Result<Option<Vec<u8>>, GitError> {
    let found = entry(repo, tree, ".gitmodules", stop)?;
    let Some((EntryKind::Blob | EntryKind::BlobExecutable, id)) = found else { return Ok(None) };
    let file = know((repo, id), stop)?;
    if file.size > MAX_FILE {
        let message = format!(".gitmodules is larger than {} KiB", MAX_FILE >> 10);
        return Err(GitError::new(Reason::SubmoduleRefused, message));
    }
    Ok(Some(file.blob()?))
}

/// Paths and addresses. Of what is there twice the last counts.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Option<String>>, GitError> {
    let options = gix::config::file::init::Options::default();
    let file = gix::config::File::from_bytes_no_includes(bytes, gix::config::file::Metadata::api(), options)
        .map_err(|_| GitError::new(Reason::SubmoduleRefused, ".gitmodules is no configuration that Git could read"))?;
    let mut by_name: BTreeMap<String, [Option<String>; 3]> = BTreeMap::new();
    for section in file.sections_by_name("submodule").into_iter().flatten() {
        let Some(name) = section.header().subsection_name().map(ToString::to_string) else { continue };
        let values = by_name.entry(name).or_default();
        for (value, key) in values.iter_mut().zip(["path", "url", "update"]) {
            *value = section.value(key).map(|text| text.to_string()).or_else(|| value.take());
        }
    }
    let one = |[path, url, update]: [Option<String>; 3]| {
        let path = path?.trim_end_matches('/').to_owned();
        let is_used = update.as_deref() != Some("none");
        // Without an address there is nothing to know about it.
        Some((path, if is_used { Some(url?) } else { None }))
    };
    if by_name.len() > MAX_NAMED {
        let message = format!(".gitmodules names more than {MAX_NAMED} submodules");
        return Err(GitError::new(Reason::SubmoduleRefused, message));
    }
    let found: BTreeMap<_, _> = by_name.into_values().filter_map(one).collect();
    match found.keys().find(|path| path.split('/').count() > MAX_NAMES) {
        Some(path) => Err(refused(path, &format!("its path is of more than {MAX_NAMES} names"))),
        None => Ok(found),
    }
}

/// How a submodule is reached from its superproject.
pub(super) fn access(superproject: &Access, path: &str, url: &str) -> Result<Access, GitError> {
    let url = superproject.url.submodule(url).map_err(|error| refused(path, &format!("its url: {error}")))?;
    let credential = if is_at_home(superproject, &url) {
        superproject.credential.clone()
    } else {
        // What a Secret proves and trusts is for one server. The way out is the same for all.
        Arc::new(Credential { auth: Auth::None, ca: None, ..(*superproject.credential).clone() })
    };
    Ok(Access { url, credential, ..superproject.clone() })
}

/// Whether the credential of the superproject is for that address too.
fn is_at_home(superproject: &Access, url: &RemoteUrl) -> bool {
    superproject.url.origin() == url.origin()
}

/// What went wrong with a submodule, by its path.
pub(super) fn named(superproject: &Access, path: &str, url: &RemoteUrl, error: GitError) -> GitError {
    if error.submodule {
        return error;
    }
    let home = is_at_home(superproject, url);
    let advice = match (error.reason, home) {
        (Reason::AuthenticationFailed, true) => "; the credential of its superproject may not read it",
        (Reason::AuthenticationFailed | Reason::RepositoryNotFound, false) => {
            "; it is not on the host of its superproject, so no credential is sent there: use a public one, or one on that host"
        }
        _ => "",
    };
    let message = format!("submodule {path} ({url}): {}{advice}", error.message);
    // A pause is asked of the host that is meant, and only that of the outermost repository is counted.
    let retry_after = error.retry_after.filter(|_| home);
    GitError { submodule: true, retry_after, ..GitError::new(error.reason, message) }
}

pub(super) fn refused(path: &str, why: &str) -> GitError {
    GitError { submodule: true, ..GitError::new(Reason::SubmoduleRefused, format!("submodule {path}: {why}")) }
}

/// Refuses one more submodule than there may be, or one too deep.
pub(super) fn check_room(path: &str, count: usize, nesting: usize) -> Result<(), GitError> {
    if count >= MAX_COUNT {
        return Err(refused(path, &format!("there are more than {MAX_COUNT} submodules, the limit for one commit")));
    }
    if nesting >= MAX_NESTING {
        return Err(refused(path, &format!("submodules are nested more than {MAX_NESTING} deep")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_as_git_reads_it() {
        let text = "# a comment\n[submodule \"one\"]\n\tpath = lib/one/\n\turl = ../one.git\n\tbranch = main\n\
                    [submodule \"two \\\"x\\\"\"]\n\tpath = \"with space\"\n\turl = https://h/two ; why\n\
                    [submodule \"none\"]\n\tpath = none\n\turl = u\n\tupdate = none\n\
                    [submodule \"lost\"]\n\tpath = lost\n\
                    [submodule]\n\tpath = unnamed\n\turl = u\n[other \"x\"]\n\tpath = x\n\
                    [submodule \"one\"]\n\turl = ../uno.git\n";
        let found = parse(text.as_bytes()).unwrap();
        let want = [("lib/one", Some("../uno.git")), ("none", None), ("with space", Some("https://h/two"))];
        let want = want.map(|(path, url)| (path.to_owned(), url.map(str::to_owned)));
        assert_eq!(found, BTreeMap::from(want));
        assert_eq!(parse(b"[submodule \"x").unwrap_err().reason, Reason::SubmoduleRefused);
        assert!(parse(b"").unwrap().is_empty());
    }

    #[test]
    fn a_credential_stays_on_its_host_and_below_a_stranger_there_is_none() {
        use crate::git::{Proxies, credential::Proxy};
        let secret = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), v.as_bytes().to_vec())).collect();
        let url = RemoteUrl::parse("https://forge.example.com/team/a.git", false).unwrap();
        let pem = "-----BEGIN CERTIFICATE-----";
        let credential = Credential::from_secret(&secret(&[("bearerToken", "t"), ("ca.crt", pem)]), &url).unwrap();
        let proxy = Proxy::from_secret(&secret(&[("address", "http://proxy:3128")])).unwrap();
        let credential = Arc::new(credential.through(proxy.clone(), &url).unwrap());
        let top = Access { url, credential, cache: "c".into(), submodules: true, namespaces: vec![] };
        for (text, home) in [
            ("../b.git", true),
            ("https://forge.example.com/other/b", true),
            ("https://FORGE.example.com:443/b", true),
            ("http://forge.example.com/b", false),
            ("https://forge.example.com:8443/b", false),
            ("https://forge.example.com.evil.org/b", false),
            ("git@forge.example.com:b", false),
        ] {
            let found = access(&top, "lib", text).unwrap();
            assert_eq!((found.credential.auth != Auth::None, found.credential.ca.is_some()), (home, home), "{text}");
            assert_eq!(found.credential.proxies, Proxies::all(proxy.clone()), "{text}");
        }
        let stranger = access(&top, "lib", "https://other.example.org/b").unwrap();
        let back = access(&stranger, "lib/c", "https://forge.example.com/team/private").unwrap();
        assert_eq!(back.credential.auth, Auth::None, "a stranger's submodule gets nothing, wherever it is");
        let error = access(&top, "lib/x", "file:///etc").unwrap_err();
        assert!(
            error.submodule && error.message.starts_with("submodule lib/x: its url: local repositories"),
            "{error}"
        );
    }

    #[test]
    fn a_failure_names_the_path_and_says_whose_credential_it_was() {
        let url = |text| RemoteUrl::parse(text, false).unwrap();
        let top = Access {
            url: url("https://h/a"),
            credential: Arc::default(),
            cache: String::new(),
            submodules: true,
            namespaces: vec![],
        };
        let error = || GitError {
            retry_after: Some(std::time::Duration::ZERO),
            ..GitError::new(Reason::AuthenticationFailed, "no")
        };
        let (own, other) =
            (named(&top, "lib", &url("https://h/b"), error()), named(&top, "lib", &url("https://o/b"), error()));
        assert!(
            own.message.starts_with("submodule lib (https://h/b): no; the credential of its superproject"),
            "{own}"
        );
        assert!(other.message.contains("no credential is sent there"), "{other}");
        assert!(own.submodule && own.retry_after.is_some() && other.retry_after.is_none());
        assert_eq!(named(&top, "outer", &url("https://o/b"), other.clone()), other, "the innermost is named");
    }

    #[test]
    fn a_listing_names_so_many_and_so_deep() {
        let names = |count: usize| {
            (0..count).fold(String::new(), |text, n| text + &format!("[submodule \"{n}\"]\npath = {n}\nurl = u\n"))
        };
        assert_eq!(parse(names(MAX_NAMED).as_bytes()).unwrap().len(), MAX_NAMED);
        let deep = |count: usize| format!("[submodule \"a\"]\npath = {}\nurl = u\n", vec!["a"; count].join("/"));
        assert_eq!(parse(deep(MAX_NAMES).as_bytes()).unwrap().len(), 1);
        for (text, part) in [(names(MAX_NAMED + 1), "more than 500"), (deep(MAX_NAMES + 1), "more than 128 names")] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.is_final() && error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn their_number_and_depth_are_bounded() {
        assert!(check_room("x", MAX_COUNT - 1, MAX_NESTING - 1).is_ok());
        for (count, nesting, part) in [(MAX_COUNT, 0, "more than 50"), (0, MAX_NESTING, "more than 4 deep")] {
            let error = check_room("lib/x", count, nesting).unwrap_err();
            assert!(
                error.is_final() && error.message.contains("submodule lib/x: ") && error.message.contains(part),
                "{error}"
            );
        }
    }
}
