//! The cases about CheckpointContainer of a runtime, called directly, one file a topic.
//!
//! What the comments of the CRI's own `.proto` say is `documented`: a `timeout` above zero is the user's, an error is an
//! error, and the container of a failed checkpoint is as it was. What containerd and CRI-O do beyond it is `reference`; what
//! they do not and should is `robust`.
//!
//! Most cases judge what the session has done once: a first and a second checkpoint of one container, and one checkpoint for
//! each way to fail.

mod aftermath;
mod answer;
mod archive;
mod checkpoint;
mod concurrency;
mod ending;
mod memory;
mod motion;
mod place;
mod processes;
mod restore;
mod sandbox;
mod session;
mod state;
mod timeout;

use crate::case::{Case, Stage};

pub use session::RuntimeSession;

/// Every case, in the order in which they run: what many build on comes first.
pub fn cases() -> Vec<Case<RuntimeSession>> {
    let early = checkpoint::CASES.iter().map(|case| case.stage(Stage::Early));
    // Each of these looks at what was done once, or at a container of its own.
    let shared = [
        state::CASES,
        archive::CASES,
        memory::CASES,
        processes::CASES,
        answer::CASES,
        place::CASES,
        timeout::CASES,
        ending::DEADLINE,
        ending::DEADLINE_FILES,
        ending::CANCEL,
        ending::CANCEL_FILES,
        ending::TIMEOUT,
        ending::TIMEOUT_FILES,
        ending::ERROR,
        restore::CASES,
        sandbox::CASES,
    ];
    let shared = shared.into_iter().flatten().map(|case| case.shared());
    // These are about what goes on at the same time, so nothing else shall.
    let alone = [state::ALONE, concurrency::CASES].concat();
    early.chain(shared).chain(alone).collect()
}
