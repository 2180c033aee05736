//! Two replicas of the controller that come and go.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use super::wire::Wire;
use crate::common::{
    controller::{Controller, Release},
    door::token,
    opencode::free_port,
};

pub(super) struct Replicas {
    release: Release,
    /// What leads to whichever lives.
    pub(super) front: Wire,
    files: tempfile::TempDir,
    all: Vec<Replica>,
    /// What those that are gone have said that nobody should say.
    panics: Vec<String>,
    /// Their logs: files, oldest first.
    logs: Vec<PathBuf>,
}

struct Replica {
    name: String,
    address: SocketAddr,
    data: Arc<tempfile::TempDir>,
    running: Option<Controller>,
    back: Option<tokio::time::Instant>,
}

impl Replicas {
    pub(super) async fn start(client: &Client, release: Release) -> Self {
        // A replica's pod, for its token.
        let pods: Api<Pod> = Api::namespaced(client.clone(), &release.namespace);
        let pod = json!({"metadata": {"name": "replica"}, "spec": {"schedulerName": "nobody",
            "serviceAccountName": release.name, "containers": [{"name": "c", "image": "none"}]}});
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("token"), token(client, &pod, "pilothouse").await.unwrap()).unwrap();
        let all = ["one", "two"].map(|name| Replica {
            name: name.into(),
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            data: Arc::new(tempfile::tempdir().unwrap()),
            running: None,
            back: None,
        });
        let mut replicas =
            Self { release, front: Wire::start().await, files, all: all.into(), panics: vec![], logs: vec![] };
        for n in 0..replicas.all.len() {
            replicas.run(n);
        }
        replicas
    }

    fn run(&mut self, n: usize) {
        let (front, token) = (format!("localhost:{}", self.front.port), self.files.path().join("token"));
        let replica = &mut self.all[n];
        let listen = replica.address.to_string();
        let (data, more) = (replica.data.clone(), ["--lease-duration", "4"]);
        let mut running = self.release.start_among(&replica.name, data, (&listen, &front), &token, &more);
        // An API server that has just started knows no rights yet.
        running.may_be_refused = true;
        (replica.running, replica.back) = (Some(running), None);
        self.front.add(replica.address);
    }

    /// Kills one; it comes back later.
    pub(super) fn kill(&mut self, n: usize, down: Duration) {
        let replica = &mut self.all[n];
        let Some(mut running) = replica.running.take() else { return };
        running.kill();
        replica.back = Some(tokio::time::Instant::now() + down);
        let address = replica.address;
        self.front.remove(address);
        self.read(&running);
        let log = self.files.path().join(format!("{}.{}.log", self.all[n].name, self.logs.len()));
        std::fs::write(&log, &*running.log.lock()).unwrap();
        self.logs.push(log);
    }

    /// Starts those whose time it is; all of them if `now`.
    pub(super) fn tend(&mut self, now: bool) {
        for n in 0..self.all.len() {
            // Who loses the Lease ends, and is started again by its kubelet.
            if self.all[n].running.as_mut().is_some_and(Controller::has_ended) {
                self.kill(n, Duration::from_millis(200));
            }
        }
        let due = |replica: &Replica| replica.back.is_some_and(|back| now || back <= tokio::time::Instant::now());
        for n in 0..self.all.len() {
            if due(&self.all[n]) {
                self.run(n);
            }
        }
    }

    fn read(&mut self, controller: &Controller) {
        let log = controller.log.lock();
        self.panics.extend(log.lines().filter(|line| line.contains("panicked at")).map(ToOwned::to_owned));
    }

    /// Panics in any log so far.
    pub(super) fn panics(&mut self) -> Vec<String> {
        let running: Vec<Controller> = self.all.iter_mut().filter_map(|replica| replica.running.take()).collect();
        for controller in &running {
            self.read(controller);
        }
        for (replica, controller) in self.all.iter_mut().filter(|replica| replica.back.is_none()).zip(running) {
            replica.running = Some(controller);
        }
        self.panics.clone()
    }

    /// Lines of the logs that name an agent, for somebody who asks why.
    pub(super) fn lines_about(&self, namespace: &str, agent: &str) -> Vec<String> {
        let mut logs: Vec<(String, String)> = vec![];
        for file in &self.logs {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            logs.push((name, std::fs::read_to_string(file).unwrap_or_default()));
        }
        for replica in &self.all {
            let running = replica.running.as_ref().map(|running| running.log.lock().clone());
            logs.push((replica.name.clone(), running.unwrap_or_default()));
        }
        let agent = format!("\"{agent}\"");
        let about = |line: &&str| line.contains(namespace) && line.contains(&agent);
        let of = |(name, log): &(String, String)| -> Vec<String> {
            log.lines().filter(about).map(|line| format!("{name} {line}")).collect()
        };
        logs.iter().flat_map(of).collect()
    }

    pub(super) fn user(&self) -> String {
        self.release.user()
    }

    /// Resident memory in MiB.
    pub(super) fn resident(&self) -> Vec<u64> {
        self.all.iter().filter_map(|replica| replica.running.as_ref()).map(|c| c.resident() >> 20).collect()
    }
}
