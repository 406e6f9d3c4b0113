//! The effect: a stateful copy of a running container, which runs on.

use super::session::{ContainerAfter, KEEPS_RUNNING_CASE, KubeletSession};
use crate::{
    engine::{Case, CaseInfo, CaseResult, Level, NonPass, fail, pass},
    suites::authority,
    targets::Workload,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    Case::new(
        CaseInfo {
            id: KEEPS_RUNNING_CASE,
            requirement: "a checkpoint is a copy: the container runs on, as the same process, at the point where it was",
            authority: authority::KEP_USER_STORIES,
            motivation: "containerd 2.4: a container was left frozen after a checkpoint that missed its deadline",
            level: Level::Documented,
            expected: "the same pid and start time, and its counter moves",
        },
        |s| Box::pin(keeps_running(s)),
    ),
    Case::new(
        CaseInfo {
            id: "kubelet/archive/contains-memory",
            requirement: "what the process made up in its memory after its start is in the archive's pages",
            authority: authority::API_INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "the canary in checkpoint/pages-*.img",
        },
        |s| Box::pin(archive_contains_memory(s)),
    ),
];

/// The workload before the first checkpoint, or the reason for a skip.
async fn workload_before(s: &KubeletSession) -> Result<&Workload, NonPass> {
    let workload = &s.first_checkpoint_ok().await?.workload;
    if workload.is_test_workload() {
        return Ok(workload);
    }
    Err(NonPass::Skip(format!(
        "{} is no test workload: its log tells neither canary nor heartbeats",
        s.container_under_test()
    )))
}

async fn keeps_running(s: &KubeletSession) -> CaseResult {
    let before = workload_before(s).await?;
    match s.container_after().await? {
        ContainerAfter::Running(later) if later.same_process(before) => pass(format!(
            "pid {}, heartbeat {} before, {} after",
            before.pid.unwrap_or_default(),
            before.heartbeat,
            later.heartbeat
        )),
        ContainerAfter::Running(later) => fail(format!(
            "another process: pid {:?} before, {:?} after",
            before.pid, later.pid
        )),
        ContainerAfter::Frozen(heartbeat) => fail(format!("it stands still at heartbeat {heartbeat}")),
        ContainerAfter::NotObservable => Err(NonPass::Error("the container was not looked at".to_owned())),
    }
}

async fn archive_contains_memory(s: &KubeletSession) -> CaseResult {
    if workload_before(s).await?.canary.is_none() {
        return Err(NonPass::Skip("the log tells no canary".to_owned()));
    }
    let archive = s.require_tar().await?;
    if !archive.is_criu() {
        return Err(NonPass::Skip("the archive is not in CRIU's format".to_owned()));
    }
    match archive.memory.iter().flatten().next() {
        Some(page_match) => pass(format!("in {} at byte {}", page_match.member, page_match.offset)),
        None => fail("in no page"),
    }
}
