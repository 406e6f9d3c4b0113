//! The ptrace requests of a checkpoint: seize, interrupt, inspect, resume, detach.
//!
//! ```text
//!  running --seize--> traced, running --interrupt--> traced, stopped --detach--> running
//!                          ^                               |
//!                          +---- resume (with the signal) -+   a signal came first
//! ```
//!
//! All requests about a thread must come from the thread that seized it: for the kernel, the tracer is a thread and not
//! a process. When that thread exits, the kernel detaches all its tracees. [`seize`] sets no option that would kill
//! them.
//!
//! Ways to fail: `ESRCH`: the thread has exited or is not stopped; `EPERM`: another tracer, another user, not dumpable,
//! or Yama (ptrace(2), "Ptrace access mode checking").

use std::{mem, ptr};

use nix::{
    errno::Errno,
    sys::{ptrace, signal::Signal},
};

use super::Tid;

/// The event number in the wait status of stops by `PTRACE_INTERRUPT` and of group stops (ptrace(2)).
const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;

/// The general purpose registers.
pub(crate) type GeneralRegs = libc::user_regs_struct;

/// The note types of `PTRACE_GETREGSET` (linux/elf.h) of all other registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum RegisterSet {
    /// Floating point and SIMD: `struct user_fpsimd_state`.
    #[cfg(target_arch = "aarch64")]
    FloatingPoint = 2,
    /// The whole `xsave` area in the standard (not compacted) format, in the size of this machine.
    #[cfg(target_arch = "x86_64")]
    X86Extended = 0x202,
    /// The thread pointer.
    #[cfg(target_arch = "aarch64")]
    Arm64Tls = 0x401,
}

/// What a wait for a seized thread returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEvent {
    /// The thread is stopped by `PTRACE_INTERRUPT`.
    Stopped,
    /// The thread is in a group stop: job control stopped its process with this signal.
    GroupStopped(i32),
    /// The thread is stopped before it receives this signal, which the tracer must pass to [`resume`].
    Signal(i32),
    /// The thread exited with this wait status.
    Exited(i32),
    /// The thread is no longer a tracee: it was reaped elsewhere, or an exec of another thread took its tid.
    Vanished,
}

/// Starts to trace a thread without stopping it.
///
/// # Errors
///
/// `ESRCH` when the thread has exited, `EPERM` when it may not be traced.
pub(crate) fn seize(tid: Tid) -> nix::Result<()> {
    ptrace::seize(tid.into(), ptrace::Options::empty())
}

/// Requests a traced thread to stop. [`poll`] reports the stop.
pub(crate) fn interrupt(tid: Tid) -> nix::Result<()> {
    ptrace::interrupt(tid.into())
}

/// Resumes a stopped thread and delivers `signal` unless it is 0.
pub(crate) fn resume(tid: Tid, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Stops tracing a stopped thread. The thread runs, or remains stopped if job control has stopped its process.
pub(crate) fn detach(tid: Tid) -> nix::Result<()> {
    ptrace::detach(tid.into(), None::<Signal>)
}

/// Returns the next event of a thread, if there is one, and reaps the thread if it exited. Does not block.
#[expect(unsafe_code, reason = "nix does not return the raw status, which the shim needs")]
pub(crate) fn poll(tid: Tid) -> nix::Result<Option<WaitEvent>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the status; no other memory is accessed.
    let result = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, libc::__WALL | libc::WNOHANG) };
    match Errno::result(result) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(parse_wait_status(status))),
        Err(Errno::ECHILD) => Ok(Some(WaitEvent::Vanished)),
        Err(Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Waits until a child or tracee of this process stops or exits, and reaps it if it exited. Returns false when there is
/// none.
#[expect(unsafe_code, reason = "nix has no wait with __WALL for all children")]
pub(crate) fn wait_any() -> nix::Result<bool> {
    // SAFETY: a null pointer requests no status.
    let result = unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(Errno::ECHILD) => Ok(false),
        Err(errno) => Err(errno),
    }
}

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

/// The general purpose registers of a stopped thread; `None` for a thread of another ABI (a 32-bit program), whose
/// register set has another size.
#[expect(
    unsafe_code,
    reason = "nix's getregset does not return the size that the kernel wrote, and needs glibc on x86-64"
)]
pub(crate) fn general_regs(tid: Tid) -> nix::Result<Option<GeneralRegs>> {
    // SAFETY: the registers are integers, so all zeroes are a valid value.
    let mut registers: GeneralRegs = unsafe { mem::zeroed() };
    let mut vector = libc::iovec {
        iov_base: (&raw mut registers).cast(),
        iov_len: mem::size_of::<GeneralRegs>(),
    };
    request_with(libc::PTRACE_GETREGSET, tid, libc::NT_PRSTATUS as usize, &mut vector)?;
    Ok((vector.iov_len == mem::size_of::<GeneralRegs>()).then_some(registers))
}

