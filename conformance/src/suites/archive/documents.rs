//! The JSON documents: content and consistency.

use std::collections::BTreeSet;

use cri_proto::document::{STATUS_VERSION, zero_time};
use jiff::Timestamp;

use super::preconditions::{
    ArchiveCase, Problems, criu_case, pass_unless, require_config_dump, require_criu, require_optional_document,
    require_spec_dump,
};
use crate::{
    archive::{InspectedArchive, Layout, ParsedDocument},
    engine::{Authority, CaseResult, Level, NonPass, case, check, fail, pass, skip},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/metadata/config-dump-valid", Level::Reference)
        .requirement("config.dump must be JSON with the names of the container and times in RFC 3339 format.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl lib/metadata.go"))
        .expected("JSON in checkpointctl's format")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/layout/required-members",
        ])
        .check(|archive| {
            require_readable(
                archive,
                &archive.documents.config,
                Some("archive/layout/required-members"),
            )
        }),
    case("archive/metadata/config-dump-fields", Level::Reference)
        .requirement("config.dump must have every field that describes a checkpoint, with a value in each.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl lib/metadata.go"))
        .expected(
            "id, name, image (in the characters of an image reference), runtime, three times, restored; Podman: \
            id, name, createdTime",
        )
        .depends_on(&["archive/metadata/config-dump-valid"])
        .check(config_fields),
    case("archive/metadata/spec-dump-valid", Level::Reference)
        .requirement("spec.dump must be an OCI runtime configuration.")
        .authority(authority::OCI)
        .expected("JSON in the format of the specification")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/layout/required-members",
        ])
        .check(|archive| {
            require_readable(
                archive,
                &archive.documents.spec,
                Some("archive/layout/required-members"),
            )
        }),
    case("archive/metadata/spec-process-fields", Level::Reference)
        .requirement(
            "spec.dump must contain the version of the specification, the process arguments and the root \
            path.",
        )
        .authority(authority::OCI)
        .expected("ociVersion, process.args, root.path")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(spec_process),
    case("archive/metadata/spec-lists-unique", Level::Reference)
        .requirement(
            "spec.dump must have no namespace type and no limit twice, because a runtime must reject \
            duplicates.",
        )
        .authority(
            authority::OCI.with_section("OCI runtime specification (config-linux.md: namespaces; config.md: rlimits)"),
        )
        .expected("unique types")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(spec_lists),
    criu_case("archive/metadata/status-dump-valid", Level::Reference)
        .requirement("status.dump, if present, must be JSON of a CRI ContainerStatus.")
        .authority(authority::CRI_STATUS)
        .expected("JSON in the CRI's format")
        .check(|archive| require_readable(archive, &archive.documents.status_dump, None)),
    criu_case("archive/metadata/status-valid", Level::Reference)
        .requirement("The member status, if present, must be JSON in containerd's format, version v1.")
        .authority(authority::CONTAINERD_STATUS)
        .expected("JSON, Version v1")
        .check(|archive| {
            require_readable(archive, &archive.documents.status, None)?;
            let version = archive
                .documents
                .status
                .parsed()
                .map(|status| status.version.as_str())
                .unwrap_or_default();
            check(version == STATUS_VERSION, format!("Version {version:?}"))
        }),
    criu_case("archive/metadata/descriptors-json-valid", Level::Reference)
        .requirement(
            "checkpoint/descriptors.json, if present, must be a JSON array with the targets of the standard \
            streams.",
        )
        .authority(authority::RUNC)
        .expected("an array of three strings")
        .check(|archive| {
            require_readable(archive, &archive.documents.descriptors, None)?;
            let names = archive.documents.descriptors.parsed().cloned().unwrap_or_default();
            check(
                names.len() >= 3 && names.iter().all(|name| !name.is_empty()),
                format!("{names:?}"),
            )
        }),
    criu_case("archive/metadata/lists-valid", Level::Reference)
        .requirement("deleted.files and bind.mounts, if present, must be JSON arrays in checkpointctl's format.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl lib/metadata.go"))
        .expected("JSON arrays")
        .check(|archive| {
            let deleted = require_readable(archive, &archive.documents.deleted_files, None);
            match require_readable(archive, &archive.documents.bind_mounts, None) {
                Err(NonPass::Skip(_)) => deleted,
                mounts @ Err(_) => mounts,
                mounts => deleted.or(mounts),
            }
        }),
    case("archive/metadata/times-ordered", Level::Reference)
        .requirement("The times of the container must be in the order created, started, checkpointed.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl lib/metadata.go"))
        .expected("created <= started <= checkpointed")
        .depends_on(&["archive/metadata/config-dump-valid"])
        .check(times),
    case("archive/metadata/restored-time-consistent", Level::Reference)
        .requirement("restoredTime must be the zero time if and only if the container was not restored.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl lib/metadata.go"))
        .expected("restored false and 0001-01-01T00:00:00Z, or restored true and another time")
        .depends_on(&["archive/metadata/config-dump-valid"])
        .check(|archive| {
            let config = require_config_dump(archive)?;
            let is_time = config.restored_at != zero_time();
            check(
                is_time == config.restored,
                format!("restored {}, restoredTime {}", config.restored, config.restored_at),
            )
        }),
    case("archive/metadata/same-id", Level::Reference)
        .requirement("All documents must have the id of the same container.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("one id")
        .depends_on(&["archive/metadata/config-dump-valid"])
        .check(same_id),
    case("archive/metadata/same-names", Level::Reference)
        .requirement("All documents must have the same names of the container, its Pod and its namespace.")
        .authority(authority::CRI_METADATA)
        .expected("one name, one Pod, one namespace")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .may_depend_on(&["archive/metadata/status-dump-valid"])
        .check(same_name),
    case("archive/metadata/same-times", Level::Reference)
        .requirement("status and status.dump must have the same times and exit code of the container.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("equal times and exit codes")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/metadata/status-valid",
            "archive/metadata/status-dump-valid",
        ])
        .check(same_times),
    case("archive/metadata/container-running", Level::Reference)
        .requirement("The status in the archive must be that of a running container.")
        .authority(authority::API_INTRODUCTION)
        .expected("state CONTAINER_RUNNING (1), finished_at 0, started_at above 0")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&[
            "archive/tar/not-empty",
            "archive/format/checkpoint-archive",
            "archive/metadata/status-dump-valid",
        ])
        .check(status_is_running),
    case("archive/metadata/engine-annotations", Level::Reference)
        .requirement("spec.dump must have the annotations from which checkpointctl reads Pod, namespace and container.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl internal/utils.go"))
        .expected("annotations of the engine that io.container.manager names")
        .depends_on(&["archive/metadata/spec-dump-valid"])
        .check(engine_annotations),
    case("archive/metadata/image-names-agree", Level::Robust)
        .requirement(
            "rootfsImageRef must be in the repository of rootfsImageName, because a restore tags the image \
            that it pulls.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2026-50195: containerd pulled rootfsImageRef and tagged it as rootfsImageName")
        .expected("one repository in rootfsImageName and rootfsImageRef")
        .depends_on(&["archive/metadata/config-dump-valid"])
        .may_depend_on(&["archive/metadata/config-dump-fields"])
        .check(image_names),
];

