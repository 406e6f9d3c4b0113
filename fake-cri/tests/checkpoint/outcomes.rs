//! Checkpoints that are cancelled, exceed their deadline, or have an injected fault: remaining files, and processes
//! that keep running.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use fake_cri::{
    checkpoint::{self, Delay, DelayMemory, DelayPhase, ErrorKind, Phase},
    fault::{CheckpointFaults, CheckpointHooks, Effect, ErrorStatus, Injection},
};
use nix::sys::signal::{Signal, kill};
use rstest::rstest;
use tonic::Code;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, fault, faults, job, stat},
    workload::{Shape, Workload},
};

fn small_workload() -> Workload {
    Workload::start(&Shape {
        spinning: 1,
        sleeping: 2,
        ..Shape::default()
    })
}

fn assert_keeps_running(workload: &Workload) {
    assert_running_untraced(workload.pid());
    let before = workload.count();
    let until = Instant::now() + Duration::from_secs(10);
    while workload.count() <= before + 1 {
        assert!(Instant::now() < until, "the workload does not continue");
    }
}

#[rstest]
fn cancelling_stops_the_checkpoint(#[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let host = TestHost::new(workload.pid());
    let canceller = TestHost {
        phase_hook: Box::new(|now| {
            if now == phase {
                host.cancel();
            }
        }),
        ..TestHost::new(workload.pid())
    };
    // One host gets the phases, the other one decides about cancellation. The engine sees a single host.
    let failure = checkpoint::run(&job(workload.pid(), dir.path()), &SplitHost(&canceller, &host), &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert_dir_entries(dir.path(), &[]);
    assert_keeps_running(&workload);
}

/// A host that takes the phases from one host and the cancellation from another.
struct SplitHost<'a>(&'a TestHost<'a>, &'a TestHost<'a>);

impl checkpoint::Host for SplitHost<'_> {
    fn members(&self) -> std::io::Result<Vec<fake_cri::process::ProcessId>> {
        self.0.members()
    }
    fn on_phase(&self, phase: Phase) {
        self.0.on_phase(phase);
    }
    fn is_cancelled(&self) -> bool {
        self.1.is_cancelled()
    }
    fn on_exited(&self, pid: fake_cri::process::Pid, status: i32) {
        self.0.on_exited(pid, status);
    }
}

#[rstest]
fn deadline_stops_the_checkpoint(
    #[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase,
    #[values(Effect::Hang, Effect::Delay(Duration::from_secs(1000)))] effect: Effect,
) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), dir.path());
    job.deadline = Some(Duration::from_millis(300));
    let started = Instant::now();
    let failure = checkpoint::run(&job, &TestHost::new(workload.pid()), &fault(phase, effect)).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::DeadlineExceeded);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_dir_entries(dir.path(), &[]);
    assert_keeps_running(&workload);
}

/// Runs a checkpoint of a small workload with one injection. Returns the result and the files in the directory.
fn run_with_fault(
    phase: Phase,
    effect: Effect,
) -> (
    Result<checkpoint::Report, checkpoint::Failure>,
    Vec<u8>,
    u32,
    Vec<String>,
) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let result = checkpoint::run(&job, &TestHost::new(workload.pid()), &fault(phase, effect));
    assert_keeps_running(&workload);
    let mode = fs::metadata(&job.location).map_or(0, |metadata| metadata.mode() & 0o7777);
    let names = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    (result, fs::read(&job.location).unwrap_or_default(), mode, names)
}

#[rstest]
fn injected_error_message_is_unchanged(
    #[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase,
) {
    let (result, _, _, names) = run_with_fault(
        phase,
        Effect::Error(ErrorStatus {
            code: Code::Internal,
            message: "disk on fire".to_owned(),
        }),
    );
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Injected(13));
    assert_eq!(failure.message, "disk on fire");
    assert_eq!(names, [""; 0]);
}

#[rstest]
#[case::at_once(0)]
#[case::in_the_middle(70_000)]
fn full_disk_leaves_no_file(#[case] after: u64) {
    let (result, _, _, names) = run_with_fault(Phase::Write, Effect::NoSpace(after));
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NoSpace, "{}", failure.message);
    assert!(failure.message.contains("No space left"), "{}", failure.message);
    assert_eq!(names, [""; 0]);
}

#[rstest]
#[case::at_once(0)]
#[case::in_the_middle(70_000)]
fn io_error_leaves_no_file(#[case] after: u64) {
    let (result, _, _, names) = run_with_fault(Phase::Write, Effect::IoError(after));
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Write, "{}", failure.message);
    assert!(failure.message.contains("Input/output error"), "{}", failure.message);
    assert_eq!(names, [""; 0]);
}

#[test]
fn archive_defects_are_applied() {
    let (result, complete, mode, _) = run_with_fault(Phase::Write, Effect::Delay(Duration::ZERO));
    assert_eq!(result.unwrap().archive_bytes, complete.len() as u64);
    assert_eq!(mode, 0o600);

    let (result, bytes, ..) = run_with_fault(Phase::Write, Effect::PartialArchive(50));
    assert_eq!(result.unwrap_err().kind, ErrorKind::Write);
    assert!((1000..complete.len() * 3 / 4).contains(&bytes.len()), "{}", bytes.len());

    let (result, bytes, ..) = run_with_fault(Phase::Write, Effect::TruncatedArchive(50));
    assert_eq!(result.unwrap().archive_bytes, bytes.len() as u64);
    assert!((1000..complete.len() * 3 / 4).contains(&bytes.len()), "{}", bytes.len());

    let (result, bytes, _, names) = run_with_fault(Phase::Write, Effect::EmptyArchive);
    result.expect("the checkpoint succeeds");
    assert!(bytes.is_empty());
    assert_eq!(names, ["checkpoint.tar"]);

    let (result, _, _, names) = run_with_fault(Phase::Write, Effect::NoArchive);
    result.expect("the checkpoint succeeds");
    assert_eq!(names, [""; 0]);

    let (result, _, mode, _) = run_with_fault(Phase::Write, Effect::Mode(0o644));
    result.expect("the checkpoint succeeds");
    assert_eq!(mode, 0o644);

    let (result, bytes, ..) = run_with_fault(Phase::Write, Effect::CorruptArchive);
    result.expect("the checkpoint succeeds");
    let mut tar = tar::Archive::new(&*bytes);
    assert!(
        tar.entries().unwrap().next().unwrap().is_err(),
        "the first header's checksum is wrong"
    );
}

