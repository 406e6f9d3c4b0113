//! A thread that only does what it is told: every system call by which a process is rebuilt is its own, injected.
//!
//! Its calls go through a *stage*, a few pages where nothing of the container will be: one holds the instruction, the others what
//! the calls read and write. The stage goes last.

use std::{io, ops::Range, slice};

use nix::errno::Errno;

use super::RestoreError;
use crate::process::{
    inject::{Gate, Injection, await_stop},
    memory::Memory,
    pagemap::PAGE_SIZE,
    ptrace::{self, Stop},
};

/// `PTRACE_O_EXITKILL`, and word of every process and thread that it makes.
const OPTIONS: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE;
/// Pages for what calls read and write.
const DATA: u64 = 4 * PAGE_SIZE;

/// Where the stage is, in every process alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage(u64);

impl Stage {
    /// What it takes.
    pub(super) const SIZE: u64 = PAGE_SIZE + DATA;

    /// At this address.
    pub(super) fn at(address: u64) -> Self {
        Self(address)
    }

    /// Its addresses.
    pub(super) fn range(self) -> Range<u64> {
        self.0..self.0 + Self::SIZE
    }

    fn data(self) -> u64 {
        self.0 + PAGE_SIZE
    }
}

/// A thread that stands and calls the kernel when told to.
#[derive(Debug)]
pub(super) struct Puppet {
    /// Its number outside of its namespace.
    pub(super) tid: i32,
    injection: Injection,
    memory: Memory,
    stage: Stage,
}

impl Puppet {
    /// Takes a process that runs, and sets up the stage in it, by an instruction that it has.
    pub(super) fn seize(tid: i32, stage: Stage) -> Result<Self, RestoreError> {
        let failed = |source| RestoreError::inject("trace a new process", source);
        let traced = |errno: Errno| RestoreError::step("trace a new process", errno);
        ptrace::seize(tid).map_err(traced)?;
        ptrace::interrupt(tid).map_err(traced)?;
        await_stop(tid).map_err(failed)?;
        let gate = Gate::find(tid).map_err(failed)?;
        let mut puppet = Self {
            tid,
            injection: Injection::enter(tid, gate, OPTIONS).map_err(failed)?,
            memory: Memory::of(tid),
            stage,
        };
        let Range { start, .. } = stage.range();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let arguments = [start, Stage::SIZE, access, flags as u64, u64::MAX, 0];
        puppet.call("map the stage", libc::SYS_mmap, arguments)?;
        puppet.write(start, Gate::INSTRUCTION)?;
        let access = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        puppet.call(
            "protect the stage",
            libc::SYS_mprotect,
            [start, PAGE_SIZE, access, 0, 0, 0],
        )?;
        // From now on by its own instruction.
        puppet.injection.leave().map_err(failed)?;
        Self::enter(tid, stage)
    }

    /// Takes a traced thread that stands, of a process with the stage.
    fn enter(tid: i32, stage: Stage) -> Result<Self, RestoreError> {
        let injection = Injection::enter(tid, Gate::at(stage.0), OPTIONS)
            .map_err(|source| RestoreError::inject("tell a new process", source))?;
        Ok(Self {
            tid,
            injection,
            memory: Memory::of(tid),
            stage,
        })
    }

    /// A call and what the kernel says.
    pub(super) fn attempt(
        &mut self,
        what: &str,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<nix::Result<u64>, RestoreError> {
        self.injection
            .call(number, arguments)
            .map_err(|source| RestoreError::inject(what, source))
    }

    /// A call that has to succeed; its answer.
    pub(super) fn call(
        &mut self,
        what: impl AsRef<str>,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<u64, RestoreError> {
        let what = what.as_ref();
        self.attempt(what, number, arguments)?
            .map_err(|errno| RestoreError::step(what, errno))
    }

    /// Puts bytes where calls can read them; their address. The next ones take their place.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u64, RestoreError> {
        debug_assert!(bytes.len() as u64 <= DATA, "callers know their sizes");
        self.write(self.stage.data(), bytes)?;
        Ok(self.stage.data())
    }

    /// The same of words.
    pub(super) fn put_words(&mut self, words: &[u64]) -> Result<u64, RestoreError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    /// Reads from where calls write.
    pub(super) fn get(&mut self, length: usize) -> Result<Vec<u8>, RestoreError> {
        let from = self.stage.data();
        self.read(from..from + length as u64)
    }

    /// Reads its memory.
    pub(super) fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut whole = true;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| whole = false)
            .map_err(|error| RestoreError::step("read a new process's memory", error))?;
        match whole {
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
    pub(super) fn bear(&mut self, flags: i32, number: u32) -> Result<Puppet, RestoreError> {
        /// `struct clone_args` as of Linux 5.5, with room for the number behind it.
        const WORDS: usize = 10;
        let numbers = self.stage.data() + 8 * WORDS as u64;
        let thread = flags & libc::CLONE_THREAD != 0;
        let signal = if thread { 0 } else { libc::SIGCHLD as u64 };
        let words = [flags as u64, 0, 0, 0, signal, 0, 0, 0, numbers, 1, u64::from(number)];
        let address = self.put_words(&words)?;
        self.injection.take_events();
        let what = format!("make {} {number}", if thread { "thread" } else { "process" });
        self.call(&what, libc::SYS_clone3, [address, 8 * WORDS as u64, 0, 0, 0, 0])?;
        let born = self.injection.take_events().first().map(|(_, tid)| *tid);
        let failed = |source| RestoreError::inject(&*what, source);
        let tid = born
            .and_then(|tid| i32::try_from(tid).ok())
            .ok_or_else(|| RestoreError::step(&*what, io::Error::other("nobody was born")))?;
        match await_stop(tid).map_err(failed)? {
            Stop::Interrupted => Self::enter(tid, self.stage),
            other => Err(RestoreError::step(
                &*what,
                io::Error::other(format!("it stands at {other:?}")),
            )),
        }
    }

    /// Takes the stage away. Nothing can be called any more; another thread of the process must not have to, either.
    pub(super) fn strike(&mut self) -> Result<(), RestoreError> {
        let Range { start, .. } = self.stage.range();
        self.call("unmap the stage", libc::SYS_munmap, [start, Stage::SIZE, 0, 0, 0, 0])
            .map(drop)
    }

    /// Ends the telling; the thread stands and its registers can be set.
    pub(super) fn leave(self) -> Result<i32, RestoreError> {
        let tid = self.tid;
        self.injection
            .leave()
            .map_err(|source| RestoreError::inject("leave a new thread", source))?;
        Ok(tid)
    }
}
