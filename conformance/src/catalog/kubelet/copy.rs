//! The effect: a stateful copy of a running container, which runs on.

use super::session::{After, RUNS_ON, Session};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, pass},
    catalog::authority,
    target::Workload,
};

pub(super) const CASES: &[Case<Session>] = &[
    Case::new(
        Clause {
            id: RUNS_ON,
            clause: "a checkpoint is a copy: the container runs on, as the same process, at the point where it was",
            authority: authority::KEP_USER_STORIES,
            motivation: "containerd 2.4: a container was left frozen after a checkpoint that missed its deadline",
            level: Level::Documented,
            expected: "the same pid and start time, and its counter moves",
        },
        |s| Box::pin(runs_on(s)),
    ),
    Case::new(
        Clause {
            id: "kubelet/copy/canary",
            clause: "what the process made up in its memory after its start is in the archive's pages",
            authority: authority::INTRODUCTION,
            motivation: "",
            level: Level::Reference,
            expected: "the canary in checkpoint/pages-*.img",
        },
        |s| Box::pin(canary(s)),
    ),
];

/// The workload before the first checkpoint, or the reason for a skip.
async fn before(s: &Session) -> Result<&Workload, Stop> {
    let workload = &s.made().await?.workload;
    if workload.is_stand_in() {
        return Ok(workload);
    }
    Err(Stop::Skip(format!(
        "{} is no stand-in: its log tells neither canary nor ticks",
        s.subject()
    )))
}

async fn runs_on(s: &Session) -> Judgement {
    let before = before(s).await?;
    match s.after().await? {
        After::Moved(later) if later.same_process(before) => pass(format!(
            "pid {}, tick {} before, {} after",
            before.pid.unwrap_or_default(),
            before.tick,
            later.tick
        )),
        After::Moved(later) => fail(format!(
            "another process: pid {:?} before, {:?} after",
            before.pid, later.pid
        )),
        After::Still(tick) => fail(format!("it stands still at tick {tick}")),
        After::Silent => Err(Stop::Error("the container was not looked at".to_owned())),
    }
}

async fn canary(s: &Session) -> Judgement {
    if before(s).await?.canary.is_none() {
        return Err(Stop::Skip("the log tells no canary".to_owned()));
    }
    let archive = s.listing().await?;
    if !archive.is_criu() {
        return Err(Stop::Skip("the archive is not in CRIU's format".to_owned()));
    }
    match archive.memory.iter().flatten().next() {
        Some(found) => pass(format!("in {} at byte {}", found.member, found.offset)),
        None => fail("in no page"),
    }
}