#[test]
fn members_can_be_omitted() {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let omit = |glob: &str| Injection {
        phase: Phase::Write,
        effect: Effect::Omit(glob.to_owned()),
    };
    let hooks = faults(CheckpointFaults {
        injections: vec![omit("checkpoint/core-*"), omit("**/inventory.img"), omit("spec.dump")],
        defects: Vec::new(),
    });
    checkpoint::run(&job, &TestHost::new(workload.pid()), &hooks).expect("the checkpoint succeeds");
    let members = ArchiveContents::read(&job.location).members;
    assert!(
        members
            .keys()
            .all(|name| !name.contains("core-") && !name.contains("inventory") && name != "spec.dump")
    );
    assert!(members.contains_key("checkpoint/pstree.img") && members.contains_key("config.dump"));
}

#[rstest]
fn container_can_be_left_frozen(#[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase) {
    let workload = Workload::start(&Shape {
        spinning: 1,
        children: 1,
        ..Shape::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let hooks = fault(phase, Effect::LeaveFrozen);
    checkpoint::run(&job, &TestHost::new(workload.pid()), &hooks).expect("all else is done");
    assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    for process in crate::host::descendants(workload.pid()) {
        let until = Instant::now() + Duration::from_secs(10);
        while stat(process.pid.as_raw()).unwrap().0 != 'T' {
            assert!(Instant::now() < until, "{} is still running", process.pid);
            thread::sleep(Duration::from_millis(1));
        }
        kill(process.pid.into(), Signal::SIGCONT).unwrap();
    }
    workload.count();
}

#[rstest]
fn container_can_be_killed(#[values(Phase::Freeze, Phase::Capture, Phase::Write)] phase: Phase) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let hooks = fault(phase, Effect::KillContainer);
    let failure = checkpoint::run(&job, &TestHost::new(workload.pid()), &hooks).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
    assert_dir_entries(dir.path(), &[]);
    assert!(stat(workload.pid()).is_none_or(|(state, ..)| state == 'Z'));
}

#[rstest]
fn runtime_crash_cancels_the_checkpoint(
    #[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase,
) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let host = TestHost::new(workload.pid());
    let faults = CheckpointFaults {
        injections: vec![Injection {
            phase,
            effect: Effect::Crash,
        }],
        defects: Vec::new(),
    };
    let hooks = CheckpointHooks::new(faults, || host.cancel());
    let failure = checkpoint::run(&job, &host, &hooks).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert_dir_entries(dir.path(), &[]);
    assert_keeps_running(&workload);
}

/// The delay never expires during the test.
const ENDLESS_DELAY: Duration = Duration::from_secs(100_000);

fn delay_model(base: Duration, delay_phase: DelayPhase) -> Option<Delay> {
    Some(Delay {
        base,
        rate: Some(1 << 30),
        jitter_factor: 1.0,
        memory: DelayMemory::Annotated(1 << 29),
        phase: delay_phase,
    })
}

#[rstest]
#[case::in_the_freeze(DelayPhase::Freeze)]
#[case::in_the_write(DelayPhase::Write)]
fn delay_model_is_applied(#[case] delay_phase: DelayPhase) {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), dir.path());
    job.delay = delay_model(Duration::from_millis(100), delay_phase);
    let began = Instant::now();
    let capture_began_after = Mutex::new(Duration::ZERO);
    let host = TestHost::with_phase_hook(workload.pid(), |phase| {
        if phase == Phase::Capture {
            *capture_began_after.lock().unwrap() = began.elapsed();
        }
    });
    let report = checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
    let min_total = Duration::from_millis(600);
    assert!(report.total_time >= min_total, "{report:?}");
    if delay_phase == DelayPhase::Freeze {
        // The workload is frozen before the capture begins and thawed after the minimum time.
        assert!(
            *capture_began_after.lock().unwrap() + report.frozen_time >= min_total,
            "{report:?}"
        );
    }
    drop(host);
    assert_keeps_running(&workload);
}

#[test]
fn container_runs_during_a_write_delay() {
    let workload = small_workload();
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), dir.path());
    job.delay = delay_model(ENDLESS_DELAY, DelayPhase::Write);
    job.deadline = Some(Duration::from_secs(60)); // if it stands still after all
    let (stopped, is_stopped) = mpsc::channel();
    let host = TestHost::with_phase_hook(workload.pid(), |phase| {
        if phase == Phase::Capture {
            stopped.send(()).unwrap();
        }
    });
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| checkpoint::run(&job, &host, &()));
        is_stopped.recv().unwrap();
        // The workload responds after the thaw. The checkpoint then still runs, for a day.
        workload.count();
        host.cancel();
        let failure = checkpoint.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Cancelled);
    });
    drop(host);
    assert_dir_entries(dir.path(), &[]);
    assert_keeps_running(&workload);
}
