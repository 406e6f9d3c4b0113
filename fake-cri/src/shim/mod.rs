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
//! Ways to fail: the shim is killed. Then [`Shim::wait_exit`] gives an exit with `lost` set, and whoever started the shim ends
//! what is left of the container with [`kill_orphans`].

mod client;
mod error;
mod exit_monitor;
mod exit_record;
mod launch;
mod launch_spec;
mod message;
mod orphans;
mod server;
mod state_dir;

pub use client::{ExecOutput, Shim, ShimAttachment, ShimState, ShimStats};
pub use error::ShimError;
pub use exit_record::{ExitReason, ExitRecord};
pub(crate) use launch::run;
pub use launch_spec::{LaunchProgram, LaunchSpec};
pub use orphans::kill_orphans;

/// What a command beside the container may write to its two output streams, together: an ExecSync answer that holds so much is
/// just below the 16 MiB of the largest message (containerd's `DefaultMaxSendMsgSize`, the kubelet's `maxMsgSize`), with room for
/// the lengths and the exit code.
pub const EXEC_OUTPUT_MAX_BYTES: usize = (16 << 20) - 32;

/// The role of a shim's process: see [`crate::entry`].
pub const SHIM_ROLE: &str = "shim";

/// The name of a shim's process in `/proc/PID/comm` and in its first argument.
pub const SHIM_PROCESS_NAME: &str = "fake-cri-shim";

/// The environment variable that holds the container's id in each of its processes, so that what a dead shim left can be
/// found.
pub const CONTAINER_ID_ENV: &str = "FAKE_CRI_CONTAINER_ID";
