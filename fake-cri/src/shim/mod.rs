//! The shim: one small process for each container. The shim starts the container, reaps its processes and orphans,
//! writes its log, records its exit and checkpoints it. Also the messages between the shim and fake-cri.
//!
//! ```text
//!  fake-cri --- launch: spec through a pipe ---> shim --- fork, exec ---> first process --> its descendants
//!     |                                          |  ^                           |              |
//!     |   one connection for each request        |  '--- orphans are adopted ---'--------------'
//!     '---- DIR/sock <---------------------------'
//!                                                writes DIR/exit.json and ends when all processes are gone
//! ```
//!
//! The shim has its own session and does not depend on fake-cri: the container keeps running when fake-cri is killed,
//! and the next fake-cri finds the shim by its directory ([`Shim::attach`]). The shim has no async runtime and one
//! thread, and a second one during a checkpoint.
//!
//! Ways to fail: the shim is killed. Then [`Shim::wait_exit`] returns an exit with `shim_lost` set, and fake-cri must
//! kill the remaining processes of the container with [`kill_orphans`].

mod client;
mod connection;
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

/// The limit for the stdout and stderr of an exec together, in bytes. An ExecSync response with so much output is just
/// below the largest message of 16 MiB (containerd's `DefaultMaxSendMsgSize`, the kubelet's `maxMsgSize`): 32 bytes are
/// left for the lengths and the exit code.
pub const EXEC_OUTPUT_MAX_BYTES: usize = (16 << 20) - 32;

/// The name of a shim process in `/proc/PID/comm` and in its first argument.
pub const SHIM_PROCESS_NAME: &str = "fake-cri-shim";
