use proptest::prelude::*;

use super::*;

fn skill(name: &str) -> String {
    format!("---\nname: {name}\ndescription: Does {name}.\n---\n# {name}\n")
}

fn tree(files: &[(&str, &str)]) -> FileTree {
    files.iter().copied().collect()
}

fn paths(chosen: &Chosen) -> Vec<&str> {
    chosen.tree.iter().map(|(path, _)| path.as_str()).collect()
}

fn bad(chosen: &Chosen) -> Vec<(&str, &str)> {
    chosen.bad.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect()
}

#[test]
fn bad_skills_stay_behind_and_good_ones_load() {
    let (review, deploy, nested, twin) = (skill("review"), skill("deploy"), skill("nested"), skill("review"));
    let found = skills(
        &tree(&[
            ("README.md", "about"),
            ("lib/common.sh", "used by skills"),
            ("review/SKILL.md", &review),
            ("review/scripts/run.sh", "x"),
            ("team/deploy/SKILL.md", &deploy),
            ("broken/SKILL.md", "no head"),
            ("broken/notes.md", "goes too"),
            ("broken/nested/SKILL.md", &nested),
            ("broken/nested/x", "stays"),
            ("lower/skill.md", &skill("lower")),
            ("other/review/SKILL.md", &twin),
            ("wrong/SKILL.md", &skill("else")),
        ]),
        None,
    );
    assert_eq!(found.good, ["deploy", "nested", "review"]);
    let names: Vec<_> = bad(&found).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["broken", "lower", "review", "wrong"]);
    assert_eq!(
        paths(&found),
        [
            "README.md",
            "broken/nested/SKILL.md",
            "broken/nested/x",
            "lib/common.sh",
            "other/review/SKILL.md",
            "team/deploy/SKILL.md"
        ],
        "of two with one name the first in order stays"
    );
}

#[test]
fn names_take_their_folders_alone() {
    let (a, b) = (skill("a"), skill("b"));
    let files = tree(&[
        ("a/SKILL.md", &a),
        ("a/x", ""),
        ("b/SKILL.md", &b),
        ("README.md", ""),
        ("c/x", ""),
        ("d/a/SKILL.md", &a),
    ]);
    let names = ["a", "c", "gone"].map(String::from);
    let found = skills(&files, Some(&names));
    assert_eq!((found.good.as_slice(), paths(&found)), (&["a".to_string()][..], vec!["a/SKILL.md", "a/x"]));
    assert_eq!(
        bad(&found),
        [
            ("c", "there is no c/SKILL.md at this commit; add it, or take the name out of names"),
            ("gone", "there is no gone/SKILL.md at this commit; add it, or take the name out of names"),
        ]
    );
    let none = skills(&files, Some(&[]));
    assert!(none.tree.is_empty() && none.good.is_empty());
}

#[test]
fn every_rule_is_named() {
    let long = "a".repeat(65);
    let text = |name: &str, description: &str| format!("---\nname: {name}\ndescription: {description}\n---\n");
    let table = [
        ("a", text("\"\"", "x"), "must be 1 to 64 lower-case letters"),
        ("A", text("A", "x"), "must be 1 to 64 lower-case letters"),
        ("a--b", text("a--b", "x"), "must be 1 to 64 lower-case letters"),
        ("-a", text("\"-a\"", "x"), "must be 1 to 64 lower-case letters"),
        ("a_b", text("a_b", "x"), "must be 1 to 64 lower-case letters"),
        (&long, text(&long, "x"), "must be 1 to 64 lower-case letters"),
        ("a", text("b", "x"), "must be that of its folder, \"a\""),
        ("a", text("a", "\"\""), "description in SKILL.md is empty"),
        ("a", text("a", "null"), "no description"),
        ("a", "---\ndescription: x\n---\n".into(), "no name"),
        ("a", text("a", &"x".repeat(1025)), "1025 characters"),
        ("a", text("a", &"ä".repeat(1024)), ""),
        ("a-1", text("a-1", "x"), ""),
    ];
    for (folder, text, expected) in table {
        let path = format!("{folder}/SKILL.md");
        let found = skills(&tree(&[(&path, &text)]), None);
        assert_eq!(found.bad.is_empty(), expected.is_empty(), "{folder}: {:?}", found.bad);
        assert!(found.bad.iter().all(|(_, why)| why.contains(expected)), "{:?} should say {expected}", found.bad);
    }
    let root = skills(&tree(&[("SKILL.md", &skill("a")), ("x", "")]), None);
    assert_eq!((paths(&root), bad(&root)[0].0), (vec!["x"], "."));
    let mut bytes = FileTree::default();
    bytes.insert(RepoPath::parse("a/SKILL.md").unwrap(), Entry { bytes: [0xff][..].into(), executable: false });
    assert!(skills(&bytes, None).bad[0].1.contains("UTF-8"));
}

#[test]
fn what_is_said_stays_bounded() {
    let files: Vec<(String, String)> = (0..600)
        .map(|n| (format!("s{n:03}/SKILL.md"), if n % 2 == 0 { String::new() } else { skill(&format!("s{n:03}")) }))
        .collect();
    let files: FileTree = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let found = skills(&files, None);
    assert_eq!((found.good.len(), found.bad.len()), (300, MAX_BAD + 1));
    assert_eq!(found.bad.last().unwrap().1, "and 250 more");
}

proptest! {
    /// What was chosen is chosen again, whole; nothing in it is bad.
    #[test]
    fn the_choice_of_a_choice_is_itself(files in prop::collection::btree_map(
        prop::sample::select(vec!["a/SKILL.md", "a/x", "a/b/SKILL.md", "a/b/y", "b/SKILL.md", "b/skill.md", "SKILL.md", "z"]),
        prop::sample::select(vec!["", "---\nname: a\ndescription: x\n---\n", "---\nname: b\ndescription: x\n---\n"]),
        0..8,
    )) {
        let first = skills(&files.into_iter().collect(), None);
        let second = skills(&first.tree, None);
        prop_assert_eq!((&second.tree, &second.good), (&first.tree, &first.good));
        prop_assert!(second.bad.is_empty(), "{:?}", second.bad);
    }
}
