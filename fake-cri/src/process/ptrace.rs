//! ptrace, as far as a checkpoint needs it: seize, interrupt, peek_options, let go.
//!
//! ```text
//!  running --seize--> traced, running --interrupt--> traced, stopped --detach--> running
//!                          ^                               |
//!                          +---- resume (with the signal) -+   a signal came first
//! ```
//!
//! All calls that concern a thread must come from the one thread that seized it: the kernel knows the tracer by thread, not
//! by process. When that thread ends, the kernel lets go of everything it traced; no option is set that would kill then.
//!
//! Ways to fail: `ESRCH` the thread is gone or does not stand still; `EPERM` another tracer, another user, not dumpable, or
//! Yama (ptrace(2), "Ptrace access mode checking").

use std::{mem, ptr};

use nix::{
    errno::Errno,
    sys::{ptrace, signal::Signal},
    unistd::Pid,
};

/// The event number that `wait` shows for the stops that `PTRACE_INTERRUPT` and group stops make (ptrace(2)).
const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;

/// The note types of `PTRACE_GETREGSET` (linux/elf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum RegisterSet {
    /// General purpose registers, as `struct user_regs_struct`.
    General = 1,
    /// Floating point and SIMD: `fxsave` on x86, `struct user_fpsimd_state` on aarch64.
    #[cfg_attr(
        not(target_arch = "aarch64"),
        expect(dead_code, reason = "x86 reads all of it through the extended state")
    )]
    FloatingPoint = 2,
    /// All of `xsave`, in the standard (not compacted) format, of the size this machine has.
    #[cfg(target_arch = "x86_64")]
    X86Extended = 0x202,
    /// The thread pointer.
    #[cfg(target_arch = "aarch64")]
    Arm64Tls = 0x401,
}

/// What a wait for a seized thread showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEvent {
    /// It stands still because it was interrupted.
    Stopped,
    /// It stands still, and the job control of its process has it stopped by this signal.
    GroupStopped(i32),
    /// It is about to take this signal; it has to be resumed with it.
    Signal(i32),
    /// It ended, with this wait status.
    Exited(i32),
    /// It is no longer ours: it ended elsewhere, or another thread's exec took its metadata_address.
    Vanished,
}

/// Begins to trace a thread without stopping it.
///
/// # Errors
///
/// `ESRCH` if it is gone, `EPERM` if it may not be traced.
pub(crate) fn seize(tid: i32) -> nix::Result<()> {
    ptrace::seize(Pid::from_raw(tid), ptrace::Options::empty())
}

/// Asks a traced thread to stop. It has when [`poll`] says so.
pub(crate) fn interrupt(tid: i32) -> nix::Result<()> {
    ptrace::interrupt(Pid::from_raw(tid))
}

/// Lets a stopped thread go on with a signal that it was about to take.
pub(crate) fn resume(tid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Ends the tracing of a stopped thread: it runs on, or stays stopped if its process is by job control.
pub(crate) fn detach(tid: i32) -> nix::Result<()> {
    ptrace::detach(Pid::from_raw(tid), None::<Signal>)
}

/// What happened to this thread, without waiting; `None` when nothing did.
#[expect(unsafe_code, reason = "nix loses the raw status, which the shim's reaper needs")]
pub(crate) fn poll(tid: i32) -> nix::Result<Option<WaitEvent>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the status; no other memory is touched.
    let result = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match Errno::result(result) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(parse_wait_status(status))),
        Err(Errno::ECHILD) => Ok(Some(WaitEvent::Vanished)),
        Err(Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Waits until a child or a traced thread of the caller has ended or stands, and reaps it if it ended; false when there are none.
#[expect(unsafe_code, reason = "nix knows no wait for all kinds of children")]
pub(crate) fn wait_any() -> nix::Result<bool> {
    // SAFETY: a null pointer asks for no status.
    let result = unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(Errno::ECHILD) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Reads a wait status of a seized thread.
fn parse_wait_status(status: i32) -> WaitEvent {
    if !libc::WIFSTOPPED(status) {
        return WaitEvent::Exited(status);
    }
    let signal = libc::WSTOPSIG(status);
    match (status >> 16, signal) {
        (EVENT_STOP, libc::SIGTRAP) => WaitEvent::Stopped,
        (EVENT_STOP, signal) => WaitEvent::GroupStopped(signal),
        (_, signal) => WaitEvent::Signal(signal),
    }
}

/// The registers of a stopped thread, as the kernel lays them out. The buffer grows to what this machine has.
pub(crate) fn registers(tid: i32, set: RegisterSet) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 4096];
    loop {
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        request(
            libc::PTRACE_GETREGSET,
            tid,
            set as usize,
            (&raw mut vector).expose_provenance(),
        )?;
        // The kernel cuts to the buffer and says how much it wrote: a full buffer may be a cut one.
        if vector.iov_len < bytes.len() {
            bytes.truncate(vector.iov_len);
            return Ok(bytes);
        }
        bytes.resize(bytes.len() * 2, 0);
    }
}

