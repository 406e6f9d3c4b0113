//! A container that goes on from an archive, where the runtime offers that over the CRI: CreateContainer with the archive's
//! path as the image, as CRI-O and fake-cri have it. The CRI itself says nothing of a restore.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use cri_proto::{document::BindMount, runtime::v1::ContainerState};

use super::session::{Attempt, RuntimeSession, inspect, is_tar};
use crate::{
    case::{Authority, Case, Clause, Judgement, Level, Stop, fail, judge, pass},
    catalog::authority,
    target::{TargetError, Workload, policy},
};

/// The case that judges whether a container goes on from an archive.
const GOES_ON: &str = "runtime/restore/goes-on";
/// Many ticks long.
const UP_WITHIN: Duration = Duration::from_secs(5);

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: GOES_ON,
            clause: "a container made from an archive goes on at exactly the point of the checkpoint",
            authority: authority::CRIO_RESTORE,
            motivation: "",
            level: Level::Robust,
            expected: "the tick after the checkpoint, and none lost or told twice",
        },
        |s| Box::pin(goes_on(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/restore/checkpoint",
            clause: "a container that was made from an archive can be checkpointed as any other",
            authority: Authority::PROJECT,
            motivation: "cri-o#6374: a checkpoint of a restored container failed",
            level: Level::Robust,
            expected: "success, and a whole archive of the restored container",
        },
        |s| Box::pin(checkpoint(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/restore/broken-archive",
            clause: "an archive that is cut off is refused, and no container runs",
            authority: authority::INPUT,
            motivation: "",
            level: Level::Robust,
            expected: "an error of CreateContainer or StartContainer",
        },
        |s| Box::pin(broken_archive(s)),
    ),
];

/// What a restored container told.
#[derive(Clone, Debug)]
pub(super) struct Restored {
    /// Where the archive is.
    archive: PathBuf,
    /// The bind mounts that the archive lists.
    mounts: Vec<BindMount>,
    /// The last tick that was told before the checkpoint was asked for.
    before: u64,
    /// The last tick that was told when the checkpoint was answered.
    after: u64,
    /// The ticks of the restored container.
    ticks: BTreeSet<u64>,
    /// What came of its own checkpoint, or why there was none.
    again: Result<Again, Stop>,
}

/// The checkpoint of a restored container.
#[derive(Clone, Debug)]
struct Again {
    /// The restored container's id.
    id: String,
    attempt: Attempt,
}

/// A container that was restored once, whatever it told.
async fn restored(s: &RuntimeSession) -> Result<&Restored, Stop> {
    let restored = s.restored.get_or_init(|| restore(s)).await;
    restored.as_ref().map_err(Clone::clone)
}

