//! A cluster of the user's own, named by `DEMO_CONTEXT`. What is made there is named first, bears a mark of this run, and is
//! taken away by that mark; nothing else is touched.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::{
    screen, serve,
    shell::{finish, run},
    world::{Access, Images, REPOSITORY, World, with_credentials},
};
use crate::common::{
    cluster::script,
    controller::{pilothouse, program},
};

const RELEASE: &str = "pilothouse-demo";
const SYSTEM: &str = "pilothouse-demo-system";
const AGENTS: &str = "pilothouse-demo-agents";
const SERVERS: &str = "demo-servers";
const MARK: &str = "pilothouse.dev/demo";

/// Checks, says what it will do, pushes images, and makes the namespaces, the CRDs and the servers.
pub(crate) fn start(context: &str) -> Result<World, String> {
    screen::chapter(1, &format!("Your cluster: context {context}"));
    let started = Instant::now();
    let registry = std::env::var("DEMO_REGISTRY").unwrap_or_default();
    if registry.is_empty() {
        return Err(
            "DEMO_CONTEXT needs DEMO_REGISTRY: where to push images to, and where that cluster's nodes pull them \
                    from without a password, for example DEMO_REGISTRY=registry.example.com/demo"
                .into(),
        );
    }
    let access = Access {
        kubectl: installed("kubectl"),
        helm: installed("helm"),
        kubeconfig: None,
        context: Some(context.to_owned()),
    };
    refuse_what_is_there(&access)?;
    announce(&registry);
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (images, servers) = push_images(registry.trim_end_matches('/'), work.path())?;
    // From here on there is something to take away.
    let mark = format!("{:08x}", rand::random::<u32>());
    let visit = Visit { access: access.clone(), mark: mark.clone() };
    for namespace in [SYSTEM, AGENTS] {
        run(&mut access.kubectl(&["create", "namespace", namespace]))?;
        run(&mut access.kubectl(&["label", "namespace", namespace, &format!("{MARK}={mark}")]))?;
    }
    create_crds(&access, &mark, work.path())?;
    let forward = start_servers(&access, &servers, work.path())?;
    screen::good("images are pushed; namespaces, CRDs, a Git server and a model are there", Some(started.elapsed()));
    let host = format!("{SERVERS}.{SYSTEM}.svc");
    Ok(World {
        access,
        images: Some(images),
        release: RELEASE,
        system: SYSTEM,
        agents: AGENTS,
        url: format!("http://{host}:{}/{REPOSITORY}", serve::GIT),
        push_url: with_credentials(&format!("http://127.0.0.1:{}/{REPOSITORY}", forward.port)),
        model: format!("http://{host}:{}/v1", serve::MODEL),
        look: vec![format!("kubectl config use-context {context}")],
        _keep: vec![Box::new(forward), Box::new(visit)],
        work,
    })
}

/// The user's own program, else the one of the tests.
fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| program(name))
}

fn refuse_what_is_there(access: &Access) -> Result<(), String> {
    let crds = run(&mut access.kubectl(&["get", "customresourcedefinitions", "-o", "name"]))?;
    let ours: Vec<&str> = crds.lines().filter(|l| l.ends_with(".pilothouse.dev")).collect();
    if !ours.is_empty() {
        return Err(format!(
            "this cluster has Pilothouse already ({}): the demo installs it and takes it away again, and will not meet \
             yours. Choose another cluster{}",
            ours[0],
            leftover(access)
        ));
    }
    let both = ["get", "namespace", SYSTEM, AGENTS, "--ignore-not-found", "-o", "name"];
    let there = run(&mut access.kubectl(&both))?;
    match there.lines().next() {
        Some(one) => Err(format!("{one} exists already; the demo would make it{}", leftover(access))),
        None => Ok(()),
    }
}

