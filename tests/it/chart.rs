//! The chart: what helm renders, and that it asks for no more than it needs.

mod rights;
mod schemas;
mod words;

use std::{collections::BTreeSet, process::Command};

use clap::Parser as _;
use serde_json::{Value, json};

use crate::common::controller::{program, template};

/// The rendered objects.
fn objects(settings: &[&str]) -> Vec<Value> {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    let text = template("ph", "system", &settings).unwrap();
    pilothouse::object::yaml::parse_documents(&text).unwrap().into_iter().map(|d| d.value).collect()
}

fn refusal(setting: &str) -> String {
    template("ph", "system", &[setting.to_owned()]).unwrap_err()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|o| o["kind"] == kind).collect()
}

#[test]
fn helm_finds_no_fault() {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
    let out = Command::new(program("helm")).args(["lint", "--strict", chart]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn a_typo_in_values_is_refused_by_name() {
    for typo in ["controler.replicas=1", "controller.replica=1", "rbac.clusterwide=true", "config.agentimage=x"] {
        let message = refusal(typo);
        let key = typo.split('=').next().unwrap().rsplit('.').next().unwrap();
        let key = if typo.starts_with("controler") { "controler" } else { key };
        assert!(message.contains(key), "{typo}: {message}");
    }
    assert!(refusal("agentNamespaces={a},rbac.allowReleaseNamespaces=true").contains("allowReleaseNamespaces"));
    assert!(refusal("rbac.clusterWide=true,agentNamespaces={a}").contains("exclude each other"));
    assert!(
        refusal("agentNamespaces={a},artifacts.persistence.enabled=true,controller.replicas=2").contains("replicas=1")
    );
}

#[test]
fn alerts_are_there_when_asked_for_and_name_metrics_that_exist() {
    assert!(of_kind(&objects(&["agentNamespaces={a}"]), "PrometheusRule").is_empty());
    assert!(refusal("agentNamespaces={a},metrics.prometheusRule.enable=true").contains("enable"));
    let all =
        objects(&["agentNamespaces={a},metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.team=ops"]);
    let rule = of_kind(&all, "PrometheusRule")[0];
    assert_eq!(rule["metadata"]["labels"]["team"], "ops");
    let rules = rule.pointer("/spec/groups/0/rules").unwrap().as_array().unwrap();
    let names: Vec<_> = rules.iter().map(|r| r["alert"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["PilothouseRolloutStuck", "PilothouseRolloutForced", "PilothouseAgentStalled", "PilothouseHistoryUnavailable"]
    );
    let page = include_str!("../../docs/metrics.md");
    for rule in rules {
        assert!(page.contains(rule["alert"].as_str().unwrap()), "{rule}");
        for word in rule["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let metric = word.strip_suffix("_total").unwrap_or(word);
            assert!(!word.starts_with("pilothouse_") || page.contains(&format!("| `{metric}` |")), "{word}");
        }
    }
}

/// In: where agents live, and other replicas. Out: DNS, the API server, other replicas, Git.
#[test]
fn the_network_lets_the_controller_do_its_work_and_no_more() {
    assert!(of_kind(&objects(&["agentNamespaces={a}"]), "NetworkPolicy").is_empty());
    let policy = |settings: &str| {
        let all = objects(&[settings, "controller.networkPolicy.enabled=true"]);
        let labels = of_kind(&all, "Deployment")[0].pointer("/spec/template/metadata/labels").unwrap().clone();
        let policy = of_kind(&all, "NetworkPolicy")[0]["spec"].clone();
        for (key, value) in policy["podSelector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(&labels[key], value, "it is about other pods");
        }
        policy
    };
    let some = policy("agentNamespaces={a,b}");
    let own = json!({"podSelector": some["podSelector"]});
    let names = json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}]);
    let voice = json!([{"port": "voice", "protocol": "TCP"}]);
    let from = json!([{"namespaceSelector": {"matchExpressions": names}}, own]);
    assert_eq!(some["ingress"], json!([{"ports": voice, "from": from}]));
    let out = some["egress"].as_array().unwrap();
    assert_eq!((out.len(), &out[2]), (4, &json!({"ports": voice, "to": [own]})));
    let private = out[3]["to"].to_string();
    for network in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"] {
        assert!(private.contains(network), "Git in {network}: {private}");
    }
    assert_eq!(policy("rbac.clusterWide=true")["ingress"][0]["from"][0], json!({"namespaceSelector": {}}));
    let own_forge = "agentNamespaces={a},controller.networkPolicy.gitTo[0].podSelector.matchLabels.app=forge,\
                 controller.networkPolicy.gitPorts={3000},controller.networkPolicy.apiServerCIDRs={10.0.0.1/32},\
                 controller.networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=ops";
    let special = policy(own_forge);
    let git = json!({"ports": [{"port": 3000, "protocol": "TCP"}], "to": [{"podSelector": {"matchLabels": {"app": "forge"}}}]});
    assert_eq!(
        (&special["egress"][3], &special["egress"][1]["to"]),
        (&git, &json!([{"ipBlock": {"cidr": "10.0.0.1/32"}}]))
    );
    assert_eq!(special["ingress"][1]["ports"], json!([{"port": "http", "protocol": "TCP"}]));
    assert!(refusal("agentNamespaces={a},controller.networkPolicy.gitPorts={ssh}").contains("gitPorts"));
}

