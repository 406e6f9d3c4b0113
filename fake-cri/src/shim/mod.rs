//! One small process a container: starts it, reaps it and its orphans, writes its log, keeps its exit code, checkpoints
//! it; and the messages between it and fake-cri.
//!
//! ```text
//!  fake-cri --- launch: spec through a pipe ---> shim --- fork, exec ---> first process --> its descendants
//!     |                                          |  ^                           |              |
//!     |   a connection for each request          |  '--- orphans are adopted ---'--------------'
//!     '---- DIR/sock <---------------------------'
//!                                                writes DIR/exit.json and ends when all of them are gone
//! ```
//!
//! The shim is in a session of its own and needs nobody: a fake-cri that is killed changes nothing for the container, and
//! its successor finds the shim again by its folder ([`Shim::attach`]). It has no async runtime and one thread (a second
//! one while it checkpoints).
//!
//! Ways to fail: the shim is killed. Then [`Shim::wait`] gives an exit with `lost` set, and whoever started the shim ends
//! what is left of the container with [`kill_leftovers`].

mod client;
mod error;
mod folder;
mod launch;
mod leftovers;
mod message;
mod monitor;
mod record;
mod server;
mod spec;

pub use client::{Attached, ExecOutput, Shim, State, Stats};
pub use error::ShimError;
pub(crate) use launch::run;
pub use leftovers::kill_leftovers;
pub use record::{Exit, Reason};
pub use spec::{LaunchSpec, Program};

/// What a command beside the container may write to its two output streams, together: an ExecSync answer that holds so much is
/// just below the 16 MiB of the largest message (containerd's `DefaultMaxSendMsgSize`, the kubelet's `maxMsgSize`), with room for
/// the lengths and the exit code.
pub const MAX_EXEC_OUTPUT_BYTES: usize = (16 << 20) - 32;

/// The role of a shim's process: see [`crate::entry`].
pub const ROLE: &str = "shim";

/// The name of a shim's process in `/proc/PID/comm` and in its first argument.
pub const NAME: &str = "fake-cri-shim";

/// The environment variable that holds the container's id in each of its processes, so that what a dead shim left can be
/// found.
pub const MARKER: &str = "FAKE_CRI_CONTAINER";
