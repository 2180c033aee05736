//! Submodules: what the real `git clone --recurse-submodules` has, and no credential where it does not belong.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc, time::Duration};

use pilothouse::{
    artifact,
    git::{
        Access, CommitId, Credential, Fetched, GitError, GitRemote, GixRemote, Limits, Policy, Reason, RemoteUrl, Stop,
        Whole,
    },
};

use crate::{
    checkouts::{git, unpacked},
    common::git_server::{Asked, GitServer, Repository, basic},
};

const LOGIN: [(&str, &[u8]); 2] = [("username", b"me"), ("password", b"s3cret")];

struct Client {
    remote: GixRemote,
    folder: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        Self::reaching("127.0.0.0/8", Limits::default())
    }

    fn reaching(network: &str, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy::new(vec![network.parse().unwrap()], vec![]);
        Self { remote: GixRemote::new(&folder.path().join("git"), limits, policy).unwrap(), folder }
    }

    fn fetch(&self, access: &Access, commit: &str) -> Result<Fetched, GitError> {
        self.remote.fetch(access, &CommitId::parse(commit).unwrap(), &stop())
    }

    fn whole(&self, access: &Access, commit: &str) -> Fetched {
        let whole = Whole { depth: 1, branch: Some("main".into()), push: None };
        self.remote.checkout(access, &CommitId::parse(commit).unwrap(), &whole, &stop()).unwrap()
    }

    /// Folders of the cache, without the lock.
    fn folders(&self) -> usize {
        let process = fs::read_dir(self.folder.path().join("git")).unwrap().next().unwrap().unwrap().path();
        fs::read_dir(process).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|x| x == "git")).count()
    }
}

fn stop() -> Arc<Stop> {
    Arc::new(Stop::after(Duration::from_mins(1)))
}

fn access(url: &str, secret: &[(&str, &[u8])]) -> Access {
    let url = RemoteUrl::parse(url, false).unwrap();
    let data: BTreeMap<String, Vec<u8>> = secret.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
    let credential =
        if data.is_empty() { Credential::anonymous(&url) } else { Credential::from_secret(&data, &url) }.unwrap();
    Access { url, credential: Arc::new(credential), cache: "cache".into(), submodules: true, namespaces: vec![] }
}

/// `.gitmodules` for paths and addresses.
fn listing(modules: &[(&str, &str)]) -> String {
    let one = |(path, url): &(&str, &str)| format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
    modules.iter().map(one).collect()
}

/// A commit with a file of its own, and with submodules.
fn with_modules(repository: &Repository, modules: &[(&str, &str, &str)]) -> String {
    let listing = listing(&modules.iter().map(|(path, url, _)| (*path, *url)).collect::<Vec<_>>());
    let mut files = vec![(".gitmodules", listing.as_str(), "100644"), ("own.md", "own", "100644")];
    files.extend(modules.iter().map(|(path, _, commit)| (*path, *commit, "160000")));
    repository.commit_modes("main", &files)
}

fn texts(fetched: &Fetched) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fetched.tree.iter().map(|(path, entry)| (path.to_string(), text(&entry.bytes))).collect()
}

/// Regular files, and what links lead to, without what is Git's.
fn files_below(at: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(at).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let path = entry.path();
        if name == ".git" {
            continue;
        }
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            files_below(&path, &format!("{prefix}{name}/"), found);
        } else {
            found.insert(format!("{prefix}{name}"), fs::read_to_string(&path).unwrap());
        }
    }
}

/// A superproject on the first server with one submodule beside it, which has one of its own, and one on the second server.
struct Family {
    home: GitServer,
    other: GitServer,
    commit: String,
}

impl Family {
    fn new() -> Self {
        let (home, other) = (GitServer::http(), GitServer::http());
        let inner = home.repository("inner.git").commit("main", &[("deep.md", "deep")]);
        let lib = home.repository("lib.git");
        let listing = listing(&[("in/ner", "../inner.git")]);
        let lib = lib.commit_modes(
            "main",
            &[
                (".gitmodules", &listing, "100644"),
                ("in/ner", &inner, "160000"),
                ("lib.md", "lib", "100644"),
                ("up", "../../own.md", "120000"),
            ],
        );
        let far = other.repository("far.git").commit("main", &[("far.md", "far")]);
        let (top, url) = (home.repository("top.git"), other.url("far.git"));
        with_modules(&top, &[("libs/one", "../lib.git", &lib), ("far", &url, &far)]);
        let commit = top.commit_modes("main", &[("into", "libs/one/lib.md", "120000")]);
        Self { home, other, commit }
    }

    fn access(&self, secret: &[(&str, &[u8])]) -> Access {
        access(&self.home.url("top.git"), secret)
    }
}

