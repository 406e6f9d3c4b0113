//! The timeout of the request, in seconds; zero selects the runtime's default. `after_failure.rs` checks that the
//! timeout ends a checkpoint that takes longer.

use std::time::Duration;

use super::session::{ARCHIVE_CASE, KEEPS_RUNNING_CASE, RuntimeSession};
use crate::{
    engine::{Case, CaseResult, Level, case, check},
    suites::authority,
    targets::runtime::{CheckpointCall, ContainerHandle},
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/timeout/zero-uses-default", Level::Documented)
        .requirement("A timeout of zero must select the runtime's default and not expire at once.")
        .authority(authority::CRI_REQUEST)
        .expected("success")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(zero_timeout(s))),
    case("runtime/timeout/unit-is-seconds", Level::Documented)
        .requirement("The runtime must interpret the timeout in seconds.")
        .authority(authority::CRI_REQUEST)
        .expected("success with a timeout of 20")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(timeout_unit(s))),
    case("runtime/timeout/no-overflow", Level::Robust)
        .requirement("The largest possible timeout must not wrap around.")
        .authority(authority::CWE_INTEGER_OVERFLOW)
        .expected("success, or an error other than DeadlineExceeded")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(largest_timeout(s))),
];

async fn zero_timeout(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    let response = checkpoint_with_timeout(s, &s.disposable_container().await?, 0).await;
    check(response.is_ok(), response.to_string())
}

async fn timeout_unit(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    // Longer than 20 of any smaller unit.
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
