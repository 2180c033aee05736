//! The chart's part of the receiver.

use clap::Parser as _;
use serde_json::{Value, json};

use crate::common::controller::template;

fn objects(settings: &[&str]) -> Vec<Value> {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    let text = template("ph", "system", &settings).unwrap();
    let all = pilothouse::object::yaml::parse_documents(&text).unwrap();
    all.into_iter().map(|d| d.value).filter(of_receiver).collect()
}

fn of_receiver(object: &Value) -> bool {
    object["metadata"]["name"].as_str().is_some_and(|name| name.contains("receiver"))
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = objects.iter().filter_map(|o| o["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|o| o["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

const ON: &str = "agentNamespaces={a,b},receiver.enabled=true";

#[test]
fn it_is_there_only_when_asked_for() {
    assert!(objects(&["agentNamespaces={a}"]).is_empty());
    assert_eq!(
        kinds(&objects(&[ON])),
        [
            "Deployment",
            "PodDisruptionBudget",
            "Role",
            "Role",
            "RoleBinding",
            "RoleBinding",
            "Service",
            "ServiceAccount",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ]
    );
}

#[test]
fn its_rights_are_two_rules_where_repositories_are() {
    let least = json!([
        {"apiGroups": ["pilothouse.dev"], "resources": ["repositories"], "verbs": ["list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ]);
    for (settings, kind, count) in [(ON, "Role", 2), ("rbac.clusterWide=true,receiver.enabled=true", "ClusterRole", 1)]
    {
        let all = objects(&[settings]);
        let roles: Vec<_> = all.iter().filter(|o| o["kind"] == kind).collect();
        assert_eq!(roles.len(), count, "{settings}");
        assert!(roles.iter().all(|role| role["rules"] == least), "{roles:?}");
    }
    let all = objects(&[ON, "receiver.secretNames={hook,other.hook}"]);
    assert_eq!(find(&all, "Role")["rules"][1]["resourceNames"], json!(["hook", "other.hook"]));
    let account = find(&all, "Deployment").pointer("/spec/template/spec/serviceAccountName").unwrap();
    assert_eq!(account, "ph-pilothouse-receiver");
    assert_eq!(find(&all, "RoleBinding")["subjects"][0]["name"], *account);
    let whom = find(&all, "ValidatingAdmissionPolicy")["spec"]["matchConditions"][0]["expression"].to_string();
    assert!(whom.contains("system:serviceaccount:system:ph-pilothouse-receiver"), "{whom}");
}

#[test]
fn it_runs_restricted_and_its_flags_are_the_program_s() {
    let all = objects(&[ON, "receiver.trustedProxies={10.0.0.0/8,fd00::/8}", "receiver.peerRate=7"]);
    let pod = find(&all, "Deployment").pointer("/spec/template/spec").unwrap();
    let container = &pod["containers"][0];
    assert_eq!((&pod["securityContext"]["runAsNonRoot"], pod["volumes"].is_null()), (&json!(true), true));
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        })
    );
    let args = container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap());
    let parsed = pilothouse::cli::Cli::try_parse_from(std::iter::once("pilothouse").chain(args));
    let Ok(pilothouse::cli::Cli { command: pilothouse::cli::Command::Receiver(settings), .. }) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!((settings.peer_rate, settings.trusted_proxies.len(), settings.watch_namespaces.len()), (7, 2, 2));
    // Selectors of the two Deployments are apart.
    let selector = &find(&all, "Service")["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/component"], "receiver");
}

#[test]
fn what_the_world_reaches_is_the_port_of_deliveries() {
    let all = objects(&[
        ON,
        "receiver.ingress.enabled=true,receiver.ingress.host=hooks.example.com,receiver.ingress.tlsSecretName=tls",
        "receiver.httpRoute.enabled=true,receiver.httpRoute.parentRefs[0].name=public",
        "receiver.networkPolicy.enabled=true,receiver.networkPolicy.apiServerCIDRs={10.0.0.1/32}",
    ]);
    let path = find(&all, "Ingress").pointer("/spec/rules/0/http/paths/0").unwrap();
    assert_eq!((&path["path"], &path["backend"]["service"]["port"]["name"]), (&json!("/hooks"), &json!("hooks")));
    let rule = find(&all, "HTTPRoute").pointer("/spec/rules/0").unwrap();
    assert_eq!((&rule["matches"][0]["method"], &rule["backendRefs"][0]["port"]), (&json!("POST"), &json!(80)));
    let policy = &find(&all, "NetworkPolicy")["spec"];
    assert_eq!(policy["ingress"], json!([{"ports": [{"port": "hooks", "protocol": "TCP"}]}]));
    assert_eq!(policy["egress"][1]["to"], json!([{"ipBlock": {"cidr": "10.0.0.1/32"}}]));
}

#[test]
fn a_mistake_in_its_values_is_refused_by_name() {
    for (setting, words) in [
        ("receiver.enable=true", "enable"),
        ("receiver.ingress.hosts={a}", "hosts"),
        ("receiver.networkPolicy.cidrs={a}", "cidrs"),
        ("receiver.trustedProxies={proxy}", "trustedProxies"),
        ("receiver.peerRate=0", "peerRate"),
        ("receiver.enabled=true,receiver.ingress.enabled=true", "receiver.ingress.host is needed"),
        ("receiver.enabled=true,receiver.httpRoute.enabled=true", "receiver.httpRoute.parentRefs must name"),
        ("receiver.enabled=true,receiver.serviceAccount.create=false", "receiver.serviceAccount.name is needed"),
    ] {
        let refusal = template("ph", "system", &["agentNamespaces={a}".into(), setting.into()]).unwrap_err();
        assert!(refusal.contains(words), "{setting}: {refusal}");
    }
}
