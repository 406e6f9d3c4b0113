//! Processes killed during a checkpoint: the checkpoint fails because they are not running, or contains their state. No
//! snapshot remains.

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
    host::{TestHost, assert_dir_entries, assert_running_untraced, descendants, job, stat},
    snapshot_procs::{pids_with_stack, snapshot_of, stack_start},
    workload::{LARGE_PAGES, Shape, Workload},
};

#[test]
fn killing_the_container_during_the_dump_leaves_no_snapshot() {
    for _ in 0..5 {
        let workload = Workload::start(&Shape {
            filled_pages: LARGE_PAGES,
            spinning: 1,
            ..Shape::default()
        });
        let pid = workload.pid();
        let dir = tempfile::tempdir().unwrap();
        let job = job(pid, dir.path());
        let copy = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(20);
                loop {
                    if let Some(copy) = snapshot_of(pid) {
                        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                        return (copy, stat(copy).map(|(.., start)| start));
                    }
                    assert!(Instant::now() < until, "no snapshot appears");
                }
            });
            // The snapshot has the state of the killed process.
            checkpoint::run(&job, &TestHost::new(pid), &()).expect("the snapshot is complete");
            killer.join().unwrap()
        });
        let (copy, started) = copy;
        let until = Instant::now() + Duration::from_secs(20);
        while started.is_some() && stat(copy).map(|(.., start)| start) == started {
            assert!(Instant::now() < until, "the snapshot remains: {:?}", stat(copy));
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Init,
    Child,
}

/// The start of the time range in which the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KillFrom {
    /// The freeze phase begins.
    Freeze,
    /// The parasite queries and the snapshots begin.
    Copying,
}

/// A host that signals the killing thread at that time.
struct SignallingHost<'a> {
    host: TestHost<'a>,
    from: KillFrom,
    signal_kill: mpsc::SyncSender<()>,
}

impl checkpoint::Host for SignallingHost<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn on_phase(&self, phase: checkpoint::Phase) {
        if phase == checkpoint::Phase::Freeze && self.from == KillFrom::Freeze {
            self.signal_kill.send(()).unwrap();
        }
    }
    fn is_cancelled(&self) -> bool {
        false
    }
    fn on_exited(&self, pid: fake_cri::process::Pid, status: i32) {
        self.host.on_exited(pid, status);
    }
    fn on_snapshot_starting(&self) {
        if self.from == KillFrom::Copying {
            self.signal_kill.send(()).unwrap();
        }
    }
}

#[rstest]
fn killing_a_process_at_any_instant_leaves_no_snapshot(
    #[values(Victim::Init, Victim::Child)] victim_kind: Victim,
    #[values(KillFrom::Freeze, KillFrom::Copying)] from: KillFrom,
) {
    let step = match from {
        KillFrom::Freeze => Duration::from_micros(200),
        KillFrom::Copying => Duration::from_micros(50),
    };
    let mut failed = 0;
    for instant in 0..30 {
        let workload = Workload::start(&Shape {
            children: 1,
            sleeping: 1,
            ..Shape::default()
        });
        let first = workload.pid();
        let pids: Vec<_> = descendants(first).iter().map(|process| process.pid.as_raw()).collect();
        let stacks: Vec<_> = pids
            .iter()
            .map(|pid| stack_start(*pid).expect("the process is alive"))
            .collect();
        let victim = match victim_kind {
            Victim::Init => first,
            Victim::Child => *pids.iter().find(|pid| **pid != first).expect("the child"),
        };
        let dir = tempfile::tempdir().unwrap();
        let job = job(first, dir.path());
        let (signal_kill, kill_signal) = mpsc::sync_channel(0);
        let host = TestHost::new(first);
        let host = SignallingHost {
            host,
            from,
            signal_kill,
        };
        let result = thread::scope(|scope| {
            scope.spawn(move || {
                kill_signal.recv().unwrap();
                let then = Instant::now() + step * instant;
                while Instant::now() < then {
                    std::hint::spin_loop();
                }
                kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
            });
            checkpoint::run(&job, &host, &())
        });
        match result {
            Ok(_) => assert_dir_entries(dir.path(), &["checkpoint.tar"]),
            Err(failure) => {
                assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
                assert_dir_entries(dir.path(), &[]);
                failed += 1;
            }
        }
        // A zombie that its parent has not reaped has no memory, so its stack is gone.
        let until = Instant::now() + Duration::from_secs(20);
        for (pid, stack) in pids.iter().zip(stacks) {
            while pids_with_stack(stack)
                .iter()
                .any(|other| other != pid || *pid == victim)
            {
                assert!(Instant::now() < until, "{pid}: {:?}", pids_with_stack(stack));
                thread::sleep(Duration::from_millis(1));
            }
        }
        if victim_kind == Victim::Child {
            assert_running_untraced(first);
        }
    }
    // A child that exits before the freeze is a zombie in the archive.
    assert!(failed > 0 || from == KillFrom::Freeze, "no process was killed in time");
}
