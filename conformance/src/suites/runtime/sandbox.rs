//! RunPodSandbox that is retried after a deadline, as the kubelet does on a slow node before any checkpoint.

use std::time::Duration;

use super::session::RuntimeSession;
use crate::{
    engine::{Authority, Case, CaseResult, Level, case, fail, pass, skip},
    targets::runtime::SandboxRetry,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[case("runtime/sandbox/retry-after-timeout", Level::Robust)
    .requirement(
        "A sandbox whose RunPodSandbox call exceeded its deadline must be listed, or a retry must \
            succeed.",
    )
    .authority(Authority::PROJECT)
    .motivation("containerd and CRI-O: `name is reserved` when the kubelet retries RunPodSandbox after a deadline")
    .expected("a listed sandbox, or success of RunPodSandbox within 5 s")
    .shared()
    .run(|s| Box::pin(run_pod_sandbox_retry(s)))];

async fn run_pod_sandbox_retry(s: &RuntimeSession) -> CaseResult {
    // Several deadlines interrupt a slow runtime at different steps.
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
        return pass("a listed sandbox, or success of RunPodSandbox within 5 s");
    }
    skip("requires a RunPodSandbox call that exceeds its deadline")
}
