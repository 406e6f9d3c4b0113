//! Containers of every state: which can be checkpointed, and what is said of those that cannot.

use std::time::{Duration, Instant};

use super::session::{KubeletSession, describe_calls};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail},
    suites::authority,
    targets::ContainerRef,
};

/// The case about containers that have exited.
const EXITED_CASE: &str = "kubelet/container-state/exited-rejected";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: EXITED_CASE,
            requirement: "a container that has exited is answered 500, and the runtime is not called",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.siblings.exited.as_ref())),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container-state/finished-init-rejected",
            requirement: "an init container that has finished is answered 500, and the runtime is not called",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.siblings.init.as_ref())),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container-state/created-rejected",
            requirement: "a container that was created and never started is answered 500, and the runtime is not called",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(not_running(s, s.kubelet.siblings.created.as_ref())),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container-state/crash-loop-rejected",
            requirement: "a container that ends again and again and waits to be started is answered 500, and the runtime is not called",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 checkpointing of <namespace>/<pod>/<container> failed (container <name> not found)",
        },
        |s| Box::pin(restarting(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/lookup/ephemeral-container-found",
            requirement: "an ephemeral container is one of its Pod's: one that does not run is answered 500, not 404",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 when it does not run, 200 when it does",
        },
        |s| Box::pin(ephemeral(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container-state/sidecar-accepted",
            requirement: "an init container that runs can be checkpointed as any other",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(sidecar(s)),
    ),
];

/// What is said of a container that is there and does not run.
fn not_found_message(container: &ContainerRef) -> String {
    format!(
        "checkpointing of {container} failed (container {} not found)",
        container.container
    )
}

async fn not_running(s: &KubeletSession, container: Option<&ContainerRef>) -> CaseResult {
    s.require_endpoint().await?;
    let Some(container) = container else {
        return Err(NonPass::Skip(
            "needs a container that does not run, in this state".to_owned(),
        ));
    };
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
    let Some(container) = &s.kubelet.siblings.restarting else {
        return Err(NonPass::Skip("needs a container that fails again and again".to_owned()));
    };
    // The pause is seconds long; after it the container runs for a moment, of which older kubelets tell late.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    let started = Instant::now();
    while started.elapsed() < WAIT_TIMEOUT {
        let Some(before) = s.kubelet.restart_count(container).await? else {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        };
        // It must have waited all the time.
        let result = not_running(s, Some(container)).await;
        if s.kubelet.restart_count(container).await? == Some(before) {
            return result;
        }
    }
    Err(NonPass::Skip(format!("{container} does not wait to be started")))
}

async fn ephemeral(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    let Some(container) = &s.kubelet.siblings.ephemeral else {
        return Err(NonPass::Skip(
            "needs an ephemeral container, which only an API server adds to a Pod".to_owned(),
        ));
    };
    let response = s.kubelet.checkpoint(container, "").await?;
    let as_expected =
        response.status == 200 || (response.status == 500 && response.body == not_found_message(container));
    check(as_expected, response.summary())
}

async fn sidecar(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let Some(container) = &s.kubelet.siblings.sidecar else {
        return Err(NonPass::Skip("needs an init container that runs".to_owned()));
    };
    let response = s.kubelet.checkpoint(container, "").await?;
    check(response.status == 200, response.summary())
}
