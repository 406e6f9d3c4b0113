//! Shims with real processes, through the calls that fake-cri makes.

mod checkpoint;
mod exec;
mod footprint;
mod harness;
mod lifecycle;
mod logs;
mod reaping;
mod recovery;
mod workload;
