//! The container after a checkpoint: it runs on as if nothing had been.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    motion::Before,
    session::{AMPLE, LEFT_FROZEN, RuntimeSession, SAME_PROCESS},
};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::runtime::Checkpoint,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: LEFT_FROZEN,
            clause: "after a checkpoint the container runs on",
            authority: authority::KEP_USER_STORIES,
            motivation: "containerd 2.4: a container was left frozen while its status said RUNNING",
            level: Level::Documented,
            expected: "its counter moves",
        },
        |s| Box::pin(left_frozen(s)),
    ),
    Case::new(
        Clause {
            id: SAME_PROCESS,
            clause: "after a checkpoint the container is the process that it was",
            authority: authority::KEP_USER_STORIES,
            motivation: "",
            level: Level::Documented,
            expected: "the same pid and start time",
        },
        |s| Box::pin(same_process(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/state/status",
            clause: "after a checkpoint ContainerStatus says that the container runs, as it does",
            authority: authority::CRI_STATUS,
            motivation: "",
            level: Level::Documented,
            expected: "CONTAINER_RUNNING",
        },
        |s| Box::pin(status(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/state/exec",
            clause: "after a checkpoint commands can be run in the container",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "exit code 0 of ExecSync",
        },
        |s| Box::pin(exec(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/state/log",
            clause: "after a checkpoint the container's log goes on, and keeps what it had",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "a tick that is not in the archive's log, and every tick before it",
        },
        |s| Box::pin(log(s)),
    ),
];

pub(super) const ALONE: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: "runtime/state/exec-in-flight",
            clause: "a command that ExecSync has under way ends as it would without the checkpoint",
            authority: authority::KEP_USER_STORIES,
            motivation: "",
            level: Level::Robust,
            expected: "exit code 0",
        },
        |s| Box::pin(exec_in_flight(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/state/neighbour",
            clause: "a checkpoint of one container leaves the others of its Pod running",
            authority: authority::KEP_GOALS,
            motivation: "",
            level: Level::Robust,
            expected: "the other container's counter moves",
        },
        |s| Box::pin(neighbour(s)),
    ),
];

/// How long a command may take that ends at once.
const SOON: Duration = Duration::from_secs(10);

async fn left_frozen(s: &RuntimeSession) -> Judgement {
    let after = &s.made().await?.after;
    if !after.same_process {
        return Err(Stop::Blocked(SAME_PROCESS));
    }
    match after.moves {
        true => pass("it runs on"),
        false => fail(after.standstill()),
    }
}

async fn same_process(s: &RuntimeSession) -> Judgement {
    let after = &s.made().await?.after;
    match after.same_process {
        true => pass("the same pid and start time"),
        false => fail(format!(
            "its first process has ended; its status says {}",
            after.status()
        )),
    }
}

async fn status(s: &RuntimeSession) -> Judgement {
    let after = &s.made().await?.after;
    if !after.same_process {
        return Err(Stop::Blocked(SAME_PROCESS));
    }
    if !after.moves {
        return Err(Stop::Blocked(LEFT_FROZEN));
    }
    let holds = after.status == Ok(ContainerState::ContainerRunning);
    judge(holds, format!("{}, and it runs", after.status()))
}

async fn exec(s: &RuntimeSession) -> Judgement {
    let first = s.intact().await?;
    let command = s.runtime.program.lasting(Duration::from_millis(1));
    match s.runtime.exec_sync(&first.container, &command, SOON).await {
        Ok(executed) => judge(executed.exit_code == 0, format!("exit code {}", executed.exit_code)),
        Err(error) => fail(error.to_string().replace(first.container.id(), "ID")),
    }
}

async fn log(s: &RuntimeSession) -> Judgement {
    let first = s.intact().await?;
    let before = &first.attempt.before.workload;
    let now = s.runtime.workload(&first.container).await?;
    let enough = |later: &crate::target::Workload| later.tick >= now.tick + 2;
    // Longer than any pause of a busy machine.
    let later = s
        .runtime
        .workload_until(&first.container, Duration::from_secs(3), enough)
        .await?;
    if later.is_none() {
        return fail("no line after the checkpoint, though the container runs");
    }
    let text = tokio::fs::read(first.container.log()).await;
    let text = text.map_err(|error| Stop::error(&error))?;
    let ticks = super::archive::ticks(&text);
    let missing = (1..=before.tick).find(|tick| !ticks.contains(tick));
    match missing {
        None => pass("it goes on, and nothing is missing"),
        Some(tick) => fail(format!("it goes on, and tick {tick} is missing")),
    }
}

async fn exec_in_flight(s: &RuntimeSession) -> Judgement {
    /// How long the command takes: longer than the checkpoint of a small container takes to begin.
    const TAKES: Duration = Duration::from_millis(800);
    s.intact().await?;
    let container = s.container(s.small().own_pod().exec_delay(TAKES)).await?;
    let command = s.runtime.program.lasting(TAKES);
    let location = s.runtime.location("exec");
    let checkpoint = async {
        // There is no event of a command that has begun; the rest of its time is enough for the checkpoint.
        tokio::time::sleep(TAKES / 4).await;
        let call = Checkpoint::to(location.to_string_lossy()).timeout(AMPLE);
        s.runtime.checkpoint(&container, &call).await
    };
    let (executed, answer) = tokio::join!(s.runtime.exec_sync(&container, &command, SOON), checkpoint);
    let checkpoint = if answer.is_ok() { "success" } else { "an error" };
    match executed {
        Ok(executed) => judge(
            executed.exit_code == 0,
            format!("exit code {}, and {checkpoint} of the checkpoint", executed.exit_code),
        ),
        Err(error) => fail(error.to_string().replace(container.id(), "ID")),
    }
}

async fn neighbour(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    let container = s.victim().await?;
    let other = s.container(s.small().beside(&container)).await?;
    let before = Before::of(s, &other).await?;
    let attempt = s.attempt(&container, "neighbour").await?;
    if !attempt.answer.is_ok() {
        return Err(Stop::Error(format!("the checkpoint failed: {}", attempt.answer)));
    }
    let after = before.again(s, &other).await?;
    match (after.same_process, after.moves) {
        (true, true) => pass("it runs on"),
        (true, false) => fail(after.standstill()),
        (false, _) => fail(format!(
            "its first process has ended; its status says {}",
            after.status()
        )),
    }
}
