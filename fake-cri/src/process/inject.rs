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
//! A thread may be given a whole list of calls, and be let go until it has made them: [`batch`]. Otherwise it executes one
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
//! kernel forget the sequence.
//!
//! Ways to fail, each of which leaves the thread as it was: no instruction to use, a 32-bit program, a seccomp filter that
//! may not be suspended, system calls dispatched to user space. When the *tracer* dies between `enter` and `leave`, the thread
//! runs on with foreign registers and all signals blocked: the tracer has to be a process that nobody kills (the shim).

mod batch;
#[cfg(target_arch = "aarch64")]
#[path = "inject/aarch64.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "inject/x86_64.rs"]
mod machine;

use std::{
    slice, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

pub(crate) use self::batch::{Answer, Area, Call, UnderWay};
use super::{
    memory::Memory,
    proc::{self, Mapping},
    ptrace::{self, RegisterSet, Stop},
};

/// The longest time a call may take; those made here never sleep.
const BOUND: Duration = Duration::from_secs(5);
/// What waits longer may wait for one that has ended.
const LATE: Duration = Duration::from_millis(1);
/// How much of a mapping is looked through for an instruction.
const LOOK: u64 = 4 << 20;
/// Every signal.
const ALL_SIGNALS: u64 = u64::MAX;
/// `PTRACE_O_SUSPEND_SECCOMP`, Linux 4.3.
const SUSPEND_SECCOMP: i32 = 1 << 21;

/// Why a thread could not be made to call the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    /// Nothing executable has the instruction.
    #[error("none of its executable mappings holds a system call instruction")]
    NoGate,
    /// Registers of another size than this architecture's.
    #[error("it does not run as a program of this architecture's full width")]
    Width,
    /// Its filter would judge the call, and may not be suspended.
    #[error("its seccomp filter cannot be suspended ({0}): that takes CAP_SYS_ADMIN and a tracer without a filter")]
    Seccomp(Errno),
    /// Its calls come back to it as signals.
    #[error("its system calls are dispatched to user space (PR_SET_SYSCALL_USER_DISPATCH)")]
    Dispatched,
    /// It was killed.
    #[error("it ended")]
    Ended,
    /// The call did not return, not even when it was interrupted.
    #[error("a system call did not return within {0:?}")]
    Stuck(Duration),
    /// It was about to take a signal that no mask holds back.
    #[error("signal {0} came to it in a system call")]
    Signal(i32),
    /// A request failed.
    #[error("{0}: {1}")]
    Kernel(&'static str, Errno),
}

fn kernel(what: &'static str) -> impl Fn(Errno) -> InjectError {
    move |errno| match errno {
        Errno::ESRCH => InjectError::Ended,
        errno => InjectError::Kernel(what, errno),
    }
}

/// The address of a system call instruction in a process. Good for all its threads, as long as they stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate(u64);

impl Gate {
    /// The instruction, for memory that was made to hold one.
    pub(crate) const INSTRUCTION: &'static [u8] = &machine::INSTRUCTION;

    /// The one that was put at this address.
    pub(crate) fn at(address: u64) -> Self {
        Self(address)
    }

    /// Looks for one in the process of this thread.
    pub(crate) fn find(tid: i32) -> Result<Self, InjectError> {
        // What has no mappings any more has ended.
        let mappings = proc::mapping_headings(tid).map_err(|_| InjectError::Ended)?;
        Self::find_in(tid, &mappings)
    }

    /// Looks for one in the process of this thread, which has these mappings.
    pub(crate) fn find_in(tid: i32, mappings: &[Mapping]) -> Result<Self, InjectError> {
        let is_vdso = |mapping: &&Mapping| mapping.name.as_os_str() == "[vdso]";
        let usable = |mapping: &&Mapping| mapping.execute && mapping.name.as_os_str() != "[vsyscall]";
        let first = mappings.iter().filter(is_vdso);
        let others = mappings.iter().filter(|mapping| !is_vdso(mapping));
        let mut memory = Memory::of(tid);
        for mapping in first.chain(others).filter(usable) {
            let range = mapping.range.start..mapping.range.end.min(mapping.range.start + LOOK);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            memory
                .read(slice::from_ref(&range), &mut bytes, |_| {})
                .map_err(|_| InjectError::Ended)?;
            if let Some(offset) = machine::find_instruction(&bytes) {
                return Ok(Self(range.start + offset as u64));
            }
        }
        Err(InjectError::NoGate)
    }
}

/// Where the thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the signal path, where it was found or left again.
    Stopped,
    /// Let go, on its way to a stop.
    Running,
    /// About to enter a call that was asked for.
    Entry,
    /// Behind a call.
    Exit,
}

/// A stopped thread that calls the kernel when it is told to. Dropped, it stands as it stood before.
#[derive(Debug)]
pub(crate) struct Injection {
    tid: i32,
    gate: Gate,
    home: Vec<u8>,
    mask: u64,
    place: Place,
    entered: bool,
    /// The options of the injection, and those behind it.
    options: i32,
    kept: i32,
    events: Vec<(i32, u64)>,
}

