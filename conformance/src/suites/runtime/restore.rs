//! Restore from an archive, if the runtime offers it over the CRI: CreateContainer with the path of the archive as the
//! image, as in CRI-O and fake-cri. The CRI itself does not define a restore.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use cri_proto::{document::BindMount, runtime::v1::ContainerState};

use super::session::{CONTAINER_ID_CASE, KEEPS_RUNNING_CASE, RuntimeAttempt, RuntimeSession};
use crate::{
    engine::{Authority, Capability, Case, CaseResult, Level, NonPass, case, check, fail, pass},
    evidence::Memo,
    suites::{
        authority,
        inspection::{inspect, is_complete_tar},
    },
    targets::{TargetError, Workload, policy},
};

const RESUMES_CASE: &str = "runtime/restore/resumes-at-checkpoint";
const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    case("runtime/restore/resumes-at-checkpoint", Level::Robust)
        .requirement("A container created from an archive must resume exactly at the point of the checkpoint.")
        .authority(authority::CRIO_RESTORE)
        .expected("the heartbeat after the checkpoint, and no missing heartbeat")
        .requires(&[Capability::Root])
        .depends_on(&[
            KEEPS_RUNNING_CASE,
            CONTAINER_ID_CASE,
            "runtime/memory/heap",
            "runtime/memory/environment",
            "runtime/memory/stack",
            "runtime/memory/thread-stack",
            "runtime/memory/shared-anonymous",
        ])
        .shared()
        .run(|s| Box::pin(resumes_at_checkpoint(s))),
    case("runtime/restore/can-checkpoint-again", Level::Robust)
        .requirement("A container created from an archive must be checkpointable like any other container.")
        .authority(Authority::PROJECT)
        .motivation("cri-o#6374: a checkpoint of a restored container failed")
        .expected("success, and an archive with the restored container's id")
        .requires(&[Capability::Root])
        .depends_on(&["runtime/restore/resumes-at-checkpoint"])
        .shared()
        .run(|s| Box::pin(checkpoint_restored(s))),
    case("runtime/restore/truncated-archive-rejected", Level::Robust)
        .requirement("The runtime must reject a truncated archive without a running container.")
        .authority(authority::CWE_INPUT_VALIDATION)
        .expected("an error of CreateContainer or StartContainer")
        .requires(&[Capability::Root])
        .depends_on(&["runtime/restore/resumes-at-checkpoint"])
        .shared()
        .run(|s| Box::pin(broken_archive(s))),
];

#[derive(Clone, Debug)]
struct RestoreResult {
    archive: PathBuf,
    mounts: Vec<BindMount>,
    /// The last heartbeat logged before the checkpoint call.
    heartbeat_before: u64,
    /// The last heartbeat logged when the checkpoint call returned.
    heartbeat_after: u64,
    heartbeats: BTreeSet<u64>,
    /// The checkpoint of the restored container, or the reason why there was none.
    checkpoint: Result<RestoredCheckpoint, NonPass>,
}

#[derive(Clone, Debug)]
struct RestoredCheckpoint {
    id: String,
    attempt: RuntimeAttempt,
}

/// The result of the restore, which is made only once.
async fn restore_result(s: &RuntimeSession) -> Result<RestoreResult, NonPass> {
    let restored = s.topics.get::<Memo<Result<RestoreResult, NonPass>>>();
    restored.get_or_init(|| restore(s)).await.clone()
}

