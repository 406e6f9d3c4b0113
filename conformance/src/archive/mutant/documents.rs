//! Archives whose layout or documents are wrong.

use serde_json::{Value, json};

use super::{ArchiveMutant, edit_content, edit_members, member_mut, remove_member};
use crate::archive::sample::SampleMember;

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    // The layout.
    edit_members("layout/no-spec", &["archive/layout/upstream-names"], |members| {
        remove_member(members, "spec.dump")
    }),
    edit_members("layout/no-config", &["archive/layout/upstream-names"], |members| {
        remove_member(members, "config.dump")
    }),
    edit_members("layout/no-inventory", &["archive/layout/upstream-names"], |members| {
        remove_member(members, "checkpoint/inventory.img")
    }),
    edit_members(
        "layout/no-directory",
        &["archive/layout/checkpoint-directory"],
        |members| remove_member(members, "checkpoint/"),
    ),
    edit_members("layout/deeper", &["archive/layout/flat"], |members| {
        members.push(SampleMember::file("checkpoint/old/core-1.img", *b"x"))
    }),
    edit_members("layout/strange-image", &["archive/layout/image-names"], |members| {
        members.push(SampleMember::file("checkpoint/x-1.img", *b"x"))
    }),
    edit_members("layout/no-dump-log", &["archive/layout/dump-log"], |members| {
        remove_member(members, "dump.log")
    }),
    edit_content("layout/empty-dump-log", &["archive/layout/dump-log"], |sample| {
        sample.dump_log.clear()
    }),
    edit_members("layout/no-descriptors", &["archive/layout/descriptors"], |members| {
        remove_member(members, "checkpoint/descriptors.json")
    }),
    edit_content("layout/of-podman", &["archive/layout/engine-members"], |sample| {
        sample.spec["annotations"]["io.container.manager"] = json!("libpod");
    }),
    edit_members("layout/no-log", &["archive/layout/container-log"], |members| {
        remove_member(members, "container.log")
    }),
    edit_content("layout/raw-log", &["archive/layout/log-format"], |sample| {
        sample.log = "just text\n".to_owned()
    }),
    edit_members("layout/no-status", &["archive/layout/engine-members"], |members| {
        remove_member(members, "status")
    }),
    edit_members(
        "layout/log-of-another-engine",
        &["archive/layout/engine-members"],
        |members| member_mut(members, "container.log").name = "io.kubernetes.cri-o.LogPath".to_owned(),
    ),
    edit_members("layout/rootfs-diff", &["archive/layout/rootfs-diff"], |members| {
        member_mut(members, "rootfs-diff.tar").content = b"no tar".to_vec();
    }),
    // The documents.
    edit_members("documents/config-cut", &["archive/documents/config-dump"], |members| {
        member_mut(members, "config.dump").content.truncate(40);
    }),
    edit_content("documents/time-format", &["archive/documents/config-dump"], |sample| {
        sample.config["checkpointedTime"] = json!("22 Nov 26 14:07 UTC");
    }),
    edit_content("documents/no-runtime", &["archive/documents/config-fields"], |sample| {
        remove_key(&mut sample.config, "runtime")
    }),
    edit_content(
        "documents/empty-image",
        &["archive/documents/config-fields"],
        |sample| sample.config["rootfsImageName"] = json!(""),
    ),
    edit_members("documents/spec-array", &["archive/documents/spec-dump"], |members| {
        member_mut(members, "spec.dump").content = b"[]".to_vec()
    }),
    edit_content(
        "documents/spec-no-args",
        &["archive/documents/spec-process"],
        |sample| sample.spec["process"]["args"] = json!([]),
    ),
    edit_content(
        "documents/spec-version",
        &["archive/documents/spec-process"],
        |sample| sample.spec["ociVersion"] = json!("new"),
    ),
    edit_content(
        "documents/status-dump-text",
        &["archive/documents/status-dump"],
        |sample| {
            sample.status_dump["created_at"] = json!("2026-11-22T14:00:00Z");
        },
    ),
    edit_content("documents/status-version", &["archive/documents/status"], |sample| {
        sample.status["Version"] = json!("v0")
    }),
    edit_content(
        "documents/two-descriptors",
        &["archive/documents/descriptors"],
        |sample| {
            sample.descriptors = json!(["/dev/null", "pipe:[42633]"]);
        },
    ),
    edit_content("documents/mounts-object", &["archive/documents/lists"], |sample| {
        sample.bind_mounts = json!({})
    }),
    edit_content(
        "documents/checkpointed-before-start",
        &["archive/documents/times"],
        |sample| {
            sample.config["checkpointedTime"] = json!("2026-11-22T14:00:00.5Z");
        },
    ),
    edit_content(
        "documents/restored-without-time",
        &["archive/documents/restored"],
        |sample| sample.config["restored"] = json!(true),
    ),
    edit_content(
        "documents/restore-time-without-restore",
        &["archive/documents/restored"],
        |sample| {
            sample.config["restoredTime"] = json!("2026-11-22T14:06:00Z");
        },
    ),
    edit_content(
        "documents/no-reference",
        &["archive/documents/config-fields"],
        |sample| sample.config["rootfsImageName"] = json!("$(reboot)"),
    ),
    edit_content(
        "documents/image-of-others",
        &["archive/documents/image-names"],
        |sample| sample.config["rootfsImageName"] = json!("docker.io/library/nginx:latest"),
    ),
    edit_members("documents/spec-too-deep", &["archive/documents/spec-dump"], |members| {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        member_mut(members, "spec.dump").content = deep.into_bytes();
    }),
    edit_content("spec/hook", &["archive/spec/no-hooks"], |sample| {
        sample.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh"}]});
    }),
    edit_content("spec/device", &["archive/spec/no-devices"], |sample| {
        sample.spec["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}, {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
    }),
    edit_content("spec/cdi", &["archive/spec/no-cdi"], |sample| {
        sample.spec["annotations"]["cdi.k8s.io/gpu"] = json!("vendor.com/gpu=all");
    }),
    edit_content("spec/cdi-in-status", &["archive/spec/no-cdi"], |sample| {
        sample.status_dump["annotations"] = json!({"cdi.k8s.io/gpu": "vendor.com/gpu=all"});
    }),
    edit_content("documents/other-id", &["archive/documents/same-id"], |sample| {
        sample.status_dump["id"] = json!("c0ffee")
    }),
    edit_content("documents/other-pod", &["archive/documents/same-name"], |sample| {
        sample.status_dump["labels"]["io.kubernetes.pod.name"] = json!("other");
    }),
    edit_content("documents/other-start", &["archive/documents/same-times"], |sample| {
        sample.status["StartedAt"] = json!(1_795_356_001_000_000_001_i64);
    }),
    edit_content("documents/exited", &["archive/documents/running"], |sample| {
        sample.status_dump["state"] = json!(2)
    }),
    edit_content("documents/no-annotations", &["archive/documents/engine"], |sample| {
        remove_key(&mut sample.spec, "annotations")
    }),
    edit_content(
        "documents/cri-o-without-metadata",
        &["archive/documents/engine", "archive/layout/engine-members"],
        |sample| {
            sample.spec["annotations"]["io.container.manager"] = json!("cri-o");
        },
    ),
    edit_content(
        "documents/namespace-twice",
        &["archive/documents/spec-lists"],
        |sample| {
            sample.spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
        },
    ),
    edit_content("documents/limit-twice", &["archive/documents/spec-lists"], |sample| {
        let limit = sample.spec["process"]["rlimits"][0].clone();
        sample.spec["process"]["rlimits"] = json!([limit, limit]);
    }),
    // Mounts and deleted files.
    edit_content("mounts/climbs-out", &["archive/mounts/inside"], |sample| {
        sample.spec["mounts"][0]["destination"] = json!("/proc/../../etc");
    }),
    edit_content("mounts/relative", &["archive/mounts/inside"], |sample| {
        sample.spec["mounts"][0]["destination"] = json!("etc");
    }),
    edit_content("mounts/of-no-kind", &["archive/mounts/inside"], |sample| {
        sample.bind_mounts[0]["file_type"] = json!("symlink");
    }),
    edit_content("mounts/engine-socket", &["archive/mounts/sources"], |sample| {
        sample.bind_mounts[0]["source"] = json!("/var/run/docker.sock");
    }),
    edit_content("mounts/smuggled", &["archive/mounts/known"], |sample| {
        sample.bind_mounts[0]["destination"] = json!("/etc/shadow");
    }),
    edit_content("mounts/deletes-outside", &["archive/mounts/deleted-files"], |sample| {
        sample.deleted_files = json!(["/tmp/../../etc/shadow"]);
    }),
];

fn remove_key(document: &mut Value, key: &str) {
    document
        .as_object_mut()
        .expect("the sample's documents are objects")
        .remove(key);
}
