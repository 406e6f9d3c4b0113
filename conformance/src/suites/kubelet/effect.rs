//! The effect of a checkpoint: the archive holds the state of a container that keeps running.

use super::session::{ContainerAfter, KubeletSession, OK_CASE, TAR_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, Stage, case, fail, pass, skip},
    suites::authority,
    targets::Workload,
};

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/container/keeps-running", Level::Documented)
        .requirement(
            "The container must keep running as the same process, from the point at which it was frozen, \
            after a checkpoint.",
        )
        .authority(authority::KEP_USER_STORIES)
        .motivation("containerd 2.4: a container stayed frozen after a checkpoint that exceeded its deadline")
        .expected("same pid and start time, and a later heartbeat")
        .depends_on(&[OK_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(keeps_running(s))),
    case("kubelet/archive/contains-memory", Level::Reference)
        .requirement("Data that the process generated after its start must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("the canary in checkpoint/pages-*.img")
        .requires(&[Capability::ReadArchives])
        .depends_on(&[TAR_CASE])
        .stage(Stage::Early)
        .shared()
        .run(|s| Box::pin(archive_contains_memory(s))),
];

/// The workload before the first checkpoint, or the reason for a skip.
async fn workload_before(s: &KubeletSession) -> Result<&Workload, NonPass> {
    let workload = &s.first_checkpoint_ok().await?.workload;
    if workload.is_test_workload() {
        return Ok(workload);
    }
    skip(format!(
        "requires a test workload: the log of {} has neither canary nor heartbeats",
        s.container_under_test()
    ))
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
            "different process: pid {:?} before, {:?} after",
            before.pid, later.pid
        )),
        ContainerAfter::Frozen(heartbeat) => fail(format!("no heartbeat after heartbeat {heartbeat}")),
        ContainerAfter::NotObservable => Err(NonPass::Error(
            "the state of the container after the checkpoint is \
            unknown"
                .to_owned(),
        )),
    }
}

async fn archive_contains_memory(s: &KubeletSession) -> CaseResult {
    if workload_before(s).await?.canary.is_none() {
        return skip("requires a test workload whose log has a canary");
    }
    let archive = s.require_tar().await?;
    if !archive.is_criu() {
        return skip("requires an archive in CRIU's format");
    }
    match archive.memory.iter().flatten().next() {
        Some(page_match) => pass(format!("canary in {} at byte {}", page_match.member, page_match.offset)),
        None => fail("canary in no page"),
    }
}
