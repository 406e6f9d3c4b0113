//! Converts the runtime's objects to messages of the CRI.

use std::collections::HashMap;

use cri_proto::runtime::v1;
use serde_json::json;

use crate::runtime::{self, ContainerRecord, ContainerUsage, Pod, Runtime, image::Image, to_json};

pub(crate) fn pod(pod: Pod) -> v1::PodSandbox {
    v1::PodSandbox {
        state: pod_state(&pod),
        id: pod.id,
        metadata: pod.config.metadata,
        created_at: pod.created_at,
        labels: pod.config.labels,
        annotations: pod.config.annotations,
        runtime_handler: pod.runtime_handler,
    }
}

fn pod_state(pod: &Pod) -> i32 {
    match pod.ready {
        true => v1::PodSandboxState::SandboxReady as i32,
        false => v1::PodSandboxState::SandboxNotready as i32,
    }
}

pub(crate) fn pod_status(pod: &Pod) -> v1::PodSandboxStatus {
    // Containers share the host's network, so they are reachable at the loopback address. For a pod with hostNetwork
    // the kubelet uses the address of the node and expects none from the runtime.
    let ip = match pod.ready && !pod.host_network() {
        true => "127.0.0.1".to_owned(),
        false => String::new(),
    };
    v1::PodSandboxStatus {
        id: pod.id.clone(),
        metadata: pod.config.metadata.clone(),
        state: pod_state(pod),
        created_at: pod.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip,
            additional_ips: Vec::new(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(pod.namespace_options().cloned().unwrap_or_default()),
            }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.runtime_handler.clone(),
    }
}

/// The info of a verbose PodSandboxStatus, with containerd's keys. The pid is 0, because a sandbox has no process.
pub(crate) fn pod_info(pod: &Pod) -> HashMap<String, String> {
    info(json!({
        "pid": 0,
        "processStatus": if pod.ready { "running" } else { "deleted" },
        "netNamespaceClosed": !pod.ready,
        "image": "",
        "snapshotKey": pod.id,
        "snapshotter": "",
        "runtimeHandler": pod.runtime_handler,
        "runtimeType": "fake-cri",
        "config": to_json(&pod.config),
    }))
}

fn info(value: serde_json::Value) -> HashMap<String, String> {
    [("info".to_owned(), value.to_string())].into()
}

pub(crate) fn container(record: ContainerRecord) -> v1::Container {
    v1::Container {
        image: record.config.image.clone(),
        image_ref: record.image.id.clone(),
        state: record.cri_state() as i32,
        id: record.id,
        pod_sandbox_id: record.pod_id,
        metadata: record.config.metadata,
        created_at: record.created_at,
        labels: record.config.labels,
        annotations: record.config.annotations,
        image_id: record.image.id,
    }
}

/// The info of a verbose ContainerStatus, with containerd's keys. `pid` is the pid of the first process on the host, or
/// 0 if the container does not run. For a restored container, `unsupportedState` lists the state that is missing in its
/// archive.
pub(crate) fn container_info(runtime: &Runtime, record: &ContainerRecord) -> HashMap<String, String> {
    let mut value = json!({
        "sandboxID": record.pod_id,
        "pid": record.state.init().map_or(0, |process| process.pid.as_raw()),
        "removing": false,
        "snapshotKey": record.id,
        "snapshotter": "",
        "runtimeType": "fake-cri",
        "config": to_json(&record.config),
        "runtimeSpec": runtime.spec_json(record),
    });
    if record.restore.is_some() {
        value["unsupportedState"] = json!(record.restored.unsupported_state);
    }
    info(value)
}

pub(crate) fn container_stats(runtime: &Runtime, usage: ContainerUsage) -> v1::ContainerStats {
    let record = usage.record;
    let value = |value| Some(v1::UInt64Value { value });
    let limit = u64::try_from(record.resources.memory_limit_in_bytes).unwrap_or(0);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        cpu: usage.cpu_ns_and_rate.map(|(total, rate)| v1::CpuUsage {
            timestamp: usage.timestamp_ns,
            usage_core_nano_seconds: value(total),
            usage_nano_cores: value(rate),
            psi: None,
        }),
        memory: usage.memory_bytes.map(|memory| v1::MemoryUsage {
            timestamp: usage.timestamp_ns,
            working_set_bytes: value(memory),
            available_bytes: (limit > 0).then(|| v1::UInt64Value {
                value: limit.saturating_sub(memory),
            }),
            usage_bytes: value(memory),
            rss_bytes: value(memory),
            ..Default::default()
        }),
        // Containers write to the host's file system and have no writable layer.
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: usage.timestamp_ns,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: runtime.state_dir().to_string_lossy().into_owned(),
            }),
            used_bytes: value(0),
            inodes_used: value(0),
        }),
        swap: None,
        io: None,
    }
}

pub(crate) fn image(image: &Image) -> v1::Image {
    // The user is a uid or a name, optionally followed by `:GROUP`.
    let user = image.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: match (uid, user.is_empty()) {
            (Some(value), _) => Some(v1::Int64Value { value }),
            (None, true) => Some(v1::Int64Value { value: 0 }),
            (None, false) => None,
        },
        username: match uid {
            Some(_) => String::new(),
            None => user.to_owned(),
        },
        spec: Some(v1::ImageSpec {
            image: image.repo_tags.first().unwrap_or(&image.id).clone(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// The info of a verbose ImageStatus: the image config, with the keys of an OCI image.
pub(crate) fn image_info(image: &Image) -> HashMap<String, String> {
    info(json!({
        "chainID": image.id,
        "imageSpec": {
            "config": {
                "User": image.user,
                "Entrypoint": image.entrypoint,
                "Cmd": image.cmd,
                "Env": image.env,
                "WorkingDir": image.working_dir,
                "StopSignal": image.stop_signal,
            },
        },
    }))
}

/// The usage of the image file system: the sum of the image sizes in the catalogue. No image data exists on disk.
pub(crate) fn image_filesystem(runtime: &Runtime) -> v1::FilesystemUsage {
    let images = runtime.images.list();
    v1::FilesystemUsage {
        timestamp: runtime::now(),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: runtime.state_dir().join("images").to_string_lossy().into_owned(),
        }),
        used_bytes: Some(v1::UInt64Value {
            value: images.iter().map(|image| image.size).sum(),
        }),
        inodes_used: Some(v1::UInt64Value {
            value: images.len() as u64,
        }),
    }
}