/// What an earlier demo has left when it was killed.
fn leftover(access: &Access) -> String {
    let found = run(&mut access.kubectl(&["get", "namespaces,customresourcedefinitions", "-l", MARK, "-o", "name"]));
    if found.unwrap_or_default().trim().is_empty() {
        return String::new();
    }
    format!(
        ". An earlier demo was killed there; what it left goes by: helm uninstall {RELEASE} -n {SYSTEM}; kubectl delete \
         namespaces,customresourcedefinitions -l {MARK}"
    )
}

fn announce(registry: &str) {
    screen::say("what the demo makes there, and takes away again (also on Ctrl-C):");
    for line in [
        format!("namespaces {SYSTEM} and {AGENTS}, and everything in them"),
        "the CustomResourceDefinitions of pilothouse.dev, and PilothouseConfig \"cluster\"".into(),
        format!("ClusterRoles {RELEASE}:{SYSTEM} and {RELEASE}:{SYSTEM}:sync, one ClusterRoleBinding"),
        format!("Role and RoleBinding {RELEASE}:{SYSTEM}:events in namespace default"),
    ] {
        screen::say(&format!("  - {line}"));
    }
    screen::say(&format!("what stays: images under {registry}/pilothouse-demo-*"));
}

/// Pushes what the story needs: the images for the chart, and that of the servers.
fn push_images(registry: &str, work: &Path) -> Result<(Images, String), String> {
    screen::say("images: opencode (from npm), a workspace, pilothouse, the demo's own servers");
    let itself = std::env::current_exe().map_err(|e| e.to_string())?;
    let image = |what: &str| run(Command::new(script()).args(["image", what])).map(|p| PathBuf::from(p.trim()));
    let crane = program("crane");
    let push = |name: &str, archive: &Path, suffix: &str| -> Result<(String, String), String> {
        // The key of its content is in the archive's name: the same content has the same tag.
        let file = archive.file_stem().unwrap_or_default().to_string_lossy();
        let key = file.rsplit('-').next().unwrap_or_default().to_owned() + suffix;
        let repository = format!("{registry}/pilothouse-demo-{name}");
        let layout = work.join(name);
        std::fs::create_dir_all(&layout).map_err(|e| e.to_string())?;
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout))?;
        let started = Instant::now();
        run(Command::new(&crane).arg("push").arg(&layout).arg(format!("{repository}:{key}"))).map_err(|e| {
            format!("{e}\nMay you push to {registry}? \"docker login\" (or crane auth login) comes first")
        })?;
        screen::good(&format!("pushed {repository}:{key}"), Some(started.elapsed()));
        std::fs::remove_dir_all(&layout).map_err(|e| e.to_string())?;
        Ok((repository, key))
    };
    let whole = |(repository, key): (String, String)| format!("{repository}:{key}");
    let executor = image("executor")?;
    let images = Images {
        pilothouse: push("controller", &image(&format!("pilothouse={}", pilothouse().display()))?, "")?,
        agent: whole(push("opencode", &image("opencode")?, "")?),
        executor: whole(push("executor", &executor, "")?),
        next: whole(push("executor", &executor, "-next")?),
    };
    let servers = whole(push("servers", &image(&format!("pilothouse={}", itself.display()))?, "")?);
    Ok((images, servers))
}

fn create_crds(access: &Access, mark: &str, work: &Path) -> Result<(), String> {
    let text = run(Command::new(pilothouse()).args(["crds", "--log", "warn", "-o", "json"]))?;
    let mut list: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    for crd in list["items"].as_array_mut().into_iter().flatten() {
        crd["metadata"]["labels"][MARK] = mark.into();
    }
    let file = work.join("crds.json");
    std::fs::write(&file, list.to_string()).map_err(|e| e.to_string())?;
    let file = file.to_string_lossy();
    // Not an apply: one that is there is not ours.
    run(&mut access.kubectl(&["create", "-f", &file]))?;
    run(&mut access.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &file])).map(drop)
}

