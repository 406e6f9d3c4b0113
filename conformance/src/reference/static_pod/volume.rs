//! Volumes that need no API server: folders of the host, and empty ones of the Pod.

use std::path::PathBuf;

use cri_proto::runtime::v1::Mount;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::Config;
use super::manifest::spec;

/// The mounts of a container. A volume of another kind is left out, with a warning.
pub(super) fn mounts(config: &Config, pod: &Pod, container: &Container) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(host) = host_path(config, pod, &wanted.name) else {
            tracing::warn!(
                volume = wanted.name,
                "left out: only hostPath and emptyDir are known here"
            );
            continue;
        };
        let host = wanted.sub_path.as_ref().map_or(host.clone(), |below| host.join(below));
        mounts.push(Mount {
            container_path: wanted.mount_path.clone(),
            host_path: host.display().to_string(),
            readonly: wanted.read_only == Some(true),
            ..Mount::default()
        });
    }
    mounts
}

/// Makes the empty volumes of a Pod.
pub(super) fn prepare(config: &Config, pod: &Pod) -> std::io::Result<()> {
    for volume in spec(pod)
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.empty_dir.is_some())
    {
        std::fs::create_dir_all(empty_dir(config, pod, &volume.name))?;
    }
    Ok(())
}

/// Where the kubelet keeps what belongs to a Pod.
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
    let volume = spec(pod).volumes.iter().flatten().find(|volume| volume.name == name)?;
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
    fn mounts_what_it_knows() {
        let pod: Pod = super::super::yaml(
            "{apiVersion: v1, kind: Pod, metadata: {name: p, uid: u}, spec: {volumes: [{name: h, hostPath: {path: /srv}}, \
             {name: e, emptyDir: {}}, {name: s, secret: {secretName: x}}], containers: [{name: a, volumeMounts: [\
             {name: h, mountPath: /h, readOnly: true, subPath: below}, {name: e, mountPath: /e}, \
             {name: s, mountPath: /s}]}]}}",
        );
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path(), "unix:///x");
        let mounts = mounts(&config, &pod, &spec(&pod).containers[0]);
        let seen: Vec<_> = mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
        assert_eq!(seen, [("/h", true), ("/e", false)]);
        assert_eq!(mounts[0].host_path, "/srv/below");
        prepare(&config, &pod).unwrap();
        assert!(std::fs::metadata(&mounts[1].host_path).unwrap().is_dir());
    }
}
