//! Flags of `pilothouse controller`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{ArgAction, Args};

use crate::{
    agent::{build::layout::NEWEST, compare::quantity},
    git::Network,
    store::DatabaseUrl,
};

/// Layouts that can be asked for.
fn layouts() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(NEWEST) + i64::from(cfg!(debug_assertions)))
}

/// Flags of `pilothouse controller`; each can come from the environment.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Namespace that the controller itself runs in: its Lease and its Secrets are there
    #[arg(long, env = "POD_NAMESPACE", default_value = "pilothouse-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// ServiceAccount that the controller runs as: Syncs and Agents of its own namespace may not use it
    #[arg(long, env = "PILOTHOUSE_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,
    /// Name of this replica, unique among them; default: a random one
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Namespaces to watch, separated by commas; none: all of them, which needs cluster-wide rights
    #[arg(long, env = "PILOTHOUSE_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES")]
    pub watch_namespaces: Vec<String>,
    /// Objects of one kind that are reconciled at a time
    #[arg(long, env = "PILOTHOUSE_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "PILOTHOUSE_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Address for the sidecars' connections (TLS)
    #[arg(long, env = "PILOTHOUSE_VOICE_LISTEN", default_value = "0.0.0.0:9443", value_name = "ADDRESS")]
    pub voice_listen: SocketAddr,
    /// How sidecars reach the controller: host:port of its Service
    #[arg(long, env = "PILOTHOUSE_VOICE_ADDRESS", value_name = "HOST:PORT")]
    pub voice_address: Option<String>,
    /// How this replica alone is reached, host:port; followers send sidecars to the leader's
    #[arg(long, env = "PILOTHOUSE_ADVERTISE_ADDRESS", value_name = "HOST:PORT")]
    pub advertise_address: Option<String>,
    /// File with the controller's own projected token for the audience "pilothouse", with which replicas ask each other for
    /// artifacts; without it they do not
    #[arg(long, env = "PILOTHOUSE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Image of Pilothouse itself, for the sidecar and for Task pods
    #[arg(long, env = "PILOTHOUSE_SYSTEM_IMAGE", value_name = "IMAGE")]
    pub system_image: Option<String>,
    /// Layout that new pods get: an older one, for a way back to the release before. A program built for tests knows the next
    /// one too, which differs in its number alone
    #[arg(long, hide = true, env = "PILOTHOUSE_POD_LAYOUT", default_value_t = NEWEST, value_parser = layouts(), value_name = "N")]
    pub layout: u32,
    /// ClusterRole that Syncs which lack rights are told to bind to their account; the chart makes one
    #[arg(long, env = "PILOTHOUSE_SYNC_CLUSTER_ROLE", value_name = "NAME")]
    pub sync_cluster_role: Option<String>,
    /// Folder for clones and artifacts; it may be lost at any time, it is then fetched again
    #[arg(long, env = "PILOTHOUSE_DATA_DIR", default_value = "/var/lib/pilothouse", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Size of the volume with that folder; clones take at most half of it, and those that were not used for longest make room; artifacts
    /// take three eighths, and those of one namespace no more than they leave free
    #[arg(long, env = "PILOTHOUSE_DATA_SIZE", default_value = "5Gi", value_name = "QUANTITY")]
    pub data_size: Bytes,
    /// Database of the history: `postgres://USER:PASSWORD@HOST/DATABASE`, `sqlite:FILE`, or none for no history; default: `SQLite` in a
    /// file of the data folder, which is for one replica
    #[arg(
        long,
        env = "PILOTHOUSE_HISTORY_DATABASE_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub history_database_url: DatabaseUrl,
    /// Days that the history keeps what became of Tasks and Syncs
    #[arg(long, env = "PILOTHOUSE_HISTORY_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36500), value_name = "DAYS")]
    pub history_days: u32,
    /// Tasks that the history keeps at most, and as many revisions of Syncs
    #[arg(long, env = "PILOTHOUSE_HISTORY_RECORDS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    pub history_records: u32,
    /// Accept Repositories with a file: url (for development; it reads the controller's own disk)
    #[arg(long, env = "PILOTHOUSE_ALLOW_FILE_REPOSITORIES")]
    pub allow_file_repositories: bool,
    /// Addresses and ranges (10.1.2.3, 10.0.0.0/8), separated by commas, where Git servers may be although nothing else of
    /// their kind is let through: loopback, link-local and metadata addresses, the API server's, the
    /// controller's own and its node's
    #[arg(long, env = "PILOTHOUSE_ALLOW_GIT_ADDRESS", value_delimiter = ',', value_name = "CIDR")]
    pub allow_git_address: Vec<Network>,
    /// Compete for the Lease; with false there must be one replica only
    #[arg(long, env = "PILOTHOUSE_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// Name of the Lease
    #[arg(long, env = "PILOTHOUSE_LEASE_NAME", default_value = "pilothouse-controller", value_name = "NAME")]
    pub lease_name: String,
    /// Seconds until another replica takes over from a leader that vanished
    #[arg(long, env = "PILOTHOUSE_LEASE_DURATION", default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=300), value_name = "SECONDS")]
    pub lease_duration: u64,
    /// Seconds that running reconciles may take after a stop was asked for; then they are cut. A pod's grace must be longer
    #[arg(long, hide = true, env = "PILOTHOUSE_DRAIN", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=3600), value_name = "SECONDS")]
    pub drain: u64,
    /// Names or addresses of the API server, which no Repository may reach.
    #[arg(skip)]
    pub api_hosts: Vec<String>,
    /// Addresses of the controller's own pod and of its node, as far as known; no Repository may reach them either.
    #[arg(skip)]
    pub own_addresses: Vec<IpAddr>,
    #[arg(skip = random_identity())]
    #[doc(hidden)]
    pub fallback_identity: String,
}