pub(crate) fn set_general_regs(tid: Tid, registers: &GeneralRegs) -> nix::Result<()> {
    let bytes = mem::size_of::<GeneralRegs>();
    set_regset(tid, libc::NT_PRSTATUS, ptr::from_ref(registers).cast(), bytes)
}

/// A register set of a stopped thread in the layout of the kernel. The buffer grows to the size of this machine.
pub(crate) fn register_set(tid: Tid, set: RegisterSet) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 4096];
    loop {
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        request_with(libc::PTRACE_GETREGSET, tid, set as usize, &mut vector)?;
        // The kernel truncates to the buffer and returns how much it wrote, so the data in a full buffer may be
        // truncated.
        if vector.iov_len < bytes.len() {
            bytes.truncate(vector.iov_len);
            return Ok(bytes);
        }
        bytes.resize(bytes.len() * 2, 0);
    }
}

/// The signal mask of a stopped thread: bit n-1 is signal n.
pub(crate) fn blocked_signals(tid: Tid) -> nix::Result<u64> {
    let mut mask = 0_u64;
    request_with(libc::PTRACE_GETSIGMASK, tid, mem::size_of::<u64>(), &mut mask)?;
    Ok(mask)
}

/// Sets registers of a stopped thread, in the layout of [`register_set`].
pub(crate) fn set_register_set(tid: Tid, set: RegisterSet, bytes: &[u8]) -> nix::Result<()> {
    set_regset(tid, set as i32, bytes.as_ptr().cast(), bytes.len())
}

fn set_regset(tid: Tid, note_type: i32, registers: *const libc::c_void, length: usize) -> nix::Result<()> {
    let mut vector = libc::iovec {
        // The kernel only reads from this memory.
        iov_base: registers.cast_mut(),
        iov_len: length,
    };
    request_with(libc::PTRACE_SETREGSET, tid, note_type as usize, &mut vector).map(drop)
}

pub(crate) fn set_blocked_signals(tid: Tid, mut mask: u64) -> nix::Result<()> {
    request_with(libc::PTRACE_SETSIGMASK, tid, mem::size_of::<u64>(), &mut mask).map(drop)
}

