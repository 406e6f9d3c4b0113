//! Of mounts and deleted files: nothing that leads a restore, which runs as root, out of the container.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
};

use super::given::{ArchiveCase, case, none, optional, spec};
use crate::{
    archive::Inspected,
    case::{Judgement, Stop},
};

const MOUNTS: &str = "CVE-2024-8676: a restore mounted what the archive named";
/// The case that judges whether the lists can be read.
const LISTS: &str = "archive/documents/lists";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "mounts/inside",
        Robust,
        MOUNTS,
        "Every mount of spec.dump and bind.mounts is at an absolute path that does not climb out, and is of a known kind.",
        "absolute destinations without `..`; file or directory",
        inside
    ),
    case!(
        "mounts/known",
        Robust,
        MOUNTS,
        "Every mount of bind.mounts is one of spec.dump: the list adds none to those that the container had.",
        "destinations of spec.dump",
        known
    ),
    case!(
        "mounts/sources",
        Robust,
        MOUNTS,
        "bind.mounts must not mount the host's own files: its root, its configuration, its devices, sockets of its engines.",
        "no source that rules the host",
        sources
    ),
    case!(
        "mounts/deleted-files",
        Robust,
        "CWE-22; a restore deletes what deleted.files names",
        "No path of deleted.files climbs out of the container.",
        "no `..` in a path",
        deleted_files
    ),
];

/// Whether a path has a component `..`.
fn climbs(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

fn inside(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let bad_place = |path: &Path| !path.is_absolute() || climbs(path);
    let mounts = spec.mounts().iter().flatten();
    let mut bad: Vec<_> = mounts
        .filter(|mount| bad_place(mount.destination()))
        .map(|mount| format!("spec.dump mounts at {}", mount.destination().display()))
        .collect();
    match optional(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS) {
        Ok(mounts) => bad.extend(mounts.iter().filter_map(|mount| {
            let known = matches!(mount.file_type.as_str(), "file" | "directory");
            let odd = bad_place(Path::new(&mount.destination)) || !known;
            odd.then(|| format!("bind.mounts has a {} at {}", mount.file_type, mount.destination))
        })),
        Err(Stop::Skip(_)) => {}
        Err(stop) => return Err(stop),
    }
    none(bad, "all of them")
}

fn known(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let listed = optional(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS)?;
    let mounts = spec.mounts().iter().flatten();
    let destinations: BTreeSet<&Path> = mounts.map(|mount| mount.destination().as_path()).collect();
    let of_spec = |destination: &str| destinations.contains(Path::new(destination));
    let unknown = listed.iter().filter(|mount| !of_spec(&mount.destination));
    none(
        unknown.map(|mount| format!("{} is no mount of spec.dump", mount.destination)),
        format!("{} mounts", listed.len()),
    )
}

/// Directories of the host of which no file is a container's.
const OF_THE_HOST: [&str; 8] = [
    "/etc",
    "/root",
    "/boot",
    "/proc",
    "/sys",
    "/dev",
    "/var/lib/kubelet",
    "/var/run/secrets",
];
/// What Pods have of them all the same: the engine's name resolution, the time zone, certificates, the kubelet's volumes.
const OF_PODS: [&str; 9] = [
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
/// Parts of names of the sockets that engines and the kubelet listen on.
const SOCKETS: [&str; 5] = [
    "docker.sock",
    "containerd.sock",
    "crio.sock",
    "podman.sock",
    "kubelet.sock",
];

fn sources(archive: &Inspected) -> Judgement {
    let listed = optional(archive, &archive.documents.bind_mounts, "bind.mounts", LISTS)?;
    let bad = listed.iter().filter(|mount| rules_the_host(Path::new(&mount.source)));
    none(
        bad.map(|mount| format!("{:?} at {:?}", mount.source, mount.destination)),
        format!("{} mounts", listed.len()),
    )
}

fn rules_the_host(source: &Path) -> bool {
    let below = |directories: &[&str]| directories.iter().any(|directory| source.starts_with(directory));
    let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let whole = ["/", "/run", "/var", "/var/run", "/usr", "/home"];
    climbs(source)
        || whole.iter().any(|directory| source == Path::new(directory))
        || SOCKETS.contains(&name)
        || below(&OF_THE_HOST) && !below(&OF_PODS)
}

fn deleted_files(archive: &Inspected) -> Judgement {
    let deleted = optional(archive, &archive.documents.deleted_files, "deleted.files", LISTS)?;
    let out = deleted.iter().filter(|path| climbs(Path::new(path)));
    none(out.map(|path| format!("{path:?}")), format!("{} paths", deleted.len()))
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
    fn what_rules_the_host(#[case] source: &str, #[case] expected: bool) {
        assert_eq!(rules_the_host(Path::new(source)), expected);
    }
}
