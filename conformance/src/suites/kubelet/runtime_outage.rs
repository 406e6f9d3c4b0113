//! A runtime that hangs, breaks off, is gone, comes back, or answers too late.

use std::time::{Duration, Instant};

use super::{
    fault_rule,
    session::{KubeletSession, LATE_ARCHIVE_TIMEOUT},
};
use crate::{
    engine::{Authority, Case, CaseInfo, CaseResult, Level, NonPass, check, fail},
    suites::authority,
    targets::{KubeletConfig, SHORT_REQUEST_TIMEOUT},
};

const SECOND_CHECKPOINT_CASE: &str = "kubelet/checkpoint/repeatable";

pub(super) const CASES: &[Case<KubeletSession>] = &[Case::new(
    CaseInfo {
        id: "kubelet/runtime-error/connection-lost",
        requirement: "a runtime that breaks off the connection is answered 500, and is not called again by itself",
        authority: authority::CRI_CLIENT,
        motivation: "",
        level: Level::Reference,
        expected: "500 with code = Unavailable, one call",
    },
    |s| Box::pin(connection_lost(s)),
)];

/// What restarts the runtime.
pub(super) const RUNTIME_RESTART_CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/runtime-error/runtime-unreachable",
            requirement: "a runtime that cannot be reached is answered 500",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with code = Unavailable",
        },
        |s| Box::pin(runtime_unreachable(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/recovery/after-runtime-restart",
            requirement: "a runtime that was killed and started again serves checkpoints without a restart of the kubelet",
            authority: Authority::PROJECT,
            motivation: "containerd and CRI-O: containers outlive a restart of the runtime",
            level: Level::Robust,
            expected: "200 soon after",
        },
        |s| Box::pin(runtime_restarted(s)),
    ),
];

/// What restarts the kubelet with a short deadline.
pub(super) const SHORT_DEADLINE_CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/runtime-error/deadline-exceeded",
            requirement: "a runtime that does not answer before the deadline is answered 500, at the deadline, and its call is cancelled",
            authority: authority::CRI_CLIENT,
            motivation: "",
            level: Level::Reference,
            expected: "500 with code = DeadlineExceeded, about when the deadline passes",
        },
        |s| Box::pin(deadline(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/recovery/after-late-response",
            requirement: "a runtime that is done only after the deadline does not spoil the next checkpoint",
            authority: Authority::PROJECT,
            motivation: "containerd 2.4-beta: after a checkpoint that ran out of time the next one failed",
            level: Level::Robust,
            expected: "500, then 200",
        },
        |s| Box::pin(late_response(s)),
    ),
];

/// Whether the body wraps this code of the runtime's client.
fn wraps_grpc_code(body: &str, code: &str) -> bool {
    body.starts_with("checkpointing of ") && body.contains(&format!("(rpc error: code = {code} desc = "))
}

async fn connection_lost(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    // Once: a second call of the kubelet's own would find a runtime that is well.
    let text = fault_rule(s.container_under_test(), "before", "disconnect").replacen(')', ",times=1)", 1);
    control.add_rules(&[&text]).await?;
    let journal_position = s.journal_position().await?;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    control
        .next_checkpoint(journal_position.unwrap_or_default(), LATE_ARCHIVE_TIMEOUT)
        .await?;
    let calls = s.calls_after(journal_position).await?.unwrap_or_default().len();
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "Unavailable") && calls == 1;
    check(as_expected, format!("{}, {calls} calls", response.summary()))
}

/// Kills the runtime; the runner starts it again after the case.
async fn kill_runtime(s: &KubeletSession) -> Result<(), NonPass> {
    s.require_checkpointable().await?;
    if s.kubelet.kill_runtime().await {
        return Ok(());
    }
    Err(NonPass::Skip(
        "needs a runtime that is started here: fake-cri".to_owned(),
    ))
}

async fn runtime_unreachable(s: &KubeletSession) -> CaseResult {
    kill_runtime(s).await?;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "Unavailable");
    // The message differs from run to run: the kubelet's client may or may not have noticed the lost connection
    // before the call ("error reading from server" or "connection refused").
    check(
        as_expected,
        if as_expected {
            "500 with code = Unavailable".to_owned()
        } else {
            response.summary()
        },
    )
}

async fn runtime_restarted(s: &KubeletSession) -> CaseResult {
    // The kubelet's client waits longer and longer before it connects again, up to some seconds.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(12);
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    kill_runtime(s).await?;
    s.kubelet.restart_runtime().await?;
    let started = Instant::now();
    loop {
        let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
        if response.status == 200 || started.elapsed() > WAIT_TIMEOUT {
            let soon = started.elapsed() <= WAIT_TIMEOUT;
            return check(response.status == 200 && soon, response.summary());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A kubelet whose calls of the runtime end soon, and a runtime that does this to the next checkpoint.
async fn with_short_deadline(s: &KubeletSession, phase: &str, effect: &str) -> Result<(), NonPass> {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    match s.kubelet.configure(KubeletConfig::ShortRequestTimeout).await {
        Some(configured) => configured?,
        None => {
            let reason = "needs a kubelet that can be started again with a short deadline";
            return Err(NonPass::Skip(reason.to_owned()));
        }
    }
    let text = fault_rule(s.container_under_test(), phase, effect).replacen(')', ",times=1)", 1);
    control.add_rules(&[&text]).await?;
    Ok(())
}

async fn deadline(s: &KubeletSession) -> CaseResult {
    // What a busy machine may add; far from the two minutes that are the default.
    const DEADLINE_TOLERANCE: Duration = Duration::from_secs(8);
    with_short_deadline(s, "before", "hang").await?;
    let journal_position = s.journal_position().await?;
    let started = Instant::now();
    // Whether there is a deadline without a timeout is another case's.
    let response = s.kubelet.checkpoint(s.container_under_test(), "timeout=1").await?;
    let took = started.elapsed();
    let call = s
        .require_fake_cri_control()?
        .next_checkpoint(journal_position.unwrap_or_default(), LATE_ARCHIVE_TIMEOUT)
        .await?;
    let Some(call) = call else {
        return fail(format!("{}, and the runtime's call goes on", response.summary()));
    };
    let in_time =
        took + Duration::from_millis(50) >= SHORT_REQUEST_TIMEOUT && took < SHORT_REQUEST_TIMEOUT + DEADLINE_TOLERANCE;
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "DeadlineExceeded") && in_time;
    // The caller's reset and the runtime's own clock race at the deadline: the journal has either, and both are its end.
    let ended = match call.code {
        1 | 4 => "ended with it".to_owned(),
        other => format!("ended with code {other}"),
    };
    let actual = format!(
        "{} about the deadline of {} s: {in_time}; the runtime's call {ended}",
        response.summary(),
        SHORT_REQUEST_TIMEOUT.as_secs(),
    );
    check(as_expected, actual)
}

async fn late_response(s: &KubeletSession) -> CaseResult {
    with_short_deadline(s, "after", "delay(1500ms)").await?;
    let late = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    if late.status != 500 {
        return Err(NonPass::Blocked("kubelet/runtime-error/deadline-exceeded"));
    }
    let next = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    if next.status != 200 {
        return fail(format!("{} at the deadline, then {}", late.status, next.summary()));
    }
    if s.kubelet.checkpoint(s.container_under_test(), "").await?.status != 200 {
        return Err(NonPass::Blocked(SECOND_CHECKPOINT_CASE));
    }
    check(true, format!("{}, then {}", late.status, next.status))
}
