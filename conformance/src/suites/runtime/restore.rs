//! A container that goes on from an archive, where the runtime offers that over the CRI: CreateContainer with the archive's
//! path as the image, as CRI-O and fake-cri have it. The CRI itself says nothing of a restore.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use cri_proto::{document::BindMount, runtime::v1::ContainerState};

use super::session::{RuntimeAttempt, RuntimeSession, inspect, is_complete_tar};
use crate::{
    engine::{Authority, Case, CaseInfo, CaseResult, Level, NonPass, check, fail, pass},
    suites::authority,
    targets::{TargetError, Workload, policy},
};

/// The case that judges whether a container goes on from an archive.
const RESUMES_CASE: &str = "runtime/restore/resumes-at-checkpoint";
/// Many heartbeats long.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        CaseInfo {
            id: RESUMES_CASE,
            requirement: "a container made from an archive goes on at exactly the point of the checkpoint",
            authority: authority::CRIO_RESTORE,
            motivation: "",
            level: Level::Robust,
            expected: "the heartbeat after the checkpoint, and none lost or told twice",
        },
        |s| Box::pin(resumes_at_checkpoint(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/restore/can-checkpoint-again",
            requirement: "a container that was made from an archive can be checkpointed as any other",
            authority: Authority::PROJECT,
            motivation: "cri-o#6374: a checkpoint of a restored container failed",
            level: Level::Robust,
            expected: "success, and a whole archive of the restored container",
        },
        |s| Box::pin(checkpoint_restored(s)),
    ),
    Case::new(
        CaseInfo {
            id: "runtime/restore/truncated-archive-rejected",
            requirement: "an archive that is cut off is refused, and no container runs",
            authority: authority::CWE_INPUT_VALIDATION,
            motivation: "",
            level: Level::Robust,
            expected: "an error of CreateContainer or StartContainer",
        },
        |s| Box::pin(broken_archive(s)),
    ),
];

/// What a restored container told.
#[derive(Clone, Debug)]
pub(super) struct RestoreResult {
    /// Where the archive is.
    archive: PathBuf,
    /// The bind mounts that the archive lists.
    mounts: Vec<BindMount>,
    /// The last heartbeat that was told before the checkpoint was asked for.
    heartbeat_before: u64,
    /// The last heartbeat that was told when the checkpoint was answered.
    heartbeat_after: u64,
    /// The heartbeats of the restored container.
    heartbeats: BTreeSet<u64>,
    /// What came of its own checkpoint, or why there was none.
    checkpoint: Result<RestoredCheckpoint, NonPass>,
}

/// The checkpoint of a restored container.
#[derive(Clone, Debug)]
struct RestoredCheckpoint {
    /// The restored container's id.
    id: String,
    attempt: RuntimeAttempt,
}

/// A container that was restored once, whatever it told.
async fn restore_result(s: &RuntimeSession) -> Result<&RestoreResult, NonPass> {
    let restored = s.restored.get_or_init(|| restore(s)).await;
    restored.as_ref().map_err(Clone::clone)
}

async fn restore(s: &RuntimeSession) -> Result<RestoreResult, NonPass> {
    s.require_own_archive().await?;
    // What is not in the archive cannot go on.
    for case in super::memory::CASES {
        if let Err(NonPass::Fail(_)) = (case.run)(s).await {
            return Err(NonPass::Blocked(case.info.id));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        // Only root can give processes their numbers back; a runtime that runs as this user has no chance.
        return Err(NonPass::Skip("a restore needs root".to_owned()));
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
                    "the runtime makes no container of an archive by its path ({code:?})"
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
    // Now, since the container ends with this.
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

/// What was restored, which goes on as it should.
async fn require_resumed(s: &RuntimeSession) -> Result<&RestoreResult, NonPass> {
    match restore_result(s).await {
        Ok(restored) if check_resume_heartbeat(restored).is_ok() => Ok(restored),
        Ok(_) | Err(NonPass::Fail(_)) => Err(NonPass::Blocked(RESUMES_CASE)),
        Err(non_pass) => Err(non_pass),
    }
}

async fn checkpoint_restored(s: &RuntimeSession) -> CaseResult {
    let RestoredCheckpoint { id, attempt } = require_resumed(s).await?.checkpoint.as_ref().map_err(Clone::clone)?;
    if !attempt.response.is_ok() {
        return fail(attempt.response.to_string().replace(id.as_str(), "ID"));
    }
    if let Err(reason) = &attempt.file {
        return fail(format!("success, and no archive: {reason}"));
    }
    let archive = inspect(&attempt.location).await?;
    if !is_complete_tar(&archive) {
        return fail(format!("success, and no whole tar: {:?}", archive.end));
    }
    match archive.documents.config.parsed() {
        Some(config) if config.id == *id => pass("success, and an archive of its own"),
        Some(_) => fail("success, and an archive of another container"),
        None => fail("success, and an archive without config.dump"),
    }
}

async fn resumes_at_checkpoint(s: &RuntimeSession) -> CaseResult {
    check_resume_heartbeat(restore_result(s).await?)
}

/// Whether the first heartbeat is the one after the checkpoint, as near as that can be known from outside, and none is missing.
fn check_resume_heartbeat(restored: &RestoreResult) -> CaseResult {
    let heartbeats = &restored.heartbeats;
    let (Some(&first), Some(&last)) = (heartbeats.first(), heartbeats.last()) else {
        return fail("the restored container tells nothing");
    };
    if first <= restored.heartbeat_before {
        return fail(format!(
            "its first heartbeat is {first}, and {} was told before the checkpoint",
            restored.heartbeat_before
        ));
    }
    if first > restored.heartbeat_after + 1 {
        return fail(format!(
            "its first heartbeat is {first}, and {} was the last when the checkpoint was done",
            restored.heartbeat_after
        ));
    }
    match (first..=last).find(|heartbeat| !heartbeats.contains(heartbeat)) {
        Some(lost) => fail(format!("heartbeat {lost} is missing")),
        None if last == first => fail("it tells one heartbeat, and then nothing"),
        None => pass("it goes on with the heartbeat after the checkpoint"),
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
        Ok(()) => fail("both calls succeed"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[8, 9, 10], "")]
    #[case(&[10, 11], "")]
    #[case(&[], "tells nothing")]
    #[case(&[1, 2, 3], "its first heartbeat is 1")]
    #[case(&[7, 8], "its first heartbeat is 7")]
    #[case(&[11, 12], "its first heartbeat is 11")]
    #[case(&[8, 10], "heartbeat 9 is missing")]
    #[case(&[8], "and then nothing")]
    fn the_first_heartbeat_follows_the_checkpoint(#[case] heartbeats: &[u64], #[case] reason: &str) {
        let restored = RestoreResult {
            archive: PathBuf::new(),
            mounts: Vec::new(),
            heartbeat_before: 7,
            heartbeat_after: 9,
            heartbeats: heartbeats.iter().copied().collect(),
            checkpoint: Err(NonPass::Skip("not asked for".to_owned())),
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
