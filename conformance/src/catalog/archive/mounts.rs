//! Of mounts and deleted files: nothing that leads a restore, which runs as root, out of the container.

use std::path::{Component, Path};

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
    let of_spec = |destination: &str| {
        let mut mounts = spec.mounts().iter().flatten();
        mounts.any(|mount| mount.destination() == Path::new(destination))
    };
    let unknown = listed.iter().filter(|mount| !of_spec(&mount.destination));
    none(
        unknown.map(|mount| format!("{} is no mount of spec.dump", mount.destination)),
        format!("{} mounts", listed.len()),
    )
}

fn deleted_files(archive: &Inspected) -> Judgement {
    let deleted = optional(archive, &archive.documents.deleted_files, "deleted.files", LISTS)?;
    let out = deleted.iter().filter(|path| climbs(Path::new(path)));
    none(out.map(|path| format!("{path:?}")), format!("{} paths", deleted.len()))
}
