//! The place in which it happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{Repository as RepositoryObject, Sync, Task, TaskPhase},
    pod::opencode::{Client as Opencode, Credentials, Prompt},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    box_of_pod::secret,
    kubelet::Kubelet,
    replicas::Replicas,
    schedule::{Action, GROUPS, Ill, Options, Outage, Part, schedule},
    verdict::{Evidence, Fault},
    watched::{Watched, surely},
    wire::Wire,
    written::{POLICY, Written},
};
use crate::common::{
    agent_server::{End, Illness, ledger::Work},
    audit::{AuditLog, Request},
    cluster::{Cluster, Shape},
    controller::Release,
    git_server::{Behaviour, GitServer, Repository},
    process::bound,
};

/// Of those agents that are never forced.
const PATIENT: Duration = Duration::from_hours(1);
/// Of the others.
const BRIEF: Duration = Duration::from_secs(12);
const NAMESPACES: usize = 4;
/// In the history: what concerns all agents.
const ALL: &str = "*";
/// Between looks at the faults.
const LOOK: Duration = Duration::from_secs(5);
/// After the last failure something comes nearer to what is wanted within this time, until all of it is there.
const REST: Duration = Duration::from_mins(4);
/// Nothing is written for so long then, ...
const SILENCE: Duration = Duration::from_secs(15);
/// ... after so many tries at most.
const ROUNDS: usize = 16;

/// What an agent's definition says now; each number grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Definition {
    image: u64,
    pub(super) environment: u64,
    config: u64,
    pub(super) text: u64,
}

pub(super) fn tag(wanted: &Definition) -> String {
    format!("devbox:{}", wanted.image)
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) watched: Watched,
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) wanted: Vec<Definition>,
    /// Of each group's documents and skills: their number, and the commit that brought it, by its place in `commits`.
    pub(super) docs: Vec<(u64, usize)>,
    pub(super) skills: Vec<(u64, usize)>,
    /// All commits of contents, oldest first.
    pub(super) commits: Vec<String>,
    namespaces: Vec<String>,
    replicas: Replicas,
    git: GitServer,
    definitions: Repository,
    contents: Repository,
    client: Client,
    wires: BTreeMap<String, Wire>,
    audit: AuditLog,
    /// The controller's writes that went well, and what they changed.
    writes: Vec<Request>,
    written: Written,
    /// When somebody deleted which pod.
    deleted: BTreeMap<String, Timestamp>,
    /// When API servers were killed.
    kills: Vec<Timestamp>,
    tasks: usize,
    /// The API server that takes the place of the cluster's own; none while it is dead.
    api: Option<std::process::Child>,
    begun: Instant,
    // Last: what stands on it ends first.
    cluster: Cluster,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(api) = &mut self.api {
            let _ = api.kill();
            let _ = api.wait();
        }
    }
}

fn numbers() -> Vec<(u64, usize)> {
    vec![(0, 0); GROUPS]
}

impl World {
    pub(super) async fn start(options: Options) -> Self {
        let cluster = Cluster::start(Shape::default());
        let client = cluster.client().await;
        // Another one takes its place, whose audit log has more in it.
        std::fs::write(cluster.ready.state.join("audit.yaml"), POLICY).unwrap();
        let api = start_api(&cluster, &kill_api(&cluster));
        let ready = || client.request_text(http::Request::get("/readyz").body(vec![]).unwrap());
        surely("the API server", ready).await;
        let mut namespaces = vec![];
        for n in 0..NAMESPACES {
            namespaces.push(cluster.namespace(&format!("chaos{n}")).await);
        }
        let release = Release::install(&cluster, &namespaces).await;
        let watched = Watched::start(&client);
        let mut wires = BTreeMap::new();
        for n in 0..options.live {
            wires.insert(format!("{}/a{n}", namespaces[n % NAMESPACES]), Wire::start().await);
        }
        let git = GitServer::http();
        let (definitions, contents) = (git.repository("agents.git"), git.repository("content.git"));
        let audit = cluster.audit().later();
        let replicas = Replicas::start(&client, release).await;
        let kubelet = Kubelet::start(&client, &watched, wires.clone(), replicas.front.port).await;
        let mut world = Self {
            wanted: vec![Definition::default(); options.agents],
            docs: numbers(),
            skills: numbers(),
            commits: vec![],
            options,
            watched,
            kubelet,
            namespaces,
            replicas,
            git,
            definitions,
            contents,
            client,
            wires,
            audit,
            writes: vec![],
            written: Written::default(),
            deleted: BTreeMap::new(),
            kills: vec![],
            tasks: 0,
            api: Some(api),
            begun: Instant::now(),
            cluster,
        };
        world.publish().await;
        world
    }

