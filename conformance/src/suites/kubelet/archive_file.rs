//! The archive file: name, directory, format, permissions.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use jiff::Timestamp;

use super::session::{ARCHIVE_CASE, KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, TAR_CASE, WHEN_DONE_CASE};
use crate::{
    archive::TarEnd,
    engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, check, fail, pass, skip},
    suites::{authority, inspection::has_required_members},
    targets::{ContainerRef, KubeletConfig, afternoon_offset},
};

const TIMESTAMP_FORMAT_CASE: &str = "kubelet/archive-name/timestamp-rfc3339";
const FILENAME_CASE: &str = "kubelet/archive-name/format";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/archive-name/format", Level::Documented)
        .requirement(
            "The archive must be named checkpoint-<podFullName>-<containerName>-<timestamp>.tar, with \
            <pod>_<namespace> as the full name of the Pod.",
        )
        .authority(authority::API_OPERATIONS)
        .expected("checkpoint-<pod>_<namespace>-<container>-<timestamp>.tar")
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(filename(s))),
    case("kubelet/archive-name/long-pod-name", Level::Documented)
        .requirement("The archive's name must contain the whole name of a Pod, with its dots, however long it is.")
        .authority(authority::API_OPERATIONS)
        .expected("checkpoint-<pod>_<namespace>-<container>-<timestamp>.tar")
        .requires(&[Capability::FakeCriControl, Capability::NamesakePods])
        .depends_on(&[KEEPS_RUNNING_CASE, "kubelet/archive-name/format"])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(long_pod_name(s))),
    case("kubelet/archive-name/timestamp-rfc3339", Level::Reference)
        .requirement(
            "The timestamp in the archive's name must be in RFC 3339 format, with or without fractional \
            seconds.",
        )
        .authority(authority::KUBELET)
        .expected("2006-01-02T15:04:05Z, 2006-01-02T15:04:05.999Z, or either with an offset")
        .depends_on(&["kubelet/archive-name/format"])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(timestamp_format(s))),
    case("kubelet/archive-name/timestamp-local-zone", Level::Reference)
        .requirement("The timestamp in the archive's name must be in the local time zone of the kubelet.")
        .authority(authority::KUBELET)
        .expected("the local time of a zone with an offset of half an hour, in 24 hours")
        .requires(&[Capability::RestartKubelet])
        .depends_on(&["kubelet/archive-name/timestamp-rfc3339", KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Restarting)
        .run(|s| Box::pin(timestamp_zone(s))),
    case("kubelet/archive/in-checkpoints-dir", Level::Documented)
        .requirement("The kubelet must store the archive in the directory `checkpoints` in its root directory.")
        .authority(authority::API_OPERATIONS)
        .expected("a file directly in `checkpoints`")
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(in_checkpoints_dir(s))),
    case("kubelet/archive/tar", Level::Documented)
        .requirement("The archive must be a tar file that can be listed.")
        .authority(authority::API_OPERATIONS)
        .expected("at least one member, and every member complete")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[ARCHIVE_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(is_listable_tar(s))),
    case("kubelet/archive/required-members", Level::Reference)
        .requirement("An archive in CRIU's format must have the members that the e2e test of Kubernetes requires.")
        .authority(authority::KUBERNETES_E2E)
        .expected("spec.dump, config.dump, checkpoint/inventory.img")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[TAR_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(upstream_members(s))),
    case("kubelet/archive/root-only", Level::Documented)
        .requirement("The archive must be accessible by root only, because it contains all memory of the container.")
        .authority(authority::API_INTRODUCTION)
        .expected(
            "no permissions for group and others, owned by root (or by the runtime's user if the runtime does \
            not run as root)",
        )
        .requires(&[Capability::ReadArchives])
        .depends_on(&[ARCHIVE_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(file_access(s))),
    case("kubelet/checkpoints-dir/mode-0700", Level::Reference)
        .requirement("The directory `checkpoints` must have mode 0700.")
        .authority(authority::KUBELET)
        .expected("0700")
        .requires(&[Capability::ReadArchives])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(checkpoints_dir_mode(s))),
    case("kubelet/archive-name/timestamp", Level::Documented)
        .requirement("The timestamp in the archive's name must be the time of the request.")
        .authority(authority::API_OPERATIONS)
        .expected("a time between request and response")
        .depends_on(&[KEEPS_RUNNING_CASE, "kubelet/archive-name/format"])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/archive-name/timestamp-rfc3339"])
        .max_archives(1)
        .run(|s| Box::pin(timestamp(s))),
];

