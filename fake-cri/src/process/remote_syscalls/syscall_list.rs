//! Lists of system calls that a thread executes without its tracer.
//!
//! ```text
//!   buffer   stub | call 0, output | call 1, output | ... | end | calls of a child, output | end
//!
//!   begin    the tracer writes stub and list; the thread runs the stub        the tracer does something else
//!   finish   the thread has reached the list's end, where it yields the CPU,
//!            then pauses until it is interrupted; or it is at the exit of a clone, the last call
//! ```
//!
//! At every stop the thread sleeps and its tracer has to be woken, which takes many times as long as a short call on
//! most machines. Stepping a thread from call to call therefore keeps the container frozen longer than the calls take,
//! and blocks the tracer. The thread maps the buffer for this purpose as writable and executable. Where such memory is
//! refused (a security module, `PR_SET_MDWE`), and on architectures without a stub, the tracer steps each call, and
//! only the last one is pending between begin and finish.
//!
//! A child that the last call of the list clones has the buffer too, and continues with its own list.
//!
//! Functions with a [`RemoteSyscallError`] fail as [`RemoteSyscalls::call`] does.

use std::{io, slice, time::Duration};

use nix::errno::Errno;

use super::{
    PTRACE_O_SUSPEND_SECCOMP, PollBackoff, RemoteSyscallError, RemoteSyscalls, TraceState, all_arguments, kernel,
    syscall_result, wait_for_stop,
};
use crate::process::{
    Pid, arch,
    memory::ProcMem,
    ptrace::{self, PtraceStop},
};

/// The words of an entry: syscall number, six arguments, result, output.
const ENTRY_WORDS: usize = 16;
const ENTRY_BYTES: u64 = ENTRY_WORDS as u64 * 8;
const RESULT_WORD: usize = 7;
const OUTPUT_WORD: usize = 8;
/// The syscall number of the entry that ends a list.
const LIST_END: u64 = u64::MAX;
const NO_OUTPUT: [u64; ENTRY_WORDS - OUTPUT_WORD] = [0; ENTRY_WORDS - OUTPUT_WORD];
/// How often a thread yields at the end of its list before it pauses: about one millisecond. Waking a paused thread
/// takes long where an idle CPU is halted. But the thread must not yield forever: a real-time thread yields to no
/// other, and the tracer may be dead.
const YIELDS_BEFORE_PAUSE: u64 = 1 << 12;
/// How long to wait for the clone event before reading the end of the list, which shows a refused clone: reading the
/// memory of the task blocks until a running clone is done.
const FORK_GRACE: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub(crate) struct Syscall {
    nr: i64,
    arguments: [u64; 6],
    buffer_arg: Option<usize>,
    /// The first words of the output area before the call.
    input: [u64; 2],
}

impl Syscall {
    /// A call without input and output in memory.
    pub(crate) fn new<const N: usize>(nr: i64, arguments: [u64; N]) -> Self {
        Self {
            nr,
            arguments: all_arguments(arguments),
            buffer_arg: None,
            input: [0; 2],
        }
    }

    /// A call that writes to where argument `nth` points. The pointer is set when the list is written.
    pub(crate) fn with_output<const N: usize>(nr: i64, arguments: [u64; N], nth: usize) -> Self {
        Self {
            buffer_arg: Some(nth),
            ..Self::new(nr, arguments)
        }
    }

    /// Like [`Self::with_output`], for a call that also reads these words from there.
    pub(crate) fn with_input<const N: usize>(nr: i64, arguments: [u64; N], nth: usize, words: [u64; 2]) -> Self {
        Self {
            input: words,
            ..Self::with_output(nr, arguments, nth)
        }
    }

