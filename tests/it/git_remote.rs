//! Listing and fetching from real servers: HTTP, HTTPS, SSH and `file:`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pilothouse::{
    git::{
        Access, CommitId, Credential, Fetched, GitError, GitRemote, GixRemote, Limits, Policy, Reason, Reference,
        RemoteUrl, Resolved, Stop, refs,
    },
    tree::RepoPath,
};

use crate::common::git_server::{Asked, GitServer, Repository, SshServer, basic};

struct Client {
    remote: GixRemote,
    folder: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self::made(limits, here())
    }

    /// One that reaches only what a policy lets it.
    fn under(policy: Policy) -> Self {
        Self::made(Limits::default(), policy)
    }

    fn made(limits: Limits, policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { remote: GixRemote::new(&folder.path().join("git"), limits, policy).unwrap(), folder }
    }

    /// Where this process keeps its repositories.
    fn cache(&self) -> std::path::PathBuf {
        std::fs::read_dir(self.folder.path().join("git")).unwrap().next().unwrap().unwrap().path()
    }

    fn resolve(&self, access: &Access, reference: &Reference) -> Result<Resolved, GitError> {
        let listing = self.remote.list(access, &refs::prefixes(reference), &stop())?;
        Ok(refs::choose(&listing, reference)?)
    }

    fn fetch(&self, access: &Access, commit: &str) -> Result<Fetched, GitError> {
        self.remote.fetch(access, &CommitId::parse(commit).unwrap(), &stop())
    }

    fn fetch_branch(&self, access: &Access, branch: &str) -> Result<Fetched, GitError> {
        let found = self.resolve(access, &Reference::Branch(branch.into()))?;
        self.fetch(access, found.commit.as_str())
    }
}

/// Lets the servers of these tests through.
fn here() -> Policy {
    allowing(&["127.0.0.0/8", "::1"])
}

fn allowing(networks: &[&str]) -> Policy {
    Policy::new(networks.iter().map(|text| text.parse().unwrap()).collect(), vec![])
}

fn stop() -> Arc<Stop> {
    Arc::new(Stop::after(Duration::from_secs(30)))
}

fn access(url: &str, secret: &[(&str, &[u8])]) -> Access {
    let url = RemoteUrl::parse(url, true).unwrap();
    let data: BTreeMap<String, Vec<u8>> = secret.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
    let credential = if secret.is_empty() {
        Credential::anonymous(&url).unwrap()
    } else {
        Credential::from_secret(&data, &url).unwrap()
    };
    Access { url, credential: Arc::new(credential), cache: "cache".into(), submodules: false, namespaces: vec![] }
}

fn text(fetched: &Fetched, path: &str) -> String {
    let entry = fetched.tree.get(&RepoPath::parse(path).unwrap()).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(entry.bytes.to_vec()).unwrap()
}

fn paths(fetched: &Fetched) -> Vec<&str> {
    fetched.tree.iter().map(|(path, _)| path.as_str()).collect()
}

fn sample(repository: &Repository) -> String {
    repository.commit("main", &[("a.yaml", "a: 1\n"), ("dir/b.yaml", "b: 1\n")])
}

#[test]
fn every_kind_of_reference_resolves_exactly() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let first = sample(&repository);
    let second = repository.commit("feature/main", &[("only-feature", "x")]);
    repository.tag("v1", &first);
    repository.set_ref("refs/tags/light", &second);
    repository.set_ref("refs/pull/7/head", &second);
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    for (reference, commit, revision) in [
        (Reference::Head, &first, format!("main@sha1:{first}")),
        (Reference::Branch("main".into()), &first, format!("main@sha1:{first}")),
        (Reference::Branch("feature/main".into()), &second, format!("feature/main@sha1:{second}")),
        (Reference::Tag("v1".into()), &first, format!("v1@sha1:{first}")),
        (Reference::Tag("light".into()), &second, format!("light@sha1:{second}")),
        (Reference::Name("refs/pull/7/head".into()), &second, format!("refs/pull/7/head@sha1:{second}")),
    ] {
        let found = client.resolve(&access, &reference).unwrap();
        assert_eq!((found.commit.as_str(), found.revision), (commit.as_str(), revision), "{reference}");
    }
    let missing = client.resolve(&access, &Reference::Branch("mai".into())).unwrap_err();
    assert_eq!(missing.reason, Reason::ReferenceNotFound);
    // One listing each, and the server was told what to send.
    assert_eq!(server.count(Asked::Listing), 7);
    assert!(server.log().iter().any(|entry| entry.body.contains("ref-prefix refs/heads/feature/main")));
}

