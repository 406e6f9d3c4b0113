//! A checkpoint of a running container, its archive, and another one after it.

use jiff::{SignedDuration, Timestamp};

use super::{
    archive::read_u64_at,
    session::{
        ARCHIVE_CASE, MEMBERS_CASE, OK_CASE, RuntimeSession, SECOND_CASE, WHEN_DONE_CASE, find_in_archive, inspect,
    },
};
use crate::engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass};
use crate::{suites::authority, targets::policy};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: OK_CASE,
            requirement: "a checkpoint of a running container succeeds",
            authority: authority::CRI_CALL,
            motivation: "",
            level: Level::Documented,
            expected: "success",
        },
        |s| Box::pin(succeeds(s)),
    ),
    Case::new(
        CaseInfo {
            id: ARCHIVE_CASE,
            requirement: "when the call has succeeded, the archive is at the location of the request",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "a file that is not empty",
        },
        |s| Box::pin(archive_exists(s)),
    ),
    Case::new(
        CaseInfo {
            id: WHEN_DONE_CASE,
            requirement: "the answer comes when the archive is complete, not before",
            authority: authority::COMMON_RUNTIMES,
            motivation: "the kubelet hands the location on with the answer",
            level: Level::Reference,
            expected: "the whole archive is there with the answer",
        },
        |s| Box::pin(archive_at_return(s)),
    ),
    Case::new(
        CaseInfo {
            id: SECOND_CASE,
            requirement: "a container can be checkpointed more than once",
            authority: authority::COMMON_RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "success, and an archive",
        },
        |s| Box::pin(second_succeeds(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/checkpoint/fresh-images",
            requirement: "an archive holds the memory as it is then, not that of an earlier checkpoint",
            authority: authority::COMMON_RUNTIMES,
            motivation: "cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive",
            level: Level::Reference,
            expected: "a counter in the second archive's pages that is not below what the log told before",
        },
        |s| Box::pin(fresh_images(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/checkpoint/fresh-timestamp",
            requirement: "an archive is of this call: config.dump says a time between its request and its answer",
            authority: authority::COMMON_RUNTIMES,
            motivation: "cri-o#7355, cri-o#9692: images of an earlier checkpoint in the archive",
            level: Level::Reference,
            expected: "checkpointedTime within the call, for the first and the second archive",
        },
        |s| Box::pin(fresh_timestamp(s)),
    ),
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
        Ok(_) => fail("a file of no bytes"),
        Err(reason) => fail(format!("{}: {reason}", first.location.display())),
    }
}

async fn archive_at_return(s: &RuntimeSession) -> CaseResult {
    let (first, file) = s.require_archive_file().await?;
    match &first.attempt.file_at_return {
        Some(file_at_return) if file_at_return == file => pass(format!("{} bytes with the answer", file.length)),
        Some(file_at_return) => fail(format!(
            "{} bytes with the answer, {} later",
            file_at_return.length, file.length
        )),
        None => fail("nothing with the answer, and the archive later"),
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
    match memory_heartbeat >= logged_heartbeat {
        true => pass("a counter as the log told it before, or later"),
        false => fail("a counter of before: the log had told a later one"),
    }
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
            actual.push(format!("the {name} archive says another time than its call's"));
        }
    }
    match actual.is_empty() {
        true => pass("within the call, twice"),
        false => fail(actual.join("; ")),
    }
}

/// Whether a time lies within a call, by clocks that may differ a little and a time that may be cut to whole seconds.
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
