//! Archives whose layout or documents are wrong.

use serde_json::{Value, json};

use super::{ArchiveMutant, drop_part, members, part, said};
use crate::archive::sample::Part;

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // The layout.
    members("layout/no-spec", &["archive/layout/upstream-names"], |parts| {
        drop_part(parts, "spec.dump")
    }),
    members("layout/no-config", &["archive/layout/upstream-names"], |parts| {
        drop_part(parts, "config.dump")
    }),
    members("layout/no-inventory", &["archive/layout/upstream-names"], |parts| {
        drop_part(parts, "checkpoint/inventory.img")
    }),
    members(
        "layout/no-directory",
        &["archive/layout/checkpoint-directory"],
        |parts| drop_part(parts, "checkpoint/"),
    ),
    members("layout/deeper", &["archive/layout/flat"], |parts| {
        parts.push(Part::file("checkpoint/old/core-1.img", *b"x"))
    }),
    members("layout/strange-image", &["archive/layout/image-names"], |parts| {
        parts.push(Part::file("checkpoint/x-1.img", *b"x"))
    }),
    members("layout/no-dump-log", &["archive/layout/dump-log"], |parts| {
        drop_part(parts, "dump.log")
    }),
    said("layout/empty-dump-log", &["archive/layout/dump-log"], |sample| {
        sample.dump_log.clear()
    }),
    members("layout/no-descriptors", &["archive/layout/descriptors"], |parts| {
        drop_part(parts, "checkpoint/descriptors.json")
    }),
    said("layout/of-podman", &["archive/layout/engine-members"], |sample| {
        sample.spec["annotations"]["io.container.manager"] = json!("libpod");
    }),
    members("layout/no-log", &["archive/layout/container-log"], |parts| {
        drop_part(parts, "container.log")
    }),
    said("layout/raw-log", &["archive/layout/log-format"], |sample| {
        sample.log = "just text\n".to_owned()
    }),
    members("layout/no-status", &["archive/layout/engine-members"], |parts| {
        drop_part(parts, "status")
    }),
    members(
        "layout/log-of-another-engine",
        &["archive/layout/engine-members"],
        |parts| part(parts, "container.log").name = "io.kubernetes.cri-o.LogPath".to_owned(),
    ),
    members("layout/rootfs-diff", &["archive/layout/rootfs-diff"], |parts| {
        part(parts, "rootfs-diff.tar").content = b"no tar".to_vec();
    }),
    // The documents.
    members("documents/config-cut", &["archive/documents/config-dump"], |parts| {
        part(parts, "config.dump").content.truncate(40);
    }),
    said("documents/time-format", &["archive/documents/config-dump"], |sample| {
        sample.config["checkpointedTime"] = json!("22 Nov 26 14:07 UTC");
    }),
    said("documents/no-runtime", &["archive/documents/config-fields"], |sample| {
        remove(&mut sample.config, "runtime")
    }),
    said(
        "documents/empty-image",
        &["archive/documents/config-fields"],
        |sample| sample.config["rootfsImageName"] = json!(""),
    ),
    members("documents/spec-array", &["archive/documents/spec-dump"], |parts| {
        part(parts, "spec.dump").content = b"[]".to_vec()
    }),
    said(
        "documents/spec-no-args",
        &["archive/documents/spec-process"],
        |sample| sample.spec["process"]["args"] = json!([]),
    ),
    said(
        "documents/spec-version",
        &["archive/documents/spec-process"],
        |sample| sample.spec["ociVersion"] = json!("new"),
    ),
    said(
        "documents/status-dump-text",
        &["archive/documents/status-dump"],
        |sample| {
            sample.status_dump["created_at"] = json!("2026-11-22T14:00:00Z");
        },
    ),
    said("documents/status-version", &["archive/documents/status"], |sample| {
        sample.status["Version"] = json!("v0")
    }),
    said(
        "documents/two-descriptors",
        &["archive/documents/descriptors"],
        |sample| {
            sample.descriptors = json!(["/dev/null", "pipe:[42633]"]);
        },
    ),
    said("documents/mounts-object", &["archive/documents/lists"], |sample| {
        sample.bind_mounts = json!({})
    }),
    said(
        "documents/checkpointed-before-start",
        &["archive/documents/times"],
        |sample| {
            sample.config["checkpointedTime"] = json!("2026-11-22T14:00:00.5Z");
        },
    ),
    said(
        "documents/restored-without-time",
        &["archive/documents/restored"],
        |sample| sample.config["restored"] = json!(true),
    ),
    said(
        "documents/restore-time-without-restore",
        &["archive/documents/restored"],
        |sample| {
            sample.config["restoredTime"] = json!("2026-11-22T14:06:00Z");
        },
    ),
    said(
        "documents/no-reference",
        &["archive/documents/config-fields"],
        |sample| sample.config["rootfsImageName"] = json!("$(reboot)"),
    ),
    said(
        "documents/image-of-others",
        &["archive/documents/image-names"],
        |sample| sample.config["rootfsImageName"] = json!("docker.io/library/nginx:latest"),
    ),
    members("documents/spec-too-deep", &["archive/documents/spec-dump"], |parts| {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        part(parts, "spec.dump").content = deep.into_bytes();
    }),
    said("spec/hook", &["archive/spec/no-hooks"], |sample| {
        sample.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh"}]});
    }),
    said("spec/device", &["archive/spec/no-devices"], |sample| {
        sample.spec["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}, {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
    }),
    said("spec/cdi", &["archive/spec/no-cdi"], |sample| {
        sample.spec["annotations"]["cdi.k8s.io/gpu"] = json!("vendor.com/gpu=all");
    }),
    said("spec/cdi-in-status", &["archive/spec/no-cdi"], |sample| {
        sample.status_dump["annotations"] = json!({"cdi.k8s.io/gpu": "vendor.com/gpu=all"});
    }),
    said("documents/other-id", &["archive/documents/same-id"], |sample| {
        sample.status_dump["id"] = json!("c0ffee")
    }),
    said("documents/other-pod", &["archive/documents/same-name"], |sample| {
        sample.status_dump["labels"]["io.kubernetes.pod.name"] = json!("other");
    }),
    said("documents/other-start", &["archive/documents/same-times"], |sample| {
        sample.status["StartedAt"] = json!(1_795_356_001_000_000_001_i64);
    }),
    said("documents/exited", &["archive/documents/running"], |sample| {
        sample.status_dump["state"] = json!(2)
    }),
    said("documents/no-annotations", &["archive/documents/engine"], |sample| {
        remove(&mut sample.spec, "annotations")
    }),
    said(
        "documents/cri-o-without-metadata",
        &["archive/documents/engine", "archive/layout/engine-members"],
        |sample| {
            sample.spec["annotations"]["io.container.manager"] = json!("cri-o");
        },
    ),
    said(
        "documents/namespace-twice",
        &["archive/documents/spec-lists"],
        |sample| {
            sample.spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
        },
    ),
    said("documents/limit-twice", &["archive/documents/spec-lists"], |sample| {
        let limit = sample.spec["process"]["rlimits"][0].clone();
        sample.spec["process"]["rlimits"] = json!([limit, limit]);
    }),
    // Mounts and deleted files.
    said("mounts/climbs-out", &["archive/mounts/inside"], |sample| {
        sample.spec["mounts"][0]["destination"] = json!("/proc/../../etc");
    }),
    said("mounts/relative", &["archive/mounts/inside"], |sample| {
        sample.spec["mounts"][0]["destination"] = json!("etc");
    }),
    said("mounts/of-no-kind", &["archive/mounts/inside"], |sample| {
        sample.bind_mounts[0]["file_type"] = json!("symlink");
    }),
    said("mounts/engine-socket", &["archive/mounts/sources"], |sample| {
        sample.bind_mounts[0]["source"] = json!("/var/run/docker.sock");
    }),
    said("mounts/smuggled", &["archive/mounts/known"], |sample| {
        sample.bind_mounts[0]["destination"] = json!("/etc/shadow");
    }),
    said("mounts/deletes-outside", &["archive/mounts/deleted-files"], |sample| {
        sample.deleted_files = json!(["/tmp/../../etc/shadow"]);
    }),
];

fn remove(document: &mut Value, key: &str) {
    document
        .as_object_mut()
        .expect("the sample's documents are objects")
        .remove(key);
}
