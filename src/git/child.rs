//! Transports that are a program: `ssh`, and `git upload-pack` for `file:`.
//!
//! The program is started from a list of arguments, never through a shell on this side, with an empty environment, and
//! is killed at the deadline.

use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gix::protocol::transport::{
    Protocol,
    client::git::{ConnectMode, blocking_io::Connection},
};
use tempfile::TempDir;

use super::{
    address::Policy,
    credential::Auth,
    error::{GitError, Reason, from_ssh},
    remote::{Access, Stop, checked_addresses, timeout},
    url::RemoteUrl,
};

/// Longest time for a connection of `ssh`, in seconds.
const CONNECT_TIMEOUT: u64 = 15;

/// A running program that speaks Git's protocol on its pipes.
pub(super) struct Program {
    /// What gix talks to.
    pub(super) connection: Connection<ChildStdout, ChildStdin>,
    complaint: Option<JoinHandle<String>>,
    host: String,
    /// Where it leads in a private network, and since when: what is there is not told.
    veiled: Option<(RemoteUrl, Instant)>,
    stop: Arc<Stop>,
    /// Key and host keys; removed with the program.
    _secrets: Option<TempDir>,
}

impl Program {
    /// Ends the program and reads from its complaint what went wrong, unless its time was `over`.
    pub(super) fn failure(mut self, over: bool) -> Option<GitError> {
        // Give it a moment: its last words may still be on their way when its output has ended.
        std::thread::sleep(Duration::from_millis(20));
        self.stop.kill_child();
        let text = self.complaint.take()?.join().ok()?;
        let said = from_ssh(&text, &self.host);
        let Some((url, begun)) = &self.veiled else { return said.filter(|_| !over) };
        let error = match said {
            _ if over => timeout(),
            Some(error) => error,
            // It was connected, and something else went wrong.
            None if text.trim().is_empty() => return None,
            None => GitError::new(Reason::ProtocolError, text),
        };
        if !matches!(error.reason, Reason::Unreachable | Reason::Timeout | Reason::ProtocolError) {
            return Some(error);
        }
        self.stop.wait_until_after(*begun, Duration::from_secs(CONNECT_TIMEOUT));
        Some(error.veiled(url, false))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.kill_child();
    }
}

/// Starts `ssh` for an ssh remote.
pub(super) fn ssh(access: &Access, policy: &Policy, stop: &Arc<Stop>) -> Result<Program, GitError> {
    let url = &access.url;
    let Auth::Ssh { identity, known_hosts } = &access.credential.auth else {
        return Err(GitError::new(
            Reason::AuthenticationFailed,
            "an ssh URL needs a Secret with identity and known_hosts",
        ));
    };
    let addresses = checked_addresses(url.host(), url.port().unwrap_or(22), policy)?;
    let place = Place { url, address: addresses.first().copied(), limit: stop.left() };
    // Never beside the clones, which may lie on a disk that outlives the pod; the chart gives memory for this.
    let secrets = write_secrets(identity.expose(), known_hosts, &place, &std::env::temp_dir())
        .map_err(|error| GitError::storage("cannot write the ssh configuration", &error))?;
    let mut command = Command::new("ssh");
    command.arg("-F").arg(secrets.path().join("config")).arg("-T");
    if let Some(port) = url.explicit_port() {
        command.arg("-p").arg(port.to_string());
    }
    command.arg("--").arg(destination(url)).arg(format!("git-upload-pack {}", quote(url.path())));
    command.env("HOME", secrets.path());
    let mut program = start(command, url, Some(secrets), stop)?;
    let veiled = addresses.iter().any(|address| policy.veils(*address));
    program.veiled = veiled.then(|| (url.clone(), Instant::now()));
    Ok(program)
}

/// Starts `git upload-pack` for a repository on this disk.
pub(super) fn file(access: &Access, stop: &Arc<Stop>) -> Result<Program, GitError> {
    let path = access.url.path();
    if !Path::new(path).is_dir() {
        return Err(GitError::new(Reason::RepositoryNotFound, format!("no repository at {path}")));
    }
    let mut command = Command::new("git");
    command.arg("-c").arg(format!("safe.directory={path}")).args(["upload-pack", "--strict", path]);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    start(command, &access.url, None, stop)
}

fn destination(url: &RemoteUrl) -> String {
    url.user().map_or_else(|| url.host().to_owned(), |user| format!("{user}@{}", url.host()))
}

