//! Mutants of the layout and of the JSON documents.

use serde_json::{Value, json};

use super::{ArchiveMutant, edit_content, edit_members, member_mut, remove_member};
use crate::archive::sample::SampleMember;

pub(super) const MUTANTS: &[ArchiveMutant] = &[
    edit_members("layout/no-spec-dump", &["archive/layout/required-members"], |members| {
        remove_member(members, "spec.dump")
    }),
    edit_members(
        "layout/no-config-dump",
        &["archive/layout/required-members"],
        |members| remove_member(members, "config.dump"),
    ),
    edit_members("layout/no-inventory", &["archive/layout/required-members"], |members| {
        remove_member(members, "checkpoint/inventory.img")
    }),
    edit_members(
        "layout/no-checkpoint-directory",
        &["archive/layout/checkpoint-directory"],
        |members| remove_member(members, "checkpoint/"),
    ),
    edit_members(
        "layout/nested-image",
        &["archive/layout/flat-checkpoint-directory"],
        |members| members.push(SampleMember::file("checkpoint/old/core-1.img", *b"x")),
    ),
    edit_members(
        "layout/unknown-image-name",
        &["archive/layout/criu-image-names"],
        |members| members.push(SampleMember::file("checkpoint/x-1.img", *b"x")),
    ),
    edit_members("layout/no-dump-log", &["archive/layout/dump-log"], |members| {
        remove_member(members, "dump.log")
    }),
    edit_content("layout/empty-dump-log", &["archive/layout/dump-log"], |sample| {
        sample.dump_log.clear()
    }),
    edit_members(
        "layout/no-descriptors-json",
        &["archive/layout/descriptors-json"],
        |members| remove_member(members, "checkpoint/descriptors.json"),
    ),
    edit_content(
        "layout/podman-annotation",
        &["archive/layout/engine-members"],
        |sample| {
            sample.spec["annotations"]["io.container.manager"] = json!("libpod");
        },
    ),
    edit_members(
        "layout/no-container-log",
        &["archive/layout/container-log"],
        |members| remove_member(members, "container.log"),
    ),
    edit_content(
        "layout/unformatted-log",
        &["archive/layout/container-log-format"],
        |sample| sample.log = "just text\n".to_owned(),
    ),
    edit_members("layout/no-status", &["archive/layout/engine-members"], |members| {
        remove_member(members, "status")
    }),
    edit_members(
        "layout/log-name-of-cri-o",
        &["archive/layout/engine-members"],
        |members| member_mut(members, "container.log").name = "io.kubernetes.cri-o.LogPath".to_owned(),
    ),
    edit_members(
        "layout/rootfs-diff-not-tar",
        &["archive/layout/rootfs-diff-is-tar"],
        |members| {
            member_mut(members, "rootfs-diff.tar").content = b"no tar".to_vec();
        },
    ),
    edit_members(
        "metadata/truncated-config-dump",
        &["archive/metadata/config-dump-valid"],
        |members| {
            member_mut(members, "config.dump").content.truncate(40);
        },
    ),
    edit_content(
        "metadata/invalid-time-format",
        &["archive/metadata/config-dump-valid"],
        |sample| {
            sample.config["checkpointedTime"] = json!("22 Nov 26 14:07 UTC");
        },
    ),
    edit_content(
        "metadata/no-runtime",
        &["archive/metadata/config-dump-fields"],
        |sample| remove_key(&mut sample.config, "runtime"),
    ),
    edit_content(
        "metadata/empty-image-name",
        &["archive/metadata/config-dump-fields"],
        |sample| sample.config["rootfsImageName"] = json!(""),
    ),
    edit_members(
        "metadata/spec-dump-array",
        &["archive/metadata/spec-dump-valid"],
        |members| member_mut(members, "spec.dump").content = b"[]".to_vec(),
    ),
    edit_content(
        "metadata/spec-no-args",
        &["archive/metadata/spec-process-fields"],
        |sample| sample.spec["process"]["args"] = json!([]),
    ),
    edit_content(
        "metadata/invalid-oci-version",
        &["archive/metadata/spec-process-fields"],
        |sample| sample.spec["ociVersion"] = json!("new"),
    ),
    edit_content(
        "metadata/status-dump-wrong-type",
        &["archive/metadata/status-dump-valid"],
        |sample| {
            sample.status_dump["created_at"] = json!("2026-11-22T14:00:00Z");
        },
    ),
    edit_content(
        "metadata/status-unknown-version",
        &["archive/metadata/status-valid"],
        |sample| sample.status["Version"] = json!("v0"),
    ),
    edit_content(
        "metadata/two-descriptors",
        &["archive/metadata/descriptors-json-valid"],
        |sample| {
            sample.descriptors = json!(["/dev/null", "pipe:[42633]"]);
        },
    ),
    edit_content(
        "metadata/bind-mounts-object",
        &["archive/metadata/lists-valid"],
        |sample| sample.bind_mounts = json!({}),
    ),
    edit_content(
        "metadata/checkpointed-before-start",
        &["archive/metadata/times-ordered"],
        |sample| {
            sample.config["checkpointedTime"] = json!("2026-11-22T14:00:00.5Z");
        },
    ),
    edit_content(
        "metadata/restored-without-time",
        &["archive/metadata/restored-time-consistent"],
        |sample| sample.config["restored"] = json!(true),
    ),
    edit_content(
        "metadata/restored-time-without-restored",
        &["archive/metadata/restored-time-consistent"],
        |sample| {
            sample.config["restoredTime"] = json!("2026-11-22T14:06:00Z");
        },
    ),
    edit_content(
        "metadata/invalid-image-reference",
        &["archive/metadata/config-dump-fields"],
        |sample| sample.config["rootfsImageName"] = json!("$(reboot)"),
    ),
    edit_content(
        "metadata/image-name-mismatch",
        &["archive/metadata/image-names-agree"],
        |sample| sample.config["rootfsImageName"] = json!("docker.io/library/nginx:latest"),
    ),
    edit_members(
        "metadata/spec-dump-too-deep",
        &["archive/metadata/spec-dump-valid"],
        |members| {
            let deep = format!("{{\"x\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
            member_mut(members, "spec.dump").content = deep.into_bytes();
        },
    ),
    edit_content("spec/hook", &["archive/spec/no-hooks"], |sample| {
        sample.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh"}]});
    }),
    edit_content("spec/device", &["archive/spec/default-devices-only"], |sample| {
        sample.spec["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}, {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
    }),
    edit_content("spec/cdi-annotation", &["archive/spec/no-cdi-annotations"], |sample| {
        sample.spec["annotations"]["cdi.k8s.io/gpu"] = json!("vendor.com/gpu=all");
    }),
    edit_content(
        "spec/cdi-annotation-in-status",
        &["archive/spec/no-cdi-annotations"],
        |sample| {
            sample.status_dump["annotations"] = json!({"cdi.k8s.io/gpu": "vendor.com/gpu=all"});
        },
    ),
    edit_content("metadata/id-mismatch", &["archive/metadata/same-id"], |sample| {
        sample.status_dump["id"] = json!("c0ffee")
    }),
    edit_content(
        "metadata/pod-name-mismatch",
        &["archive/metadata/same-names"],
        |sample| {
            sample.status_dump["labels"]["io.kubernetes.pod.name"] = json!("other");
        },
    ),
    edit_content(
        "metadata/start-time-mismatch",
        &["archive/metadata/same-times"],
        |sample| {
            sample.status["StartedAt"] = json!(1_795_356_001_000_000_001_i64);
        },
    ),
    edit_content(
        "metadata/state-exited",
        &["archive/metadata/container-running"],
        |sample| sample.status_dump["state"] = json!(2),
    ),
    edit_content(
        "metadata/no-annotations",
        &["archive/metadata/engine-annotations"],
        |sample| remove_key(&mut sample.spec, "annotations"),
    ),
    edit_content(
        "metadata/cri-o-without-annotations",
        &["archive/metadata/engine-annotations", "archive/layout/engine-members"],
        |sample| {
            sample.spec["annotations"]["io.container.manager"] = json!("cri-o");
        },
    ),
    edit_content(
        "metadata/duplicate-namespace",
        &["archive/metadata/spec-lists-unique"],
        |sample| {
            sample.spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
        },
    ),
    edit_content(
        "metadata/duplicate-rlimit",
        &["archive/metadata/spec-lists-unique"],
        |sample| {
            let limit = sample.spec["process"]["rlimits"][0].clone();
            sample.spec["process"]["rlimits"] = json!([limit, limit]);
        },
    ),
    // Mounts and deleted files.
    edit_content(
        "mounts/destination-outside",
        &["archive/mounts/destinations-inside"],
        |sample| {
            sample.spec["mounts"][0]["destination"] = json!("/proc/../../etc");
        },
    ),
    edit_content(
        "mounts/relative-destination",
        &["archive/mounts/destinations-inside"],
        |sample| {
            sample.spec["mounts"][0]["destination"] = json!("etc");
        },
    ),
    edit_content(
        "mounts/unknown-file-type",
        &["archive/mounts/destinations-inside"],
        |sample| {
            sample.bind_mounts[0]["file_type"] = json!("symlink");
        },
    ),
    edit_content("mounts/engine-socket", &["archive/mounts/no-host-sources"], |sample| {
        sample.bind_mounts[0]["source"] = json!("/var/run/docker.sock");
    }),
    edit_content(
        "mounts/mount-not-in-spec",
        &["archive/mounts/bind-mounts-in-spec"],
        |sample| {
            sample.bind_mounts[0]["destination"] = json!("/etc/shadow");
        },
    ),
    edit_content(
        "mounts/deleted-file-outside",
        &["archive/mounts/deleted-files-inside"],
        |sample| {
            sample.deleted_files = json!(["/tmp/../../etc/shadow"]);
        },
    ),
];

fn remove_key(document: &mut Value, key: &str) {
    document
        .as_object_mut()
        .expect("the sample's documents are objects")
        .remove(key);
}
