//! Containers in every state: which of them can be checkpointed, and the response for those that cannot.

use std::time::{Duration, Instant};

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, WHEN_DONE_CASE, describe_calls};
use crate::{
    engine::{Capability, Case, CaseResult, Level, case, check, fail, skip},
    suites::authority,
    targets::ContainerRef,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/container-state/exited-rejected", Level::Reference)
        .requirement("The kubelet must return 500 without a call to the runtime for a container that has exited.")
        .authority(authority::KUBELET_SERVER)
        .expected("500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)")
        .requires(&[Capability::ExitedContainer])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(not_running(s, Capability::ExitedContainer))),
    case("kubelet/container-state/finished-init-rejected", Level::Reference)
        .requirement(
            "The kubelet must return 500 without a call to the runtime for an init container that has \
            finished.",
        )
        .authority(authority::KUBELET_SERVER)
        .expected("500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)")
        .requires(&[Capability::FinishedInitContainer])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(not_running(s, Capability::FinishedInitContainer))),
    case("kubelet/container-state/created-rejected", Level::Reference)
        .requirement(
            "The kubelet must return 500 without a call to the runtime for a container that was created and \
            never started.",
        )
        .authority(authority::KUBELET_SERVER)
        .expected("500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)")
        .requires(&[Capability::CreatedContainer])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(not_running(s, Capability::CreatedContainer))),
    case("kubelet/container-state/crash-loop-rejected", Level::Reference)
        .requirement(
            "The kubelet must return 500 without a call to the runtime for a container that crashed and waits \
            for its restart.",
        )
        .authority(authority::KUBELET_SERVER)
        .expected("500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)")
        .requires(&[Capability::CrashLoopContainer])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(restarting(s))),
    case("kubelet/lookup/ephemeral-container-found", Level::Reference)
        .requirement("The kubelet must find an ephemeral container of the Pod, whether or not that container runs.")
        .authority(authority::KUBELET_SERVER)
        .expected("500 if the container does not run, 200 if it runs")
        .requires(&[Capability::EphemeralContainer])
        .may_depend_on(&[OK_CASE])
        .max_archives(1)
        .run(|s| Box::pin(ephemeral(s))),
    case("kubelet/container-state/sidecar-accepted", Level::Reference)
        .requirement("The kubelet must checkpoint an init container that is running.")
        .authority(authority::KUBELET_SERVER)
        .expected("200")
        .requires(&[Capability::SidecarContainer])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(sidecar(s))),
];

/// The response body for a container that exists and does not run.
fn not_found_message(container: &ContainerRef) -> String {
    format!(
        "checkpointing of {container} failed (container {} not found)",
        container.container
    )
}

/// The container of this capability exists and does not run.
async fn not_running(s: &KubeletSession, capability: Capability) -> CaseResult {
    is_rejected(s, s.require_sibling(capability)?).await
}

async fn is_rejected(s: &KubeletSession, container: &ContainerRef) -> CaseResult {
    s.require_endpoint().await?;
    let journal_position = s.journal_position().await?;
    let response = s.kubelet.checkpoint(container, "").await?;
    let calls = s.calls_after(journal_position).await?;
    if let Some(call) = calls.iter().flatten().next() {
        return fail(format!(
            "{}, and the runtime was called for {}",
            response.summary(),
            call.container_id
        ));
    }
    check(
        response.status == 500 && response.body == not_found_message(container),
        format!("{}; {}", response.summary(), describe_calls(&calls)),
    )
}

async fn restarting(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    let container = s.require_sibling(Capability::CrashLoopContainer)?;
    // The back-off lasts seconds. After it the container runs for a moment, and older kubelets report that late.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    let started = Instant::now();
    while started.elapsed() < WAIT_TIMEOUT {
        let Some(before) = s.kubelet.restart_count(container).await? else {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        };
        // The result is valid only if the container waited during the whole check.
        let result = is_rejected(s, container).await;
        if s.kubelet.restart_count(container).await? == Some(before) {
            return result;
        }
    }
    skip(format!("requires that {container} waits for its restart"))
}

async fn ephemeral(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    let container = s.require_sibling(Capability::EphemeralContainer)?;
    let response = s.kubelet.checkpoint(container, "").await?;
    let as_expected =
        response.status == 200 || (response.status == 500 && response.body == not_found_message(container));
    check(as_expected, response.summary())
}

async fn sidecar(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let container = s.require_sibling(Capability::SidecarContainer)?;
    let response = s.kubelet.checkpoint(container, "").await?;
    check(response.status == 200, response.summary())
}
