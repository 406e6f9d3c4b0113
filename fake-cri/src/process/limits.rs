//! The limit of open files: raised for fake-cri, restored for the processes that it starts.
//!
//! A daemon that holds an fd for each container needs more than the usual soft limit of 1024 (systemd keeps it that low
//! for select(2)). The administrator sets the hard limit. Containers get the limits that fake-cri was started with.

use std::{io, sync::OnceLock};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::process::Rlimit;

use super::Pid;

/// The soft and hard limits before [`raise_nofile`].
static ORIGINAL_NOFILE: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit of open files of this process to the hard limit, and returns it.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ORIGINAL_NOFILE.get_or_init(|| (soft, hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Gives a process that was just started the limits that this process had before [`raise_nofile`].
pub fn restore_nofile(pid: Pid) -> io::Result<()> {
    let Some((soft, hard)) = ORIGINAL_NOFILE.get() else {
        return Ok(());
    };
    let limit = |value: u64| (value != RLIM_INFINITY).then_some(value);
    let limits = Rlimit {
        current: limit(*soft),
        maximum: limit(*hard),
    };
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limits)?;
    Ok(())
}
