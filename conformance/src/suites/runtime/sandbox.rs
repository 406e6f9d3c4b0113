//! The sandbox of a Pod whose first try ran out of time: what comes before any checkpoint on a slow node.

use std::time::Duration;

use super::session::RuntimeSession;
use crate::{
    engine::{Authority, Case, CaseInfo, CaseResult, Level, NonPass, fail, pass},
    targets::runtime::SandboxRetry,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[Case::new(
    CaseInfo {
        id: "runtime/sandbox/retry-after-timeout",
        requirement: "a sandbox whose caller ran out of time can be asked for again, or is listed",
        authority: Authority::PROJECT,
        motivation: "containerd and CRI-O: `name is reserved` when the kubelet tries again after RunPodSandbox ran out of time",
        level: Level::Robust,
        expected: "it is listed, or RunPodSandbox succeeds within 5 s",
    },
    |s| Box::pin(run_pod_sandbox_retry(s)),
)];

async fn run_pod_sandbox_retry(s: &RuntimeSession) -> CaseResult {
    // A slow runtime is interrupted at different steps.
    const DEADLINES_MS: [(u64, bool); 3] = [(20, false), (80, true), (160, false)];
    let mut timed_out = false;
    for (deadline, late) in DEADLINES_MS {
        match s
            .runtime
            .retry_run_pod_sandbox(Duration::from_millis(deadline), late)
            .await?
        {
            SandboxRetry::FirstCallSucceeded => {}
            SandboxRetry::Listed | SandboxRetry::Created => timed_out = true,
            SandboxRetry::Failed(code, message) => return fail(format!("not listed, and {code:?}: {message}")),
        }
    }
    if timed_out {
        return pass("it is there when asked for again");
    }
    Err(NonPass::Skip(
        "every sandbox was there before its caller ran out of time".to_owned(),
    ))
}
