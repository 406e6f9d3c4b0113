//! Checkpoints with snapshots: the container cannot notice the snapshot, and no snapshot remains, however the
//! checkpoint ends.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint::{self, ErrorKind, Freeze};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_dir_entries, assert_running_untraced, descendants, job, stat},
    snapshot_procs::{assert_no_extra_process, assert_no_snapshot, snapshot_of, status_field},
    workload::{LARGE_PAGES, PAGE_BYTES, Shape, Sleeper, Workload},
};

#[test]
fn snapshot_is_not_noticed() {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        shared_pages: 10,
        spinning: 1,
        watches_sigchld: true,
        ..Shape::default()
    });
    let pid = workload.pid();
    let descriptors = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
        let links = entries.map(|entry| fs::read_link(entry?.path()));
        links.collect::<io::Result<Vec<_>>>()
    };
    let descriptors_before = descriptors(pid).unwrap();
    // The page pipes, which the snapshot itself creates.
    let is_new_pipe =
        |link: &PathBuf| !descriptors_before.contains(link) && link.to_string_lossy().starts_with("pipe:");
    let dir = tempfile::tempdir().unwrap();
    let job = job(pid, dir.path());
    let (is_over, observations) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let Some(copy) = snapshot_of(pid) else { continue };
                let links = descriptors(copy);
                let maps = fs::read_to_string(format!("/proc/{copy}/maps"));
                // The snapshot may have exited in the meantime.
                if let (Ok(links), Ok(maps)) = (links, maps) {
                    let shared = |line: &&str| line.split(' ').nth(1).is_some_and(|access| access.ends_with('s'));
                    assert!(links.iter().all(is_new_pipe), "{links:?}");
                    assert_eq!(maps.lines().find(shared), None);
                    observations.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for _ in 0..5 {
            let before = workload.count();
            let report = checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
            assert!(report.used_snapshot, "{}", ArchiveContents::read(&job.location).log());
            assert!(report.frozen_time < report.total_time);
            assert_no_extra_process(pid);
            assert!(workload.count() > before);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert!(observations.into_inner() > 0, "no snapshot was observed");
}

#[test]
fn full_freeze_makes_no_snapshot() {
    let sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(sleeper.pid(), dir.path());
    job.freeze = Freeze::Full;
    let report = checkpoint::run(&job, &TestHost::new(sleeper.pid()), &()).expect("the checkpoint succeeds");
    assert!(!report.used_snapshot);
    let log = ArchiveContents::read(&job.location).log();
    assert!(log.contains("full freeze: disabled by --freeze full"), "{log}");
}

/// A process that cannot map an executable page gets no syscall list; each remote syscall is single-stepped.
#[test]
fn process_that_denies_executable_memory_is_snapshotted() {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        spinning: 1,
        denies_exec_memory: true,
        ..Shape::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let report = checkpoint::run(&job, &TestHost::new(workload.pid()), &()).expect("the checkpoint succeeds");
    let log = ArchiveContents::read(&job.location).log();
    assert!(report.used_snapshot, "{log}");
    if !log.contains("PR_SET_MDWE") {
        eprintln!("skipped: this kernel has no PR_SET_MDWE (Linux before 6.3)");
        return;
    }
    assert!(log.contains("splice unavailable, copying memory"), "{log}");
    assert_no_extra_process(workload.pid());
    workload.count();
}

/// A snapshot without page pipes is read through `/proc/PID/mem`.
#[test]
fn process_at_its_fd_limit_is_snapshotted() {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        spinning: 1,
        ..Shape::default()
    });
    let pid = workload.pid().to_string();
    let limited = Command::new("prlimit").args(["--nofile=3", "--pid", &pid]).status();
    assert!(limited.expect("prlimit from util-linux is installed").success());
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let report = checkpoint::run(&job, &TestHost::new(workload.pid()), &()).expect("the checkpoint succeeds");
    let contents = ArchiveContents::read(&job.location);
    let log = contents.log();
    assert!(report.used_snapshot, "{log}");
    assert!(log.contains("splice unavailable, copying memory: pipe of "), "{log}");
    let (start, length) = workload.layout.mappings["dense"];
    let pages = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    let memory = fs::File::open(format!("/proc/{}/mem", workload.pid())).unwrap();
    let mut page = vec![0; PAGE_BYTES as usize];
    for address in (start..start + length).step_by(PAGE_BYTES as usize) {
        memory.read_exact_at(&mut page, address).unwrap();
        assert!(pages[&address] == page, "the page at {address:x} differs");
    }
    assert_no_extra_process(workload.pid());
    workload.count();
}

