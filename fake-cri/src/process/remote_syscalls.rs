//! System calls made by another process's thread, on the tracer's word.
//!
//! ```text
//!   stands (PTRACE_EVENT_STOP)
//!      |  enter: options set, every signal blocked, registers kept
//!      v
//!   call:  registers of the call, at a system call instruction  --PTRACE_SYSCALL-->  entry  --PTRACE_SYSCALL-->  exit
//!      |                                                                                                         |
//!      +---------------------------------- any number of calls <-------------------------------------------------+
//!      |  leave: registers put back, interrupted, blocked signals and options put back
//!      v
//!   stands (PTRACE_EVENT_STOP), as it stood before
//! ```
//!
//! A thread may be given a whole list of calls, and be let go until it has made them: [`syscall_list`]. Otherwise it executes one
//! instruction of user code a call: a system call instruction that some executable mapping of the process holds anyway (nearly
//! always the vdso's), so no code is written anywhere. It stops by `PTRACE_SYSCALL`, not by single steps: the SIGTRAP of a step is
//! a forced signal, for which the kernel takes the disposition of SIGTRAP away when the process ignores or blocks it.
//!
//! After the last call the thread is interrupted anew, so that it stands in the kernel's signal path again: only there is an
//! interrupted system call restarted (`-ERESTARTSYS` and its like), and never from the exit of a foreign one. The state that a
//! call which sleeps left for its restart (`restart_block`) survives, since no call made here sleeps.
//!
//! A call that waits with a mask of its own (sigsuspend, ppoll) is interrupted as by any stop of a tracer; it is restarted and
//! puts that mask in force again. A signal for it that came meanwhile ends it then.
//!
//! A restartable sequence (rseq(2)) that the thread stood in is aborted in the registers that are put back, as the kernel
//! itself would have done at the return to user space: it has been off its processor, and the foreign address would make the
//! kernel forget the rseq_cs.
//!
//! Ways to fail, each of which leaves the thread as it was: no instruction to use, a 32-bit program, a seccomp filter that
//! may not be suspended, system calls dispatched to user space. When the *tracer* dies between `enter` and `leave`, the thread
//! runs on with foreign registers and all signals blocked: the tracer has to be a process that nobody kills (the shim).

#[cfg(target_arch = "aarch64")]
#[path = "remote_syscalls/aarch64.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "remote_syscalls/x86_64.rs"]
mod machine;
mod syscall_list;

use std::{
    slice, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

pub(crate) use self::syscall_list::{PendingList, Syscall, SyscallBuffer, SyscallResult};
use super::{
    memory::ProcMem,
    proc_files::{self, Mapping},
    ptrace::{self, PtraceStop, RegisterSet},
};

/// The longest time a call may take; those made here never sleep.
const SYSCALL_TIMEOUT: Duration = Duration::from_secs(5);
/// What waits longer may wait for one that has ended.
const EXIT_CHECK_AFTER: Duration = Duration::from_millis(1);
/// How much of a mapping is looked through for an instruction.
const INSN_SCAN_BYTES: u64 = 4 << 20;
/// Every signal.
const ALL_SIGNALS: u64 = u64::MAX;
/// `PTRACE_O_SUSPEND_SECCOMP`, Linux 4.3.
const PTRACE_O_SUSPEND_SECCOMP: i32 = 1 << 21;

/// Why a thread could not be made to call the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteSyscallError {
    /// Nothing executable has the instruction.
    #[error("none of its executable mappings holds a system call instruction")]
    NoSyscallInsn,
    /// Registers of another size than this architecture's.
    #[error("it does not run as a program of this architecture's full width")]
    ForeignAbi,
    /// Its filter would judge the call, and may not be suspended.
    #[error("its seccomp filter cannot be suspended ({0}): that takes CAP_SYS_ADMIN and a tracer without a filter")]
    Seccomp(Errno),
    /// Its calls come back to it as signals.
    #[error("its system calls are dispatched to user space (PR_SET_SYSCALL_USER_DISPATCH)")]
    SyscallUserDispatch,
    /// It was killed.
    #[error("it ended")]
    Exited,
    /// The call did not return, not even when it was interrupted.
    #[error("a system call did not return within {0:?}")]
    TimedOut(Duration),
    /// It was about to take a signal that no mask holds back.
    #[error("signal {0} came to it in a system call")]
    Signal(i32),
    /// A request failed.
    #[error("{0}: {1}")]
    Kernel(&'static str, Errno),
}

fn kernel(request: &'static str) -> impl Fn(Errno) -> RemoteSyscallError {
    move |errno| match errno {
        Errno::ESRCH => RemoteSyscallError::Exited,
        errno => RemoteSyscallError::Kernel(request, errno),
    }
}

/// The address of a system call instruction in a process. Good for all its threads, as long as they stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyscallInsn(u64);

impl SyscallInsn {
    /// The instruction, for memory that was made to hold one.
    pub(crate) const BYTES: &'static [u8] = &machine::SYSCALL_INSN;

    /// The one that was put at this address.
    pub(crate) fn at_address(address: u64) -> Self {
        Self(address)
    }

    /// Looks for one in the process of this thread.
    pub(crate) fn find(tid: i32) -> Result<Self, RemoteSyscallError> {
        // What has no mappings any more has ended.
        let mappings = proc_files::maps(tid).map_err(|_| RemoteSyscallError::Exited)?;
        Self::find_in_mappings(tid, &mappings)
    }

    /// Looks for one in the process of this thread, which has these mappings.
    pub(crate) fn find_in_mappings(tid: i32, mappings: &[Mapping]) -> Result<Self, RemoteSyscallError> {
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
            if let Some(offset) = machine::find_syscall_insn(&bytes) {
                return Ok(Self(range.start + offset as u64));
            }
        }
        Err(RemoteSyscallError::NoSyscallInsn)
    }
}

