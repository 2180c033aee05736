//! What the images promise.

use crate::common::node::node;

/// Tools, a user with a name, a writable home.
#[tokio::test(flavor = "multi_thread")]
async fn the_executor_has_its_tools() {
    let Some(node) = node() else { return };
    let namespace = node.cluster.namespace("tools").await;
    let image = node.image("executor");
    node.apply(
        &namespace,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: tools}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: c, image: '{image}', command: [sleep, '1000']}}]"
        ),
    );
    let ready = node.cluster.kubectl(["wait", "--for=condition=Ready", "pod/tools", "-n", &namespace, "--timeout=60s"]);
    assert!(ready.status.success(), "{}", node.story(&namespace));
    // The API server's certificate comes from a private CA: git's HTTPS has to say so, and not that it is missing.
    let script = "id -un; touch ~/x && echo writable; git init -q r && cd r && git add -A; rg --version | head -1; \
                  ssh -V 2>&1; git ls-remote https://kubernetes.default.svc/r 2>&1 || true";
    let out = node.exec(&namespace, "tools", ["bash", "-c", script]);
    for expected in ["agent\n", "writable\n", "ripgrep ", "OpenSSH_", "certificate verification failed"] {
        assert!(out.contains(expected), "no {expected:?} in: {out}");
    }
}

/// Our own program runs as the chart runs it: not as root, on a read-only file system.
#[tokio::test(flavor = "multi_thread")]
async fn pilothouse_runs_in_its_image() {
    let Some(node) = node() else { return };
    let namespace = node.cluster.namespace("pilothouse").await;
    let image = node.image("pilothouse");
    node.apply(
        &namespace,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: version}}\nspec:\n  restartPolicy: Never\n  \
             securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}\n  \
             containers:\n  - name: c\n    image: '{image}'\n    args: [version]\n    securityContext: \
             {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}"
        ),
    );
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    let out = node.cluster.kubectl(["wait", ended, "pod/version", "-n", &namespace, "--timeout=60s"]);
    assert!(out.status.success(), "{}", node.story(&namespace));
    let log = node.cluster.kubectl(["logs", "version", "-n", &namespace]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert!(log.contains(env!("CARGO_PKG_VERSION")), "{log}");
}
