//! The container after a checkpoint: it keeps running, unharmed.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    liveness::ContainerBefore,
    session::{AMPLE_TIMEOUT_SECS, ARCHIVE_CASE, KEEPS_RUNNING_CASE, OK_CASE, RuntimeSession, SAME_PROCESS_CASE},
};
use crate::{
    engine::{Case, CaseResult, Level, NonPass, case, check, fail, pass, pass_if},
    suites::authority,
    targets::runtime::CheckpointCall,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/success/keeps-running", Level::Documented)
        .requirement("The container must keep running after a checkpoint.")
        .authority(authority::KEP_USER_STORIES)
        .motivation("containerd 2.4: a container stayed frozen while its status was CONTAINER_RUNNING")
        .expected("the container keeps running")
        .depends_on(&[SAME_PROCESS_CASE])
        .shared()
        .run(|s| Box::pin(keeps_running(s))),
    case("runtime/success/same-process", Level::Documented)
        .requirement("The container must still be the same process after a checkpoint.")
        .authority(authority::KEP_USER_STORIES)
        .expected("same pid and start time")
        .depends_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(same_process(s))),
    case("runtime/success/status-running", Level::Documented)
        .requirement("ContainerStatus must report that the container is running after a checkpoint.")
        .authority(authority::CRI_STATUS)
        .expected("CONTAINER_RUNNING")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(status(s))),
    case("runtime/success/exec-works", Level::Reference)
        .requirement("ExecSync must work in the container after a checkpoint.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("exit code 0")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(exec_after_checkpoint(s))),
    case("runtime/success/log-continues", Level::Reference)
        .requirement("The container's log must continue after a checkpoint and keep its earlier lines.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("two new heartbeats, and every earlier heartbeat")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(log_continues(s))),
    case("runtime/success/exec-in-flight-completes", Level::Robust)
        .requirement("A command that ExecSync is running must end as it would without the checkpoint.")
        .authority(authority::KEP_USER_STORIES)
        .expected("exit code 0")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .run(|s| Box::pin(exec_in_flight(s))),
    case("runtime/success/siblings-keep-running", Level::Robust)
        .requirement("The other containers of the Pod must keep running during and after a checkpoint.")
        .authority(authority::KEP_GOALS)
        .expected("the other container keeps running")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .run(|s| Box::pin(sibling_keeps_running(s))),
];

/// How long a command that ends at once may take.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

async fn keeps_running(s: &RuntimeSession) -> CaseResult {
    let after = &s.first_checkpoint_ok().await?.container_after;
    if !after.same_process {
        return Err(NonPass::Blocked(SAME_PROCESS_CASE));
    }
    pass_if(after.running, "the container keeps running", after.describe_frozen())
}

async fn same_process(s: &RuntimeSession) -> CaseResult {
    let after = &s.first_checkpoint_ok().await?.container_after;
    pass_if(
        after.same_process,
        "same pid and start time",
        format!("the first process has ended; status {}", after.status()),
    )
}

async fn status(s: &RuntimeSession) -> CaseResult {
    let after = &s.first_checkpoint_ok().await?.container_after;
    if !after.same_process {
        return Err(NonPass::Blocked(SAME_PROCESS_CASE));
    }
    if !after.running {
        return Err(NonPass::Blocked(KEEPS_RUNNING_CASE));
    }
    let as_expected = after.status == Ok(ContainerState::ContainerRunning);
    check(as_expected, format!("{} while the container runs", after.status()))
}

async fn exec_after_checkpoint(s: &RuntimeSession) -> CaseResult {
    let first = s.require_container_unharmed().await?;
    let command = s.runtime.program.exec_command(Duration::from_millis(1));
    match s.runtime.exec_sync(&first.container, &command, EXEC_TIMEOUT).await {
        Ok(executed) => check(executed.exit_code == 0, format!("exit code {}", executed.exit_code)),
        Err(error) => fail(error.to_string().replace(first.container.id(), "ID")),
    }
}

async fn log_continues(s: &RuntimeSession) -> CaseResult {
    let first = s.require_container_unharmed().await?;
    let before = &first.attempt.before.workload;
    let now = s.runtime.workload(&first.container).await?;
    let enough = |later: &crate::targets::Workload| later.heartbeat >= now.heartbeat + 2;
    // Longer than any pause of a busy machine.
    let later = s
        .runtime
        .workload_until(&first.container, Duration::from_secs(3), enough)
        .await?;
    if later.is_none() {
        return fail("no line after the checkpoint although the container runs");
    }
    let text = tokio::fs::read(first.container.log_path()).await;
    let text = text.map_err(|error| NonPass::error(&error))?;
    let heartbeats = super::archive::heartbeats(&text);
    let missing = (1..=before.heartbeat).find(|heartbeat| !heartbeats.contains(heartbeat));
    match missing {
        None => pass("two new heartbeats, and every earlier heartbeat"),
        Some(heartbeat) => fail(format!("new heartbeats, but heartbeat {heartbeat} is missing")),
    }
}

async fn exec_in_flight(s: &RuntimeSession) -> CaseResult {
    /// Longer than a checkpoint of a small container needs to begin.
    const COMMAND_DURATION: Duration = Duration::from_millis(800);
    s.require_container_unharmed().await?;
    let container = s
        .new_container(s.small_container_options().separate_pod().exec_delay(COMMAND_DURATION))
        .await?;
    let command = s.runtime.program.exec_command(COMMAND_DURATION);
    let location = s.runtime.location("exec");
    let checkpoint = async {
        // No event reports that the command has begun. The remaining time is enough for the checkpoint.
        tokio::time::sleep(COMMAND_DURATION / 4).await;
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        s.runtime.checkpoint(&container, &call).await
    };
    let (executed, response) = tokio::join!(s.runtime.exec_sync(&container, &command, EXEC_TIMEOUT), checkpoint);
    let checkpoint = if response.is_ok() { "success" } else { "error" };
    match executed {
        Ok(executed) => check(
            executed.exit_code == 0,
            format!("exit code {}; checkpoint: {checkpoint}", executed.exit_code),
        ),
        Err(error) => fail(error.to_string().replace(container.id(), "ID")),
    }
}

async fn sibling_keeps_running(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let container = s.disposable_container().await?;
    let other = s
        .new_container(s.small_container_options().in_pod_of(&container))
        .await?;
    let before = ContainerBefore::observe(&s.runtime, &other).await?;
    let attempt = s.checkpoint(&container, "neighbour").await?;
    if !attempt.response.is_ok() {
        return Err(NonPass::Error(format!("the checkpoint failed: {}", attempt.response)));
    }
    let after = before.observe_liveness(&s.runtime, &other).await?;
    match (after.same_process, after.running) {
        (true, true) => pass("the other container keeps running"),
        (true, false) => fail(after.describe_frozen()),
        (false, _) => fail(format!("the first process has ended; status {}", after.status())),
    }
}
