//! Requests for a container that does not run, and requests with a partial id.

use super::session::{AMPLE_TIMEOUT_SECS, ARCHIVE_CASE, KEEPS_RUNNING_CASE, OK_CASE, RuntimeSession};
use crate::{
    engine::{Case, CaseResult, Level, NonPass, case, check},
    suites::authority,
    targets::runtime::{CheckpointCall, CheckpointOutcome, ContainerHandle},
};

const UNKNOWN_CASE: &str = "runtime/container-id/unknown-rejected";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/container-id/unknown-rejected", Level::Reference)
        .requirement("CheckpointContainer must fail for a container that does not exist.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .depends_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(unknown_container(s))),
    case("runtime/container-id/unknown-is-not-found", Level::Reference)
        .requirement(
            "CheckpointContainer must return NotFound for a container that does not exist, so that the caller \
            does not retry.",
        )
        .authority(authority::COMMON_RUNTIMES)
        .expected("NotFound")
        .depends_on(&["runtime/container-id/unknown-rejected"])
        .shared()
        .run(|s| Box::pin(unknown_container_code(s))),
    case("runtime/container-state/exited-rejected", Level::Reference)
        .requirement("CheckpointContainer must fail for a container that has exited.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .depends_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(exited_container(s))),
    case("runtime/container-state/created-rejected", Level::Reference)
        .requirement("CheckpointContainer must fail for a container that was created and never started.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("an error")
        .depends_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(created_container(s))),
    case("runtime/container-id/prefix-accepted", Level::Robust)
        .requirement("An unambiguous prefix of an id must identify the container.")
        .authority(authority::RUNTIMES_SHORT_ID)
        .motivation("containerd#12759: CheckpointContainer rejected an id prefix, which every other call accepts")
        .expected("success")
        .depends_on(&[ARCHIVE_CASE, KEEPS_RUNNING_CASE])
        .shared()
        .run(|s| Box::pin(short_id(s))),
    case("runtime/container-id/empty-rejected", Level::Robust)
        .requirement("CheckpointContainer must fail for an empty id.")
        .authority(authority::CWE_INPUT_VALIDATION)
        .expected("an error")
        .depends_on(&[OK_CASE])
        .shared()
        .run(|s| Box::pin(empty_id(s))),
];

async fn checkpoint_id(s: &RuntimeSession, id: &str) -> Result<CheckpointOutcome, NonPass> {
    s.first_checkpoint_ok().await?;
    let call = CheckpointCall::to(s.runtime.location("lookup").to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
    Ok(s.runtime.checkpoint_id(id, &call).await)
}

/// The response must be an error; its message is not specified.
fn is_error(response: &CheckpointOutcome) -> CaseResult {
    check(!response.is_ok(), response.to_string())
}

async fn unknown_container(s: &RuntimeSession) -> CaseResult {
    is_error(&checkpoint_id(s, &"0123456789abcdef".repeat(4)).await?)
}

async fn unknown_container_code(s: &RuntimeSession) -> CaseResult {
    let response = checkpoint_id(s, &"0123456789abcdef".repeat(4)).await?;
    if response.is_ok() {
        return Err(NonPass::Blocked(UNKNOWN_CASE));
    }
    check(response.code == tonic::Code::NotFound, response.to_string())
}

async fn exited_container(s: &RuntimeSession) -> CaseResult {
    s.first_checkpoint_ok().await?;
    let container = s.disposable_container().await?;
    // The shell exits in its signal handler, and the test workload on SIGTERM. A process that does neither is killed.
    s.runtime.stop(&container, std::time::Duration::from_secs(1)).await?;
    without_ids(is_error(&checkpoint_id(s, container.id()).await?), &container)
}

async fn created_container(s: &RuntimeSession) -> CaseResult {
    s.first_checkpoint_ok().await?;
    let container = s
        .runtime
        .create_container(s.small_container_options().separate_pod())
        .await?;
    without_ids(is_error(&checkpoint_id(s, container.id()).await?), &container)
}

/// The result with the container's id replaced: the id differs from run to run.
fn without_ids(result: CaseResult, container: &ContainerHandle) -> CaseResult {
    result.map(|actual| actual.replace(container.id(), "ID"))
}

async fn short_id(s: &RuntimeSession) -> CaseResult {
    /// The length of the ids that crictl shows.
    const SHORT_ID_CHARS: usize = 13;
    s.require_container_unharmed().await?;
    let container = s.disposable_container().await?;
    let id = container.id();
    let response = checkpoint_id(s, id.get(..SHORT_ID_CHARS).unwrap_or(id)).await?;
    let actual = response.to_string().replace(id, "ID");
    check(
        response.is_ok(),
        actual.replace(id.get(..SHORT_ID_CHARS).unwrap_or(id), "SHORT-ID"),
    )
}

async fn empty_id(s: &RuntimeSession) -> CaseResult {
    is_error(&checkpoint_id(s, "").await?)
}