    /// `namespace/name` of an agent.
    pub(super) fn key(&self, n: usize) -> String {
        format!("{}/a{n}", self.namespaces[n % NAMESPACES])
    }

    pub(super) fn has_skills(&self, n: usize) -> bool {
        n < self.options.live && n % 3 != 2
    }

    fn protection(&self, n: usize) -> Duration {
        // Who has no sidecar is never known to be idle.
        if n < self.options.live && n.is_multiple_of(2) { PATIENT } else { BRIEF }
    }

    fn manifest(&self, n: usize) -> (String, String) {
        let wanted = &self.wanted[n];
        let remote = |name: &str| match n % 5 {
            // Most have the URL, so that they share a poller with all others.
            4 => format!("repositoryRef: {{name: {name}}}"),
            _ => format!("repository: '{}'", self.git.url(&format!("{name}.git"))),
        };
        let policy = if n % 4 == 3 { "Rollout" } else { "HotReload" };
        let source = |path: &str| {
            let (remote, group) = (remote("content"), n % GROUPS);
            format!("{{{remote}, path: {path}/{group}, sync: {{enabled: true, interval: 2s, policy: {policy}}}}}")
        };
        let skills = if self.has_skills(n) {
            format!("  skills:\n  - name: team\n    git: {}\n", source("skills"))
        } else {
            String::new()
        };
        let text = format!(
            "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {{name: a{n}}}\nspec:\n  \
             workspaceDir: /workspace\n  agentImage: agents:1\n  executorImage: {}\n  config: {{model: p/m{}}}\n  \
             podSpec: {{extraEnv: [{{name: STEP, value: '{}'}}]}}\n  \
             rollout: {{timeout: {}s, drain: {}}}\n  contexts:\n  \
             - {{name: rules, type: Text, text: 'Rule {} of {n}.'}}\n  \
             - {{name: docs, type: Git, mountPath: docs, git: {}}}\n{skills}",
            tag(wanted),
            wanted.config,
            wanted.environment,
            self.protection(n).as_secs(),
            n % 6 == 1,
            wanted.text,
            source("docs"),
        );
        (format!("ns{}/a{n}.yaml", n % NAMESPACES), text)
    }

    /// Writes all files, and tells the cluster where they are.
    async fn publish(&mut self) {
        for group in 0..GROUPS {
            self.change_docs(group);
            self.change_skills(group);
        }
        let files: Vec<_> = (0..self.options.agents).map(|n| self.manifest(n)).collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        self.definitions.commit("main", &files);
        for (n, namespace) in self.namespaces.iter().enumerate() {
            for name in ["agents", "content"] {
                let spec = json!({"url": self.git.url(&format!("{name}.git")), "interval": "2s"});
                apply::<RepositoryObject>(&self.client, namespace, "Repository", name, spec).await;
            }
            let spec =
                json!({"repositoryRef": {"name": "agents"}, "path": format!("ns{n}"), "wait": false, "interval": "1h"});
            apply::<Sync>(&self.client, namespace, "Sync", "agents", spec).await;
        }
    }

    fn change_docs(&mut self, group: usize) {
        let number = self.docs[group].0 + 1;
        let text = format!("page {number}\n");
        let commit = self.contents.commit("main", &[(&format!("docs/{group}/page"), &text)]);
        self.docs[group] = (number, self.commits.len());
        self.commits.push(commit);
    }

    fn change_skills(&mut self, group: usize) {
        let number = self.skills[group].0 + 1;
        let text = format!("---\nname: guide\ndescription: Guides step {number}\n---\nStep {number}.\n");
        let commit = self.contents.commit("main", &[(&format!("skills/{group}/guide/SKILL.md"), &text)]);
        self.skills[group] = (number, self.commits.len());
        self.commits.push(commit);
    }

