//! Checkpoints that are given up, run out of time, or are told to go wrong: what is left, and what runs on.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint::{self, Delay, DelayIn, DelayMemory, Effect, ErrorKind, Injection, Phase};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

use crate::{
    archive::Contents,
    host::{TestHost, assert_holds, assert_runs_free, job, stat},
    workload::{Shape, Workload},
};

fn small() -> Workload {
    Workload::start(&Shape {
        spinning: 1,
        sleeping: 2,
        ..Shape::default()
    })
}

fn assert_goes_on(workload: &Workload) {
    assert_runs_free(workload.pid());
    let before = workload.count();
    let until = Instant::now() + Duration::from_secs(10);
    while workload.count() <= before + 1 {
        assert!(Instant::now() < until, "it does not go on");
    }
}

#[rstest]
fn a_caller_that_gives_up_ends_it(#[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let host = TestHost::new(workload.pid());
    let canceller = TestHost {
        on_phase: Box::new(|now| {
            if now == phase {
                host.cancel();
            }
        }),
        ..TestHost::new(workload.pid())
    };
    // The phase is told to one host, the cancellation asked of another: both are the same to the engine.
    let failure = checkpoint::run(&job(workload.pid(), folder.path()), &Joined(&canceller, &host)).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert_holds(folder.path(), &[]);
    assert_goes_on(&workload);
}

/// Phases from one host, cancellation from another.
struct Joined<'a>(&'a TestHost<'a>, &'a TestHost<'a>);

impl checkpoint::Host for Joined<'_> {
    fn members(&self) -> std::io::Result<Vec<fake_cri::process::ProcessId>> {
        self.0.members()
    }
    fn phase(&self, phase: Phase) {
        self.0.phase(phase);
    }
    fn cancelled(&self) -> bool {
        self.1.cancelled()
    }
    fn exited(&self, pid: i32, status: i32) {
        self.0.exited(pid, status);
    }
    fn crash_runtime(&self) {
        self.0.crash_runtime();
    }
}

#[rstest]
fn a_deadline_ends_it(
    #[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase,
    #[values(Effect::Hang, Effect::Delay(Duration::from_secs(1000)))] effect: Effect,
) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.deadline = Some(Duration::from_millis(300));
    job.injections = vec![Injection { phase, effect }];
    let started = Instant::now();
    let failure = checkpoint::run(&job, &TestHost::new(workload.pid())).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::DeadlineExceeded);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_holds(folder.path(), &[]);
    assert_goes_on(&workload);
}

/// The result of a checkpoint of a small workload with one injection, and what the folder holds then.
fn with(
    phase: Phase,
    effect: Effect,
) -> (
    Result<checkpoint::Report, checkpoint::Failure>,
    Vec<u8>,
    u32,
    Vec<String>,
) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.injections = vec![Injection { phase, effect }];
    let result = checkpoint::run(&job, &TestHost::new(workload.pid()));
    assert_goes_on(&workload);
    let mode = fs::metadata(&job.location).map_or(0, |metadata| metadata.mode() & 0o7777);
    let names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    (result, fs::read(&job.location).unwrap_or_default(), mode, names)
}

#[rstest]
fn an_injected_error_is_word_for_word(
    #[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase,
) {
    let (result, _, _, names) = with(
        phase,
        Effect::Error {
            code: 13,
            message: "disk on fire".to_owned(),
        },
    );
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Injected(13));
    assert_eq!(failure.message, "disk on fire");
    assert_eq!(names, [""; 0]);
}

#[rstest]
#[case::at_once(0)]
#[case::in_the_middle(70_000)]
fn a_full_disk_leaves_nothing(#[case] after: u64) {
    let (result, _, _, names) = with(Phase::Write, Effect::NoSpace { after });
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NoSpace, "{}", failure.message);
    assert!(failure.message.contains("No space left"), "{}", failure.message);
    assert_eq!(names, [""; 0]);
}

#[rstest]
#[case::at_once(0)]
#[case::in_the_middle(70_000)]
fn a_broken_disk_leaves_nothing(#[case] after: u64) {
    let (result, _, _, names) = with(Phase::Write, Effect::IoError { after });
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Write, "{}", failure.message);
    assert!(failure.message.contains("Input/output error"), "{}", failure.message);
    assert_eq!(names, [""; 0]);
}

#[test]
fn archives_of_the_wrong_shape_appear_as_told() {
    let (result, whole, mode, _) = with(Phase::Write, Effect::Delay(Duration::ZERO));
    assert_eq!(result.unwrap().archive_bytes, whole.len() as u64);
    assert_eq!(mode, 0o600);

    let (result, bytes, ..) = with(Phase::Write, Effect::PartialArchive { percent: 50 });
    assert_eq!(result.unwrap_err().kind, ErrorKind::Write);
    assert!((1000..whole.len() * 3 / 4).contains(&bytes.len()), "{}", bytes.len());

    let (result, bytes, ..) = with(Phase::Write, Effect::TruncatedArchive { percent: 50 });
    assert_eq!(result.unwrap().archive_bytes, bytes.len() as u64);
    assert!((1000..whole.len() * 3 / 4).contains(&bytes.len()), "{}", bytes.len());

    let (result, bytes, _, names) = with(Phase::Write, Effect::EmptyArchive);
    result.expect("success is answered");
    assert!(bytes.is_empty());
    assert_eq!(names, ["checkpoint.tar"]);

    let (result, _, _, names) = with(Phase::Write, Effect::NoArchive);
    result.expect("success is answered");
    assert_eq!(names, [""; 0]);

    let (result, _, mode, _) = with(Phase::Write, Effect::Mode(0o644));
    result.expect("success is answered");
    assert_eq!(mode, 0o644);

    let (result, bytes, ..) = with(Phase::Write, Effect::CorruptArchive);
    result.expect("success is answered");
    let mut tar = tar::Archive::new(&*bytes);
    assert!(
        tar.entries().unwrap().next().unwrap().is_err(),
        "the first header's checksum is wrong"
    );
}

