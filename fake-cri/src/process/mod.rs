//! The only room that touches the kernel, and the only one with `unsafe`: spawn, signals, ptrace, `/proc`, memory.

pub(crate) mod affinity;
pub mod daemon;
pub(crate) mod descriptor;
pub(crate) mod file_attributes;
pub(crate) mod file_mapping;
pub mod identity;
pub mod limits;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod pagemap;
pub mod pidfd;
pub(crate) mod proc_files;
pub mod pstree;
pub(crate) mod ptrace;
pub(crate) mod remote_syscalls;
pub(crate) mod socket;
pub mod spawn;
pub(crate) mod syscalls;
pub(crate) mod unix_diag;
pub mod wait;
pub mod workload_syscalls;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one of the same number.
///
/// A pid counts only with its start time: numbers are used again, a pair never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process's number in the pid namespace of fake-cri.
    pub pid: i32,
    /// Clock ticks from boot to its start: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_time: u64,
}