async fn first_location(s: &KubeletSession) -> Result<&Path, NonPass> {
    s.first_checkpoint_ok()
        .await?
        .location
        .as_deref()
        .map(Path::new)
        .ok_or_else(location_unknown)
}

fn location_unknown() -> NonPass {
    NonPass::Skip("requires a body, a journal or a checkpoints directory that names the archive".to_owned())
}

/// The part of the name at the position of the timestamp; `None` if the rest of the name has the wrong format.
fn timestamp_in_name<'a>(container_under_test: &ContainerRef, location: &'a Path) -> Option<&'a str> {
    let prefix = format!(
        "checkpoint-{}_{}-{}-",
        container_under_test.pod, container_under_test.namespace, container_under_test.container
    );
    let name = location.file_name()?.to_str()?;
    let stamp = name.strip_prefix(prefix.as_str())?.strip_suffix(".tar")?;
    (!stamp.is_empty()).then_some(stamp)
}

async fn first_timestamp(s: &KubeletSession) -> Result<Option<&str>, NonPass> {
    Ok(timestamp_in_name(s.container_under_test(), first_location(s).await?))
}

async fn filename(s: &KubeletSession) -> CaseResult {
    let actual = first_location(s)
        .await?
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    check(first_timestamp(s).await?.is_some(), actual)
}

async fn long_pod_name(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let namesakes = s.kubelet.namesakes.as_ref();
    let container = &namesakes.ok_or(NonPass::Missing(Capability::NamesakePods))?.long_name;
    let attempt = s.checkpoint(container).await?;
    let location = attempt.location.ok_or_else(location_unknown)?;
    check(timestamp_in_name(container, Path::new(&location)).is_some(), location)
}

