//! Freezing by a copy: nobody notices the copy, and none is left, however the checkpoint ends.

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
    archive::Contents,
    copies::{assert_alone, assert_no_copy, copy_of, field},
    host::{TestHost, assert_holds, assert_runs_free, descendants, job, stat},
    workload::{LARGE, PAGE, Shape, Sleeper, Workload},
};

#[test]
fn nobody_notices_the_copy() {
    let workload = Workload::start(&Shape {
        dense_pages: LARGE,
        shared_pages: 10,
        spinning: 1,
        watchful: true,
        ..Shape::default()
    });
    let pid = workload.pid();
    let descriptors = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
        let held = entries.map(|entry| fs::read_link(entry?.path()));
        held.collect::<io::Result<Vec<_>>>()
    };
    let own = descriptors(pid).unwrap();
    // Pipes that it made itself, to pour its memory into.
    let is_new_pipe = |held: &PathBuf| !own.contains(held) && held.to_string_lossy().starts_with("pipe:");
    let folder = tempfile::tempdir().unwrap();
    let job = job(pid, folder.path());
    let (over, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let Some(copy) = copy_of(pid) else { continue };
                let held = descriptors(copy);
                let maps = fs::read_to_string(format!("/proc/{copy}/maps"));
                // It may have ended meanwhile.
                if let (Ok(held), Ok(maps)) = (held, maps) {
                    let shared = |line: &&str| line.split(' ').nth(1).is_some_and(|access| access.ends_with('s'));
                    assert!(held.iter().all(is_new_pipe), "{held:?}");
                    assert_eq!(maps.lines().find(shared), None);
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for _ in 0..5 {
            let before = workload.count();
            let report = checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
            assert!(report.copied, "{}", Contents::read(&job.location).log());
            assert!(report.frozen < report.total);
            assert_alone(pid);
            assert!(workload.count() > before);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(seen.into_inner() > 0, "no copy was looked at");
}

#[test]
fn a_process_stands_still_until_all_is_read_where_that_is_asked_for() {
    let sleeper = Sleeper::start();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(sleeper.pid(), folder.path());
    job.freeze = Freeze::Whole;
    let report = checkpoint::run(&job, &TestHost::new(sleeper.pid())).expect("checkpoint");
    assert!(!report.copied);
    let log = Contents::read(&job.location).log();
    assert!(
        log.contains("stands still until all is read: that was asked for"),
        "{log}"
    );
}

/// A process in which no list of calls can be run is led from call to call, and copied all the same.
#[test]
fn a_process_whose_memory_may_not_become_executable_is_copied() {
    let workload = Workload::start(&Shape {
        dense_pages: LARGE,
        spinning: 1,
        no_new_code: true,
        ..Shape::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), folder.path());
    let report = checkpoint::run(&job, &TestHost::new(workload.pid())).expect("checkpoint");
    let log = Contents::read(&job.location).log();
    assert!(report.copied, "{log}");
    if !log.contains("PR_SET_MDWE") {
        eprintln!("skipped: no process of this kernel refuses new code (Linux before 6.3)");
        return;
    }
    assert!(log.contains("read, not poured"), "{log}");
    assert_alone(workload.pid());
    workload.count();
}

/// A process whose copy can have no pipes is read by another one.
#[test]
fn a_process_that_may_open_nothing_is_copied() {
    let workload = Workload::start(&Shape {
        dense_pages: LARGE,
        spinning: 1,
        ..Shape::default()
    });
    let number = workload.pid().to_string();
    let limited = Command::new("prlimit").args(["--nofile=3", "--pid", &number]).status();
    assert!(limited.expect("prlimit of util-linux").success());
    let folder = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), folder.path());
    let report = checkpoint::run(&job, &TestHost::new(workload.pid())).expect("checkpoint");
    let contents = Contents::read(&job.location);
    let log = contents.log();
    assert!(report.copied, "{log}");
    assert!(log.contains("read, not poured: it can have no pipe"), "{log}");
    let (start, length) = workload.layout.mappings["dense"];
    let pages = contents.pages(&format!("pagemap-{}.img", workload.pid()));
    let memory = fs::File::open(format!("/proc/{}/mem", workload.pid())).unwrap();
    let mut page = vec![0; PAGE as usize];
    for address in (start..start + length).step_by(PAGE as usize) {
        memory.read_exact_at(&mut page, address).unwrap();
        assert!(pages[&address] == page, "the page at {address:x} is another");
    }
    assert_alone(workload.pid());
    workload.count();
}

