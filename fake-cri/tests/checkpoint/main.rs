//! Checkpoints of real processes, judged against what `/proc` and ptrace say while they stand still.
//!
//! The processes are this test program itself, started again as a workload ([`workload`]), or `sleep`.

mod archive;
#[cfg(target_arch = "x86_64")]
mod copies;
#[cfg(target_arch = "x86_64")]
#[path = "../corpus/mod.rs"]
mod corpus;
mod ending;
mod freeze;
mod host;
#[cfg(target_arch = "x86_64")]
mod killed;
#[cfg(target_arch = "x86_64")]
mod laid_out;
mod location;
mod measure;
#[cfg(target_arch = "x86_64")]
mod programs;
#[cfg(target_arch = "x86_64")]
mod restored;
#[cfg(target_arch = "x86_64")]
mod shapes;
#[cfg(target_arch = "x86_64")]
mod shown;
mod smoke;
mod state;
mod times;
#[cfg(target_arch = "x86_64")]
mod truth;
#[cfg(target_arch = "x86_64")]
mod twin;
mod uncarried;
mod unfit;
mod workload;
