//! The call's deadline: what is left when it passes.
//!
//! A runtime that freezes a container must let it go whatever becomes of the call. To have a deadline pass in the middle of a
//! checkpoint, one is measured first and the next ones get a part of that time; a fake-cri is told to take its time instead.

use std::time::Duration;

use super::{
    CRI,
    session::{MOVES_WITHIN, OK, RuntimeSession},
};
use crate::{
    case::{Case, Clause, Judgement, Level, Stop, fail, pass},
    target::runtime::{Checkpoint, Container, ContainerOptions, Program},
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[Case::new(
    Clause {
        id: "runtime/deadline/left-frozen",
        clause: "a checkpoint that ran out of time leaves the container as it was: it runs on, as the same process",
        source: CRI,
        level: Level::Documented,
        expected: "its counter moves after the deadline, and pid and start time are the same",
    },
    |s| Box::pin(left_frozen(s)),
)
.limit(Duration::from_secs(60))];

/// Memory that takes any runtime some time to write.
const MEMORY: u64 = 128 << 20;
/// A deadline below this is over before the runtime has begun.
const SHORTEST: Duration = Duration::from_millis(30);
/// The parts of a whole checkpoint's time after which deadlines pass.
const PARTS: [f64; 4] = [0.5, 0.75, 0.3, 0.15];

async fn left_frozen(s: &RuntimeSession) -> Judgement {
    let options = match s.runtime.program {
        Program::StandIn if s.runtime.faults.is_none() => ContainerOptions::new().memory(MEMORY),
        _ => ContainerOptions::new(),
    };
    let container = s.container(options).await?;
    let mut missed = 0;
    for deadline in deadlines(s, &container).await? {
        let call = Checkpoint::to(s.runtime.location("deadline").to_string_lossy()).deadline(deadline);
        let answer = s.runtime.checkpoint(&container, &call).await;
        if answer.is_ok() {
            continue;
        }
        missed += 1;
        let after = format!(
            "after a deadline of {:.3} s ({:?})",
            deadline.as_secs_f64(),
            answer.code
        );
        match s.runtime.moves(&container, MOVES_WITHIN).await? {
            Some(later) if later.same_process(container.started()) => {}
            Some(later) => {
                let (was, is) = (container.started().pid, later.pid);
                return fail(format!(
                    "{after} it is another process: pid {was:?} before, {is:?} after"
                ));
            }
            None => return frozen(s, &container, &after).await,
        }
    }
    if missed == 0 {
        return Err(Stop::Skip("every checkpoint ended before its deadline".to_owned()));
    }
    pass(format!("it runs on after {missed} deadlines that passed"))
}

/// It stands still: says by what, and what the runtime says of it.
async fn frozen(s: &RuntimeSession, container: &Container, after: &str) -> Judgement {
    let hold = s.runtime.hold(container).await;
    let state = s.runtime.status(container).await?.state().as_str_name();
    let found = hold.as_ref().map_or_else(
        || "nothing that can be seen from here holds it".to_owned(),
        ToString::to_string,
    );
    let seen = format!(
        "{after} its counter stands still for {} s: {found}; its status says {state}",
        MOVES_WITHIN.as_secs()
    );
    s.runtime.thaw(container, hold).await?;
    fail(seen)
}

/// Deadlines that pass in the middle of a checkpoint of this container.
async fn deadlines(s: &RuntimeSession, container: &Container) -> Result<Vec<Duration>, Stop> {
    if let Some(faults) = &s.runtime.faults {
        faults.add(&[&container.rule("capture", "delay(5s)")]).await?;
        return Ok(vec![Duration::from_millis(200)]);
    }
    let call = Checkpoint::to(s.runtime.location("whole").to_string_lossy());
    let whole = s.runtime.checkpoint(container, &call).await;
    if !whole.is_ok() {
        return Err(Stop::Blocked(OK));
    }
    let parts = PARTS.map(|part| whole.took.mul_f64(part).max(SHORTEST));
    Ok(parts.to_vec())
}
