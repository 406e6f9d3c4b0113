//! Of the JSON documents: what they say, and that they say the same.

use std::collections::BTreeSet;

use cri_proto::document::{STATUS_VERSION, never};
use jiff::Timestamp;

use super::given::{ArchiveCase, Complaints, case, config, criu, none, optional, source, spec};
use crate::{
    archive::{Document, Inspected, Layout},
    case::{Judgement, Stop, fail, judge, pass},
};

const METADATA: &str = "checkpointctl lib/metadata.go";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "documents/config-dump",
        Reference,
        METADATA,
        "config.dump is JSON and names container and times; times are RFC 3339.",
        "JSON of checkpointctl's shape",
        |archive| parses(
            archive,
            &archive.documents.config,
            Some("archive/layout/upstream-names")
        )
    ),
    case!(
        "documents/config-fields",
        Reference,
        METADATA,
        "config.dump has all fields that describe a checkpoint, and a value in each.",
        "id, name, image (with the characters of a reference), runtime, three times, restored; of Podman id, name, createdTime",
        config_fields
    ),
    case!(
        "documents/spec-dump",
        Reference,
        "OCI runtime specification",
        "spec.dump is an OCI runtime configuration.",
        "JSON of the specification's shape",
        |archive| parses(archive, &archive.documents.spec, Some("archive/layout/upstream-names"))
    ),
    case!(
        "documents/spec-process",
        Reference,
        "OCI runtime specification",
        "spec.dump says of which version it is, what was run and on which root.",
        "ociVersion, process.args, root.path",
        spec_process
    ),
    case!(
        "documents/spec-lists",
        Reference,
        "OCI runtime specification (config-linux.md: namespaces; config.md: rlimits)",
        "spec.dump has no namespace and no limit twice: a runtime must refuse it.",
        "every type once",
        spec_lists
    ),
    case!(
        "documents/status-dump",
        Reference,
        "containerd; CRI ContainerStatus",
        "status.dump, where there is one, is JSON of a CRI ContainerStatus.",
        "JSON of the CRI's shape",
        |archive| parses(archive, &archive.documents.status_dump, None)
    ),
    case!(
        "documents/status",
        Reference,
        "containerd internal/cri/store/container/status.go",
        "status, where there is one, is JSON of containerd's shape and version v1.",
        "JSON, Version v1",
        |archive| {
            parses(archive, &archive.documents.status, None)?;
            let version = archive
                .documents
                .status
                .read()
                .map(|status| status.version.as_str())
                .unwrap_or_default();
            judge(version == STATUS_VERSION, format!("Version {version:?}"))
        }
    ),
    case!(
        "documents/descriptors",
        Reference,
        "runc",
        "checkpoint/descriptors.json, where there is one, is a JSON array of what the standard streams point at.",
        "an array of three strings",
        |archive| {
            parses(archive, &archive.documents.descriptors, None)?;
            let names = archive.documents.descriptors.read().cloned().unwrap_or_default();
            judge(
                names.len() >= 3 && names.iter().all(|name| !name.is_empty()),
                format!("{names:?}"),
            )
        }
    ),
    case!(
        "documents/lists",
        Reference,
        METADATA,
        "deleted.files and bind.mounts, where they are there, are JSON arrays of checkpointctl's shape.",
        "JSON arrays",
        |archive| {
            let deleted = parses(archive, &archive.documents.deleted_files, None);
            match parses(archive, &archive.documents.bind_mounts, None) {
                Err(Stop::Skip(_)) => deleted,
                mounts @ Err(_) => mounts,
                mounts => deleted.or(mounts),
            }
        }
    ),
    case!(
        "documents/times",
        Reference,
        METADATA,
        "The container was created, then started, then checkpointed.",
        "created <= started <= checkpointed",
        times
    ),
    case!(
        "documents/restored",
        Reference,
        METADATA,
        "The time of a restore is the zero time unless the container was restored.",
        "restored false and 0001-01-01T00:00:00Z, or restored true and a time",
        |archive| {
            let config = config(archive)?;
            let is_time = config.restored_at != never();
            judge(
                is_time == config.restored,
                format!("restored {}, restoredTime {}", config.restored, config.restored_at),
            )
        }
    ),
    case!(
        "documents/same-id",
        Reference,
        "containerd and CRI-O",
        "All documents are of one container.",
        "one id",
        same_id
    ),
    case!(
        "documents/same-name",
        Reference,
        "CRI ContainerMetadata",
        "All documents call the container, its pod and namespace the same.",
        "one name, one pod, one namespace",
        same_name
    ),
    case!(
        "documents/same-times",
        Reference,
        "containerd",
        "status and status.dump name the same times and end of the container.",
        "the same times",
        same_times
    ),
    case!(
        "documents/running",
        Reference,
        source::PAGE,
        "What was checkpointed is a running container, and its status says so.",
        "state CONTAINER_RUNNING, no time of an end",
        running
    ),
    case!(
        "documents/engine",
        Reference,
        "checkpointctl internal/utils.go",
        "checkpointctl finds pod, namespace and container in the annotations of spec.dump.",
        "annotations of the engine that io.container.manager names",
        engine
    ),
    case!(
        "documents/image-names",
        Robust,
        "CVE-2026-50195: containerd pulled rootfsImageRef and tagged it as rootfsImageName",
        "The image that config.dump refers to must be of the repository that config.dump names: a restore tags what it pulls.",
        "one repository in rootfsImageName and rootfsImageRef",
        image_names
    ),
];

