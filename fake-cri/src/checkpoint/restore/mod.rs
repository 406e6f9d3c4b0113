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
//! that stands ([`remote_task`]). An error ends the namespace, and with it all that was made.
//!
//! Archives are hostile input: nothing is unpacked, no member leads anywhere, no mount is taken from them; what of them is used as
//! a path is said in [`files`]. What cannot be restored is refused with its name, before anything is made where that can be known.

mod archive_file;
mod cancel;
mod documents;
mod error;
mod files;
mod images;
mod mm;
mod oci_layout;
mod plan;
mod registers;
mod remote_task;
mod tar_reader;
mod task;
mod timers;
mod tree;

use std::{os::fd::BorrowedFd, path::Path};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use serde::{Deserialize, Serialize};

pub use self::{
    cancel::{CancelFlag, CancelOnDrop},
    documents::UnsupportedSummary,
    error::RestoreError,
};
use self::{files::OpenFiles, images::CriuImages, plan::RestorePlan};
use crate::process::{ProcessId, namespace::PidNamespace};

/// A restored container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestoredProcesses {
    /// Its first process.
    pub(crate) init: ProcessId,
    /// The process that holds its pid namespace, and is none of its own.
    pub(crate) ns_init: ProcessId,
}

/// What may be lost by a restore because it is wanted all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOptions {
    /// Locks of files (flock(2), fcntl(2), leases), which no image of fake-cri's holds.
    pub without_file_locks: bool,
}

/// What is known of an archive that can be restored.
#[derive(Clone, Debug)]
pub struct Restorable {
    /// What its dump could not carry.
    pub unsupported: UnsupportedSummary,
    /// Its `spec.dump`, if there is one.
    pub spec: Option<Vec<u8>>,
}

/// What a container is restored from and with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestoreRequest<'a> {
    /// The archive.
    pub(crate) archive: &'a Path,
    /// What may be lost.
    pub(crate) options: RestoreOptions,
    /// The new container's id, which its processes carry.
    pub(crate) container_id: &'a str,
    /// The new container's standard streams.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// A folder for the content of deleted files and of images, in files without a name.
    pub(crate) scratch_dir: &'a Path,
}

/// Whether an archive, or a checkpoint image, can be restored, as far as its images tell. An image's layer is unpacked into a file
/// without a name in `scratch_dir` for that.
///
/// # Errors
///
/// What is wrong with it, or what of it cannot be restored.
pub fn check_restorable(archive: &Path, scratch_dir: &Path) -> Result<Restorable, RestoreError> {
    let images = CriuImages::read(archive, scratch_dir, &CancelFlag::new())?;
    RestorePlan::read(images, RestoreOptions::default()).map(RestorePlan::into_restorable)
}

/// Whether an archive, or a checkpoint image, can be restored by this kernel, as far as that can be known without doing it. Reading
/// ends when the caller gives up.
///
/// # Errors
///
/// As [`check_restorable`]; another kernel's archive; [`RestoreError::Cancelled`].
pub fn check_restorable_here(
    archive: &Path,
    scratch_dir: &Path,
    options: RestoreOptions,
    cancel: &CancelFlag,
) -> Result<Restorable, RestoreError> {
    let plan = RestorePlan::read(CriuImages::read(archive, scratch_dir, cancel)?, options)?;
    mm::check_vdso_of_kernel(&plan)?;
    Ok(plan.into_restorable())
}

/// Restores a container. The caller's thread becomes the parent of what is restored, and must be the only one of its process.
///
/// # Errors
///
/// Nothing is left then.
pub(crate) fn restore(request: &RestoreRequest<'_>) -> Result<RestoredProcesses, RestoreError> {
    let images = CriuImages::read(request.archive, request.scratch_dir, &CancelFlag::new())?;
    let plan = RestorePlan::read(images, request.options)?;
    let _nofile_limit = RaisedNofileLimit::raise();
    let namespace = PidNamespace::create().map_err(|error| RestoreError::step("make a pid namespace", error))?;
    let restored = OpenFiles::open(&plan, request.stdio, request.scratch_dir, namespace.mount_ns())
        .and_then(|open_files| tree::restore(&plan, &open_files, &namespace, request.container_id));
    match restored {
        Ok(init) => Ok(RestoredProcesses {
            init,
            ns_init: namespace.ns_init(),
        }),
        Err(error) => {
            namespace.kill_all();
            Err(error)
        }
    }
}

/// Room for the container's descriptors beside the shim's own, as long as it is restored.
struct RaisedNofileLimit(Option<(u64, u64)>);

impl RaisedNofileLimit {
    fn raise() -> Self {
        let limits = getrlimit(Resource::RLIMIT_NOFILE).ok();
        if let Some((_, hard)) = limits {
            // Without more room than there is, a container that needs it fails by itself.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        Self(limits)
    }
}

impl Drop for RaisedNofileLimit {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.0 {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}
