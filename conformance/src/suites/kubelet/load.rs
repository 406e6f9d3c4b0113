//! The number of calls to the runtime, the kubelet's counters, and confidentiality.

use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::future::join_all;

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, LATE_ARCHIVE_TIMEOUT, OK_CASE, WHEN_DONE_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass, skip},
    evidence::in_current_case,
    suites::authority,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/checkpoint/single-cri-call", Level::Reference)
        .requirement("The kubelet must call the runtime once per request.")
        .authority(authority::KUBELET_SERVER)
        .expected("calls: 1")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/checkpoint/repeatable"])
        .max_archives(1)
        .run(|s| Box::pin(one_call(s))),
    case("kubelet/concurrency/all-served", Level::Reference)
        .requirement("The kubelet must serve 32 concurrent requests with one call to the runtime each.")
        .authority(authority::KUBELET_SERVER)
        .expected("32 times 200, calls: 32")
        .requires(&[Capability::Load])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(32)
        .run(|s| Box::pin(many_at_once(s))),
    case("kubelet/concurrency/other-container", Level::Robust)
        .requirement("A checkpoint of one container must not wait for the checkpoint of another one.")
        .authority(authority::KUBELET_SERVER)
        .motivation("one large container delays the checkpoints of a whole node")
        .expected("200 for a container while the checkpoint of another one is held")
        .requires(&[Capability::FakeCriControl, Capability::SiblingContainer])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(2)
        .run(|s| Box::pin(other_container(s))),
    case("kubelet/metrics/accepted-requests-only", Level::Reference)
        .requirement("The kubelet must not count a request that it refuses as an operation of the runtime.")
        .authority(authority::KUBELET_METRICS)
        .expected("operation_type=\"checkpoint_container\" grew by 0 for requests with 404")
        .depends_on(&["kubelet/metrics/operations"])
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(refused_not_counted(s))),
    case("kubelet/metrics/operations", Level::Reference)
        .requirement("The kubelet must count a checkpoint in kubelet_runtime_operations_total.")
        .authority(authority::KUBELET_METRICS)
        .expected("operation_type=\"checkpoint_container\" grew by 1")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE, "kubelet/checkpoint/repeatable"])
        .max_archives(1)
        .run(|s| Box::pin(operations_metric(s))),
    case("kubelet/metrics/errors", Level::Reference)
        .requirement("The kubelet must count a failed checkpoint in kubelet_runtime_operations_errors_total.")
        .authority(authority::KUBELET_METRICS)
        .expected("operation_type=\"checkpoint_container\" grew by 1")
        .requires(&[Capability::FakeCriControl])
        .depends_on(&[KEEPS_RUNNING_CASE, "kubelet/runtime-error/status-code"])
        .run(|s| Box::pin(errors_metric(s))),
    case("kubelet/confidentiality/no-memory-disclosure", Level::Robust)
        .requirement("The kubelet must not disclose memory of a container in responses, metrics or its log.")
        .authority(authority::API_INTRODUCTION)
        .expected("no canary in any of them")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(no_memory_disclosure(s))),
];

async fn one_call(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    let journal_position = control.journal_position().await?;
    let response = s.request("").await?;
    if response.status != 200 {
        return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
    }
    control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?;
    let calls = control.checkpoints_after(journal_position).await?.len();
    check(calls == 1, format!("calls: {calls}"))
}

async fn many_at_once(s: &KubeletSession) -> CaseResult {
    const REQUEST_COUNT: usize = 32;
    s.require_checkpointable().await?;
    // The delay of the first call lets all other requests arrive meanwhile.
    if let Some(control) = &s.kubelet.fake_cri {
        control
            .inject(s.container_under_test(), "before", "delay(200ms)")
            .await?;
    }
    let journal_position = s.journal_position().await?;
    let requests = (0..REQUEST_COUNT).map(|_| in_current_case(s.request("")));
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
        // The kubelet is not responsible for the runtime's error, and without a journal the calls cannot be counted.
        return skip(format!(
            "requires a runtime that accepts many concurrent checkpoints of a container: {refusal:?}"
        ));
    }
    let counted = calls.as_ref().is_none_or(|calls| calls.len() == REQUEST_COUNT);
    let mut actual: Vec<_> = statuses
        .iter()
        .map(|(status, count)| format!("{count} times {status}"))
        .collect();
    actual.extend(calls.map(|calls| format!("calls: {}", calls.len())));
    check(served == REQUEST_COUNT && counted, actual.join(", "))
}