#[test]
fn a_commit_becomes_a_tree_and_the_next_one_sends_only_what_changed() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    sample(&repository);
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    let first = client.fetch_branch(&access, "main").unwrap();
    assert_eq!(paths(&first), ["a.yaml", "dir/b.yaml"]);
    assert_eq!(text(&first, "dir/b.yaml"), "b: 1\n");
    let before = repository.run(&["rev-parse", "main"]);
    repository.commit("main", &[("a.yaml", "a: 2\n")]);
    let second = client.fetch_branch(&access, "main").unwrap();
    assert_eq!((text(&second, "a.yaml").as_str(), text(&second, "dir/b.yaml").as_str()), ("a: 2\n", "b: 1\n"));
    let last = server.log().into_iter().rfind(|entry| entry.asked == Asked::Fetch).unwrap();
    assert!(last.body.contains(&format!("have {before}")), "{}", last.body);
    assert!(last.body.contains("deepen 1"), "{}", last.body);
}

#[test]
fn a_commit_that_is_there_already_is_not_fetched_again() {
    let server = GitServer::http();
    let commit = sample(&server.repository("r.git"));
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    let first = client.fetch(&access, &commit).unwrap();
    server.forget();
    assert_eq!(client.fetch(&access, &commit).unwrap(), first);
    assert!(server.log().is_empty());
}

#[test]
fn an_old_commit_is_fetched_by_its_id() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let old = sample(&repository);
    repository.commit("main", &[("a.yaml", "a: 2\n")]);
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    client.fetch_branch(&access, "main").unwrap();
    assert_eq!(text(&client.fetch(&access, &old).unwrap(), "a.yaml"), "a: 1\n");
    let unknown = client.fetch(&access, &"1".repeat(40)).unwrap_err();
    assert_eq!(unknown.reason, Reason::CommitNotFound, "{unknown}");
}

#[test]
fn sha256_repositories_work() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    std::fs::remove_dir_all(repository.path()).unwrap();
    let done = std::process::Command::new("git")
        .args(["init", "-q", "--bare", "-b", "main", "--object-format=sha256"])
        .arg(repository.path())
        .status();
    assert!(done.unwrap().success());
    let commit = sample(&repository);
    assert_eq!(commit.len(), 64);
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    let found = client.resolve(&access, &Reference::Head).unwrap();
    assert_eq!(found.revision, format!("main@sha256:{commit}"));
    assert_eq!(text(&client.fetch(&access, &commit).unwrap(), "a.yaml"), "a: 1\n");
}