/// The signals that a stopped thread blocks: bit n-1 is signal n.
pub(crate) fn blocked_signals(tid: i32) -> nix::Result<u64> {
    let mut mask = 0_u64;
    request(
        libc::PTRACE_GETSIGMASK,
        tid,
        mem::size_of::<u64>(),
        (&raw mut mask).expose_provenance(),
    )?;
    Ok(mask)
}

/// Sets the registers of a stopped thread, laid out as [`registers`] gave them.
pub(crate) fn set_registers(tid: i32, set: RegisterSet, bytes: &[u8]) -> nix::Result<()> {
    let mut vector = libc::iovec {
        // The kernel only reads from here.
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let vector = (&raw mut vector).expose_provenance();
    request(libc::PTRACE_SETREGSET, tid, set as usize, vector).map(drop)
}

/// Sets the signals that a stopped thread blocks.
pub(crate) fn set_blocked_signals(tid: i32, mask: u64) -> nix::Result<()> {
    let mask = &raw const mask;
    request(
        libc::PTRACE_SETSIGMASK,
        tid,
        mem::size_of::<u64>(),
        mask.expose_provenance(),
    )
    .map(drop)
}

/// Sets the options of tracing, of those that ptrace(2) names `PTRACE_O_*`, for a stopped thread.
pub(crate) fn set_options(tid: i32, options: i32) -> nix::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Lets a stopped thread go on, with a signal that it was about to take, to its next entry into a system call or exit from
/// one.
pub(crate) fn resume_to_syscall(tid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// The number that the kernel tells with the event a thread stopped at: of `PTRACE_EVENT_CLONE` the new thread's.
pub(crate) fn event_message(tid: i32) -> nix::Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).expose_provenance())?;
    Ok(message)
}

/// Whether a stopped thread has its own system calls sent back to it as SIGSYS (`PR_SET_SYSCALL_USER_DISPATCH`). A kernel
/// before 6.4 does not tell.
pub(crate) fn has_syscall_user_dispatch(tid: i32) -> nix::Result<bool> {
    /// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`.
    const PTRACE_GET_SUD_CONFIG: u32 = 0x4211;
    /// `struct ptrace_sud_config`.
    #[repr(C)]
    #[derive(Default)]
    struct SudConfig {
        mode: u64,
        selector: u64,
        offset: u64,
        length: u64,
    }
    let mut configuration = SudConfig::default();
    let result = request(
        PTRACE_GET_SUD_CONFIG,
        tid,
        mem::size_of::<SudConfig>(),
        (&raw mut configuration).expose_provenance(),
    );
    match result {
        Ok(_) => Ok(configuration.mode != 0),
        Err(Errno::EIO | Errno::EINVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Why a thread that was let go stands again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PtraceStop {
    /// It enters or leaves a system call (with `PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// It was interrupted, or job control stops it, or lets it go on.
    Interrupted,
    /// An event of an option, by its number; [`event_message`] tells more.
    Event(i32),
    /// It is about to take this signal.
    Signal(i32),
}

/// How a thread that was let go does, without waiting; `None` while it runs. Unlike [`poll`] this takes no end away from
/// whoever waits for it.
///
/// # Errors
///
/// `ESRCH` when it has ended or is no longer ours.
#[expect(
    unsafe_code,
    reason = "nix cannot read the stops of system calls without all options known to it"
)]
pub(crate) fn poll_stop(tid: i32) -> nix::Result<Option<PtraceStop>> {
    let wait = |options: i32| {
        // SAFETY: an all-zero siginfo is a valid value and a valid place for the answer.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let options = options | libc::__WALL | libc::WNOHANG;
            let result = libc::waitid(libc::P_PID, tid.unsigned_abs(), &raw mut info, options);
            // SAFETY: waitid fills the fields of SIGCHLD, or leaves all zero when nothing happened.
            Errno::result(result).map(|_| (info.si_pid(), info.si_code, info.si_status()))
        }
    };
    let peek_options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    match wait(peek_options) {
        Ok((0, ..)) | Err(Errno::EINTR) => return Ok(None),
        Ok((_, libc::CLD_TRAPPED | libc::CLD_STOPPED, _)) => {}
        Ok(_) | Err(Errno::ECHILD) => return Err(Errno::ESRCH),
        Err(errno) => return Err(errno),
    }
    let (pid, _, status) = wait(libc::WSTOPPED)?;
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match (status >> 8, status & 0xff) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => PtraceStop::Syscall,
        (0, signal) => PtraceStop::Signal(signal),
        (EVENT_STOP, _) => PtraceStop::Interrupted,
        (event, _) => PtraceStop::Event(event),
    }))
}

/// Whose queue of pending signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalQueue {
    /// Those sent to the process.
    Process,
    /// Those sent to the one thread.
    Thread,
}

/// The size of a `siginfo_t`, on every Linux.
const SIGINFO_BYTES: usize = 128;

/// `struct __ptrace_peeksiginfo_args` of linux/ptrace.h, which not every C library declares.
#[repr(C)]
struct PeekSiginfo {
    off: u64,
    flags: u32,
    nr: i32,
}

