//! Runs a checkpoint in a second thread of the shim, because a tracer is a thread (ptrace(2)).
//!
//! ```text
//!  main loop                         checkpoint thread
//!  Phase on the connection   <----   on_phase(): waits until fake-cri acknowledges or the connection ends; while the
//!                                    container is frozen, only if a fault may act in the phase
//!  connection ends           ---->   is_cancelled() is true: thaws, removes the partial archive, ends
//!  reaps only untraced children      its waits collect the exits of tracees: on_exited() returns them to the main loop
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
    fault::{CheckpointFaults, CheckpointHooks},
    process::{Pid, ProcessId, pidfd::PidFd},
};

/// How long fake-cri may take to acknowledge a phase. A stopped fake-cri must not keep a container frozen.
const PHASE_ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// The stack of the checkpoint thread; its buffers are on the heap.
const CHECKPOINT_STACK_BYTES: usize = 512 << 10;

/// Events for the main loop.
#[derive(Debug)]
pub(super) enum CheckpointEvent {
    Phase(Phase),
    /// The tracer's wait collected an exit, with this wait status.
    Exited {
        pid: Pid,
        status: i32,
    },
    /// The checkpoint has ended, and no task is traced.
    Finished(Result<Report, Failure>),
}

/// The state that both threads share.
pub(super) struct SharedState {
    shim_pid: Pid,
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
    snapshot_pids: Vec<Pid>,
    /// A snapshot is being created, and its pid is not known yet.
    snapshot_starting: bool,
    events: VecDeque<CheckpointEvent>,
    /// Phases that fake-cri has not acknowledged.
    unacked_phases: usize,
    cancelled: bool,
}

impl SharedState {
    /// Returns the state, and the descriptor that becomes readable when there are events.
    pub(super) fn new(shim_pid: Pid) -> io::Result<(Arc<Self>, OwnedFd)> {
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

    pub(super) fn set_members(&self, init: Option<ProcessId>, ns_init: Option<ProcessId>, execs: Vec<ExecKey>) {
        let mut inner = self.lock();
        inner.init = init;
        inner.ns_init = ns_init;
        inner.execs = execs;
    }

    /// Prevents the engine from enumerating the container's processes.
    ///
    /// The engine enumerates them once more after the freeze. A child that is reaped under this lock while the
    /// container runs was therefore not in that last list, and an exec that is started and registered under this lock
    /// is never listed as a member.
    pub(super) fn lock_membership(&self) -> MutexGuard<'_, ()> {
        self.membership_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process that was seen before is a snapshot of the checkpoint. Waits for a snapshot that is being
    /// created, which takes as long as a fork.
    pub(super) fn is_snapshot(&self, pid: Pid) -> bool {
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

    /// fake-cri has acknowledged a phase.
    pub(super) fn ack_phase(&self) {
        {
            let mut inner = self.lock();
            inner.unacked_phases = inner.unacked_phases.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    /// Cancels the checkpoint.
    pub(super) fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    pub(super) fn take_events(&self) -> VecDeque<CheckpointEvent> {
        std::mem::take(&mut self.lock().events)
    }

    fn push(&self, event: CheckpointEvent) {
        self.lock().events.push_back(event);
        // A full pipe is readable too, so the error is ignored.
        let _ = nix::unistd::write(self.wake_pipe.as_fd(), &[0]);
    }

    /// Ignores poisoning: a panic of the other thread leaves no partial update.
    fn lock(&self) -> MutexGuard<'_, LockedState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a checkpoint. `peer` is fake-cri, which the fault `crash` kills.
pub(super) fn start(
    shared: &Arc<SharedState>,
    job: Job,
    faults: CheckpointFaults,
    peer: Option<PidFd>,
) -> io::Result<()> {
    {
        let mut inner = shared.lock();
        inner.cancelled = false;
        inner.unacked_phases = 0;
    }
    let host = CheckpointHost {
        shared: Arc::clone(shared),
        ack_phases: !faults.is_empty(),
    };
    let hooks = CheckpointHooks::new(faults, move || {
        if let Some(peer) = &peer {
            let _ = peer.signal(libc::SIGKILL);
        }
    });
    thread::Builder::new()
        .name("checkpoint".into())
        .stack_size(CHECKPOINT_STACK_BYTES)
        .spawn(move || {
            let run_checkpoint = std::panic::AssertUnwindSafe(|| checkpoint::run(&job, &host, &hooks));
            let result = std::panic::catch_unwind(run_checkpoint).unwrap_or_else(|_| {
                Err(Failure {
                    kind: ErrorKind::Capture,
                    message: "the checkpoint engine panicked (a bug)".into(),
                })
            });
            host.shared.lock().snapshot_starting = false;
            // If the engine panicked, its tracees are detached when this thread ends, right after this event.
            host.shared.push(CheckpointEvent::Finished(result));
        })?;
    Ok(())
}

struct CheckpointHost {
    shared: Arc<SharedState>,
    /// Whether every phase waits for the acknowledgement of fake-cri.
    ack_phases: bool,
}

impl Host for CheckpointHost {
    fn members(&self) -> io::Result<Vec<ProcessId>> {
        // An exec that is being started is either registered before this list, or not running yet.
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

    fn on_exited(&self, pid: Pid, status: i32) {
        self.shared.push(CheckpointEvent::Exited { pid, status });
    }

    fn on_snapshot_starting(&self) {
        self.shared.lock().snapshot_starting = true;
    }

    fn on_snapshots(&self, copies: &[Pid]) {
        let mut inner = self.shared.lock();
        inner.snapshot_pids = copies.to_vec();
        inner.snapshot_starting = false;
        self.shared.changed.notify_all();
    }
}
