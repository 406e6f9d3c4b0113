//! What is left after a checkpoint that failed, one group of cases for each way to fail: the call's deadline, the request's
//! timeout, a caller that goes away, an error.
//!
//! The container must be as it was: a runtime that froze it lets it go whatever becomes of the call. How such checkpoints
//! are had is in `aftermath.rs`.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    failed_checkpoint::{FailedCheckpoint, FailureMode, Leftover, MIN_TIMEOUT},
    session::RuntimeSession,
};
use crate::engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass};
use crate::suites::authority;

/// The case that judges whether the request's timeout counts at all.
const TIMEOUT_ENFORCED_CASE: &str = "runtime/timeout/enforced";

/// A checkpoint of a large container takes its time, and some are tried.
const CASE_TIMEOUT: Duration = Duration::from_secs(180);

macro_rules! container_unharmed_cases {
    ($mode:expr, $after:literal, $ids:expr) => {
        [
            Case::new(
                CaseInfo {
                    id: $ids[0],
                    requirement: concat!("after ", $after, " the container runs on"),
                    authority: authority::KEP_FAILED,
                    motivation: "containerd 2.4: the container was left frozen after a deadline, while its status said RUNNING",
                    level: Level::Documented,
                    expected: "its counter moves",
                },
                |s| Box::pin(keeps_running(s, $mode)),
            )
            .timeout(CASE_TIMEOUT),
            Case::new(
                CaseInfo {
                    id: $ids[1],
                    requirement: concat!("after ", $after, " the container is the process that it was"),
                    authority: authority::KEP_FAILED,
                    motivation: "",
                    level: Level::Documented,
                    expected: "the same pid and start time",
                },
                |s| Box::pin(same_process(s, $mode)),
            )
            .timeout(CASE_TIMEOUT),
            Case::new(
                CaseInfo {
                    id: $ids[2],
                    requirement: concat!(
                        "after ",
                        $after,
                        " ContainerStatus says that the container runs, as it does"
                    ),
                    authority: authority::CRI_STATUS,
                    motivation: "",
                    level: Level::Documented,
                    expected: "CONTAINER_RUNNING, and its counter moves",
                },
                |s| Box::pin(status(s, $mode)),
            )
            .timeout(CASE_TIMEOUT),
            Case::new(
                CaseInfo {
                    id: $ids[3],
                    requirement: concat!("after ", $after, " the container can be checkpointed"),
                    authority: authority::COMMON_RUNTIMES,
                    motivation: "containerd 2.4-beta: the checkpoint after one that ran out of time failed",
                    level: Level::Reference,
                    expected: "success of the next checkpoint",
                },
                |s| Box::pin(can_checkpoint_again(s, $mode)),
            )
            .timeout(CASE_TIMEOUT),
        ]
    };
}

macro_rules! no_partial_case {
    ($mode:expr, $after:literal, $id:literal) => {
        Case::new(
            CaseInfo {
                id: $id,
                requirement: concat!("after ", $after, " no part of an archive is at the location"),
                authority: authority::CWE_INCOMPLETE_CLEANUP,
                motivation: "containerd 2.4 and CRI-O 1.37 write in place: a part of the archive stays",
                level: Level::Robust,
                expected: "nothing, or a whole archive",
            },
            |s| Box::pin(no_partial(s, $mode)),
        )
        .timeout(CASE_TIMEOUT)
    };
}

macro_rules! no_late_archive_case {
    ($mode:expr, $after:literal, $id:literal) => {
        Case::new(
            CaseInfo {
                id: $id,
                requirement: concat!("after ", $after, " no archive appears of which nobody will know"),
                authority: authority::GRPC_CANCELLATION,
                motivation: "containerd 2.4 and CRI-O 1.37: the dump goes on, and the archive appears later",
                level: Level::Robust,
                expected: "nothing at the location, even when the checkpoint would have ended",
            },
            |s| Box::pin(no_late_archive(s, $mode)),
        )
        .timeout(CASE_TIMEOUT)
    };
}

