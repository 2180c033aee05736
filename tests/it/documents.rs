//! What the documents point at is there: files, headings, tests, targets of `make`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, relative to the root, with their texts.
fn documents() -> Vec<(String, String)> {
    let walk = ignore::WalkBuilder::new(root()).hidden(true).build();
    let files = walk.filter_map(Result::ok).filter(|e| e.path().extension().is_some_and(|x| x == "md"));
    let named = files.map(|e| {
        let name = e.path().strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(e.path()).unwrap())
    });
    // What agents read, and data of tests, is somebody else's text.
    let foreign =
        ["tests/data/", "tests/golden/", "examples-repo/base/", "examples-repo/skills/", "examples-repo/handbook/"];
    named.filter(|(name, _)| !foreign.iter().any(|folder| name.starts_with(folder))).collect()
}

/// The text without what is shown as code.
fn prose(text: &str) -> String {
    let mut code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Targets of links: `[words](target)`.
fn targets(text: &str) -> Vec<String> {
    let pieces = text.split("](").skip(1);
    pieces.filter_map(|piece| Some(piece.split_once(')')?.0.to_owned())).collect()
}

/// Headings as a forge makes anchors of them, and anchors that are written out: `<a id="…">`.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
        kept.replace(' ', "-")
    };
    let written = text.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    headings.map(anchor).chain(written).collect()
}

/// What is wrong with a link of a document.
fn broken(document: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let beside = root().join(document).parent().unwrap().to_owned();
    let file = if path.is_empty() { root().join(document) } else { beside.join(path) };
    if !file.exists() {
        return Some(format!("{document}: {target} is not there"));
    }
    let found =
        anchor.is_none_or(|anchor| anchors(&prose(&fs::read_to_string(&file).unwrap_or_default())).contains(anchor));
    (!found).then(|| format!("{document}: {target} has no such heading"))
}

#[test]
fn every_link_leads_somewhere() {
    let all = documents();
    let links: Vec<(String, String)> = all
        .iter()
        .flat_map(|(name, text)| targets(&prose(text)).into_iter().map(|target| (name.clone(), target)))
        .collect();
    assert!(all.len() > 15 && links.len() > 50, "{} documents, {} links", all.len(), links.len());
    let wrong: Vec<_> = links.iter().filter_map(|(name, target)| broken(name, target)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        broken("README.md", "docs/nothing.md").is_some() && broken("README.md", "docs/install.md#nothing").is_some()
    );
}

#[test]
fn what_a_newcomer_looks_for_is_there() {
    for (file, words) in [
        ("LICENSE", "Apache License"),
        ("README.md", "make demo"),
        ("CONTRIBUTING.md", "make test"),
        ("SECURITY.md", "Report a vulnerability"),
        ("CHANGELOG.md", "## 0.1.0"),
        ("docs/install.md", "helm"),
        ("docs/concepts.md", "Repository"),
        ("docs/repositories.md", "spec"),
        ("docs/syncs.md", "spec"),
        ("docs/agents.md", "spec"),
        ("docs/tasks.md", "spec"),
        ("docs/troubleshooting.md", "| reason |"),
        ("docs/reference/api.md", "## Repository"),
        ("docs/DESIGN.md", "## Rooms"),
        ("docs/BENCHMARKS.md", "| number |"),
        ("examples-repo/README.md", "overlays"),
        (".ci/run", "make test"),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.to_lowercase().contains(&words.to_lowercase()), "{file} does not say {words:?}");
    }
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["demo", "test", "lint", "bench", "clean", "generate", "chaos"] {
        assert!(makefile.contains(&format!("\n{target}: ##")), "make {target}");
    }
}

/// Every file of the tests and of the program, as one text.
fn sources(folder: &Path) -> String {
    let walk = ignore::WalkBuilder::new(folder).build().filter_map(Result::ok);
    let files = walk.filter(|e| e.path().extension().is_some_and(|x| x == "rs"));
    files.map(|e| fs::read_to_string(e.path()).unwrap()).collect()
}

/// The table of what comparable tools got wrong: each test that it names exists, or is a folder or file of tests.
#[test]
fn tests_that_the_design_names_exist() {
    let design = fs::read_to_string(root().join("docs/DESIGN.md")).unwrap();
    let table = design.split_once("| fault | test |").expect("the table of faults").1;
    let rows: Vec<_> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    let named: Vec<&str> =
        rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|n| n.contains("::")).collect();
    assert!(rows.len() > 5 && named.len() > rows.len(), "{rows:#?}");
    let all = sources(&root().join("tests/it")) + &sources(&root().join("src"));
    let missing: Vec<_> = named
        .iter()
        .filter(|path| {
            let last = path.rsplit("::").next().unwrap_or_default();
            !all.contains(&format!("fn {last}(")) && !all.contains(&format!("mod {last};"))
        })
        .collect();
    assert!(missing.is_empty(), "docs/DESIGN.md names tests that are not there: {missing:?}");
}
