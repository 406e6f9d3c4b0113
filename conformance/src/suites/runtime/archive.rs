//! The archive of a checkpoint: its format, permissions and members.

use std::{collections::BTreeSet, path::Path};

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG};

use super::session::{ARCHIVE_CASE, MEMBERS_CASE, RuntimeSession, TAR_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, Outcome, case, check, fail, pass_if},
    suites,
    suites::{
        authority,
        inspection::{blocking, find_in_archive, has_required_members, is_complete_tar},
    },
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/archive/tar", Level::Reference)
        .requirement("The archive must be an uncompressed tar file whose end marker is at the end of the file.")
        .authority(authority::KUBERNETES_E2E)
        .expected("a complete tar")
        .depends_on(&[ARCHIVE_CASE])
        .shared()
        .run(|s| Box::pin(tar_is_whole(s))),
    case("runtime/archive/owner-only", Level::Documented)
        .requirement("A new archive must be accessible by its owner only, because it contains the container's memory.")
        .authority(authority::API_INTRODUCTION)
        .expected("no permissions for group and others")
        .depends_on(&[ARCHIVE_CASE])
        .shared()
        .run(|s| Box::pin(mode(s))),
    case("runtime/archive/required-members", Level::Reference)
        .requirement("The archive must have the members that the e2e test of Kubernetes requires.")
        .authority(authority::KUBERNETES_E2E)
        .expected("checkpoint/inventory.img, config.dump, spec.dump")
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(members(s))),
    case("runtime/archive/container-id", Level::Reference)
        .requirement("The config.dump of an archive must contain the id of the checkpointed container.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("the container's full id")
        .depends_on(&[TAR_CASE])
        .may_depend_on(&[MEMBERS_CASE])
        .shared()
        .run(|s| Box::pin(container_id(s))),
    case("runtime/archive/container-log", Level::Reference)
        .requirement("The archive must contain the container's log, including every line from before the call.")
        .authority(authority::COMMON_RUNTIMES)
        .expected(
            "container.log (containerd) or io.kubernetes.cri-o.LogPath (CRI-O) with the last heartbeat before \
            the call",
        )
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(contains_log(s))),
    case("runtime/archive/log-not-newer-than-memory", Level::Robust)
        .requirement(
            "The runtime must copy files while the container is frozen, so that no file is newer than the \
            memory.",
        )
        .authority(authority::KEP_MOTIVATION)
        .motivation("cri-o#6977: the container continued before its files were copied")
        .expected("no heartbeat in the archived log above the heartbeat in memory")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .may_depend_on(&["runtime/archive/container-log", "runtime/memory/heap"])
        .shared()
        .run(|s| Box::pin(log_not_newer_than_memory(s))),
    case("runtime/archive/passes-archive-suite", Level::Reference)
        .requirement("The archive must satisfy the documented and reference cases of the archive suite.")
        .authority(authority::KUBERNETES_E2E)
        .expected("no archive case of level documented or reference fails")
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(archive_suite(s))),
];

async fn tar_is_whole(s: &RuntimeSession) -> CaseResult {
    let archive = s.require_inspected_archive().await?;
    let members = archive.members.len();
    pass_if(
        is_complete_tar(archive),
        "a complete tar",
        format!("{:?} after {members} members", archive.end),
    )
}

async fn mode(s: &RuntimeSession) -> CaseResult {
    let (_, file) = s.require_archive_file().await?;
    check(file.mode & 0o077 == 0, format!("{:04o}", file.mode))
}

async fn members(s: &RuntimeSession) -> CaseResult {
    let archive = s.require_criu().await?;
    has_required_members(archive, ["checkpoint/inventory.img", "config.dump", "spec.dump"])
}

async fn container_id(s: &RuntimeSession) -> CaseResult {
    let archive = s.require_criu().await?;
    let Some(config) = archive.documents.config.parsed() else {
        return Err(NonPass::Blocked(MEMBERS_CASE));
    };
    let as_expected = config.id == s.first_checkpoint_ok().await?.container.id();
    check(
        as_expected,
        if as_expected {
            "the container's full id"
        } else {
            "the id of another container"
        },
    )
}

async fn contains_log(s: &RuntimeSession) -> CaseResult {
    s.require_criu().await?;
    let first = &s.first_checkpoint_ok().await?.attempt;
    let Some(text) = read_log(&first.location).await? else {
        return fail("no log");
    };
    let logged_heartbeat = first.before.workload.heartbeat;
    let as_expected = heartbeats(&text).contains(&logged_heartbeat);
    check(
        as_expected,
        if as_expected {
            "a log with the last heartbeat before the call"
        } else {
            "a log without the last heartbeat before the call"
        },
    )
}