#[test]
fn links_submodules_and_modes() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let commit = repository.commit_modes(
        "main",
        &[
            ("real.md", "text", "100644"),
            ("run.sh", "#!/bin/sh", "100755"),
            ("sub/link.md", "../real.md", "120000"),
            ("chain", "sub/link.md", "120000"),
            ("out", "../../etc/passwd", "120000"),
            ("absolute", "/etc/passwd", "120000"),
            ("folder", "sub", "120000"),
            ("loop-a", "loop-b", "120000"),
            ("loop-b", "loop-a", "120000"),
            ("vendor/x", &"1".repeat(40), "160000"),
        ],
    );
    let fetched = Client::new().fetch(&access(&server.url("r.git"), &[]), &commit).unwrap();
    assert_eq!(paths(&fetched), ["chain", "real.md", "run.sh", "sub/link.md"]);
    assert_eq!(text(&fetched, "chain"), "text");
    assert!(fetched.tree.get(&RepoPath::parse("run.sh").unwrap()).unwrap().executable);
    let skipped: Vec<_> = fetched.skipped.iter().map(|s| (s.path.as_str(), s.why)).collect();
    assert_eq!(
        skipped,
        [
            ("absolute", "a link that leads out of the repository"),
            ("folder", "a link to a folder"),
            ("loop-a", "a link that leads nowhere"),
            ("loop-b", "a link that leads nowhere"),
            ("out", "a link that leads out of the repository"),
            ("vendor/x", "a submodule"),
        ]
    );
}

#[test]
fn limits_hold() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let big = "x".repeat(300_000);
    let commit = repository.commit("main", &[("big", &big), ("a", "1"), ("b", "2"), ("c", "3")]);
    let access = access(&server.url("r.git"), &[]);
    let generous = Limits::default();
    for (limits, what) in [
        (Limits { file: 1000, ..generous }, "one file"),
        (Limits { tree: 1000, ..generous }, "together"),
        (Limits { files: 3, ..generous }, "more than 3 files"),
        (Limits { pack: 200, ..generous }, "the limit for one request"),
    ] {
        let error = Client::with(limits).fetch(&access, &commit).unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
    let error = Client::with(Limits { listing: 20, ..generous }).resolve(&access, &Reference::Head).unwrap_err();
    assert_eq!(error.reason, Reason::TooLarge);
}

/// Links cost nothing to send; what they stand for is counted.
#[test]
fn limits_count_links_and_folders() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let big = "x".repeat(300_000);
    let links: Vec<String> = (0..20).map(|n| format!("link{n:02}")).collect();
    let mut entries = vec![("big", big.as_str(), "100644")];
    entries.extend(links.iter().map(|name| (name.as_str(), "big", "120000")));
    let linked = repository.commit_modes("links", &entries);
    let deep = repository.commit("deep", &[("a/b/c/d/e/f/g/h", "1")]);
    let wide = repository.commit("wide", &[(format!("{}x", "long/".repeat(300)).as_str(), "1")]);
    let access = access(&server.url("r.git"), &[]);
    let generous = Limits::default();
    for (commit, limits, what) in [
        (&linked, Limits { tree: 1_000_000, ..generous }, "together"),
        (&linked, Limits { files: 15, ..generous }, "more than 15 files"),
        (&deep, Limits { files: 5, ..generous }, "more than 5 files"),
        (&wide, Limits::default(), "nested"),
    ] {
        let error = Client::with(limits).fetch(&access, commit).unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
    assert_eq!(Client::new().fetch(&access, &linked).unwrap().tree.len(), 21);
}

/// A few bytes on the wire may be gigabytes when unpacked.
#[test]
fn an_object_that_unpacks_to_more_than_its_limit_is_never_held() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let zeros = "0".repeat(3 << 20);
    let commit = repository.commit("main", &[("zeros", &zeros)]);
    let access = access(&server.url("r.git"), &[]);
    let client = Client::with(Limits { file: 1 << 20, pack: 1 << 20, ..Limits::default() });
    let error = client.fetch(&access, &commit).unwrap_err();
    assert_eq!(error.reason, Reason::TooLarge, "{error}");
    assert!(error.message.contains("1 MiB, the limit for one file"), "{error}");
    let packs = std::fs::read_dir(client.cache().join("cache.git/objects/pack")).unwrap().flatten();
    assert_eq!(
        packs.filter(|file| file.path().extension().is_some_and(|e| e == "pack")).count(),
        0,
        "refused unpacked"
    );
}

