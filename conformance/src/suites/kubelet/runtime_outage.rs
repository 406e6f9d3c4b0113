//! A runtime that hangs, loses the connection, is unreachable, restarts, or responds too late.

use std::time::{Duration, Instant};

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, LATE_ARCHIVE_TIMEOUT, WHEN_DONE_CASE};
use crate::{
    engine::{Authority, Capability, Case, CaseResult, Level, NonPass, Stage, case, check, fail},
    suites::authority,
    targets::{KubeletConfig, SHORT_REQUEST_TIMEOUT},
};

const SECOND_CHECKPOINT_CASE: &str = "kubelet/checkpoint/repeatable";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/runtime-error/connection-lost", Level::Reference)
        .requirement("The kubelet must return 500 without a second call when the runtime closes the connection.")
        .authority(authority::CRI_CLIENT)
        .expected("500 with code = Unavailable, calls: 1")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .run(|s| Box::pin(connection_lost(s))),
    case("kubelet/runtime-error/runtime-unreachable", Level::Reference)
        .requirement("The kubelet must return 500 when the runtime is unreachable.")
        .authority(authority::CRI_CLIENT)
        .expected("500 with code = Unavailable")
        .requires(&[Capability::RestartRuntime])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .stage(Stage::Late)
        .run(|s| Box::pin(runtime_unreachable(s))),
    case("kubelet/recovery/after-runtime-restart", Level::Robust)
        .requirement(
            "The kubelet must serve checkpoints after a kill and restart of the runtime, without a restart of \
            its own.",
        )
        .authority(Authority::PROJECT)
        .motivation("containerd and CRI-O: containers survive a restart of the runtime")
        .expected("200 within 12 s")
        .requires(&[Capability::RestartRuntime])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Late)
        .run(|s| Box::pin(runtime_restarted(s))),
    case("kubelet/runtime-error/deadline-exceeded", Level::Reference)
        .requirement(
            "The kubelet must return 500 and cancel the call when the runtime does not respond before the \
            deadline.",
        )
        .authority(authority::CRI_CLIENT)
        .expected("500 with code = DeadlineExceeded about when the deadline expires, and a cancelled call")
        .requires(&[Capability::FakeCriControl, Capability::RestartKubelet])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .stage(Stage::Restarting)
        .run(|s| Box::pin(deadline(s))),
    case("kubelet/recovery/after-late-response", Level::Robust)
        .requirement("A late response of the runtime must not affect the next checkpoint.")
        .authority(Authority::PROJECT)
        .motivation("containerd 2.4-beta: the next checkpoint failed after a checkpoint that exceeded its deadline")
        .expected("500, then 200")
        .requires(&[Capability::FakeCriControl, Capability::RestartKubelet])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[
            WHEN_DONE_CASE,
            "kubelet/checkpoint/repeatable",
            "kubelet/runtime-error/deadline-exceeded",
        ])
        .max_archives(3)
        .stage(Stage::Restarting)
        .run(|s| Box::pin(late_response(s))),
];

/// Whether the body wraps this gRPC code of the runtime's error.
fn wraps_grpc_code(body: &str, code: &str) -> bool {
    body.starts_with("checkpointing of ") && body.contains(&format!("(rpc error: code = {code} desc = "))
}

async fn connection_lost(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    // The rule applies once: a retry of the kubelet would meet a healthy runtime and become visible in the journal.
    let text = s
        .container_under_test()
        .fault_rule("before", "disconnect")
        .replacen(')', ",times=1)", 1);
    control.add_rules(&[&text]).await?;
    let journal_position = s.journal_position().await?;
    let response = s.request("").await?;
    control
        .next_checkpoint(journal_position.unwrap_or_default(), LATE_ARCHIVE_TIMEOUT)
        .await?;
    let calls = s.calls_after(journal_position).await?.unwrap_or_default().len();
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "Unavailable") && calls == 1;
    check(as_expected, format!("{}, calls: {calls}", response.summary()))
}

/// Kills the runtime. The runner starts the runtime again after the case.
async fn kill_runtime(s: &KubeletSession) -> Result<(), NonPass> {
    s.require_checkpointable().await?;
    if s.kubelet.kill_runtime().await {
        return Ok(());
    }
    Err(NonPass::Missing(Capability::RestartRuntime))
}

async fn runtime_unreachable(s: &KubeletSession) -> CaseResult {
    kill_runtime(s).await?;
    let response = s.request("").await?;
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "Unavailable");
    // The message differs from run to run: the kubelet's client may or may not have noticed the lost connection before
    // the call ("error reading from server" or "connection refused").
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
    // The back-off of the kubelet's client grows to some seconds.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(12);
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    kill_runtime(s).await?;
    s.kubelet.restart_runtime().await?;
    let started = Instant::now();
    loop {
        let response = s.request("").await?;
        if response.status == 200 || started.elapsed() > WAIT_TIMEOUT {
            let soon = started.elapsed() <= WAIT_TIMEOUT;
            return check(response.status == 200 && soon, response.summary());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Configures a short deadline for the kubelet's calls, and a fault for the next checkpoint.
async fn with_short_deadline(s: &KubeletSession, phase: &str, effect: &str) -> Result<(), NonPass> {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    s.require_configuration(KubeletConfig::ShortRequestTimeout).await?;
    let text = s
        .container_under_test()
        .fault_rule(phase, effect)
        .replacen(')', ",times=1)", 1);
    control.add_rules(&[&text]).await?;
    Ok(())
}

async fn deadline(s: &KubeletSession) -> CaseResult {
    // Generous for a busy machine, and far below the default of two minutes.
    const DEADLINE_TOLERANCE: Duration = Duration::from_secs(8);
    with_short_deadline(s, "before", "hang").await?;
    let journal_position = s.journal_position().await?;
    let started = Instant::now();
    // With a timeout: whether the default applies without a timeout is the subject of another case.
    let response = s.request("timeout=1").await?;
    let took = started.elapsed();
    let call = s
        .require_fake_cri_control()?
        .next_checkpoint(journal_position.unwrap_or_default(), LATE_ARCHIVE_TIMEOUT)
        .await?;
    let Some(call) = call else {
        return fail(format!("{}, and the runtime's call has not ended", response.summary()));
    };
    let in_time =
        took + Duration::from_millis(50) >= SHORT_REQUEST_TIMEOUT && took < SHORT_REQUEST_TIMEOUT + DEADLINE_TOLERANCE;
    let as_expected = response.status == 500 && wraps_grpc_code(&response.body, "DeadlineExceeded") && in_time;
    // At the deadline, the kubelet's cancellation races with the runtime's own timer. The journal has either code, and
    // both mean that the call ended.
    let ended = match call.code {
        1 | 4 => "cancelled".to_owned(),
        other => format!("ended with code {other}"),
    };
    let actual = format!(
        "{}; about {} s after the request: {in_time}; runtime call {ended}",
        response.summary(),
        SHORT_REQUEST_TIMEOUT.as_secs(),
    );
    check(as_expected, actual)
}

async fn late_response(s: &KubeletSession) -> CaseResult {
    with_short_deadline(s, "after", "delay(1500ms)").await?;
    let late = s.request("").await?;
    if late.status != 500 {
        return Err(NonPass::Blocked("kubelet/runtime-error/deadline-exceeded"));
    }
    let next = s.request("").await?;
    if next.status != 200 {
        return fail(format!("{}, then {}", late.status, next.summary()));
    }
    if s.request("").await?.status != 200 {
        return Err(NonPass::Blocked(SECOND_CHECKPOINT_CASE));
    }
    check(true, format!("{}, then {}", late.status, next.status))
}