impl Settings {
    /// The replica's name in the Lease and in Events.
    pub fn identity(&self) -> String {
        self.pod_name.clone().unwrap_or_else(|| self.fallback_identity.clone())
    }

    /// How this replica alone is reached. The chart can only write a pod's address before the port, so one of IPv6 gets its
    /// brackets here.
    pub fn advertised(&self) -> Option<String> {
        let address = self.advertise_address.as_deref().filter(|address| !address.is_empty())?;
        match address.rsplit_once(':') {
            Some((host, port)) if host.contains(':') && !host.starts_with('[') => Some(format!("[{host}]:{port}")),
            _ => Some(address.to_owned()),
        }
    }

    /// The controller's own `ServiceAccount`, in [`namespace`](Self::namespace).
    pub fn own_account(&self) -> Option<&str> {
        self.service_account.as_deref().filter(|name| !name.is_empty())
    }

    /// The `ClusterRole` for the accounts of Syncs.
    pub fn sync_role(&self) -> Option<&str> {
        self.sync_cluster_role.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether this is the controller's own `ServiceAccount`.
    pub fn is_own_account(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.own_account() == Some(name)
    }
}

/// A number of bytes, at least 1 MiB, written like any quantity of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = &'static str;

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is larger than zero, and more is all there is"
    )]
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = quantity(text).ok_or("it is a quantity, for example 5Gi")?;
        if bytes < 1_048_576.0 { Err("it is 1Mi at least") } else { Ok(Self(bytes as u64)) }
    }
}

fn random_identity() -> String {
    format!("pilothouse-{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn an_address_of_ipv6_gets_its_brackets() {
        for (given, advertised) in [
            ("10.1.2.3:9443", Some("10.1.2.3:9443")),
            ("fd00::5:9443", Some("[fd00::5]:9443")),
            ("[fd00::5]:9443", Some("[fd00::5]:9443")),
            ("replica-0.svc:9443", Some("replica-0.svc:9443")),
            ("", None),
        ] {
            let settings = Flags::try_parse_from(["x", "--advertise-address", given]).unwrap().settings;
            assert_eq!(settings.advertised().as_deref(), advertised, "{given}");
        }
    }

    #[test]
    fn a_size_is_a_quantity() {
        let parse =
            |text: &str| Flags::try_parse_from(["x", "--data-size", text]).map(|flags| flags.settings.data_size.0);
        for (text, bytes) in [("5Gi", 5 << 30), ("1.5Gi", 3 << 29), ("2M", 2_000_000), ("1048576", 1 << 20)] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "Gi", "1k", "-5Gi", "5 Gi", "5GB"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(Flags::try_parse_from(["x"]).unwrap().settings.data_size, Bytes(5 << 30));
    }

    #[test]
    fn the_controller_s_own_account_is_known_in_its_namespace_alone() {
        let parse = |account: &str| {
            let flags = ["x", "--namespace", "system", "--service-account", account];
            Flags::try_parse_from(flags).unwrap().settings
        };
        let settings = parse("ph");
        assert!(settings.is_own_account("system", "ph"));
        assert!(!settings.is_own_account("team", "ph") && !settings.is_own_account("system", "default"));
        assert!(!parse("").is_own_account("system", ""));
    }
}
