//! Whether all of the container's memory is in the archive: bytes that only one place holds are looked for in the pages.

use fake_cri::stand_in::Place;

use super::session::{RuntimeSession, find};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, pass},
    catalog::authority,
    target::Workload,
};

/// The case that judges the heap.
pub(super) const HEAP: &str = "runtime/memory/heap";

pub(super) const CASES: &[Case<RuntimeSession>] = &[
    Case::new(
        Clause {
            id: HEAP,
            clause: "what a process made up on its heap is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "the canary that its log tells",
        },
        |s| Box::pin(heap(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/memory/environment",
            clause: "the process's environment is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "the value of a variable that CreateContainer named",
        },
        |s| Box::pin(environment(s)),
    ),
    Case::new(
        Clause {
            id: "runtime/memory/stack",
            clause: "the first thread's stack is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "bytes that only this stack holds",
        },
        |s| Box::pin(place(s, Place::Stack)),
    ),
    Case::new(
        Clause {
            id: "runtime/memory/thread",
            clause: "the stack of a thread beside the first is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "bytes that only this stack holds",
        },
        |s| Box::pin(place(s, Place::Thread)),
    ),
    Case::new(
        Clause {
            id: "runtime/memory/shared",
            clause: "shared anonymous memory is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "bytes that only this memory holds",
        },
        |s| Box::pin(place(s, Place::Shared)),
    ),
];

async fn heap(s: &RuntimeSession) -> Judgement {
    s.criu().await?;
    let canary = canary(&s.made().await?.attempt.before.workload)?;
    look(s, canary.into_bytes()).await
}

async fn environment(s: &RuntimeSession) -> Judgement {
    s.criu().await?;
    look(s, s.secret().as_bytes().to_owned()).await
}

async fn place(s: &RuntimeSession, place: Place) -> Judgement {
    s.stand_in()?;
    s.criu().await?;
    let bytes = of_place(&s.made().await?.attempt.before.workload, place)?;
    look(s, bytes).await
}

async fn look(s: &RuntimeSession, bytes: Vec<u8>) -> Judgement {
    let (_, file) = s.file().await?;
    match find(&file.path, bytes).await? {
        Some(_) => pass("in the pages"),
        None => fail("in no page"),
    }
}

/// What stands on the heap before the number of the last tick.
pub(super) fn pulse(workload: &Workload) -> Result<Vec<u8>, Stop> {
    of_place(workload, Place::Pulse)
}

fn of_place(workload: &Workload, place: Place) -> Result<Vec<u8>, Stop> {
    let canary = canary(workload)?;
    let bytes = place.bytes(&canary);
    bytes.ok_or_else(|| Stop::Error("the canary in the log is too short".to_owned()))
}

fn canary(workload: &Workload) -> Result<String, Stop> {
    let canary = workload.canary.clone();
    canary.ok_or_else(|| Stop::Skip("the container's log tells no canary".to_owned()))
}
