//! The shim's tracer: a thread of the test, which sees every system call of the shim's other threads before it is made.

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
    family::{PidAndStart, process_tree},
    stage::{Stage, StageTracker, TracedSyscall},
};

/// Who is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KillTarget {
    /// The shim.
    Shim,
    /// fake-cri, with this pid; the shim stands until it has noticed.
    Client(i32),
}

/// What the tracer saw.
#[derive(Debug, Default)]
pub(crate) struct TraceResult {
    pub(crate) killed: bool,
    /// How many steps each stage had.
    pub(crate) steps: BTreeMap<Stage, usize>,
    /// The shim and all that came of it in the moment before it was killed.
    pub(crate) tree: Vec<PidAndStart>,
}

/// A tracer at work.
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
            ready.send(()).expect("the test waits");
            tracer.follow(at, &ended);
            // With this thread's end everything runs on untraced.
            tracer.result
        });
        is_ready.recv().expect("it is traced");
        Self { is_over, thread }
    }

    /// Lets the shim go.
    pub(crate) fn end(self) -> TraceResult {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the tracer")
    }
}

struct ShimTracer {
    shim: Pid,
    threads: Vec<Pid>,
    stage_tracker: StageTracker,
    result: TraceResult,
}

impl ShimTracer {
    /// The shim's thread that waits for requests is let run; those that it starts are looked at.
    fn seize(shim: Pid) -> Self {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        let tasks = fs::read_dir(format!("/proc/{shim}/task")).expect("the shim runs");
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
                // All that it was there for has been seen.
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// True when the kill is done.
    fn handle_stop(&mut self, tid: Pid, status: WaitStatus, at: Option<(Stage, usize, KillTarget)>) -> bool {
        let signal = match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                self.threads.retain(|known| *known != tid);
                return false;
            }
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE) => {
                let new = ptrace::getevent(tid).expect("its number");
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
        // One that was killed meanwhile is gone at the next look.
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
                kill(self.shim, Signal::SIGKILL).expect("the shim is there");
            }
            KillTarget::Client(client) => {
                let before = self.socket_count();
                kill(Pid::from_raw(client), Signal::SIGKILL).expect("fake-cri is there");
                // The shim's main thread runs on, and lets go of the connection when it has seen its end.
                let until = Instant::now() + Duration::from_secs(20);
                while self.socket_count() >= before {
                    assert!(Instant::now() < until, "the shim does not notice that fake-cri is gone");
                    self.resume_main_thread();
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// A signal stops the shim's main thread for its tracer too.
    fn resume_main_thread(&self) {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitpid(self.shim, Some(flags)) {
            Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::cont(self.shim, signal)),
            Ok(WaitStatus::PtraceEvent(..)) => drop(ptrace::cont(self.shim, None)),
            _ => {}
        }
    }

    /// How many sockets the shim has.
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

/// The call that a thread is about to make; `None` at the end of one.
fn syscall_entry(tid: Pid) -> Option<TracedSyscall> {
    let registers = ptrace::getregs(tid).ok()?;
    // So the kernel sets it up before a call.
    let before = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
    before.then_some(TracedSyscall {
        number: registers.orig_rax.cast_signed(),
        arguments: [registers.rdi, registers.rsi],
    })
}