/// A database's URL is in a Secret alone; several replicas share no file.
#[test]
fn the_history_is_where_it_can_be() {
    let url = |settings: &[&str]| {
        let all = objects(settings);
        let container = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec/containers/0").unwrap().clone();
        let env = container["env"].as_array().unwrap().clone();
        let role = of_kind(&all, "Role").iter().any(|r| r["metadata"]["name"] == "ph-pilothouse-history");
        (env.into_iter().find(|e| e["name"] == "PILOTHOUSE_HISTORY_DATABASE_URL"), role)
    };
    let none = json!({"name": "PILOTHOUSE_HISTORY_DATABASE_URL", "value": "none"});
    assert_eq!(url(&["agentNamespaces={a}"]), (None, true));
    assert_eq!(url(&["agentNamespaces={a},history.enabled=false"]), (Some(none.clone()), false));
    assert_eq!(url(&["agentNamespaces={a},controller.replicas=2"]), (Some(none), false));
    let secret =
        json!({"name": "PILOTHOUSE_HISTORY_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}});
    let database = "agentNamespaces={a},controller.replicas=2,history.database.existingSecret.name=db";
    assert_eq!(url(&[database]), (Some(secret), true));
    assert!(refusal("agentNamespaces={a},controller.replicas=2,history.enabled=true").contains("history.database"));
    assert!(refusal("agentNamespaces={a},history.enabled=maybe").contains("enabled"));
    let readers = "history.readers[0].kind=Group,history.readers[0].name=team,history.readers[0].apiGroup=rbac.authorization.k8s.io";
    let all = objects(&[&format!("{database},{readers},controller.networkPolicy.enabled=true")]);
    let bound =
        of_kind(&all, "RoleBinding").into_iter().find(|b| b["roleRef"]["name"] == "ph-pilothouse-history").unwrap();
    assert_eq!(bound["subjects"][0]["name"], "team");
    let network = of_kind(&all, "NetworkPolicy")[0]["spec"]["egress"].to_string();
    assert!(network.contains("5432"), "{network}");
}

#[test]
fn rights_stay_in_the_listed_namespaces() {
    let all = objects(&["agentNamespaces={team-a,team-b}"]);
    let roles: BTreeSet<_> =
        of_kind(&all, "Role").iter().map(|r| r["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(roles, ["default", "system", "team-a", "team-b"].into());
    let bound: Vec<_> = of_kind(&all, "ClusterRoleBinding").iter().map(|b| b["roleRef"]["name"].clone()).collect();
    assert_eq!(bound, ["ph-pilothouse:system"]);
    let cluster = of_kind(&all, "ClusterRole").into_iter().find(|r| r["metadata"]["name"] == bound[0]).unwrap();
    let allowed: BTreeSet<String> = cluster["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|r| {
            let list = |key: &str| {
                r[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            let verbs = list("verbs").join(",");
            list("resources").into_iter().map(move |resource| format!("{resource} {verbs}")).collect::<Vec<_>>()
        })
        .collect();
    let least = [
        "pilothouseconfigs get,list,watch",
        "pilothouseconfigs/status patch",
        "subjectaccessreviews create",
        "tokenreviews create",
    ];
    assert_eq!(allowed, least.map(String::from).into());
}

#[test]
fn no_rule_has_a_wildcard() {
    for settings in [&["agentNamespaces={a}"][..], &["rbac.clusterWide=true"]] {
        for role in objects(settings).iter().filter(|o| matches!(o["kind"].as_str(), Some("Role" | "ClusterRole"))) {
            for rule in role["rules"].as_array().unwrap() {
                let text = rule.to_string();
                assert!(!text.contains('*'), "{}: {text}", role["metadata"]["name"]);
            }
        }
    }
}

#[test]
fn agents_beside_the_controller_must_be_asked_for() {
    for (settings, said) in
        [("controller.replicas=1", "set agentNamespaces"), ("agentNamespaces={a,system}", "contains system")]
    {
        let message = refusal(settings);
        assert!(message.contains(said) && message.contains("rbac.allowReleaseNamespace=true"), "{settings}: {message}");
    }
    let all = objects(&["rbac.allowReleaseNamespace=true"]);
    let args = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec/containers/0/args").unwrap().to_string();
    assert!(args.contains("--watch-namespaces=system"), "{args}");
    let all = objects(&["rbac.clusterWide=true"]);
    let args = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec/containers/0/args").unwrap().to_string();
    assert!(!args.contains("--watch-namespaces"), "{args}");
}

#[test]
fn the_controller_runs_restricted_and_knows_its_account() {
    let all = objects(&["agentNamespaces={a}"]);
    let pod = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let account = env.iter().find(|e| e["name"] == "PILOTHOUSE_SERVICE_ACCOUNT").unwrap();
    assert_eq!(account["valueFrom"]["fieldRef"]["fieldPath"], "spec.serviceAccountName");
    for (name, field) in [("POD_IPS", "status.podIPs"), ("HOST_IP", "status.hostIP")] {
        let found = env.iter().find(|e| e["name"] == name).unwrap();
        assert_eq!(found["valueFrom"]["fieldRef"]["fieldPath"], field, "no Repository may lead there");
    }
}

#[test]
fn flags_of_the_chart_are_flags_of_the_program() {
    let git = "controller.allowFileRepositories=true,controller.git.allowAddresses={127.0.0.1,fd00::/8}";
    let args: Vec<String> = objects(&["agentNamespaces={a}", git, "artifacts.sizeLimit=3Gi"])
        .iter()
        .filter(|o| o["kind"] == "Deployment")
        .flat_map(|o| o.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap().clone())
        .map(|a| a.as_str().unwrap().replace("$(POD_IP)", "10.0.0.1"))
        .collect();
    let parsed = pilothouse::cli::Cli::try_parse_from(std::iter::once("pilothouse".to_owned()).chain(args));
    match parsed.map(|cli| cli.command) {
        Ok(pilothouse::cli::Command::Controller(settings)) => {
            let networks: Vec<String> = settings.allow_git_address.iter().map(ToString::to_string).collect();
            assert_eq!(networks, ["127.0.0.1/32", "fd00::/8"]);
            assert_eq!(settings.data_size.0, 3 << 30, "of the volume that the chart makes");
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{error}"),
    }
}
