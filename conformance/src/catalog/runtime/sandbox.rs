//! The sandbox of a Pod whose first try ran out of time: what comes before any checkpoint on a slow node.

use std::time::Duration;

use super::session::RuntimeSession;
use crate::{
    case::{Authority, Case, Clause, Judgement, Level, Stop, fail, pass},
    target::runtime::AskedAgain,
};

pub(super) const CASES: &[Case<RuntimeSession>] = &[Case::new(
    Clause {
        id: "runtime/sandbox/asked-again",
        clause: "a sandbox whose caller ran out of time can be asked for again, or is listed",
        authority: Authority::PROJECT,
        motivation: "containerd and CRI-O: `name is reserved` when the kubelet tries again after RunPodSandbox ran out of time",
        level: Level::Robust,
        expected: "it is listed, or RunPodSandbox succeeds within 5 s",
    },
    |s| Box::pin(asked_again(s)),
)];

async fn asked_again(s: &RuntimeSession) -> Judgement {
    // A slow runtime is interrupted at different steps.
    const TRIES: [(u64, bool); 3] = [(20, false), (80, true), (160, false)];
    let mut cut_off = false;
    for (deadline, late) in TRIES {
        match s.runtime.ask_again(Duration::from_millis(deadline), late).await? {
            AskedAgain::InTime => {}
            AskedAgain::Listed | AskedAgain::Made => cut_off = true,
            AskedAgain::Refused(code, message) => return fail(format!("not listed, and {code:?}: {message}")),
        }
    }
    if cut_off {
        return pass("it is there when asked for again");
    }
    Err(Stop::Skip(
        "every sandbox was there before its caller ran out of time".to_owned(),
    ))
}
