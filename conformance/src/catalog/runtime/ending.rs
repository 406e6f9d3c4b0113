//! What is left after a checkpoint that failed, one group of cases for each way to fail: the call's deadline, the request's
//! timeout, a caller that goes away, an error.
//!
//! The container must be as it was: a runtime that froze it lets it go whatever becomes of the call. How such checkpoints
//! are had is in `aftermath.rs`.

use std::time::Duration;

use cri_proto::runtime::v1::ContainerState;

use super::{
    aftermath::{Aftermath, Left, SECOND, Way},
    session::RuntimeSession,
};
use crate::case::{Case, Clause, Judgement, Level, Stop, fail, judge, pass};
use crate::catalog::authority;

/// The case that judges whether the request's timeout counts at all.
const COUNTS: &str = "runtime/timeout/counts";

/// A checkpoint of a large container takes its time, and some are tried.
const LIMIT: Duration = Duration::from_secs(180);

macro_rules! container_as_it_was {
    ($group:literal, $after:literal, $way:expr) => {
        [
            Case::new(
                Clause {
                    id: concat!("runtime/", $group, "/left-frozen"),
                    clause: concat!("after ", $after, " the container runs on"),
                    authority: authority::KEP_FAILED,
                    motivation: "containerd 2.4: the container was left frozen after a deadline, while its status said RUNNING",
                    level: Level::Documented,
                    expected: "its counter moves",
                },
                |s| Box::pin(left_frozen(s, $way)),
            )
            .limit(LIMIT),
            Case::new(
                Clause {
                    id: concat!("runtime/", $group, "/same-process"),
                    clause: concat!("after ", $after, " the container is the process that it was"),
                    authority: authority::KEP_FAILED,
                    motivation: "",
                    level: Level::Documented,
                    expected: "the same pid and start time",
                },
                |s| Box::pin(same_process(s, $way)),
            )
            .limit(LIMIT),
            Case::new(
                Clause {
                    id: concat!("runtime/", $group, "/status"),
                    clause: concat!(
                        "after ",
                        $after,
                        " ContainerStatus says that the container runs, as it does"
                    ),
                    authority: authority::CRI_STATUS,
                    motivation: "",
                    level: Level::Documented,
                    expected: "CONTAINER_RUNNING, and its counter moves",
                },
                |s| Box::pin(status(s, $way)),
            )
            .limit(LIMIT),
            Case::new(
                Clause {
                    id: concat!("runtime/", $group, "/second-works"),
                    clause: concat!("after ", $after, " the container can be checkpointed"),
                    authority: authority::RUNTIMES,
                    motivation: "containerd 2.4-beta: the checkpoint after one that ran out of time failed",
                    level: Level::Reference,
                    expected: "success of the next checkpoint",
                },
                |s| Box::pin(second_works(s, $way)),
            )
            .limit(LIMIT),
        ]
    };
}

macro_rules! no_partial {
    ($group:literal, $after:literal, $way:expr) => {
        Case::new(
            Clause {
                id: concat!("runtime/", $group, "/no-partial"),
                clause: concat!("after ", $after, " no part of an archive is at the location"),
                authority: authority::CLEANUP,
                motivation: "containerd 2.4 and CRI-O 1.37 write in place: a part of the archive stays",
                level: Level::Robust,
                expected: "nothing, or a whole archive",
            },
            |s| Box::pin(no_partial(s, $way)),
        )
        .limit(LIMIT)
    };
}

macro_rules! no_late {
    ($group:literal, $after:literal, $way:expr) => {
        Case::new(
            Clause {
                id: concat!("runtime/", $group, "/no-late-archive"),
                clause: concat!("after ", $after, " no archive appears of which nobody will know"),
                authority: authority::GRPC_CANCELLATION,
                motivation: "containerd 2.4 and CRI-O 1.37: the dump goes on, and the archive appears later",
                level: Level::Robust,
                expected: "nothing at the location, even when the checkpoint would have ended",
            },
            |s| Box::pin(no_late_archive(s, $way)),
        )
        .limit(LIMIT)
    };
}

pub(super) const DEADLINE: &[Case<RuntimeSession>] =
    &container_as_it_was!("deadline", "a deadline that passed", Way::Deadline);
pub(super) const DEADLINE_FILES: &[Case<RuntimeSession>] = &[
    no_partial!("deadline", "a deadline that passed", Way::Deadline),
    no_late!("deadline", "a deadline that passed", Way::Deadline),
];
pub(super) const TIMEOUT: &[Case<RuntimeSession>] =
    &container_as_it_was!("timeout", "a timeout that passed", Way::Timeout);
