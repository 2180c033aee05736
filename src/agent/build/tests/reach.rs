use super::*;

#[test]
fn proxies_and_authorities_reach_every_container() {
    let mut world = minimal();
    world.config["proxy"] = json!({"httpProxy": "http://shared:1", "noProxy": "intern.example.com"});
    world.config["clusterDomain"] = json!("example.local");
    let containers = |pod: &Value| -> Vec<Value> {
        let of = |list: &str| pod["spec"][list].as_array().unwrap().clone();
        [of("initContainers"), of("containers")].concat()
    };
    let value = |container: &Value, name: &str| {
        let all = container["env"].as_array().unwrap().iter();
        all.filter(|v| v["name"] == name).map(|v| v["value"].as_str().unwrap().to_owned()).next_back()
    };
    let direct = "intern.example.com,.svc,.example.local,localhost,127.0.0.1,::1";
    for container in containers(&world.pod()) {
        for (name, want) in [("HTTP_PROXY", Some("http://shared:1")), ("HTTPS_PROXY", None), ("NO_PROXY", Some(direct))]
        {
            assert_eq!(value(&container, name).as_deref(), want, "{name}");
            assert_eq!(value(&container, &name.to_lowercase()).as_deref(), want, "{name}");
        }
    }
    let before = world.build().unwrap();
    world.spec["proxy"] = json!({"httpsProxy": "http://own:1"});
    world.spec["podSpec"] = json!({"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://mine:1"}]});
    for container in containers(&world.pod()) {
        assert_eq!(value(&container, "HTTP_PROXY"), None, "the agent's own takes the whole place of the cluster's");
        assert_eq!(value(&container, "https_proxy").as_deref(), Some("http://own:1"));
        assert_eq!(value(&container, "HTTPS_PROXY").as_deref(), Some("http://mine:1"), "the user's variables win");
    }
    world.spec["podSpec"] = json!(null);
    let effect = effect::between(&before, &world.build().unwrap());
    assert_eq!((effect.class, effect.causes), (effect::Class::Rollout, ["proxy".to_string()].into()));

    for (bundle, kind, name, key) in [
        (json!({"configMapRef": {"name": "ca"}}), "ConfigMap", "ca", "ca-bundle.crt"),
        (json!({"secretRef": {"name": "ca", "key": "x.pem"}}), "Secret", "ca", "x.pem"),
        (json!({"secretRef": {"name": "ca"}}), "Secret", "ca", "ca.crt"),
    ] {
        let mut world = minimal();
        let before = world.build().unwrap();
        world.spec["caBundle"] = bundle;
        let refused = world.refused();
        assert!(refused.message.contains(&format!("key {key:?} of {kind} {name}")), "{}", refused.message);
        let object = json!({name: {key: "-----BEGIN CERTIFICATE-----"}});
        if kind == "Secret" {
            world.secrets = object;
        } else {
            world.maps = object;
        }
        let pod = world.pod();
        for container in containers(&pod) {
            assert_eq!(value(&container, "CUSTOM_CA_CERT_PATH").as_deref(), Some("/etc/ssl/certs/custom-ca/tls.crt"));
            assert!(container["volumeMounts"].to_string().contains("/etc/ssl/certs/custom-ca"));
        }
        let volume = pod["spec"]["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "custom-ca").cloned();
        assert!(volume.unwrap().to_string().contains(&format!("\"key\":\"{key}\",\"path\":\"tls.crt\"")));
        assert_eq!(effect::between(&before, &world.build().unwrap()).causes, ["ca-bundle".to_string()].into());
    }
}
