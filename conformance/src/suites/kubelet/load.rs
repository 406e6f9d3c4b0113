//! How often the runtime is asked, what is counted, and what is told to others.

use std::{collections::BTreeMap, fs};

use futures_util::future::join_all;
use reqwest::Method;

use super::{
    fault_rule,
    session::{KubeletSession, LATE_ARCHIVE_TIMEOUT},
};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass},
    evidence::in_current_case,
    suites::authority,
    targets::Credentials,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: "kubelet/checkpoint/single-cri-call",
            requirement: "for one request the runtime is asked for one checkpoint",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "one call",
        },
        |s| Box::pin(one_call(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/concurrency/all-served",
            requirement: "32 requests at once are all served, each by a call of its own",
            authority: authority::KUBELET_SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "32 times 200, 32 calls",
        },
        |s| Box::pin(many_at_once(s)),
    )
    .load_test(),
    Case::new(
        CaseInfo {
            id: "kubelet/metrics/operations",
            requirement: "a checkpoint is counted in kubelet_runtime_operations_total",
            authority: authority::KUBELET_METRICS,
            motivation: "",
            level: Level::Reference,
            expected: "operation_type=\"checkpoint_container\" grows by one",
        },
        |s| Box::pin(operations_metric(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/metrics/errors",
            requirement: "a checkpoint that failed is counted in kubelet_runtime_operations_errors_total",
            authority: authority::KUBELET_METRICS,
            motivation: "",
            level: Level::Reference,
            expected: "operation_type=\"checkpoint_container\" grows by one",
        },
        |s| Box::pin(errors_metric(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/confidentiality/no-memory-disclosure",
            requirement: "nothing of the container's memory is in answers, in metrics or in the kubelet's log",
            authority: authority::API_INTRODUCTION,
            motivation: "",
            level: Level::Robust,
            expected: "not the canary of any container",
        },
        |s| Box::pin(no_memory_disclosure(s)),
    ),
];

async fn one_call(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    let journal_position = control.journal_position().await?;
    let response = s.kubelet.checkpoint(s.container_under_test(), "").await?;
    if response.status != 200 {
        return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
    }
    control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?;
    let calls = control.checkpoints_after(journal_position).await?.len();
    check(calls == 1, format!("{calls} calls"))
}

async fn many_at_once(s: &KubeletSession) -> CaseResult {
    const REQUEST_COUNT: usize = 32;
    if !s.kubelet.allow_load {
        let reason = "makes 32 checkpoints at once, which a kubelet in use is asked for only with --include-load";
        return Err(NonPass::Excluded(reason.to_owned()));
    }
    s.require_checkpointable().await?;
    // While the first is held all the others come in.
    if let Some(control) = &s.kubelet.fake_cri {
        control
            .add_rules(&[&fault_rule(s.container_under_test(), "before", "delay(200ms)")])
            .await?;
    }
    let journal_position = s.journal_position().await?;
    let requests = (0..REQUEST_COUNT).map(|_| in_current_case(s.kubelet.checkpoint(s.container_under_test(), "")));
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut refusals = Vec::new();
    for response in join_all(requests).await {
        let response = response?;
        *statuses.entry(response.status).or_default() += 1;
        if response.status == 500 && response.body.contains("rpc error: code = ") {
            refusals.push(response.body);
        }
    }
    let calls = s.calls_after(journal_position).await?;
    let served = statuses.get(&200).copied().unwrap_or_default();
    if let (None, Some(refusal), true) = (&calls, refusals.first(), served + refusals.len() == REQUEST_COUNT) {
        // What a runtime says is not the kubelet's to answer for, and whose calls they were cannot be seen here.
        return Err(NonPass::Skip(format!(
            "needs a runtime that takes many checkpoints of a container at once: {refusal:?}"
        )));
    }
    let counted = calls.as_ref().is_none_or(|calls| calls.len() == REQUEST_COUNT);
    let mut actual: Vec<_> = statuses
        .iter()
        .map(|(status, count)| format!("{count} times {status}"))
        .collect();
    actual.extend(calls.map(|calls| format!("{} calls", calls.len())));
    check(served == REQUEST_COUNT && counted, actual.join(", "))
}

/// The value of a counter about checkpoints; zero when it is not there yet.
async fn checkpoint_counter(s: &KubeletSession, name: &str) -> Result<u64, NonPass> {
    let client = s.kubelet.client().await;
    let response = client
        .send(Credentials::Authorized, Method::GET, client.url("/metrics"))
        .await?;
    if response.status != 200 {
        return Err(NonPass::Skip(format!(
            "the metrics cannot be read: {}",
            response.status
        )));
    }
    let line = format!("{name}{{operation_type=\"checkpoint_container\"}} ");
    let value = response.body.lines().find_map(|text| text.strip_prefix(line.as_str()));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

async fn operations_metric(s: &KubeletSession) -> CaseResult {
    const METRIC_NAME: &str = "kubelet_runtime_operations_total";
    s.require_checkpointable().await?;
    let before = checkpoint_counter(s, METRIC_NAME).await?;
    if s.kubelet.checkpoint(s.container_under_test(), "").await?.status != 200 {
        return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
    }
    let after = checkpoint_counter(s, METRIC_NAME).await?;
    check(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn errors_metric(s: &KubeletSession) -> CaseResult {
    const METRIC_NAME: &str = "kubelet_runtime_operations_errors_total";
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    control
        .add_rules(&[&fault_rule(
            s.container_under_test(),
            "before",
            "error(Internal,\"asked for\")",
        )])
        .await?;
    let before = checkpoint_counter(s, METRIC_NAME).await?;
    if s.kubelet.checkpoint(s.container_under_test(), "").await?.status != 500 {
        return Err(NonPass::Blocked("kubelet/runtime-error/status-code"));
    }
    let after = checkpoint_counter(s, METRIC_NAME).await?;
    check(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn no_memory_disclosure(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let canaries = s.kubelet.canaries();
    if canaries.is_empty() {
        return Err(NonPass::Skip("no container told a canary".to_owned()));
    }
    let client = s.kubelet.client().await;
    let metrics = client
        .send(Credentials::Authorized, Method::GET, client.url("/metrics"))
        .await?;
    let mut texts = vec![(
        "the answer to a checkpoint",
        s.kubelet.checkpoint(s.container_under_test(), "").await?.body,
    )];
    // Who may not read them is told nothing by them, and so nothing is judged of them.
    if metrics.status == 200 {
        texts.push(("the metrics", metrics.body));
    }
    if let Some(control) = &s.kubelet.fake_cri {
        control
            .add_rules(&[&fault_rule(
                s.container_under_test(),
                "finish",
                "error(Internal,\"asked for\")",
            )])
            .await?;
        texts.push((
            "the answer to one that failed",
            s.kubelet.checkpoint(s.container_under_test(), "").await?.body,
        ));
    }
    if let Some(log) = &s.kubelet.kubelet_log {
        let text = fs::read(log).map_err(|error| NonPass::Error(format!("{}: {error}", log.display())))?;
        texts.push(("the kubelet's log", String::from_utf8_lossy(&text).into_owned()));
    }
    for (label, text) in &texts {
        if canaries.iter().any(|canary| text.contains(canary)) {
            return fail(format!("a canary stands in {label}"));
        }
    }
    let labels: Vec<_> = texts.iter().map(|(label, _)| *label).collect();
    pass(format!("no canary in {}", labels.join(", ")))
}