pub(super) const DEADLINE_CASES: &[Case<RuntimeSession>] = &container_unharmed_cases!(
    FailureMode::Deadline,
    "a deadline that passed",
    [
        "runtime/deadline/keeps-running",
        "runtime/deadline/same-process",
        "runtime/deadline/status-running",
        "runtime/deadline/can-checkpoint-again",
    ]
);
pub(super) const DEADLINE_FILE_CASES: &[Case<RuntimeSession>] = &[
    no_partial_case!(
        FailureMode::Deadline,
        "a deadline that passed",
        "runtime/deadline/no-partial-archive"
    ),
    no_late_archive_case!(
        FailureMode::Deadline,
        "a deadline that passed",
        "runtime/deadline/no-late-archive"
    ),
];
pub(super) const TIMEOUT_CASES: &[Case<RuntimeSession>] = &container_unharmed_cases!(
    FailureMode::Timeout,
    "a timeout that passed",
    [
        "runtime/timeout/keeps-running",
        "runtime/timeout/same-process",
        "runtime/timeout/status-running",
        "runtime/timeout/can-checkpoint-again",
    ]
);
pub(super) const TIMEOUT_FILE_CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: TIMEOUT_ENFORCED_CASE,
            requirement: "a timeout above zero is the user's: a checkpoint that takes longer fails when it has passed",
            authority: authority::KEP_IMPLEMENTATION,
            motivation: "containerd 2.4.2 and CRI-O 1.37.0 do not read the field",
            level: Level::Documented,
            expected: "an error within a second of a timeout of 1 s, without a deadline of the call",
        },
        |s| Box::pin(timeout_enforced(s)),
    )
    .timeout(CASE_TIMEOUT),
    no_partial_case!(
        FailureMode::Timeout,
        "a timeout that passed",
        "runtime/timeout/no-partial-archive"
    ),
];
pub(super) const CANCEL_CASES: &[Case<RuntimeSession>] = &container_unharmed_cases!(
    FailureMode::Cancel,
    "its caller went away",
    [
        "runtime/cancellation/keeps-running",
        "runtime/cancellation/same-process",
        "runtime/cancellation/status-running",
        "runtime/cancellation/can-checkpoint-again",
    ]
);
pub(super) const CANCEL_FILE_CASES: &[Case<RuntimeSession>] = &[
    no_partial_case!(
        FailureMode::Cancel,
        "its caller went away",
        "runtime/cancellation/no-partial-archive"
    ),
    no_late_archive_case!(
        FailureMode::Cancel,
        "its caller went away",
        "runtime/cancellation/no-late-archive"
    ),
];
pub(super) const ERROR_CASES: &[Case<RuntimeSession>] = &container_unharmed_cases!(
    FailureMode::Error,
    "an error",
    [
        "runtime/error/keeps-running",
        "runtime/error/same-process",
        "runtime/error/status-running",
        "runtime/error/can-checkpoint-again",
    ]
);

/// What is left after checkpoints that failed so.
async fn failed_checkpoints(s: &RuntimeSession, mode: FailureMode) -> Result<&[FailedCheckpoint], NonPass> {
    let failed = s.failed_checkpoints(mode).await?;
    if mode == FailureMode::Timeout && failed.iter().any(succeeded) {
        return Err(NonPass::Blocked(TIMEOUT_ENFORCED_CASE));
    }
    Ok(failed)
}

/// Whether it did not fail after all.
fn succeeded(failed: &FailedCheckpoint) -> bool {
    failed.response.as_ref().is_some_and(|response| response.is_ok())
}

