//! The container after a checkpoint: it runs on as if nothing had been.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    liveness::ContainerBefore,
    session::{AMPLE_TIMEOUT_SECS, KEEPS_RUNNING_CASE, RuntimeSession, SAME_PROCESS_CASE},
};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass},
    suites::authority,
    targets::runtime::CheckpointCall,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: KEEPS_RUNNING_CASE,
            requirement: "after a checkpoint the container runs on",
            authority: authority::KEP_USER_STORIES,
            motivation: "containerd 2.4: a container was left frozen while its status said RUNNING",
            level: Level::Documented,
            expected: "its counter moves",
        },
        |s| Box::pin(keeps_running(s)),
    ),
    Case::new(
        CaseInfo {
            id: SAME_PROCESS_CASE,
            requirement: "after a checkpoint the container is the process that it was",
            authority: authority::KEP_USER_STORIES,
            motivation: "",
            level: Level::Documented,
            expected: "the same pid and start time",
        },
        |s| Box::pin(same_process(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/success/status-running",
            requirement: "after a checkpoint ContainerStatus says that the container runs, as it does",
            authority: authority::CRI_STATUS,
            motivation: "",
            level: Level::Documented,
            expected: "CONTAINER_RUNNING",
        },
        |s| Box::pin(status(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/success/exec-works",
            requirement: "after a checkpoint commands can be run in the container",
            authority: authority::COMMON_RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "exit code 0 of ExecSync",
        },
        |s| Box::pin(exec_after_checkpoint(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/success/log-continues",
            requirement: "after a checkpoint the container's log goes on, and keeps what it had",
            authority: authority::COMMON_RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "a heartbeat that is not in the archive's log, and every heartbeat before it",
        },
        |s| Box::pin(log_continues(s)),
    ),
];

pub(super) const EXCLUSIVE_CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: "runtime/success/exec-in-flight-completes",
            requirement: "a command that ExecSync has under way ends as it would without the checkpoint",
            authority: authority::KEP_USER_STORIES,
            motivation: "",
            level: Level::Robust,
            expected: "exit code 0",
        },
        |s| Box::pin(exec_in_flight(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/success/siblings-keep-running",
            requirement: "a checkpoint of one container leaves the others of its Pod running",
            authority: authority::KEP_GOALS,
            motivation: "",
            level: Level::Robust,
            expected: "the other container's counter moves",
        },
        |s| Box::pin(sibling_keeps_running(s)),
    ),
];

/// How long a command may take that ends at once.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

async fn keeps_running(s: &RuntimeSession) -> CaseResult {
    let after = &s.first_checkpoint_ok().await?.container_after;
    if !after.same_process {
        return Err(NonPass::Blocked(SAME_PROCESS_CASE));
    }
    match after.running {
        true => pass("it runs on"),
        false => fail(after.describe_frozen()),
    }
}

async fn same_process(s: &RuntimeSession) -> CaseResult {
    let after = &s.first_checkpoint_ok().await?.container_after;
    match after.same_process {
        true => pass("the same pid and start time"),
        false => fail(format!(
            "its first process has ended; its status says {}",
            after.status()
        )),
    }
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
    check(as_expected, format!("{}, and it runs", after.status()))
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
        return fail("no line after the checkpoint, though the container runs");
    }
    let text = tokio::fs::read(first.container.log_path()).await;
    let text = text.map_err(|error| NonPass::error(&error))?;
    let heartbeats = super::archive::heartbeats(&text);
    let missing = (1..=before.heartbeat).find(|heartbeat| !heartbeats.contains(heartbeat));
    match missing {
        None => pass("it goes on, and nothing is missing"),
        Some(heartbeat) => fail(format!("it goes on, and heartbeat {heartbeat} is missing")),
    }
}

async fn exec_in_flight(s: &RuntimeSession) -> CaseResult {
    /// How long the command takes: longer than the checkpoint of a small container takes to begin.
    const COMMAND_DURATION: Duration = Duration::from_millis(800);
    s.require_container_unharmed().await?;
    let container = s
        .new_container(s.small_container_options().separate_pod().exec_delay(COMMAND_DURATION))
        .await?;
    let command = s.runtime.program.exec_command(COMMAND_DURATION);
    let location = s.runtime.location("exec");
    let checkpoint = async {
        // There is no event of a command that has begun; the rest of its time is enough for the checkpoint.
        tokio::time::sleep(COMMAND_DURATION / 4).await;
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        s.runtime.checkpoint(&container, &call).await
    };
    let (executed, response) = tokio::join!(s.runtime.exec_sync(&container, &command, EXEC_TIMEOUT), checkpoint);
    let checkpoint = if response.is_ok() { "success" } else { "an error" };
    match executed {
        Ok(executed) => check(
            executed.exit_code == 0,
            format!("exit code {}, and {checkpoint} of the checkpoint", executed.exit_code),
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
    let before = ContainerBefore::observe(s, &other).await?;
    let attempt = s.checkpoint(&container, "neighbour").await?;
    if !attempt.response.is_ok() {
        return Err(NonPass::Error(format!("the checkpoint failed: {}", attempt.response)));
    }
    let after = before.observe_liveness(s, &other).await?;
    match (after.same_process, after.running) {
        (true, true) => pass("it runs on"),
        (true, false) => fail(after.describe_frozen()),
        (false, _) => fail(format!(
            "its first process has ended; its status says {}",
            after.status()
        )),
    }
}