async fn restore(s: &RuntimeSession) -> Result<RestoreResult, NonPass> {
    s.require_own_archive().await?;
    // State that is not in the archive cannot be restored.
    for case in super::memory::CASES {
        if let Err(NonPass::Fail(_)) = case.run(s).await {
            return Err(NonPass::Blocked(case.info.id));
        }
    }
    let container = s.disposable_container().await?;
    let attempt = s.checkpoint(&container, "restored").await?;
    let after = s.runtime.workload(&container).await?.heartbeat;
    if !attempt.response.is_ok() {
        return Err(NonPass::Error(format!("the checkpoint failed: {}", attempt.response)));
    }
    let mounts = inspect(&attempt.location).await?.documents.bind_mounts;
    let mounts = mounts.parsed().cloned().unwrap_or_default();
    let restored_container = match s.runtime.create_from_archive(&attempt.location, &mounts).await {
        Ok(restored_container) => restored_container,
        Err(TargetError::Runtime { code, message, .. }) => {
            let refusal = format!("CreateContainer with an archive as its image: {code:?}: {message}");
            return Err(if policy::is_checkpoint_disabled(&message) {
                NonPass::Policy(refusal)
            } else if policy::treats_archive_as_image(code, &message) {
                NonPass::Skip(format!(
                    "requires a runtime that creates containers from the path of an archive ({code:?})"
                ))
            } else {
                NonPass::Fail(refusal)
            });
        }
        Err(error) => return Err(error.into()),
    };
    let heartbeats = match s.runtime.start_container(&restored_container).await {
        Ok(()) => {
            let enough = |workload: &Workload| workload.heartbeat > after + 2;
            s.runtime
                .workload_until(&restored_container, RESTORE_TIMEOUT, enough)
                .await?;
            let log = tokio::fs::read(restored_container.log_path()).await;
            super::archive::heartbeats(&log.map_err(|error| NonPass::error(&error))?)
        }
        Err(error @ TargetError::Runtime { .. }) => return Err(NonPass::Fail(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    // The checkpoint must be made here, because the container is removed at the end of this function.
    let next = s
        .checkpoint(&restored_container, "restored-again")
        .await
        .map(|attempt| RestoredCheckpoint {
            id: restored_container.id().to_owned(),
            attempt,
        });
    Ok(RestoreResult {
        archive: attempt.location,
        mounts,
        heartbeat_before: attempt.before.workload.heartbeat,
        heartbeat_after: after,
        heartbeats,
        checkpoint: next,
    })
}

/// The result of the restore, which must have resumed at the checkpoint.
async fn require_resumed(s: &RuntimeSession) -> Result<RestoreResult, NonPass> {
    match restore_result(s).await {
        Ok(restored) if check_resume_heartbeat(&restored).is_ok() => Ok(restored),
        Ok(_) | Err(NonPass::Fail(_)) => Err(NonPass::Blocked(RESUMES_CASE)),
        Err(non_pass) => Err(non_pass),
    }
}

async fn checkpoint_restored(s: &RuntimeSession) -> CaseResult {
    let RestoredCheckpoint { id, attempt } = require_resumed(s).await?.checkpoint?;
    if !attempt.response.is_ok() {
        return fail(attempt.response.to_string().replace(id.as_str(), "ID"));
    }
    if let Err(reason) = &attempt.file {
        return fail(format!("success, and no archive: {reason}"));
    }
    let archive = inspect(&attempt.location).await?;
    if !is_complete_tar(&archive) {
        return fail(format!("success, and no complete tar: {:?}", archive.end));
    }
    match archive.documents.config.parsed() {
        Some(config) if config.id == id => pass("success, and an archive with the restored container's id"),
        Some(_) => fail("success, and an archive with another container's id"),
        None => fail("success, and an archive without config.dump"),
    }
}

async fn resumes_at_checkpoint(s: &RuntimeSession) -> CaseResult {
    check_resume_heartbeat(&restore_result(s).await?)
}

/// Whether the first heartbeat follows the checkpoint, as precisely as the log shows, and no heartbeat is missing.
fn check_resume_heartbeat(restored: &RestoreResult) -> CaseResult {
    let heartbeats = &restored.heartbeats;
    let (Some(&first), Some(&last)) = (heartbeats.first(), heartbeats.last()) else {
        return fail("no heartbeat of the restored container");
    };
    if first <= restored.heartbeat_before {
        return fail(format!(
            "first heartbeat {first}, but heartbeat {} was logged before the checkpoint",
            restored.heartbeat_before
        ));
    }
    if first > restored.heartbeat_after + 1 {
        return fail(format!(
            "first heartbeat {first}, but heartbeat {} was the last one when the checkpoint ended",
            restored.heartbeat_after
        ));
    }
    match (first..=last).find(|heartbeat| !heartbeats.contains(heartbeat)) {
        Some(lost) => fail(format!("heartbeat {lost} is missing")),
        None if last == first => fail("only one heartbeat"),
        None => pass("the heartbeat after the checkpoint, and no missing heartbeat"),
    }
}

async fn broken_archive(s: &RuntimeSession) -> CaseResult {
    let archived = require_resumed(s).await?;
    let half = s.runtime.location("restored-half");
    let bytes = tokio::fs::read(&archived.archive).await;
    let bytes = bytes.map_err(|error| NonPass::error(&error))?;
    let written = tokio::fs::write(&half, &bytes[..bytes.len() / 2]).await;
    written.map_err(|error| NonPass::error(&error))?;
    let container = match s.runtime.create_from_archive(&half, &archived.mounts).await {
        Ok(container) => container,
        Err(TargetError::Runtime { call, code, .. }) => return pass(format!("{call}: {code:?}")),
        Err(error) => return Err(error.into()),
    };
    match s.runtime.start_container(&container).await {
        Err(TargetError::Runtime { call, code, .. }) => {
            let state = s.runtime.status(&container).await?.state();
            check(
                state != ContainerState::ContainerRunning,
                format!("{call}: {code:?}, then {}", state.as_str_name()),
            )
        }
        Err(error) => Err(error.into()),
        Ok(()) => fail("success of CreateContainer and StartContainer"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[8, 9, 10], "")]
    #[case(&[10, 11], "")]
    #[case(&[], "no heartbeat")]
    #[case(&[1, 2, 3], "first heartbeat 1,")]
    #[case(&[7, 8], "first heartbeat 7")]
    #[case(&[11, 12], "first heartbeat 11")]
    #[case(&[8, 10], "heartbeat 9 is missing")]
    #[case(&[8], "only one heartbeat")]
    fn the_first_heartbeat_follows_the_checkpoint(#[case] heartbeats: &[u64], #[case] reason: &str) {
        let restored = RestoreResult {
            archive: PathBuf::new(),
            mounts: Vec::new(),
            heartbeat_before: 7,
            heartbeat_after: 9,
            heartbeats: heartbeats.iter().copied().collect(),
            checkpoint: Err(NonPass::Skip("no second checkpoint".to_owned())),
        };
        match check_resume_heartbeat(&restored) {
            Ok(_) => assert_eq!(reason, ""),
            Err(non_pass) => assert!(
                !reason.is_empty() && non_pass.to_string().contains(reason),
                "{non_pass}"
            ),
        }
    }
}
