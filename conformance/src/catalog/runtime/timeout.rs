//! The request's own timeout: seconds; zero asks for the runtime's default. That it ends a checkpoint which takes longer is
//! judged with what is left then, in `ending.rs`.

use std::time::Duration;

use super::session::RuntimeSession;
use crate::{
    case::{Case, Clause, Judgement, Level, judge},
    catalog::authority,
    target::runtime::{Checkpoint, Container},
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: "runtime/timeout/zero",
            clause: "a timeout of zero asks for the default: it is not over at once",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "success",
        },
        |s| Box::pin(zero(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/timeout/seconds",
            clause: "the timeout is in seconds: a checkpoint of a fraction of it succeeds",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "success, with a timeout of 20",
        },
        |s| Box::pin(seconds(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/timeout/largest",
            clause: "the largest timeout there is does not wrap around",
            authority: authority::OVERFLOW,
            motivation: "",
            level: Level::Robust,
            expected: "success, or an error that is no deadline's",
        },
        |s| Box::pin(largest(s)),
    ),
];

async fn zero(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    let answer = ask(s, &s.victim().await?, 0).await;
    judge(answer.is_ok(), answer.to_string())
}

async fn seconds(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    // Long enough that 20 of a smaller unit would be over.
    let container = s.container(s.small().slow_on_fake(Duration::from_millis(150))).await?;
    let answer = ask(s, &container, 20).await;
    judge(answer.is_ok(), answer.to_string())
}

async fn largest(s: &RuntimeSession) -> Judgement {
    s.intact().await?;
    let answer = ask(s, &s.victim().await?, i64::MAX).await;
    judge(answer.code != tonic::Code::DeadlineExceeded, answer.to_string())
}

async fn ask(s: &RuntimeSession, container: &Container, timeout: i64) -> crate::target::runtime::CheckpointAnswer {
    let call = Checkpoint::to(s.runtime.location("timeout").to_string_lossy()).timeout(timeout);
    s.runtime.checkpoint(container, &call).await
}
