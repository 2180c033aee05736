//! A real PostgreSQL server on loopback, with a password.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Set to 1 by who has no PostgreSQL and wants the rest tested.
const NONE: &str = "PILOTHOUSE_TEST_WITHOUT_POSTGRES";
/// User and group nobody: the server refuses to run as root.
const NOBODY: u32 = 65534;

/// A running server. Dropping it ends it.
pub(crate) struct Postgres {
    bin: PathBuf,
    folder: tempfile::TempDir,
    child: Option<Child>,
    port: Held,
}

/// A port that nobody else gets, whether somebody listens there or not: bound, and never listened at.
pub(crate) struct Held {
    at: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl Held {
    /// A free port of this address. Who sets `SO_REUSEADDR`, as servers do, may listen there.
    pub(crate) fn on(host: IpAddr) -> Self {
        let socket = if host.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        let socket = socket.unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((host, 0).into()).unwrap();
        Self { at: socket.local_addr().unwrap(), _socket: socket }
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.at
    }
}

/// Where the server's programs are: Debian keeps them off the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let whole = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|program| folder.join(program).exists());
    debian.filter(whole).max().or_else(|| std::env::split_paths(&path).find(whole))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Postgres {
    /// Starts it; `None` where there is none and [`NONE`] says that nobody minds.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            assert!(
                std::env::var_os(NONE).is_some_and(|value| value == "1"),
                "no PostgreSQL on this machine (Debian: postgresql); {NONE}=1 leaves out what needs it"
            );
            eprintln!("SKIPPED: no PostgreSQL, as {NONE} allows");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "geh:eim/1").unwrap();
        if is_root() {
            for path in [folder.path(), &folder.path().join("password")] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let port = Held::on(Ipv4Addr::LOCALHOST.into());
        let mut server = Self { bin, folder, child: None, port };
        let mut initdb = server.program("initdb");
        initdb.args(["--no-sync", "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--username=history"]);
        initdb.arg("--pwfile").arg(server.folder.path().join("password"));
        let made = initdb.arg("--pgdata").arg(server.data()).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.go_on();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.folder.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it again after [`stop`](Self::stop), at the same address.
    pub(crate) fn go_on(&mut self) {
        let port = self.port.at().port().to_string();
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &port, "-h", "127.0.0.1", "-k", ""]);
        command.args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=50"]);
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        for _ in 0..6000 {
            // Its eighth line says how far the server is.
            let state = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return;
            }
            if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "PostgreSQL did not start: {}",
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        );
    }

    /// Ends it at once, with all connections.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A fast shutdown; it takes its own children along, which a kill would leave behind.
        let asked = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
        assert!(asked.is_ok_and(|status| status.success()), "kill");
        let _ = child.wait();
    }

    /// URL of the database that is always there.
    pub(crate) fn url(&self) -> String {
        // The password as it is quoted in a URL.
        format!("postgres://history:geh%3Aeim%2F1@127.0.0.1:{}/postgres", self.port.at().port())
    }

    /// With a certificate from now on; the next start uses it.
    pub(crate) fn use_tls(&self, certificate: &str, key: &str) {
        let data = self.data();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            write_private(&data.join(name), text);
        }
        let file = data.join("postgresql.conf");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{before}\nssl = on\n")).unwrap();
    }
}

/// The server takes a key that it alone can read.
fn write_private(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    if is_root() {
        chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