#[test]
fn a_cache_repository_stays_small() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let limits = Limits { pack: 64 << 10, ..Limits::default() };
    let (client, access) = (Client::with(limits), access(&server.url("r.git"), &[]));
    for n in 0..12u32 {
        let noise: String = (0..30_000u32).map(|i| char::from(33 + (mix(n * 30_000 + i) % 90) as u8)).collect();
        repository.commit("main", &[("noise", &noise)]);
        assert_eq!(text(&client.fetch_branch(&access, "main").unwrap(), "noise"), noise);
        let packs = std::fs::read_dir(client.cache().join("cache.git/objects/pack")).unwrap().flatten();
        let bytes: u64 = packs.map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes < 4 * limits.pack, "{bytes} bytes after {n}");
    }
}

/// Noise that does not compress and is the same in each run.
fn mix(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x45d9_f3b3);
    let n = (n ^ (n >> 15)).wrapping_mul(0x2c1b_3c6d);
    n ^ (n >> 13)
}

#[test]
fn basic_and_bearer_are_sent_at_once_and_wrong_ones_are_named() {
    let server = GitServer::http();
    sample(&server.repository("r.git"));
    let url = server.url("r.git");
    let client = Client::new();
    for (secret, wanted) in [
        (vec![("username", b"me".as_slice()), ("password", b"s3cret")], basic("me", "s3cret")),
        (vec![("bearerToken", b"t0ken".as_slice())], "Bearer t0ken".to_owned()),
    ] {
        server.behave(|b| b.authorization = Some(wanted.clone()));
        server.forget();
        client.resolve(&access(&url, &secret), &Reference::Head).unwrap();
        assert!(server.log().iter().all(|entry| entry.status == 200), "{:?}", server.log());
    }
    for secret in [vec![], vec![("username", b"me".as_slice()), ("password", b"wr0ng")]] {
        let error = client.resolve(&access(&url, &secret), &Reference::Head).unwrap_err();
        assert_eq!(error.reason, Reason::AuthenticationFailed);
        assert!(!error.message.contains("wr0ng"));
    }
}

#[test]
fn answers_that_are_no_success_have_reasons() {
    let server = GitServer::http();
    sample(&server.repository("r.git"));
    let client = Client::new();
    let missing = client.resolve(&access(&server.url("other.git"), &[]), &Reference::Head).unwrap_err();
    assert_eq!(missing.reason, Reason::RepositoryNotFound, "{missing}");
    for (status, want) in [
        (403, Reason::AuthenticationFailed),
        (404, Reason::RepositoryNotFound),
        (429, Reason::RateLimited),
        (503, Reason::Unreachable),
        (200, Reason::ProtocolError),
        (418, Reason::ProtocolError),
    ] {
        server.behave(|b| (b.status, b.retry_after) = (Some(status), Some(17)));
        let error = client.resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap_err();
        assert_eq!(error.reason, want, "{status}: {error}");
        assert_eq!(error.retry_after.is_some(), status != 200, "{status}");
    }
}

#[test]
fn redirects_keep_the_credential_at_home() {
    let (first, second) = (GitServer::http(), GitServer::http());
    sample(&second.repository("r.git"));
    let base = second.url("");
    first.behave(|b| b.redirect = Some(base.trim_end_matches('/').to_owned()));
    let access = access(&first.url("r.git"), &[("bearerToken", b"t0ken")]);
    Client::new().fetch_branch(&access, "main").unwrap();
    assert!(first.log().iter().all(|entry| entry.authorization.as_deref() == Some("Bearer t0ken")));
    assert!(second.log().iter().all(|entry| entry.path.starts_with("/r.git/")) && !second.log().is_empty());
    assert!(second.log().iter().all(|entry| entry.authorization.is_none()), "{:?}", second.log());
}

#[test]
fn redirects_do_not_go_round_or_to_other_schemes() {
    let server = GitServer::http();
    for target in [server.url("").trim_end_matches('/').to_owned(), "file:///etc".into(), "ftp://127.0.0.1".into()] {
        server.behave(|b| b.redirect = Some(target.clone()));
        let error = Client::new().resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap_err();
        assert_eq!(error.reason, Reason::ProtocolError, "{target}: {error}");
    }
}