pub(super) const TIMEOUT_FILES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: COUNTS,
            clause: "a timeout above zero is the user's: a checkpoint that takes longer fails when it has passed",
            authority: authority::KEP_IMPLEMENTATION,
            motivation: "containerd 2.4.2 and CRI-O 1.37.0 do not read the field",
            level: Level::Documented,
            expected: "an error within a second of a timeout of 1 s, without a deadline of the call",
        },
        |s| Box::pin(counts(s)),
    )
    .limit(LIMIT),
    no_partial!("timeout", "a timeout that passed", Way::Timeout),
];
pub(super) const CANCEL: &[Case<RuntimeSession>] = &container_as_it_was!("cancel", "its caller went away", Way::Cancel);
pub(super) const CANCEL_FILES: &[Case<RuntimeSession>] = &[
    no_partial!("cancel", "its caller went away", Way::Cancel),
    no_late!("cancel", "its caller went away", Way::Cancel),
];
pub(super) const ERROR: &[Case<RuntimeSession>] = &container_as_it_was!("error", "an error", Way::Error);

/// What is left after checkpoints that failed so.
async fn aftermath(s: &RuntimeSession, way: Way) -> Result<&[Aftermath], Stop> {
    let aftermath = s.aftermath(way).await?;
    if way == Way::Timeout && aftermath.iter().any(succeeded) {
        return Err(Stop::Blocked(COUNTS));
    }
    Ok(aftermath)
}

/// Whether it did not fail after all.
fn succeeded(aftermath: &Aftermath) -> bool {
    aftermath.answer.as_ref().is_some_and(|answer| answer.is_ok())
}

/// The first that is wrong in this way, or that all of them are right.
fn each(aftermath: &[Aftermath], right: &str, wrong: impl Fn(&Aftermath) -> Option<String>) -> Judgement {
    let complaint = aftermath
        .iter()
        .find_map(|one| Some(format!("{} {}", one.done, wrong(one)?)));
    match (complaint, aftermath) {
        (Some(complaint), _) => fail(complaint),
        (None, [one]) => pass(format!("{} {right}", one.done)),
        (None, several) => pass(format!("{right}, {} times", several.len())),
    }
}

async fn left_frozen(s: &RuntimeSession, way: Way) -> Judgement {
    let aftermath = aftermath(s, way).await?;
    if aftermath.iter().all(|one| !one.motion.same_process) {
        return Err(Stop::Blocked(way.same_process()));
    }
    each(aftermath, "it runs on", |one| {
        let stands = one.motion.same_process && !one.motion.moves;
        stands.then(|| one.motion.standstill())
    })
}

async fn same_process(s: &RuntimeSession, way: Way) -> Judgement {
    each(aftermath(s, way).await?, "it is the same process", |one| {
        let ended = format!("its first process has ended; its status says {}", one.motion.status());
        (!one.motion.same_process).then_some(ended)
    })
}

async fn status(s: &RuntimeSession, way: Way) -> Judgement {
    let aftermath = aftermath(s, way).await?;
    if aftermath.iter().any(|one| !one.motion.same_process) {
        return Err(Stop::Blocked(way.same_process()));
    }
    if aftermath.iter().any(|one| !one.motion.moves) {
        return Err(Stop::Blocked(way.left_frozen()));
    }
    each(aftermath, "its status says that it runs, and it does", |one| {
        let wrong = one.motion.status != Ok(ContainerState::ContainerRunning);
        wrong.then(|| format!("its status says {}, and it runs", one.motion.status()))
    })
}

async fn second_works(s: &RuntimeSession, way: Way) -> Judgement {
    let aftermath = aftermath(s, way).await?;
    if aftermath.iter().any(|one| one.second.is_none()) {
        return Err(Stop::Blocked(way.same_process()));
    }
    each(aftermath, "the next one succeeds", |one| {
        let second = one.second.as_ref()?;
        (!second.is_ok()).then(|| format!("the next one fails: {second}"))
    })
}

async fn no_partial(s: &RuntimeSession, way: Way) -> Judgement {
    each(
        aftermath(s, way).await?,
        "no part of an archive is left",
        |one| match one.left {
            Left::Partial(bytes) => Some(format!("{bytes} bytes are left that are no whole archive")),
            Left::Nothing | Left::Archive(_) => None,
        },
    )
}

async fn no_late_archive(s: &RuntimeSession, way: Way) -> Judgement {
    each(aftermath(s, way).await?, "no archive appears", |one| match one.left {
        Left::Archive(bytes) => Some(format!("an archive of {bytes} bytes appeared all the same")),
        Left::Nothing | Left::Partial(_) => None,
    })
}

async fn counts(s: &RuntimeSession) -> Judgement {
    /// What an answer may take beyond the timeout.
    const SLACK: Duration = Duration::from_secs(1);
    let aftermath = s.aftermath(Way::Timeout).await?;
    let Some(answer) = aftermath.first().and_then(|one| one.answer.as_ref()) else {
        return Err(Stop::Error("the call with a timeout has no answer".to_owned()));
    };
    let took = answer.took.as_secs_f64();
    if answer.is_ok() && answer.took < SECOND {
        return Err(Stop::Skip(format!("the checkpoint took {took:.1} s only")));
    }
    if answer.is_ok() {
        return fail(format!("success after {took:.1} s, with a timeout of 1 s"));
    }
    let holds = answer.took < SECOND + SLACK;
    judge(
        holds,
        format!("{:?} {} its time", answer.code, if holds { "in" } else { "long after" }),
    )
}