/// Parses RFC 3339 as Go's `time.RFC3339` or `time.RFC3339Nano` formats it. Returns the time and the zone as written.
fn parse_timestamp(stamp: &str) -> Option<(Timestamp, &str)> {
    let rest = stamp.get(19..)?;
    let fraction = match rest.strip_prefix('.') {
        Some(digits) => 1 + digits.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    let zone = rest.get(fraction..)?;
    let numeric = zone.len() == 6 && zone.as_bytes()[3] == b':';
    if fraction == 1 || stamp.as_bytes()[10] != b'T' || !(zone == "Z" || numeric) {
        return None;
    }
    Some((stamp.parse().ok()?, zone))
}

async fn timestamp_format(s: &KubeletSession) -> CaseResult {
    let stamp = first_timestamp(s).await?.ok_or(NonPass::Blocked(FILENAME_CASE))?;
    check(parse_timestamp(stamp).is_some(), stamp)
}

async fn timestamp_zone(s: &KubeletSession) -> CaseResult {
    let first = first_timestamp(s).await?.ok_or(NonPass::Blocked(FILENAME_CASE))?;
    parse_timestamp(first).ok_or(NonPass::Blocked(TIMESTAMP_FORMAT_CASE))?;
    // In the zone of this machine, which may be UTC, other zones and a clock of 12 hours can give the same text.
    let offset = afternoon_offset(Timestamp::now());
    s.require_configuration(KubeletConfig::TimeZone(offset.seconds()))
        .await?;
    let call = s.checkpoint(s.container_under_test()).await?;
    let location = call.location.as_deref().map(Path::new).ok_or_else(location_unknown)?;
    let stamp = timestamp_in_name(s.container_under_test(), location).ok_or(NonPass::Blocked(FILENAME_CASE))?;
    let local = |time: Timestamp| time.display_with_offset(offset).to_string();
    let (earliest, latest) = (local(call.started), local(call.ended));
    // Local times of one zone are ordered as texts. The fraction of a second may be missing.
    let is_local = stamp.get(..19) >= earliest.get(..19) && stamp.get(..19) <= latest.get(..19);
    let has_offset = stamp.ends_with(&earliest[earliest.len() - 6..]);
    check(
        is_local && has_offset,
        format!("{stamp} for a request from {earliest} to {latest}"),
    )
}

async fn timestamp(s: &KubeletSession) -> CaseResult {
    // If the kubelet started within this second, the time of its start could not be distinguished from the time of the
    // request.
    s.wait_until_age(Duration::from_millis(1100)).await;
    s.require_checkpointable().await?;
    let call = s.checkpoint(s.container_under_test()).await?;
    let location = call.location.as_deref().map(Path::new).ok_or_else(location_unknown)?;
    let stamp = timestamp_in_name(s.container_under_test(), location).ok_or(NonPass::Blocked(FILENAME_CASE))?;
    // The API page does not define the timestamp format. A timestamp in an unknown format blocks this case.
    let time = parse_timestamp(stamp)
        .map(|(time, _)| time)
        .or_else(|| stamp.parse().ok())
        .or_else(|| Timestamp::from_second(stamp.parse().ok()?).ok())
        .ok_or(NonPass::Blocked(TIMESTAMP_FORMAT_CASE))?;
    // The clock of another machine may differ. In that case the Date header of the response gives the time of the
    // response.
    let date = jiff::fmt::rfc2822::parse(call.response.header("date")).map(|date| date.timestamp());
    let (started, ended) = match date {
        Ok(date) if !s.kubelet.paths_are_local => (date - call.ended.duration_since(call.started), date),
        _ => (call.started, call.ended),
    };
    let seconds = time.as_second();
    let as_expected = started.as_second() <= seconds && seconds <= ended.as_second();
    check(
        as_expected,
        format!("{stamp}, request at {started:.3}, response at {ended:.3}"),
    )
}

async fn in_checkpoints_dir(s: &KubeletSession) -> CaseResult {
    let location = first_location(s).await?;
    let parent = location.parent().unwrap_or(Path::new(""));
    let actual = location.display().to_string();
    match &s.kubelet.checkpoints_dir {
        Some(dir) if s.kubelet.paths_are_local => check(parent == dir, actual),
        _ => check(location.is_absolute() && parent.ends_with("checkpoints"), actual),
    }
}

async fn is_listable_tar(s: &KubeletSession) -> CaseResult {
    let archive = s.require_inspected_archive().await?;
    let members = archive.members.len();
    match &archive.end {
        TarEnd::Marker if members > 0 => pass(format!("{members} members")),
        // Tools list such an archive. A case of the archive suite checks the end marker.
        TarEnd::NoMarker if members > 0 => pass(format!("{members} members, no end marker")),
        TarEnd::Marker | TarEnd::NoMarker => fail("no members"),
        TarEnd::Empty => fail("empty file"),
        TarEnd::Corrupt(broken) => fail(format!("{members} members, then {broken}")),
        TarEnd::LimitReached { offset, limit: bound } => {
            Err(NonPass::Error(format!("not read beyond byte {offset}: {bound}")))
        }
    }
}

async fn upstream_members(s: &KubeletSession) -> CaseResult {
    let archive = s.require_tar().await?;
    if !archive.is_criu() {
        return skip("requires an archive in CRIU's format");
    }
    has_required_members(archive, ["spec.dump", "config.dump", "checkpoint/inventory.img"])
}

async fn file_access(s: &KubeletSession) -> CaseResult {
    let file = s.require_archive_file().await?;
    let private = file.mode & 0o077 == 0;
    let owned = file.uid == 0 || file.uid == s.kubelet.archive_owner_uid;
    let owner = match file.uid {
        0 => "root",
        uid if uid == s.kubelet.archive_owner_uid => "the runtime's user",
        _ => "another user",
    };
    check(
        private && owned,
        format!("mode {:04o}, owner {owner} (uid {})", file.mode, file.uid),
    )
}

async fn checkpoints_dir_mode(s: &KubeletSession) -> CaseResult {
    let dir = s.require_checkpoints_dir()?;
    let metadata = std::fs::metadata(dir).map_err(|error| NonPass::Error(format!("{}: {error}", dir.display())))?;
    let mode = metadata.permissions().mode() & 0o7777;
    check(mode == 0o700, format!("{mode:04o}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-03-04T05:06:07Z", true)]
    #[case("2026-03-04T05:06:07+02:00", true)]
    #[case("2026-03-04T05:06:07-11:30", true)]
    #[case("2026-03-04T05:06:07.5Z", true)]
    #[case("2026-03-04T05:06:07.123456789+02:00", true)]
    #[case("2026-03-04T05:06:07.Z", false)]
    #[case("2026-03-04 05:06:07Z", false)]
    #[case("2026-13-04T05:06:07Z", false)]
    #[case("1772600767", false)]
    #[case("2026-03-04T05:06:07", false)]
    fn timestamps_have_go_formats(#[case] stamp: &str, #[case] as_expected: bool) {
        assert_eq!(parse_timestamp(stamp).is_some(), as_expected);
    }
}