fn parses<T>(archive: &Inspected, document: &Document<T>, missing: Option<&'static str>) -> Judgement {
    criu(archive)?;
    match (document, missing) {
        (Document::Read(_), _) => pass("read"),
        (Document::Unreadable(why), _) => fail(why.clone()),
        (Document::Missing, Some(judged_by)) => Err(Stop::Blocked(judged_by)),
        (Document::Missing, None) => Err(Stop::Skip("there is no such member".to_owned())),
    }
}

fn config_fields(archive: &Inspected) -> Judgement {
    let config = config(archive)?;
    let names: &[&str] = match archive.expected_layout() {
        Layout::Podman => &["id", "name", "createdTime"],
        Layout::Containerd | Layout::CriO => &[
            "id",
            "name",
            "rootfsImage",
            "rootfsImageRef",
            "rootfsImageName",
            "runtime",
            "createdTime",
            "checkpointedTime",
            "restoredTime",
            "restored",
        ],
    };
    let fields = &archive.documents.config_fields;
    let bad = names.iter().filter_map(|name| match fields.get(*name) {
        None => Some(format!("no {name}")),
        Some(false) => Some(format!("{name} is empty")),
        Some(true) => None,
    });
    let images = [
        ("rootfsImage", &config.rootfs_image),
        ("rootfsImageRef", &config.rootfs_image_ref),
        ("rootfsImageName", &config.rootfs_image_name),
    ];
    let odd = images.into_iter().filter(|(_, image)| !is_like_a_reference(image));
    let odd = odd.map(|(name, image)| format!("{name} {image:?} is no reference of an image"));
    none(bad.chain(odd), "all fields")
}

/// Whether a text has only characters that references of images have, or paths of archives that stand for images.
fn is_like_a_reference(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    text.bytes().all(allowed) && !text.split('/').any(|part| part == "..")
}

fn image_names(archive: &Inspected) -> Judgement {
    let config = config(archive)?;
    let (name, reference) = (&config.rootfs_image_name, &config.rootfs_image_ref);
    if !is_like_a_reference(name) || !is_like_a_reference(reference) {
        return Err(Stop::Blocked("archive/documents/config-fields"));
    }
    let (Some(of_name), Some(of_reference)) = (repository(name), repository(reference)) else {
        return Err(Stop::Skip("one of them names no repository".to_owned()));
    };
    judge(of_name == of_reference, format!("{name:?} and {reference:?}"))
}

