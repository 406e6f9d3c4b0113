//! The request's own timeout: seconds; zero asks for the runtime's default. That it ends a checkpoint which takes longer is
//! judged with what is left then, in `ending.rs`.

use std::time::Duration;

use super::session::RuntimeSession;
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, check},
    suites::authority,
    targets::runtime::{CheckpointCall, ContainerHandle},
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: "runtime/timeout/zero-uses-default",
            requirement: "a timeout of zero asks for the default: it is not over at once",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "success",
        },
        |s| Box::pin(zero_timeout(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/timeout/unit-is-seconds",
            requirement: "the timeout is in seconds: a checkpoint of a fraction of it succeeds",
            authority: authority::CRI_REQUEST,
            motivation: "",
            level: Level::Documented,
            expected: "success, with a timeout of 20",
        },
        |s| Box::pin(timeout_unit(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/timeout/no-overflow",
            requirement: "the largest timeout there is does not wrap around",
            authority: authority::CWE_INTEGER_OVERFLOW,
            motivation: "",
            level: Level::Robust,
            expected: "success, or an error that is no deadline's",
        },
        |s| Box::pin(largest_timeout(s)),
    ),
];

async fn zero_timeout(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let response = checkpoint_with_timeout(s, &s.disposable_container().await?, 0).await;
    check(response.is_ok(), response.to_string())
}

async fn timeout_unit(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    // Long enough that 20 of a smaller unit would be over.
    let container = s
        .new_container(
            s.small_container_options()
                .fake_cri_freeze_delay(Duration::from_millis(150)),
        )
        .await?;
    let response = checkpoint_with_timeout(s, &container, 20).await;
    check(response.is_ok(), response.to_string())
}

async fn largest_timeout(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let response = checkpoint_with_timeout(s, &s.disposable_container().await?, i64::MAX).await;
    check(response.code != tonic::Code::DeadlineExceeded, response.to_string())
}

async fn checkpoint_with_timeout(
    s: &RuntimeSession,
    container: &ContainerHandle,
    timeout: i64,
) -> crate::targets::runtime::CheckpointOutcome {
    let call = CheckpointCall::to(s.runtime.location("timeout").to_string_lossy()).timeout(timeout);
    s.runtime.checkpoint(container, &call).await
}
