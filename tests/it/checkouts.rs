//! Whole repositories: what the controller makes of a commit is a repository to the real `git`.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::Arc,
    time::Duration,
};

use pilothouse::{
    api::content::checkout::{GIT, REST, Rest, TREE},
    artifact,
    git::{
        Access, CommitId, Credential, Fetched, GitError, GitRemote, GixRemote, Limits, Policy, Reason, RemoteUrl, Stop,
        Whole,
    },
    tree::RepoPath,
};

use crate::common::git_server::{Asked, GitServer, SshServer, basic};

struct Client {
    remote: GixRemote,
    _folder: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy::new(["127.0.0.0/8", "::1"].map(|text| text.parse().unwrap()).to_vec(), vec![]);
        Self { remote: GixRemote::new(&folder.path().join("git"), limits, policy).unwrap(), _folder: folder }
    }

    fn checkout(&self, access: &Access, commit: &str, depth: u32, branch: Option<&str>) -> Result<Fetched, GitError> {
        let whole = Whole { depth, branch: branch.map(Into::into), push: None };
        self.remote.checkout(access, &CommitId::parse(commit).unwrap(), &whole, &stop())
    }
}

fn stop() -> Arc<Stop> {
    Arc::new(Stop::after(Duration::from_mins(1)))
}

fn access(url: &str, secret: &[(&str, &[u8])]) -> Access {
    let url = RemoteUrl::parse(url, true).unwrap();
    let data: BTreeMap<String, Vec<u8>> = secret.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
    let credential =
        if data.is_empty() { Credential::anonymous(&url) } else { Credential::from_secret(&data, &url) }.unwrap();
    Access { url, credential: Arc::new(credential), cache: "cache".into(), submodules: false, namespaces: vec![] }
}

/// As the sidecar unpacks it, in a few lines.
pub(crate) fn unpacked(fetched: &Fetched) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, entry) in fetched.tree.iter() {
        let path = path.as_str();
        let below = match (path.strip_prefix(TREE), path.strip_prefix(GIT)) {
            (Some(below), _) => below.to_owned(),
            (_, Some(git)) => format!(".git/{git}"),
            _ => continue,
        };
        let to = dir.path().join(below);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, &entry.bytes).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(if entry.executable { 0o755 } else { 0o644 })).unwrap();
    }
    let rest: Rest = serde_json::from_slice(&fetched.tree.get(&RepoPath::parse(REST).unwrap()).unwrap().bytes).unwrap();
    for (path, target) in rest.links {
        let at = dir.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, at).unwrap();
    }
    for folder in rest.folders {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::create_dir_all(dir.path().join(".git/refs/heads")).unwrap();
    dir
}

fn command(at: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).current_dir(at).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command
}

/// What a `git` without any configuration of its own says.
pub(crate) fn git(at: &Path, args: &[&str]) -> String {
    let out = command(at, args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "git {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text.trim_end().to_owned()
}

#[test]
fn git_finds_a_clean_clone_whose_history_is_as_deep_as_asked() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let mut commits = vec![];
    for n in 0..4 {
        let text = format!("{n}\n");
        commits.push(repository.commit_modes(
            "main",
            &[
                ("a.md", &text, "100644"),
                ("bin/run", "#!/bin/sh\n", "100755"),
                ("link", "bin/run", "120000"),
                ("deep/out", "/etc/passwd", "120000"),
                ("deep/er/file", "e", "100644"),
                ("with space/ü", "x", "100644"),
            ],
        ));
    }
    server.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    let access = access(&server.url("r.git"), &[("username", b"me"), ("password", b"s3cret")]);
    let client = Client::new();
    for (depth, want) in [(1, 1), (2, 2), (3, 3), (9, 4), (0, 4)] {
        let fetched = client.checkout(&access, &commits[3], depth, Some("main")).unwrap();
        let dir = unpacked(&fetched);
        let at = dir.path();
        assert_eq!(
            git(at, &["status", "--porcelain=v2", "--branch"]),
            format!(
                "# branch.oid {}\n# branch.head main\n# branch.upstream origin/main\n# branch.ab +0 -0",
                commits[3]
            ),
            "{depth}"
        );
        let log = git(at, &["log", "--format=%H"]);
        let expected: Vec<_> = commits.iter().rev().take(want).map(String::as_str).collect();
        assert_eq!(log.lines().collect::<Vec<_>>(), expected, "depth {depth}");
        git(at, &["fsck", "--full", "--strict"]);
        assert_eq!(at.join(".git/shallow").exists(), want < 4);
        assert_eq!(git(at, &["remote", "get-url", "origin"]), server.url("r.git"));
        for file in walk(at) {
            let bytes = fs::read(&file).unwrap_or_default();
            assert!(!bytes.windows(6).any(|w| w == b"s3cret"), "{}", file.display());
        }
    }
}