/// The repository of a reference, with the registry and directory that are meant where none is named; `None` for a digest, an id
/// or a path.
fn repository(reference: &str) -> Option<String> {
    let name = reference.split('@').next().unwrap_or_default();
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.is_empty() || name.starts_with("sha256:") || name.starts_with('/') || is_id {
        return None;
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = name[last..].find(':').map_or(name, |colon| &name[..last + colon]);
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    Some(match name.contains('/') {
        _ if has_registry => name.replacen("index.docker.io/", "docker.io/", 1),
        true => format!("docker.io/{name}"),
        false => format!("docker.io/library/{name}"),
    })
}

fn spec_process(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let mut bad = Vec::new();
    let version = spec.version();
    let numbers = version
        .split(['.', '-', '+'])
        .take(3)
        .filter(|part| part.parse::<u32>().is_ok())
        .count();
    if numbers < 3 {
        bad.push(format!("ociVersion {version:?}"));
    }
    let process = spec.process().as_ref();
    if process
        .and_then(|process| process.args().as_ref())
        .is_none_or(Vec::is_empty)
    {
        bad.push("no process.args".to_owned());
    }
    if process.is_some_and(|process| !process.cwd().is_absolute()) {
        bad.push("process.cwd is not absolute".to_owned());
    }
    if spec
        .root()
        .as_ref()
        .is_none_or(|root| root.path().as_os_str().is_empty())
    {
        bad.push("no root.path".to_owned());
    }
    none(bad, format!("ociVersion {version}"))
}

fn spec_lists(archive: &Inspected) -> Judgement {
    let spec = spec(archive)?;
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let limits = spec.process().as_ref().and_then(|process| process.rlimits().as_ref());
    let namespaces = namespaces
        .into_iter()
        .flatten()
        .map(|one| format!("namespace {}", one.typ()));
    let limits = limits.into_iter().flatten().map(|one| format!("limit {}", one.typ()));
    let mut seen = BTreeSet::new();
    let mut bad = Complaints::default();
    for one in namespaces.chain(limits) {
        // There are few types, whatever the length of the lists.
        if !seen.insert(one.clone()) {
            bad.add(|| format!("{one} twice"));
        }
    }
    bad.judge(format!("{} entries", seen.len()))
}

fn times(archive: &Inspected) -> Judgement {
    let config = config(archive)?;
    let mut moments = vec![("createdTime", config.created)];
    if let Some(status) = archive
        .documents
        .status_dump
        .read()
        .filter(|status| status.started_at > 0)
    {
        let started = Timestamp::from_nanosecond(status.started_at.into());
        moments.extend(started.ok().map(|started| ("started_at", started)));
    }
    // Podman does not say when it was.
    if config.checkpointed != never() {
        moments.push(("checkpointedTime", config.checkpointed));
    }
    let seen: Vec<_> = moments.iter().map(|(name, time)| format!("{name} {time}")).collect();
    let in_order = moments.is_sorted_by_key(|(_, time)| *time);
    let real = moments.iter().all(|(_, time)| *time > Timestamp::UNIX_EPOCH);
    judge(in_order && real, seen.join(", "))
}

fn same_id(archive: &Inspected) -> Judgement {
    let config = config(archive)?;
    let mut ids = vec![("config.dump", config.id.clone())];
    ids.extend(
        archive
            .documents
            .status_dump
            .read()
            .map(|status| ("status.dump", status.id.clone())),
    );
    // Of the engines only CRI-O repeats the id in the specification.
    ids.extend(annotation(archive, "io.kubernetes.cri-o.ContainerID").map(|id| ("spec.dump", id)));
    if ids.len() < 2 {
        return Err(Stop::Skip("only config.dump has an id".to_owned()));
    }
    let other = ids
        .iter()
        .filter(|(_, id)| id != &config.id)
        .map(|(name, id)| format!("{name} says {id:?}"));
    none(other, config.id.clone())
}

fn same_name(archive: &Inspected) -> Judgement {
    spec(archive)?;
    let name = "archive/documents/status-dump";
    let status = optional(archive, &archive.documents.status_dump, "status.dump", name)?;
    let label = |key: &str| status.labels.get(key).cloned();
    let metadata = status.metadata.as_ref().map(|metadata| metadata.name.clone());
    let pairs = [
        (
            "name",
            annotation(archive, "io.kubernetes.cri.container-name"),
            metadata.clone(),
        ),
        ("name", label("io.kubernetes.container.name"), metadata),
        (
            "pod",
            annotation(archive, "io.kubernetes.cri.sandbox-name"),
            label("io.kubernetes.pod.name"),
        ),
        (
            "namespace",
            annotation(archive, "io.kubernetes.cri.sandbox-namespace"),
            label("io.kubernetes.pod.namespace"),
        ),
        (
            "uid",
            annotation(archive, "io.kubernetes.cri.sandbox-uid"),
            label("io.kubernetes.pod.uid"),
        ),
    ];
    let both: Vec<_> = pairs
        .into_iter()
        .filter_map(|(what, one, other)| Some((what, one?, other?)))
        .collect();
    if both.is_empty() {
        return Err(Stop::Skip("no name stands in two documents".to_owned()));
    }
    let seen = both
        .iter()
        .map(|(what, name, _)| format!("{what} {name}"))
        .collect::<Vec<_>>()
        .join(", ");
    let other = both.into_iter().filter(|(_, one, other)| one != other);
    none(
        other.map(|(what, one, other)| format!("{what} {one:?} and {other:?}")),
        seen,
    )
}

fn same_times(archive: &Inspected) -> Judgement {
    let documents = &archive.documents;
    let dump = optional(
        archive,
        &documents.status_dump,
        "status.dump",
        "archive/documents/status-dump",
    )?;
    let status = optional(archive, &documents.status, "status", "archive/documents/status")?;
    let pairs = [
        ("created", status.created_at, dump.created_at),
        ("started", status.started_at, dump.started_at),
        ("finished", status.finished_at, dump.finished_at),
        ("exit code", status.exit_code.into(), dump.exit_code.into()),
    ];
    let other = pairs.iter().filter(|(_, one, other)| one != other);
    none(
        other.map(|(what, one, other)| format!("{what} {one} and {other}")),
        "the same",
    )
}

fn running(archive: &Inspected) -> Judgement {
    let documents = &archive.documents;
    let dump = optional(
        archive,
        &documents.status_dump,
        "status.dump",
        "archive/documents/status-dump",
    )?;
    let running = i32::from(cri_proto::runtime::v1::ContainerState::ContainerRunning);
    let pid = documents.status.read().map_or(1, |status| status.pid);
    let seen = format!(
        "state {}, finished_at {}, started_at {}",
        dump.state, dump.finished_at, dump.started_at
    );
    judge(
        dump.state == running && dump.finished_at == 0 && dump.started_at > 0 && pid > 0,
        seen,
    )
}

fn annotation(archive: &Inspected, key: &str) -> Option<String> {
    archive.documents.spec.read()?.annotations().as_ref()?.get(key).cloned()
}

fn engine(archive: &Inspected) -> Judgement {
    spec(archive)?;
    let manager = annotation(archive, "io.container.manager");
    if manager.as_deref() == Some("libpod") {
        return pass("read as Podman's, which has no pod and no namespace of Kubernetes");
    }
    let wanted: &[&str] = match manager.as_deref() {
        Some("cri-o") => &[
            "io.kubernetes.cri-o.Metadata",
            "io.kubernetes.pod.name",
            "io.kubernetes.pod.namespace",
        ],
        _ => &[
            "io.kubernetes.cri.container-name",
            "io.kubernetes.cri.sandbox-name",
            "io.kubernetes.cri.sandbox-namespace",
        ],
    };
    let mut bad: Vec<_> = wanted
        .iter()
        .filter(|key| annotation(archive, key).is_none_or(|value| value.is_empty()))
        .map(|key| format!("no {key}"))
        .collect();
    let metadata = annotation(archive, "io.kubernetes.cri-o.Metadata").filter(|_| manager.as_deref() == Some("cri-o"));
    if metadata.is_some_and(|json| serde_json::from_str::<serde_json::Value>(&json).is_err()) {
        bad.push("io.kubernetes.cri-o.Metadata is no JSON".to_owned());
    }
    none(bad, format!("read as {}", manager.as_deref().unwrap_or("containerd")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("busybox", Some("docker.io/library/busybox"))]
    #[case("docker.io/library/busybox:1@sha256:4f1c", Some("docker.io/library/busybox"))]
    #[case("index.docker.io/library/busybox", Some("docker.io/library/busybox"))]
    #[case("user/app:2", Some("docker.io/user/app"))]
    #[case("localhost:5000/app:2", Some("localhost:5000/app"))]
    #[case("quay.io/user/app@sha256:4f1c", Some("quay.io/user/app"))]
    #[case("sha256:4f1c", None)]
    #[case("/var/lib/kubelet/checkpoints/a.tar", None)]
    #[case("", None)]
    fn repositories(#[case] reference: &str, #[case] expected: Option<&str>) {
        assert_eq!(repository(reference).as_deref(), expected);
    }

    #[rstest]
    #[case("docker.io/library/busybox:1.36@sha256:ab", true)]
    #[case("", true)]
    #[case("../../etc/passwd", false)]
    #[case("busybox\n\x1b[31m", false)]
    #[case("$(reboot)", false)]
    fn references_have_few_characters(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_like_a_reference(text), expected);
    }
}
