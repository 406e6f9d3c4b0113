//! The state after a failed checkpoint, one group of cases per way to fail: the deadline of the call, the timeout of
//! the request, a cancellation, an error.
//!
//! The container must be unharmed: a runtime that froze the container must thaw it, whatever the result of the call.
//! `failed_checkpoint.rs` makes these checkpoints.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    failed_checkpoint::{FailedCheckpoint, FailureMode, Leftover, MIN_TIMEOUT},
    session::{OK_CASE, RuntimeSession},
};
use crate::engine::{Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass, skip};
use crate::suites::authority;

const TIMEOUT_ENFORCED_CASE: &str = "runtime/timeout/enforced";

/// A checkpoint of a large container takes time, and each case may make several of them.
const CASE_TIMEOUT: Duration = Duration::from_secs(180);

/// What the cases of a failure mode depend on.
const FIRST_CHECKPOINT: &[&str] = &[OK_CASE];
/// [`FIRST_CHECKPOINT`], and a checkpoint that does fail.
const MISSING_DIRECTORY: &[&str] = &[OK_CASE, "runtime/location/missing-directory-rejected"];
/// With a runtime that ignores the timeout, nothing fails.
const TIMEOUT_ENFORCED: &[&str] = &[TIMEOUT_ENFORCED_CASE];

/// Declares the cases that the container is unharmed after a failed checkpoint.
macro_rules! unharmed_cases {
    (
        $mode:expr, $after:literal, requires: $requires:expr, depends_on: $depends_on:expr, may: $may:expr,
        $keeps_running:literal, $same_process:literal, $status_running:literal, $can_checkpoint_again:literal
    ) => {
        [
            case($keeps_running, Level::Documented)
                .requirement(concat!("The container must keep running after ", $after, "."))
                .authority(authority::KEP_FAILED)
                .motivation(
                    "containerd 2.4: the container stayed frozen after a deadline, while its status was \
                    CONTAINER_RUNNING",
                )
                .expected("the container keeps running")
                .requires($requires)
                .depends_on($depends_on)
                .may_depend_on(&[$same_process])
                .timeout(CASE_TIMEOUT)
                .shared()
                .run(|s| Box::pin(keeps_running(s, $mode))),
            case($same_process, Level::Documented)
                .requirement(concat!(
                    "The container must still be the same process after ",
                    $after,
                    "."
                ))
                .authority(authority::KEP_FAILED)
                .expected("same pid and start time")
                .requires($requires)
                .depends_on($depends_on)
                .may_depend_on($may)
                .timeout(CASE_TIMEOUT)
                .shared()
                .run(|s| Box::pin(same_process(s, $mode))),
            case($status_running, Level::Documented)
                .requirement(concat!(
                    "ContainerStatus must report that the container is running after ",
                    $after,
                    "."
                ))
                .authority(authority::CRI_STATUS)
                .expected("CONTAINER_RUNNING")
                .requires($requires)
                .depends_on(&[$same_process, $keeps_running])
                .timeout(CASE_TIMEOUT)
                .shared()
                .run(|s| Box::pin(status(s, $mode))),
            case($can_checkpoint_again, Level::Reference)
                .requirement(concat!(
                    "A checkpoint of the container must succeed after ",
                    $after,
                    "."
                ))
                .authority(authority::COMMON_RUNTIMES)
                .motivation("containerd 2.4-beta: the checkpoint after one that exceeded its deadline failed")
                .expected("success of the next checkpoint")
                .requires($requires)
                .depends_on(&[$same_process])
                .timeout(CASE_TIMEOUT)
                .shared()
                .run(|s| Box::pin(can_checkpoint_again(s, $mode))),
        ]
    };
}

macro_rules! no_partial_case {
    ($mode:expr, $after:literal, requires: $requires:expr, may: $may:expr, $id:literal) => {
        case($id, Level::Robust)
            .requirement(concat!(
                "The runtime must not leave a partial archive at the location after ",
                $after,
                "."
            ))
            .authority(authority::CWE_INCOMPLETE_CLEANUP)
            .motivation("containerd 2.4 and CRI-O 1.37 write in place: a part of the archive remains")
            .expected("no partial archive")
            .requires($requires)
            .depends_on(FIRST_CHECKPOINT)
            .may_depend_on($may)
            .timeout(CASE_TIMEOUT)
            .shared()
            .run(|s| Box::pin(no_partial(s, $mode)))
    };
}