#[test]
fn redirects_do_not_reach_the_metadata_service() {
    let server = GitServer::http();
    server.behave(|b| b.redirect = Some("http://169.254.169.254".into()));
    let error = Client::new().resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap_err();
    assert_eq!(error.reason, Reason::AddressRefused, "{error}");
}

/// By number, by a name that leads there, and in every spelling; with nothing asked of the server.
#[test]
fn loopback_is_out_of_reach_unless_it_is_allowed() {
    let server = GitServer::http();
    sample(&server.repository("r.git"));
    let port = server.url("").rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let strict = Client::under(Policy::default());
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"] {
        let url = format!("http://{host}:{port}/r.git");
        let error = strict.resolve(&access(&url, &[]), &Reference::Head).unwrap_err();
        assert_eq!(error.reason, Reason::AddressRefused, "{url}: {error}");
        assert!(
            error.message.contains("a loopback address") && error.message.contains("--allow-git-address"),
            "{error}"
        );
    }
    assert!(server.log().is_empty(), "{:?}", server.log());
    let allowed = Client::under(allowing(&["127.0.0.1"]));
    allowed.resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap();
}

#[test]
fn redirects_do_not_reach_what_the_url_may_not() {
    let (first, second) = (GitServer::http(), GitServer::http_on("127.0.0.2:0"));
    sample(&second.repository("r.git"));
    let port = second.url("").rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let client = Client::under(allowing(&["127.0.0.1"]));
    for host in ["127.0.0.2", "[::ffff:127.0.0.2]", "2130706434", "0x7f.2"] {
        let base = format!("http://{host}:{port}");
        first.behave(|b| b.redirect = Some(base.clone()));
        let error = client.resolve(&access(&first.url("r.git"), &[]), &Reference::Head).unwrap_err();
        assert_eq!(error.reason, Reason::AddressRefused, "{base}: {error}");
    }
    assert!(second.log().is_empty(), "{:?}", second.log());
}

#[test]
fn the_api_server_is_out_of_reach_by_address_and_by_name() {
    let server = GitServer::http();
    sample(&server.repository("r.git"));
    for host in ["127.0.0.1", "localhost"] {
        // Nothing is wrong with the address but whose it is.
        let policy = Policy::new(vec!["::1".parse().unwrap()], vec![host.into()]);
        let error = Client::under(policy).resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap_err();
        assert!(error.message.contains("leads to the Kubernetes API server"), "{error}");
    }
    assert!(server.log().is_empty(), "{:?}", server.log());
}

#[test]
fn ssh_does_not_reach_loopback_unless_it_is_allowed() {
    let Some(server) = SshServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::create(&folder.path().join("r.git"));
    sample(&repository);
    let (identity, known) = (server.identity(), server.known_hosts());
    let url = server.url(repository.path());
    for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let access = access(&url, &[("identity", &identity), ("known_hosts", &known)]);
        let error = Client::under(Policy::default()).resolve(&access, &Reference::Head).unwrap_err();
        assert_eq!(error.reason, Reason::AddressRefused, "{url}: {error}");
    }
    let access = access(&url, &[("identity", &identity), ("known_hosts", &known)]);
    Client::under(allowing(&["127.0.0.1"])).resolve(&access, &Reference::Head).unwrap();
}

#[test]
fn https_trusts_the_secrets_ca_and_nothing_less() {
    let server = GitServer::https();
    sample(&server.repository("r.git"));
    let client = Client::new();
    let trusting = access(&server.url("r.git"), &[("ca.crt", server.ca().as_bytes())]);
    assert_eq!(paths(&client.fetch_branch(&trusting, "main").unwrap()), ["a.yaml", "dir/b.yaml"]);
    let error = client.resolve(&access(&server.url("r.git"), &[]), &Reference::Head).unwrap_err();
    assert_eq!(error.reason, Reason::TLSFailed, "{error}");
    let other = GitServer::https();
    let wrong = access(&server.url("r.git"), &[("ca.crt", other.ca().as_bytes())]);
    assert_eq!(client.resolve(&wrong, &Reference::Head).unwrap_err().reason, Reason::TLSFailed);
}

