//! Restores containers from their archives, over real gRPC: the programs of `fixtures/programs` are checkpointed in the
//! middle of their steps, killed, and restored by fake-cri into new containers. The output of each program proves that
//! no step was lost or repeated.
//!
//! The tests need root, for the pid namespace, and a C compiler or Python. Without these they are skipped with a
//! message.
#![cfg(target_arch = "x86_64")]

mod annotations;
#[path = "../common/cri.rs"]
mod cri;
mod criu_script;
mod disclosure;
mod lifecycle;
mod oci_image;
#[path = "../common/programs.rs"]
mod program_sources;
mod programs;
mod rejection;
mod steps;
mod unsupported;
