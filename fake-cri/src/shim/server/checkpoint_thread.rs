//! A checkpoint beside the main loop: a thread of the shim runs it, since ptrace belongs to threads.
//!
//! ```text
//!  main loop                         checkpoint's thread
//!  Phase on the connection   <----   phase(): waits until it was heard, or nobody is there to hear; while the container
//!                                    stands, only if a fault wants to act there
//!  connection ends           ---->   cancelled() is true: it thaws, removes what it wrote, ends
//!  reaps only what no tracer holds   its waits take the exits of tracees: exited() hands them back
//! ```

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::OFlag;

use super::members::{self, ExecKey};
use crate::{
    checkpoint::{self, ErrorKind, Failure, Host, Job, Phase, Report},
    process::{ProcessId, pidfd::PidFd},
};

/// How long fake-cri may take to hear of a phase. A stopped fake-cri must not keep a container frozen.
const PHASE_ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// The stack of the checkpoint's thread: its buffers are on the heap.
const CHECKPOINT_STACK_BYTES: usize = 512 << 10;

/// What the thread tells the main loop.
#[derive(Debug)]
pub(super) enum CheckpointEvent {
    /// A phase is about to begin.
    Phase(Phase),
    /// A wait of the tracer took this exit.
    Exited(i32, i32),
    /// The checkpoint is over; nothing is traced any more.
    Finished(Result<Report, Failure>),
}

/// What both threads see.
pub(super) struct SharedState {
    shim_pid: i32,
    wake_pipe: OwnedFd,
    changed: Condvar,
    inner: Mutex<LockedState>,
    membership_lock: Mutex<()>,
}

#[derive(Default)]
struct LockedState {
    init: Option<ProcessId>,
    ns_init: Option<ProcessId>,
    execs: Vec<ExecKey>,
    snapshot_pids: Vec<i32>,
    /// A copy is being made whose number is not known yet.
    snapshot_starting: bool,
    events: VecDeque<CheckpointEvent>,
    /// Phases that were told and not yet heard.
    unacked_phases: usize,
    cancelled: bool,
}

impl SharedState {
    /// The state, and the descriptor that becomes readable when there are events.
    pub(super) fn new(shim_pid: i32) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (wake_read, wake_pipe) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let shared = Self {
            shim_pid,
            wake_pipe,
            changed: Condvar::new(),
            inner: Mutex::default(),
            membership_lock: Mutex::default(),
        };
        Ok((Arc::new(shared), wake_read))
    }

    /// Who the container is, whenever that changes.
    pub(super) fn set_members(&self, init: Option<ProcessId>, ns_init: Option<ProcessId>, execs: Vec<ExecKey>) {
        let mut inner = self.lock();
        inner.init = init;
        inner.ns_init = ns_init;
        inner.execs = execs;
    }

    /// Keeps the engine from looking at the container's processes. It looks once more after all of them stand still, so
    /// whoever sees them running and reaps under this lock takes nothing away that the engine has seen last, and whoever starts a
    /// command beside the container under it until it is told of is never taken for the container.
    pub(super) fn lock_membership(&self) -> MutexGuard<'_, ()> {
        self.membership_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process, which was seen before, is a copy that the checkpoint made of another. One that is being made is
    /// waited for: that takes as long as a fork.
    pub(super) fn is_snapshot(&self, pid: i32) -> bool {
        let inner = self.lock();
        let guard = self
            .changed
            .wait_timeout_while(inner, PHASE_ACK_TIMEOUT, |inner| inner.snapshot_starting);
        guard
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .snapshot_pids
            .contains(&pid)
    }

    /// fake-cri has heard of a phase.
    pub(super) fn ack_phase(&self) {
        {
            let mut inner = self.lock();
            inner.unacked_phases = inner.unacked_phases.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    /// The checkpoint shall end.
    pub(super) fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// What has happened since the last call.
    pub(super) fn take_events(&self) -> VecDeque<CheckpointEvent> {
        std::mem::take(&mut self.lock().events)
    }

    fn push(&self, event: CheckpointEvent) {
        self.lock().events.push_back(event);
        // A full pipe wakes as well.
        let _ = nix::unistd::write(self.wake_pipe.as_fd(), &[0]);
    }

    /// A panic of the other thread leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, LockedState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a checkpoint. `peer` is fake-cri, for the fault that kills it.
pub(super) fn start(shared: &Arc<SharedState>, job: Job, peer: Option<PidFd>) -> io::Result<()> {
    {
        let mut inner = shared.lock();
        inner.cancelled = false;
        inner.unacked_phases = 0;
    }
    let host = CheckpointHost {
        shared: Arc::clone(shared),
        peer,
        ack_phases: !job.injections.is_empty(),
    };
    thread::Builder::new()
        .name("checkpoint".into())
        .stack_size(CHECKPOINT_STACK_BYTES)
        .spawn(move || {
            let run_checkpoint = std::panic::AssertUnwindSafe(|| checkpoint::run(&job, &host));
            let result = std::panic::catch_unwind(run_checkpoint).unwrap_or_else(|_| {
                Err(Failure {
                    kind: ErrorKind::Capture,
                    message: "the checkpoint engine panicked: this is a bug".into(),
                })
            });
            host.shared.lock().snapshot_starting = false;
            // What a panic left traced is let go when this thread ends, at once after this.
            host.shared.push(CheckpointEvent::Finished(result));
        })?;
    Ok(())
}

/// The shim as the engine sees it.
struct CheckpointHost {
    shared: Arc<SharedState>,
    peer: Option<PidFd>,
    /// Whether every phase waits until fake-cri has heard of it.
    ack_phases: bool,
}

impl Host for CheckpointHost {
    fn members(&self) -> io::Result<Vec<ProcessId>> {
        // A command that is being started is either told of in what follows or not there yet.
        let _membership_guard = self.shared.lock_membership();
        let (init, ns_init, execs) = {
            let inner = self.shared.lock();
            (inner.init, inner.ns_init, inner.execs.clone())
        };
        let members = members::find_members(self.shared.shim_pid, init, ns_init, &execs)?;
        Ok(members.container.into_iter().map(|stat| stat.id).collect())
    }

    fn on_phase(&self, phase: Phase) {
        self.shared.lock().unacked_phases += 1;
        self.shared.push(CheckpointEvent::Phase(phase));
        if matches!(phase, Phase::Capture | Phase::Write) && !self.ack_phases {
            return;
        }
        let deadline = Instant::now() + PHASE_ACK_TIMEOUT;
        let mut inner = self.shared.lock();
        while inner.unacked_phases > 0 && !inner.cancelled {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                inner.cancelled = true;
                return;
            }
            inner = self
                .shared
                .changed
                .wait_timeout(inner, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn is_cancelled(&self) -> bool {
        self.shared.lock().cancelled
    }

    fn on_exited(&self, pid: i32, status: i32) {
        self.shared.push(CheckpointEvent::Exited(pid, status));
    }

    fn on_snapshot_starting(&self) {
        self.shared.lock().snapshot_starting = true;
    }

    fn on_snapshots(&self, copies: &[i32]) {
        let mut inner = self.shared.lock();
        inner.snapshot_pids = copies.to_vec();
        inner.snapshot_starting = false;
        self.shared.changed.notify_all();
    }

    fn crash_runtime(&self) {
        if let Some(peer) = &self.peer {
            let _ = peer.signal(libc::SIGKILL);
        }
    }
}
