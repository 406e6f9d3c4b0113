//! Containers that go on from their archives, over real gRPC: the programs of `fixtures/programs` under fake-cri, checkpointed in
//! the middle, killed, and restored by fake-cri into new containers. Each proves by its own output that no step was lost or
//! repeated.
//!
//! It takes root, for the pid namespace, and a C compiler or Python; what is missing is said, and the test is skipped.
#![cfg(target_arch = "x86_64")]

mod annotated;
#[path = "../corpus/mod.rs"]
mod corpus;
#[path = "../cri/mod.rs"]
mod cri;
mod disclosed;
mod image;
mod life;
mod lost;
mod programs;
mod refused;
mod script;
mod steps;
