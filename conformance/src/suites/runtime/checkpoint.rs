//! A checkpoint of a running container, its archive, and a second checkpoint.

use jiff::{SignedDuration, Timestamp};

use super::{
    archive::read_u64_at,
    session::{ARCHIVE_CASE, KEEPS_RUNNING_CASE, MEMBERS_CASE, OK_CASE, RuntimeSession, SECOND_CASE, TAR_CASE},
};
use crate::engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, check, fail, pass, pass_if};
use crate::{
    suites::{
        authority,
        inspection::{find_in_archive, inspect},
    },
    targets::policy,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/checkpoint/succeeds", Level::Documented)
        .requirement("A checkpoint of a running container must succeed.")
        .authority(authority::CRI_CALL)
        .expected("success")
        .stage(Stage::Early)
        .run(|s| Box::pin(succeeds(s))),
    case("runtime/checkpoint/archive-at-location", Level::Documented)
        .requirement("The archive must exist at the requested location after the call has succeeded.")
        .authority(authority::CRI_REQUEST)
        .expected("a non-empty file")
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .run(|s| Box::pin(archive_exists(s))),
    case("runtime/checkpoint/complete-at-return", Level::Reference)
        .requirement("The archive must be complete when the call returns.")
        .authority(authority::COMMON_RUNTIMES)
        .motivation("the kubelet passes the location on as soon as the call returns")
        .expected("the complete archive when the call returns")
        .depends_on(&[ARCHIVE_CASE])
        .stage(Stage::Early)
        .run(|s| Box::pin(archive_at_return(s))),
    case("runtime/checkpoint/repeatable", Level::Reference)
        .requirement("A container must be checkpointable more than once.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("success, and an archive")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .stage(Stage::Early)
        .run(|s| Box::pin(second_succeeds(s))),
    case("runtime/checkpoint/fresh-images", Level::Reference)
        .requirement("An archive must hold the memory at the time of its own checkpoint, not of an earlier checkpoint.")
        .authority(authority::COMMON_RUNTIMES)
        .motivation("cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive")
        .expected("in the second archive's pages, a heartbeat not below the last logged heartbeat before the call")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE, SECOND_CASE])
        .may_depend_on(&["runtime/memory/heap"])
        .stage(Stage::Early)
        .run(|s| Box::pin(fresh_images(s))),
    case("runtime/checkpoint/fresh-timestamp", Level::Reference)
        .requirement("The checkpoint time in config.dump must lie within the call that made the archive.")
        .authority(authority::COMMON_RUNTIMES)
        .motivation("cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive")
        .expected("checkpointedTime within the call, for the first and the second archive")
        .depends_on(&[TAR_CASE, SECOND_CASE])
        .may_depend_on(&[MEMBERS_CASE])
        .stage(Stage::Early)
        .run(|s| Box::pin(fresh_timestamp(s))),
];

async fn succeeds(s: &RuntimeSession) -> CaseResult {
    let response = &s.first_attempt().await?.attempt.response;
    if policy::is_checkpoint_disabled(&response.message) {
        return Err(NonPass::Policy(response.to_string()));
    }
    check(response.is_ok(), response.to_string())
}

async fn archive_exists(s: &RuntimeSession) -> CaseResult {
    let first = &s.first_checkpoint_ok().await?.attempt;
    match &first.file {
        Ok(file) if file.length > 0 => pass(format!("a file of {} bytes", file.length)),
        Ok(_) => fail("an empty file"),
        Err(reason) => fail(format!("{}: {reason}", first.location.display())),
    }
}

async fn archive_at_return(s: &RuntimeSession) -> CaseResult {
    let (first, file) = s.require_archive_file().await?;
    match &first.attempt.file_at_return {
        Some(file_at_return) if file_at_return == file => pass(format!("{} bytes when the call returned", file.length)),
        Some(file_at_return) => fail(format!(
            "{} bytes when the call returned, {} bytes later",
            file_at_return.length, file.length
        )),
        None => fail("no archive when the call returned, and an archive later"),
    }
}

async fn second_succeeds(s: &RuntimeSession) -> CaseResult {
    let second = s.second_attempt().await?;
    match &second.file {
        _ if !second.response.is_ok() => fail(second.response.to_string()),
        Ok(file) => pass(format!("success, and a file of {} bytes", file.length)),
        Err(reason) => fail(format!("success, and no archive: {reason}")),
    }
}

async fn fresh_images(s: &RuntimeSession) -> CaseResult {
    s.require_test_workload()?;
    s.require_criu().await?;
    let second = s.require_second_checkpoint().await?;
    let marker = super::memory::heartbeat_marker(&second.before.workload)?;
    let page_match = find_in_archive(&second.location, marker.clone()).await?;
    let Some(page_match) = page_match else {
        return Err(NonPass::Blocked(super::memory::HEAP_CASE));
    };
    let logged_heartbeat = second.before.workload.heartbeat;
    let offset = page_match.offset + marker.len() as u64;
    let memory_heartbeat = read_u64_at(&second.location, page_match.member, offset).await?;
    pass_if(
        memory_heartbeat >= logged_heartbeat,
        "a heartbeat not below the last logged heartbeat before the call",
        "a heartbeat below the last logged heartbeat before the call",
    )
}

async fn fresh_timestamp(s: &RuntimeSession) -> CaseResult {
    s.require_criu().await?;
    let first = &s.first_checkpoint_ok().await?.attempt;
    let second = s.require_second_checkpoint().await?;
    let mut actual = Vec::new();
    for (name, attempt) in [("first", first), ("second", second)] {
        let archive = inspect(&attempt.location).await?;
        let Some(config) = archive.documents.config.parsed() else {
            return Err(NonPass::Blocked(MEMBERS_CASE));
        };
        if !is_within_call(config.checkpointed_at, attempt.started, attempt.ended) {
            actual.push(format!("checkpointedTime of the {name} archive is not within its call"));
        }
    }
    pass_if(
        actual.is_empty(),
        "checkpointedTime within the call, for both archives",
        actual.join("; "),
    )
}

/// Whether a time lies within a call. The clocks may differ slightly, and the time may be truncated to whole seconds.
fn is_within_call(time: Timestamp, started: Timestamp, ended: Timestamp) -> bool {
    let slack = SignedDuration::from_millis(20);
    let whole_second = time.subsec_nanosecond() == 0;
    let early = if whole_second {
        SignedDuration::from_secs(1)
    } else {
        slack
    };
    started.duration_since(time) <= early && time.duration_since(ended) <= slack
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_within_a_call() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (started, ended) = (at("2026-01-01T00:00:10.5Z"), at("2026-01-01T00:00:10.9Z"));
        assert!(is_within_call(at("2026-01-01T00:00:10.6Z"), started, ended));
        assert!(is_within_call(at("2026-01-01T00:00:10Z"), started, ended));
        assert!(!is_within_call(at("2026-01-01T00:00:10.2Z"), started, ended));
        assert!(!is_within_call(at("2026-01-01T00:00:11.2Z"), started, ended));
    }
}