    fn define(&mut self, n: usize, part: Part) {
        let wanted = &mut self.wanted[n];
        *match part {
            Part::Image => &mut wanted.image,
            Part::Environment => &mut wanted.environment,
            Part::Config => &mut wanted.config,
            Part::Text => &mut wanted.text,
        } += 1;
        let (path, text) = self.manifest(n);
        self.definitions.commit("main", &[(&path, &text)]);
        self.watched.say(&self.key(n), format!("pushed {part:?}: {:?}", self.wanted[n]));
    }

    /// Carries out the schedule.
    pub(super) async fn suffer(&mut self) {
        self.settle("before anything happens").await;
        println!("chaos: {} agents are there after {:.0?}", self.options.agents, self.begun.elapsed());
        let plan = schedule(&self.options);
        let (begun, mut due, mut api) = (Instant::now(), vec![], None);
        let mut looked = begun;
        for (at, action) in plan {
            while Instant::now() < begun + at {
                sleep((begun + at - Instant::now()).min(Duration::from_millis(100))).await;
                self.tend(&mut due, &mut api);
                if looked.elapsed() > LOOK {
                    looked = Instant::now();
                    self.must_be_well().await;
                }
            }
            self.act(action, &mut due, &mut api).await;
        }
        for (_, undo) in due.drain(..) {
            self.undo(&undo);
        }
        if let Some((_, command)) = api.take() {
            self.start_api(&command);
        }
        self.replicas.tend(true);
    }

    async fn act(
        &mut self,
        action: Action,
        due: &mut Vec<(Instant, Action)>,
        api: &mut Option<(Instant, Vec<String>)>,
    ) {
        let for_all = matches!(action, Action::Kill { .. } | Action::RestartApi { .. } | Action::Git { .. });
        if for_all || matches!(action, Action::Docs { .. } | Action::Skills { .. }) {
            self.watched.say(ALL, format!("{action:?}"));
        }
        match action {
            Action::Define { agent, part } => self.define(agent, part),
            Action::Docs { group } => self.change_docs(group),
            Action::Skills { group } => self.change_skills(group),
            Action::Prompt { agent, takes, again } => self.prompt(agent, takes, again),
            Action::Task { agent, takes } => self.task(agent, takes),
            Action::Kill { replica, down } => self.replicas.kill(replica, down),
            Action::RestartApi { down } if api.is_none() => *api = Some((Instant::now() + down, self.kill_api())),
            Action::RestartApi { .. } => {}
            Action::Git { outage, lasts } => {
                self.git.behave(|b| match outage {
                    Outage::Refuses => b.status = Some(503),
                    Outage::Hangs => b.delay = Duration::from_secs(30),
                });
                due.push((Instant::now() + lasts, action));
            }
            Action::Sick { agent, ill, lasts } => {
                self.feels(agent, Some(ill));
                due.push((Instant::now() + lasts, action));
            }
        }
    }

