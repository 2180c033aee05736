//! What `make lint` makes of the answers of cargo-deny, which the tests have no database for: a script plays it.

use std::process::Command;

/// Exit status and what is said of a run with a cargo-deny whose `fetch` and `check` end so.
fn advisories(fetch: u8, check: u8) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (deny, asked) = (folder.path().join("cargo-deny"), folder.path().join("asked"));
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> {}\ncase \"$*\" in *fetch*) echo fetching; exit {fetch};; *check*) exit {check};; *) exit 99;; esac\n",
        asked.display()
    );
    std::fs::write(&deny, text).unwrap();
    // By `sh`: a program that was just written may be open in a process that a test beside this one just started.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/advisories");
    let out = Command::new(script).arg("sh").arg(&deny).output().unwrap();
    let asked = std::fs::read_to_string(asked).unwrap();
    (out.status.code(), asked + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn what_was_found_fails_and_what_could_not_be_fetched_is_said() {
    for (fetch, check, status, checked) in [(0, 0, 0, true), (0, 1, 1, true), (1, 0, 0, false), (1, 1, 0, false)] {
        let (found, said) = advisories(fetch, check);
        assert_eq!(found, Some(status), "fetch ends with {fetch}, check with {check}: {said}");
        assert_eq!(said.contains("--offline check advisories"), checked, "{said}");
        assert_eq!(said.contains("NOTICE: advisories were not checked"), !checked, "{said}");
        assert_eq!(said.contains("fetching"), !checked, "why it could not: {said}");
    }
}