/// Where the thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TraceState {
    /// In the signal path, where it was found or left again.
    Stopped,
    /// Let go, on its way to a stop.
    Running,
    /// About to enter a call that was asked for.
    SyscallEntry,
    /// Behind a call.
    SyscallExit,
}

/// A stopped thread that calls the kernel when it is told to. Dropped, it stands as it stood before.
#[derive(Debug)]
pub(crate) struct RemoteSyscalls {
    tid: i32,
    insn: SyscallInsn,
    saved_regs: Vec<u8>,
    saved_sigmask: u64,
    state: TraceState,
    attached: bool,
    /// The options of the remote, and those behind it.
    options: i32,
    options_after: i32,
    events: Vec<(i32, u64)>,
}

impl RemoteSyscalls {
    /// Prepares a thread that stands in a `PTRACE_EVENT_STOP` of this tracer. `options` are further `PTRACE_O_*` for the time
    /// of the remote; what they make the kernel tell is in [`Self::take_events`]. `PTRACE_O_EXITKILL` stays behind it.
    ///
    /// # Errors
    ///
    /// As the module's documentation says; the thread stands as it stood then.
    pub(crate) fn attach(tid: i32, insn: SyscallInsn, options: i32) -> Result<Self, RemoteSyscallError> {
        let mut saved_regs = ptrace::registers(tid, RegisterSet::General).map_err(kernel("registers"))?;
        if saved_regs.len() != machine::REGS_BYTES {
            return Err(RemoteSyscallError::ForeignAbi);
        }
        if ptrace::has_syscall_user_dispatch(tid).map_err(kernel("system call dispatch"))? {
            return Err(RemoteSyscallError::SyscallUserDispatch);
        }
        abort_rseq(tid, &mut saved_regs)?;
        let saved_sigmask = ptrace::blocked_signals(tid).map_err(kernel("blocked signals"))?;
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
                ptrace::set_options(tid, options).map_err(kernel("options"))?;
                remote.options = options;
            }
        }
        ptrace::set_blocked_signals(tid, ALL_SIGNALS).map_err(kernel("blocking signals"))?;
        Ok(remote)
    }

    /// Makes the thread call the kernel; what the call answered. It must be one that does not sleep.
    ///
    /// # Errors
    ///
    /// The outer error says that the call could not be made or not be seen to its end.
    pub(crate) fn call(&mut self, nr: i64, arguments: [u64; 6]) -> Result<nix::Result<u64>, RemoteSyscallError> {
        self.begin_call(nr, arguments)?;
        self.end_call()
    }

    /// Lets the thread go into a call.
    fn begin_call(&mut self, nr: i64, arguments: [u64; 6]) -> Result<(), RemoteSyscallError> {
        if self.state == TraceState::Running {
            self.stop_in_signal_path()?;
        }
        let registers = machine::call_regs(&self.saved_regs, self.insn.0, nr, arguments);
        ptrace::set_registers(self.tid, RegisterSet::General, &registers).map_err(kernel("setting registers"))?;
        self.resume_to_syscall(0)?;
        self.wait_syscall_stop(TraceState::SyscallEntry)?;
        self.resume_to_syscall(0)
    }

    /// Waits until the thread is behind its call; what that answered.
    fn end_call(&mut self) -> Result<nix::Result<u64>, RemoteSyscallError> {
        self.wait_syscall_stop(TraceState::SyscallExit)?;
        let registers = ptrace::registers(self.tid, RegisterSet::General).map_err(kernel("registers"))?;
        Ok(syscall_result(machine::return_value(&registers)))
    }

    /// The events that the options of [`Self::attach`] asked for, each with its message, since the last time.
    pub(crate) fn take_events(&mut self) -> Vec<(i32, u64)> {
        std::mem::take(&mut self.events)
    }

    /// Puts everything back.
    ///
    /// # Errors
    ///
    /// The thread ended, or does not come back from a call.
    pub(crate) fn finish(mut self) -> Result<(), RemoteSyscallError> {
        self.restore()
    }

    /// Puts registers, mask and options back, once; does nothing when it was done. Events are still told afterwards, also those
    /// of a call that was not seen to its end.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
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
        ptrace::set_registers(self.tid, RegisterSet::General, &self.saved_regs)
            .map_err(kernel("putting registers back"))?;
        if self.state == TraceState::SyscallExit {
            self.stop_in_signal_path()?;
        }
        ptrace::set_blocked_signals(self.tid, self.saved_sigmask).map_err(kernel("putting blocked signals back"))?;
        ptrace::set_options(self.tid, self.options_after).map_err(kernel("putting options back"))
    }

    fn resume_to_syscall(&mut self, signal: i32) -> Result<(), RemoteSyscallError> {
        ptrace::resume_to_syscall(self.tid, signal).map_err(kernel("going on"))?;
        self.state = TraceState::Running;
        Ok(())
    }

    /// Waits for the entry or the exit of the call. SIGSTOP, which no mask holds back, takes its way: the thread stops by job
    /// control and is let go by the next step, and stops again when it is no longer traced. Any other signal was forced upon it by
    /// the call itself.
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
                    // It stands behind its call as far as anyone who puts it back is concerned.
                    self.state = TraceState::SyscallExit;
                    return Err(RemoteSyscallError::Signal(signal));
                }
            };
            self.resume_to_syscall(signal)?;
        }
    }

    /// Interrupts the thread and goes on until it stands in the signal path, before another instruction of its own.
    fn stop_in_signal_path(&mut self) -> Result<(), RemoteSyscallError> {
        ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
        if self.state != TraceState::Running {
            ptrace::resume(self.tid, 0).map_err(kernel("going on"))?;
            self.state = TraceState::Running;
        }
        loop {
            let signal = match self.next_stop()? {
                PtraceStop::Interrupted => {
                    self.state = TraceState::Stopped;
                    return Ok(());
                }
                // A call that the bound had cut off returns; any stop takes the interruption away.
                PtraceStop::Syscall => 0,
                PtraceStop::Event(event) => self.record_event(event)?,
                PtraceStop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                // Forced upon it by what it was made to do.
                PtraceStop::Signal(_) => 0,
            };
            ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
            ptrace::resume(self.tid, signal).map_err(kernel("going on"))?;
        }
    }

    /// Keeps what an event tells.
    fn record_event(&mut self, event: i32) -> Result<i32, RemoteSyscallError> {
        let message = ptrace::event_message(self.tid).map_err(kernel("event"))?;
        self.events.push((event, message));
        Ok(0)
    }

    fn next_stop(&self) -> Result<PtraceStop, RemoteSyscallError> {
        wait_for_stop(self.tid)
    }
}

