//! What is answered to a request that names no running container, or names it in short.

use super::session::{AMPLE, RuntimeSession};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, judge},
    catalog::authority,
    target::runtime::{Checkpoint, CheckpointAnswer, Container},
};

/// The case that judges whether an unknown container is an error at all.
const UNKNOWN: &str = "runtime/answer/unknown";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: UNKNOWN,
            clause: "a container that is not there is an error",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(unknown(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/answer/unknown-code",
            clause: "a container that is not there is NotFound: the caller need not try again",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "NotFound",
        },
        |s| Box::pin(unknown_code(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/answer/exited",
            clause: "a container that has exited cannot be checkpointed",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(exited(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/answer/created",
            clause: "a container that was not started cannot be checkpointed",
            authority: authority::RUNTIMES,
            motivation: "",
            level: Level::Reference,
            expected: "an error",
        },
        |s| Box::pin(created(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/answer/short-id",
            clause: "the beginning of an id names the container, if it is of no other",
            authority: authority::RUNTIMES_SHORT_ID,
            motivation: "containerd#12759: CheckpointContainer refused the beginning of an id, which every other call takes",
            level: Level::Robust,
            expected: "success",
        },
        |s| Box::pin(short_id(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/answer/empty-id",
            clause: "an empty id names no container",
            authority: authority::INPUT,
            motivation: "",
            level: Level::Robust,
            expected: "an error",
        },
        |s| Box::pin(empty_id(s)),
    ),
];

async fn ask(s: &RuntimeSession, id: &str) -> Result<CheckpointAnswer, Stop> {
    s.made().await?;
    let call = Checkpoint::to(s.runtime.location("answer").to_string_lossy()).timeout(AMPLE);
    Ok(s.runtime.checkpoint_id(id, &call).await)
}

/// It must be an error; the message is the runtime's own affair.
fn is_error(answer: &CheckpointAnswer) -> Judgement {
    match answer.is_ok() {
        true => fail("success"),
        false => judge(true, answer.to_string()),
    }
}

async fn unknown(s: &RuntimeSession) -> Judgement {
    is_error(&ask(s, &"0123456789abcdef".repeat(4)).await?)
}

async fn unknown_code(s: &RuntimeSession) -> Judgement {
    let answer = ask(s, &"0123456789abcdef".repeat(4)).await?;
    if answer.is_ok() {
        return Err(Stop::Blocked(UNKNOWN));
    }
    judge(answer.code == tonic::Code::NotFound, answer.to_string())
}

async fn exited(s: &RuntimeSession) -> Judgement {
    s.made().await?;
    let container = s.victim().await?;
    // The shell ends by its trap, the stand-in by its own will; whichever does not is killed.
    s.runtime.stop(&container, std::time::Duration::from_secs(1)).await?;
    without_ids(is_error(&ask(s, container.id()).await?), &container)
}

async fn created(s: &RuntimeSession) -> Judgement {
    s.made().await?;
    let container = s.runtime.created(s.small().own_pod()).await?;
    without_ids(is_error(&ask(s, container.id()).await?), &container)
}

/// The same without the container's id, which is another one in each run.
fn without_ids(judgement: Judgement, container: &Container) -> Judgement {
    judgement.map(|seen| seen.replace(container.id(), "ID"))
}

async fn short_id(s: &RuntimeSession) -> Judgement {
    /// What crictl shows of an id.
    const SHOWN: usize = 13;
    s.intact().await?;
    let container = s.victim().await?;
    let id = container.id();
    let answer = ask(s, id.get(..SHOWN).unwrap_or(id)).await?;
    let seen = answer.to_string().replace(id, "ID");
    judge(answer.is_ok(), seen.replace(id.get(..SHOWN).unwrap_or(id), "SHORT-ID"))
}

async fn empty_id(s: &RuntimeSession) -> Judgement {
    is_error(&ask(s, "").await?)
}
