//! Derives the stage of a checkpoint from the system calls of the shim.

use std::ffi::c_long;

/// Requests of ptrace(2), some of which nix and libc do not name.
const DETACH: u64 = libc::PTRACE_DETACH as u64;
const SET_OPTIONS: u64 = libc::PTRACE_SETOPTIONS as u64;
const SEIZE: u64 = libc::PTRACE_SEIZE as u64;
/// The requests that stop a thread.
const FREEZE_REQUESTS: [u64; 4] = [SEIZE, libc::PTRACE_INTERRUPT as u64, libc::PTRACE_CONT as u64, DETACH];

/// A system call at its entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TracedSyscall {
    pub(crate) number: c_long,
    pub(crate) arguments: [u64; 2],
}

impl TracedSyscall {
    /// Whether the call accesses another process or the archive. All other calls vary between runs.
    fn is_step(self) -> bool {
        [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pwrite64,
            libc::SYS_kill,
            libc::SYS_rename,
        ]
        .contains(&self.number)
    }

    fn request(self) -> Option<u64> {
        (self.number == libc::SYS_ptrace).then_some(self.arguments[0])
    }
}

/// The stages of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Threads are stopped.
    Freeze,
    /// Registers and descriptors of the frozen container are read.
    Capture,
    /// Snapshots are made, and the snapshots close their descriptors and shared memory.
    Copy,
    /// Threads are resumed.
    Thaw,
    /// The snapshots are read and queried.
    Read,
    /// The snapshots are killed, and their originals reap them.
    Reap,
    /// The rest is written, and the archive appears.
    Finish,
}

impl Stage {
    pub(crate) const ALL: [Self; 7] = [
        Self::Freeze,
        Self::Capture,
        Self::Copy,
        Self::Thaw,
        Self::Read,
        Self::Reap,
        Self::Finish,
    ];

    /// The share of the kills that hit this stage.
    pub(crate) fn weight(self) -> usize {
        match self {
            Self::Copy | Self::Reap => 4,
            Self::Read => 2,
            _ => 1,
        }
    }

    /// The stage of a step that follows this stage.
    fn stage_of(self, step: TracedSyscall) -> Self {
        match (self, step.request()) {
            (Self::Freeze, Some(request)) if !FREEZE_REQUESTS.contains(&request) => Self::Capture,
            (Self::Capture, Some(SET_OPTIONS)) => Self::Copy,
            (Self::Copy, Some(DETACH)) => Self::Thaw,
            (Self::Thaw, request) if request != Some(DETACH) => Self::Read,
            (Self::Read, None) if step.number == libc::SYS_kill => Self::Reap,
            (Self::Reap, None) if step.number != libc::SYS_kill => Self::Finish,
            _ => self,
        }
    }
}

/// Tracks the stage of a checkpoint by the system calls of its threads.
#[derive(Debug, Default)]
pub(crate) struct StageTracker {
    stage: Option<Stage>,
    steps: usize,
}

impl StageTracker {
    /// Takes the next call. Returns its stage and its number within the stage, if the call is a step.
    pub(crate) fn observe(&mut self, call: TracedSyscall) -> Option<(Stage, usize)> {
        if !call.is_step() {
            return None;
        }
        let now = match self.stage {
            Some(stage) => stage.stage_of(call),
            None if call.request() == Some(SEIZE) => Stage::Freeze,
            None => return None,
        };
        if self.stage != Some(now) {
            self.stage = Some(now);
            self.steps = 0;
        }
        self.steps += 1;
        Some((now, self.steps - 1))
    }
}
