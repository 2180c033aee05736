use super::*;

fn url(text: &str) -> RemoteUrl {
    RemoteUrl::parse(text, false).unwrap()
}

#[test]
fn the_configuration_names_the_remote_and_nothing_secret() {
    let whole = |depth, branch: Option<&str>| Whole { depth, branch: branch.map(Into::into), push: None };
    let of = |whole: &Whole, kind| config(&url("https://example.com/team/a.git"), whole, kind);
    let sha1 = gix::hash::Kind::Sha1;
    assert_eq!(
        of(&whole(1, Some("main")), sha1),
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         [remote \"origin\"]\n\turl = \"https://example.com/team/a.git\"\n\
         \tfetch = \"+refs/heads/main:refs/remotes/origin/main\"\n\
         [branch \"main\"]\n\tremote = origin\n\tmerge = \"refs/heads/main\"\n"
    );
    for (depth, branch) in [(0, Some("main")), (1, None), (0, None)] {
        assert!(
            of(&whole(depth, branch), sha1).contains("\"+refs/heads/*:refs/remotes/origin/*\""),
            "{depth} {branch:?}"
        );
    }
    assert!(of(&whole(1, Some("a\"b")), sha1).contains("[branch \"a\\\"b\"]"));
    assert!(of(&whole(1, None), gix::hash::Kind::Sha256).contains("objectFormat = sha256"));
}

#[test]
fn sizes_in_a_pack_are_written_as_git_does() {
    for (size, want) in [(0, vec![0x30]), (15, vec![0x3f]), (16, vec![0xb0, 0x01]), (300, vec![0xbc, 0x12])] {
        let mut bytes = vec![];
        pack::header(&mut bytes, 3, size);
        assert_eq!(bytes, want, "{size}");
    }
}

#[test]
fn a_credential_is_named_by_its_folder_for_its_host_alone() {
    let of = |text: &str| {
        let whole = Whole { push: Some("/p/x".into()), ..Whole::default() };
        config(&url(text), &whole, gix::hash::Kind::Sha1)
    };
    let http = of("https://example.com:8443/team/a.git");
    assert!(http.contains("[credential \"https://example.com:8443\"]\n\thelper =\n\thelper = \"!f() {"), "{http}");
    assert!(http.contains("$(cat /p/x/password)") && !http.contains("sshCommand"));
    let ssh = of("git@example.com:team/a.git");
    assert!(
        ssh.contains("-i /p/x/identity") && ssh.contains("StrictHostKeyChecking=yes") && !ssh.contains("credential")
    );
    assert!(!config(&url("https://h/a"), &Whole::default(), gix::hash::Kind::Sha1).contains("helper"));
}