    fn arguments_with(&self, address: u64) -> [u64; 6] {
        let mut arguments = self.arguments;
        if let Some(argument) = self.buffer_arg.and_then(|nth| arguments.get_mut(nth)) {
            *argument = address;
        }
        arguments
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SyscallResult {
    pub(crate) result: nix::Result<u64>,
    /// What the call wrote. Meaningful only for a successful call with output.
    pub(crate) output: [u64; ENTRY_WORDS - OUTPUT_WORD],
}

/// Memory that a thread mapped for lists and their results.
#[derive(Debug)]
pub(crate) struct SyscallBuffer {
    address: u64,
    /// The memory of the thread that mapped the buffer, or of a child that inherited it.
    memory: ProcMem,
    /// Whether the stub can run in the buffer.
    executable: bool,
}

impl SyscallBuffer {
    const SIZE_BYTES: u64 = 32 << 10;
    /// How many calls fit: the stub and two list ends take an entry each.
    pub(crate) const CAPACITY: usize = (Self::SIZE_BYTES / ENTRY_BYTES) as usize - 3;

    /// Makes the thread map a buffer. The inner error is the kernel's.
    pub(crate) fn map(remote: &mut RemoteSyscalls) -> Result<nix::Result<Self>, RemoteSyscallError> {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let written = libc::PROT_READ | libc::PROT_WRITE;
        let mut map = |access: i32| remote.call(libc::SYS_mmap, [0, Self::SIZE_BYTES, access as u64, flags, u64::MAX]);
        let mapped = match arch::LIST_STUB {
            Some(_) => map(written | libc::PROT_EXEC)?,
            None => Err(Errno::ENOSYS),
        };
        let (address, executable) = match mapped {
            Ok(address) => (address, true),
            Err(_) => match map(written)? {
                Ok(address) => (address, false),
                Err(errno) => return Ok(Err(errno)),
            },
        };
        Ok(Ok(Self {
            address,
            memory: ProcMem::new(remote.tid),
            executable,
        }))
    }

    /// The same buffer in a child that was cloned after [`Self::map`].
    pub(crate) fn in_child(&self, child: Pid) -> Self {
        Self {
            address: self.address,
            memory: ProcMem::new(child.main_thread()),
            executable: self.executable,
        }
    }

    /// Makes the thread unmap the buffer.
    pub(crate) fn unmap(self, remote: &mut RemoteSyscalls) -> Result<nix::Result<u64>, RemoteSyscallError> {
        remote.call(libc::SYS_munmap, [self.address, Self::SIZE_BYTES])
    }

    /// Makes the tracer step each call, as on a machine that refuses executable memory.
    #[cfg(test)]
    pub(crate) fn step_by_step(&mut self) {
        self.executable = false;
    }

    /// Whether a thread runs a list on its own.
    pub(crate) fn is_executable(&self) -> bool {
        self.executable
    }

    fn entry_address(&self, nth: usize) -> u64 {
        self.address + (nth as u64 + 1) * ENTRY_BYTES
    }

    fn output_address(&self, nth: usize) -> u64 {
        self.entry_address(nth) + OUTPUT_WORD as u64 * 8
    }

    fn read_entries(&mut self, nth: usize, count: usize) -> Result<Vec<u64>, RemoteSyscallError> {
        let start = self.entry_address(nth);
        let mut bytes = vec![0; count * ENTRY_BYTES as usize];
        let range = start..start + bytes.len() as u64;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| {})
            .map_err(|_| RemoteSyscallError::Exited)?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
        Ok(bytes.chunks_exact(8).map(word).collect())
    }

    fn read_results(&mut self, first_entry: usize, count: usize) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        let words = self.read_entries(first_entry, count)?;
        let to_result = |entry: &[u64]| SyscallResult {
            result: syscall_result(entry[RESULT_WORD]),
            output: entry[OUTPUT_WORD..].try_into().expect("the rest of an entry"),
        };
        Ok(words.chunks_exact(ENTRY_WORDS).map(to_result).collect())
    }

    /// Whether the list whose end is entry `nth` is complete.
    fn is_done(&mut self, nth: usize) -> Result<bool, RemoteSyscallError> {
        Ok(self.read_entries(nth, 1)?[RESULT_WORD] != 0)
    }

