//! Pilothouse as a user has it: installed by helm, fed by a Git server, its agents real pods that ask a scripted model.

use std::{process::Command, sync::OnceLock, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client as Pool, rt::TokioExecutor};
use pilothouse::pod::opencode::{Client, Credentials};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::common::{
    controller::program,
    git_server::{GitServer, Repository},
    model::Model,
    node::{GATEWAY, Node, node},
    wait::poll,
};

/// The image that agents work in, and the same content under another name.
pub(crate) const NEXT_EXECUTOR: &str = "localhost/executor:next";
/// Where the release that the tests share lives.
pub(crate) const SYSTEM: &str = "pilothouse-system";
const PLACES: [&str; 14] = [
    "sessions", "jobs", "lost", "texts", "pauses", "drains", "content", "orders", "beside", "files", "wholes",
    "verify", "cuts", "alone",
];

/// What the tests share: a node, one release of the chart, one Git server.
struct World {
    node: &'static Node,
    git: GitServer,
    namespaces: Vec<String>,
}

/// A namespace of agents with a repository, a Sync and a model of its own.
pub(crate) struct Place {
    pub(crate) node: &'static Node,
    pub(crate) namespace: String,
    pub(crate) model: Model,
    pub(crate) repository: Repository,
    git: &'static GitServer,
}

/// Runs a program and returns what it prints.
pub(crate) fn ran(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// `helm install --wait` with the images of this working tree. Further settings are `--set` values.
pub(crate) fn helm_install(node: &Node, name: &str, namespace: &str, settings: &[String]) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
    let mut helm = helm(node);
    helm.args(["install", name, chart, "-n", namespace, "--create-namespace", "--wait", "--timeout", "2m"]);
    let (repository, tag) =
        node.image("pilothouse").rsplit_once(':').map(|(r, t)| (r.to_owned(), t.to_owned())).unwrap();
    helm.args(["--set", &format!("image.repository={repository},image.tag={tag}")]);
    // The tests' Git server is on the node itself, where a controller looks for none unless allowed.
    helm.args(["--set", &format!("controller.git.allowAddresses={{{GATEWAY}/32}}")]);
    for setting in settings {
        helm.args(["--set", setting]);
    }
    let out = helm.output().unwrap();
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), node.story(namespace));
}

/// helm for the node's cluster.
pub(crate) fn helm(node: &Node) -> Command {
    let mut helm = Command::new(program("helm"));
    helm.env("KUBECONFIG", &node.cluster.ready.kubeconfig);
    helm
}

/// Settings that give a release these namespaces.
pub(crate) fn namespaces_of(namespaces: &[String]) -> Vec<String> {
    let account = |(i, n)| format!("syncAccounts[{i}].namespace={n},syncAccounts[{i}].name=default");
    let mut settings: Vec<String> = namespaces.iter().enumerate().map(account).collect();
    settings.push(format!("agentNamespaces={{{}}}", namespaces.join(",")));
    settings
}

/// Who needs the controller all the time reads it; who kills it writes it, until the sidecars are back.
pub(crate) static CONTROLLER: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

