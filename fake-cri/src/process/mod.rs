//! Processes at the level of the kernel: spawn, signals, ptrace, `/proc`, memory. Only this module contains `unsafe`
//! code.

pub(crate) mod affinity;
#[cfg(target_arch = "aarch64")]
#[path = "arch/aarch64.rs"]
pub(crate) mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64.rs"]
pub(crate) mod arch;
pub mod daemon;
pub(crate) mod descriptor;
pub(crate) mod file_attributes;
pub(crate) mod file_mapping;
pub mod identity;
pub mod limits;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod pagemap;
mod pid;
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

pub use pid::{NsPid, Pid, RemoteFd, Tid};
use serde::{Deserialize, Serialize};

/// A pid with the start time of its process.
///
/// The kernel reuses pids, but never a pair of pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid in the pid namespace of fake-cri.
    pub pid: Pid,
    /// The start time in clock ticks since boot: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_time: u64,
}
