//! A container from its archive, going on where it was. Runs in the shim.
//!
//! ```text
//!   source    the file that the caller names; members: its tar headers
//!   images    the archive, read where it is (oci: or in a checkpoint image); documents: what dump.log and spec.dump say
//!   plan      what is to be made, checked whole before anything is made
//!   files     every open file, in the shim                                     namespace: a pid namespace, its keeper
//!   tree      the first process is a copy of the shim, all others of it, each with its number; traced, told what to do
//!   for each process
//!     space   memory: all away, then as it was
//!     task    directories, signal actions, limits; for each thread its name, stacks, registrations, rights
//!     timers  last, since they run
//!     registers, signal mask; then all are let go
//! ```
//!
//! Nothing runs a single instruction of its own before all of them have everything: every step is a system call told to a process
//! that stands ([`puppet`]). An error ends the namespace, and with it all that was made.
//!
//! Archives are hostile input: nothing is unpacked, no member leads anywhere, no mount is taken from them; what of them is used as
//! a path is said in [`files`]. What cannot be restored is refused with its name, before anything is made where that can be known.

mod caller;
mod documents;
mod error;
mod files;
mod images;
mod members;
mod oci;
mod plan;
mod puppet;
mod registers;
mod source;
mod space;
mod task;
mod timers;
mod tree;

use std::{os::fd::BorrowedFd, path::Path};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use serde::{Deserialize, Serialize};

pub use self::{
    caller::{Caller, Presence},
    documents::Lost,
    error::RestoreError,
};
use self::{files::Sources, images::Images, plan::Plan};
use crate::process::{ProcessId, namespace::Namespace};

/// A restored container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restored {
    /// Its first process.
    pub(crate) init: ProcessId,
    /// The process that holds its pid namespace, and is none of its own.
    pub(crate) keeper: ProcessId,
}

/// What may be lost by a restore because it is wanted all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Locks of files (flock(2), fcntl(2), leases), which no image of fake-cri's holds.
    pub without_file_locks: bool,
}

/// What is known of an archive that can be restored.
#[derive(Clone, Debug)]
pub struct Restorable {
    /// What its dump could not carry.
    pub lost: Lost,
    /// Its `spec.dump`, if there is one.
    pub spec: Option<Vec<u8>>,
}

/// What a container is restored from and with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The archive.
    pub(crate) archive: &'a Path,
    /// What may be lost.
    pub(crate) options: Options,
    /// The new container's id, which its processes carry.
    pub(crate) container: &'a str,
    /// The new container's standard streams.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// A folder for the content of deleted files and of images, in files without a name.
    pub(crate) folder: &'a Path,
}

/// Whether an archive, or a checkpoint image, can be restored, as far as its images tell. An image's layer is unpacked into a file
/// without a name in `folder` for that.
///
/// # Errors
///
/// What is wrong with it, or what of it cannot be restored.
pub fn restorable(archive: &Path, folder: &Path) -> Result<Restorable, RestoreError> {
    let images = Images::read(archive, folder, &Caller::patient())?;
    Plan::read(images, Options::default()).map(Plan::into_restorable)
}

/// Whether an archive, or a checkpoint image, can be restored by this kernel, as far as that can be known without doing it. Reading
/// ends when the caller gives up.
///
/// # Errors
///
/// As [`restorable`]; another kernel's archive; [`RestoreError::Cancelled`].
pub fn restorable_here(
    archive: &Path,
    folder: &Path,
    options: Options,
    caller: &Caller,
) -> Result<Restorable, RestoreError> {
    let plan = Plan::read(Images::read(archive, folder, caller)?, options)?;
    space::check_kernel(&plan)?;
    Ok(plan.into_restorable())
}

/// Restores a container. The caller's thread becomes the parent of what is restored, and must be the only one of its process.
///
/// # Errors
///
/// Nothing is left then.
pub(crate) fn restore(request: &Request<'_>) -> Result<Restored, RestoreError> {
    let images = Images::read(request.archive, request.folder, &Caller::patient())?;
    let plan = Plan::read(images, request.options)?;
    let _room = Room::make();
    let namespace = Namespace::create().map_err(|error| RestoreError::step("make a pid namespace", error))?;
    let made = Sources::open(&plan, request.streams, request.folder, namespace.mounts())
        .and_then(|sources| tree::restore(&plan, &sources, &namespace, request.container));
    match made {
        Ok(init) => Ok(Restored {
            init,
            keeper: namespace.keeper(),
        }),
        Err(error) => {
            namespace.end();
            Err(error)
        }
    }
}

/// Room for the container's descriptors beside the shim's own, as long as it is restored.
struct Room(Option<(u64, u64)>);

impl Room {
    fn make() -> Self {
        let limits = getrlimit(Resource::RLIMIT_NOFILE).ok();
        if let Some((_, hard)) = limits {
            // Without more room than there is, a container that needs it fails by itself.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        Self(limits)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.0 {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}