impl Injection {
    /// Prepares a thread that stands in a `PTRACE_EVENT_STOP` of this tracer. `options` are further `PTRACE_O_*` for the time
    /// of the injection; what they make the kernel tell is in [`Self::take_events`]. `PTRACE_O_EXITKILL` stays behind it.
    ///
    /// # Errors
    ///
    /// As the module's documentation says; the thread stands as it stood then.
    pub(crate) fn enter(tid: i32, gate: Gate, options: i32) -> Result<Self, InjectError> {
        let mut home = ptrace::registers(tid, RegisterSet::General).map_err(kernel("registers"))?;
        if home.len() != machine::REGISTERS {
            return Err(InjectError::Width);
        }
        if ptrace::dispatches_system_calls(tid).map_err(kernel("system call dispatch"))? {
            return Err(InjectError::Dispatched);
        }
        abort_sequence(tid, &mut home)?;
        let mask = ptrace::blocked_signals(tid).map_err(kernel("blocked signals"))?;
        let mut injection = Self {
            tid,
            gate,
            home,
            mask,
            place: Place::Stopped,
            entered: true,
            options: 0,
            kept: options & libc::PTRACE_O_EXITKILL,
            events: Vec::new(),
        };
        let options = options | libc::PTRACE_O_TRACESYSGOOD;
        match ptrace::set_options(tid, options | SUSPEND_SECCOMP) {
            Ok(()) => injection.options = options | SUSPEND_SECCOMP,
            Err(refusal) => {
                let status = proc::status(tid).map_err(|_| InjectError::Ended)?;
                if status.seccomp != Some(0) {
                    injection.entered = false;
                    return Err(InjectError::Seccomp(refusal));
                }
                ptrace::set_options(tid, options).map_err(kernel("options"))?;
                injection.options = options;
            }
        }
        ptrace::set_blocked_signals(tid, ALL_SIGNALS).map_err(kernel("blocking signals"))?;
        Ok(injection)
    }

    /// Makes the thread call the kernel; what the call answered. It must be one that does not sleep.
    ///
    /// # Errors
    ///
    /// The outer error says that the call could not be made or not be seen to its end.
    pub(crate) fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<nix::Result<u64>, InjectError> {
        self.begin_call(number, arguments)?;
        self.end_call()
    }

    /// Lets the thread go into a call.
    fn begin_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<(), InjectError> {
        if self.place == Place::Running {
            self.reach_interruption()?;
        }
        let registers = machine::registers_of_call(&self.home, self.gate.0, number, arguments);
        ptrace::set_registers(self.tid, RegisterSet::General, &registers).map_err(kernel("setting registers"))?;
        self.go_on_to_system_call(0)?;
        self.await_system_call(Place::Entry)?;
        self.go_on_to_system_call(0)
    }

    /// Waits until the thread is behind its call; what that answered.
    fn end_call(&mut self) -> Result<nix::Result<u64>, InjectError> {
        self.await_system_call(Place::Exit)?;
        let registers = ptrace::registers(self.tid, RegisterSet::General).map_err(kernel("registers"))?;
        Ok(result(machine::answer(&registers)))
    }

    /// The events that the options of [`Self::enter`] asked for, each with its message, since the last time.
    pub(crate) fn take_events(&mut self) -> Vec<(i32, u64)> {
        std::mem::take(&mut self.events)
    }

    /// Puts everything back.
    ///
    /// # Errors
    ///
    /// The thread ended, or does not come back from a call.
    pub(crate) fn leave(mut self) -> Result<(), InjectError> {
        self.put_back()
    }

    /// Puts registers, mask and options back, once; does nothing when it was done. Events are still told afterwards, also those
    /// of a call that was not seen to its end.
    ///
    /// # Errors
    ///
    /// As [`Self::leave`].
    pub(crate) fn put_back(&mut self) -> Result<(), InjectError> {
        if !std::mem::take(&mut self.entered) {
            return Ok(());
        }
        if self.place == Place::Entry {
            self.go_on_to_system_call(0)?;
            self.await_system_call(Place::Exit)?;
        }
        if self.place == Place::Running {
            self.reach_interruption()?;
        }
        ptrace::set_registers(self.tid, RegisterSet::General, &self.home).map_err(kernel("putting registers back"))?;
        if self.place == Place::Exit {
            self.reach_interruption()?;
        }
        ptrace::set_blocked_signals(self.tid, self.mask).map_err(kernel("putting blocked signals back"))?;
        ptrace::set_options(self.tid, self.kept).map_err(kernel("putting options back"))
    }

    fn go_on_to_system_call(&mut self, signal: i32) -> Result<(), InjectError> {
        ptrace::resume_to_system_call(self.tid, signal).map_err(kernel("going on"))?;
        self.place = Place::Running;
        Ok(())
    }

