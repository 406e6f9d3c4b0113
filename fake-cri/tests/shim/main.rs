//! Tests of shims with real processes, through the calls that fake-cri uses.

mod checkpoint;
mod exec;
mod footprint;
mod harness;
mod lifecycle;
mod logs;
mod reaping;
mod recovery;
mod workload;
