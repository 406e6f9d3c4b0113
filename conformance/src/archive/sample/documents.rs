//! The JSON documents of the sample.

use serde_json::{Value, json};

use super::SECRET;

const CONTAINER_ID: &str = "5267f7d404ec76e9b1b66b9e40b778b7dc8a99ee84256599dc59021f9924efe4";

pub(super) fn config() -> Value {
    json!({
        "id": CONTAINER_ID, "name": "app_web_default_0a1b_0", "rootfsImage": "docker.io/library/app:1",
        "rootfsImageRef": "docker.io/library/app@sha256:7744",
        "rootfsImageName": "docker.io/library/app:1", "runtime": "io.containerd.runc.v2",
        "createdTime": "2026-11-22T14:00:00Z", "checkpointedTime": "2026-11-22T14:07:04.63696367Z",
        "restoredTime": "0001-01-01T00:00:00Z", "restored": false,
    })
}

pub(super) fn spec() -> Value {
    let secret = format!("TOKEN={}", String::from_utf8_lossy(SECRET));
    json!({
        "ociVersion": "1.3.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/app"], "env": ["PATH=/bin", secret], "cwd": "/",
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/proc/1/ns/net"}]},
        "annotations": {
            "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-uid": "0a1b",
        },
    })
}

pub(super) fn status_dump() -> Value {
    json!({
        "id": CONTAINER_ID, "metadata": {"name": "app"}, "state": 1, "created_at": 1_795_356_000_200_000_000_i64,
        "started_at": 1_795_356_001_000_000_000_i64, "image": {"image": "docker.io/library/app:1"}, "image_ref": "sha256:7744",
        "labels": {
            "io.kubernetes.container.name": "app", "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "0a1b",
        },
        "log_path": "/var/log/pods/default_web_0a1b/app/0.log",
    })
}

pub(super) fn status() -> Value {
    json!({
        "Version": "v1", "Pid": 4711, "CreatedAt": 1_795_356_000_200_000_000_i64,
        "StartedAt": 1_795_356_001_000_000_000_i64, "FinishedAt": 0, "ExitCode": 0, "Reason": "", "Message": "", "Resources": null,
    })
}
