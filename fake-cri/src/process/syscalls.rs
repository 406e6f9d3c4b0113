//! System calls about another process that no crate wraps.

use std::{cmp::Ordering, io};

use nix::errno::Errno;
use rustix::thread::CoreSchedulingScope;

use super::{RemoteFd, Tid};

/// A resource that two processes may share (kcmp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KcmpType {
    /// The open file description behind an fd of each process.
    File(RemoteFd, RemoteFd),
    /// The address space.
    Vm,
    /// The fd table.
    Files,
    /// Root, working directory and umask.
    Fs,
    /// The signal actions.
    Sighand,
    /// The undo values of System V semaphores (`SEM_UNDO`).
    Sysvsem,
}

/// Whether two processes share a resource; `None` when the kernel does not say.
pub(crate) fn kcmp_equal(tid1: Tid, tid2: Tid, kcmp_type: KcmpType) -> Option<bool> {
    kcmp_order(tid1, tid2, kcmp_type).map(Ordering::is_eq)
}

/// Compares the resources of two processes in an order that is stable until the next boot; `None` when the kernel does
/// not say.
pub(crate) fn kcmp_order(tid1: Tid, tid2: Tid, kcmp_type: KcmpType) -> Option<Ordering> {
    let (kind, idx1, idx2) = match kcmp_type {
        KcmpType::File(first, second) => (0, first.as_raw(), second.as_raw()),
        KcmpType::Vm => (1, 0, 0),
        KcmpType::Files => (2, 0, 0),
        KcmpType::Fs => (3, 0, 0),
        KcmpType::Sighand => (4, 0, 0),
        KcmpType::Sysvsem => (6, 0, 0),
    };
    kcmp(tid1, tid2, kind, idx1, i64::from(idx2)).ok()
}

/// `idx2` is an fd, or for `KCMP_EPOLL_TFD` the address of a live [`KcmpEpollSlot`].
///
/// # Errors
///
/// Those of kcmp(2); `EINVAL` for resources without an order.
#[expect(unsafe_code, reason = "no crate wraps kcmp")]
fn kcmp(tid1: Tid, tid2: Tid, kind: i32, idx1: i32, idx2: i64) -> nix::Result<Ordering> {
    // SAFETY: kcmp writes nothing, and reads no memory of this process but the slot of three words.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            tid1.as_raw(),
            tid2.as_raw(),
            kind,
            i64::from(idx1),
            idx2,
        )
    };
    match Errno::result(result)? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(Errno::EINVAL),
    }
}

/// One watch of an epoll fd (`struct kcmp_epoll_slot`): the epoll fd, the fd number under which the watched file was
/// added, and the index among the watches of the same number, in the kernel's order, which is also that of `fdinfo`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct KcmpEpollSlot {
    pub(crate) efd: u32,
    /// The fd number under which the watched file was added.
    pub(crate) tfd: u32,
    /// The index among the watches of that fd number.
    pub(crate) toff: u32,
}

/// Compares the open file behind an fd of a process with the file that an epoll fd of the process watches, in the order
/// of [`kcmp_order`] (`KCMP_EPOLL_TFD`, Linux 4.13).
///
/// # Errors
///
/// `EBADF` when the process has no such fd, `ENOENT` when there is no such watch, `EINVAL` or `EOPNOTSUPP` from a
/// kernel without this comparison.
pub(crate) fn kcmp_epoll_order(tid: Tid, fd: RemoteFd, watch: KcmpEpollSlot) -> nix::Result<Ordering> {
    /// `KCMP_EPOLL_TFD` (linux/kcmp.h).
    const KCMP_EPOLL_TFD: i32 = 7;
    kcmp(
        tid,
        tid,
        KCMP_EPOLL_TFD,
        fd.as_raw(),
        (&raw const watch).expose_provenance() as i64,
    )
}

/// The minimum and maximum of a thread's utilization, from 0 to 1024 (`sched_util_min` and `sched_util_max` of
/// sched_getattr(2)).
#[expect(unsafe_code, reason = "no crate wraps sched_getattr")]
pub(crate) fn uclamp(tid: Tid) -> nix::Result<(u32, u32)> {
    /// `SCHED_ATTR_SIZE_VER1` (linux/sched/types.h), which ends with the two clamps.
    const SCHED_ATTR_WORDS: usize = 56 / size_of::<u32>();
    let mut attributes = [0_u32; SCHED_ATTR_WORDS];
    let size = size_of_val(&attributes);
    // SAFETY: the kernel writes at most `size` bytes of integers.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid.as_raw(), attributes.as_mut_ptr(), size, 0) };
    Errno::result(result)?;
    Ok((attributes[SCHED_ATTR_WORDS - 2], attributes[SCHED_ATTR_WORDS - 1]))
}

/// The core scheduling cookie of a thread (`PR_SCHED_CORE`); 0 for none.
///
/// # Errors
///
/// `EINVAL` from a kernel without core scheduling, `ENODEV` on a CPU whose cores have one hardware thread each.
pub(crate) fn core_cookie(tid: Tid) -> io::Result<u64> {
    let tid = rustix::thread::Pid::from_raw(tid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::thread::core_scheduling_cookie(
        tid,
        CoreSchedulingScope::Thread,
    )?)
}

