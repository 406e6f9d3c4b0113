//! Freeze, capture, image, archive, thaw; and back (`restore`). Runs in the shim.
//!
//! ```text
//!  Job ---> engine --- freeze ----> every thread of the container stands (ptrace)
//!             |   \--- capture ---> images in memory, and where every page is
//!             |    \-- archive ---> images, pages, documents --> temporary --> location
//!           Host                    (thaw as soon as every process is copied, or the last page is read)
//! ```
//!
//! The archive has containerd's members, or CRI-O's; the images in it are CRIU's. [`run`] says what it needs and how it fails.

pub(crate) mod archive;
mod archive_writer;
mod cancel;
mod cgroup_freezer;
mod defect;
mod delay;
mod dump;
mod dump_log;
mod engine;
pub(crate) mod error;
mod fault;
mod freeze;
mod host;
mod job;
pub(crate) mod location;
mod page_pipe;
mod pages;
mod prescan;
mod resources;
pub(crate) mod restore;
mod snapshot;
mod snapshot_fork;
mod stats;
mod stopped_thread;

pub use defect::{CallOutcome, Defect, MemoryRegion, SideEffect};
pub use engine::run;
pub use host::Host;
pub use job::{
    Delay, DelayMemory, DelayPhase, Document, ErrorKind, Failure, Freeze, InjectedEffect, Injection, Job, Layout,
    Phase, Report,
};
pub use restore::{
    CancelFlag, CancelOnDrop, Restorable, RestoreError, RestoreOptions, UnsupportedSummary, check_restorable,
    check_restorable_here,
};