fn require_readable<T>(
    archive: &InspectedArchive,
    document: &ParsedDocument<T>,
    missing: Option<&'static str>,
) -> CaseResult {
    require_criu(archive)?;
    match (document, missing) {
        (ParsedDocument::Parsed(_), _) => pass("valid JSON"),
        (ParsedDocument::Unreadable(reason), _) => fail(reason.clone()),
        (ParsedDocument::Missing, Some(blocking_case)) => Err(NonPass::Blocked(blocking_case)),
        (ParsedDocument::Missing, None) => skip("requires an archive with this document"),
    }
}

fn config_fields(archive: &InspectedArchive) -> CaseResult {
    let config = require_config_dump(archive)?;
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
    let problems = names.iter().filter_map(|name| match fields.get(*name) {
        None => Some(format!("no {name}")),
        Some(false) => Some(format!("{name} is empty")),
        Some(true) => None,
    });
    let images = [
        ("rootfsImage", &config.rootfs_image),
        ("rootfsImageRef", &config.rootfs_image_ref),
        ("rootfsImageName", &config.rootfs_image_name),
    ];
    let invalid = images.into_iter().filter(|(_, image)| !has_only_reference_chars(image));
    let invalid = invalid.map(|(name, image)| format!("{name} {image:?} is not an image reference"));
    pass_unless(problems.chain(invalid), "all fields")
}

