//! The members of an archive in CRIU's format.

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG, DESCRIPTORS, NETWORK_STATUS, PODMAN_LOG, ROOTFS_DIFF};

use super::preconditions::{ArchiveCase, criu_case, pass_unless, require_criu, require_spec_dump};
use crate::{
    archive::{InspectedArchive, Layout, MemberKind, NestedTar},
    engine::{CaseResult, Level, case, check, fail, pass, skip},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    criu_case("archive/layout/required-members", Level::Reference)
        .requirement("The archive must contain the files spec.dump, config.dump and checkpoint/inventory.img.")
        .authority(authority::KUBERNETES_E2E)
        .expected("spec.dump, config.dump, checkpoint/inventory.img")
        .check(upstream_names),
    case("archive/layout/engine-members", Level::Reference)
        .requirement("The archive must contain the members of the engine that made it, under that engine's names.")
        .authority(authority::COMMON_RUNTIMES)
        .expected(
            "containerd: status, status.dump, rootfs-diff.tar, container.log; CRI-O: \
            io.kubernetes.cri-o.LogPath; Podman: network.status, ctr.log",
        )
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(engine_members),
    criu_case("archive/layout/checkpoint-directory", Level::Reference)
        .requirement(
            "The archive must have an entry for the directory checkpoint/, because checkpointctl rejects an \
            archive without it.",
        )
        .authority(authority::CHECKPOINTCTL)
        .expected("a directory entry checkpoint/")
        .check(|archive| {
            require_criu(archive)?;
            match archive.member("checkpoint") {
                Some(member) if member.kind == MemberKind::Directory => pass("a directory entry checkpoint/"),
                Some(member) => fail(format!("checkpoint is a {:?}", member.kind)),
                None => fail("no entry checkpoint/"),
            }
        }),
    criu_case("archive/layout/flat-checkpoint-directory", Level::Reference)
        .requirement("The images must be directly in checkpoint/, without subdirectories.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("no subdirectory in checkpoint/")
        .check(|archive| {
            require_criu(archive)?;
            let is_nested = |name: &str| {
                name.trim_end_matches('/')
                    .strip_prefix(cri_proto::criu::IMAGE_DIR)
                    .is_some_and(|rest| rest.contains('/'))
            };
            let members = archive
                .members
                .iter()
                .filter(|member| is_nested(member.name.trim_start_matches("./")));
            pass_unless(
                members.map(|member| member.name.clone()),
                "no subdirectory in checkpoint/",
            )
        }),
    criu_case("archive/layout/criu-image-names", Level::Reference)
        .requirement("Every image must have a name that CRIU defines.")
        .authority(authority::criu_file("criu/image-desc.c"))
        .expected("CRIU's image names")
        .check(|archive| {
            require_criu(archive)?;
            let unnamed = &archive.images.unknown_names;
            let count: usize = archive.images.image_counts.values().sum();
            check(
                unnamed.count == 0,
                if unnamed.count == 0 {
                    format!("{count} images")
                } else {
                    unnamed.summary()
                },
            )
        }),
    criu_case("archive/layout/dump-log", Level::Reference)
        .requirement("The archive must contain a non-empty dump.log with the log of the dump.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("a non-empty text file")
        .check(|archive| {
            require_criu(archive)?;
            match &archive.dump_log {
                None if archive.expected_layout() == Layout::Podman => skip("Podman does not export dump.log"),
                None => fail("no dump.log"),
                Some(log) => check(
                    log.bytes > 0 && !log.has_nul,
                    format!("{} lines, {} bytes", log.lines, log.bytes),
                ),
            }
        }),
    criu_case("archive/layout/container-log", Level::Reference)
        .requirement("The archive must contain the container's log.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("container.log, io.kubernetes.cri-o.LogPath or ctr.log")
        .check(container_log),
    criu_case("archive/layout/container-log-format", Level::Reference)
        .requirement("Every line of the container's log must have a timestamp, a stream and a tag.")
        .authority(authority::CRI_LOGS)
        .expected("lines in CRI log format")
        .check(|archive| {
            require_criu(archive)?;
            match &archive.container_log {
                None => skip("requires an archive with a container log"),
                Some((name, log)) => match &log.malformed_line {
                    None => pass(format!("{name}: {} lines", log.lines)),
                    Some(line) => fail(format!("{name}: {line}")),
                },
            }
        }),
    criu_case("archive/layout/rootfs-diff-is-tar", Level::Reference)
        .requirement("The member rootfs-diff.tar, if present, must be a tar, compressed or not.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("a tar, plain or compressed")
        .check(rootfs_diff),
    criu_case("archive/layout/descriptors-json", Level::Robust)
        .requirement(
            "The archive must contain checkpoint/descriptors.json, because runc and crun restore no container \
            without it.",
        )
        .authority(authority::RUNC)
        .expected("a file checkpoint/descriptors.json")
        .check(|archive| {
            require_criu(archive)?;
            match archive.member(DESCRIPTORS) {
                Some(member) if member.kind == MemberKind::File => pass("a file checkpoint/descriptors.json"),
                Some(member) => fail(format!("checkpoint/descriptors.json is a {:?}", member.kind)),
                None => fail("no checkpoint/descriptors.json"),
            }
        }),
];

fn upstream_names(archive: &InspectedArchive) -> CaseResult {
    require_criu(archive)?;
    let missing = |name: &&str| {
        archive
            .member(name)
            .is_none_or(|member| member.kind != MemberKind::File)
    };
    let names = ["spec.dump", "config.dump", "checkpoint/inventory.img"];
    pass_unless(
        names
            .iter()
            .filter(|name| missing(name))
            .map(|name| format!("no file {name}")),
        "spec.dump, config.dump, checkpoint/inventory.img",
    )
}

fn engine_members(archive: &InspectedArchive) -> CaseResult {
    require_spec_dump(archive)?;
    let layout = archive.expected_layout();
    let (members, log): (&[&str], _) = match layout {
        Layout::Containerd => (&["status", "status.dump", ROOTFS_DIFF], CONTAINER_LOG),
        Layout::CriO => (&[], CRIO_LOG),
        Layout::Podman => (&[NETWORK_STATUS], PODMAN_LOG),
    };
    let missing = members.iter().filter(|name| archive.member(name).is_none());
    let missing = missing.map(|name| format!("no {name}"));
    // Another case checks whether there is a log at all.
    let other_log = [CONTAINER_LOG, CRIO_LOG, PODMAN_LOG].into_iter();
    let other_log = other_log.filter(|name| *name != log && archive.member(name).is_some());
    let other_log = other_log.map(|name| format!("log named {name} instead of {log}"));
    pass_unless(missing.chain(other_log), format!("the members of {}", layout.as_str()))
}

fn container_log(archive: &InspectedArchive) -> CaseResult {
    require_criu(archive)?;
    if let Some((name, log)) = &archive.container_log {
        return pass(format!("{name}, {} bytes", log.bytes));
    }
    // Only the CRI status shows whether the container had a log at all.
    match archive.documents.status_dump.parsed() {
        _ if archive.expected_layout() == Layout::Podman => skip(
            "requires an archive of another engine: Podman exports a log only with the drivers k8s-file and \
                json-file",
        ),
        Some(status) if status.log_path.is_empty() => skip("requires a container with a log"),
        _ => fail("no container log"),
    }
}

fn rootfs_diff(archive: &InspectedArchive) -> CaseResult {
    require_criu(archive)?;
    match &archive.rootfs_diff {
        None => skip("requires an archive with rootfs-diff.tar"),
        Some(NestedTar::Tar(None)) => pass("a tar"),
        Some(NestedTar::Tar(Some(compression))) => pass(format!("a tar, compressed with {compression}")),
        Some(NestedTar::Compressed(compression)) => pass(format!("{compression}, content not checked")),
        Some(NestedTar::Other(description)) => fail(description.clone()),
    }
}