#[test]
fn silence_ends_at_the_deadline() {
    let server = GitServer::http();
    sample(&server.repository("r.git"));
    server.behave(|b| b.delay = Duration::from_mins(1));
    let stop = Arc::new(Stop::after(Duration::from_millis(300)));
    let error = Client::new().remote.list(&access(&server.url("r.git"), &[]), &[], &stop).unwrap_err();
    assert_eq!(error.reason, Reason::Timeout, "{error}");
}

#[test]
fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new().resolve(&access(&format!("http://{address}/r.git"), &[]), &Reference::Head).unwrap_err();
    assert_eq!(error.reason, Reason::Unreachable, "{error}");
    let error = Client::new().resolve(&access("http://nowhere.invalid/r.git", &[]), &Reference::Head).unwrap_err();
    assert_eq!(error.reason, Reason::Unreachable, "{error}");
}

#[test]
fn ssh_checks_the_host_key_and_the_client_key() {
    let Some(server) = SshServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::create(&folder.path().join("it's a test.git"));
    sample(&repository);
    let plain = folder.path().join("r.git");
    std::fs::rename(repository.path(), &plain).unwrap();
    let url = server.url(&plain);
    let (identity, stranger) = (server.identity(), server.stranger());
    let (known, wrong) = (server.known_hosts(), server.wrong_known_hosts());
    let client = Client::new();
    let good = access(&url, &[("identity", &identity), ("known_hosts", &known)]);
    let fetched = client.fetch_branch(&good, "main").unwrap();
    assert_eq!(paths(&fetched), ["a.yaml", "dir/b.yaml"]);
    for (key, hosts, url, want) in [
        (&identity, &wrong, &url, Reason::HostKeyMismatch),
        (&stranger, &known, &url, Reason::AuthenticationFailed),
        (&identity, &known, &server.url(&folder.path().join("none.git")), Reason::RepositoryNotFound),
    ] {
        let error = client.resolve(&access(url, &[("identity", key), ("known_hosts", hosts)]), &Reference::Head);
        let error = error.unwrap_err();
        assert_eq!(error.reason, want, "{error}");
    }
    let left: Vec<_> = std::fs::read_dir(client.cache()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the lock and the repository, no keys: {left:?}");
}

#[test]
fn a_silent_ssh_server_ends_at_the_deadline() {
    let Some(server) = SshServer::start() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ssh://git@{}/r.git", listener.local_addr().unwrap());
    let access = access(&url, &[("identity", &server.identity()), ("known_hosts", &server.known_hosts())]);
    let stop = Arc::new(Stop::after(Duration::from_millis(500)));
    let error = Client::new().remote.list(&access, &[], &stop).unwrap_err();
    assert_eq!(error.reason, Reason::Timeout, "{error}");
}

#[test]
fn file_repositories() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::create(&folder.path().join("r.git"));
    sample(&repository);
    let client = Client::new();
    let here = access(&format!("file://{}", repository.path().display()), &[]);
    assert_eq!(paths(&client.fetch_branch(&here, "main").unwrap()), ["a.yaml", "dir/b.yaml"]);
    let gone = access(&format!("file://{}/none", folder.path().display()), &[]);
    assert_eq!(client.resolve(&gone, &Reference::Head).unwrap_err().reason, Reason::RepositoryNotFound);
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let server = GitServer::http();
    let commit = sample(&server.repository("r.git"));
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    client.fetch(&access, &commit).unwrap();
    let packs = client.cache().join("cache.git/objects/pack");
    for file in
        std::fs::read_dir(packs).unwrap().flatten().filter(|f| f.path().extension().is_some_and(|e| e == "pack"))
    {
        std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(file.path(), b"rubbish").unwrap();
    }
    assert_eq!(text(&client.fetch(&access, &commit).unwrap(), "a.yaml"), "a: 1\n");
}