/// The value of a counter for checkpoints; zero if the counter does not exist yet.
async fn checkpoint_counter(s: &KubeletSession, name: &str) -> Result<u64, NonPass> {
    let client = s.kubelet.client().await;
    let response = client.get("/metrics").await?;
    if response.status != 200 {
        return skip(format!("requires access to the metrics: {}", response.status));
    }
    let line = format!("{name}{{operation_type=\"checkpoint_container\"}} ");
    let value = response.body.lines().find_map(|text| text.strip_prefix(line.as_str()));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

async fn operations_metric(s: &KubeletSession) -> CaseResult {
    const METRIC_NAME: &str = "kubelet_runtime_operations_total";
    s.require_checkpointable().await?;
    let before = checkpoint_counter(s, METRIC_NAME).await?;
    if s.request("").await?.status != 200 {
        return Err(NonPass::Blocked("kubelet/checkpoint/repeatable"));
    }
    let after = checkpoint_counter(s, METRIC_NAME).await?;
    check(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn other_container(s: &KubeletSession) -> CaseResult {
    // Generous for a busy machine: the held checkpoint never ends by itself.
    const HELD: Duration = Duration::from_secs(10);
    const WAIT_TIMEOUT: Duration = Duration::from_secs(8);
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    let other = s.require_sibling(Capability::SiblingContainer)?;
    control.inject(s.container_under_test(), "before", "hang").await?;
    let held = s.request("");
    let meanwhile = async {
        if !control.wait_until_fired(WAIT_TIMEOUT).await? {
            return fail("the runtime was not called");
        }
        match tokio::time::timeout(HELD, s.kubelet.checkpoint(other, "")).await {
            Ok(response) => {
                let response = response?;
                check(response.status == 200, response.summary())
            }
            Err(_) => fail(format!("no response within {} s", HELD.as_secs())),
        }
    };
    // The held request ends with this case: its connection is dropped.
    tokio::select! {
        response = held => {
            response?;
            Err(NonPass::Blocked(WHEN_DONE_CASE))
        }
        result = meanwhile => result,
    }
}

async fn refused_not_counted(s: &KubeletSession) -> CaseResult {
    const METRIC_NAME: &str = "kubelet_runtime_operations_total";
    s.require_endpoint().await?;
    let before = checkpoint_counter(s, METRIC_NAME).await?;
    let unknown = s.container_under_test().sibling("checkpoint-conformance-none");
    let statuses = [
        s.kubelet.checkpoint(&unknown, "").await?.status,
        s.request("timeout=soon").await?.status,
    ];
    let after = checkpoint_counter(s, METRIC_NAME).await?;
    check(
        after == before,
        format!("grew by {} for {statuses:?}", after.wrapping_sub(before)),
    )
}

async fn errors_metric(s: &KubeletSession) -> CaseResult {
    const METRIC_NAME: &str = "kubelet_runtime_operations_errors_total";
    s.require_checkpointable().await?;
    let control = s.require_fake_cri_control()?;
    control
        .inject(s.container_under_test(), "before", "error(Internal,\"injected\")")
        .await?;
    let before = checkpoint_counter(s, METRIC_NAME).await?;
    if s.request("").await?.status != 500 {
        return Err(NonPass::Blocked("kubelet/runtime-error/status-code"));
    }
    let after = checkpoint_counter(s, METRIC_NAME).await?;
    check(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn no_memory_disclosure(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let canaries = s.kubelet.canaries();
    if canaries.is_empty() {
        return skip("requires a container whose log has a canary");
    }
    let client = s.kubelet.client().await;
    let metrics = client.get("/metrics").await?;
    let mut texts = vec![("the response to a checkpoint", s.request("").await?.body)];
    // A user without access to the metrics learns nothing from them, so they are left out.
    if metrics.status == 200 {
        texts.push(("the metrics", metrics.body));
    }
    if let Some(control) = &s.kubelet.fake_cri {
        control
            .inject(s.container_under_test(), "finish", "error(Internal,\"injected\")")
            .await?;
        texts.push(("the response to a failed checkpoint", s.request("").await?.body));
    }
    if let Some(log) = &s.kubelet.kubelet_log {
        let text = fs::read(log).map_err(|error| NonPass::Error(format!("{}: {error}", log.display())))?;
        texts.push(("the kubelet's log", String::from_utf8_lossy(&text).into_owned()));
    }
    for (label, text) in &texts {
        if canaries.iter().any(|canary| text.contains(canary)) {
            return fail(format!("canary in {label}"));
        }
    }
    let labels: Vec<_> = texts.iter().map(|(label, _)| *label).collect();
    pass(format!("no canary in {}", labels.join(", ")))
}