/// The signals that wait for a stopped thread, each as the kernel's `siginfo_t`; they stay in the queue.
pub(crate) fn pending_signals(tid: i32, queue: SignalQueue) -> nix::Result<Vec<Vec<u8>>> {
    const SIGINFO_BATCH: usize = 32;
    let mut signals = Vec::new();
    loop {
        let mut bytes = vec![0_u8; SIGINFO_BATCH * SIGINFO_BYTES];
        let mut arguments = PeekSiginfo {
            off: signals.len() as u64,
            flags: match queue {
                SignalQueue::Process => 1, // PTRACE_PEEKSIGINFO_SHARED
                SignalQueue::Thread => 0,
            },
            nr: SIGINFO_BATCH as i32,
        };
        let read = request(
            libc::PTRACE_PEEKSIGINFO,
            tid,
            (&raw mut arguments).expose_provenance(),
            bytes.as_mut_ptr().expose_provenance(),
        )?;
        let read = usize::try_from(read).unwrap_or(0).min(SIGINFO_BATCH);
        signals.extend(bytes.chunks_exact(SIGINFO_BYTES).take(read).map(<[u8]>::to_vec));
        if read < SIGINFO_BATCH {
            return Ok(signals);
        }
    }
}

/// The restartable sequence area a thread registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rseq {
    /// Where `struct rseq` lies in its memory.
    pub(crate) pointer: u64,
    /// Its size.
    pub(crate) size: u32,
    /// What stands before an abort handler.
    pub(crate) signature: u32,
}

/// The restartable sequence area of a stopped thread; `None` when it has none or the kernel cannot tell.
pub(crate) fn rseq(tid: i32) -> nix::Result<Option<Rseq>> {
    /// `PTRACE_GET_RSEQ_CONFIGURATION`, Linux 5.13.
    const PTRACE_GET_RSEQ_CONFIG: u32 = 0x420f;
    /// `struct ptrace_rseq_configuration`.
    #[repr(C)]
    #[derive(Default)]
    struct RseqConfiguration {
        pointer: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    let mut configuration = RseqConfiguration::default();
    let result = request(
        PTRACE_GET_RSEQ_CONFIG,
        tid,
        mem::size_of::<RseqConfiguration>(),
        (&raw mut configuration).expose_provenance(),
    );
    match result {
        Ok(_) if configuration.pointer != 0 => Ok(Some(Rseq {
            pointer: configuration.pointer,
            size: configuration.size,
            signature: configuration.signature,
        })),
        Ok(_) | Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The nth seccomp filter of a stopped thread, oldest first (what ptrace(2) says is the other way round), as BPF
/// instructions of eight bytes; `None` past the last.
///
/// # Errors
///
/// `EACCES` without `CAP_SYS_ADMIN`, `EINVAL` when the thread is not in filter mode.
pub(crate) fn seccomp_filter(tid: i32, index: usize) -> nix::Result<Option<Vec<u8>>> {
    /// `PTRACE_SECCOMP_GET_FILTER`, Linux 4.4.
    const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
    const BPF_INSN_BYTES: usize = 8;
    let count = match request(PTRACE_SECCOMP_GET_FILTER, tid, index, 0) {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut bytes = vec![0_u8; count * BPF_INSN_BYTES];
    request(
        PTRACE_SECCOMP_GET_FILTER,
        tid,
        index,
        bytes.as_mut_ptr().expose_provenance(),
    )?;
    Ok(Some(bytes))
}

/// The `SECCOMP_FILTER_FLAG_*` of the nth filter of a stopped thread, as [`seccomp_filter`] counts; `None` when the kernel
/// cannot tell.
pub(crate) fn seccomp_flags(tid: i32, index: usize) -> nix::Result<Option<u64>> {
    /// `PTRACE_SECCOMP_GET_METADATA`, Linux 4.16.
    const PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;
    /// `struct seccomp_metadata`.
    #[repr(C)]
    struct SeccompMetadata {
        offset: u64,
        flags: u64,
    }
    let mut metadata = SeccompMetadata {
        offset: index as u64,
        flags: 0,
    };
    let metadata_address = (&raw mut metadata).expose_provenance();
    match request(
        PTRACE_SECCOMP_GET_METADATA,
        tid,
        mem::size_of::<SeccompMetadata>(),
        metadata_address,
    ) {
        Ok(_) => Ok(Some(metadata.flags)),
        Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// One ptrace request whose pointers were exposed by the caller. C libraries do not agree on the type of its number.
#[expect(unsafe_code, reason = "nix knows only a part of the requests")]
fn request(request: impl Into<i64>, tid: i32, address: usize, data: usize) -> nix::Result<i64> {
    // SAFETY: every caller in this file passes either plain numbers or the address of a live, exclusively borrowed value of
    // the size that the request writes; none of them makes the kernel write into this process otherwise.
    let result = unsafe {
        libc::ptrace(
            request.into() as _,
            tid,
            ptr::with_exposed_provenance_mut::<libc::c_void>(address),
            ptr::with_exposed_provenance_mut::<libc::c_void>(data),
        )
    };
    Errno::result(result)
}