#[test]
fn many_pushes_do_not_fill_the_disk() {
    let server = GitServer::http();
    let repository = server.repository("r.git");
    let (client, access) = (Client::new(), access(&server.url("r.git"), &[]));
    for n in 0..40 {
        repository.commit("main", &[("a", &format!("{n}"))]);
        assert_eq!(text(&client.fetch_branch(&access, "main").unwrap(), "a"), n.to_string());
    }
    let packs = std::fs::read_dir(client.cache().join("cache.git/objects/pack")).unwrap().count();
    assert!(packs < 60, "{packs} files");
}

#[test]
fn what_a_dead_process_left_is_removed_and_a_live_one_is_left_alone() {
    let alive = Client::new();
    let root = alive.folder.path().join("git");
    let dead = root.join("run-dead");
    std::fs::create_dir_all(dead.join("cache.git")).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    let _second = GixRemote::new(&root, Limits::default(), here()).unwrap();
    assert!(!dead.exists());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2);
}

/// Where a proxy sends everything to, and what it was asked: its requests' first lines and logins.
pub(crate) fn proxy(to: String) -> (String, Arc<parking_lot::Mutex<Vec<String>>>) {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        thread,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(parking_lot::Mutex::new(vec![]));
    let log = asked.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (to, log) = (to.clone(), log.clone());
            thread::spawn(move || {
                let (mut client, mut head) = (client, vec![]);
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&head).into_owned();
                let named = |line: &&str| line.to_ascii_lowercase().starts_with("proxy-authorization");
                let login = text.lines().find(named).unwrap_or_default();
                log.lock().push(format!("{} {login}", text.lines().next().unwrap_or_default()));
                let mut server = TcpStream::connect(to).unwrap();
                if text.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                } else {
                    server.write_all(&head).unwrap();
                }
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
                let _ = std::io::copy(&mut server, &mut client);
            });
        }
    });
    (address, asked)
}

/// A name that only the proxy knows: by http, and by https through a tunnel with the server's own authority.
#[test]
fn a_proxy_of_the_repository_takes_everything() {
    use pilothouse::git::credential::Proxy;
    for server in [GitServer::http(), GitServer::https()] {
        let repository = server.repository("r.git");
        let commit = sample(&repository);
        let (scheme, rest) = server.url("r.git").split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let (address, asked) = proxy(host.to_owned());
        let known = if scheme == "https" { host.to_owned() } else { "git.invalid".to_owned() };
        let url = format!("{scheme}://{known}/{path}");
        let secret: Vec<(&str, &[u8])> = match scheme.as_str() {
            "https" => vec![("ca.crt", server.ca().as_bytes())],
            _ => vec![],
        };
        let mut access = access(&url, &secret);
        let keys = [("address", address.as_str()), ("username", "me"), ("password", "s3cret")];
        let data = keys.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into();
        let through = (*access.credential).clone().through(Proxy::from_secret(&data).unwrap(), &access.url).unwrap();
        access.credential = Arc::new(through);
        let client = Client::new();
        assert_eq!(client.fetch_branch(&access, "main").unwrap().tree.len(), 2, "{url}");
        let asked = asked.lock();
        let login = basic("me", "s3cret");
        assert!(
            !asked.is_empty() && asked.iter().all(|line| line.contains(&known) && line.contains(&login)),
            "{asked:?}"
        );
        assert!(
            commit.len() == 40 && !server.log().iter().any(|l| l.authorization.is_some()),
            "the server gets no login"
        );
        let refused = Client::under(Policy::default()).fetch(&access, &commit).unwrap_err();
        assert!(refused.reason == Reason::AddressRefused && refused.message.contains("proxySecretRef"), "{refused}");
    }
}