    /// Waits for the entry or the exit of the call. SIGSTOP, which no mask holds back, takes its way: the thread stops by job
    /// control and is let go by the next step, and stops again when it is no longer traced. Any other signal was forced upon it by
    /// the call itself.
    fn await_system_call(&mut self, place: Place) -> Result<(), InjectError> {
        loop {
            let signal = match self.next_stop()? {
                Stop::SystemCall => {
                    self.place = place;
                    return Ok(());
                }
                Stop::Interrupted => 0,
                Stop::Event(event) => self.note(event)?,
                Stop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                Stop::Signal(signal) => {
                    // It stands behind its call as far as anyone who puts it back is concerned.
                    self.place = Place::Exit;
                    return Err(InjectError::Signal(signal));
                }
            };
            self.go_on_to_system_call(signal)?;
        }
    }

    /// Interrupts the thread and goes on until it stands in the signal path, before another instruction of its own.
    fn reach_interruption(&mut self) -> Result<(), InjectError> {
        ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
        if self.place != Place::Running {
            ptrace::resume(self.tid, 0).map_err(kernel("going on"))?;
            self.place = Place::Running;
        }
        loop {
            let signal = match self.next_stop()? {
                Stop::Interrupted => {
                    self.place = Place::Stopped;
                    return Ok(());
                }
                // A call that the bound had cut off returns; any stop takes the interruption away.
                Stop::SystemCall => 0,
                Stop::Event(event) => self.note(event)?,
                Stop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                // Forced upon it by what it was made to do.
                Stop::Signal(_) => 0,
            };
            ptrace::interrupt(self.tid).map_err(kernel("interrupting"))?;
            ptrace::resume(self.tid, signal).map_err(kernel("going on"))?;
        }
    }

    /// Keeps what an event tells.
    fn note(&mut self, event: i32) -> Result<i32, InjectError> {
        let message = ptrace::event_message(self.tid).map_err(kernel("event"))?;
        self.events.push((event, message));
        Ok(0)
    }

    fn next_stop(&self) -> Result<Stop, InjectError> {
        await_stop(self.tid)
    }
}

/// Waits until a traced thread stands.
///
/// # Errors
///
/// It ended, or does not stand within a bound.
pub(crate) fn await_stop(tid: i32) -> Result<Stop, InjectError> {
    let mut wait = Wait::begin();
    loop {
        match ptrace::next_stop(tid).map_err(kernel("wait"))? {
            Some(stop) => return Ok(stop),
            None => wait.rest(tid)?,
        }
    }
}

/// A wait for a thread. Calls take microseconds, so it is asked without rest at first; on a busy machine it needs the processor
/// more than its tracer does.
struct Wait {
    began: Instant,
    pause: Duration,
}

impl Wait {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    /// Gives the processor away before the thread is looked at again.
    fn rest(&mut self, tid: i32) -> Result<(), InjectError> {
        let waited = self.began.elapsed();
        if waited < Duration::from_micros(100) {
            thread::yield_now();
            return Ok(());
        }
        if waited > BOUND {
            return Err(InjectError::Stuck(waited));
        }
        // No wait tells the end of a process's first thread before all its other ones are reaped, those that are traced too.
        if waited > LATE && proc::is_over(tid) {
            return Err(InjectError::Ended);
        }
        self.pause = (self.pause * 2).clamp(Duration::from_micros(20), Duration::from_micros(250));
        thread::sleep(self.pause);
        Ok(())
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // Nobody is left to tell: the error that made this a drop says why.
        let _ = self.put_back();
    }
}

/// What the kernel's answer means: the numbers from -4095 on are errors.
fn result(answer: u64) -> nix::Result<u64> {
    match answer.cast_signed() {
        error @ -4095..0 => Err(Errno::from_raw(error.unsigned_abs() as i32)),
        _ => Ok(answer),
    }
}

/// Sets the registers to the abort handler of the restartable sequence that they stand in, if they stand in one.
fn abort_sequence(tid: i32, registers: &mut [u8]) -> Result<(), InjectError> {
    let Some(area) = ptrace::rseq(tid).map_err(kernel("rseq"))? else {
        return Ok(());
    };
    let mut memory = Memory::of(tid);
    let mut words = |address: u64, words: &mut [u64]| {
        let mut bytes = vec![0; words.len() * 8];
        let range = address..address + bytes.len() as u64;
        let mut whole = true;
        memory
            .read(slice::from_ref(&range), &mut bytes, |_| whole = false)
            .map_err(|_| InjectError::Ended)?;
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Ok(whole)
    };
    // `struct rseq`: two ids of the processor, then a pointer to a `struct rseq_cs`: version and flags, start, length, abort.
    let mut pointer = [0];
    let mut sequence = [0; 4];
    if words(area.pointer + 8, &mut pointer)? && pointer[0] != 0 && words(pointer[0], &mut sequence)? {
        let [_, start, length, abort] = sequence;
        if machine::instruction_pointer(registers).wrapping_sub(start) < length {
            machine::set_instruction_pointer(registers, abort);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
