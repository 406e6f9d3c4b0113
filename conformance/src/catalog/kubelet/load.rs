//! How often the runtime is asked, what is counted, and what is told to others.

use std::{collections::BTreeMap, fs};

use futures_util::future::join_all;
use reqwest::Method;

use super::{
    rule,
    session::{LATE, Session},
};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    exhibit::continued,
    target::Credentials,
};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: "kubelet/cri/one-call",
            clause: "for one request the runtime is asked for one checkpoint",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "one call",
        },
        |s| Box::pin(one_call(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/concurrent/many",
            clause: "32 requests at once are all served, each by a call of its own",
            authority: authority::SERVER,
            motivation: "",
            level: Level::Reference,
            expected: "32 times 200, 32 calls",
        },
        |s| Box::pin(many(s)),
    )
    .load(),
    Case::new(
        Clause {
            id: "kubelet/metrics/operations",
            clause: "a checkpoint is counted in kubelet_runtime_operations_total",
            authority: authority::METRICS,
            motivation: "",
            level: Level::Reference,
            expected: "operation_type=\"checkpoint_container\" grows by one",
        },
        |s| Box::pin(operations(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/metrics/errors",
            clause: "a checkpoint that failed is counted in kubelet_runtime_operations_errors_total",
            authority: authority::METRICS,
            motivation: "",
            level: Level::Reference,
            expected: "operation_type=\"checkpoint_container\" grows by one",
        },
        |s| Box::pin(errors(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/robust/no-memory-told",
            clause: "nothing of the container's memory is in answers, in metrics or in the kubelet's log",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Robust,
            expected: "not the canary of any container",
        },
        |s| Box::pin(no_memory_told(s)),
    ),
];

async fn one_call(s: &Session) -> Judgement {
    s.again().await?;
    let faults = s.faults()?;
    let mark = faults.mark().await?;
    let answer = s.kubelet.checkpoint(s.subject(), "").await?;
    if answer.status != 200 {
        return Err(Stop::Blocked("kubelet/robust/second-checkpoint"));
    }
    faults.next_checkpoint(mark, LATE).await?;
    let calls = faults.checkpoints_after(mark).await?.len();
    judge(calls == 1, format!("{calls} calls"))
}

async fn many(s: &Session) -> Judgement {
    const MANY: usize = 32;
    if !s.kubelet.load {
        let why = "makes 32 checkpoints at once, which a kubelet in use is asked for only with --include-load";
        return Err(Stop::Excluded(why.to_owned()));
    }
    s.again().await?;
    // While the first is held all the others come in.
    if let Some(faults) = &s.kubelet.faults {
        faults.add(&[&rule(s.subject(), "before", "delay(200ms)")]).await?;
    }
    let mark = s.mark().await?;
    let requests = (0..MANY).map(|_| continued(s.kubelet.checkpoint(s.subject(), "")));
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut refusals = Vec::new();
    for answer in join_all(requests).await {
        let answer = answer?;
        *statuses.entry(answer.status).or_default() += 1;
        if answer.status == 500 && answer.body.contains("rpc error: code = ") {
            refusals.push(answer.body);
        }
    }
    let calls = s.calls_after(mark).await?;
    let served = statuses.get(&200).copied().unwrap_or_default();
    if let (None, Some(refusal), true) = (&calls, refusals.first(), served + refusals.len() == MANY) {
        // What a runtime says is not the kubelet's to answer for, and whose calls they were cannot be seen here.
        return Err(Stop::Skip(format!(
            "needs a runtime that takes many checkpoints of a container at once: {refusal:?}"
        )));
    }
    let counted = calls.as_ref().is_none_or(|calls| calls.len() == MANY);
    let mut seen: Vec<_> = statuses
        .iter()
        .map(|(status, count)| format!("{count} times {status}"))
        .collect();
    seen.extend(calls.map(|calls| format!("{} calls", calls.len())));
    judge(served == MANY && counted, seen.join(", "))
}

/// The value of a counter about checkpoints; zero when it is not there yet.
async fn counter(s: &Session, name: &str) -> Result<u64, Stop> {
    let client = s.kubelet.client().await;
    let answer = client
        .send(Credentials::Good, Method::GET, client.url("/metrics"))
        .await?;
    if answer.status != 200 {
        return Err(Stop::Skip(format!("the metrics cannot be read: {}", answer.status)));
    }
    let line = format!("{name}{{operation_type=\"checkpoint_container\"}} ");
    let value = answer.body.lines().find_map(|seen| seen.strip_prefix(line.as_str()));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

async fn operations(s: &Session) -> Judgement {
    const NAME: &str = "kubelet_runtime_operations_total";
    s.again().await?;
    let before = counter(s, NAME).await?;
    if s.kubelet.checkpoint(s.subject(), "").await?.status != 200 {
        return Err(Stop::Blocked("kubelet/robust/second-checkpoint"));
    }
    let after = counter(s, NAME).await?;
    judge(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn errors(s: &Session) -> Judgement {
    const NAME: &str = "kubelet_runtime_operations_errors_total";
    s.again().await?;
    let faults = s.faults()?;
    faults
        .add(&[&rule(s.subject(), "before", "error(Internal,\"asked for\")")])
        .await?;
    let before = counter(s, NAME).await?;
    if s.kubelet.checkpoint(s.subject(), "").await?.status != 500 {
        return Err(Stop::Blocked("kubelet/500/runtime-error"));
    }
    let after = counter(s, NAME).await?;
    judge(after == before + 1, format!("grew by {}", after.wrapping_sub(before)))
}

async fn no_memory_told(s: &Session) -> Judgement {
    s.again().await?;
    let canaries = s.kubelet.canaries();
    if canaries.is_empty() {
        return Err(Stop::Skip("no container told a canary".to_owned()));
    }
    let client = s.kubelet.client().await;
    let metrics = client
        .send(Credentials::Good, Method::GET, client.url("/metrics"))
        .await?;
    let mut told = vec![(
        "the answer to a checkpoint",
        s.kubelet.checkpoint(s.subject(), "").await?.body,
    )];
    // Who may not read them is told nothing by them, and so nothing is judged of them.
    if metrics.status == 200 {
        told.push(("the metrics", metrics.body));
    }
    if let Some(faults) = &s.kubelet.faults {
        faults
            .add(&[&rule(s.subject(), "finish", "error(Internal,\"asked for\")")])
            .await?;
        told.push((
            "the answer to one that failed",
            s.kubelet.checkpoint(s.subject(), "").await?.body,
        ));
    }
    if let Some(log) = &s.kubelet.log {
        let text = fs::read(log).map_err(|error| Stop::Error(format!("{}: {error}", log.display())))?;
        told.push(("the kubelet's log", String::from_utf8_lossy(&text).into_owned()));
    }
    for (what, text) in &told {
        if canaries.iter().any(|canary| text.contains(canary)) {
            return fail(format!("a canary stands in {what}"));
        }
    }
    let where_: Vec<_> = told.iter().map(|(what, _)| *what).collect();
    pass(format!("no canary in {}", where_.join(", ")))
}
