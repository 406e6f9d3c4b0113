//! The cases about CheckpointContainer of a runtime, called directly, one file a topic.
//!
//! What the comments of the CRI's own `.proto` say is `documented`: a `timeout` above zero is the user's, an error is an
//! error, and the container of a failed checkpoint is as it was. What containerd and CRI-O do beyond it is `reference`; what
//! they do not and should is `robust`.
//!
//! Most cases judge what the session has done once: a first and a second checkpoint of one container, and one checkpoint for
//! each way to fail.

mod after_failure;
mod archive;
mod checkpoint;
mod concurrency;
mod container_lookup;
mod failed_checkpoint;
mod liveness;
mod location;
mod memory;
mod processes;
mod restore;
mod sandbox;
mod session;
mod state;
mod timeout;

use crate::engine::{Case, Stage};

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
        container_lookup::CASES,
        location::CASES,
        timeout::CASES,
        after_failure::DEADLINE_CASES,
        after_failure::DEADLINE_FILE_CASES,
        after_failure::CANCEL_CASES,
        after_failure::CANCEL_FILE_CASES,
        after_failure::TIMEOUT_CASES,
        after_failure::TIMEOUT_FILE_CASES,
        after_failure::ERROR_CASES,
        restore::CASES,
        sandbox::CASES,
    ];
    let shared = shared.into_iter().flatten().map(|case| case.shared());
    // These are about what goes on at the same time, so nothing else shall.
    let alone = [state::EXCLUSIVE_CASES, concurrency::CASES].concat();
    early.chain(shared).chain(alone).collect()
}
