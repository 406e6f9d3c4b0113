//! Whether all memory of the container is in the archive: the cases search the pages for bytes that exist in only one
//! memory area.

use fake_cri::workload::CanaryLocation;

use super::session::{RuntimeSession, TAR_CASE};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, fail, pass},
    suites::{authority, inspection::find_in_archive},
    targets::Workload,
};

pub(super) const HEAP_CASE: &str = "runtime/memory/heap";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/memory/heap", Level::Reference)
        .requirement("Data that a process generated on its heap must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("in the pages")
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(heap(s))),
    case("runtime/memory/environment", Level::Reference)
        .requirement("The environment of the process must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("in the pages")
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(environment(s))),
    case("runtime/memory/stack", Level::Reference)
        .requirement("The stack of the first thread must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("in the pages")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(memory_area(s, CanaryLocation::Stack))),
    case("runtime/memory/thread-stack", Level::Reference)
        .requirement("The stack of a second thread must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("in the pages")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(memory_area(s, CanaryLocation::Thread))),
    case("runtime/memory/shared-anonymous", Level::Reference)
        .requirement("Shared anonymous memory must be present in the archive's memory pages.")
        .authority(authority::API_INTRODUCTION)
        .expected("in the pages")
        .requires(&[Capability::TestWorkload])
        .depends_on(&[TAR_CASE])
        .shared()
        .run(|s| Box::pin(memory_area(s, CanaryLocation::Shared))),
];

async fn heap(s: &RuntimeSession) -> CaseResult {
    s.require_criu().await?;
    let canary = canary(&s.first_checkpoint_ok().await?.attempt.before.workload)?;
    check_in_pages(s, canary.into_bytes()).await
}

async fn environment(s: &RuntimeSession) -> CaseResult {
    s.require_criu().await?;
    check_in_pages(s, s.secret().as_bytes().to_owned()).await
}

async fn memory_area(s: &RuntimeSession, area: CanaryLocation) -> CaseResult {
    s.require_test_workload()?;
    s.require_criu().await?;
    let bytes = area_bytes(&s.first_checkpoint_ok().await?.attempt.before.workload, area)?;
    check_in_pages(s, bytes).await
}

async fn check_in_pages(s: &RuntimeSession, bytes: Vec<u8>) -> CaseResult {
    let (_, file) = s.require_archive_file().await?;
    match find_in_archive(&file.path, bytes).await? {
        Some(_) => pass("in the pages"),
        None => fail("in no page"),
    }
}

/// The bytes on the heap before the last heartbeat's number.
pub(super) fn heartbeat_marker(workload: &Workload) -> Result<Vec<u8>, NonPass> {
    area_bytes(workload, CanaryLocation::HeapHeartbeat)
}

fn area_bytes(workload: &Workload, area: CanaryLocation) -> Result<Vec<u8>, NonPass> {
    let canary = canary(workload)?;
    let bytes = area.bytes(&canary);
    bytes.ok_or_else(|| NonPass::Error("the canary in the log is too short".to_owned()))
}

fn canary(workload: &Workload) -> Result<String, NonPass> {
    let canary = workload.canary.clone();
    canary.ok_or_else(|| NonPass::Skip("requires a container whose log has a canary".to_owned()))
}
