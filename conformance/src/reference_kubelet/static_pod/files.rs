//! The two files that the kubelet mounts into every container: the hosts file and the termination message file.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cri_proto::runtime::v1::Mount;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::Config;
use super::manifest::pod_spec;

/// The hosts file of the C library.
const HOSTS_PATH: &str = "/etc/hosts";
/// The default of a container's `terminationMessagePath`.
pub(super) const TERMINATION_LOG_PATH: &str = "/dev/termination-log";

/// Creates the files in the root directory of the kubelet, and returns their mounts in the kubelet's order.
///
/// # Errors
/// A file cannot be created.
pub(super) fn mounts(config: &Config, pod: &Pod, container: &Container) -> std::io::Result<Vec<Mount>> {
    let bind = |container_path: &str, host_path: &Path| Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    };
    Ok(vec![
        bind(HOSTS_PATH, &hosts_file(config, pod)?),
        bind(TERMINATION_LOG_PATH, &termination_log(config, pod, container)?),
    ])
}

/// Writes the hosts file of the Pod: a copy of the node's file for a Pod with host network, else only loopback names.
fn hosts_file(config: &Config, pod: &Pod) -> std::io::Result<PathBuf> {
    const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let directory = pod_dir(config, pod);
    std::fs::create_dir_all(&directory)?;
    let content = match pod_spec(pod).host_network {
        Some(true) => std::fs::read_to_string(HOSTS_PATH).unwrap_or_else(|_| LOOPBACK.to_owned()),
        _ => LOOPBACK.to_owned(),
    };
    let path = directory.join("etc-hosts");
    std::fs::write(&path, format!("# Kubernetes-managed hosts file.\n{content}"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

/// Creates an empty file for the termination message of one run. Every user in the container may write it.
fn termination_log(config: &Config, pod: &Pod, container: &Container) -> std::io::Result<PathBuf> {
    let directory = pod_dir(config, pod).join("containers").join(&container.name);
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:08x}", rand::random::<u32>()));
    std::fs::File::create(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

pub(super) fn pod_dir(config: &Config, pod: &Pod) -> PathBuf {
    config
        .root_dir
        .join("pods")
        .join(pod.metadata.uid.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_the_mounted_files() {
        let pod: Pod = super::super::yaml(
            "{apiVersion: v1, kind: Pod, metadata: {name: p, uid: u}, spec: {containers: [{name: a}]}}",
        );
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path(), "unix:///x");
        let mounts = mounts(&config, &pod, &pod_spec(&pod).containers[0]).unwrap();
        let path_and_mode = |mount: &Mount| {
            let mode = std::fs::metadata(&mount.host_path).unwrap().permissions().mode() & 0o777;
            (mount.container_path.clone(), mode)
        };
        let expected = [
            ("/etc/hosts".to_owned(), 0o644),
            ("/dev/termination-log".to_owned(), 0o666),
        ];
        assert_eq!(mounts.iter().map(path_and_mode).collect::<Vec<_>>(), expected);
    }
}
