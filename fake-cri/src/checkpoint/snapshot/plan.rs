//! Whether snapshots are made of a container, as decided before the freeze.

use nix::errno::Errno;

use super::{prescan::Prescan, resources::InsufficientResources};
use crate::{
    checkpoint::{DelayPhase, Freeze, Host, Job, error::Error},
    process::{Pid, remote_syscalls::RemoteSyscallError},
};

/// Why no snapshot is made and the container stays frozen until all of its memory is dumped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotRefused {
    #[error("disabled by --freeze full")]
    DisabledByFlag,
    #[error("the delay model requires a full freeze")]
    DelayInFreeze,
    #[error("{0}")]
    Resources(#[from] InsufficientResources),
    #[error("process {pid}: {source}")]
    RemoteSyscall { pid: Pid, source: RemoteSyscallError },
    #[error("process {pid}: {call}: {errno}")]
    Syscall { pid: Pid, call: &'static str, errno: Errno },
    #[error("process {0} handles page faults by userfaultfd, which may report the fork")]
    Userfaultfd(Pid),
    #[error("process {0} has a pid or time namespace for children that differs from its own")]
    ChildNamespace(Pid),
    #[error("process {0} has {1} shared mappings")]
    SharedMappings(Pid, usize),
    #[error("remote syscalls are not possible in process {0}: no syscall instruction found")]
    NoSyscallInsn(Pid),
    #[error("fork does not preserve {0} bytes of private memory (MADV_DONTFORK, MADV_WIPEONFORK, huge pages)")]
    NotForkedMemory(u64),
}

/// Whether snapshots are to be made, as decided before the freeze.
pub(crate) enum SnapshotPlan {
    /// The container was prescanned.
    Snapshots(Prescan),
    /// The container stays frozen until all of its memory is dumped.
    FullFreeze(SnapshotRefused),
}

impl SnapshotPlan {
    pub(crate) fn prescan(&self) -> Option<&Prescan> {
        match self {
            Self::Snapshots(prescan) => Some(prescan),
            Self::FullFreeze(_) => None,
        }
    }
}

/// Prescans the container of a job, unless the job or a lack of resources excludes snapshots.
///
/// # Errors
///
/// [`Error::ListMembers`].
pub(crate) fn plan(job: &Job, host: &dyn Host) -> Result<SnapshotPlan, Error> {
    if job.freeze == Freeze::Full {
        return Ok(SnapshotPlan::FullFreeze(SnapshotRefused::DisabledByFlag));
    }
    if job
        .delay
        .as_ref()
        .is_some_and(|delay| delay.phase == DelayPhase::Freeze)
    {
        return Ok(SnapshotPlan::FullFreeze(SnapshotRefused::DelayInFreeze));
    }
    let prescan = Prescan::collect(host)?;
    Ok(match prescan.check_resources() {
        Ok(()) => SnapshotPlan::Snapshots(prescan),
        Err(insufficient) => SnapshotPlan::FullFreeze(insufficient.into()),
    })
}
