//! Whether all processes and threads of the container are in the archive.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::session::{RuntimeSession, TAR_CASE, WORKLOAD_THREADS};
use crate::engine::{Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass};
use crate::suites::{
    authority,
    inspection::{inspect, is_complete_tar},
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/processes/threads", Level::Reference)
        .requirement("The archive must contain every thread of a process with its registers.")
        .authority(authority::CRIU_TREE)
        .expected("4 threads in pstree.img, 4 with registers")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .may_depend_on(&["runtime/archive/passes-archive-suite"])
        .shared()
        .run(|s| Box::pin(all_threads(s))),
    case("runtime/processes/all", Level::Reference)
        .requirement("The archive must contain every process of the container with its memory.")
        .authority(authority::CRIU_TREE)
        .expected("3 processes in pstree.img, 3 with memory")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .may_depend_on(&["runtime/archive/passes-archive-suite"])
        .shared()
        .run(|s| Box::pin(all_processes(s))),
];

const WORKLOAD_CHILDREN: usize = 2;

async fn all_threads(s: &RuntimeSession) -> CaseResult {
    s.require_test_workload()?;
    let images = &s.require_criu().await?.images;
    let Some(first) = images.pstree.first() else {
        return Err(NonPass::Blocked("runtime/archive/passes-archive-suite"));
    };
    let cores = first
        .threads
        .iter()
        .filter(|tid| images.cores.contains_key(tid))
        .count();
    // One additional thread holds a canary.
    let expected = WORKLOAD_THREADS + 1;
    let actual = format!(
        "{} threads in pstree.img, {cores} with registers (expected {expected})",
        first.threads.len()
    );
    check(first.threads.len() == expected && cores == expected, actual)
}

async fn all_processes(s: &RuntimeSession) -> CaseResult {
    s.require_test_workload()?;
    s.require_criu().await?;
    let container = s
        .new_container(
            s.small_container_options()
                .workload_arg("children", WORKLOAD_CHILDREN)
                .separate_pod(),
        )
        .await?;
    wait_for_children(container.log_path()).await?;
    let attempt = s.checkpoint(&container, "family").await?;
    if !attempt.response.is_ok() {
        return fail(format!(
            "checkpoint of a container with {WORKLOAD_CHILDREN} children: {}",
            attempt.response
        ));
    }
    if let Err(reason) = &attempt.file {
        return fail(format!(
            "checkpoint of a container with {WORKLOAD_CHILDREN} children: success, and no archive: {reason}"
        ));
    }
    let archive = inspect(&attempt.location).await?;
    if !is_complete_tar(&archive) {
        return Err(NonPass::Blocked(super::session::TAR_CASE));
    }
    let images = &archive.images;
    if images.pstree.is_empty() {
        return Err(NonPass::Blocked("runtime/archive/passes-archive-suite"));
    }
    let whole = images.pstree.iter().filter(|process| {
        let pid = &process.pid;
        images.cores.contains_key(pid) && images.mms.contains_key(pid) && images.pagemaps.contains_key(pid)
    });
    let (listed, whole, expected) = (images.pstree.len(), whole.count(), WORKLOAD_CHILDREN + 1);
    if listed == expected && whole == expected {
        pass(format!("{expected} processes in pstree.img, {expected} with memory"))
    } else {
        fail(format!(
            "{listed} processes in pstree.img, {whole} with memory (expected {expected})"
        ))
    }
}

/// Waits until each child has logged a heartbeat.
async fn wait_for_children(log: &std::path::Path) -> Result<(), NonPass> {
    const CHILDREN_TIMEOUT: Duration = Duration::from_secs(10);
    const POLL_INTERVAL: Duration = Duration::from_millis(10);
    let started = Instant::now();
    loop {
        let text = tokio::fs::read(log).await.map_err(|error| NonPass::error(&error))?;
        let text = String::from_utf8_lossy(&text);
        let children: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.split_once("child heartbeat ")?.1.split_whitespace().nth(1))
            .collect();
        if children.len() == WORKLOAD_CHILDREN {
            return Ok(());
        }
        if started.elapsed() > CHILDREN_TIMEOUT {
            let up = children.len();
            return Err(NonPass::Error(format!(
                "{up} of {WORKLOAD_CHILDREN} children started within {CHILDREN_TIMEOUT:?}"
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
