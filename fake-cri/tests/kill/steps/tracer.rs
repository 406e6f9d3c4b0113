//! Traces the shim: a thread of the test sees every system call of the shim's threads, except the main thread, at its
//! entry.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    processes::{PidAndStart, process_tree},
    steps::stage::{Stage, StageTracker, TracedSyscall},
};

/// The process that is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KillTarget {
    Shim,
    /// fake-cri with this pid. The traced thread stays stopped until the shim has closed its connection.
    Client(i32),
}

#[derive(Debug, Default)]
pub(crate) struct TraceResult {
    pub(crate) killed: bool,
    /// The number of steps of each stage.
    pub(crate) steps: BTreeMap<Stage, usize>,
    /// The shim and its descendants just before the kill.
    pub(crate) tree: Vec<PidAndStart>,
}

/// A running tracer.
pub(crate) struct Tracer {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<TraceResult>,
}

impl Tracer {
    /// Traces a shim, and kills at this step of this stage.
    pub(crate) fn start(shim: i32, at: Option<(Stage, usize, KillTarget)>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_over);
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut tracer = ShimTracer::seize(Pid::from_raw(shim));
            ready.send(()).expect("the test is waiting");
            tracer.follow(at, &ended);
            // The kernel detaches all tracees when this thread exits.
            tracer.result
        });
        is_ready.recv().expect("the shim is traced");
        Self { is_over, thread }
    }

    /// Stops tracing.
    pub(crate) fn end(self) -> TraceResult {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the tracer does not panic")
    }
}

struct ShimTracer {
    shim: Pid,
    threads: Vec<Pid>,
    stage_tracker: StageTracker,
    result: TraceResult,
}

impl ShimTracer {
    /// The main thread of the shim, which handles requests, is not traced by syscall; the threads that it starts are.
    fn seize(shim: Pid) -> Self {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        let tasks = fs::read_dir(format!("/proc/{shim}/task")).expect("the shim is running");
        let tasks = tasks.map(|task| task.expect("a thread").file_name().to_str().expect("a number").parse());
        let threads: Vec<_> = tasks.map(|tid| Pid::from_raw(tid.expect("a number"))).collect();
        for tid in &threads {
            ptrace::seize(*tid, options).expect("a descendant may be traced");
        }
        Self {
            shim,
            threads,
            stage_tracker: StageTracker::default(),
            result: TraceResult::default(),
        }
    }

    fn follow(&mut self, at: Option<(Stage, usize, KillTarget)>, is_over: &AtomicBool) {
        while !self.threads.is_empty() {
            let mut idle = true;
            for tid in self.threads.clone() {
                let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
                let status = match waitpid(tid, Some(flags)) {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(status) => status,
                    Err(Errno::EINTR) => continue,
                    Err(_) => WaitStatus::Exited(tid, 0),
                };
                idle = false;
                if self.handle_stop(tid, status, at) {
                    return;
                }
            }
            if idle {
                // The checkpoint thread has exited.
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Returns true when the kill is done.
    fn handle_stop(&mut self, tid: Pid, status: WaitStatus, at: Option<(Stage, usize, KillTarget)>) -> bool {
        let signal = match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                self.threads.retain(|known| *known != tid);
                return false;
            }
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE) => {
                let new = ptrace::getevent(tid).expect("the new tid");
                self.threads.push(Pid::from_raw(new as i32));
                None
            }
            WaitStatus::PtraceSyscall(_) => {
                if let Some((stage, step)) = syscall_entry(tid).and_then(|call| self.stage_tracker.observe(call)) {
                    *self.result.steps.entry(stage).or_default() += 1;
                    if let Some((_, _, kill)) = at.filter(|at| (at.0, at.1) == (stage, step)) {
                        self.kill(kill);
                        return true;
                    }
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        // A killed thread is found by the next wait.
        let _ = match tid == self.shim {
            true => ptrace::cont(tid, signal),
            false => ptrace::syscall(tid, signal),
        };
        false
    }

    fn kill(&mut self, target: KillTarget) {
        self.result.killed = true;
        match target {
            KillTarget::Shim => {
                self.result.tree = process_tree(self.shim.as_raw());
                kill(self.shim, Signal::SIGKILL).expect("the shim exists");
            }
            KillTarget::Client(client) => {
                let before = self.socket_count();
                kill(Pid::from_raw(client), Signal::SIGKILL).expect("fake-cri is running");
                // The main thread of the shim must run so that it can close the connection.
                let until = Instant::now() + Duration::from_secs(20);
                while self.socket_count() >= before {
                    assert!(
                        Instant::now() < until,
                        "the shim does not close the connection of the killed fake-cri"
                    );
                    self.resume_main_thread();
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// Signals also stop the main thread, because it is traced.
    fn resume_main_thread(&self) {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitpid(self.shim, Some(flags)) {
            Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::cont(self.shim, signal)),
            Ok(WaitStatus::PtraceEvent(..)) => drop(ptrace::cont(self.shim, None)),
            _ => {}
        }
    }

    /// The number of open sockets of the shim.
    fn socket_count(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.shim))
            .into_iter()
            .flatten()
            .flatten();
        let links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// The system call that a thread is entering; `None` at a syscall exit.
fn syscall_entry(tid: Pid) -> Option<TracedSyscall> {
    let registers = ptrace::getregs(tid).ok()?;
    // At entry the kernel sets rax to -ENOSYS.
    let before = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
    before.then_some(TracedSyscall {
        number: registers.orig_rax.cast_signed(),
        arguments: [registers.rdi, registers.rsi],
    })
}
