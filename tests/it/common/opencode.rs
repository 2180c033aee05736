//! The real opencode server, pinned, from npm.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pilothouse::pod::opencode::Client;
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
        let home = tempfile::tempdir().expect("a home");
        let workspace = home.path().join("workspace");
        std::fs::create_dir(&workspace).expect("a workspace");
        let log = std::fs::File::create(home.path().join("server.log")).expect("a log");
        let port = free_port();
        let child = Command::new(binary())
            .args(["serve", "--hostname", host, "--port", &port.to_string(), "--print-logs"])
            .current_dir(&workspace)
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OPENCODE_CONFIG_CONTENT", config.to_string())
            .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
            .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("opencode starts");
        let server = Self { port, workspace, child, home };
        server.wait().await;
        server
    }

    /// A client without the door.
    pub(crate) fn client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.port), None).expect("a client")
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

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}