    /// Ends what has lasted long enough.
    fn tend(&mut self, due: &mut Vec<(Instant, Action)>, api: &mut Option<(Instant, Vec<String>)>) {
        let now = Instant::now();
        for (_, undo) in due.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.undo(&undo);
        }
        if api.as_ref().is_some_and(|(at, _)| *at <= now)
            && let Some((_, command)) = api.take()
        {
            self.start_api(&command);
        }
        self.replicas.tend(false);
    }

    fn undo(&self, action: &Action) {
        match action {
            Action::Git { .. } => self.git.behave(|b| *b = Behaviour::default()),
            Action::Sick { agent, .. } => self.feels(*agent, None),
            _ => {}
        }
    }

    fn feels(&self, agent: usize, ill: Option<Ill>) {
        let key = self.key(agent);
        self.watched.say(&key, format!("its server feels {ill:?}"));
        let illness = Illness {
            wedged: ill == Some(Ill::Wedged),
            refuses: ill == Some(Ill::Refuses),
            mute: ill == Some(Ill::Mute),
            late_idle: if ill == Some(Ill::LateIdle) { Duration::from_secs(2) } else { Duration::ZERO },
            deaf: false,
        };
        for pod in self.kubelet.running.lock().iter().filter(|pod| pod.agent == key) {
            pod.server.feels(illness);
            if ill == Some(Ill::CutEvents) {
                pod.server.cut_events();
            }
        }
    }

    fn kill_api(&mut self) -> Vec<String> {
        self.kills.push(Timestamp::now());
        kill_api(&self.cluster)
    }

    fn start_api(&mut self, command: &[String]) {
        if let Some(mut old) = self.api.take() {
            let _ = old.wait();
        }
        self.watched.say(ALL, "the API server is started again".into());
        self.api = Some(start_api(&self.cluster, command));
    }

    /// A person's session.
    fn prompt(&self, agent: usize, takes: Duration, again: Option<Duration>) {
        let (key, client, watched) = (self.key(agent), self.client.clone(), self.watched.clone());
        let url = format!("http://127.0.0.1:{}", self.wires[&key].port);
        tokio::spawn(async move {
            let (namespace, name) = key.split_once('/').unwrap();
            let auth = secret(&client, namespace, &format!("{name}-server-auth")).await;
            let field = |name: &str| String::from_utf8(auth[name].clone()).unwrap();
            let credentials = Credentials { username: field("username"), password: field("password") };
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_mins(1) {
                match talk(&url, &credentials, takes, again).await {
                    Ok(()) => return,
                    Err(error) if error.is_transient() || error.is_of_another_pod() => {
                        sleep(Duration::from_millis(500)).await;
                    }
                    Err(error) => return watched.say(&key, format!("a prompt was refused: {error}")),
                }
            }
            watched.say(&key, "a prompt was given up after a minute".into());
        });
    }

    fn task(&mut self, agent: usize, takes: Duration) {
        self.tasks += 1;
        let (namespace, name) = (self.namespaces[agent % NAMESPACES].clone(), format!("t{}", self.tasks));
        let task = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": name},
            "spec": {"agentRef": {"name": format!("a{agent}")}, "description": directive(takes)}});
        let api: Api<Task> = Api::namespaced(self.client.clone(), &namespace);
        tokio::spawn(async move {
            let task = serde_json::from_value(task).unwrap();
            surely("a Task", || async {
                match api.create(&PostParams::default(), &task).await {
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                    other => other.map(drop),
                }
            })
            .await;
        });
    }

    fn number(&self, key: &str) -> usize {
        key.split_once("/a").and_then(|(_, n)| n.parse().ok()).unwrap_or_default()
    }

    /// Reads what is new in the audit log, and judges everything.
    async fn must_be_well(&mut self) {
        // In this order: whatever had an effect by now is in the log.
        let (work, exchanges) = (self.kubelet.ledger.all(), self.kubelet.exchanges.lock().clone());
        self.read_on();
        let (watched, deleted) = (&self.watched, &self.deleted);
        let ending = |pod: &str| {
            let deleted = watched.pod_named(pod).and_then(|name| deleted.get(&name).copied());
            watched.ending(pod).into_iter().chain(deleted).min()
        };
        let evidence = Evidence {
            work: &work,
            changes: &self.written.changes,
            exchanges: &exchanges,
            protection: &|agent| self.protection(self.number(agent)),
            ending: &ending,
        };
        let mut faults = evidence.faults();
        faults.extend(self.failed_tasks(&work));
        let panics = [self.replicas.panics(), self.kubelet.panics()].concat();
        faults.extend(panics.into_iter().map(|what| Fault { agent: String::new(), what }));
        if !faults.is_empty() {
            let agents: BTreeSet<_> = faults.iter().map(|fault| fault.agent.clone()).collect();
            agents.iter().take(3).for_each(|agent| self.tell(agent));
            panic!("{}\n{faults:#?}", self.options);
        }
    }

    fn read_on(&mut self) {
        let new = self.audit.read_on();
        let gone = new.iter().filter(|r| r.verb == "delete" && r.resource() == "pods" && r.code() < 300);
        for request in gone {
            let pod = request.object().replacen("/pods/", "/", 1);
            self.deleted.entry(pod).or_insert(request.received);
        }
        let user = self.replicas.user();
        let writes = new.into_iter().filter(|r| r.user() == user && r.is_write() && r.code() < 300);
        let mut writes: Vec<Request> = writes.filter(|r| r.resource() != "events").collect();
        self.written.read(&mut writes, &self.kills);
        self.writes.extend(writes);
    }

    fn failed_tasks(&self, work: &[Work]) -> Vec<Fault> {
        // Whether a session was cut too early is judged with all other work.
        let is_cut = |id: &str| work.iter().any(|w| w.session == id && matches!(w.end, Some((_, End::Cut(_)))));
        let failed = self.watched.tasks().into_iter().filter_map(|task| {
            let status = task.status.clone().filter(|status| status.phase == Some(TaskPhase::Failed))?;
            if status.session.as_ref().and_then(|session| session.id.as_deref()).is_some_and(is_cut) {
                return None;
            }
            // A refused password is no fault that passes.
            if status.conditions.iter().any(|condition| condition.message.contains("refuses the password")) {
                return None;
            }
            let agent = task.spec.agent_ref.as_ref().map(|agent| agent.name.clone()).unwrap_or_default();
            let (namespace, name) =
                (task.metadata.namespace.unwrap_or_default(), task.metadata.name.unwrap_or_default());
            Some(Fault {
                agent: format!("{namespace}/{agent}"),
                what: format!("Task {name} failed: {:?}", status.conditions),
            })
        });
        failed.collect()
    }

    /// All that is known of an agent, by time.
    fn tell(&self, agent: &str) {
        println!("--- history of {agent}");
        let mut lines = self.watched.history(agent);
        lines.extend(self.watched.history(ALL));
        for work in self.kubelet.ledger.all().iter().filter(|work| work.agent == agent) {
            lines.push((work.begun, format!("work begins: {} in {}", work.session, work.pod)));
            lines.extend(work.end.map(|(at, how)| (at, format!("work ends: {} {how:?}", work.session))));
        }
        let Some((namespace, name)) = agent.split_once('/') else { return };
        let of = self.writes.iter().filter(|w| w.namespace() == namespace && w.object().contains(&format!("/{name}")));
        let of = of
            .filter(|w| w.object().rsplit('/').any(|part| part == name || part.starts_with(&format!("{name}-server"))));
        lines.extend(of.map(|w| (w.received, format!("{} {} ({})", w.verb, w.object(), w.code()))));
        lines.sort();
        for (at, what) in &lines {
            println!("{at:.3} {what}");
        }
        println!("--- the controller about {agent}");
        let about = self.replicas.lines_about(namespace, name);
        about.iter().rev().take(200).rev().for_each(|line| println!("{line}"));
        for pod in self.kubelet.running.lock().iter().filter(|pod| pod.agent == agent) {
            println!("--- the sidecar of {}", pod.uid);
            let log = std::fs::read_to_string(pod.folder.join("sidecar.log")).unwrap_or_default();
            log.lines().rev().take(60).collect::<Vec<_>>().iter().rev().for_each(|line| println!("{line}"));
        }
    }

    /// Waits until all agents are as they are wanted. However slow the machine is, something has to come nearer to it.
    async fn settle(&mut self, when: &str) {
        let (mut fewest, mut since) = (usize::MAX, Instant::now());
        loop {
            let left = self.unsettled();
            if left.is_empty() {
                return;
            }
            if left.len() < fewest {
                (fewest, since) = (left.len(), Instant::now());
            }
            if since.elapsed() > REST {
                left.iter().take(3).for_each(|(agent, _)| self.tell(agent));
                panic!("{}\n{when}: {} agents are not as they are wanted: {left:#?}", self.options, left.len());
            }
            self.pass(Duration::from_millis(500)).await;
        }
    }

    /// Lets time pass. Replicas that end by themselves are started again: on a busy machine one may lose its Lease.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.replicas.tend(false);
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many prompts and Tasks go on.
    fn running(&self) -> (usize, usize) {
        let going = |task: &&Task| !task.status.as_ref().and_then(|s| s.phase).is_some_and(TaskPhase::is_terminal);
        (self.kubelet.ledger.open(), self.watched.tasks().iter().filter(going).count())
    }

    /// Agents whose Tasks go on, and what is said of these.
    fn going(&self) -> Vec<(String, String)> {
        let tasks = self.watched.tasks().into_iter().filter_map(|task| {
            let status = task.status.unwrap_or_default();
            let agent = format!("{}/{}", task.metadata.namespace?, task.spec.agent_ref?.name);
            let said = format!("{}: {:?} {:?}", task.metadata.name?, status.phase, status.conditions);
            (!status.phase.is_some_and(TaskPhase::is_terminal)).then_some((agent, said))
        });
        tasks.collect()
    }

    /// Waits for the end of all work.
    async fn finish(&mut self) {
        let (mut fewest, mut since) = (usize::MAX, Instant::now());
        loop {
            self.must_be_well().await;
            let (prompts, tasks) = self.running();
            if prompts + tasks == 0 {
                return;
            }
            if prompts + tasks < fewest {
                (fewest, since) = (prompts + tasks, Instant::now());
            }
            if since.elapsed() > REST {
                let going: BTreeSet<_> = self.going().into_iter().collect();
                going.iter().take(3).for_each(|(agent, _)| self.tell(agent));
                panic!("{}\n{prompts} prompts and {tasks} Tasks do not end: {going:#?}", self.options);
            }
            self.pass(LOOK).await;
        }
    }

    /// The end: all is done, said, and silent.
    pub(super) async fn come_to_rest(&mut self) {
        let rest = Instant::now();
        self.finish().await;
        self.settle("at the end").await;
        self.must_be_well().await;
        println!("chaos: everything is as it is wanted {:.0?} after the last failure", rest.elapsed());
        let (user, mut written) = (self.replicas.user(), BTreeMap::new());
        for _ in 0..ROUNDS {
            let audit = self.cluster.audit().later();
            self.pass(SILENCE).await;
            written = audit.summary(&user);
            if written.is_empty() {
                break;
            }
            println!("chaos: still written: {written:?}");
        }
        assert_eq!(written, BTreeMap::new(), "{}\nthe controller never stops writing", self.options);
        self.must_be_well().await;
        assert_eq!(self.unsettled(), [], "{}", self.options);
        self.count();
    }

    fn count(&self) {
        let work = self.kubelet.ledger.all();
        let (changes, exchanges) = (&self.written.changes, self.kubelet.exchanges.lock().len());
        let cut = work.iter().filter(|w| matches!(w.end, Some((_, End::Cut(_))))).count();
        println!(
            "chaos: {} prompts (Tasks' {}), {cut} cut after their protection, {} templates, texts and contents applied, \
             {exchanges} exchanges seen, {} writes, resident MiB {:?}, {:.0?}",
            work.len(),
            self.watched.tasks().len(),
            changes.len(),
            self.writes.len(),
            self.replicas.resident(),
            self.begun.elapsed(),
        );
    }
}

