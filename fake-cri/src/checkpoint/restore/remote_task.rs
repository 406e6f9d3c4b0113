//! A stopped task that executes remote syscalls: the tracer rebuilds a process by injected system calls.
//!
//! The calls use the restorer area, a few pages at an address that no mapping of the container uses: the first page
//! holds the system call instruction, the others the data that calls read and write. The area is unmapped last.

use std::{io, ops::Range, slice};

use nix::errno::Errno;

use super::RestoreError;
use crate::process::{
    NsPid, Tid,
    memory::ProcMem,
    pagemap::PAGE_SIZE,
    ptrace::{self, PtraceStop},
    remote_syscalls::{RemoteSyscalls, SyscallInsn, wait_for_stop},
};

/// `PTRACE_O_EXITKILL`, and events for every process and thread that the task creates.
const TRACE_OPTIONS: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE;
/// Pages for data that calls read and write.
const DATA_BYTES: u64 = 4 * PAGE_SIZE;

/// The restorer area, at the same address in every process.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestorerArea(u64);

impl RestorerArea {
    pub(super) const SIZE_BYTES: u64 = PAGE_SIZE + DATA_BYTES;

    pub(super) fn at_address(address: u64) -> Self {
        Self(address)
    }

    pub(super) fn range(self) -> Range<u64> {
        self.0..self.0 + Self::SIZE_BYTES
    }

    fn data_address(self) -> u64 {
        self.0 + PAGE_SIZE
    }
}

/// A stopped task that executes remote syscalls.
#[derive(Debug)]
pub(super) struct RemoteTask {
    /// The tid outside the restored pid namespace.
    pub(super) tid: Tid,
    syscalls: RemoteSyscalls,
    memory: ProcMem,
    area: RestorerArea,
}

impl RemoteTask {
    /// Seizes a running process and maps the restorer area in it, by a system call instruction that the process already
    /// has.
    pub(super) fn seize(tid: Tid, area: RestorerArea) -> Result<Self, RestoreError> {
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
        let arguments = [start, RestorerArea::SIZE_BYTES, access, flags as u64, u64::MAX];
        remote.call("map the restorer area", libc::SYS_mmap, arguments)?;
        remote.write(start, SyscallInsn::BYTES)?;
        let access = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        remote.call(
            "protect the restorer area",
            libc::SYS_mprotect,
            [start, PAGE_SIZE, access],
        )?;
        // From here on the instruction in the restorer area is used.
        remote.syscalls.finish().map_err(remote_error)?;
        Self::attach(tid, area)
    }

    /// Attaches to a stopped, traced task whose process has the restorer area.
    fn attach(tid: Tid, area: RestorerArea) -> Result<Self, RestoreError> {
        let syscalls = RemoteSyscalls::attach(tid, SyscallInsn::at_address(area.0), TRACE_OPTIONS)
            .map_err(|source| RestoreError::remote_syscall("attach to a new process", source))?;
        Ok(Self {
            tid,
            syscalls,
            memory: ProcMem::new(tid),
            area,
        })
    }

    /// Executes a system call. The inner result is the kernel's.
    pub(super) fn try_call<const N: usize>(
        &mut self,
        operation: &str,
        nr: i64,
        arguments: [u64; N],
    ) -> Result<nix::Result<u64>, RestoreError> {
        self.syscalls
            .call(nr, arguments)
            .map_err(|source| RestoreError::remote_syscall(operation, source))
    }

    /// Executes a system call that must succeed, and returns its result.
    pub(super) fn call<const N: usize>(
        &mut self,
        operation: impl AsRef<str>,
        nr: i64,
        arguments: [u64; N],
    ) -> Result<u64, RestoreError> {
        let operation = operation.as_ref();
        self.try_call(operation, nr, arguments)?
            .map_err(|errno| RestoreError::step(operation, errno))
    }

    /// Writes data to the restorer area and returns its address. The next call overwrites the data.
    pub(super) fn write_data(&mut self, bytes: &[u8]) -> Result<u64, RestoreError> {
        debug_assert!(bytes.len() as u64 <= DATA_BYTES, "callers bound the sizes");
        self.write(self.area.data_address(), bytes)?;
        Ok(self.area.data_address())
    }

    /// As [`Self::write_data`], for 64-bit words.
    pub(super) fn write_words(&mut self, words: &[u64]) -> Result<u64, RestoreError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write_data(&bytes)
    }

    /// Reads data from the restorer area.
    pub(super) fn read_data(&mut self, length: usize) -> Result<Vec<u8>, RestoreError> {
        let from = self.area.data_address();
        self.read(from..from + length as u64)
    }

    pub(super) fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut complete = true;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| complete = false)
            .map_err(|error| RestoreError::step("read the memory of a new process", error))?;
        match complete {
            true => Ok(bytes),
            false => Err(RestoreError::step(
                format!("read memory {:x}-{:x} of a new process", range.start, range.end),
                io::Error::from_raw_os_error(libc::EFAULT),
            )),
        }
    }

    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.memory
            .write(address, bytes)
            .map_err(|error| RestoreError::step(format!("write memory at {address:x} of a new process"), error))
    }

    /// Creates a process or a thread with this tid in the restored pid namespace.
    pub(super) fn clone_child(&mut self, flags: i32, ns_tid: NsPid) -> Result<RemoteTask, RestoreError> {
        /// `struct clone_args` as of Linux 5.5, in words; the tid follows it.
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
        let operation = format!("create {} {ns_tid}", if is_thread { "thread" } else { "process" });
        self.call(&operation, libc::SYS_clone3, [address, 8 * CLONE_ARGS_WORDS as u64])?;
        let child_tid = self.syscalls.take_events().first().map(|(_, tid)| *tid);
        let remote_error = |source| RestoreError::remote_syscall(&*operation, source);
        let tid = child_tid
            .and_then(|tid| i32::try_from(tid).ok().map(Tid::from_raw))
            .ok_or_else(|| RestoreError::step(&*operation, io::Error::other("no clone event was reported")))?;
        match wait_for_stop(tid).map_err(remote_error)? {
            PtraceStop::Interrupted => Self::attach(tid, self.area),
            other => Err(RestoreError::step(
                &*operation,
                io::Error::other(format!("the new task stopped at {other:?}")),
            )),
        }
    }

    /// Unmaps the restorer area. No later remote syscall is possible in this process, so its other threads must be
    /// finished before.
    pub(super) fn unmap_area(&mut self) -> Result<(), RestoreError> {
        let Range { start, .. } = self.area.range();
        self.call(
            "unmap the restorer area",
            libc::SYS_munmap,
            [start, RestorerArea::SIZE_BYTES],
        )
        .map(drop)
    }

    /// Ends the remote syscalls. The task stays stopped, and its registers can be set.
    pub(super) fn finish(self) -> Result<Tid, RestoreError> {
        let tid = self.tid;
        self.syscalls
            .finish()
            .map_err(|source| RestoreError::remote_syscall("detach the remote syscalls from a new thread", source))?;
        Ok(tid)
    }
}