/// Sets the `PTRACE_O_*` options for a stopped thread.
pub(crate) fn set_options(tid: Tid, options: i32) -> nix::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Resumes a stopped thread until its next entry into or exit from a system call, and delivers `signal` unless it is 0.
pub(crate) fn resume_to_syscall(tid: Tid, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// The message of the event at which a thread stopped: the new tid for `PTRACE_EVENT_CLONE`.
pub(crate) fn event_message(tid: Tid) -> nix::Result<u64> {
    let mut message: libc::c_ulong = 0;
    request_with(libc::PTRACE_GETEVENTMSG, tid, 0, &mut message)?;
    Ok(message)
}

/// Whether the kernel turns the system calls of a stopped thread into SIGSYS (`PR_SET_SYSCALL_USER_DISPATCH`). Returns
/// false on kernels before 6.4, which do not report it.
pub(crate) fn has_syscall_user_dispatch(tid: Tid) -> nix::Result<bool> {
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
    let bytes = mem::size_of::<SudConfig>();
    match request_with(PTRACE_GET_SUD_CONFIG, tid, bytes, &mut configuration) {
        Ok(_) => Ok(configuration.mode != 0),
        Err(Errno::EIO | Errno::EINVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Why a resumed thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PtraceStop {
    /// Entry into or exit from a system call (with `PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// An interrupt, a group stop, or the end of one.
    Interrupted,
    /// A `PTRACE_EVENT_*`; [`event_message`] returns its message.
    Event(i32),
    /// The thread is stopped before it receives this signal.
    Signal(i32),
}

/// Returns the stop of a resumed thread; `None` while it runs. Does not block, and does not reap an exited thread as
/// [`poll`] does.
///
/// # Errors
///
/// `ESRCH` when the thread has exited or is no longer a tracee.
#[expect(unsafe_code, reason = "nix does not decode all of these stops")]
pub(crate) fn poll_stop(tid: Tid) -> nix::Result<Option<PtraceStop>> {
    let wait = |options: i32| {
        // SAFETY: an all-zero siginfo is a valid value and a valid place for the result.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let options = options | libc::__WALL | libc::WNOHANG;
            let result = libc::waitid(libc::P_PID, tid.as_raw().unsigned_abs(), &raw mut info, options);
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalQueue {
    /// The shared queue of the process.
    Process,
    /// The queue of the thread.
    Thread,
}

/// The size of the kernel's `sigset_t`.
pub(crate) const SIGSET_BYTES: u64 = 8;
/// The size of `siginfo_t` on every architecture.
pub(crate) const SIGINFO_BYTES: usize = 128;

/// `struct __ptrace_peeksiginfo_args` of linux/ptrace.h, which some C libraries do not declare.
#[repr(C)]
struct PeekSiginfo {
    off: u64,
    flags: u32,
    nr: i32,
}

/// The pending signals of a stopped thread, each as the kernel's `siginfo_t`. They remain in the queue.
pub(crate) fn pending_signals(tid: Tid, queue: SignalQueue) -> nix::Result<Vec<Vec<u8>>> {
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

/// The rseq area that a thread registered (rseq(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rseq {
    /// The address of `struct rseq`.
    pub(crate) pointer: u64,
    /// The size of the area.
    pub(crate) size: u32,
    /// The signature before each abort handler.
    pub(crate) signature: u32,
}

/// The rseq area of a stopped thread; `None` when it has none or the kernel does not report it.
pub(crate) fn rseq(tid: Tid) -> nix::Result<Option<Rseq>> {
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
    let bytes = mem::size_of::<RseqConfiguration>();
    match request_with(PTRACE_GET_RSEQ_CONFIG, tid, bytes, &mut configuration) {
        Ok(_) if configuration.pointer != 0 => Ok(Some(Rseq {
            pointer: configuration.pointer,
            size: configuration.size,
            signature: configuration.signature,
        })),
        Ok(_) | Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The seccomp filter `index` of a stopped thread, oldest first (ptrace(2) states the opposite order), as BPF
/// instructions of eight bytes; `None` past the last filter.
///
/// # Errors
///
/// `EACCES` without `CAP_SYS_ADMIN`, `EINVAL` when the thread is not in filter mode.
pub(crate) fn seccomp_filter(tid: Tid, index: usize) -> nix::Result<Option<Vec<u8>>> {
    /// `PTRACE_SECCOMP_GET_FILTER`, Linux 4.4.
    const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
    const BPF_INSN_BYTES: usize = 8;
    let count = match request(PTRACE_SECCOMP_GET_FILTER, tid, index, 0) {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut bytes = vec![0_u8; count * BPF_INSN_BYTES];
    let address = bytes.as_mut_ptr().expose_provenance();
    request(PTRACE_SECCOMP_GET_FILTER, tid, index, address)?;
    Ok(Some(bytes))
}

/// The `SECCOMP_FILTER_FLAG_*` of a filter, with the index of [`seccomp_filter`]; `None` when the kernel does not
/// report them.
pub(crate) fn seccomp_flags(tid: Tid, index: usize) -> nix::Result<Option<u64>> {
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
    let bytes = mem::size_of::<SeccompMetadata>();
    match request_with(PTRACE_SECCOMP_GET_METADATA, tid, bytes, &mut metadata) {
        Ok(_) => Ok(Some(metadata.flags)),
        Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A request whose data is a value of the size that the request reads or writes.
fn request_with<T>(number: impl Into<i64>, tid: Tid, address: usize, data: &mut T) -> nix::Result<i64> {
    request(number, tid, address, ptr::from_mut(data).expose_provenance())
}

/// A ptrace request. The caller must have exposed its pointers. C libraries disagree on the type of the request number.
#[expect(unsafe_code, reason = "nix wraps only some requests")]
fn request(request: impl Into<i64>, tid: Tid, address: usize, data: usize) -> nix::Result<i64> {
    // SAFETY: every caller in this file passes either integers or the address of a live, exclusively borrowed value of
    // the size that the request writes; none of them makes the kernel write to other memory of this process.
    let result = unsafe {
        libc::ptrace(
            request.into() as _,
            tid.as_raw(),
            ptr::with_exposed_provenance_mut::<libc::c_void>(address),
            ptr::with_exposed_provenance_mut::<libc::c_void>(data),
        )
    };
    Errno::result(result)
}
