//! Processes that can and cannot be frozen. All keep running afterwards, whatever the result.

use std::{
    fs,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint::{self, ErrorKind, Phase};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, descendants, job, stat},
    workload::{Shape, Sleeper, Workload},
};

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn other_tracer_is_named_in_the_error() {
    let workload = Workload::start(&Shape {
        children: 1,
        spinning: 1,
        ..Shape::default()
    });
    let child = descendants(workload.pid())
        .into_iter()
        .map(|process| process.pid.as_raw())
        .find(|pid| *pid != workload.pid())
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (seized, is_seized) = mpsc::channel();
    let (end_tracing, tracing_ended) = mpsc::channel::<()>();
    let debugger = thread::spawn(move || {
        ptrace::seize(Pid::from_raw(child), ptrace::Options::empty()).unwrap();
        seized.send(nix::unistd::gettid().as_raw()).unwrap();
        // The kernel detaches the tracees when this thread exits.
        let _ = tracing_ended.recv();
    });
    let tracer = is_seized.recv().unwrap();
    let host = TestHost::new(workload.pid());
    let job = job(workload.pid(), dir.path());
    let failure = checkpoint::run(&job, &host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Freeze);
    for part in [
        format!("process {child} "),
        format!("thread {child}:"),
        format!("traced by process {tracer}"),
    ] {
        assert!(failure.message.contains(&part), "{}", failure.message);
    }
    assert_dir_entries(dir.path(), &[]);
    drop(end_tracing);
    debugger.join().unwrap();
    assert_running_untraced(workload.pid());
    assert!(workload.count() > 0);
    checkpoint::run(&job, &host, &()).expect("the next call succeeds");
}

#[test]
fn endless_vfork_fails_and_thaws() {
    let workload = Workload::start(&Shape {
        vfork: Some(Duration::from_secs(1000)),
        ..Shape::default()
    });
    wait_until("the vfork", || descendants(workload.pid()).len() == 2);
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(workload.pid(), dir.path());
    job.freeze_timeout = Duration::from_millis(200);
    let host = TestHost::new(workload.pid());
    let failure = checkpoint::run(&job, &host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Freeze);
    assert!(failure.message.contains("(vforker)"), "{}", failure.message);
    assert!(failure.message.contains("waits in vfork"), "{}", failure.message);
    assert!(
        failure.message.contains(&format!("process {} ", workload.pid())),
        "{}",
        failure.message
    );
    assert_dir_entries(dir.path(), &[]);
    assert_running_untraced(workload.pid());
    workload.count();

    job.freeze_timeout = Duration::from_secs(100);
    job.deadline = Some(Duration::from_millis(200));
    let failure = checkpoint::run(&job, &host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::DeadlineExceeded);
    assert_running_untraced(workload.pid());
}

#[test]
fn finished_vfork_is_waited_for() {
    let workload = Workload::start(&Shape {
        vfork: Some(Duration::from_millis(400)),
        ..Shape::default()
    });
    wait_until("the vfork", || descendants(workload.pid()).len() == 2);
    let dir = tempfile::tempdir().unwrap();
    let host = TestHost::new(workload.pid());
    checkpoint::run(&job(workload.pid(), dir.path()), &host, &()).expect("the freeze waits for the vfork");
    assert_running_untraced(workload.pid());
}

#[test]
fn stopped_process_stays_stopped() {
    let workload = Workload::start(&Shape {
        spinning: 2,
        ..Shape::default()
    });
    let pid = workload.pid();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    wait_until("the stop", || stat(pid).unwrap().0 == 'T');
    let dir = tempfile::tempdir().unwrap();
    let job = job(pid, dir.path());
    for _ in 0..3 {
        checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
        wait_until("it to stay stopped", || stat(pid).unwrap().0 == 'T');
    }
    let core = ArchiveContents::read(&job.location).core(pid).tc.unwrap();
    assert_eq!((core.task_state, core.stop_signo), (3, Some(libc::SIGSTOP as u32)));
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    wait_until("it to go on", || stat(pid).unwrap().0 != 'T');
    workload.count();
    assert_running_untraced(pid);
}

#[test]
fn short_lived_tasks_are_frozen() {
    let workload = Workload::start(&Shape {
        churns_tasks: true,
        spinning: 1,
        ..Shape::default()
    });
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..15 {
        let task_states = std::sync::Mutex::new(Vec::new());
        let host = TestHost::with_phase_hook(workload.pid(), |phase| {
            if phase == Phase::Capture {
                // A frozen container cannot start tasks, so all tasks that exist now must be stopped.
                for process in descendants(workload.pid()) {
                    for entry in fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap() {
                        let tid: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
                        task_states.lock().unwrap().push((tid, stat(tid).unwrap().0));
                    }
                }
            }
        });
        let job = job(workload.pid(), dir.path());
        checkpoint::run(&job, &host, &()).expect("the checkpoint succeeds");
        let threads = task_states.lock().unwrap();
        assert!(
            threads.iter().all(|(_, state)| matches!(state, 't' | 'Z' | 'X')),
            "{threads:?}"
        );
        let before = workload.count();
        wait_until("it to go on", || workload.count() > before);
    }
    assert_running_untraced(workload.pid());
}

