//! Processes that are killed in the middle of a checkpoint: it has them ended, or holds what they were; and no copy is left.

use std::{
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint::{self, ErrorKind};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

use crate::{
    copies::{copy_of, stack, with_stack},
    host::{TestHost, assert_holds, assert_runs_free, descendants, job, stat},
    workload::{LARGE, Shape, Workload},
};

#[test]
fn a_container_that_is_killed_while_its_copy_is_read_leaves_nothing() {
    for _ in 0..5 {
        let workload = Workload::start(&Shape {
            dense_pages: LARGE,
            spinning: 1,
            ..Shape::default()
        });
        let pid = workload.pid();
        let folder = tempfile::tempdir().unwrap();
        let job = job(pid, folder.path());
        let copy = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(20);
                loop {
                    if let Some(copy) = copy_of(pid) {
                        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                        return (copy, stat(copy).map(|(.., start)| start));
                    }
                    assert!(Instant::now() < until, "no copy to be seen");
                }
            });
            // What it held is there whatever becomes of it.
            checkpoint::run(&job, &TestHost::new(pid)).expect("all of it is in the copy");
            killer.join().unwrap()
        });
        let (copy, started) = copy;
        let until = Instant::now() + Duration::from_secs(20);
        while started.is_some() && stat(copy).map(|(.., start)| start) == started {
            assert!(Instant::now() < until, "the copy is left: {:?}", stat(copy));
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Which process of a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    First,
    Child,
}

/// From when on it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// Threads are about to be stopped.
    Freeze,
    /// The container's processes are about to be asked, and to copy themselves.
    Copying,
}

/// A host that has somebody told of that.
struct Telling<'a> {
    host: TestHost<'a>,
    from: From,
    told: mpsc::SyncSender<()>,
}

impl checkpoint::Host for Telling<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn phase(&self, phase: checkpoint::Phase) {
        if phase == checkpoint::Phase::Freeze && self.from == From::Freeze {
            self.told.send(()).unwrap();
        }
    }
    fn cancelled(&self) -> bool {
        false
    }
    fn exited(&self, pid: i32, status: i32) {
        self.host.exited(pid, status);
    }
    fn copying(&self) {
        if self.from == From::Copying {
            self.told.send(()).unwrap();
        }
    }
    fn crash_runtime(&self) {}
}

#[rstest]
fn a_process_that_is_killed_at_any_instant_leaves_nothing(
    #[values(Killed::First, Killed::Child)] which: Killed,
    #[values(From::Freeze, From::Copying)] from: From,
) {
    let step = match from {
        From::Freeze => Duration::from_micros(200),
        From::Copying => Duration::from_micros(50),
    };
    let mut failed = 0;
    for instant in 0..30 {
        let workload = Workload::start(&Shape {
            children: 1,
            sleeping: 1,
            ..Shape::default()
        });
        let first = workload.pid();
        let family: Vec<_> = descendants(first).iter().map(|process| process.pid).collect();
        let stacks: Vec<_> = family.iter().map(|pid| stack(*pid).expect("it lives")).collect();
        let victim = match which {
            Killed::First => first,
            Killed::Child => *family.iter().find(|pid| **pid != first).expect("its child"),
        };
        let folder = tempfile::tempdir().unwrap();
        let job = job(first, folder.path());
        let (told, tells) = mpsc::sync_channel(0);
        let host = TestHost::new(first);
        let host = Telling { host, from, told };
        let result = thread::scope(|scope| {
            scope.spawn(move || {
                tells.recv().unwrap();
                let then = Instant::now() + step * instant;
                while Instant::now() < then {
                    std::hint::spin_loop();
                }
                kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
            });
            checkpoint::run(&job, &host)
        });
        match result {
            Ok(_) => assert_holds(folder.path(), &["checkpoint.tar"]),
            Err(failure) => {
                assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
                assert_holds(folder.path(), &[]);
                failed += 1;
            }
        }
        // Where its parent has not seen the end of one, it has no memory any more.
        let until = Instant::now() + Duration::from_secs(20);
        for (pid, stack) in family.iter().zip(stacks) {
            while with_stack(stack).iter().any(|other| other != pid || *pid == victim) {
                assert!(Instant::now() < until, "{pid}: {:?}", with_stack(stack));
                thread::sleep(Duration::from_millis(1));
            }
        }
        if which == Killed::Child {
            assert_runs_free(first);
        }
    }
    // A child that ends before the freeze is a zombie in the archive.
    assert!(failed > 0 || from == From::Freeze, "none was killed in time");
}
