//! System calls that a stopped thread executes on behalf of the tracer, as compel does for CRIU.
//!
//! ```text
//!   stopped (PTRACE_EVENT_STOP)
//!      |  attach: options set, all signals blocked, registers saved
//!      v
//!   call:  registers of the call, at a system call instruction  --PTRACE_SYSCALL-->  entry  --PTRACE_SYSCALL-->  exit
//!      |                                                                                                         |
//!      +---------------------------------- any number of calls <-------------------------------------------------+
//!      |  finish: registers restored, interrupted, signal mask and options restored
//!      v
//!   stopped (PTRACE_EVENT_STOP), in the state before attach
//! ```
//!
//! A thread can also run a whole list of calls without stopping: [`syscall_list`]. Otherwise it executes one user
//! instruction for each call: a system call instruction that some executable mapping of the process contains anyway
//! (nearly always the vdso), so the tracer writes no code. The thread stops by `PTRACE_SYSCALL` and is never
//! single-stepped: the SIGTRAP of a single step is a forced signal, and the kernel resets the action of SIGTRAP to the
//! default when the process ignores or blocks it.
//!
//! After the last call the tracer interrupts the thread again, so that it stops in the kernel's signal path. Only there
//! does the kernel restart the task's own interrupted system call (`-ERESTARTSYS` and its like); it never does so from
//! the exit stop of another call. The restart state of a call that sleeps (`restart_block`) survives, because no remote
//! syscall sleeps.
//!
//! A tracer stop interrupts a call that waits with its own signal mask (sigsuspend, ppoll). The kernel restarts the
//! call, which installs that mask again. A signal for it that arrived meanwhile then ends the call.
//!
//! If the thread was stopped inside a restartable sequence (rseq(2)), the restored registers point to the abort
//! handler. The kernel would abort the sequence at the return to user space, because the thread was preempted. But
//! during a remote syscall the instruction pointer is outside the sequence, and the kernel then clears `rseq_cs`
//! without an abort.
//!
//! Ways to fail, each of which leaves the thread unchanged: no system call instruction, a 32-bit program, a seccomp
//! filter that cannot be suspended, system calls dispatched to user space. If the *tracer* dies between `attach` and
//! `finish`, the thread continues with the registers of the remote syscall and all signals blocked. Therefore the
//! tracer must be a process that nobody kills (the shim).

mod syscall_list;