/// A child process. Dropping it kills and reaps the process.
struct ReapedChild(Child);

impl Drop for ReapedChild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn init_of_a_new_pid_namespace_is_not_snapshotted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: creating a namespace requires root");
        return;
    }
    let creator = Command::new("unshare")
        .args(["--pid", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .map(ReapedChild)
        .unwrap();
    let pid = creator.0.id() as i32;
    let until = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n" {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(1));
    }
    let dir = tempfile::tempdir().unwrap();
    let job = job(pid, dir.path());
    let report = checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    let log = ArchiveContents::read(&job.location).log();
    assert!(!report.used_snapshot && log.contains("namespace for children"), "{log}");
}

/// A host that cancels the checkpoint some time after the write phase began.
struct CancellingHost<'a> {
    host: TestHost<'a>,
    after: Duration,
    thaw_began: std::sync::Mutex<Option<Instant>>,
}

impl checkpoint::Host for CancellingHost<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn on_phase(&self, phase: checkpoint::Phase) {
        if phase == checkpoint::Phase::Write {
            *self.thaw_began.lock().unwrap() = Some(Instant::now());
        }
    }
    fn is_cancelled(&self) -> bool {
        self.thaw_began
            .lock()
            .unwrap()
            .is_some_and(|then| then.elapsed() > self.after)
    }
    fn on_exited(&self, pid: fake_cri::process::Pid, status: i32) {
        self.host.on_exited(pid, status);
    }
}

#[test]
fn cancelled_checkpoint_leaves_no_snapshot() {
    let workload = Workload::start(&Shape {
        filled_pages: LARGE_PAGES,
        spinning: 1,
        watches_sigchld: true,
        ..Shape::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), dir.path());
    let mut cancelled = 0;
    for instant in 0..40 {
        let host = CancellingHost {
            host: TestHost::new(workload.pid()),
            after: Duration::from_micros(instant * 700),
            thaw_began: std::sync::Mutex::default(),
        };
        match checkpoint::run(&job, &host, &()) {
            Ok(_) => fs::remove_file(&job.location).unwrap(),
            Err(failure) => {
                assert_eq!(failure.kind, ErrorKind::Cancelled, "{}", failure.message);
                cancelled += 1;
            }
        }
        assert_dir_entries(dir.path(), &[]);
        assert_no_extra_process(workload.pid());
        workload.count();
    }
    assert!(cancelled > 5, "{cancelled}");
}

/// The parent of the container's process. The snapshot of a child of the tracer becomes a child of the tracer.
#[derive(Clone, Copy, Debug)]
enum Parent {
    TestProcess,
    OuterShell,
}

/// A host that lets a shell execute its next command while the snapshot is read, and waits for the effect.
struct ChangingHost<'a> {
    host: TestHost<'a>,
    input: std::sync::Mutex<Option<std::process::ChildStdin>>,
    changed: fn(i32) -> bool,
}

