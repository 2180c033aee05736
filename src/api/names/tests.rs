use std::collections::BTreeSet;

use super::*;

#[test]
fn generated_names_are_those_of_the_older_api() {
    let hash = "0123456789abcdef";
    let table = [
        (agent::deployment("a"), "a-server"),
        (agent::service("a"), "a"),
        (agent::context("a"), "a-server-context"),
        (agent::files("a", hash), "a-server-files-0123456789"),
        (agent::auth("a"), "a-server-auth"),
        (agent::sessions("a"), "a-server-sessions"),
        (agent::workspace("a"), "a-server-workspace"),
        (crontask::task("nightly", 1_770_000_000), "nightly-1770000000"),
        (task::pod("t"), "t-pod"),
        (task::session_title("ns", "t", "0123456789"), "pilothouse/ns/t/01234567"),
    ];
    for (name, expected) in table {
        assert_eq!(name, expected);
    }
}

#[test]
fn no_task_takes_the_name_of_what_an_agent_has() {
    assert_eq!(task::context("coder-server"), "coder-server-task-context");
    for of_agent in [agent::context("a"), agent::content("a"), agent::files("a", "0123456789"), agent::history("a")] {
        assert!(
            !of_agent.ends_with(&task::context("")),
            "{of_agent}: a Task of a like name would have the same ConfigMap"
        );
        assert!(!of_agent.contains(&task::files_prefix("")), "{of_agent}: the same of what a pod of its own reads");
    }
}

/// A Task may have a name as long as any object; what is made for it has to have one too.
#[test]
fn what_a_task_with_a_long_name_gets_has_a_name() {
    for length in [1, 200, 231, 232, 240, 241, 249, 250, 253] {
        let (one, other) = (format!("{}a", "x".repeat(length - 1)), format!("{}b", "x".repeat(length - 1)));
        let names = |task: &str| [task::pod(task), task::context(task), task::files(task, "0123456789abcdef")];
        for ((name, end), other) in
            names(&one).iter().zip(["-pod", "-task-context", "-task-files-0123456789"]).zip(names(&other))
        {
            assert!(name.len() <= 253 && name.ends_with(end) && *name != other, "{length}: {name}");
            assert_eq!(length + end.len() <= 253, *name == format!("{one}{end}"), "{length}: whole where it fits");
        }
        assert!(task::files(&one, "0123456789abcdef").starts_with(&task::files_prefix(&one)));
    }
    let dotted = task::pod(&format!("{}{}", "y.".repeat(120), "y".repeat(13)));
    assert!(dotted.len() <= 253 && !dotted.contains(".-"), "{dotted}");
}

#[test]
fn label_values_are_short_distinct_and_valid() {
    assert_eq!(label_value("short"), "short");
    let (a, b) = (label_value(&"x".repeat(64)), label_value(&"x".repeat(65)));
    assert_ne!(a, b);
    let dotted = label_value(&format!("{}{}", "y".repeat(50), ".".repeat(50)));
    for value in [&a, &b, &dotted, &label_value(&"z".repeat(63))] {
        assert!(value.len() <= 63, "{value}");
        assert!(!value.contains(".-") && value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
    }
}

#[test]
fn reasons_are_distinct_camel_case_and_say_what_to_do() {
    let names: BTreeSet<_> = REASONS.iter().map(|r| r.name).collect();
    assert_eq!(names.len(), REASONS.len(), "a reason is there twice");
    for r in REASONS {
        assert!(r.name.starts_with(|c: char| c.is_ascii_uppercase()), "{}", r.name);
        assert!(r.name.chars().all(|c| c.is_ascii_alphanumeric()), "{}", r.name);
        assert!(r.meaning.ends_with('.') && r.remedy.ends_with('.'), "{}: whole sentences", r.name);
        assert!(!r.kinds.is_empty(), "{}", r.name);
    }
}

#[test]
fn reasons_are_found_by_name() {
    assert_eq!(reason("NotYetSupported").map(|r| r.name), Some("NotYetSupported"));
    assert!(reason("Nonsense").is_none());
}