async fn log_not_newer_than_memory(s: &RuntimeSession) -> CaseResult {
    s.require_test_workload()?;
    s.require_criu().await?;
    let first = &s.first_checkpoint_ok().await?.attempt;
    let Some(text) = read_log(&first.location).await? else {
        return Err(NonPass::Blocked("runtime/archive/container-log"));
    };
    let marker = super::memory::heartbeat_marker(&first.before.workload)?;
    let Some(page_match) = find_in_archive(&first.location, marker.clone()).await? else {
        return Err(NonPass::Blocked(super::memory::HEAP_CASE));
    };
    let memory_heartbeat = read_u64_at(
        &first.location,
        page_match.member,
        page_match.offset + marker.len() as u64,
    )
    .await?;
    let logged_heartbeat = heartbeats(&text).last().copied().unwrap_or_default();
    // The workload sets the counter in memory before it writes the line. At any one moment the memory is not behind the
    // log.
    pass_if(
        logged_heartbeat <= memory_heartbeat,
        "no heartbeat in the archived log above the heartbeat in memory",
        "a heartbeat in the archived log above the heartbeat in memory",
    )
}

async fn archive_suite(s: &RuntimeSession) -> CaseResult {
    let archive = s.require_criu().await?.clone();
    let task = tokio::task::spawn_blocking(move || suites::archive::check_all(&archive)).await;
    let records = task.map_err(|error| NonPass::error(&error))?;
    let required_records: Vec<_> = records
        .iter()
        .filter(|record| record.info.level != Level::Robust)
        .collect();
    let records_with =
        |takes: fn(&Outcome) -> bool| required_records.iter().filter(move |record| takes(&record.outcome));
    if let Some(record) = records_with(|outcome| matches!(outcome, Outcome::Error { .. })).next() {
        return Err(NonPass::Error(format!(
            "{}: {}",
            record.info.id,
            record.outcome.detail()
        )));
    }
    let passed = records_with(|outcome| matches!(outcome, Outcome::Pass { .. })).count();
    let failed: Vec<_> = records_with(|outcome| matches!(outcome, Outcome::Fail { .. }))
        .map(|record| format!("{} ({})", record.info.id, record.outcome.detail()))
        .collect();
    if failed.is_empty() {
        check(
            passed > 0,
            format!(
                "no failed case: {passed} of {} pass, the others do not apply",
                required_records.len()
            ),
        )
    } else {
        fail(format!(
            "{} of {} fail: {}",
            failed.len(),
            required_records.len(),
            failed.join("; ")
        ))
    }
}

/// The container's log in an archive, under containerd's or CRI-O's name.
async fn read_log(path: &Path) -> Result<Option<Vec<u8>>, NonPass> {
    let archive = path.to_owned();
    blocking(move || {
        for name in [CONTAINER_LOG, CRIO_LOG] {
            if let Some(content) = member_content(&archive, name, 0, None)? {
                return Ok(Some(content));
            }
        }
        Ok::<_, std::io::Error>(None)
    })
    .await
}

/// Reads eight bytes of a member as an integer in native byte order.
pub(super) async fn read_u64_at(path: &Path, member: String, offset: u64) -> Result<u64, NonPass> {
    let archive = path.to_owned();
    let bytes = blocking(move || member_content(&archive, &member, offset, Some(8))).await?;
    let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    number.ok_or_else(|| NonPass::Error("the archive changed during the read".to_owned()))
}

/// The content of a member from an offset: `length` bytes, or a whole log, which never exceeds the limit in this suite.
fn member_content(archive: &Path, name: &str, offset: u64, length: Option<u64>) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::{Read as _, copy, sink};
    const MAX_LOG_BYTES: u64 = 16 << 20;
    let mut archive = tar::Archive::new(std::fs::File::open(archive)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./") == name {
            copy(&mut entry.by_ref().take(offset), &mut sink())?;
            let mut content = Vec::new();
            entry.take(length.unwrap_or(MAX_LOG_BYTES)).read_to_end(&mut content)?;
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// The heartbeats of the first process in a log in CRI format.
pub(super) fn heartbeats(log: &[u8]) -> BTreeSet<u64> {
    let text = String::from_utf8_lossy(log).into_owned();
    let number = |line: &str| {
        let (before, heartbeat) = line.split_once("heartbeat ")?;
        let of_child = before.ends_with("child ");
        heartbeat.split_whitespace().next()?.parse().ok().filter(|_| !of_child)
    };
    // The last line may be incomplete and hold only part of the number.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_the_first_process_count() {
        let log =
            b"2026-01-01T00:00:00Z stdout F heartbeat 9 pid=1 start=2\n2026-01-01T00:00:00Z stdout F child heartbeat 7 pid=2\n\
            2026-01-01T00:00:00Z stdout F heartbeat 10 pid=1 start=2\n2026-01-01T00:00:00Z stdout F heartbeat 1";
        assert_eq!(heartbeats(log).into_iter().collect::<Vec<_>>(), [9, 10]);
    }
}
