//! System calls about another process that no crate wraps.

use std::mem::MaybeUninit;

use nix::errno::Errno;

/// What two processes may share (kcmp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// One open file description, by a descriptor of each.
    File(i32, i32),
    /// The address space.
    Memory,
    /// The table of descriptors.
    Descriptors,
    /// Root, working directory and umask.
    FileSystem,
    /// The signal handlers.
    Handlers,
}

/// Whether two processes share a thing; `None` when the kernel does not say.
#[expect(unsafe_code, reason = "no crate wraps kcmp")]
pub(crate) fn share(one: i32, other: i32, what: Shared) -> Option<bool> {
    let (kind, first, second) = match what {
        Shared::File(first, second) => (0, first, second),
        Shared::Memory => (1, 0, 0),
        Shared::Descriptors => (2, 0, 0),
        Shared::FileSystem => (3, 0, 0),
        Shared::Handlers => (4, 0, 0),
    };
    // SAFETY: kcmp takes numbers and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, i64::from(first), i64::from(second)) };
    Errno::result(result).ok().map(|order| order == 0)
}

/// The head of a thread's list of robust futexes and the length it was registered with; zeroes when it has none.
#[expect(unsafe_code, reason = "no crate wraps get_robust_list")]
pub(crate) fn robust_list(tid: i32) -> nix::Result<(u64, u32)> {
    let mut head = 0_u64;
    let mut length = 0_u64;
    // SAFETY: the kernel writes one pointer and one size, both of eight bytes on the architectures built here.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut length) };
    Errno::result(result)?;
    Ok((head, u32::try_from(length).unwrap_or(0)))
}

/// How many resource limits there are (`RLIM_NLIMITS`).
const RESOURCES: u32 = 16;

/// The limits of a process, soft and hard, in the order of their numbers; `u64::MAX` is without limit.
#[expect(unsafe_code, reason = "nix reads only the own limits")]
pub(crate) fn limits(pid: i32) -> nix::Result<Vec<(u64, u64)>> {
    (0..RESOURCES)
        .map(|resource| {
            let mut limit = MaybeUninit::<libc::rlimit64>::uninit();
            // SAFETY: the kernel fills the limit when it answers zero, and reads nothing from the null pointer.
            unsafe {
                Errno::result(libc::syscall(
                    libc::SYS_prlimit64,
                    pid,
                    resource,
                    std::ptr::null::<libc::rlimit64>(),
                    limit.as_mut_ptr(),
                ))?;
                let limit = limit.assume_init();
                Ok((limit.rlim_cur, limit.rlim_max))
            }
        })
        .collect()
}

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scheduling {
    /// `SCHED_*`, with `SCHED_RESET_ON_FORK` where set.
    pub(crate) policy: u32,
    /// The priority of the real time policies, else 0.
    pub(crate) priority: u32,
    /// -20 to 19.
    pub(crate) nice: i32,
}

/// How a thread is scheduled.
#[expect(unsafe_code, reason = "nix has none of these")]
pub(crate) fn scheduling(tid: i32) -> nix::Result<Scheduling> {
    let mut parameter = 0_i32;
    // SAFETY: the first and the last call take numbers alone; the second writes one `struct sched_param`, which is an int.
    unsafe {
        let policy = Errno::result(libc::syscall(libc::SYS_sched_getscheduler, tid))?;
        Errno::result(libc::syscall(libc::SYS_sched_getparam, tid, &raw mut parameter))?;
        // The system call itself answers 20 minus the nice value, so that no answer is negative.
        let nice = 20 - Errno::result(libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid))?;
        Ok(Scheduling {
            policy: u32::try_from(policy).unwrap_or(0),
            priority: u32::try_from(parameter).unwrap_or(0),
            nice: i32::try_from(nice).unwrap_or(0),
        })
    }
}

/// Anonymous shared memory of this size as a file, as two processes that mapped it before a fork have it. It takes
/// `CAP_CHECKPOINT_RESTORE`.
///
/// # Errors
///
/// What the kernel refuses with.
#[expect(unsafe_code, reason = "a mapping, unmapped again at once")]
pub(crate) fn shared_anonymous(bytes: std::num::NonZeroUsize) -> std::io::Result<std::fs::File> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping is nobody else's, and nothing refers into it when it goes.
    unsafe {
        let start = mmap_anonymous(None, bytes, protection, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE)?;
        let address = start.as_ptr().addr();
        let end = (address + bytes.get()).next_multiple_of(4096);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/map_files/{address:x}-{end:x}"));
        munmap(start, bytes.get())?;
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_tells_of_itself() {
        let pid = std::process::id() as i32;
        assert_eq!(share(pid, pid, Shared::Memory), Some(true));
        let limits = limits(pid).expect("limits");
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("limit");
        assert_eq!(limits[libc::RLIMIT_NOFILE as usize], (soft, hard));
        assert!((-20..20).contains(&scheduling(0).expect("scheduling").nice));
        assert_eq!(robust_list(0).expect("robust list").1, 24);
    }
}