/// The first that is wrong in this way, or that all of them are right.
fn check_each(
    failed: &[FailedCheckpoint],
    right: &str,
    wrong: impl Fn(&FailedCheckpoint) -> Option<String>,
) -> CaseResult {
    let problem = failed
        .iter()
        .find_map(|attempt| Some(format!("{} {}", attempt.description, wrong(attempt)?)));
    match (problem, failed) {
        (Some(problem), _) => fail(problem),
        (None, [attempt]) => pass(format!("{} {right}", attempt.description)),
        (None, several) => pass(format!("{right}, {} times", several.len())),
    }
}

async fn keeps_running(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    let failed = failed_checkpoints(s, mode).await?;
    if failed.iter().all(|attempt| !attempt.liveness.same_process) {
        return Err(NonPass::Blocked(mode.same_process_case()));
    }
    check_each(failed, "it runs on", |attempt| {
        let frozen = attempt.liveness.same_process && !attempt.liveness.running;
        frozen.then(|| attempt.liveness.describe_frozen())
    })
}

async fn same_process(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        failed_checkpoints(s, mode).await?,
        "it is the same process",
        |attempt| {
            let ended = format!(
                "its first process has ended; its status says {}",
                attempt.liveness.status()
            );
            (!attempt.liveness.same_process).then_some(ended)
        },
    )
}

async fn status(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    let failed = failed_checkpoints(s, mode).await?;
    if failed.iter().any(|attempt| !attempt.liveness.same_process) {
        return Err(NonPass::Blocked(mode.same_process_case()));
    }
    if failed.iter().any(|attempt| !attempt.liveness.running) {
        return Err(NonPass::Blocked(mode.keeps_running_case()));
    }
    check_each(failed, "its status says that it runs, and it does", |attempt| {
        let wrong = attempt.liveness.status != Ok(ContainerState::ContainerRunning);
        wrong.then(|| format!("its status says {}, and it runs", attempt.liveness.status()))
    })
}

async fn can_checkpoint_again(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    let failed = failed_checkpoints(s, mode).await?;
    if failed.iter().any(|attempt| attempt.next_response.is_none()) {
        return Err(NonPass::Blocked(mode.same_process_case()));
    }
    check_each(failed, "the next one succeeds", |attempt| {
        let next_response = attempt.next_response.as_ref()?;
        (!next_response.is_ok()).then(|| format!("the next one fails: {next_response}"))
    })
}

async fn no_partial(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        failed_checkpoints(s, mode).await?,
        "no part of an archive is left",
        |attempt| match attempt.leftover {
            Leftover::Partial(bytes) => Some(format!("{bytes} bytes are left that are no whole archive")),
            Leftover::Nothing | Leftover::Archive(_) => None,
        },
    )
}

async fn no_late_archive(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        failed_checkpoints(s, mode).await?,
        "no archive appears",
        |attempt| match attempt.leftover {
            Leftover::Archive(bytes) => Some(format!("an archive of {bytes} bytes appeared all the same")),
            Leftover::Nothing | Leftover::Partial(_) => None,
        },
    )
}

async fn timeout_enforced(s: &RuntimeSession) -> CaseResult {
    /// What an answer may take beyond the timeout.
    const RESPONSE_TOLERANCE: Duration = Duration::from_secs(1);
    let failed = s.failed_checkpoints(FailureMode::Timeout).await?;
    let Some(response) = failed.first().and_then(|attempt| attempt.response.as_ref()) else {
        return Err(NonPass::Error("the call with a timeout has no answer".to_owned()));
    };
    let took = response.duration.as_secs_f64();
    if response.is_ok() && response.duration < MIN_TIMEOUT {
        return Err(NonPass::Skip(format!("the checkpoint took {took:.1} s only")));
    }
    if response.is_ok() {
        return fail(format!("success after {took:.1} s, with a timeout of 1 s"));
    }
    let as_expected = response.duration < MIN_TIMEOUT + RESPONSE_TOLERANCE;
    check(
        as_expected,
        format!(
            "{:?} {} its time",
            response.code,
            if as_expected { "in" } else { "long after" }
        ),
    )
}