    fn write(&mut self, stub: &[u8], calls: &[Syscall], child_calls: &[Syscall]) -> Result<(), RemoteSyscallError> {
        debug_assert!(calls.len() + child_calls.len() <= Self::CAPACITY);
        let mut bytes = stub.to_vec();
        bytes.resize(ENTRY_BYTES as usize, 0);
        let lists = [calls, child_calls];
        let entries = lists.iter().flat_map(|list| list.iter().map(Some).chain([None]));
        for (nth, call) in entries.enumerate() {
            let mut words = [0; ENTRY_WORDS];
            words[0] = call.map_or(LIST_END, |call| call.nr.cast_unsigned());
            if let Some(call) = call {
                words[1..RESULT_WORD].copy_from_slice(&call.arguments_with(self.output_address(nth)));
                words[OUTPUT_WORD..OUTPUT_WORD + 2].copy_from_slice(&call.input);
            }
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        self.memory.write(self.address, &bytes).map_err(map_write_error)
    }
}

fn map_write_error(error: io::Error) -> RemoteSyscallError {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) | None => RemoteSyscallError::Exited,
        Some(errno) => RemoteSyscallError::Kernel("writing a list of system calls", Errno::from_raw(errno)),
    }
}

/// A list that a thread is executing.
#[derive(Debug)]
pub(crate) struct PendingList {
    calls: Vec<Syscall>,
    /// The first entry of the list in the buffer.
    first_entry: usize,
    /// Whether the thread runs the list on its own. If not, `stepped` holds the results of all calls but the last one.
    autonomous: bool,
    stepped: Vec<SyscallResult>,
}

impl RemoteSyscalls {
    /// Starts a list. Calls with output need a buffer. If the last call clones a child, the child executes
    /// `child_calls`: [`Self::run_child_list`]. Both lists together must fit into [`SyscallBuffer::CAPACITY`].
    pub(crate) fn begin_list(
        &mut self,
        buffer: Option<&mut SyscallBuffer>,
        calls: Vec<Syscall>,
        child_calls: &[Syscall],
    ) -> Result<PendingList, RemoteSyscallError> {
        let mut pending = PendingList {
            calls,
            first_entry: 0,
            autonomous: false,
            stepped: Vec::new(),
        };
        match (buffer, arch::LIST_STUB) {
            (Some(buffer), Some(stub)) if buffer.executable && !pending.calls.is_empty() => {
                if self.state == TraceState::Running {
                    self.stop_in_signal_path()?;
                }
                buffer.write(stub, &pending.calls, child_calls)?;
                let (list, child_list) = (buffer.entry_address(0), buffer.entry_address(pending.calls.len() + 1));
                let registers =
                    arch::stub_regs(&self.saved_regs, buffer.address, list, child_list, YIELDS_BEFORE_PAUSE);
                ptrace::set_general_regs(self.tid, &registers).map_err(kernel("setting registers"))?;
                self.resume(0)?;
                pending.autonomous = true;
            }
            (buffer, _) => self.step_list(buffer, &mut pending)?,
        }
        Ok(pending)
    }

    /// Steps the thread through all calls but the last one, and starts that one.
    fn step_list(
        &mut self,
        buffer: Option<&mut SyscallBuffer>,
        pending: &mut PendingList,
    ) -> Result<(), RemoteSyscallError> {
        let Some((last, others)) = pending.calls.split_last() else {
            return Ok(());
        };
        let address = |nth| buffer.as_ref().map_or(0, |buffer| buffer.output_address(nth));
        for (nth, call) in others.iter().enumerate() {
            let result = self.call(call.nr, call.arguments_with(address(pending.first_entry + nth)))?;
            pending.stepped.push(SyscallResult {
                result,
                output: NO_OUTPUT,
            });
        }
        let arguments = last.arguments_with(address(pending.first_entry + others.len()));
        self.begin_call(last.nr, arguments)
    }

