//! A CRI runtime for tests: real processes, real checkpoints, faults on request.
//!
//! ```text
//!  service   gRPC at the edge: translate, call the runtime, map errors once
//!     |  \
//!     |   fault      rules, presets, the journal: it decides, it never acts
//!     v
//!  runtime   pods, containers, images, their state on disk
//!     v
//!  shim      one small process a container; outlives fake-cri
//!     v
//!  checkpoint  freeze, capture, image, archive, thaw
//!     v
//!  process   spawn, signals, ptrace, /proc, memory: the only room with `unsafe`
//! ```
//!
//! A program that embeds fake-cri calls [`entry_point`] first in its `main`: shims and workloads are the same executable,
//! started in another role.

#[doc(hidden)]
pub mod bench_support;
pub mod checkpoint;
pub mod cli;
pub mod control;
mod embedded;
pub mod entry;
pub mod fault;
mod parse_errors;
pub mod process;
pub mod runtime;
pub mod service;
pub mod shim;
pub mod workload;

pub use embedded::{FakeCri, FakeCriBuilder, LogDestination, StartError};
pub use entry::entry_point;