/// Whether a text has only characters of image references, or of archive paths that are used as images.
fn has_only_reference_chars(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    text.bytes().all(allowed) && !text.split('/').any(|part| part == "..")
}

fn image_names(archive: &InspectedArchive) -> CaseResult {
    let config = require_config_dump(archive)?;
    let (name, reference) = (&config.rootfs_image_name, &config.rootfs_image_ref);
    if !has_only_reference_chars(name) || !has_only_reference_chars(reference) {
        return Err(NonPass::Blocked("archive/metadata/config-dump-fields"));
    }
    let (Some(of_name), Some(of_reference)) = (repository(name), repository(reference)) else {
        return skip("requires a repository in both names");
    };
    check(of_name == of_reference, format!("{name:?} and {reference:?}"))
}

/// The repository of a reference, completed with the default registry and directory; `None` for a digest, an id or a
/// path.
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

fn spec_process(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let mut problems = Vec::new();
    let version = spec.version();
    let numbers = version
        .split(['.', '-', '+'])
        .take(3)
        .filter(|part| part.parse::<u32>().is_ok())
        .count();
    if numbers < 3 {
        problems.push(format!("ociVersion {version:?}"));
    }
    let process = spec.process().as_ref();
    if process
        .and_then(|process| process.args().as_ref())
        .is_none_or(Vec::is_empty)
    {
        problems.push("no process.args".to_owned());
    }
    if process.is_some_and(|process| !process.cwd().is_absolute()) {
        problems.push("process.cwd is not absolute".to_owned());
    }
    if spec
        .root()
        .as_ref()
        .is_none_or(|root| root.path().as_os_str().is_empty())
    {
        problems.push("no root.path".to_owned());
    }
    pass_unless(problems, format!("ociVersion {version}"))
}

fn spec_lists(archive: &InspectedArchive) -> CaseResult {
    let spec = require_spec_dump(archive)?;
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let limits = spec.process().as_ref().and_then(|process| process.rlimits().as_ref());
    let namespaces = namespaces
        .into_iter()
        .flatten()
        .map(|entry| format!("namespace {}", entry.typ()));
    let limits = limits
        .into_iter()
        .flatten()
        .map(|entry| format!("limit {}", entry.typ()));
    let mut unique = BTreeSet::new();
    let mut problems = Problems::default();
    for entry in namespaces.chain(limits) {
        // The set stays small, whatever the length of the lists: there are few types.
        if !unique.insert(entry.clone()) {
            problems.add(|| format!("{entry} twice"));
        }
    }
    problems.into_result(format!("{} entries", unique.len()))
}

fn times(archive: &InspectedArchive) -> CaseResult {
    let config = require_config_dump(archive)?;
    let mut times = vec![("createdTime", config.created_at)];
    if let Some(status) = archive
        .documents
        .status_dump
        .parsed()
        .filter(|status| status.started_at > 0)
    {
        let started = Timestamp::from_nanosecond(status.started_at.into());
        times.extend(started.ok().map(|started| ("started_at", started)));
    }
    // Podman does not write the time of the checkpoint.
    if config.checkpointed_at != zero_time() {
        times.push(("checkpointedTime", config.checkpointed_at));
    }
    let actual: Vec<_> = times.iter().map(|(name, time)| format!("{name} {time}")).collect();
    let in_order = times.is_sorted_by_key(|(_, time)| *time);
    let real = times.iter().all(|(_, time)| *time > Timestamp::UNIX_EPOCH);
    check(in_order && real, actual.join(", "))
}