macro_rules! no_late_archive_case {
    ($mode:expr, $after:literal, $id:literal) => {
        case($id, Level::Robust)
            .requirement(concat!("The runtime must not create an archive after ", $after, "."))
            .authority(authority::GRPC_CANCELLATION)
            .motivation("containerd 2.4 and CRI-O 1.37: the dump continues, and the archive appears later")
            .expected("no archive, even after the time that the checkpoint would have taken")
            .depends_on(FIRST_CHECKPOINT)
            .timeout(CASE_TIMEOUT)
            .shared()
            .run(|s| Box::pin(no_late_archive(s, $mode)))
    };
}

pub(super) const DEADLINE_CASES: &[Case<RuntimeSession>] = &unharmed_cases!(
    FailureMode::Deadline, "the deadline of the call expires",
    requires: &[], depends_on: FIRST_CHECKPOINT, may: &[],
    "runtime/deadline/keeps-running",
    "runtime/deadline/same-process",
    "runtime/deadline/status-running",
    "runtime/deadline/can-checkpoint-again"
);
pub(super) const TIMEOUT_CASES: &[Case<RuntimeSession>] = &unharmed_cases!(
    FailureMode::Timeout, "the timeout of the request expires",
    requires: &[Capability::TestWorkload], depends_on: FIRST_CHECKPOINT, may: TIMEOUT_ENFORCED,
    "runtime/timeout/keeps-running",
    "runtime/timeout/same-process",
    "runtime/timeout/status-running",
    "runtime/timeout/can-checkpoint-again"
);
pub(super) const CANCELLATION_CASES: &[Case<RuntimeSession>] = &unharmed_cases!(
    FailureMode::Cancel, "the client cancels the call",
    requires: &[], depends_on: FIRST_CHECKPOINT, may: &[],
    "runtime/cancellation/keeps-running",
    "runtime/cancellation/same-process",
    "runtime/cancellation/status-running",
    "runtime/cancellation/can-checkpoint-again"
);
pub(super) const ERROR_CASES: &[Case<RuntimeSession>] = &unharmed_cases!(
    FailureMode::Error, "an error",
    requires: &[], depends_on: MISSING_DIRECTORY, may: &[],
    "runtime/error/keeps-running",
    "runtime/error/same-process",
    "runtime/error/status-running",
    "runtime/error/can-checkpoint-again"
);
pub(super) const FILE_CASES: &[Case<RuntimeSession>] = &[
    no_partial_case!(
        FailureMode::Deadline, "the deadline of the call expires",
        requires: &[], may: &[], "runtime/deadline/no-partial-archive"
    ),
    no_late_archive_case!(
        FailureMode::Deadline,
        "the deadline of the call expires",
        "runtime/deadline/no-late-archive"
    ),
    case("runtime/timeout/enforced", Level::Documented)
        .requirement("A checkpoint must fail when the timeout of the request, if above zero, expires.")
        .authority(authority::KEP_IMPLEMENTATION)
        .motivation("containerd 2.4.2 and CRI-O 1.37.0 do not read the field")
        .expected("an error within a second of the timeout of 1 s, for a call without a deadline")
        .requires(&[Capability::TestWorkload])
        .depends_on(FIRST_CHECKPOINT)
        .timeout(CASE_TIMEOUT)
        .shared()
        .run(|s| Box::pin(timeout_enforced(s))),
    no_partial_case!(
        FailureMode::Timeout, "the timeout of the request expires",
        requires: &[Capability::TestWorkload], may: TIMEOUT_ENFORCED, "runtime/timeout/no-partial-archive"
    ),
    no_partial_case!(
        FailureMode::Cancel, "the client cancels the call",
        requires: &[], may: &[], "runtime/cancellation/no-partial-archive"
    ),
    no_late_archive_case!(
        FailureMode::Cancel,
        "the client cancels the call",
        "runtime/cancellation/no-late-archive"
    ),
];

async fn failed_checkpoints(s: &RuntimeSession, mode: FailureMode) -> Result<Vec<FailedCheckpoint>, NonPass> {
    let failed = s.failed_checkpoints(mode).await?;
    if mode == FailureMode::Timeout && failed.iter().any(succeeded) {
        return Err(NonPass::Blocked(TIMEOUT_ENFORCED_CASE));
    }
    Ok(failed)
}

