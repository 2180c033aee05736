//! The real opencode server, pinned, from npm.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pilothouse::pod::opencode::{Client, Credentials};
use serde_json::Value;

use super::controller::program;

/// Path of the program: fetched once by `tests/cluster`, which pins it by version and digest, and puts it into images too.
pub(crate) fn binary() -> PathBuf {
    program("opencode")
}

/// A running server with a home and a workspace of its own; it stops with the value.
#[derive(Debug)]
pub(crate) struct Server {
    /// Port on loopback.
    pub(crate) port: u16,
    /// Its working directory.
    pub(crate) workspace: PathBuf,
    child: Child,
    home: tempfile::TempDir,
    host: String,
    config: Value,
    password: Option<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it with this configuration and waits until it answers.
    pub(crate) async fn start(config: &Value) -> Self {
        Self::start_on("127.0.0.1", config).await
    }

    /// Starts it on another address than loopback.
    pub(crate) async fn start_on(host: &str, config: &Value) -> Self {
        Self::start_with(host, config, None).await
    }

    /// The same with a password that it asks for; its user is `opencode`.
    pub(crate) async fn start_with(host: &str, config: &Value, password: Option<&str>) -> Self {
        let home = tempfile::tempdir().expect("a home");
        let workspace = home.path().join("workspace");
        std::fs::create_dir(&workspace).expect("a workspace");
        let (port, host, config, password) = (free_port(), host.to_owned(), config.clone(), password.map(String::from));
        let child = spawn(&home, &host, port, &config, password.as_deref());
        let server = Self { port, workspace, child, home, host, config, password };
        server.wait().await;
        server
    }

    /// Kills it and starts it again, with the same disk.
    pub(crate) async fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(&self.home, &self.host, self.port, &self.config, self.password.as_deref());
        self.wait().await;
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal]).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill").success(), "{signal}");
    }

    /// A client without the door.
    pub(crate) fn client(&self) -> Client {
        let password = self.password.clone();
        let credentials = password.map(|password| Credentials { username: "opencode".into(), password });
        Client::new(&format!("http://127.0.0.1:{}", self.port), credentials.as_ref()).expect("a client")
    }

    async fn wait(&self) {
        // A connection made while the server starts may never be answered: each try has its own.
        let client = self.client().with_timeout(Duration::from_secs(2));
        for _ in 0..240 {
            match client.health().await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
            }
        }
        let log = std::fs::read_to_string(self.home.path().join("server.log")).unwrap_or_default();
        panic!("opencode did not start:\n{log}");
    }
}

fn spawn(home: &tempfile::TempDir, host: &str, port: u16, config: &Value, password: Option<&str>) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.path().join("server.log"));
    let mut command = Command::new(binary());
    command
        .args(["serve", "--hostname", host, "--port", &port.to_string(), "--print-logs"])
        .current_dir(home.path().join("workspace"))
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("OPENCODE_CONFIG_CONTENT", config.to_string())
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .envs(password.map(|password| ("OPENCODE_SERVER_PASSWORD", password)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("a log"));
    command.spawn().expect("opencode starts")
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}
