//! The mounts of a container: hostPath and emptyDir volumes, which need no API server, and the two files that the
//! kubelet mounts into every container.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cri_proto::runtime::v1::Mount;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::Config;
use super::manifest::pod_spec;

/// The hosts file of the C library.
pub(super) const HOSTS_PATH: &str = "/etc/hosts";
/// The default of a container's `terminationMessagePath`.
pub(super) const TERMINATION_LOG_PATH: &str = "/dev/termination-log";

/// Returns all mounts of a container in the kubelet's order: volumes, hosts file, termination message file. Creates the
/// last two in the root directory of the kubelet.
///
/// # Errors
/// A file cannot be created.
pub(super) fn all_mounts(config: &Config, pod: &Pod, container: &Container) -> std::io::Result<Vec<Mount>> {
    let mut mounts = mounts(config, pod, container);
    let bind = |container_path: &str, host_path: &Path| Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    };
    if !mounts.iter().any(|mount| mount.container_path == HOSTS_PATH) {
        mounts.push(bind(HOSTS_PATH, &hosts_file(config, pod)?));
    }
    let path = container
        .termination_message_path
        .as_deref()
        .unwrap_or(TERMINATION_LOG_PATH);
    mounts.push(bind(path, &termination_log(config, pod, container)?));
    Ok(mounts)
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

/// Returns the volume mounts of a container. Skips unsupported volumes with a warning.
fn mounts(config: &Config, pod: &Pod, container: &Container) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for volume_mount in container.volume_mounts.iter().flatten() {
        let Some(host) = host_path(config, pod, &volume_mount.name) else {
            tracing::warn!(
                volume = volume_mount.name,
                "skipped a volume: only hostPath and emptyDir are supported"
            );
            continue;
        };
        let host = volume_mount
            .sub_path
            .as_ref()
            .map_or(host.clone(), |below| host.join(below));
        mounts.push(Mount {
            container_path: volume_mount.mount_path.clone(),
            host_path: host.display().to_string(),
            readonly: volume_mount.read_only == Some(true),
            ..Mount::default()
        });
    }
    mounts
}

pub(super) fn create_empty_dirs(config: &Config, pod: &Pod) -> std::io::Result<()> {
    for volume in pod_spec(pod)
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.empty_dir.is_some())
    {
        std::fs::create_dir_all(empty_dir(config, pod, &volume.name))?;
    }
    Ok(())
}

pub(super) fn pod_dir(config: &Config, pod: &Pod) -> PathBuf {
    config
        .root_dir
        .join("pods")
        .join(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn empty_dir(config: &Config, pod: &Pod, name: &str) -> PathBuf {
    pod_dir(config, pod).join("volumes/kubernetes.io~empty-dir").join(name)
}

fn host_path(config: &Config, pod: &Pod, name: &str) -> Option<PathBuf> {
    let volume = pod_spec(pod)
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name == name)?;
    match (&volume.host_path, &volume.empty_dir) {
        (Some(host), _) => Some(PathBuf::from(&host.path)),
        (None, Some(_)) => Some(empty_dir(config, pod, name)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_supported_volumes() {
        let pod: Pod = super::super::yaml(
            "{apiVersion: v1, kind: Pod, metadata: {name: p, uid: u}, spec: {volumes: [{name: h, hostPath: {path: /srv}}, \
             {name: e, emptyDir: {}}, {name: s, secret: {secretName: x}}], containers: [{name: a, volumeMounts: [\
             {name: h, mountPath: /h, readOnly: true, subPath: below}, {name: e, mountPath: /e}, \
             {name: s, mountPath: /s}]}]}}",
        );
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path(), "unix:///x");
        let mounts = mounts(&config, &pod, &pod_spec(&pod).containers[0]);
        let paths_and_modes: Vec<_> = mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
        assert_eq!(paths_and_modes, [("/h", true), ("/e", false)]);
        assert_eq!(mounts[0].host_path, "/srv/below");
        let all = all_mounts(&config, &pod, &pod_spec(&pod).containers[0]).unwrap();
        let paths: Vec<_> = all.iter().map(|m| m.container_path.as_str()).collect();
        assert_eq!(paths, ["/h", "/e", "/etc/hosts", "/dev/termination-log"]);
        let mode = |mount: &Mount| std::fs::metadata(&mount.host_path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&all[2]), mode(&all[3])), (0o644, 0o666));
        create_empty_dirs(&config, &pod).unwrap();
        assert!(std::fs::metadata(&mounts[1].host_path).unwrap().is_dir());
    }
}