use std::{
    slice, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

pub(crate) use self::syscall_list::{PendingList, Syscall, SyscallBuffer, SyscallResult};
use super::{
    Tid, arch,
    memory::ProcMem,
    proc_files::{self, Mapping},
    ptrace::{self, GeneralRegs, PtraceStop},
};

/// How long a call may take. No remote syscall sleeps.
const SYSCALL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time, a wait also checks whether the thread has exited.
const EXIT_CHECK_AFTER: Duration = Duration::from_millis(1);
/// How much of a mapping is searched for a system call instruction.
const INSN_SCAN_BYTES: u64 = 4 << 20;
const ALL_SIGNALS: u64 = u64::MAX;
/// `PTRACE_O_SUSPEND_SECCOMP`, Linux 4.3.
const PTRACE_O_SUSPEND_SECCOMP: i32 = 1 << 21;

/// Why a thread cannot execute a remote syscall.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteSyscallError {
    #[error("no executable mapping contains a system call instruction")]
    NoSyscallInsn,
    #[error("the task is not a 64-bit task of this architecture")]
    ForeignAbi,
    /// The seccomp filter would apply to the call and cannot be suspended.
    #[error("its seccomp filter cannot be suspended ({0}): CAP_SYS_ADMIN and a tracer without a filter are required")]
    Seccomp(Errno),
    /// The kernel would turn the call into a SIGSYS.
    #[error("its system calls are dispatched to user space (PR_SET_SYSCALL_USER_DISPATCH)")]
    SyscallUserDispatch,
    #[error("the task exited")]
    Exited,
    /// The call did not return, not even after an interrupt.
    #[error("a remote syscall did not return within {0:?}")]
    TimedOut(Duration),
    /// The thread is about to receive a signal that no mask blocks.
    #[error("signal {0} interrupted a remote syscall")]
    Signal(i32),
    /// A ptrace request failed.
    #[error("{0}: {1}")]
    Kernel(&'static str, Errno),
}

fn kernel(request: &'static str) -> impl Fn(Errno) -> RemoteSyscallError {
    move |errno| match errno {
        Errno::ESRCH => RemoteSyscallError::Exited,
        errno => RemoteSyscallError::Kernel(request, errno),
    }
}

/// The address of a system call instruction in a process. It is valid for all threads while they are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyscallInsn(u64);

impl SyscallInsn {
    /// The bytes of the instruction, for memory that the tracer fills.
    pub(crate) const BYTES: &'static [u8] = &arch::SYSCALL_INSN;

    pub(crate) fn at_address(address: u64) -> Self {
        Self(address)
    }

    /// Searches the mappings of the process that this thread belongs to.
    pub(crate) fn find(tid: Tid) -> Result<Self, RemoteSyscallError> {
        // A process without mappings has exited.
        let mappings = proc_files::maps(tid).map_err(|_| RemoteSyscallError::Exited)?;
        Self::find_in_mappings(tid, &mappings)
    }

    /// Like [`Self::find`], with mappings that the caller has read.
    pub(crate) fn find_in_mappings(tid: Tid, mappings: &[Mapping]) -> Result<Self, RemoteSyscallError> {
        let is_vdso = |mapping: &&Mapping| mapping.name.as_os_str() == "[vdso]";
        let usable = |mapping: &&Mapping| mapping.execute && mapping.name.as_os_str() != "[vsyscall]";
        let vdsos = mappings.iter().filter(is_vdso);
        let others = mappings.iter().filter(|mapping| !is_vdso(mapping));
        let mut memory = ProcMem::new(tid);
        for mapping in vdsos.chain(others).filter(usable) {
            let range = mapping.range.start..mapping.range.end.min(mapping.range.start + INSN_SCAN_BYTES);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            memory
                .read(slice::from_ref(&range), &mut bytes, |_| {})
                .map_err(|_| RemoteSyscallError::Exited)?;
            if let Some(offset) = arch::find_syscall_insn(&bytes) {
                return Ok(Self(range.start + offset as u64));
            }
        }
        Err(RemoteSyscallError::NoSyscallInsn)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TraceState {
    /// In a `PTRACE_EVENT_STOP` in the signal path.
    Stopped,
    /// Resumed, and not yet seen to stop.
    Running,
    /// At the entry of a remote syscall.
    SyscallEntry,
    /// At the exit of a remote syscall.
    SyscallExit,
}

/// A stopped thread that executes remote syscalls. Drop restores the state before [`Self::attach`].
#[derive(Debug)]
pub(crate) struct RemoteSyscalls {
    tid: Tid,
    insn: SyscallInsn,
    saved_regs: GeneralRegs,
    saved_sigmask: u64,
    state: TraceState,
    attached: bool,
    /// The ptrace options now, and those after the restore.
    options: i32,
    options_after: i32,
    events: Vec<(i32, u64)>,
}

impl RemoteSyscalls {
    /// Prepares a thread that is in a `PTRACE_EVENT_STOP` of this tracer. `options` are further `PTRACE_O_*` until the
    /// restore; [`Self::take_events`] returns the events that they cause. `PTRACE_O_EXITKILL` remains set afterwards.
    ///
    /// # Errors
    ///
    /// The conditions in the module documentation; the thread is then unchanged.
    pub(crate) fn attach(tid: Tid, insn: SyscallInsn, options: i32) -> Result<Self, RemoteSyscallError> {
        let mut saved_regs = read_regs(tid)?;
        if ptrace::has_syscall_user_dispatch(tid).map_err(kernel("reading the system call dispatch"))? {
            return Err(RemoteSyscallError::SyscallUserDispatch);
        }
        abort_rseq(tid, &mut saved_regs)?;
        let saved_sigmask = ptrace::blocked_signals(tid).map_err(kernel("reading blocked signals"))?;
        let mut remote = Self {
            tid,
            insn,
            saved_regs,
            saved_sigmask,
            state: TraceState::Stopped,
            attached: true,
            options: 0,
            options_after: options & libc::PTRACE_O_EXITKILL,
            events: Vec::new(),
        };
        let options = options | libc::PTRACE_O_TRACESYSGOOD;
        match ptrace::set_options(tid, options | PTRACE_O_SUSPEND_SECCOMP) {
            Ok(()) => remote.options = options | PTRACE_O_SUSPEND_SECCOMP,
            Err(refusal) => {
                let status = proc_files::status(tid).map_err(|_| RemoteSyscallError::Exited)?;
                if status.seccomp != Some(0) {
                    remote.attached = false;
                    return Err(RemoteSyscallError::Seccomp(refusal));
                }
                ptrace::set_options(tid, options).map_err(kernel("setting options"))?;
                remote.options = options;
            }
        }
        ptrace::set_blocked_signals(tid, ALL_SIGNALS).map_err(kernel("blocking signals"))?;
        Ok(remote)
    }

    /// Makes the thread execute one system call, which must not sleep. The inner result is the kernel's.
    ///
    /// # Errors
    ///
    /// The call could not be made, or did not return.
    pub(crate) fn call<const N: usize>(
        &mut self,
        nr: i64,
        arguments: [u64; N],
    ) -> Result<nix::Result<u64>, RemoteSyscallError> {
        self.begin_call(nr, all_arguments(arguments))?;
        self.end_call()
    }

    /// Starts a call: enters it and does not wait for its exit.
    fn begin_call(&mut self, nr: i64, arguments: [u64; 6]) -> Result<(), RemoteSyscallError> {
        if self.state == TraceState::Running {
            self.stop_in_signal_path()?;
        }
        let registers = arch::call_regs(&self.saved_regs, self.insn.0, nr, arguments);
        ptrace::set_general_regs(self.tid, &registers).map_err(kernel("setting registers"))?;
        self.resume_to_syscall(0)?;
        self.wait_syscall_stop(TraceState::SyscallEntry)?;
        self.resume_to_syscall(0)
    }

    /// Waits for the exit of the call and returns its result.
    fn end_call(&mut self) -> Result<nix::Result<u64>, RemoteSyscallError> {
        self.wait_syscall_stop(TraceState::SyscallExit)?;
        Ok(syscall_result(arch::return_value(&read_regs(self.tid)?)))
    }

    /// Returns the events since the last call of this function, each with its message (see the options of
    /// [`Self::attach`]).
    pub(crate) fn take_events(&mut self) -> Vec<(i32, u64)> {
        std::mem::take(&mut self.events)
    }

    /// Restores registers, signal mask and options.
    ///
    /// # Errors
    ///
    /// The thread has exited, or a call does not return.
    pub(crate) fn finish(mut self) -> Result<(), RemoteSyscallError> {
        self.restore()
    }

    /// Like [`Self::finish`], but does nothing the second time. [`Self::take_events`] still works afterwards, also for
    /// a call whose exit was not seen.
    pub(crate) fn restore(&mut self) -> Result<(), RemoteSyscallError> {
        if !std::mem::take(&mut self.attached) {
            return Ok(());
        }
        if self.state == TraceState::SyscallEntry {
            self.resume_to_syscall(0)?;
            self.wait_syscall_stop(TraceState::SyscallExit)?;
        }
        if self.state == TraceState::Running {
            self.stop_in_signal_path()?;
        }
        ptrace::set_general_regs(self.tid, &self.saved_regs).map_err(kernel("restoring registers"))?;
        if self.state == TraceState::SyscallExit {
            self.stop_in_signal_path()?;
        }
        ptrace::set_blocked_signals(self.tid, self.saved_sigmask).map_err(kernel("restoring blocked signals"))?;
        ptrace::set_options(self.tid, self.options_after).map_err(kernel("restoring options"))
    }

    fn resume_to_syscall(&mut self, signal: i32) -> Result<(), RemoteSyscallError> {
        ptrace::resume_to_syscall(self.tid, signal).map_err(kernel("resuming"))?;
        self.state = TraceState::Running;
        Ok(())
    }

    /// Waits for the entry or the exit of the call. SIGSTOP cannot be blocked and is delivered: the thread enters a
    /// group stop, the next `PTRACE_SYSCALL` resumes it, and it stops again after the detach. Any other signal was
    /// forced by the call itself.
    fn wait_syscall_stop(&mut self, state: TraceState) -> Result<(), RemoteSyscallError> {
        loop {
            let signal = match self.next_stop()? {
                PtraceStop::Syscall => {
                    self.state = state;
                    return Ok(());
                }
                PtraceStop::Interrupted => 0,
                PtraceStop::Event(event) => self.record_event(event)?,
                PtraceStop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                PtraceStop::Signal(signal) => {
                    // `restore` must treat the thread as if the call had returned.
                    self.state = TraceState::SyscallExit;
                    return Err(RemoteSyscallError::Signal(signal));
                }
            };
            self.resume_to_syscall(signal)?;
        }
    }

    /// Interrupts the thread and resumes it until it stops in the signal path, before it executes another instruction
    /// of its own.
    fn stop_in_signal_path(&mut self) -> Result<(), RemoteSyscallError> {
        ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
        if self.state != TraceState::Running {
            ptrace::resume(self.tid, 0).map_err(kernel("resuming"))?;
            self.state = TraceState::Running;
        }
        loop {
            let signal = match self.next_stop()? {
                PtraceStop::Interrupted => {
                    self.state = TraceState::Stopped;
                    return Ok(());
                }
                // A call whose wait timed out returns now. Every stop clears the pending interrupt, so it is sent again
                // below.
                PtraceStop::Syscall => 0,
                PtraceStop::Event(event) => self.record_event(event)?,
                PtraceStop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                // Forced by the remote syscall.
                PtraceStop::Signal(_) => 0,
            };
            ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
            ptrace::resume(self.tid, signal).map_err(kernel("resuming"))?;
        }
    }

    fn record_event(&mut self, event: i32) -> Result<i32, RemoteSyscallError> {
        let message = ptrace::event_message(self.tid).map_err(kernel("reading the event message"))?;
        self.events.push((event, message));
        Ok(0)
    }

    fn next_stop(&self) -> Result<PtraceStop, RemoteSyscallError> {
        wait_for_stop(self.tid)
    }
}

/// Waits until a traced thread stops.
///
/// # Errors
///
/// The thread exits, or does not stop within [`SYSCALL_TIMEOUT`].
pub(crate) fn wait_for_stop(tid: Tid) -> Result<PtraceStop, RemoteSyscallError> {
    let mut wait = PollBackoff::start();
    loop {
        match ptrace::poll_stop(tid).map_err(kernel("waiting for a stop"))? {
            Some(stop) => return Ok(stop),
            None => wait.snooze(tid)?,
        }
    }
}

/// Polls for a stop with growing pauses. Calls take microseconds, so the first polls only yield. They do yield, because
/// on a busy machine the tracee needs the CPU more than its tracer.
struct PollBackoff {
    started: Instant,
    pause: Duration,
}

impl PollBackoff {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    fn snooze(&mut self, tid: Tid) -> Result<(), RemoteSyscallError> {
        let waited = self.started.elapsed();
        if waited < Duration::from_micros(100) {
            thread::yield_now();
            return Ok(());
        }
        if waited > SYSCALL_TIMEOUT {
            return Err(RemoteSyscallError::TimedOut(waited));
        }
        // wait(2) reports the exit of a thread group leader only after all other threads are reaped, the traced ones
        // included.
        if waited > EXIT_CHECK_AFTER && proc_files::is_exiting(tid) {
            return Err(RemoteSyscallError::Exited);
        }
        self.pause = (self.pause * 2).clamp(Duration::from_micros(20), Duration::from_micros(250));
        thread::sleep(self.pause);
        Ok(())
    }
}

impl Drop for RemoteSyscalls {
    fn drop(&mut self) {
        // The error that led to this drop is already on its way to the caller.
        let _ = self.restore();
    }
}

/// The registers of all arguments, of which a call uses the first ones.
fn all_arguments<const N: usize>(given: [u64; N]) -> [u64; 6] {
    const { assert!(N <= 6) };
    let mut arguments = [0; 6];
    arguments[..N].copy_from_slice(&given);
    arguments
}

fn read_regs(tid: Tid) -> Result<GeneralRegs, RemoteSyscallError> {
    let registers = ptrace::general_regs(tid).map_err(kernel("reading registers"))?;
    registers.ok_or(RemoteSyscallError::ForeignAbi)
}

/// Converts a raw return value: -4095 to -1 are errors.
fn syscall_result(raw: u64) -> nix::Result<u64> {
    match raw.cast_signed() {
        error @ -4095..0 => Err(Errno::from_raw(error.unsigned_abs() as i32)),
        _ => Ok(raw),
    }
}

/// Sets the registers to the abort handler if they are inside a restartable sequence.
fn abort_rseq(tid: Tid, registers: &mut GeneralRegs) -> Result<(), RemoteSyscallError> {
    let Some(registration) = ptrace::rseq(tid).map_err(kernel("reading the rseq area"))? else {
        return Ok(());
    };
    let mut memory = ProcMem::new(tid);
    let mut read_words = |address: u64, words: &mut [u64]| {
        let mut bytes = vec![0; words.len() * 8];
        let range = address..address + bytes.len() as u64;
        let mut complete = true;
        memory
            .read(slice::from_ref(&range), &mut bytes, |_| complete = false)
            .map_err(|_| RemoteSyscallError::Exited)?;
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Ok(complete)
    };
    // `struct rseq`: `cpu_id_start` and `cpu_id`, then a pointer to `struct rseq_cs`: version and flags, start, length,
    // abort.
    let mut pointer = [0];
    let mut rseq_cs = [0; 4];
    if read_words(registration.pointer + 8, &mut pointer)? && pointer[0] != 0 && read_words(pointer[0], &mut rseq_cs)? {
        let [_, start, length, abort] = rseq_cs;
        let ip = arch::instruction_pointer(registers);
        if ip.wrapping_sub(start) < length {
            *ip = abort;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
