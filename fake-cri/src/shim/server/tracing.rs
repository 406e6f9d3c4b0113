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

use super::members::{self, ExecMark};
use crate::{
    checkpoint::{self, ErrorKind, Failure, Host, Job, Phase, Report},
    process::{ProcessId, pidfd::PidFd},
};

/// How long fake-cri may take to hear of a phase. A stopped fake-cri must not keep a container frozen.
const HEARING: Duration = Duration::from_secs(10);

/// The stack of the checkpoint's thread: its buffers are on the heap.
const STACK: usize = 512 << 10;

/// What the thread tells the main loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A phase is about to begin.
    Phase(Phase),
    /// A wait of the tracer took this exit.
    Exited(i32, i32),
    /// The checkpoint is over; nothing is traced any more.
    Over(Result<Report, Failure>),
}

/// What both threads see.
pub(super) struct Shared {
    shim: i32,
    wake: OwnedFd,
    changed: Condvar,
    inner: Mutex<Inner>,
    looking: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    init: Option<ProcessId>,
    keeper: Option<ProcessId>,
    execs: Vec<ExecMark>,
    copies: Vec<i32>,
    /// A copy is being made whose number is not known yet.
    copying: bool,
    events: VecDeque<Event>,
    /// Phases that were told and not yet heard.
    unheard: usize,
    cancelled: bool,
}

impl Shared {
    /// The state, and the descriptor that becomes readable when there are events.
    pub(super) fn new(shim: i32) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (woken, wake) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let shared = Self {
            shim,
            wake,
            changed: Condvar::new(),
            inner: Mutex::default(),
            looking: Mutex::default(),
        };
        Ok((Arc::new(shared), woken))
    }

    /// Who the container is, whenever that changes.
    pub(super) fn set_members(&self, init: Option<ProcessId>, keeper: Option<ProcessId>, execs: Vec<ExecMark>) {
        let mut inner = self.lock();
        inner.init = init;
        inner.keeper = keeper;
        inner.execs = execs;
    }

    /// Keeps the engine from looking at the container's processes. It looks once more after all of them stand still, so
    /// whoever sees them running and reaps under this lock takes nothing away that the engine has seen last, and whoever starts a
    /// command beside the container under it until it is told of is never taken for the container.
    pub(super) fn hold_members(&self) -> MutexGuard<'_, ()> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process, which was seen before, is a copy that the checkpoint made of another. One that is being made is
    /// waited for: that takes as long as a fork.
    pub(super) fn is_copy(&self, pid: i32) -> bool {
        let inner = self.lock();
        let known = self.changed.wait_timeout_while(inner, HEARING, |inner| inner.copying);
        known.unwrap_or_else(PoisonError::into_inner).0.copies.contains(&pid)
    }

    /// fake-cri has heard of a phase.
    pub(super) fn heard(&self) {
        {
            let mut inner = self.lock();
            inner.unheard = inner.unheard.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    /// The checkpoint shall end.
    pub(super) fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// What has happened since the last call.
    pub(super) fn events(&self) -> VecDeque<Event> {
        std::mem::take(&mut self.lock().events)
    }

    fn push(&self, event: Event) {
        self.lock().events.push_back(event);
        // A full pipe wakes as well.
        let _ = nix::unistd::write(self.wake.as_fd(), &[0]);
    }

    /// A panic of the other thread leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a checkpoint. `peer` is fake-cri, for the fault that kills it.
pub(super) fn start(shared: &Arc<Shared>, job: Job, peer: Option<PidFd>) -> io::Result<()> {
    {
        let mut inner = shared.lock();
        inner.cancelled = false;
        inner.unheard = 0;
    }
    let tracer = Tracer {
        shared: Arc::clone(shared),
        peer,
        obliging: !job.injections.is_empty(),
    };
    thread::Builder::new()
        .name("checkpoint".into())
        .stack_size(STACK)
        .spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| checkpoint::run(&job, &tracer));
            let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                Err(Failure {
                    kind: ErrorKind::Capture,
                    message: "the checkpoint engine panicked: this is a bug".into(),
                })
            });
            tracer.shared.lock().copying = false;
            // What a panic left traced is let go when this thread ends, at once after this.
            tracer.shared.push(Event::Over(result));
        })?;
    Ok(())
}

/// The shim as the engine sees it.
struct Tracer {
    shared: Arc<Shared>,
    peer: Option<PidFd>,
    /// Whether every phase waits until fake-cri has heard of it.
    obliging: bool,
}

impl Host for Tracer {
    fn members(&self) -> io::Result<Vec<ProcessId>> {
        // A command that is being started is either told of in what follows or not there yet.
        let _nobody_reaps_or_starts = self.shared.hold_members();
        let (init, keeper, execs) = {
            let inner = self.shared.lock();
            (inner.init, inner.keeper, inner.execs.clone())
        };
        let members = members::look(self.shared.shim, init, keeper, &execs)?;
        Ok(members.container.into_iter().map(|kin| kin.id).collect())
    }

    fn phase(&self, phase: Phase) {
        self.shared.lock().unheard += 1;
        self.shared.push(Event::Phase(phase));
        if matches!(phase, Phase::Capture | Phase::Write) && !self.obliging {
            return;
        }
        let until = Instant::now() + HEARING;
        let mut inner = self.shared.lock();
        while inner.unheard > 0 && !inner.cancelled {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.cancelled = true;
                return;
            }
            inner = self
                .shared
                .changed
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn cancelled(&self) -> bool {
        self.shared.lock().cancelled
    }

    fn exited(&self, pid: i32, status: i32) {
        self.shared.push(Event::Exited(pid, status));
    }

    fn copying(&self) {
        self.shared.lock().copying = true;
    }

    fn copied(&self, copies: &[i32]) {
        let mut inner = self.shared.lock();
        inner.copies = copies.to_vec();
        inner.copying = false;
        self.shared.changed.notify_all();
    }

    fn crash_runtime(&self) {
        if let Some(peer) = &self.peer {
            let _ = peer.signal(libc::SIGKILL);
        }
    }
}