fn walk(at: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(at).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(walk(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

#[test]
fn the_user_fetches_commits_and_pushes_with_a_credential_of_his_own() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let first = repository.commit("main", &[("a", "1")]);
    let dir = unpacked(&Client::new().checkout(&access(&server.url("r.git"), &[]), &first, 1, Some("main")).unwrap());
    let at = dir.path();
    let second = repository.commit("main", &[("a", "2")]);
    repository.commit("other", &[("b", "1")]);
    git(at, &["fetch", "-q"]);
    assert_eq!(git(at, &["rev-parse", "origin/main"]), second);
    git(at, &["merge", "-q", "--ff-only", "origin/main"]);
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "2");
    assert_eq!(git(at, &["branch", "-r"]).trim(), "origin/main", "a shallow clone follows its branch alone");
    fs::write(at.join("a"), "3").unwrap();
    let me = ["-c", "user.name=me", "-c", "user.email=me@example.com"];
    git(at, &[&me[..], &["commit", "-qam", "mine"]].concat());
    git(at, &["fsck", "--full"]);
    assert_eq!(git(at, &["log", "--format=%s"]).lines().count(), 3);
}

/// The same commit is the same digest, whoever makes it, whatever the server sent before, and by whatever way.
#[test]
fn the_bytes_are_the_same_everywhere() {
    let (http, ssh) = (GitServer::http(), SshServer::start());
    let repository = http.repository("r.git");
    let commits: Vec<_> =
        (0..5).map(|n| repository.commit("main", &[("a", &format!("{n}\n").repeat(500)), ("b", "same")])).collect();
    let url = access(&http.url("r.git"), &[]);
    let (fresh, used) = (Client::new(), Client::new());
    for depth in [1, 2, 0] {
        for commit in &commits {
            used.checkout(&url, commit, depth, Some("main")).unwrap();
        }
        let digest = |client: &Client, access: &Access| {
            artifact::digest_of(&client.checkout(access, &commits[3], depth, Some("main")).unwrap().tree)
        };
        assert_eq!(digest(&fresh, &url), digest(&used, &url), "depth {depth}");
        assert_eq!(digest(&Client::new(), &url), digest(&used, &url), "depth {depth}");
    }
    let Some(ssh) = ssh else { return eprintln!("no sshd here: not tried over ssh") };
    let keys: [(&str, &[u8]); 2] = [("identity", &ssh.identity()), ("known_hosts", &ssh.known_hosts())];
    let by_ssh = fresh.checkout(&access(&ssh.url(repository.path()), &keys), &commits[3], 1, Some("main")).unwrap();
    let dir = unpacked(&by_ssh);
    assert_eq!(git(dir.path(), &["status", "--porcelain"]), "");
    assert!(git(dir.path(), &["remote", "get-url", "origin"]).starts_with("ssh://"));
}

#[test]
fn a_tag_or_a_commit_is_checked_out_without_a_branch() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let first = repository.commit("main", &[("a", "1")]);
    let dir = unpacked(&Client::new().checkout(&access(&server.url("r.git"), &[]), &first, 1, None).unwrap());
    assert_eq!(
        git(dir.path(), &["status", "--porcelain=v2", "--branch"]),
        format!("# branch.oid {first}\n# branch.head (detached)")
    );
    assert_eq!(git(dir.path(), &["rev-parse", "HEAD"]), first);
}

