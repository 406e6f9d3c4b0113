//! Checkpoints of real processes, compared with `/proc` and ptrace while the processes are frozen.
//!
//! The processes are this test binary, started as a workload ([`workload`]), or `sleep`.

mod archive;
#[cfg(target_arch = "x86_64")]
mod checkpointctl;
#[cfg(target_arch = "x86_64")]
mod criu_restore;
mod disk_full;
mod freeze;
#[cfg(target_arch = "x86_64")]
mod ground_truth;
mod host;
#[cfg(target_arch = "x86_64")]
mod kill;
#[cfg(target_arch = "x86_64")]
mod layout;
mod location;
mod measure;
mod outcomes;
#[cfg(target_arch = "x86_64")]
#[path = "../common/programs.rs"]
mod program_sources;
#[cfg(target_arch = "x86_64")]
mod programs;
#[cfg(target_arch = "x86_64")]
mod random_shapes;
mod rare_state;
mod smoke;
#[cfg(target_arch = "x86_64")]
mod snapshot;
#[cfg(target_arch = "x86_64")]
mod snapshot_procs;
mod snapshot_refused;
mod stats_dump;
mod unsupported_state;
mod workload;
