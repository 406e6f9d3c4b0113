//! Concurrent checkpoints.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    liveness::ContainerBefore,
    session::{CONTAINER_ID_CASE, KEEPS_RUNNING_CASE, RuntimeSession, TAR_CASE},
};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, fail, pass, pass_if, skip},
    suites::{
        authority,
        inspection::{inspect, is_complete_tar},
    },
    targets::runtime::ContainerHandle,
};

const MANY_CASE: &str = "runtime/concurrency/several-containers";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/concurrency/same-container", Level::Robust)
        .requirement(
            "Each of two concurrent checkpoints of one container must either fail or write a complete \
            archive, and at least one must succeed.",
        )
        .authority(authority::CWE_RACE)
        .motivation("several users, or a controller, make checkpoints concurrently")
        .expected("a complete archive for each success, and the container keeps running")
        .depends_on(&[TAR_CASE, KEEPS_RUNNING_CASE])
        .timeout(Duration::from_secs(60))
        .run(|s| Box::pin(one_container(s))),
    case("runtime/concurrency/several-containers", Level::Robust)
        .requirement(
            "Concurrent checkpoints of several containers must succeed, each with the archive of its own \
            container.",
        )
        .authority(authority::CWE_RACE)
        .motivation("several users, or a controller, make checkpoints concurrently")
        .expected("3 concurrent checkpoints, each archive with its own container's id")
        .depends_on(&[KEEPS_RUNNING_CASE, CONTAINER_ID_CASE])
        .timeout(Duration::from_secs(60))
        .run(|s| Box::pin(several_containers(s))),
    case("runtime/concurrency/containers-independent", Level::Robust)
        .requirement("A checkpoint of a small container must not wait for the checkpoint of a large container.")
        .authority(authority::CWE_RACE)
        .motivation("several users, or a controller, make checkpoints concurrently")
        .expected("the small container's response before the large container's response")
        .requires(&[Capability::SlowCheckpoint])
        .depends_on(&[KEEPS_RUNNING_CASE, CONTAINER_ID_CASE])
        .may_depend_on(&["runtime/concurrency/several-containers"])
        .timeout(Duration::from_secs(60))
        .run(|s| Box::pin(small_before_large(s))),
];

/// How long the slower checkpoint takes on fake-cri.
const FAKE_CRI_DURATION: Duration = Duration::from_millis(400);
/// Enough memory to make a checkpoint slower than that of a small container on any runtime.
const LARGE_CONTAINER_BYTES: u64 = 192 << 20;

/// Waits until a checkpoint has frozen the container, or for a short delay if the container's processes are not
/// visible.
async fn wait_until_frozen(s: &RuntimeSession, container: &ContainerHandle) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    const START_DELAY: Duration = Duration::from_millis(50);
    const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
    if s.runtime.first_process_of(container).await.is_none() {
        return tokio::time::sleep(START_DELAY).await;
    }
    let frozen = async {
        while s.runtime.freeze_cause(container).await.is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    // If the checkpoint was faster than the polling, the end times decide.
    let _ = tokio::time::timeout(FREEZE_TIMEOUT, frozen).await;
}

async fn one_container(s: &RuntimeSession) -> CaseResult {
    s.require_container_unharmed().await?;
    s.require_tar().await?;
    let container = s
        .new_container(s.small_container_options().fake_cri_freeze_delay(FAKE_CRI_DURATION))
        .await?;
    let before = ContainerBefore::observe(&s.runtime, &container).await?;
    let other = async {
        // On other runtimes both calls start at the same time.
        if s.runtime.is_fake_cri() {
            wait_until_frozen(s, &container).await;
        }
        s.checkpoint(&container, "two").await
    };
    let (one, two) = tokio::join!(s.checkpoint(&container, "one"), other);
    let (one, two) = (one?, two?);
    let succeeded: Vec<_> = [&one, &two]
        .into_iter()
        .filter(|attempt| attempt.response.is_ok())
        .collect();
    for attempt in &succeeded {
        match &attempt.file {
            Ok(file) if is_complete_tar(&inspect(&file.path).await?) => {}
            Ok(file) => return fail(format!("success, and a partial archive of {} bytes", file.length)),
            Err(reason) => return fail(format!("success, and no archive: {reason}")),
        }
    }
    if succeeded.is_empty() {
        return fail(format!("two errors: {}; {}", one.response, two.response));
    }
    let after = before.observe_liveness(&s.runtime, &container).await?;
    if !after.same_process {
        return fail("the first process has ended");
    }
    if !after.running {
        return fail(after.describe_frozen());
    }
    pass("a complete archive for each success, and the container keeps running")
}

async fn several_containers(s: &RuntimeSession) -> CaseResult {
    const CONTAINER_COUNT: usize = 3;
    s.require_own_archive().await?;
    let mut containers = Vec::new();
    for _ in 0..CONTAINER_COUNT {
        // Long enough for all checkpoints to run at the same time.
        containers.push(
            s.new_container(s.small_container_options().fake_cri_freeze_delay(FAKE_CRI_DURATION))
                .await?,
        );
    }
    let attempts = containers.iter().map(|container| s.checkpoint(container, "many"));
    for (container, attempt) in containers.iter().zip(join_all(attempts).await) {
        let attempt = attempt?;
        if !attempt.response.is_ok() {
            let response = attempt.response.to_string().replace(container.id(), "ID");
            return fail(format!("one of {CONTAINER_COUNT} concurrent checkpoints: {response}"));
        }
        if let Err(reason) = &attempt.file {
            return fail(format!(
                "one of {CONTAINER_COUNT} concurrent checkpoints: success, and no archive: {reason}"
            ));
        }
        let archive = inspect(&attempt.location).await?;
        let id = archive.documents.config.parsed().map(|config| config.id.clone());
        match id {
            Some(id) if id == container.id() => {}
            Some(_) => return fail("an archive with the id of another container"),
            None => return Err(NonPass::Blocked(super::session::MEMBERS_CASE)),
        }
    }
    pass(format!(
        "{CONTAINER_COUNT} concurrent checkpoints, each archive with its own container's id"
    ))
}

async fn small_before_large(s: &RuntimeSession) -> CaseResult {
    s.require_own_archive().await?;
    let large = if s.runtime.is_fake_cri() {
        s.small_container_options().fake_cri_freeze_delay(FAKE_CRI_DURATION * 2)
    } else {
        s.small_container_options().memory(LARGE_CONTAINER_BYTES).separate_pod()
    };
    let large = s.new_container(large).await?;
    let small = s.disposable_container().await?;
    let first = async {
        let attempt = s.checkpoint(&large, "large").await;
        (attempt, tokio::time::Instant::now())
    };
    let second = async {
        wait_until_frozen(s, &large).await;
        let started = tokio::time::Instant::now();
        let attempt = s.checkpoint(&small, "small").await;
        (attempt, started, tokio::time::Instant::now())
    };
    let ((one, one_ended), (two, two_began, two_ended)) = tokio::join!(first, second);
    let (one, two) = (one?, two?);
    if !one.response.is_ok() || !two.response.is_ok() {
        return Err(NonPass::Blocked(MANY_CASE));
    }
    if one_ended < two_began {
        return skip("requires a checkpoint of the large container that is still running when the small one's begins");
    }
    pass_if(
        two_ended < one_ended,
        "the small container's response before the large container's response",
        "the small container's response after the large container's response",
    )
}
