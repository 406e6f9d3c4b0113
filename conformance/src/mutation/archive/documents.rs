//! Mutants of the layout and of the JSON documents.

use serde_json::{Value, json};

use super::{Mutant, edit_content, edit_members, member_mut, remove_member};
use crate::archive::sample::SampleMember;

pub(super) const MUTANTS: &[Mutant] = &[
    edit_members("layout/no-spec-dump", |members| remove_member(members, "spec.dump"))
        .must_fail(&["archive/layout/required-members"]),
    edit_members("layout/no-config-dump", |members| remove_member(members, "config.dump"))
        .must_fail(&["archive/layout/required-members"]),
    edit_members("layout/no-inventory", |members| {
        remove_member(members, "checkpoint/inventory.img")
    })
    .must_fail(&["archive/layout/required-members"]),
    edit_members("layout/no-checkpoint-directory", |members| {
        remove_member(members, "checkpoint/")
    })
    .must_fail(&["archive/layout/checkpoint-directory"]),
    edit_members("layout/nested-image", |members| {
        members.push(SampleMember::file("checkpoint/old/core-1.img", *b"x"))
    })
    .must_fail(&["archive/layout/flat-checkpoint-directory"]),
    edit_members("layout/unknown-image-name", |members| {
        members.push(SampleMember::file("checkpoint/x-1.img", *b"x"))
    })
    .must_fail(&["archive/layout/criu-image-names"]),
    edit_members("layout/no-dump-log", |members| remove_member(members, "dump.log"))
        .must_fail(&["archive/layout/dump-log"]),
    edit_content("layout/empty-dump-log", |sample| sample.dump_log.clear()).must_fail(&["archive/layout/dump-log"]),
    edit_members("layout/no-descriptors-json", |members| {
        remove_member(members, "checkpoint/descriptors.json")
    })
    .must_fail(&["archive/layout/descriptors-json"]),
    edit_content("layout/podman-annotation", |sample| {
        sample.spec["annotations"]["io.container.manager"] = json!("libpod");
    })
    .must_fail(&["archive/layout/engine-members"]),
    edit_members("layout/no-container-log", |members| {
        remove_member(members, "container.log")
    })
    .must_fail(&["archive/layout/container-log"]),
    edit_content("layout/unformatted-log", |sample| sample.log = "just text\n".to_owned())
        .must_fail(&["archive/layout/container-log-format"]),
    edit_members("layout/no-status", |members| remove_member(members, "status"))
        .must_fail(&["archive/layout/engine-members"]),
    edit_members("layout/log-name-of-cri-o", |members| {
        member_mut(members, "container.log").name = "io.kubernetes.cri-o.LogPath".to_owned()
    })
    .must_fail(&["archive/layout/engine-members"]),
    edit_members("layout/rootfs-diff-not-tar", |members| {
        member_mut(members, "rootfs-diff.tar").content = b"no tar".to_vec();
    })
    .must_fail(&["archive/layout/rootfs-diff-is-tar"]),
    edit_members("metadata/truncated-config-dump", |members| {
        member_mut(members, "config.dump").content.truncate(40);
    })
    .must_fail(&["archive/metadata/config-dump-valid"]),
    edit_content("metadata/invalid-time-format", |sample| {
        sample.config["checkpointedTime"] = json!("22 Nov 26 14:07 UTC");
    })
    .must_fail(&["archive/metadata/config-dump-valid"]),
    edit_content("metadata/no-runtime", |sample| {
        remove_key(&mut sample.config, "runtime")
    })
    .must_fail(&["archive/metadata/config-dump-fields"]),
    edit_content("metadata/empty-image-name", |sample| {
        sample.config["rootfsImageName"] = json!("")
    })
    .must_fail(&["archive/metadata/config-dump-fields"]),
    edit_members("metadata/spec-dump-array", |members| {
        member_mut(members, "spec.dump").content = b"[]".to_vec()
    })
    .must_fail(&["archive/metadata/spec-dump-valid"]),
    edit_content("metadata/spec-no-args", |sample| {
        sample.spec["process"]["args"] = json!([])
    })
    .must_fail(&["archive/metadata/spec-process-fields"]),
    edit_content("metadata/invalid-oci-version", |sample| {
        sample.spec["ociVersion"] = json!("new")
    })
    .must_fail(&["archive/metadata/spec-process-fields"]),
    edit_content("metadata/status-dump-wrong-type", |sample| {
        sample.status_dump["created_at"] = json!("2026-11-22T14:00:00Z");
    })
    .must_fail(&["archive/metadata/status-dump-valid"]),
    edit_content("metadata/status-unknown-version", |sample| {
        sample.status["Version"] = json!("v0")
    })
    .must_fail(&["archive/metadata/status-valid"]),
    edit_content("metadata/two-descriptors", |sample| {
        sample.descriptors = json!(["/dev/null", "pipe:[42633]"]);
    })
    .must_fail(&["archive/metadata/descriptors-json-valid"]),
    edit_content("metadata/bind-mounts-object", |sample| sample.bind_mounts = json!({}))
        .must_fail(&["archive/metadata/lists-valid"]),
    edit_content("metadata/checkpointed-before-start", |sample| {
        sample.config["checkpointedTime"] = json!("2026-11-22T14:00:00.5Z");
    })
    .must_fail(&["archive/metadata/times-ordered"]),
    edit_content("metadata/restored-without-time", |sample| {
        sample.config["restored"] = json!(true)
    })
    .must_fail(&["archive/metadata/restored-time-consistent"]),
    edit_content("metadata/restored-time-without-restored", |sample| {
        sample.config["restoredTime"] = json!("2026-11-22T14:06:00Z");
    })
    .must_fail(&["archive/metadata/restored-time-consistent"]),
    edit_content("metadata/invalid-image-reference", |sample| {
        sample.config["rootfsImageName"] = json!("$(reboot)")
    })
    .must_fail(&["archive/metadata/config-dump-fields"]),
    edit_content("metadata/image-name-mismatch", |sample| {
        sample.config["rootfsImageName"] = json!("docker.io/library/nginx:latest")
    })
    .must_fail(&["archive/metadata/image-names-agree"]),
    edit_members("metadata/spec-dump-too-deep", |members| {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        member_mut(members, "spec.dump").content = deep.into_bytes();
    })
    .must_fail(&["archive/metadata/spec-dump-valid"]),
    edit_content("spec/hook", |sample| {
        sample.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh"}]});
    })
    .must_fail(&["archive/spec/no-hooks"]),
    edit_content("spec/device", |sample| {
        sample.spec["linux"]["devices"] = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}
        ]);
    })
    .must_fail(&["archive/spec/default-devices-only"]),
    edit_content("spec/cdi-annotation", |sample| {
        sample.spec["annotations"]["cdi.k8s.io/gpu"] = json!("vendor.com/gpu=all");
    })
    .must_fail(&["archive/spec/no-cdi-annotations"]),
    edit_content("spec/cdi-annotation-in-status", |sample| {
        sample.status_dump["annotations"] = json!({"cdi.k8s.io/gpu": "vendor.com/gpu=all"});
    })
    .must_fail(&["archive/spec/no-cdi-annotations"]),
    edit_content("metadata/id-mismatch", |sample| {
        sample.status_dump["id"] = json!("c0ffee")
    })
    .must_fail(&["archive/metadata/same-id"]),
    edit_content("metadata/pod-name-mismatch", |sample| {
        sample.status_dump["labels"]["io.kubernetes.pod.name"] = json!("other");
    })
    .must_fail(&["archive/metadata/same-names"]),
    edit_content("metadata/start-time-mismatch", |sample| {
        sample.status["StartedAt"] = json!(1_795_356_001_000_000_001_i64);
    })
    .must_fail(&["archive/metadata/same-times"]),
    edit_content("metadata/state-exited", |sample| sample.status_dump["state"] = json!(2))
        .must_fail(&["archive/metadata/container-running"]),
    edit_content("metadata/no-annotations", |sample| {
        remove_key(&mut sample.spec, "annotations")
    })
    .must_fail(&["archive/metadata/engine-annotations"]),
    edit_content("metadata/cri-o-without-annotations", |sample| {
        sample.spec["annotations"]["io.container.manager"] = json!("cri-o");
    })
    .must_fail(&["archive/metadata/engine-annotations", "archive/layout/engine-members"]),
    edit_content("metadata/duplicate-namespace", |sample| {
        sample.spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
    })
    .must_fail(&["archive/metadata/spec-lists-unique"]),
    edit_content("metadata/duplicate-rlimit", |sample| {
        let limit = sample.spec["process"]["rlimits"][0].clone();
        sample.spec["process"]["rlimits"] = json!([limit, limit]);
    })
    .must_fail(&["archive/metadata/spec-lists-unique"]),
    // Mounts and deleted files.
    edit_content("mounts/destination-outside", |sample| {
        sample.spec["mounts"][0]["destination"] = json!("/proc/../../etc");
    })
    .must_fail(&["archive/mounts/destinations-inside"]),
    edit_content("mounts/relative-destination", |sample| {
        sample.spec["mounts"][0]["destination"] = json!("etc");
    })
    .must_fail(&["archive/mounts/destinations-inside"]),
    edit_content("mounts/unknown-file-type", |sample| {
        sample.bind_mounts[0]["file_type"] = json!("symlink");
    })
    .must_fail(&["archive/mounts/destinations-inside"]),
    edit_content("mounts/engine-socket", |sample| {
        sample.bind_mounts[0]["source"] = json!("/var/run/docker.sock");
    })
    .must_fail(&["archive/mounts/no-host-sources"]),
    edit_content("mounts/mount-not-in-spec", |sample| {
        sample.bind_mounts[0]["destination"] = json!("/etc/shadow");
    })
    .must_fail(&["archive/mounts/bind-mounts-in-spec"]),
    edit_content("mounts/deleted-file-outside", |sample| {
        sample.deleted_files = json!(["/tmp/../../etc/shadow"]);
    })
    .must_fail(&["archive/mounts/deleted-files-inside"]),
];

fn remove_key(document: &mut Value, key: &str) {
    document
        .as_object_mut()
        .expect("the sample's documents are objects")
        .remove(key);
}
