//! A pod without a container runtime: folders where its programs expect them, and the programs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Pod, Secret},
};
use kube::{Api, Client, ResourceExt as _};
use tokio::process::{Child, Command};

use super::watched::surely;
use crate::common::controller::pilothouse;

/// Puts the root of the machine beside folders of the pod's own, and runs a program there.
const SCRIPT: &str = r#"set -e
pod=$1; shift
mount -t tmpfs -o size=1m none "$pod/root"
for path in /*; do
  name=${path#/}
  case $name in workspace|skills|pilothouse) continue ;; esac
  if [ -L "$path" ]; then cp -P "$path" "$pod/root/"
  elif [ -d "$path" ]; then mkdir "$pod/root/$name"; mount --rbind "$path" "$pod/root/$name"; fi
done
for name in workspace skills pilothouse; do mkdir "$pod/root/$name"; mount --bind "$pod/$name" "$pod/root/$name"; done
exec chroot "$pod/root" "$@""#;

/// Folders of a pod.
pub(super) struct Folders(pub(super) PathBuf);

impl Folders {
    pub(super) fn new(root: &Path, pod: &Pod) -> Self {
        let folder = root.join(pod.uid().unwrap());
        for name in ["root", "workspace", "skills"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        Self(folder)
    }

    /// Where the pod sees a mounted object.
    pub(super) fn mount(&self, name: &str) -> PathBuf {
        let folder = self.0.join("pilothouse").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Writes the files of an object, each in one step.
    pub(super) fn write(&self, name: &str, files: &BTreeMap<String, Vec<u8>>) {
        let folder = self.mount(name);
        for (key, bytes) in files {
            let new = folder.join(format!(".{key}"));
            std::fs::write(&new, bytes).unwrap();
            std::fs::rename(new, folder.join(key)).unwrap();
        }
    }

    /// Starts a program that sees the pod's folders, and this machine's files otherwise.
    pub(super) fn run(&self, arguments: &[String], environment: &BTreeMap<String, String>, log: &str) -> Child {
        let log = std::fs::File::create(self.0.join(log)).unwrap();
        let mut command = Command::new("setpriv");
        // The process keeps its id to the end of the chain, and dies with this one.
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "sh", "-c", SCRIPT, "sh"]).arg(&self.0).arg(pilothouse()).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().expect("unshare, of util-linux")
    }
}

/// Variables of a container that have a value of their own.
pub(super) fn environment(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let all = spec.containers.into_iter().chain(spec.init_containers.unwrap_or_default());
    let of = all.filter(|c| c.name == container).flat_map(|c| c.env.unwrap_or_default());
    let mut found: BTreeMap<_, _> = of.filter_map(|v| Some((v.name, v.value?))).collect();
    found.insert("POD_NAME".into(), pod.name_any());
    found.insert("POD_NAMESPACE".into(), pod.namespace().unwrap_or_default());
    found.insert("POD_UID".into(), pod.uid().unwrap_or_default());
    found
}

/// The files of a Secret.
pub(super) async fn secret(client: &Client, namespace: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = surely(name, || api.get(name)).await;
    secret.data.unwrap_or_default().into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect()
}

/// The files of a ConfigMap.
pub(super) async fn map(client: &Client, namespace: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    files(&surely(name, || api.get(name)).await)
}

pub(super) fn files(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes())).collect()
}
