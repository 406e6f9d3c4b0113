//! Containers that go on from their archives, over real gRPC: the programs of `fixtures/programs` under fake-cri, checkpointed in
//! the middle, killed, and restored by fake-cri into new containers. Each proves by its own output that no step was lost or
//! repeated.
//!
//! It takes root, for the pid namespace, and a C compiler or Python; what is missing is said, and the test is skipped.
#![cfg(target_arch = "x86_64")]

mod annotations;
#[path = "../corpus/mod.rs"]
mod corpus;
#[path = "../cri/mod.rs"]
mod cri;
mod criu_script;
mod disclosure;
mod lifecycle;
mod oci_image;
mod programs;
mod rejection;
mod steps;
mod unsupported;
