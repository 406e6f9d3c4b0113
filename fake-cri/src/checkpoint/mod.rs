//! Checkpoint (freeze, capture, write, thaw) and restore (`restore`) of a container. Runs in the shim.
//!
//! ```text
//! Job ---> engine --- freeze ----> every thread of the container is stopped (ptrace)
//!            |   \--- capture ---> images in memory, and the location of every page
//!            |    \-- write -----> images, pages, documents --> temporary --> location
//!          Host                    (thaw after every process is snapshotted, or after the last page is read)
//! ```
//!
//! The archive has containerd's or CRI-O's members; its images are CRIU's. [`run`] states the requirements and errors.

pub(crate) mod archive;
mod archive_writer;
mod cancel;
mod cgroup_freezer;
mod container_log;
mod delay;
mod dump;
mod dump_log;
mod engine;
pub(crate) mod error;
mod freeze;
mod hooks;
mod host;
mod job;
pub(crate) mod location;
mod pages;
pub(crate) mod restore;
mod sink;
mod snapshot;
mod stats;

pub use cancel::CancelToken;
pub use engine::run;
pub use hooks::Hooks;
pub use host::Host;
pub use job::{Delay, DelayMemory, DelayPhase, Document, ErrorKind, Failure, Freeze, Job, Layout, Phase, Report};
pub use restore::{
    CancelFlag, CancelOnDrop, Restorable, RestoreError, RestoreOptions, UnsupportedSummary, check_restorable,
    check_restorable_here,
};
pub use sink::{FileSink, Sink};