#[test]
fn death_during_the_dump_is_reported_to_the_host() {
    let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    let dir = tempfile::tempdir().unwrap();
    let host = TestHost::with_phase_hook(pid, |phase| {
        if phase == Phase::Capture {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            wait_until("its end", || stat(pid).is_none_or(|(state, ..)| state == 'Z'));
        }
    });
    let failure = checkpoint::run(&job(pid, dir.path()), &host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
    assert_dir_entries(dir.path(), &[]);
    // Either the wait of the tracer consumed the exit and reported it to the host, or the zombie still exists.
    let exits = host.exits.lock().unwrap().clone();
    match exits.as_slice() {
        [] => assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGKILL)
        ),
        [exit] => {
            assert_eq!(*exit, (pid, libc::SIGKILL));
            assert!(child.wait().is_err(), "the exit was collected twice");
        }
        more => panic!("{more:?}"),
    }
}

#[test]
fn exited_container_is_not_running() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let job = job(sleeper.pid(), dir.path());
    let pid = sleeper.pid();
    drop(sleeper);
    let failure = checkpoint::run(&job, &TestHost::new(pid), &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{}", failure.message);
    assert_dir_entries(dir.path(), &[]);
}

#[test]
fn other_users_process_is_refused() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root may trace every process");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let failure = checkpoint::run(&job(1, dir.path()), &Pid1Host, &()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Freeze);
    assert!(failure.message.contains("process 1 "), "{}", failure.message);
    assert!(
        failure.message.contains("it runs as another user"),
        "{}",
        failure.message
    );
}

/// A host whose container is pid 1 of the machine.
struct Pid1Host;

impl checkpoint::Host for Pid1Host {
    fn members(&self) -> std::io::Result<Vec<fake_cri::process::ProcessId>> {
        Ok(vec![fake_cri::process::ProcessId {
            pid: fake_cri::process::Pid::from_raw(1),
            start_time: stat(1).unwrap().2,
        }])
    }
    fn on_phase(&self, _: Phase) {}
    fn is_cancelled(&self) -> bool {
        false
    }
    fn on_exited(&self, _: fake_cri::process::Pid, _: i32) {}
}

/// A cgroup for a test. Dropping it thaws the cgroup, moves its processes to the parent and removes the cgroup.
struct FreezerCgroup {
    dir: std::path::PathBuf,
    knob: &'static str,
    thawed: &'static str,
}

impl FreezerCgroup {
    fn create(parent: &str, knob: &'static str, thawed: &'static str) -> Option<Self> {
        let dir = std::path::Path::new(parent).join(format!("fake-cri-test-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let cgroup = Self { dir, knob, thawed };
        // Other file systems and hierarchies do not have this file.
        cgroup.dir.join(knob).exists().then_some(cgroup)
    }

    fn set(&self, value: &str) {
        fs::write(self.dir.join(self.knob), value).unwrap();
    }
}

impl Drop for FreezerCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join(self.knob), self.thawed);
        let members = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = fs::write(self.dir.with_file_name("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

#[test]
fn frozen_cgroup_is_named_in_the_error() {
    let mut created = 0;
    for (parent, knob, frozen, thawed) in [
        ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"),
        ("/sys/fs/cgroup/unified", "cgroup.freeze", "1", "0"),
        ("/sys/fs/cgroup", "cgroup.freeze", "1", "0"),
    ] {
        let workload = Workload::start(&Shape::default());
        let Some(cgroup) = FreezerCgroup::create(parent, knob, thawed) else {
            continue;
        };
        created += 1;
        fs::write(cgroup.dir.join("cgroup.procs"), workload.pid().to_string()).unwrap();
        cgroup.set(frozen);
        let dir = tempfile::tempdir().unwrap();
        let host = TestHost::new(workload.pid());
        let job = job(workload.pid(), dir.path());
        let failure = checkpoint::run(&job, &host, &()).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::FrozenCgroup, "{}", failure.message);
        assert!(
            failure.message.contains(&cgroup.dir.display().to_string()),
            "{}",
            failure.message
        );
        assert!(!job.location.exists());
        cgroup.set(thawed);
        checkpoint::run(&job, &host, &()).expect("the process is thawed");
    }
    if created == 0 {
        eprintln!("skipped: cannot create a freezer cgroup");
    }
}