/// A child that is killed and reaped with its guard.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_process_of_a_new_namespace_is_not_taken_from_its_maker() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a namespace takes root");
        return;
    }
    let maker = Command::new("unshare")
        .args(["--pid", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .map(Guard)
        .unwrap();
    let pid = maker.0.id() as i32;
    let until = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n" {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(1));
    }
    let folder = tempfile::tempdir().unwrap();
    let job = job(pid, folder.path());
    let report = checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
    let log = Contents::read(&job.location).log();
    assert!(!report.copied && log.contains("another namespace"), "{log}");
}

/// A host that cancels at some time after the last phase before the thaw.
struct Impatient<'a> {
    host: TestHost<'a>,
    after: Duration,
    thawing: std::sync::Mutex<Option<Instant>>,
}

impl checkpoint::Host for Impatient<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn phase(&self, phase: checkpoint::Phase) {
        if phase == checkpoint::Phase::Write {
            *self.thawing.lock().unwrap() = Some(Instant::now());
        }
    }
    fn cancelled(&self) -> bool {
        self.thawing
            .lock()
            .unwrap()
            .is_some_and(|then| then.elapsed() > self.after)
    }
    fn exited(&self, pid: i32, status: i32) {
        self.host.exited(pid, status);
    }
    fn crash_runtime(&self) {}
}