#[test]
fn the_files_are_those_of_a_recursive_clone_and_the_credential_stays_at_home() {
    let family = Family::new();
    let clone = tempfile::tempdir().unwrap();
    let url = family.home.url("top.git");
    let status = Command::new("git")
        .args(["-c", "core.symlinks=true", "clone", "-q", "--recurse-submodules", &url])
        .arg(clone.path().join("top"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .status();
    assert!(status.unwrap().success());
    let mut want = BTreeMap::new();
    files_below(&clone.path().join("top"), "", &mut want);
    assert!(want.contains_key("libs/one/in/ner/deep.md") && want.contains_key("far/far.md"), "{want:?}");

    family.home.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    family.home.forget();
    family.other.forget();
    let client = Client::new();
    let fetched = client.fetch(&family.access(&LOGIN), &family.commit).unwrap();
    assert_eq!(texts(&fetched), want);
    assert_eq!(fetched.skipped, []);
    assert!(family.home.log().iter().all(|l| l.authorization.is_some()));
    let far = family.other.log();
    assert!(!far.is_empty() && far.iter().all(|l| l.authorization.is_none()), "no credential for another host");

    // Nothing is asked again for what is there, and the same commit is the same bytes elsewhere.
    family.home.forget();
    assert_eq!(client.fetch(&family.access(&LOGIN), &family.commit).unwrap(), fetched);
    assert!(family.home.log().is_empty());
    let again = Client::new().fetch(&family.access(&LOGIN), &family.commit).unwrap();
    assert_eq!(artifact::digest_of(&again.tree), artifact::digest_of(&fetched.tree));
    client.remote.forget("cache");
    assert_eq!(client.folders(), 0, "submodules are forgotten with their superproject");
}

#[test]
fn without_being_asked_for_they_are_left_out() {
    let family = Family::new();
    let access = Access { submodules: false, ..family.access(&[]) };
    let fetched = Client::new().fetch(&access, &family.commit).unwrap();
    let skipped: Vec<_> = fetched.skipped.iter().map(|s| (s.path.as_str(), s.why)).collect();
    assert_eq!(skipped, [("far", "a submodule"), ("into", "a link that leads nowhere"), ("libs/one", "a submodule")]);
    assert!(family.other.log().is_empty());
}

#[test]
fn the_network_guard_holds_for_submodules() {
    let (home, other) = (GitServer::http(), GitServer::http_on("127.0.0.2:0"));
    let far = other.repository("far.git").commit("main", &[("a", "1")]);
    let commit = with_modules(&home.repository("top.git"), &[("libs/far", &other.url("far.git"), &far)]);
    let error = Client::reaching("127.0.0.1/32", Limits::default()).fetch(&access(&home.url("top.git"), &[]), &commit);
    let error = error.unwrap_err();
    assert_eq!(error.reason, Reason::AddressRefused, "{error}");
    assert!(error.message.starts_with("submodule libs/far (http://127.0.0.2"), "{error}");
    assert!(other.log().is_empty());
}

#[test]
fn one_that_cannot_be_had_is_named_with_its_path() {
    let (home, other) = (GitServer::http(), GitServer::http());
    let some = "1".repeat(40);
    let known = home.repository("known.git").commit("main", &[("a", "1")]);
    other.repository("private.git");
    other.behave(|b| b.authorization = Some(basic("other", "person")));
    let private = other.url("private.git");
    for (n, (url, id, reason, part)) in [
        ("../none.git", &some, Reason::RepositoryNotFound, "submodule lib/x (http://"),
        ("../known.git", &some, Reason::CommitNotFound, "submodule lib/x (http://"),
        (private.as_str(), &some, Reason::AuthenticationFailed, "no credential is sent there"),
        ("file:///etc", &known, Reason::SubmoduleRefused, "submodule lib/x: its url: local repositories"),
        ("../../../known.git", &known, Reason::SubmoduleRefused, "submodule lib/x: its url: "),
        ("--upload-pack=id", &known, Reason::SubmoduleRefused, "submodule lib/x: its url: "),
        ("git@127.0.0.1:known.git", &known, Reason::AuthenticationFailed, "submodule lib/x (ssh://git@127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let top = home.repository(&format!("top{n}.git"));
        let commit = with_modules(&top, &[("lib/x", url, id)]);
        let client = Client::new();
        let error = client.fetch(&access(&home.url(&format!("top{n}.git")), &LOGIN), &commit).unwrap_err();
        assert_eq!((error.reason, error.submodule), (reason, true), "{url}: {error}");
        assert!(error.message.contains(part), "{url}: {error}");
        assert!(!error.message.contains("s3cret"));
        let log = home.log().into_iter().filter(|l| l.asked == Asked::Fetch && l.path.contains(&format!("top{n}")));
        assert_eq!(log.count(), 1, "{url}: the superproject is not fetched again for its submodule's trouble");
    }
    let lost = home.repository("lost.git").commit_modes("main", &[("lib/y", &known, "160000"), ("a", "1", "100644")]);
    let error = Client::new().fetch(&access(&home.url("lost.git"), &[]), &lost).unwrap_err();
    assert!(error.is_final() && error.message.contains("submodule lib/y: .gitmodules has no path and url"), "{error}");
    let listing = "[submodule \"x\"]\n\tpath = lib/y\n\turl = nowhere\n\tupdate = none\n";
    let unused = home.repository("lost.git").commit("main", &[(".gitmodules", listing)]);
    let fetched = Client::new().fetch(&access(&home.url("lost.git"), &[]), &unused).unwrap();
    assert_eq!(fetched.skipped[0].why, "a submodule with `update = none`");
}

#[test]
fn limits_count_all_of_them_together() {
    let home = GitServer::http();
    let text = |n: usize| format!("{n}").repeat(600 << 10);
    let ids: Vec<_> =
        (1..=2).map(|n| home.repository(&format!("m{n}.git")).commit("main", &[("a", &text(n))])).collect();
    let commit = with_modules(&home.repository("top.git"), &[("x", "../m1.git", &ids[0]), ("y", "../m2.git", &ids[1])]);
    let url = access(&home.url("top.git"), &[]);
    let small = Limits { tree: 1 << 20, ..Limits::default() };
    let error = Client::reaching("127.0.0.0/8", small).fetch(&url, &commit).unwrap_err();
    assert!(error.reason == Reason::TooLarge && error.message.contains("exceed 1 MiB"), "{error}");
    assert!(Client::reaching("127.0.0.0/8", Limits { tree: 2 << 20, ..small }).fetch(&url, &commit).is_ok());
    let few = Limits { files: 4, ..Limits::default() };
    assert_eq!(Client::reaching("127.0.0.0/8", few).fetch(&url, &commit).unwrap_err().reason, Reason::TooLarge);

    let own = home.repository("own.git");
    let mut commit = own.commit("main", &[("a", "1")]);
    for _ in 0..5 {
        commit = with_modules(&own, &[("again", "./../own.git", &commit)]);
    }
    let error = Client::new().fetch(&access(&home.url("own.git"), &[]), &commit).unwrap_err();
    assert!(error.is_final() && error.message.contains("nested more than 4 deep"), "{error}");
    let many: Vec<_> = (0..51).map(|n| format!("m/{n:02}")).collect();
    let many: Vec<_> = many.iter().map(|path| (path.as_str(), "../m1.git", ids[0].as_str())).collect();
    let commit = with_modules(&home.repository("many.git"), &many);
    let error = Client::new().fetch(&access(&home.url("many.git"), &[]), &commit).unwrap_err();
    assert!(error.message.contains("submodule m/50: there are more than 50 submodules"), "{error}");
}

/// A damaged cache of a submodule is made anew, and what no commit names any more is removed.
#[test]
fn the_cache_of_submodules_is_kept_in_order() {
    let family = Family::new();
    let (client, access) = (Client::new(), family.access(&[]));
    let first = client.fetch(&access, &family.commit).unwrap();
    assert_eq!(client.folders(), 4);
    let process = fs::read_dir(client.folder.path().join("git")).unwrap().next().unwrap().unwrap().path();
    for entry in fs::read_dir(process).unwrap().flatten() {
        for pack in fs::read_dir(entry.path().join("objects/pack")).into_iter().flatten().flatten() {
            if pack.path().extension().is_some_and(|e| e == "pack")
                && entry.file_name().to_string_lossy().contains("-m")
            {
                fs::remove_file(pack.path()).unwrap();
            }
        }
    }
    assert_eq!(client.fetch(&access, &family.commit).unwrap(), first);
    let top = family.home.repository("top.git");
    let without = top.commit_modes("main", &[("far", "", ""), ("libs/one", "", ""), (".gitmodules", "", "")]);
    client.fetch(&access, &without).unwrap();
    assert_eq!(client.folders(), 1);
}

#[test]
fn git_takes_no_notice_of_their_files_in_a_whole_repository() {
    let family = Family::new();
    let dir = unpacked(&Client::new().whole(&family.access(&[]), &family.commit));
    let at = dir.path();
    assert_eq!(fs::read_to_string(at.join("libs/one/in/ner/deep.md")).unwrap(), "deep");
    assert_eq!(fs::read_to_string(at.join("into")).unwrap(), "lib");
    assert_eq!(git(at, &["status", "--porcelain"]), "");
    fs::write(at.join("libs/one/lib.md"), "edited").unwrap();
    fs::write(at.join("own.md"), "edited").unwrap();
    assert_eq!(git(at, &["status", "--porcelain"]).trim(), "M own.md");
    git(at, &["-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "-qam", "mine"]);
    assert_eq!(git(at, &["diff", "--stat", "HEAD~1", "--", "libs", "far"]), "", "they stay at their commits");
    git(at, &["fsck", "--full", "--strict"]);
}
