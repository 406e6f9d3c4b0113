//! A CRI runtime for tests: real processes, real checkpoints, faults on request.
//!
//! ```text
//!  service   gRPC server: translates messages, calls the runtime, maps errors to codes
//!     |  \
//!     |   fault      rules, presets, the journal: decides which faults fire, never acts
//!     v
//!  runtime   pods, containers, images, their state on disk
//!     v
//!  shim      one small process per container; survives a kill of fake-cri
//!     v
//!  checkpoint  freeze, capture, write the archive, thaw
//!     v
//!  process   spawn, signals, ptrace, /proc, memory: the only module with `unsafe`
//! ```
//!
//! A program that embeds fake-cri must call [`entry_point`] first in its `main`: fake-cri starts shims and workloads
//! from the same executable, in another role.

#[doc(hidden)]
pub mod bench_support;
pub mod checkpoint;
pub mod cli;
pub mod control;
mod embedded;
pub mod entry;
pub mod environment;
pub mod fault;
mod parse_errors;
pub mod process;
pub mod runtime;
pub mod service;
pub mod shim;
pub mod workload;

pub use embedded::{FakeCri, FakeCriBuilder, LogDestination, StartError};
pub use entry::entry_point;