#[test]
fn a_member_can_be_left_out() {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    let omit = |glob: &str| Injection {
        phase: Phase::Write,
        effect: Effect::OmitMember(glob.to_owned()),
    };
    job.injections = vec![omit("checkpoint/core-*"), omit("**/inventory.img"), omit("spec.dump")];
    checkpoint::run(&job, &TestHost::new(workload.pid())).expect("checkpoint");
    let members = Contents::read(&job.location).members;
    assert!(
        members
            .keys()
            .all(|name| !name.contains("core-") && !name.contains("inventory") && name != "spec.dump")
    );
    assert!(members.contains_key("checkpoint/pstree.img") && members.contains_key("config.dump"));
}

#[rstest]
fn a_container_can_be_left_frozen(#[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase) {
    let workload = Workload::start(&Shape {
        spinning: 1,
        children: 1,
        ..Shape::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.injections = vec![Injection {
        phase,
        effect: Effect::LeaveFrozen,
    }];
    checkpoint::run(&job, &TestHost::new(workload.pid())).expect("all else is done");
    assert_holds(folder.path(), &["checkpoint.tar"]);
    for process in crate::host::descendants(workload.pid()) {
        let until = Instant::now() + Duration::from_secs(10);
        while stat(process.pid).unwrap().0 != 'T' {
            assert!(Instant::now() < until, "{} goes on", process.pid);
            thread::sleep(Duration::from_millis(1));
        }
        kill(Pid::from_raw(process.pid), Signal::SIGCONT).unwrap();
    }
    workload.count();
}

#[rstest]
fn a_container_can_be_killed(#[values(Phase::Freeze, Phase::Capture, Phase::Write)] phase: Phase) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.injections = vec![Injection {
        phase,
        effect: Effect::KillContainer,
    }];
    let failure = checkpoint::run(&job, &TestHost::new(workload.pid())).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
    assert_holds(folder.path(), &[]);
    assert!(stat(workload.pid()).is_none_or(|(state, ..)| state == 'Z'));
}

#[rstest]
fn a_crash_of_the_runtime_ends_it(#[values(Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish)] phase: Phase) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.injections = vec![Injection {
        phase,
        effect: Effect::CrashRuntime,
    }];
    let host = TestHost::new(workload.pid());
    let failure = checkpoint::run(&job, &host).unwrap_err();
    assert!(host.crashed.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert_holds(folder.path(), &[]);
    assert_goes_on(&workload);
}

/// So long that it has to be ended.
const ENDLESS: Duration = Duration::from_secs(100_000);

fn modelled(base: Duration, within: DelayIn) -> Option<Delay> {
    Some(Delay {
        base,
        rate: Some(1 << 30),
        factor: 1.0,
        memory: DelayMemory::Annotated(1 << 29),
        within,
    })
}

#[rstest]
#[case::in_the_freeze(DelayIn::Freeze)]
#[case::in_the_write(DelayIn::Write)]
fn the_modelled_time_is_taken(#[case] within: DelayIn) {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.delay = modelled(Duration::from_millis(100), within);
    let began = Instant::now();
    let stood = Mutex::new(Duration::ZERO);
    let host = TestHost::with(workload.pid(), |phase| {
        if phase == Phase::Capture {
            *stood.lock().unwrap() = began.elapsed();
        }
    });
    let report = checkpoint::run(&job, &host).expect("checkpoint");
    let modelled = Duration::from_millis(600);
    assert!(report.total >= modelled, "{report:?}");
    if within == DelayIn::Freeze {
        // It was asked to stop before the capture began, and was let go when the time was over.
        assert!(*stood.lock().unwrap() + report.frozen >= modelled, "{report:?}");
    }
    drop(host);
    assert_goes_on(&workload);
}

#[test]
fn it_runs_while_the_write_takes_its_time() {
    let workload = small();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), folder.path());
    job.delay = modelled(ENDLESS, DelayIn::Write);
    job.deadline = Some(Duration::from_secs(60)); // if it stands still after all
    let (stands, is_still) = mpsc::channel();
    let host = TestHost::with(workload.pid(), |phase| {
        if phase == Phase::Capture {
            stands.send(()).unwrap();
        }
    });
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| checkpoint::run(&job, &host));
        is_still.recv().unwrap();
        // It answers once it is let go; the call is still under way then, and would be for a day.
        workload.count();
        host.cancel();
        let failure = checkpoint.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Cancelled);
    });
    drop(host);
    assert_holds(folder.path(), &[]);
    assert_goes_on(&workload);
}
