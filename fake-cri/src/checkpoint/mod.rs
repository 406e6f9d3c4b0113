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
mod capture;
mod copying;
mod delay;
mod engine;
pub(crate) mod error;
mod fault;
mod freeze;
mod freezer;
mod headroom;
mod hold;
mod host;
mod job;
pub(crate) mod location;
mod log;
mod outlook;
mod pages;
mod pour;
mod quirk;
pub(crate) mod restore;
mod stats;
mod twin;
mod watch;
mod write;

pub use engine::run;
pub use host::Host;
pub use job::{
    Delay, DelayIn, DelayMemory, Document, Effect, ErrorKind, Failure, Freeze, Injection, Job, Layout, Phase, Report,
};
pub use quirk::{Aftermath, Ending, Quirk, Region};
pub use restore::{Caller, Lost, Options, Presence, Restorable, RestoreError, restorable, restorable_here};
