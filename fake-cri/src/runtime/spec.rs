//! The OCI runtime specification of a container, for `spec.dump` in archives and for `crictl inspect`.
//!
//! It describes what really runs: argv, environment, user and privileges. Requested fields that are not applied
//! (mounts, limits, masked paths, namespaces: see `unapplied_fields`) are absent. The annotations are those of
//! containerd or CRI-O, in which checkpointctl looks up the names of the container and its pod.

use cri_proto::document::{SpecDump, spec::Mount};
use serde_json::{Value, json};

use super::{ContainerRecord, Pod, command};
use crate::checkpoint::Layout;

const OCI_VERSION: &str = "1.2.0";

pub(crate) fn spec(layout: Layout, record: &ContainerRecord, pod: &Pod) -> serde_json::Result<SpecDump> {
    let config = &record.config;
    let user = record.user().unwrap_or_default();
    let env: Vec<String> = command::env(record, pod)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let cwd = command::cwd(record).unwrap_or_else(|| "/".into());
    let mut spec: SpecDump = serde_json::from_value(json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": config.tty,
            "user": {
                "uid": cri_id_to_u32(user.uid),
                "gid": cri_id_to_u32(user.gid),
                "additionalGids": user.supplemental_groups.iter().map(|gid| cri_id_to_u32(*gid)).collect::<Vec<_>>(),
            },
            "args": command::argv(record),
            "env": env,
            "cwd": cwd,
            "noNewPrivileges": record.identity.as_ref().is_some_and(|identity| identity.no_new_privs),
        },
        "root": {
            "path": "/",
            "readonly": false,
        },
        "mounts": [],
        "annotations": match layout {
            Layout::Containerd => containerd_annotations(record, pod),
            Layout::CriO => crio_annotations(record, pod),
        },
        "linux": {
            "resources": {},
            "cgroupsPath": null,
            "namespaces": [],
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    }))?;
    if let Some(original) = &record.restored.spec {
        merge_restored_spec(&mut spec, original);
    }
    Ok(spec)
}

/// Copies the archive's specification into that of a restored container, because the restored processes keep the
/// attributes of the dumped ones. The annotations (names of container and pod), the cgroup path and the namespaces stay
/// those of the new container, and its own mounts replace mounts with the same destination.
fn merge_restored_spec(spec: &mut SpecDump, original: &SpecDump) {
    spec.set_process(original.process().clone());
    spec.set_hostname(original.hostname().clone());
    if let (Some(root), Some(original_root)) = (spec.root_mut(), original.root()) {
        root.set_readonly(original_root.readonly());
    }
    let current_mounts = spec.mounts().clone().unwrap_or_default();
    let is_replaced = |mount: &&Mount| {
        current_mounts
            .iter()
            .any(|current| current.destination() == mount.destination())
    };
    let original_mounts = original.mounts().iter().flatten().filter(|mount| !is_replaced(mount));
    let mounts = original_mounts.chain(&current_mounts).cloned().collect();
    spec.set_mounts(Some(mounts));
    if let Some(original_linux) = original.linux() {
        let mut linux = original_linux.clone();
        if let Some(current_linux) = spec.linux() {
            linux.set_cgroups_path(current_linux.cgroups_path().clone());
            linux.set_namespaces(current_linux.namespaces().clone());
        }
        spec.set_linux(Some(linux));
    }
}

fn containerd_annotations(record: &ContainerRecord, pod: &Pod) -> Value {
    let metadata = pod.metadata();
    json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": record.name(),
        "io.kubernetes.cri.image-name": record.image_name(),
        "io.kubernetes.cri.sandbox-id": pod.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    })
}

/// The annotations of CRI-O, in which maps are JSON strings.
fn crio_annotations(record: &ContainerRecord, pod: &Pod) -> Value {
    let config = &record.config;
    let metadata = pod.metadata();
    let created = jiff::Timestamp::from_nanosecond(i128::from(record.created_at)).unwrap_or_default();
    let sorted_json = |map: &std::collections::HashMap<String, String>| {
        json!(map.iter().collect::<std::collections::BTreeMap<_, _>>()).to_string()
    };
    let attempt = config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    // CRI-O omits an attempt of 0.
    let name = match attempt {
        0 => json!({ "name": record.name() }),
        attempt => json!({ "name": record.name(), "attempt": attempt }),
    };
    let log = record.log.as_ref().map(|log| log.display().to_string());
    json!({
        "io.container.manager": "cri-o",
        "io.kubernetes.container.name": record.name(),
        "io.kubernetes.pod.name": metadata.name,
        "io.kubernetes.pod.namespace": metadata.namespace,
        "io.kubernetes.pod.uid": metadata.uid,
        "io.kubernetes.cri-o.Annotations": sorted_json(&config.annotations),
        "io.kubernetes.cri-o.ContainerID": record.id,
        "io.kubernetes.cri-o.ContainerName": crio_name(record, pod),
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.Created": created.to_string(),
        "io.kubernetes.cri-o.Image": record.image_ref(),
        "io.kubernetes.cri-o.ImageName": record.image_name(),
        "io.kubernetes.cri-o.ImageRef": record.image_ref(),
        "io.kubernetes.cri-o.Labels": sorted_json(&config.labels),
        "io.kubernetes.cri-o.LogPath": log.unwrap_or_default(),
        "io.kubernetes.cri-o.Metadata": name.to_string(),
        "io.kubernetes.cri-o.Name": crio_name(record, pod),
        "io.kubernetes.cri-o.SandboxID": pod.id,
        "io.kubernetes.cri-o.SandboxName": format!("k8s_{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt),
        "io.kubernetes.cri-o.Stdin": config.stdin.to_string(),
        "io.kubernetes.cri-o.StdinOnce": config.stdin_once.to_string(),
        "io.kubernetes.cri-o.TTY": config.tty.to_string(),
        "io.kubernetes.cri-o.Volumes": "[]",
    })
}

/// The name of a container in CRI-O: `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
pub(crate) fn crio_name(record: &ContainerRecord, pod: &Pod) -> String {
    let metadata = pod.metadata();
    let attempt = record.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    format!(
        "k8s_{}_{}_{}_{}_{attempt}",
        record.name(),
        metadata.name,
        metadata.namespace,
        metadata.uid
    )
}

/// The specification has unsigned ids, the CRI signed ones. Valid requests have no negative ids.
fn cri_id_to_u32(id: i64) -> u32 {
    u32::try_from(id).unwrap_or(0)
}