/// For the shell at the other end: in single quotes nothing has a meaning but the quote itself.
fn quote(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

fn start(
    mut command: Command,
    url: &RemoteUrl,
    secrets: Option<TempDir>,
    stop: &Arc<Stop>,
) -> Result<Program, GitError> {
    let home: Vec<_> = command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    command.env_clear().envs(home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("GIT_PROTOCOL", "version=2").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .map_err(|error| GitError::new(Reason::StorageFailed, format!("cannot start {program}: {}", error.kind())))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    stop.adopt(child);
    let (Some(input), Some(output), Some(errors)) = pipes else {
        return Err(GitError::new(Reason::StorageFailed, format!("cannot talk to {program}")));
    };
    let complaint = std::thread::spawn(move || first_words(errors));
    let connection = Connection::new(
        output,
        input,
        Protocol::V2,
        url.path(),
        None::<(&str, Option<u16>)>,
        ConnectMode::Process,
        false,
    );
    let host = url.host().to_owned();
    Ok(Program { connection, complaint: Some(complaint), host, veiled: None, stop: stop.clone(), _secrets: secrets })
}

/// The first 8 KiB; the rest is read and dropped, so that the program never waits for a reader.
fn first_words(mut errors: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = errors.by_ref().take(8192).read_to_end(&mut kept);
    let _ = std::io::copy(&mut errors, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

fn write_secrets(identity: &[u8], known_hosts: &[u8], place: &Place<'_>, folder: &Path) -> std::io::Result<TempDir> {
    let private = fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().prefix("ssh-").permissions(private).tempdir_in(folder)?;
    let (key, hosts) = (dir.path().join("identity"), dir.path().join("known_hosts"));
    private_file(&key, identity)?;
    private_file(&hosts, known_hosts)?;
    private_file(&dir.path().join("config"), configuration(&key, &hosts, place).as_bytes())?;
    Ok(dir)
}

fn private_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Where to connect, and how long that may take.
struct Place<'a> {
    url: &'a RemoteUrl,
    /// The one that was checked, so that a second lookup cannot lead elsewhere.
    address: Option<IpAddr>,
    limit: Duration,
}

impl Place<'_> {
    /// Connects to the address and asks for the host key under the name that `known_hosts` has.
    fn lines(&self) -> String {
        let Some(address) = self.address else { return String::new() };
        let host = self.url.host();
        let alias = match self.url.port() {
            Some(port) if port != 22 => format!("[{host}]:{port}"),
            _ => host.to_owned(),
        };
        format!("HostName {address}\nHostKeyAlias {alias}\n")
    }
}

/// Host keys are always checked, nothing is asked, and no key, agent or file of the machine takes part.
fn configuration(key: &Path, hosts: &Path, place: &Place<'_>) -> String {
    let (lines, connect) = (place.lines(), place.limit.as_secs().clamp(1, CONNECT_TIMEOUT));
    format!(
        "Host *\n\
         {lines}\
         IdentityFile \"{}\"\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         UserKnownHostsFile \"{}\"\n\
         GlobalKnownHostsFile /dev/null\n\
         StrictHostKeyChecking yes\n\
         UpdateHostKeys no\n\
         CheckHostIP no\n\
         BatchMode yes\n\
         PreferredAuthentications publickey\n\
         ClearAllForwardings yes\n\
         ForwardAgent no\n\
         PermitLocalCommand no\n\
         ProxyCommand none\n\
         ControlMaster no\n\
         ControlPath none\n\
         ConnectTimeout {connect}\n\
         ConnectionAttempts 1\n\
         ServerAliveInterval 10\n\
         ServerAliveCountMax 2\n\
         SendEnv GIT_PROTOCOL\n\
         LogLevel ERROR\n",
        key.display(),
        hosts.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_shell_sees_one_word() {
        assert_eq!(quote("/a b"), "'/a b'");
        assert_eq!(quote("/a'; id; '"), r"'/a'\''; id; '\'''");
        assert_eq!(quote("/wow!"), r"'/wow'\!''");
    }

    fn place(url: &RemoteUrl, address: Option<IpAddr>) -> Place<'_> {
        Place { url, address, limit: Duration::from_secs(5) }
    }

    #[test]
    fn ssh_connects_to_the_address_that_was_checked() {
        for (url, alias) in
            [("ssh://git@forge/a", "forge"), ("ssh://git@forge:2222/a", "[forge]:2222"), ("git@forge:a", "forge")]
        {
            let url = RemoteUrl::parse(url, false).unwrap();
            let address = Some("192.0.2.7".parse().unwrap());
            let text = configuration(Path::new("/k"), Path::new("/h"), &place(&url, address));
            assert!(text.contains(&format!("\nHostName 192.0.2.7\nHostKeyAlias {alias}\n")), "{text}");
        }
    }

    #[test]
    fn secrets_are_private_and_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let url = RemoteUrl::parse("ssh://git@h/a", false).unwrap();
        let dir = write_secrets(b"key", b"hosts", &place(&url, None), folder.path()).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("identity"), mode("known_hosts"), mode("config")), (0o600, 0o600, 0o600));
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }
}