/// Waits until a traced thread stands.
///
/// # Errors
///
/// It ended, or does not stand within a bound.
pub(crate) fn wait_for_stop(tid: i32) -> Result<PtraceStop, RemoteSyscallError> {
    let mut wait = PollBackoff::start();
    loop {
        match ptrace::poll_stop(tid).map_err(kernel("wait"))? {
            Some(stop) => return Ok(stop),
            None => wait.snooze(tid)?,
        }
    }
}

/// A wait for a thread. Calls take microseconds, so it is asked without rest at vdsos; on a busy machine it needs the processor
/// more than its tracer does.
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

    /// Gives the processor away before the thread is looked at again.
    fn snooze(&mut self, tid: i32) -> Result<(), RemoteSyscallError> {
        let waited = self.started.elapsed();
        if waited < Duration::from_micros(100) {
            thread::yield_now();
            return Ok(());
        }
        if waited > SYSCALL_TIMEOUT {
            return Err(RemoteSyscallError::TimedOut(waited));
        }
        // No wait tells the end of a process's first thread before all its other ones are reaped, those that are traced too.
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
        // Nobody is left to tell: the error that made this a drop says why.
        let _ = self.restore();
    }
}

/// What the kernel's answer means: the numbers from -4095 on are errors.
fn syscall_result(raw: u64) -> nix::Result<u64> {
    match raw.cast_signed() {
        error @ -4095..0 => Err(Errno::from_raw(error.unsigned_abs() as i32)),
        _ => Ok(raw),
    }
}

/// Sets the registers to the abort handler of the restartable sequence that they stand in, if they stand in one.
fn abort_rseq(tid: i32, registers: &mut [u8]) -> Result<(), RemoteSyscallError> {
    let Some(registration) = ptrace::rseq(tid).map_err(kernel("rseq"))? else {
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
    // `struct rseq`: two ids of the processor, then a pointer to a `struct rseq_cs`: version and flags, start, length, abort.
    let mut pointer = [0];
    let mut rseq_cs = [0; 4];
    if read_words(registration.pointer + 8, &mut pointer)? && pointer[0] != 0 && read_words(pointer[0], &mut rseq_cs)? {
        let [_, start, length, abort] = rseq_cs;
        if machine::instruction_pointer(registers).wrapping_sub(start) < length {
            machine::set_instruction_pointer(registers, abort);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
