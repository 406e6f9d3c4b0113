//! A thread that only does what it is told: every system call by which a process is rebuilt is its own, injected.
//!
//! Its calls go through a *stage*, a few pages where nothing of the container will be: one holds the instruction, the others what
//! the calls read and write. The stage goes last.

use std::{io, ops::Range, slice};

use nix::errno::Errno;

use super::RestoreError;
use crate::process::{
    memory::ProcMem,
    pagemap::PAGE_SIZE,
    ptrace::{self, PtraceStop},
    remote_syscalls::{RemoteSyscalls, SyscallInsn, wait_for_stop},
};

/// `PTRACE_O_EXITKILL`, and word of every process and thread that it makes.
const TRACE_OPTIONS: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE;
/// Pages for what calls read and write.
const DATA_BYTES: u64 = 4 * PAGE_SIZE;

/// Where the stage is, in every process alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestorerArea(u64);

impl RestorerArea {
    /// What it takes.
    pub(super) const SIZE_BYTES: u64 = PAGE_SIZE + DATA_BYTES;

    /// At this address.
    pub(super) fn at_address(address: u64) -> Self {
        Self(address)
    }

    /// Its addresses.
    pub(super) fn range(self) -> Range<u64> {
        self.0..self.0 + Self::SIZE_BYTES
    }

    fn data_address(self) -> u64 {
        self.0 + PAGE_SIZE
    }
}

/// A thread that stands and calls the kernel when told to.
#[derive(Debug)]
pub(super) struct RemoteTask {
    /// Its number outside of its namespace.
    pub(super) tid: i32,
    syscalls: RemoteSyscalls,
    memory: ProcMem,
    area: RestorerArea,
}

impl RemoteTask {
    /// Takes a process that runs, and sets up the stage in it, by an instruction that it has.
    pub(super) fn seize(tid: i32, area: RestorerArea) -> Result<Self, RestoreError> {
        let remote_error = |source| RestoreError::remote_syscall("trace a new process", source);
        let trace_failed = |errno: Errno| RestoreError::step("trace a new process", errno);
        ptrace::seize(tid).map_err(trace_failed)?;
        ptrace::interrupt(tid).map_err(trace_failed)?;
        wait_for_stop(tid).map_err(remote_error)?;
        let gate = SyscallInsn::find(tid).map_err(remote_error)?;
        let mut remote = Self {
            tid,
            syscalls: RemoteSyscalls::attach(tid, gate, TRACE_OPTIONS).map_err(remote_error)?,
            memory: ProcMem::new(tid),
            area,
        };
        let Range { start, .. } = area.range();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let arguments = [start, RestorerArea::SIZE_BYTES, access, flags as u64, u64::MAX, 0];
        remote.call("map the stage", libc::SYS_mmap, arguments)?;
        remote.write(start, SyscallInsn::BYTES)?;
        let access = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        remote.call(
            "protect the stage",
            libc::SYS_mprotect,
            [start, PAGE_SIZE, access, 0, 0, 0],
        )?;
        // From now on by its own instruction.
        remote.syscalls.finish().map_err(remote_error)?;
        Self::attach(tid, area)
    }

    /// Takes a traced thread that stands, of a process with the area.
    fn attach(tid: i32, area: RestorerArea) -> Result<Self, RestoreError> {
        let syscalls = RemoteSyscalls::attach(tid, SyscallInsn::at_address(area.0), TRACE_OPTIONS)
            .map_err(|source| RestoreError::remote_syscall("tell a new process", source))?;
        Ok(Self {
            tid,
            syscalls,
            memory: ProcMem::new(tid),
            area,
        })
    }

    /// A call and what the kernel says.
    pub(super) fn try_call(
        &mut self,
        operation: &str,
        nr: i64,
        arguments: [u64; 6],
    ) -> Result<nix::Result<u64>, RestoreError> {
        self.syscalls
            .call(nr, arguments)
            .map_err(|source| RestoreError::remote_syscall(operation, source))
    }