/// Kills the API server; how it was started.
fn kill_api(cluster: &Cluster) -> Vec<String> {
    let state = cluster.ready.state.to_str().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().map_while(Result::ok) {
        let Ok(command) = std::fs::read_to_string(entry.path().join("cmdline")) else { continue };
        let command: Vec<String> = command.split_terminator('\0').map(ToOwned::to_owned).collect();
        let is_it = |program: &String| program.ends_with("/kube-apiserver") && program.starts_with(state);
        if command.first().is_some_and(is_it) {
            let pid = entry.file_name();
            assert!(std::process::Command::new("kill").arg("-9").arg(pid).status().unwrap().success());
            let port =
                command.iter().find_map(|flag| flag.strip_prefix("--secure-port=")?.parse::<u16>().ok()).unwrap();
            // Another one can only listen there when this one does not any more.
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            return command;
        }
    }
    panic!("there is no API server of {state}");
}

fn start_api(cluster: &Cluster, command: &[String]) -> std::process::Child {
    let log = std::fs::File::create(cluster.ready.state.join("log/kube-apiserver-again.log")).unwrap();
    bound(&command[0]).args(&command[1..]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn directive(takes: Duration) -> String {
    format!("work [[words={} delay_ms=100]]", takes.as_millis() / 100 + 1)
}

async fn talk(
    url: &str,
    credentials: &Credentials,
    takes: Duration,
    again: Option<Duration>,
) -> Result<(), pilothouse::pod::opencode::Error> {
    let pod = Opencode::new(url, Some(credentials))?.pinned().await?;
    let session = pod.create_session("a person", None, &[]).await?;
    pod.prompt_async(&session.id, &Prompt::text(directive(takes))).await?;
    if let Some(pause) = again {
        sleep(pause).await;
        // Its pod may be ending by now; the first one counts.
        let _ = pod.prompt_async(&session.id, &Prompt::text(directive(takes / 2))).await;
    }
    Ok(())
}

async fn apply<K>(client: &Client, namespace: &str, kind: &str, name: &str, spec: serde_json::Value)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let body = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply("chaos").force();
    let patch = Patch::Apply(&body);
    surely(name, || api.patch(name, &params, &patch)).await;
}
