//! Containers in every state: which of them can be checkpointed, and the response for those that cannot.

use std::time::{Duration, Instant};

use super::session::{KubeletSession, describe_calls};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail},
    suites::authority,
    targets::ContainerRef,
};

const EXITED_CASE: &str = "kubelet/container-state/exited-rejected";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: EXITED_CASE,
            requirement: "The kubelet must return 500 without a call to the runtime for a container that has exited.",
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
            requirement: "The kubelet must return 500 without a call to the runtime for an init container that has \
                finished.",
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
            requirement: "The kubelet must return 500 without a call to the runtime for a container that was created \
                and never started.",
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
            requirement: "The kubelet must return 500 without a call to the runtime for a container that crashed and \
                waits for its restart.",
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
            requirement: "The kubelet must find an ephemeral container of the Pod, whether or not that container \
                runs.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "500 if the container does not run, 200 if it runs",
        },
        |s| Box::pin(ephemeral(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/container-state/sidecar-accepted",
            requirement: "The kubelet must checkpoint an init container that is running.",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "200",
        },
        |s| Box::pin(sidecar(s)),
    ),
];

/// The response body for a container that exists and does not run.
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
            "requires a container in this state in the Pod".to_owned(),
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
        return Err(NonPass::Skip("requires a container that crashes repeatedly".to_owned()));
    };
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
        let result = not_running(s, Some(container)).await;
        if s.kubelet.restart_count(container).await? == Some(before) {
            return result;
        }
    }
    Err(NonPass::Skip(format!(
        "requires that {container} waits for its restart"
    )))
}

async fn ephemeral(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    let Some(container) = &s.kubelet.siblings.ephemeral else {
        return Err(NonPass::Skip(
            "requires an ephemeral container, which only an API server can add to a Pod".to_owned(),
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
        return Err(NonPass::Skip("requires a running init container".to_owned()));
    };
    let response = s.kubelet.checkpoint(container, "").await?;
    check(response.status == 200, response.summary())
}
