//! Restores a container from its checkpoint archive. Runs in the shim.
//!
//! ```text
//!   archive_file  the file at the path that the caller names; tar_reader: its members
//!   oci_layout    a checkpoint image: unpacks the archive from its layer
//!   images        the archive's images, read in place; documents: dump.log and spec.dump
//!   plan          what to create; fully checked before anything is created
//!   files         opens every file, in the shim                namespace: the pid namespace and its init
//!   tree          the first process is cloned from the shim, all others from it; traced, with remote syscalls
//!   for each process
//!     mm          memory: unmap everything, then map as recorded
//!     task        directories, signal actions, limits; for each thread its name, stacks, registrations, credentials
//!     timers      last, because they run
//!     registers   and the signal mask; then all tasks are resumed
//! ```
//!
//! No restored task executes an instruction of its own before all tasks are complete: every step is a remote syscall in
//! a stopped task ([`remote_task`]). An error kills the pid namespace, and with it everything that was created.
//!
//! An archive is hostile input: no member is unpacked, no link in the archive is followed, no mount is taken from it.
//! [`files`] states which recorded paths are opened. State that cannot be restored is an error that names the state,
//! before anything is created where the images alone tell.

mod archive_file;
mod cancel;
mod documents;
mod error;
mod files;
mod images;
mod mm;
mod oci_layout;
mod plan;
mod read_plan;
mod registers;
mod remote_task;
mod reopen;
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
use self::{files::OpenFiles, images::CriuImages, plan::RestorePlan, read_plan::read_plan};
use crate::process::{ProcessId, namespace::PidNamespace};

#[derive(Clone, Copy, Debug)]
pub(crate) struct RestoredProcesses {
    pub(crate) init: ProcessId,
    /// The init of the container's pid namespace. It is not a member of the container.
    pub(crate) ns_init: ProcessId,
}

/// State that the caller allows a restore to lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOptions {
    /// Restore without file locks (flock(2), fcntl(2), leases). No image of fake-cri holds them.
    pub without_file_locks: bool,
}

/// What the images of a restorable archive say.
#[derive(Clone, Debug)]
pub struct Restorable {
    /// The unsupported state that `dump.log` lists.
    pub unsupported: UnsupportedSummary,
    /// The content of `spec.dump`, if the archive has that file.
    pub spec: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RestoreRequest<'a> {
    pub(crate) archive: &'a Path,
    pub(crate) options: RestoreOptions,
    /// Written into the environment of the restored processes (`CONTAINER_ID_ENV`).
    pub(crate) container_id: &'a str,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Directory for unnamed files: the content of deleted files, and the layer of a checkpoint image.
    pub(crate) scratch_dir: &'a Path,
}

/// Checks whether an archive or a checkpoint image can be restored, as far as its images tell. The layer of a
/// checkpoint image is unpacked into an unnamed file in `scratch_dir`.
///
/// # Errors
///
/// The archive is malformed, or holds state that cannot be restored.
pub fn check_restorable(archive: &Path, scratch_dir: &Path) -> Result<Restorable, RestoreError> {
    let images = CriuImages::read(archive, scratch_dir, &CancelFlag::new())?;
    read_plan(images, RestoreOptions::default()).map(RestorePlan::into_restorable)
}

/// Checks whether this kernel can restore an archive or a checkpoint image, as far as that is known without a restore.
/// Reading ends when the caller cancels.
///
/// # Errors
///
/// As [`check_restorable`]; the archive was made under another kernel; [`RestoreError::Cancelled`].
pub fn check_restorable_here(
    archive: &Path,
    scratch_dir: &Path,
    options: RestoreOptions,
    cancel: &CancelFlag,
) -> Result<Restorable, RestoreError> {
    let plan = read_plan(CriuImages::read(archive, scratch_dir, cancel)?, options)?;
    mm::check_vdso_of_kernel(&plan)?;
    Ok(plan.into_restorable())
}

/// Restores a container. The calling thread becomes the parent of the restored processes, and must be the only thread
/// of its process.
///
/// # Errors
///
/// A step failed; no restored process is left.
pub(crate) fn restore(request: &RestoreRequest<'_>) -> Result<RestoredProcesses, RestoreError> {
    let images = CriuImages::read(request.archive, request.scratch_dir, &CancelFlag::new())?;
    let plan = read_plan(images, request.options)?;
    let _nofile_limit = RaisedNofileLimit::raise();
    let namespace = PidNamespace::create().map_err(|error| RestoreError::step("create a pid namespace", error))?;
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

/// Raises RLIMIT_NOFILE to its hard limit during the restore: the shim holds the container's open files beside its own.
struct RaisedNofileLimit(Option<(u64, u64)>);

impl RaisedNofileLimit {
    fn raise() -> Self {
        let limits = getrlimit(Resource::RLIMIT_NOFILE).ok();
        if let Some((_, hard)) = limits {
            // If the limit cannot be raised, a container that needs more descriptors fails with its own error.
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
