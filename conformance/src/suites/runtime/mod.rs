//! The cases about CheckpointContainer of a runtime, called directly over the CRI, one file per topic.
//!
//! A case is `documented` if the CRI's `.proto` or KEP-2008 states its requirement, `reference` if containerd and CRI-O
//! behave that way beyond those documents, and `robust` if a runtime should behave that way and the common runtimes do
//! not.
//!
//! Most cases check results that the session collects once: a first and a second checkpoint of one container, and one
//! set of checkpoints for each way to fail.

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

/// Every case, in the order in which they run: cases that others depend on come first.
pub fn cases() -> Vec<Case<RuntimeSession>> {
    let early = checkpoint::CASES.iter().map(|case| case.stage(Stage::Early));
    // Each of these cases checks a result that was collected once, or uses a container of its own.
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
    // These cases depend on what runs at the same time, so they run alone.
    let alone = [state::EXCLUSIVE_CASES, concurrency::CASES].concat();
    early.chain(shared).chain(alone).collect()
}