#[test]
fn no_copy_is_left_by_a_checkpoint_that_is_given_up() {
    let workload = Workload::start(&Shape {
        dense_pages: LARGE,
        spinning: 1,
        watchful: true,
        ..Shape::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let job = job(workload.pid(), folder.path());
    let mut given_up = 0;
    for instant in 0..40 {
        let host = Impatient {
            host: TestHost::new(workload.pid()),
            after: Duration::from_micros(instant * 700),
            thawing: std::sync::Mutex::default(),
        };
        match checkpoint::run(&job, &host) {
            Ok(_) => fs::remove_file(&job.location).unwrap(),
            Err(failure) => {
                assert_eq!(failure.kind, ErrorKind::Cancelled, "{}", failure.message);
                given_up += 1;
            }
        }
        assert_holds(folder.path(), &[]);
        assert_alone(workload.pid());
        workload.count();
    }
    assert!(given_up > 5, "{given_up}");
}

/// Whose child a container's process is: a child of ours makes its copy a child of ours.
#[derive(Clone, Copy, Debug)]
enum Parent {
    Us,
    Another,
}

/// A host that has a shell go on to its next line while its copy is read, and waits until that has come about.
struct Changing<'a> {
    host: TestHost<'a>,
    input: std::sync::Mutex<Option<std::process::ChildStdin>>,
    changed: fn(i32) -> bool,
}

impl Changing<'_> {
    /// A shell that waits for a line before it runs this. It is a child of ours, or of a shell that ends as it does.
    fn start(then: &str, parent: Parent, changed: fn(i32) -> bool) -> (Guard, Self) {
        let script = format!("read line; {then}");
        let mut command = Command::new("sh");
        match parent {
            Parent::Us => command.args(["-c", &script]),
            Parent::Another => command.args(["-c", r#"sh -c "$1"; exit $?"#, "sh", &script]),
        };
        let shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut shell = Guard(shell.unwrap());
        let outer = shell.0.id() as i32;
        let until = Instant::now() + Duration::from_secs(20);
        let waits_for_a_line = |pid: &i32| {
            let place = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            place.starts_with(&format!("{} 0x0 ", libc::SYS_read))
        };
        let pid = loop {
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
            let pid = match parent {
                Parent::Us => Some(outer),
                Parent::Another => children.split_whitespace().next().map(|pid| pid.parse().unwrap()),
            };
            if let Some(pid) = pid.filter(waits_for_a_line) {
                break pid;
            }
            assert!(Instant::now() < until, "it does not wait for a line");
            thread::sleep(Duration::from_millis(1));
        };
        let host = Changing {
            host: TestHost::new(pid),
            input: std::sync::Mutex::new(shell.0.stdin.take()),
            changed,
        };
        (shell, host)
    }

    /// Checkpoints it, which succeeds with what its copy held: the shell alone.
    fn checkpoint(&self) {
        let folder = tempfile::tempdir().unwrap();
        let job = job(self.host.init, folder.path());
        let report = checkpoint::run(&job, self).expect("checkpoint");
        let contents = Contents::read(&job.location);
        assert!(report.copied, "{}", contents.log());
        assert!(self.input.lock().unwrap().is_none(), "its copy was not seen");
        assert_eq!(contents.tree().len(), 1);
        assert_holds(folder.path(), &["checkpoint.tar"]);
    }
}

impl checkpoint::Host for Changing<'_> {
    fn members(&self) -> io::Result<Vec<fake_cri::process::ProcessId>> {
        self.host.members()
    }
    fn phase(&self, _: checkpoint::Phase) {}
    /// Asked before every piece of memory, in the thread that holds the copy.
    fn cancelled(&self) -> bool {
        let pid = self.host.init;
        if copy_of(pid).is_some() && self.input.lock().unwrap().take().is_some() {
            // With the end of its input the shell goes on to its next line.
            let until = Instant::now() + Duration::from_secs(20);
            while !(self.changed)(pid) {
                assert!(Instant::now() < until, "it does not change");
                thread::sleep(Duration::from_millis(1));
            }
        }
        false
    }
    fn exited(&self, pid: i32, status: i32) {
        self.host.exited(pid, status);
    }
    fn crash_runtime(&self) {}
}

#[rstest]
fn a_container_that_calls_exec_while_its_copy_is_read_runs_on_as_what_it_became(
    #[values(Parent::Us, Parent::Another)] parent: Parent,
) {
    // More than once: every program's vdso lies elsewhere.
    for _ in 0..3 {
        let (_shell, host) = Changing::start("exec sleep 1000", parent, |pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
        });
        host.checkpoint();
        let pid = host.host.init;
        assert_alone(pid);
        let blocked = field(pid, "SigBlk:");
        assert_eq!(blocked.as_deref(), Some("0000000000000000"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

/// The children of a process that sleep.
fn sleeping_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    let sleeps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    children.filter(sleeps).collect()
}

#[rstest]
fn a_container_that_forks_while_its_copy_is_read_keeps_its_children(
    #[values(Parent::Us, Parent::Another)] parent: Parent,
) {
    let (shell, host) = Changing::start("sleep 1000 & sleep 1000 & wait", parent, |pid| {
        sleeping_children(pid).len() == 2
    });
    host.checkpoint();
    let pid = host.host.init;
    assert_runs_free(pid);
    let children = sleeping_children(pid);
    let family: Vec<_> = descendants(pid).iter().map(|process| process.pid).collect();
    assert_eq!(family, [&[pid], &children[..]].concat(), "no copy is left");
    for pid in family {
        assert_no_copy(pid);
    }
    for child in children {
        kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    }
    // It waits for both, and for nothing else.
    let mut shell = shell;
    assert!(shell.0.wait().unwrap().success());
}

#[rstest]
fn a_container_that_ends_by_itself_while_its_copy_is_read_is_whole_in_its_archive(
    #[values(Parent::Us, Parent::Another)] parent: Parent,
) {
    let ended = |pid| stat(pid).is_none_or(|(state, ..)| state == 'Z');
    let (mut shell, host) = Changing::start("exit 7", parent, ended);
    host.checkpoint();
    assert_eq!(
        shell.0.wait().unwrap().code(),
        Some(7),
        "nothing took its end from its parent"
    );
    assert_eq!(host.host.exits.lock().unwrap().len(), 0);
}