fn same_id(archive: &InspectedArchive) -> CaseResult {
    let config = require_config_dump(archive)?;
    let mut ids = vec![("config.dump", config.id.clone())];
    ids.extend(
        archive
            .documents
            .status_dump
            .parsed()
            .map(|status| ("status.dump", status.id.clone())),
    );
    // Only CRI-O repeats the id in spec.dump.
    ids.extend(annotation(archive, "io.kubernetes.cri-o.ContainerID").map(|id| ("spec.dump", id)));
    if ids.len() < 2 {
        return skip("requires a second document with an id");
    }
    let other = ids
        .iter()
        .filter(|(_, id)| id != &config.id)
        .map(|(name, id)| format!("{name} has {id:?}"));
    pass_unless(other, config.id.clone())
}

fn same_name(archive: &InspectedArchive) -> CaseResult {
    require_spec_dump(archive)?;
    let name = "archive/metadata/status-dump-valid";
    let status = require_optional_document(archive, &archive.documents.status_dump, "status.dump", name)?;
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
    let in_two_documents: Vec<_> = pairs
        .into_iter()
        .filter_map(|(field, value, other)| Some((field, value?, other?)))
        .collect();
    if in_two_documents.is_empty() {
        return skip("requires a name that two documents contain");
    }
    let actual = in_two_documents
        .iter()
        .map(|(field, name, _)| format!("{field} {name}"))
        .collect::<Vec<_>>()
        .join(", ");
    let other = in_two_documents.into_iter().filter(|(_, value, other)| value != other);
    pass_unless(
        other.map(|(field, value, other)| format!("{field} {value:?} and {other:?}")),
        actual,
    )
}

fn same_times(archive: &InspectedArchive) -> CaseResult {
    let documents = &archive.documents;
    let dump = require_optional_document(
        archive,
        &documents.status_dump,
        "status.dump",
        "archive/metadata/status-dump-valid",
    )?;
    let status = require_optional_document(archive, &documents.status, "status", "archive/metadata/status-valid")?;
    let pairs = [
        ("created", status.created_at, dump.created_at),
        ("started", status.started_at, dump.started_at),
        ("finished", status.finished_at, dump.finished_at),
        ("exit code", status.exit_code.into(), dump.exit_code.into()),
    ];
    let other = pairs.iter().filter(|(_, value, other)| value != other);
    pass_unless(
        other.map(|(field, value, other)| format!("{field} {value} and {other}")),
        "equal times and exit codes",
    )
}

fn status_is_running(archive: &InspectedArchive) -> CaseResult {
    let documents = &archive.documents;
    let dump = require_optional_document(
        archive,
        &documents.status_dump,
        "status.dump",
        "archive/metadata/status-dump-valid",
    )?;
    let running = i32::from(cri_proto::runtime::v1::ContainerState::ContainerRunning);
    let pid = documents.status.parsed().map_or(1, |status| status.pid);
    let actual = format!(
        "state {}, finished_at {}, started_at {}",
        dump.state, dump.finished_at, dump.started_at
    );
    check(
        dump.state == running && dump.finished_at == 0 && dump.started_at > 0 && pid > 0,
        actual,
    )
}

fn annotation(archive: &InspectedArchive, key: &str) -> Option<String> {
    archive
        .documents
        .spec
        .parsed()?
        .annotations()
        .as_ref()?
        .get(key)
        .cloned()
}

fn engine_annotations(archive: &InspectedArchive) -> CaseResult {
    require_spec_dump(archive)?;
    let manager = annotation(archive, "io.container.manager");
    if manager.as_deref() == Some("libpod") {
        return pass("annotations of Podman, which has no Kubernetes Pod and namespace");
    }
    let required: &[&str] = match manager.as_deref() {
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
    let mut problems: Vec<_> = required
        .iter()
        .filter(|key| annotation(archive, key).is_none_or(|value| value.is_empty()))
        .map(|key| format!("no {key}"))
        .collect();
    let metadata = annotation(archive, "io.kubernetes.cri-o.Metadata").filter(|_| manager.as_deref() == Some("cri-o"));
    if metadata.is_some_and(|json| serde_json::from_str::<serde_json::Value>(&json).is_err()) {
        problems.push("io.kubernetes.cri-o.Metadata is not JSON".to_owned());
    }
    pass_unless(
        problems,
        format!("annotations of {}", manager.as_deref().unwrap_or("containerd")),
    )
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
    fn image_reference_characters(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(has_only_reference_chars(text), expected);
    }
}
