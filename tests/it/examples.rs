//! The example repository renders, and what comes out is accepted by a real API server.

use std::process::Command;

use crate::common::{cluster::control_plane, controller::install_crds};

pub(crate) fn rendered(overlay: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples-repo/overlays/").to_owned() + overlay;
    let values = format!("{root}/values.yaml");
    let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["render", &root, "--values", &values, "--log", "error"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{overlay}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn both_overlays_are_accepted() {
    let cluster = control_plane();
    install_crds(cluster);
    for overlay in ["dev", "prod"] {
        let text = rendered(overlay);
        for agent in ["coding-assistant", "reviewer", "on-call"] {
            assert!(text.contains(&format!("name: {agent}")), "{overlay}: {text}");
        }
        assert!(text.contains("kind: CronTask"), "{overlay}: {text}");
        let namespace = cluster.namespace("examples").await;
        let file = cluster.ready.state.join(format!("{namespace}.yaml"));
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let out = cluster.kubectl(["apply", "--server-side", "--dry-run=server", "-n", &namespace, "-f", file]);
        assert!(out.status.success(), "{overlay}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// What stands in the documentation as a whole manifest is one.
#[tokio::test]
async fn the_manifests_of_getting_started_are_accepted() {
    let cluster = control_plane();
    install_crds(cluster);
    let text = include_str!("../../docs/getting-started.md");
    let blocks = text.split("```").skip(1).step_by(2);
    let manifests: Vec<&str> = blocks
        .filter_map(|block| {
            let start = block.find("apiVersion:")?;
            Some(block[start..].split("\nYAML").next().unwrap_or_default())
        })
        .collect();
    assert_eq!(manifests.len(), 3, "an Agent, a Repository with a Sync, a Task");
    let namespace = cluster.namespace("started").await;
    for (n, manifest) in manifests.iter().enumerate() {
        let file = cluster.ready.state.join(format!("{namespace}-{n}.yaml"));
        std::fs::write(&file, manifest.replace("namespace: agents", &format!("namespace: {namespace}"))).unwrap();
        let file = file.to_str().unwrap();
        let out = cluster.kubectl(["apply", "--server-side", "--dry-run=server", "-n", &namespace, "-f", file]);
        assert!(out.status.success(), "{manifest}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[tokio::test]
async fn the_bootstrap_manifests_are_accepted() {
    let cluster = control_plane();
    install_crds(cluster);
    let namespace = cluster.namespace("bootstrap").await;
    for environment in ["dev", "prod"] {
        let file = format!("{}/examples-repo/bootstrap/{environment}.yaml", env!("CARGO_MANIFEST_DIR"));
        let out = cluster.kubectl(["apply", "--server-side", "--dry-run=server", "-n", &namespace, "-f", &file]);
        assert!(out.status.success(), "{environment}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Every folder of `skills/` is one that the server loads, and what the agents take from Git is there.
#[test]
fn the_skills_and_folders_that_agents_take_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-repo");
    let folders: Vec<String> = std::fs::read_dir(root.join("skills"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let files: Vec<(String, String)> = folders
        .iter()
        .map(|folder| format!("{folder}/SKILL.md"))
        .map(|path| (path.clone(), std::fs::read_to_string(root.join("skills").join(&path)).unwrap()))
        .collect();
    let tree = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let chosen = pilothouse::agent::skills::skills(&tree, None);
    assert_eq!((chosen.good.len(), chosen.bad), (folders.len(), vec![]), "{folders:?}");

    for overlay in ["dev", "prod"] {
        let text = rendered(overlay);
        let paths: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("path: ")).collect();
        assert_eq!(paths.iter().filter(|path| **path == "handbook").count(), 4, "{text}");
        assert!(paths.contains(&"skills"), "{text}");
        for path in paths {
            assert!(root.join(path).is_dir(), "{path} is not in the repository");
        }
    }
}

/// What the examples show is there: a template whose values are an environment's, instructions that agents share.
#[test]
fn the_examples_show_templates_values_and_shared_instructions() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-repo");
    let both = ["dev", "prod"].map(rendered);
    let documents = |text: &str, kind: &str| {
        let line = format!("kind: {kind}");
        text.split("---\n").filter(|d| d.lines().any(|l| l == line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let [dev, prod] = both.each_ref().map(|text| documents(text, "AgentTemplate"));
    assert_eq!((dev.len(), prod.len()), (1, 1));
    assert_ne!(dev, prod, "values make no difference");
    let source = std::fs::read_to_string(root.join("base/templates/assistant.yaml.j2")).unwrap();
    assert!(source.contains("{{ values."), "{source}");
    for text in &both {
        let agents = documents(text, "Agent");
        assert_eq!(agents.len(), 3);
        for agent in agents {
            assert!(agent.contains("templateRef:"), "{agent}");
        }
    }
    for entry in std::fs::read_dir(root.join("base/instructions")).unwrap() {
        let path = entry.unwrap().path();
        let instruction = std::fs::read_to_string(&path).unwrap();
        let line = instruction.lines().rfind(|l| !l.trim().is_empty()).expect("an instruction");
        assert!(both.iter().all(|text| text.contains(line)), "no agent gets {}", path.display());
    }
}