/// Whether the checkpoint succeeded although it should have failed.
fn succeeded(failed: &FailedCheckpoint) -> bool {
    failed.response.as_ref().is_some_and(|response| response.is_ok())
}

/// Fails with the first checkpoint for which `wrong` returns a text; otherwise passes with `right`.
fn check_each(
    failed: &[FailedCheckpoint],
    right: &str,
    wrong: impl Fn(&FailedCheckpoint) -> Option<String>,
) -> CaseResult {
    let problem = failed
        .iter()
        .find_map(|attempt| Some(format!("{}: {}", attempt.description, wrong(attempt)?)));
    match (problem, failed) {
        (Some(problem), _) => fail(problem),
        (None, [attempt]) => pass(format!("{right} {}", attempt.description)),
        (None, several) => pass(format!("{right} after each of {} failed checkpoints", several.len())),
    }
}

async fn keeps_running(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    let failed = failed_checkpoints(s, mode).await?;
    if failed.iter().all(|attempt| !attempt.liveness.same_process) {
        return Err(NonPass::Blocked(mode.same_process_case()));
    }
    check_each(&failed, "the container keeps running", |attempt| {
        let frozen = attempt.liveness.same_process && !attempt.liveness.running;
        frozen.then(|| attempt.liveness.describe_frozen())
    })
}

async fn same_process(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        &failed_checkpoints(s, mode).await?,
        "same pid and start time",
        |attempt| {
            let ended = format!("the first process has ended; status {}", attempt.liveness.status());
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
    check_each(&failed, "CONTAINER_RUNNING", |attempt| {
        let wrong = attempt.liveness.status != Ok(ContainerState::ContainerRunning);
        wrong.then(|| format!("status {} while the container runs", attempt.liveness.status()))
    })
}

async fn can_checkpoint_again(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    let failed = failed_checkpoints(s, mode).await?;
    if failed.iter().any(|attempt| attempt.next_response.is_none()) {
        return Err(NonPass::Blocked(mode.same_process_case()));
    }
    check_each(&failed, "success of the next checkpoint", |attempt| {
        let next_response = attempt.next_response.as_ref()?;
        (!next_response.is_ok()).then(|| format!("the next checkpoint fails: {next_response}"))
    })
}

async fn no_partial(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        &failed_checkpoints(s, mode).await?,
        "no partial archive",
        |attempt| match attempt.leftover {
            Leftover::Partial(bytes) => Some(format!("a partial archive of {bytes} bytes")),
            Leftover::Nothing | Leftover::Archive(_) => None,
        },
    )
}

async fn no_late_archive(s: &RuntimeSession, mode: FailureMode) -> CaseResult {
    check_each(
        &failed_checkpoints(s, mode).await?,
        "no archive",
        |attempt| match attempt.leftover {
            Leftover::Archive(bytes) => Some(format!("an archive of {bytes} bytes")),
            Leftover::Nothing | Leftover::Partial(_) => None,
        },
    )
}

async fn timeout_enforced(s: &RuntimeSession) -> CaseResult {
    /// How long after the timeout the response may arrive.
    const RESPONSE_TOLERANCE: Duration = Duration::from_secs(1);
    let failed = s.failed_checkpoints(FailureMode::Timeout).await?;
    let Some(response) = failed.first().and_then(|attempt| attempt.response.as_ref()) else {
        return Err(NonPass::Error("the call with a timeout has no response".to_owned()));
    };
    let took = response.duration.as_secs_f64();
    if response.is_ok() && response.duration < MIN_TIMEOUT {
        return skip(format!(
            "requires a checkpoint that takes longer than 1 s: this one took {took:.1} \
            s"
        ));
    }
    if response.is_ok() {
        return fail(format!("success after {took:.1} s, with a timeout of 1 s"));
    }
    let as_expected = response.duration < MIN_TIMEOUT + RESPONSE_TOLERANCE;
    check(
        as_expected,
        format!(
            "{:?} {} the timeout",
            response.code,
            if as_expected {
                "within a second of"
            } else {
                "more than a second after"
            }
        ),
    )
}
