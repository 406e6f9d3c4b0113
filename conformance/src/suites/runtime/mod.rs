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

use std::sync::LazyLock;

use crate::engine::{Case, with_indirect_dependencies};

pub use session::RuntimeSession;

/// Every case. Within a stage, a run without a seed has this order.
pub fn cases() -> Vec<Case<RuntimeSession>> {
    static CASES: LazyLock<Vec<Case<RuntimeSession>>> = LazyLock::new(|| {
        let topics = [
            checkpoint::CASES,
            state::CASES,
            archive::CASES,
            memory::CASES,
            processes::CASES,
            container_lookup::CASES,
            location::CASES,
            timeout::CASES,
            after_failure::DEADLINE_CASES,
            after_failure::TIMEOUT_CASES,
            after_failure::CANCELLATION_CASES,
            after_failure::ERROR_CASES,
            after_failure::FILE_CASES,
            restore::CASES,
            sandbox::CASES,
            concurrency::CASES,
        ];
        with_indirect_dependencies(topics.concat())
    });
    CASES.clone()
}