#[test]
fn what_cannot_be_a_checkout_is_refused_by_name() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let limits = Limits { tree: 1 << 20, ..Limits::default() };
    let client = Client::with(limits);
    let url = access(&server.url("r.git"), &[]);
    let large = "0123456789abcdef".repeat(1 << 16);
    for (branch, files, reason, part) in [
        ("slash", vec![("a\\b", "x", "100644")], Reason::CheckoutRefused, "a\\b"),
        ("control", vec![("a\tb", "x", "100644")], Reason::CheckoutRefused, "backslash or a control character"),
        ("large", vec![("a", large.as_str(), "100644"), ("b", large.as_str(), "100644")], Reason::TooLarge, "1 MiB"),
    ] {
        let commit = repository.commit_modes(branch, &files);
        let error = client.checkout(&url, &commit, 1, Some(branch)).unwrap_err();
        assert_eq!(error.reason, reason, "{branch}: {error}");
        assert!(error.message.contains(part), "{branch}: {error}");
        let asked = server.count(Asked::Fetch);
        client.checkout(&url, &commit, 1, Some(branch)).unwrap_err();
        assert_eq!(server.count(Asked::Fetch), asked, "{branch}: what the commit itself forbids is not fetched again");
    }
}

/// With the folder that a Secret is mounted at, and nothing else, Git in the pod fetches and pushes.
#[test]
fn a_pod_that_may_push_does_so_over_http_and_ssh() {
    let (http, ssh) = (GitServer::http(), SshServer::start());
    let repository = http.repository("r.git");
    let first = repository.commit("main", &[("a", "1")]);
    http.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    let secret = tempfile::tempdir().unwrap();
    let put = |key: &str, value: &[u8]| {
        let path = secret.path().join(key);
        fs::write(&path, value).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    };
    put("username", b"me\n");
    put("password", b"s3cret");
    let mut ways = vec![access(&http.url("r.git"), &[("username", b"me"), ("password", b"s3cret")])];
    if let Some(ssh) = &ssh {
        put("identity", &ssh.identity());
        put("known_hosts", &ssh.known_hosts());
        let keys: [(&str, &[u8]); 2] = [("identity", &ssh.identity()), ("known_hosts", &ssh.known_hosts())];
        ways.push(access(&ssh.url(repository.path()), &keys));
    }
    let whole = |push: bool| Whole {
        depth: 1,
        branch: Some("main".into()),
        push: push.then(|| secret.path().to_str().unwrap().to_owned()),
    };
    let client = Client::new();
    let mut tip = first;
    for (n, access) in ways.iter().enumerate() {
        let make = |push| {
            unpacked(&client.remote.checkout(access, &CommitId::parse(&tip).unwrap(), &whole(push), &stop()).unwrap())
        };
        let (dir, without) = (make(true), make(false));
        let me = ["-c", "user.name=me", "-c", "user.email=me@example.com"];
        for dir in [&dir, &without] {
            fs::write(dir.path().join("a"), format!("mine {n}")).unwrap();
            git(dir.path(), &[&me[..], &["commit", "-qam", "mine"]].concat());
        }
        let mut refused = command(without.path(), &["push", "-q"]);
        assert!(!refused.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -F none").status().unwrap().success());
        git(dir.path(), &["push", "-q"]);
        tip = git(dir.path(), &["rev-parse", "HEAD"]);
        assert_eq!(repository.run(&["rev-parse", "main"]), tip);
        git(dir.path(), &["fetch", "-q"]);
        assert!(!fs::read_to_string(dir.path().join(".git/config")).unwrap().contains("s3cret"));
    }
}
