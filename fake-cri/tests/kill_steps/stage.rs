//! The stages of a checkpoint, as the shim's own system calls show them.

use std::ffi::c_long;

/// Requests of ptrace(2) that nix and libc do not all name.
const DETACH: u64 = libc::PTRACE_DETACH as u64;
const SET_OPTIONS: u64 = libc::PTRACE_SETOPTIONS as u64;
const SEIZE: u64 = libc::PTRACE_SEIZE as u64;
/// With these a thread is brought to stand.
const FREEZE_REQUESTS: [u64; 4] = [SEIZE, libc::PTRACE_INTERRUPT as u64, libc::PTRACE_CONT as u64, DETACH];

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TracedSyscall {
    pub(crate) number: c_long,
    pub(crate) arguments: [u64; 2],
}

impl TracedSyscall {
    /// Whether it changes or reads another process or the archive. What else is called differs from one time to the next.
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

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Threads are brought to stand.
    Freeze,
    /// Registers and descriptors of what stands are read.
    Capture,
    /// Processes are made to copy themselves, and the copies to let go of what they hold.
    Copy,
    /// Threads are let go.
    Thaw,
    /// The copies are read, and asked.
    Read,
    /// The copies are killed, and their originals made to wait for them.
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

    /// How much of all kills falls into it.
    pub(crate) fn weight(self) -> usize {
        match self {
            Self::Copy | Self::Reap => 4,
            Self::Read => 2,
            _ => 1,
        }
    }

    /// The stage that a step belongs to which comes in this one.
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

/// Follows a checkpoint by the calls of its threads.
#[derive(Debug, Default)]
pub(crate) struct StageTracker {
    stage: Option<Stage>,
    steps: usize,
}

impl StageTracker {
    /// The next call; the stage it is a step of, with its number in that.
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
