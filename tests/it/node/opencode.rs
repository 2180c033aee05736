//! The images and the network of the node: opencode in a pod answers a prompt, through its Service, with the scripted model.

use std::time::{Duration, Instant};

use pilothouse::pod::opencode::{Client, Prompt};

use crate::common::{
    model::{Model, Script},
    node::{GATEWAY, node},
};

fn manifests(executor: &str, opencode: &str, config: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coder}}
spec:
  selector: {{matchLabels: {{app: coder}}}}
  template:
    metadata: {{labels: {{app: coder}}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}
      initContainers:
      - name: opencode-init
        image: {opencode}
        env: [{{name: TOOLS_DIR, value: /tools}}]
        securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
        volumeMounts: [{{name: tools, mountPath: /tools}}]
      containers:
      - name: server
        image: {executor}
        command: [/tools/opencode, serve, --port, "4096", --hostname, "0.0.0.0"]
        env:
        - {{name: HOME, value: /home/agent}}
        - {{name: OPENCODE_DISABLE_AUTOUPDATE, value: "1"}}
        - {{name: OPENCODE_DISABLE_MODELS_FETCH, value: "1"}}
        - {{name: OPENCODE_CONFIG_CONTENT, value: '{config}'}}
        readinessProbe: {{httpGet: {{path: /global/health, port: 4096}}, periodSeconds: 1, timeoutSeconds: 5}}
        securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
        resources: {{requests: {{cpu: 10m}}, limits: {{memory: 1Gi}}}}
        volumeMounts: [{{name: home, mountPath: /home/agent}}, {{name: tmp, mountPath: /tmp}}, {{name: tools, mountPath: /tools}}]
      volumes: [{{name: home, emptyDir: {{}}}}, {{name: tmp, emptyDir: {{}}}}, {{name: tools, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: coder}}
spec: {{selector: {{app: coder}}, ports: [{{port: 4096}}]}}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_answered_in_a_pod_through_its_service() {
    let Some(node) = node() else { return };
    let model = Model::start_on(&format!("{GATEWAY}:0")).await;
    model.play(Script::words(3, Duration::from_millis(5)));
    node.add_host("model.test");
    let namespace = node.cluster.namespace("opencode").await;
    let config = model.config_for("model.test").to_string();
    node.apply(&namespace, &manifests(&node.image("executor"), &node.image("opencode"), &config));
    node.rolled_out(&namespace, "coder");

    let address =
        node.cluster.kubectl(["get", "service", "coder", "-n", &namespace, "-o", "jsonpath={.spec.clusterIP}"]);
    let address = String::from_utf8(address.stdout).unwrap();
    let client = Client::new(&format!("http://{address}:4096"), None).unwrap();
    assert_eq!(client.health().await.unwrap().version, "1.18.33");
    let session = client.create_session("a prompt", None, &[]).await.unwrap();
    client.prompt_async(&session.id, &Prompt::text("hello")).await.unwrap();
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let messages = client.messages(&session.id, 10).await.unwrap();
        if format!("{messages:?}").contains("word0 word1 word2") {
            break;
        }
        assert!(Instant::now() < end, "no answer: {messages:?}\n{}", node.story(&namespace));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!model.calls().is_empty());
}