async fn restore(s: &RuntimeSession) -> Result<Restored, Stop> {
    s.own().await?;
    // What is not in the archive cannot go on.
    for case in super::memory::CASES {
        if let Err(Stop::Fail(_)) = (case.run)(s).await {
            return Err(Stop::Blocked(case.clause.id));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        // Only root can give processes their numbers back; a runtime that runs as this user has no chance.
        return Err(Stop::Skip("a restore needs root".to_owned()));
    }
    let container = s.victim().await?;
    let attempt = s.attempt(&container, "restored").await?;
    let after = s.runtime.workload(&container).await?.tick;
    if !attempt.answer.is_ok() {
        return Err(Stop::Error(format!("the checkpoint failed: {}", attempt.answer)));
    }
    let mounts = inspect(&attempt.location).await?.documents.bind_mounts;
    let mounts = mounts.read().cloned().unwrap_or_default();
    let again = match s.runtime.created_from(&attempt.location, &mounts).await {
        Ok(again) => again,
        Err(TargetError::Runtime { code, message, .. }) => {
            let said = format!("CreateContainer with an archive as its image: {code:?}: {message}");
            return Err(if policy::makes_no_checkpoint(&message) {
                Stop::Policy(said)
            } else if policy::takes_for_an_image(code, &message) {
                Stop::Skip(format!(
                    "the runtime makes no container of an archive by its path ({code:?})"
                ))
            } else {
                Stop::Fail(said)
            });
        }
        Err(error) => return Err(error.into()),
    };
    let ticks = match s.runtime.start_created(&again).await {
        Ok(()) => {
            let enough = |workload: &Workload| workload.tick > after + 2;
            s.runtime.workload_until(&again, UP_WITHIN, enough).await?;
            let log = tokio::fs::read(again.log()).await;
            super::archive::ticks(&log.map_err(|error| Stop::error(&error))?)
        }
        Err(error @ TargetError::Runtime { .. }) => return Err(Stop::Fail(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    // Now, since the container ends with this.
    let next = s.attempt(&again, "restored-again").await.map(|attempt| Again {
        id: again.id().to_owned(),
        attempt,
    });
    Ok(Restored {
        archive: attempt.location,
        mounts,
        before: attempt.before.workload.tick,
        after,
        ticks,
        again: next,
    })
}

/// What was restored, which goes on as it should.
async fn sound(s: &RuntimeSession) -> Result<&Restored, Stop> {
    match restored(s).await {
        Ok(restored) if point(restored).is_ok() => Ok(restored),
        Ok(_) | Err(Stop::Fail(_)) => Err(Stop::Blocked(GOES_ON)),
        Err(stop) => Err(stop),
    }
}

async fn checkpoint(s: &RuntimeSession) -> Judgement {
    let Again { id, attempt } = sound(s).await?.again.as_ref().map_err(Clone::clone)?;
    if !attempt.answer.is_ok() {
        return fail(attempt.answer.to_string().replace(id.as_str(), "ID"));
    }
    if let Err(why) = &attempt.file {
        return fail(format!("success, and no archive: {why}"));
    }
    let archive = inspect(&attempt.location).await?;
    if !is_tar(&archive) {
        return fail(format!("success, and no whole tar: {:?}", archive.end));
    }
    match archive.documents.config.read() {
        Some(config) if config.id == *id => pass("success, and an archive of its own"),
        Some(_) => fail("success, and an archive of another container"),
        None => fail("success, and an archive without config.dump"),
    }
}

async fn goes_on(s: &RuntimeSession) -> Judgement {
    point(restored(s).await?)
}

/// Whether the first tick is the one after the checkpoint, as near as that can be known from outside, and none is missing.
fn point(restored: &Restored) -> Judgement {
    let ticks = &restored.ticks;
    let (Some(&first), Some(&last)) = (ticks.first(), ticks.last()) else {
        return fail("the restored container tells nothing");
    };
    if first <= restored.before {
        return fail(format!(
            "its first tick is {first}, and {} was told before the checkpoint",
            restored.before
        ));
    }
    if first > restored.after + 1 {
        return fail(format!(
            "its first tick is {first}, and {} was the last when the checkpoint was done",
            restored.after
        ));
    }
    match (first..=last).find(|tick| !ticks.contains(tick)) {
        Some(lost) => fail(format!("tick {lost} is missing")),
        None if last == first => fail("it tells one tick, and then nothing"),
        None => pass("it goes on with the tick after the checkpoint"),
    }
}

async fn broken_archive(s: &RuntimeSession) -> Judgement {
    let whole = sound(s).await?;
    let half = s.runtime.location("restored-half");
    let bytes = tokio::fs::read(&whole.archive).await;
    let bytes = bytes.map_err(|error| Stop::error(&error))?;
    let written = tokio::fs::write(&half, &bytes[..bytes.len() / 2]).await;
    written.map_err(|error| Stop::error(&error))?;
    let container = match s.runtime.created_from(&half, &whole.mounts).await {
        Ok(container) => container,
        Err(TargetError::Runtime { call, code, .. }) => return pass(format!("{call}: {code:?}")),
        Err(error) => return Err(error.into()),
    };
    match s.runtime.start_created(&container).await {
        Err(TargetError::Runtime { call, code, .. }) => {
            let state = s.runtime.status(&container).await?.state();
            judge(
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
    #[case(&[1, 2, 3], "its first tick is 1")]
    #[case(&[7, 8], "its first tick is 7")]
    #[case(&[11, 12], "its first tick is 11")]
    #[case(&[8, 10], "tick 9 is missing")]
    #[case(&[8], "and then nothing")]
    fn the_point_is_between_before_and_after(#[case] ticks: &[u64], #[case] why: &str) {
        let restored = Restored {
            archive: PathBuf::new(),
            mounts: Vec::new(),
            before: 7,
            after: 9,
            ticks: ticks.iter().copied().collect(),
            again: Err(Stop::Skip("not asked for".to_owned())),
        };
        match point(&restored) {
            Ok(_) => assert_eq!(why, ""),
            Err(stop) => assert!(!why.is_empty() && stop.to_string().contains(why), "{stop}"),
        }
    }
}
