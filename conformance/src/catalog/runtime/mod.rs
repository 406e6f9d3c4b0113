//! The cases about CheckpointContainer of a runtime, called directly, one file a topic.
//!
//! What the comments of the CRI's own `.proto` say is `documented`: a `timeout` above zero is the user's, an error is an
//! error, and the container of a failed checkpoint is as it was. What containerd and CRI-O do beyond it is `reference`; what
//! they do not and should is `robust`.

mod checkpoint;
mod deadline;
mod session;

use crate::case::Case;

pub use session::RuntimeSession;

/// The CRI's comments on the call and its messages.
const CRI: &str = "CRI runtime.v1: CheckpointContainer";

/// Every case, in the order in which they run: what many build on comes first.
pub fn cases() -> Vec<Case<RuntimeSession>> {
    [checkpoint::CASES, deadline::CASES].concat()
}