async fn world(node: &'static Node) -> &'static World {
    static SHARED: OnceCell<World> = OnceCell::const_new();
    SHARED.get_or_init(|| start(node)).await
}

async fn start(node: &'static Node) -> World {
    let mut namespaces = vec![];
    for place in PLACES {
        // What the API server lets in there is restricted, so an agent that runs keeps to it.
        let restricted = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
        namespaces.push(node.cluster.namespace_with(place, [restricted].into()).await);
    }
    let git = tokio::task::spawn_blocking(|| GitServer::http_on(&format!("{GATEWAY}:0"))).await.unwrap();
    let mut settings = namespaces_of(&namespaces);
    let (agent, executor) = (node.image("opencode"), node.image("executor"));
    node.tag_image(&executor, NEXT_EXECUTOR);
    settings.push(format!("config.agentImage={agent},config.executorImage={executor}"));
    settings.push("receiver.enabled=true,receiver.replicas=1".into());
    helm_install(node, "pilothouse", SYSTEM, &settings);
    World { node, git, namespaces }
}

/// One of [`PLACES`]; `None` where tests with pods are left out.
pub(crate) async fn place(name: &str) -> Option<Place> {
    static NODE: OnceLock<Option<&'static Node>> = OnceLock::new();
    let world = world((*NODE.get_or_init(node))?).await;
    let index = PLACES.iter().position(|p| *p == name).expect("a place of the list");
    let namespace = world.namespaces[index].clone();
    let repository = world.git.repository(&format!("{namespace}.git"));
    let model = Model::start_on(&format!("{GATEWAY}:0")).await;
    let place = Place { node: world.node, namespace, model, repository, git: &world.git };
    place.connect(&world.git.url(&format!("{}.git", place.namespace)));
    Some(place)
}

impl Place {
    fn connect(&self, url: &str) {
        self.apply(&json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "team"},
            "spec": {"url": url, "ref": {"branch": "main"}, "interval": "10m"},
        }));
        self.apply(&json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "agents"},
            "spec": {"repositoryRef": {"name": "team"}},
        }));
    }

    /// The spec of an agent that asks this place's model.
    pub(crate) fn spec(&self) -> Value {
        json!({"workspaceDir": "/workspace", "config": self.model.config_for(GATEWAY)})
    }

    /// Pushes the agent `coder` with this spec, and other files beside it, and lets the Repository look.
    pub(crate) fn push(&self, spec: &Value, files: &[(&str, &str)]) -> String {
        let commit = self.commit(spec, files);
        self.kubectl(&["annotate", "--overwrite", "repository/team", &format!("pilothouse.dev/reconcile-at={commit}")]);
        commit
    }

    /// The same, and nobody is told.
    pub(crate) fn commit(&self, spec: &Value, files: &[(&str, &str)]) -> String {
        let agent = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": "coder"}, "spec": spec,
        });
        let agent = serde_json::to_string_pretty(&agent).unwrap();
        let all: Vec<_> = files.iter().copied().chain([("coder.yaml", agent.as_str())]).collect();
        self.repository.commit("main", &all)
    }

    /// A further repository of this place, and its URL.
    pub(crate) fn another_repository(&self, name: &str) -> (Repository, String) {
        let path = format!("{}-{name}.git", self.namespace);
        (self.git.repository(&path), self.git.url(&path))
    }

    /// kubectl in this namespace; its output, or a failed test.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        ran(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.node.cluster.ready.bin.join("kubectl"));
        command.env("KUBECONFIG", &self.node.cluster.ready.kubeconfig).args(["-n", &self.namespace]);
        command
    }

    /// Applies one object.
    pub(crate) fn apply(&self, object: &Value) {
        self.node.apply(&self.namespace, &object.to_string());
    }

    /// An object, or null.
    pub(crate) fn get(&self, object: &str) -> Value {
        let text = self.kubectl(&["get", object, "--ignore-not-found", "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until an object is as `check` wants it.
    pub(crate) async fn until(&self, what: &str, object: &str, check: impl Fn(&Value) -> bool) -> Value {
        let last = parking_lot::Mutex::new(Value::Null);
        let found = eventually_or(120, || {
            let value = self.get(object);
            let holds = check(&value);
            *last.lock() = value.clone();
            holds.then_some(value)
        })
        .await;
        let status = last.lock()["status"].clone();
        found.unwrap_or_else(|| panic!("not within 2 minutes: {what}\n{status:#}\n{}", self.story()))
    }

    /// What happened here, for a test that failed.
    pub(crate) fn story(&self) -> String {
        let out = self.command().args(["get", "pilothouse", "-o", "wide"]).output().unwrap();
        let log = Command::new(self.node.cluster.ready.bin.join("kubectl"))
            .env("KUBECONFIG", &self.node.cluster.ready.kubeconfig)
            .args(["logs", "-n", SYSTEM, "deployment/pilothouse", "--tail=30"])
            .output()
            .unwrap();
        let [objects, log] = [out.stdout, log.stdout].map(|o| String::from_utf8_lossy(&o).into_owned());
        format!("{objects}\n{}\n{log}", self.node.story(&self.namespace))
    }

    /// Waits until the agent is ready and its pod is another than `before` (its uid; empty for any). The pod.
    pub(crate) async fn ready(&self, before: &str) -> Value {
        self.until("the agent is Ready", "agent/coder", |a| {
            a["status"]["state"] == "Ready"
                && a["status"]["observedGeneration"] == a["metadata"]["generation"]
                && self.pod().is_some_and(|p| uid(&p) != before)
        })
        .await;
        self.pod().unwrap()
    }

    /// The agent's pod that is not about to go, if there is one.
    pub(crate) fn pod(&self) -> Option<Value> {
        let selector = "pilothouse.dev/agent=coder,!pilothouse.dev/task";
        let list: Value = serde_json::from_str(&self.kubectl(&["get", "pods", "-l", selector, "-o", "json"])).unwrap();
        let pods = list["items"].as_array().unwrap();
        pods.iter().find(|p| p["metadata"]["deletionTimestamp"].is_null()).cloned()
    }

    /// Waits until a rollout is pending for these causes at least.
    pub(crate) async fn pending(&self, causes: &[&str]) -> Value {
        self.until(&format!("a rollout waits because of {causes:?}"), "agent/coder", |agent| {
            let named = agent["status"]["rollout"]["causes"].as_array().cloned().unwrap_or_default();
            agent["status"]["state"] == "RolloutPending" && causes.iter().all(|c| named.contains(&json!(c)))
        })
        .await
    }

    /// Runs a command in the agent's container.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        let pod = self.pod().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        self.kubectl(&[&["exec", &pod, "-c", "opencode-server", "--"], command].concat())
    }

    /// The agent's address (through its Service) and what its door asks for.
    pub(crate) fn door(&self) -> (String, Credentials) {
        let service = self.get("service/coder");
        let [address, port] = [&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]];
        let field = |key| {
            let template = format!("go-template={{{{.data.{key} | base64decode}}}}");
            self.kubectl(&["get", "secret/coder-server-auth", "-o", &template])
        };
        let credentials = Credentials { username: field("username"), password: field("password") };
        (format!("http://{}:{port}", address.as_str().unwrap()), credentials)
    }

    /// A client of the agent through its Service, with its password.
    pub(crate) fn client(&self) -> Client {
        let (url, credentials) = self.door();
        Client::new(&url, Some(&credentials)).unwrap()
    }

    /// Sends a prompt in a new session and lets a task wait for the complete answer. Returns when the model was asked.
    pub(crate) async fn ask(&self, prompt: &str) -> tokio::task::JoinHandle<String> {
        let before = self.asked(prompt);
        let session = self.client().create_session("a person's", None, &[]).await.unwrap();
        let (url, credentials) = self.door();
        let answer =
            tokio::spawn(post(format!("{url}/session/{}/message", session.id), credentials, prompt.to_owned()));
        self.model_was_asked(prompt, before).await;
        answer
    }

    /// How many calls with this text the model got.
    pub(crate) fn asked(&self, prompt: &str) -> usize {
        self.model.calls().iter().filter(|c| c.text().contains(prompt)).count()
    }

    /// Waits until the model got more than `before` calls with this text.
    pub(crate) async fn model_was_asked(&self, prompt: &str, before: usize) {
        let found = eventually_or(60, || (self.asked(prompt) > before).then_some(())).await;
        assert!(found.is_some(), "the model was not asked: {prompt}\n{}", self.story());
    }

    /// Watches for `seconds` that the agent's pod stays this one and that its containers do not start again.
    pub(crate) async fn stays(&self, pod: &Value, seconds: u64) {
        for _ in 0..seconds * 2 {
            let now = self.pod().unwrap_or_else(|| panic!("the pod is gone\n{}", self.story()));
            assert_eq!(uid(&now), uid(pod), "another pod\n{}", self.story());
            assert_eq!(restarts(&now), 0, "a container started again\n{}", self.story());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A pod's uid.
pub(crate) fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

/// How often a pod's containers started again.
pub(crate) fn restarts(pod: &Value) -> i64 {
    let of = |kind: &str| pod["status"][kind].as_array().cloned().unwrap_or_default();
    [of("containerStatuses"), of("initContainerStatuses")]
        .concat()
        .iter()
        .filter_map(|c| c["restartCount"].as_i64())
        .sum()
}

/// A condition's status, reason and message.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> [&'a str; 3] {
    let list = object["status"]["conditions"].as_array();
    let found = list.and_then(|l| l.iter().find(|c| c["type"] == kind));
    ["status", "reason", "message"].map(|key| found.and_then(|c| c[key].as_str()).unwrap_or_default())
}

async fn eventually_or<T>(seconds: u64, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let check = || std::future::ready(check());
    poll(Duration::from_secs(seconds), Duration::from_millis(200), check).await
}

/// A request without a body; its status and the answer's text.
pub(crate) async fn get(url: &str, credentials: &Credentials) -> (u16, String) {
    let request = http::Request::get(url).header("authorization", credentials.header().unwrap());
    sent(request.body(Full::default()).unwrap()).await
}

/// Sends a request; the status and the whole text of the answer.
pub(crate) async fn sent(request: http::Request<Full<bytes::Bytes>>) -> (u16, String) {
    let pool = Pool::builder(TokioExecutor::new()).build_http();
    let answer = pool.request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.expect("a whole answer").to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// The synchronous prompt of opencode: the response is the whole answer, so a cut one fails here.
async fn post(url: String, credentials: Credentials, prompt: String) -> String {
    let body = json!({"parts": [{"type": "text", "text": prompt}]}).to_string();
    let request = http::Request::post(url)
        .header("authorization", credentials.header().unwrap())
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let (status, text) = sent(request).await;
    assert_eq!(status, 200, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let parts = value["parts"].as_array().cloned().unwrap_or_default();
    parts.iter().filter(|p| p["type"] == "text").filter_map(|p| p["text"].as_str()).collect()
}
