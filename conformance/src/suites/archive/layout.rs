//! Of the members that an archive of CRIU's format has.

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG, DESCRIPTORS, NETWORK_STATUS, PODMAN_LOG, ROOTFS_DIFF};

use super::preconditions::{ArchiveCase, case, pass_unless, require_criu, require_spec_dump, source};
use crate::{
    archive::{InspectedArchive, Layout, MemberKind, NestedTar},
    engine::{CaseResult, NonPass, check, fail, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/layout/required-members",
        Reference,
        source::E2E,
        "The archive holds spec.dump, config.dump and checkpoint/inventory.img.",
        "the three names, each a file",
        upstream_names
    ),
    case!(
        "archive/layout/engine-members",
        Reference,
        "containerd internal/cri/server/container_checkpoint_linux.go; CRI-O internal/lib/checkpoint.go; Podman \
         libpod/container_internal_common.go, exportCheckpoint",
        "Beside the images stand the members of the engine that made the archive, under that engine's names.",
        "of containerd status, status.dump, rootfs-diff.tar and container.log; of CRI-O io.kubernetes.cri-o.LogPath; \
         of Podman network.status and ctr.log",
        engine_members
    ),
    case!(
        "archive/layout/checkpoint-directory",
        Reference,
        source::CHECKPOINTCTL,
        "The folder checkpoint/ has an entry of its own: checkpointctl refuses an archive without it.",
        "a directory entry checkpoint/",
        |archive| {
            require_criu(archive)?;
            match archive.member("checkpoint") {
                Some(member) if member.kind == MemberKind::Directory => pass("a directory entry"),
                Some(member) => fail(format!("checkpoint is a {:?}", member.kind)),
                None => fail("no entry"),
            }
        }
    ),
    case!(
        "archive/layout/flat-checkpoint-directory",
        Reference,
        "containerd and CRI-O",
        "The images lie flat in checkpoint/.",
        "no folder below checkpoint/",
        |archive| {
            require_criu(archive)?;
            let is_nested = |name: &str| {
                name.trim_end_matches('/')
                    .strip_prefix("checkpoint/")
                    .is_some_and(|rest| rest.contains('/'))
            };
            let members = archive
                .members
                .iter()
                .filter(|member| is_nested(member.name.trim_start_matches("./")));
            pass_unless(members.map(|member| member.name.clone()), "flat")
        }
    ),
    case!(
        "archive/layout/criu-image-names",
        Reference,
        "CRIU criu/image-desc.c",
        "Every image has a name that CRIU gives.",
        "CRIU's names",
        |archive| {
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
        }
    ),
    case!(
        "archive/layout/dump-log",
        Reference,
        "containerd and CRI-O",
        "dump.log is there and holds the log of the dump.",
        "a text of some length",
        |archive| {
            require_criu(archive)?;
            match &archive.dump_log {
                None if archive.expected_layout() == Layout::Podman => {
                    Err(NonPass::Skip("Podman leaves dump.log out".to_owned()))
                }
                None => fail("no dump.log"),
                Some(log) => check(
                    log.bytes > 0 && !log.has_nul,
                    format!("{} lines, {} bytes", log.lines, log.bytes),
                ),
            }
        }
    ),
    case!(
        "archive/layout/container-log",
        Reference,
        "containerd (container.log) and CRI-O (io.kubernetes.cri-o.LogPath); Podman (ctr.log) unless it logs to the journal",
        "The container's log is in the archive.",
        "container.log, io.kubernetes.cri-o.LogPath or ctr.log",
        container_log
    ),
    case!(
        "archive/layout/container-log-format",
        Reference,
        "CRI log format",
        "Every line of the container's log has its time, stream and tag.",
        "lines of the CRI's format",
        |archive| {
            require_criu(archive)?;
            match &archive.container_log {
                None => Err(NonPass::Skip("there is no log in the archive".to_owned())),
                Some((name, log)) => match &log.malformed_line {
                    None => pass(format!("{name}: {} lines", log.lines)),
                    Some(line) => fail(format!("{name}: {line}")),
                },
            }
        }
    ),
    case!(
        "archive/layout/rootfs-diff-is-tar",
        Reference,
        "containerd and CRI-O",
        "rootfs-diff.tar, where there is one, is a tar, be it compressed.",
        "a tar, plain or compressed",
        rootfs_diff
    ),
    case!(
        "archive/layout/descriptors-json",
        Robust,
        "runc libcontainer/criu_linux.go and crun: a restore reads descriptors.json (youki#1511)",
        "checkpoint/descriptors.json must be there: runc and crun restore no container without it.",
        "a file checkpoint/descriptors.json",
        |archive| {
            require_criu(archive)?;
            match archive.member(DESCRIPTORS) {
                Some(member) if member.kind == MemberKind::File => pass("a file"),
                Some(member) => fail(format!("a {:?}", member.kind)),
                None => fail("no checkpoint/descriptors.json"),
            }
        }
    ),
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
        "all three",
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
    // Whether there is a log at all has a case of its own.
    let other_log = [CONTAINER_LOG, CRIO_LOG, PODMAN_LOG].into_iter();
    let other_log = other_log.filter(|name| *name != log && archive.member(name).is_some());
    let other_log = other_log.map(|name| format!("the log is called {name}, not {log}"));
    pass_unless(missing.chain(other_log), format!("as {} lays it out", layout.as_str()))
}

fn container_log(archive: &InspectedArchive) -> CaseResult {
    require_criu(archive)?;
    if let Some((name, log)) = &archive.container_log {
        return pass(format!("{name}, {} bytes", log.bytes));
    }
    // Only the CRI's status says whether the container had a log at all.
    match archive.documents.status_dump.parsed() {
        _ if archive.expected_layout() == Layout::Podman => Err(NonPass::Skip(
            "Podman has a log to export only with the drivers k8s-file and json-file".to_owned(),
        )),
        Some(status) if status.log_path.is_empty() => Err(NonPass::Skip("the container has no log".to_owned())),
        _ => fail("no log"),
    }
}

fn rootfs_diff(archive: &InspectedArchive) -> CaseResult {
    require_criu(archive)?;
    match &archive.rootfs_diff {
        None => Err(NonPass::Skip("there is no rootfs-diff.tar".to_owned())),
        Some(NestedTar::Tar(None)) => pass("a tar"),
        Some(NestedTar::Tar(Some(compression))) => pass(format!("a tar within {compression}")),
        Some(NestedTar::Compressed(compression)) => pass(format!("{compression}, which was not looked into")),
        Some(NestedTar::Other(description)) => fail(description.clone()),
    }
}