    /// Waits for the end of a list and returns the results. The thread may still run (yield or pause) then; the next
    /// call or the restore stops it.
    pub(crate) fn finish_list(
        &mut self,
        mut buffer: Option<&mut SyscallBuffer>,
        pending: PendingList,
    ) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        let PendingList {
            calls,
            first_entry,
            autonomous,
            stepped: mut stepped_results,
        } = pending;
        let Some(last) = calls.last() else {
            return Ok(stepped_results);
        };
        let last_result = match autonomous {
            false => Some(self.end_call()?),
            true => {
                let buffer = buffer.as_deref_mut().expect("an autonomous list is in a buffer");
                self.wait_list_end(buffer, first_entry + calls.len(), last.nr == libc::SYS_clone)?
            }
        };
        let Some(buffer) = buffer else {
            stepped_results.extend(last_result.map(|result| SyscallResult {
                result,
                output: NO_OUTPUT,
            }));
            return Ok(stepped_results);
        };
        let mut results = buffer.read_results(first_entry, calls.len())?;
        for (entry, stepped) in results.iter_mut().zip(&stepped_results) {
            entry.result = stepped.result;
        }
        if let (Some(entry), Some(result)) = (results.last_mut(), last_result) {
            entry.result = result;
        }
        Ok(results)
    }

    /// Whether a thread has completed an autonomous list.
    pub(crate) fn list_is_done(buffer: &mut SyscallBuffer, pending: &PendingList) -> Result<bool, RemoteSyscallError> {
        buffer.is_done(pending.first_entry + pending.calls.len())
    }

    /// Waits until the list whose end is entry `nth` is complete. Returns the result of the last call if the thread
    /// stopped at its exit.
    fn wait_list_end(
        &mut self,
        buffer: &mut SyscallBuffer,
        nth: usize,
        clones: bool,
    ) -> Result<Option<nix::Result<u64>>, RemoteSyscallError> {
        let mut wait = PollBackoff::start();
        loop {
            match ptrace::poll_stop(self.tid).map_err(kernel("waiting for a stop"))? {
                Some(PtraceStop::Event(event)) => {
                    self.record_event(event)?;
                    if clones && event == libc::PTRACE_EVENT_CLONE {
                        self.resume_to_syscall(0)?;
                        return self.end_call().map(Some);
                    }
                    self.resume(0)?;
                }
                Some(PtraceStop::Interrupted | PtraceStop::Syscall) => self.resume(0)?,
                Some(PtraceStop::Signal(libc::SIGSTOP)) => self.resume(libc::SIGSTOP)?,
                Some(PtraceStop::Signal(signal)) => {
                    self.state = TraceState::SyscallExit;
                    return Err(RemoteSyscallError::Signal(signal));
                }
                None if (!clones || wait.started.elapsed() > FORK_GRACE) && buffer.is_done(nth)? => return Ok(None),
                None => wait.snooze(self.tid)?,
            }
        }
    }

    fn resume(&mut self, signal: i32) -> Result<(), RemoteSyscallError> {
        ptrace::resume(self.tid, signal).map_err(kernel("resuming"))?;
        self.state = TraceState::Running;
        Ok(())
    }

    /// Attaches to a child that a remote clone of this thread created. The child is traced from its creation and is
    /// stopped in the middle of the clone. The restore gives it the registers and the signal mask of this thread.
    /// `PTRACE_O_EXITKILL` remains set.
    ///
    /// # Errors
    ///
    /// The child has exited.
    pub(crate) fn attach_child(&self, child: Pid) -> Result<Self, RemoteSyscallError> {
        let child = child.main_thread();
        while wait_for_stop(child)? != PtraceStop::Interrupted {
            ptrace::resume(child, 0).map_err(kernel("resuming"))?;
        }
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL | self.options & PTRACE_O_SUSPEND_SECCOMP;
        ptrace::set_options(child, options).map_err(kernel("setting options"))?;
        Ok(Self {
            tid: child,
            insn: self.insn,
            saved_regs: self.saved_regs,
            saved_sigmask: self.saved_sigmask,
            state: TraceState::Stopped,
            attached: true,
            options,
            options_after: libc::PTRACE_O_EXITKILL,
            events: Vec::new(),
        })
    }

    /// Makes a child execute its part of the list: [`Self::begin_list`] wrote `calls` behind the `parent_calls` calls
    /// of the parent.
    pub(crate) fn run_child_list(
        &mut self,
        buffer: Option<&mut SyscallBuffer>,
        parent_calls: usize,
        calls: Vec<Syscall>,
    ) -> Result<PendingList, RemoteSyscallError> {
        let mut pending = PendingList {
            calls,
            first_entry: parent_calls + 1,
            autonomous: buffer.as_ref().is_some_and(|buffer| buffer.executable),
            stepped: Vec::new(),
        };
        match pending.autonomous {
            true => self.resume(0)?,
            false => self.step_list(buffer, &mut pending)?,
        }
        Ok(pending)
    }
}