/// The head of a thread's robust futex list and the registered length; zeroes when it has none.
#[expect(unsafe_code, reason = "no crate wraps get_robust_list")]
pub(crate) fn robust_list(tid: Tid) -> nix::Result<(u64, u32)> {
    let mut head = 0_u64;
    let mut length = 0_u64;
    // SAFETY: the kernel writes one pointer and one size, both of eight bytes on the supported architectures.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, tid.as_raw(), &raw mut head, &raw mut length) };
    Errno::result(result)?;
    Ok((head, u32::try_from(length).unwrap_or(0)))
}

/// Scheduling policy and priorities of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scheduling {
    /// `SCHED_*`, with `SCHED_RESET_ON_FORK` where set.
    pub(crate) policy: u32,
    /// The priority of a real-time policy, otherwise 0.
    pub(crate) priority: u32,
    /// The nice value, from -20 to 19.
    pub(crate) nice: i32,
}

#[expect(unsafe_code, reason = "nix wraps none of these calls")]
pub(crate) fn scheduling(tid: Tid) -> nix::Result<Scheduling> {
    let mut parameter = 0_i32;
    // SAFETY: the first and the last call take only integers; the second one writes one `struct sched_param`, which is
    // an int.
    unsafe {
        let policy = Errno::result(libc::syscall(libc::SYS_sched_getscheduler, tid.as_raw()))?;
        Errno::result(libc::syscall(
            libc::SYS_sched_getparam,
            tid.as_raw(),
            &raw mut parameter,
        ))?;
        // The raw system call returns 20 minus the nice value, so that no result is negative.
        let nice = 20 - Errno::result(libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid.as_raw()))?;
        Ok(Scheduling {
            policy: u32::try_from(policy).unwrap_or(0),
            priority: u32::try_from(parameter).unwrap_or(0),
            nice: i32::try_from(nice).unwrap_or(0),
        })
    }
}

/// The I/O scheduling class and level of a thread (ioprio_get(2)). The class is 0 when the thread has none of its own
/// and the kernel does not report the class derived from the nice value.
#[expect(unsafe_code, reason = "no crate wraps ioprio_get")]
pub(crate) fn io_priority(tid: Tid) -> nix::Result<(u32, u32)> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    // SAFETY: only integers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid.as_raw()) };
    let priority = Errno::result(result)? as u32;
    Ok((
        priority >> IOPRIO_CLASS_SHIFT,
        priority & ((1 << IOPRIO_CLASS_SHIFT) - 1),
    ))
}

/// Creates anonymous shared memory of this size and opens it as a file, as processes share it that mapped it before a
/// fork. Requires `CAP_CHECKPOINT_RESTORE`.
///
/// # Errors
///
/// Those of mmap(2) and of opening `/proc/self/map_files`.
#[expect(unsafe_code, reason = "mmap and munmap")]
pub(crate) fn create_shmem_file(bytes: std::num::NonZeroUsize) -> std::io::Result<std::fs::File> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping overlaps no other, and nothing refers to it after the munmap.
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
    fn current_process_is_readable() {
        let tid = Tid::current();
        assert_eq!(kcmp_equal(tid, tid, KcmpType::Vm), Some(true));
        let (class, level) = io_priority(tid).expect("I/O priority");
        assert!(class <= 3 && level < 8, "{class} {level}");
        assert!((-20..20).contains(&scheduling(tid).expect("scheduling").nice));
        assert_eq!(robust_list(tid).expect("robust list").1, 24);
    }
    #[test]
    fn open_files_are_ordered_and_duplicates_are_equal() {
        use std::os::fd::AsRawFd as _;

        let tid = Tid::current();
        let mut files: Vec<_> = (0..64)
            .map(|_| std::fs::File::open("/dev/null").expect("open /dev/null"))
            .collect();
        let order_of = |left: &std::fs::File, right: &std::fs::File| {
            let pair = KcmpType::File(
                RemoteFd::from_raw(left.as_raw_fd()),
                RemoteFd::from_raw(right.as_raw_fd()),
            );
            kcmp_order(tid, tid, pair).expect("kcmp of this process")
        };
        files.sort_by(order_of);
        for (index, left) in files.iter().enumerate() {
            let copy = left.try_clone().expect("dup");
            assert_eq!(order_of(left, &copy), Ordering::Equal);
            for later in &files[index + 1..] {
                assert_eq!(order_of(left, later), Ordering::Less);
                assert_eq!(order_of(later, &copy), Ordering::Greater);
            }
        }
        let closed = KcmpType::File(RemoteFd::from_raw(files[0].as_raw_fd()), RemoteFd::from_raw(i32::MAX));
        assert_eq!(
            (kcmp_order(tid, tid, closed), kcmp_equal(tid, tid, closed)),
            (None, None)
        );
    }
}