impl ChangingHost<'_> {
    /// Starts a shell that reads a line and then executes `then`. The shell is a child of this process, or of an outer
    /// shell that exits with its status.
    fn start(then: &str, parent: Parent, changed: fn(i32) -> bool) -> (ReapedChild, Self) {
        let script = format!("read line; {then}");
        let mut command = Command::new("sh");
        match parent {
            Parent::TestProcess => command.args(["-c", &script]),
            Parent::OuterShell => command.args(["-c", r#"sh -c "$1"; exit $?"#, "sh", &script]),
        };
        let shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut shell = ReapedChild(shell.unwrap());
        let outer = shell.0.id() as i32;
        let until = Instant::now() + Duration::from_secs(20);
        let waits_for_a_line = |pid: &i32| {
            let syscall = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            syscall.starts_with(&format!("{} 0x0 ", libc::SYS_read))
        };
        let pid = loop {
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
            let pid = match parent {
                Parent::TestProcess => Some(outer),
                Parent::OuterShell => children.split_whitespace().next().map(|pid| pid.parse().unwrap()),
            };
            if let Some(pid) = pid.filter(waits_for_a_line) {
                break pid;
            }
            assert!(Instant::now() < until, "the shell does not wait for a line");
            thread::sleep(Duration::from_millis(1));
        };
        let host = ChangingHost {
            host: TestHost::new(pid),
            input: std::sync::Mutex::new(shell.0.stdin.take()),
            changed,
        };
        (shell, host)
    }

    /// The checkpoint must succeed with the state of the snapshot: the shell alone.
    fn checkpoint(&self) {
        let dir = tempfile::tempdir().unwrap();
        let job = job(self.host.init, dir.path());
        let report = checkpoint::run(&job, self, &()).expect("the checkpoint succeeds");
        let contents = ArchiveContents::read(&job.location);
        assert!(report.used_snapshot, "{}", contents.log());
        assert!(self.input.lock().unwrap().is_none(), "the snapshot was not observed");
        assert_eq!(contents.pstree().len(), 1);
        assert_dir_entries(dir.path(), &["checkpoint.tar"]);
    }
}

impl checkpoint::Host for ChangingHost<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn on_phase(&self, _: checkpoint::Phase) {}
    /// Called before each chunk of memory, in the thread that traces the snapshot.
    fn is_cancelled(&self) -> bool {
        let pid = self.host.init;
        if snapshot_of(pid).is_some() && self.input.lock().unwrap().take().is_some() {
            // EOF on its input makes the shell continue.
            let until = Instant::now() + Duration::from_secs(20);
            while !(self.changed)(pid) {
                assert!(Instant::now() < until, "the shell does not continue");
                thread::sleep(Duration::from_millis(1));
            }
        }
        false
    }
    fn on_exited(&self, pid: fake_cri::process::Pid, status: i32) {
        self.host.on_exited(pid, status);
    }
}

#[rstest]
fn exec_during_the_dump_is_allowed(#[values(Parent::TestProcess, Parent::OuterShell)] parent: Parent) {
    // Several times, because the address of the vdso is random.
    for _ in 0..3 {
        let (_shell, host) = ChangingHost::start("exec sleep 1000", parent, |pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
        });
        host.checkpoint();
        let pid = host.host.init;
        assert_no_extra_process(pid);
        let blocked = status_field(pid, "SigBlk:");
        assert_eq!(blocked.as_deref(), Some("0000000000000000"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

/// The children whose command is `sleep`.
fn sleeping_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    let sleeps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    children.filter(sleeps).collect()
}

#[rstest]
fn fork_during_the_dump_is_allowed(#[values(Parent::TestProcess, Parent::OuterShell)] parent: Parent) {
    let (shell, host) = ChangingHost::start("sleep 1000 & sleep 1000 & wait", parent, |pid| {
        sleeping_children(pid).len() == 2
    });
    host.checkpoint();
    let pid = host.host.init;
    assert_running_untraced(pid);
    let children = sleeping_children(pid);
    let pids: Vec<_> = descendants(pid).iter().map(|process| process.pid.as_raw()).collect();
    assert_eq!(pids, [&[pid], &children[..]].concat(), "no snapshot remains");
    for pid in pids {
        assert_no_snapshot(pid);
    }
    for child in children {
        kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    }
    // The shell waits for its two children and for no snapshot.
    let mut shell = shell;
    assert!(shell.0.wait().unwrap().success());
}

#[rstest]
fn exit_during_the_dump_is_allowed(#[values(Parent::TestProcess, Parent::OuterShell)] parent: Parent) {
    let ended = |pid| stat(pid).is_none_or(|(state, ..)| state == 'Z');
    let (mut shell, host) = ChangingHost::start("exit 7", parent, ended);
    host.checkpoint();
    assert_eq!(
        shell.0.wait().unwrap().code(),
        Some(7),
        "the parent gets the exit status"
    );
    assert_eq!(host.host.exits.lock().unwrap().len(), 0);
}