/// A forwarded port of the Git server.
struct Forward {
    child: Child,
    port: u16,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_servers(access: &Access, image: &str, work: &Path) -> Result<Forward, String> {
    let (git, model) = (serve::GIT, serve::MODEL);
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {SERVERS}, labels: {{app: {SERVERS}}}}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: {SERVERS}
    image: {image}
    args: [serve]
    readinessProbe: {{tcpSocket: {{port: {git}}}, periodSeconds: 1}}
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{{name: tmp, mountPath: /tmp}}]
  volumes: [{{name: tmp, emptyDir: {{sizeLimit: 100Mi}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {SERVERS}}}
spec: {{selector: {{app: {SERVERS}}}, ports: [{{name: git, port: {git}}}, {{name: model, port: {model}}}]}}
"
    );
    let file = work.join("servers.yaml");
    std::fs::write(&file, manifest).map_err(|e| e.to_string())?;
    run(&mut access.kubectl(&["create", "-n", SYSTEM, "-f", &file.to_string_lossy()]))?;
    let pod = format!("pod/{SERVERS}");
    run(&mut access.kubectl(&["wait", "-n", SYSTEM, "--for=condition=Ready", "--timeout=180s", &pod])).map_err(
        |e| {
            let events = run(&mut access.kubectl(&["get", "events", "-n", SYSTEM, "-o", "custom-columns=M:.message"]));
            format!("{e}\nCan that cluster's nodes pull from DEMO_REGISTRY? It says:\n{}", events.unwrap_or_default())
        },
    )?;
    let mut command = access.kubectl(&["port-forward", "-n", SYSTEM, &pod, &format!(":{git}")]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("kubectl port-forward: {e}"))?;
    let mut line = String::new();
    let out = child.stdout.take();
    let read = out.map(BufReader::new).map_or(Ok(0), |mut out| {
        let read = out.read_line(&mut line);
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        read
    });
    // Forwarding from 127.0.0.1:40123 -> 8080
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|p| p.parse().ok());
    let mut forward = Forward { child, port: 0 };
    forward.port = port.ok_or_else(|| format!("kubectl port-forward said {line:?} ({read:?})"))?;
    Ok(forward)
}

/// What this run has made; dropping it takes that away.
struct Visit {
    access: Access,
    mark: String,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let started = Instant::now();
        screen::say("taking away what the demo made there");
        let label = format!("{MARK}={}", self.mark);
        let k = |args: &[&str]| finish(&mut self.access.kubectl(args));
        // While the controller runs its Syncs end in order. What was never made is no failure.
        let made = k(&["get", "namespaces,customresourcedefinitions", "-l", &label, "-o", "name"]).unwrap_or_default();
        if made.contains("customresourcedefinition") {
            let _ = k(&["delete", "syncs.pilothouse.dev", "--all", "-n", AGENTS, "--timeout=60s"]);
        }
        if made.contains(SYSTEM) {
            let gone = ["uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found", "--wait", "--timeout", "2m"];
            report(finish(&mut self.access.helm(&gone)));
        }
        if made.contains("customresourcedefinition") {
            let mut release = Command::new(pilothouse());
            let context = self.access.context.as_deref().unwrap_or_default();
            let _ = finish(release.args(["uninstall", "--context", context, "-n", AGENTS, "--log", "warn"]));
        }
        report(k(&["delete", "namespaces", "-l", &label, "--timeout=180s"]));
        // Objects of somebody else would go with their kind.
        let others = k(&["get", "pilothouse", "-A", "-o", "name", "--ignore-not-found"]).unwrap_or_default();
        if others.trim().is_empty() {
            report(k(&["delete", "customresourcedefinitions", "-l", &label, "--timeout=60s"]));
        } else {
            screen::bad(&format!("the CRDs stay: somebody has made {}", others.lines().next().unwrap_or_default()));
        }
        let left = k(&["get", "namespaces,customresourcedefinitions", "-l", &label, "-o", "name"]);
        match left {
            Ok(left) if left.trim().is_empty() => screen::good("nothing of it is left", Some(started.elapsed())),
            Ok(left) => screen::bad(&format!("left: {}", left.trim().replace('\n', ", "))),
            Err(error) => screen::bad(&error),
        }
    }
}

fn report(done: Result<String, String>) {
    if let Err(error) = done {
        screen::bad(&error);
    }
}