    /// A call that has to succeed; its answer.
    pub(super) fn call(
        &mut self,
        operation: impl AsRef<str>,
        nr: i64,
        arguments: [u64; 6],
    ) -> Result<u64, RestoreError> {
        let operation = operation.as_ref();
        self.try_call(operation, nr, arguments)?
            .map_err(|errno| RestoreError::step(operation, errno))
    }

    /// Puts bytes where calls can read them; their address. The next ones take their place.
    pub(super) fn write_data(&mut self, bytes: &[u8]) -> Result<u64, RestoreError> {
        debug_assert!(bytes.len() as u64 <= DATA_BYTES, "callers know their sizes");
        self.write(self.area.data_address(), bytes)?;
        Ok(self.area.data_address())
    }

    /// The same of words.
    pub(super) fn write_words(&mut self, words: &[u64]) -> Result<u64, RestoreError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write_data(&bytes)
    }

    /// Reads from where calls write.
    pub(super) fn read_data(&mut self, length: usize) -> Result<Vec<u8>, RestoreError> {
        let from = self.area.data_address();
        self.read(from..from + length as u64)
    }

    /// Reads its memory.
    pub(super) fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut complete = true;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| complete = false)
            .map_err(|error| RestoreError::step("read a new process's memory", error))?;
        match complete {
            true => Ok(bytes),
            false => Err(RestoreError::step(
                format!("read {:x}-{:x} of a new process", range.start, range.end),
                io::Error::from_raw_os_error(libc::EFAULT),
            )),
        }
    }

    /// Writes its memory.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.memory
            .write(address, bytes)
            .map_err(|error| RestoreError::step(format!("write {address:x} of a new process"), error))
    }

    /// Makes a process or a thread with this number in the namespace.
    pub(super) fn clone_child(&mut self, flags: i32, ns_tid: u32) -> Result<RemoteTask, RestoreError> {
        /// `struct clone_args` as of Linux 5.5, with room for the number behind it.
        const CLONE_ARGS_WORDS: usize = 10;
        let set_tid_array = self.area.data_address() + 8 * CLONE_ARGS_WORDS as u64;
        let is_thread = flags & libc::CLONE_THREAD != 0;
        let signal = if is_thread { 0 } else { libc::SIGCHLD as u64 };
        let words = [
            flags as u64,
            0,
            0,
            0,
            signal,
            0,
            0,
            0,
            set_tid_array,
            1,
            u64::from(ns_tid),
        ];
        let address = self.write_words(&words)?;
        self.syscalls.take_events();
        let operation = format!("make {} {ns_tid}", if is_thread { "thread" } else { "process" });
        self.call(
            &operation,
            libc::SYS_clone3,
            [address, 8 * CLONE_ARGS_WORDS as u64, 0, 0, 0, 0],
        )?;
        let child_tid = self.syscalls.take_events().first().map(|(_, tid)| *tid);
        let remote_error = |source| RestoreError::remote_syscall(&*operation, source);
        let tid = child_tid
            .and_then(|tid| i32::try_from(tid).ok())
            .ok_or_else(|| RestoreError::step(&*operation, io::Error::other("nobody was born")))?;
        match wait_for_stop(tid).map_err(remote_error)? {
            PtraceStop::Interrupted => Self::attach(tid, self.area),
            other => Err(RestoreError::step(
                &*operation,
                io::Error::other(format!("it stands at {other:?}")),
            )),
        }
    }

    /// Takes the stage away. Nothing can be called any more; another thread of the process must not have to, either.
    pub(super) fn unmap_area(&mut self) -> Result<(), RestoreError> {
        let Range { start, .. } = self.area.range();
        self.call(
            "unmap the stage",
            libc::SYS_munmap,
            [start, RestorerArea::SIZE_BYTES, 0, 0, 0, 0],
        )
        .map(drop)
    }

    /// Ends the telling; the thread stands and its registers can be set.
    pub(super) fn finish(self) -> Result<i32, RestoreError> {
        let tid = self.tid;
        self.syscalls
            .finish()
            .map_err(|source| RestoreError::remote_syscall("leave a new thread", source))?;
        Ok(tid)
    }
}
