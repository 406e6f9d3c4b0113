//! Mounts and deleted files: no path must lead a restore, which runs as root, out of the container.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
};

use super::preconditions::{ArchiveCase, pass_unless, require_optional_document, require_spec_dump};
use crate::{
    archive::InspectedArchive,
    engine::{Authority, CaseResult, Level, NonPass, case},
    suites::authority,
};

const LISTS_CASE: &str = "archive/metadata/lists-valid";

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/mounts/destinations-inside", Level::Robust)
        .requirement(
            "Every mount of spec.dump and bind.mounts must have an absolute destination without `..`, and \
            every bind.mounts entry a known type.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2024-8676: a restore mounted what the archive named")
        .expected("absolute destinations without `..`; types file or directory")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .may_depend_on(&["archive/metadata/lists-valid"])
        .check(destinations_in_container),
    case("archive/mounts/bind-mounts-in-spec", Level::Robust)
        .requirement(
            "Every mount of bind.mounts must be a mount of spec.dump, so that the list adds no mounts to the \
            container.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2024-8676: a restore mounted what the archive named")
        .expected("destinations of spec.dump")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .may_depend_on(&["archive/metadata/lists-valid"])
        .check(listed_mounts_in_spec),
    case("archive/mounts/no-host-sources", Level::Robust)
        .requirement(
            "bind.mounts must not mount files that control the host: its root, configuration, devices, or \
            sockets of its engines.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2024-8676: a restore mounted what the archive named")
        .expected("no source that controls the host")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/metadata/lists-valid",
        ])
        .check(no_host_source),
    case("archive/mounts/deleted-files-inside", Level::Robust)
        .requirement("No path in deleted.files must have a `..` component.")
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("no `..` in a path")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/metadata/lists-valid",
        ])
        .check(deleted_files),
];

fn has_parent_component(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

fn destinations_in_container(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let is_outside = |path: &Path| !path.is_absolute() || has_parent_component(path);
    let mounts = spec.mounts().iter().flatten();
    let mut problems: Vec<_> = mounts
        .filter(|mount| is_outside(mount.destination()))
        .map(|mount| format!("spec.dump mounts at {}", mount.destination().display()))
        .collect();
    match require_optional_document(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS_CASE) {
        Ok(mounts) => problems.extend(mounts.iter().filter_map(|mount| {
            let valid_type = matches!(mount.file_type.as_str(), "file" | "directory");
            let invalid = is_outside(Path::new(&mount.destination)) || !valid_type;
            invalid.then(|| format!("bind.mounts has a {} at {}", mount.file_type, mount.destination))
        })),
        Err(NonPass::Skip(_)) => {}
        Err(non_pass) => return Err(non_pass),
    }
    pass_unless(problems, "absolute destinations without `..`; types file or directory")
}

fn listed_mounts_in_spec(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let listed = require_optional_document(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS_CASE)?;
    let mounts = spec.mounts().iter().flatten();
    let destinations: BTreeSet<&Path> = mounts.map(|mount| mount.destination().as_path()).collect();
    let of_spec = |destination: &str| destinations.contains(Path::new(destination));
    let unknown = listed.iter().filter(|mount| !of_spec(&mount.destination));
    pass_unless(
        unknown.map(|mount| format!("{} is not a mount of spec.dump", mount.destination)),
        format!("{} mounts", listed.len()),
    )
}

/// Directories of the host whose files belong to no container.
const HOST_DIRECTORIES: [&str; 8] = [
    "/etc",
    "/root",
    "/boot",
    "/proc",
    "/sys",
    "/dev",
    "/var/lib/kubelet",
    "/var/run/secrets",
];
/// Exceptions that Pods do mount: name resolution files of the engine, the time zone, certificates, volumes of the
/// kubelet.
const POD_DIRECTORIES: [&str; 9] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/etc/pki",
    "/dev/shm",
    "/var/lib/kubelet/pods",
];
/// File names of the sockets on which engines and the kubelet listen.
const ENGINE_SOCKETS: [&str; 5] = [
    "docker.sock",
    "containerd.sock",
    "crio.sock",
    "podman.sock",
    "kubelet.sock",
];

fn no_host_source(archive: &InspectedArchive) -> CaseResult {
    let listed = require_optional_document(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS_CASE)?;
    let problems = listed.iter().filter(|mount| is_host_source(Path::new(&mount.source)));
    pass_unless(
        problems.map(|mount| format!("{:?} at {:?}", mount.source, mount.destination)),
        format!("{} mounts", listed.len()),
    )
}

fn is_host_source(source: &Path) -> bool {
    let below = |directories: &[&str]| directories.iter().any(|directory| source.starts_with(directory));
    let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let host_roots = ["/", "/run", "/var", "/var/run", "/usr", "/home"];
    has_parent_component(source)
        || host_roots.iter().any(|directory| source == Path::new(directory))
        || ENGINE_SOCKETS.contains(&name)
        || below(&HOST_DIRECTORIES) && !below(&POD_DIRECTORIES)
}

fn deleted_files(archive: &InspectedArchive) -> CaseResult {
    let deleted = require_optional_document(archive, &archive.documents.deleted_files, "deleted.files", LISTS_CASE)?;
    let escaping = deleted.iter().filter(|path| has_parent_component(Path::new(path)));
    pass_unless(
        escaping.map(|path| format!("{path:?}")),
        format!("{} paths", deleted.len()),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/", true)]
    #[case("/etc", true)]
    #[case("/etc/shadow", true)]
    #[case("/var/run/docker.sock", true)]
    #[case("/run/containerd/containerd.sock", true)]
    #[case("/dev/sda", true)]
    #[case("/srv/../etc", true)]
    #[case("/var/lib/kubelet/pki", true)]
    #[case("/etc/hosts", false)]
    #[case("/etc/resolv.conf", false)]
    #[case("/var/lib/kubelet/pods/1/volumes/kubernetes.io~secret/token", false)]
    #[case("/run/containers/storage/overlay-containers/1/userdata/hostname", false)]
    #[case("/srv/data", false)]
    #[case("/etcetera", false)]
    fn host_sources(#[case] source: &str, #[case] expected: bool) {
        assert_eq!(is_host_source(Path::new(source)), expected);
    }
}
