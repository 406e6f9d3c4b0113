//! SIGKILL of fake-cri and of the shim during checkpoints.

#[path = "../common/cri.rs"]
mod cri;
mod points;
#[path = "../common/processes.rs"]
mod processes;
#[cfg(target_arch = "x86_64")]
#[path = "../common/programs.rs"]
#[expect(
    dead_code,
    reason = "the program of these tests has no end, so they need no step count"
)]
mod program_sources;
#[cfg(target_arch = "x86_64")]
mod steps;
