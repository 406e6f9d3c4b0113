//! Injections into real programs, each of which then goes on as if nothing had been.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

use super::*;

/// A program with its streams; killed and reaped with its guard.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(child.expect("a program of every system"))
    }

    /// A shell script, as far as its first line of output.
    fn shell(script: &str) -> Self {
        let mut program = Self::start(Command::new("sh").args(["-c", script]));
        assert_eq!(program.line(), "ready");
        program
    }

    fn tid(&self) -> i32 {
        self.0.id() as i32
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.tid()), signal).expect("it lives");
    }

    /// The next line it prints, read by bytes so that none is lost in a buffer.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1, self.0.stdout.as_mut().expect("piped"));
        reader.read_line(&mut line).expect("it prints");
        line.trim_end().to_owned()
    }

    /// Seizes and stops it, once it is in this state of `/proc/PID/stat`.
    fn stop_in(&self, state: char) {
        wait_until(|| proc::stat(self.tid()).expect("it lives").state == state);
        ptrace::seize(self.tid()).expect("seize");
        ptrace::interrupt(self.tid()).expect("interrupt");
        let mut stop = None;
        wait_until(|| {
            stop = stop.or(ptrace::next_stop(self.tid()).expect("wait"));
            stop.is_some()
        });
        assert_eq!(stop, Some(Stop::Interrupted));
    }

    fn enter(&self) -> Injection {
        let gate = Gate::find(self.tid()).expect("gate");
        Injection::enter(self.tid(), gate, 0).expect("enter")
    }

    fn let_go(&self) {
        ptrace::detach(self.tid()).expect("detach");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "nothing happened within 20 s");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Registers, mask, status, mappings and children of a thread.
type Look = (Vec<u8>, u64, String, Vec<Mapping>, String);

/// What a thread is made of, as far as an injection could change it.
fn look(tid: i32) -> Look {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).expect("status");
    // The counts of context switches go up, the peak too; SigQ counts the whole user. What is blocked comes below: a call that waits with another mask
    // (sigsuspend) shows that one here until it is restarted.
    let changing = ["Vm", "Rss", "SigQ", "SigBlk", "voluntary_ctxt", "nonvoluntary_ctxt"];
    let kept = |line: &&str| !changing.iter().any(|name| line.starts_with(name));
    (
        ptrace::registers(tid, RegisterSet::General).expect("registers"),
        ptrace::blocked_signals(tid).expect("mask"),
        status.lines().filter(kept).collect::<Vec<_>>().join("\n"),
        proc::mapping_headings(tid).expect("maps"),
        fs::read_to_string(format!("/proc/{tid}/task/{tid}/children")).unwrap_or_default(),
    )
}

#[rstest]
#[case::in_a_read("echo ready; read line; echo $line", 'S')]
#[case::in_its_own_code("echo ready; while :; do :; done", 'R')]
#[case::in_a_wait("exec 3<&0; cat <&3 & echo ready; wait", 'S')]
#[case::ignoring_the_trap("trap '' TRAP; echo ready; while :; do :; done", 'R')]
#[case::stopped("echo ready; kill -STOP $$", 'T')]
fn a_thread_stands_as_it_stood(#[case] script: &str, #[case] state: char) {
    let program = Program::shell(script);
    let tid = program.tid();
    program.stop_in(state);
    let before = look(tid);
    for _ in 0..3 {
        let mut injection = program.enter();
        assert_eq!(injection.call(libc::SYS_getpid, [0; 6]).unwrap(), Ok(tid as u64));
        assert_eq!(
            injection.call(libc::SYS_getppid, [0; 6]).unwrap(),
            Ok(u64::from(std::process::id()))
        );
        assert_eq!(injection.call(i64::from(i32::MAX), [0; 6]).unwrap(), Err(Errno::ENOSYS));
        // Six arguments: a page that nobody has asked for, and its end.
        let page = injection
            .call(libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0])
            .unwrap()
            .expect("memory");
        let range = page..page + 4096;
        let mut content = vec![1; 4096];
        let mut unreadable = 0;
        Memory::of(tid)
            .read(slice::from_ref(&range), &mut content, |_| unreadable += 1)
            .expect("read");
        assert_eq!((unreadable, content), (0, vec![0; 4096]));
        assert_eq!(
            injection.call(libc::SYS_munmap, [page, 4096, 0, 0, 0, 0]).unwrap(),
            Ok(0)
        );
        injection.leave().expect("leave");
        assert_eq!(look(tid), before);
    }
    program.let_go();
    if state == 'S' || state == 'T' {
        wait_until(|| proc::stat(tid).expect("it lives").state == state);
    }
    // What was interrupted waits on, and what was stopped stays so: nothing came out of it.
    drop(program);
}

#[test]
fn a_read_goes_on() {
    let mut program = Program::shell("echo ready; while read line; do echo got $line; done");
    for round in 0..20 {
        program.stop_in('S');
        let mut injection = program.enter();
        assert_eq!(
            injection.call(libc::SYS_getpid, [0; 6]).unwrap(),
            Ok(program.tid() as u64)
        );
        injection.leave().expect("leave");
        program.let_go();
        writeln!(program.0.stdin.as_mut().unwrap(), "{round}").expect("it reads");
        assert_eq!(program.line(), format!("got {round}"));
    }
}

#[test]
fn a_wait_for_a_signal_goes_on_with_its_own_mask() {
    // The shell waits in sigsuspend; the end of its child's input ends the child.
    let mut program = Program::shell("exec 3<&0; cat <&3 & echo ready; wait; echo over");
    program.stop_in('S');
    let blocked = ptrace::blocked_signals(program.tid()).expect("mask");
    let mut injection = program.enter();
    injection
        .call(libc::SYS_getpid, [0; 6])
        .unwrap()
        .expect("it cannot fail");
    injection.leave().expect("leave");
    assert_eq!(ptrace::blocked_signals(program.tid()), Ok(blocked));
    program.let_go();
    drop(program.0.stdin.take());
    assert_eq!(program.line(), "over");
}

#[test]
fn a_sleep_ends_when_it_would_have() {
    let began = Instant::now();
    let mut program = Program::start(Command::new("sleep").arg("1"));
    for _ in 0..10 {
        program.stop_in('S');
        let mut injection = program.enter();
        injection
            .call(libc::SYS_getuid, [0; 6])
            .unwrap()
            .expect("it cannot fail");
        injection.leave().expect("leave");
        program.let_go();
        thread::sleep(Duration::from_millis(20));
    }
    assert!(program.0.wait().expect("wait").success());
    let took = began.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
}

#[test]
fn signals_that_come_meanwhile_come_once_and_afterwards() {
    let mut program = Program::shell("trap 'echo user' USR1; echo ready; while :; do :; done");
    program.stop_in('R');
    let mut injection = program.enter();
    injection
        .call(libc::SYS_getpid, [0; 6])
        .unwrap()
        .expect("it cannot fail");
    program.send(Signal::SIGUSR1);
    injection
        .call(libc::SYS_getpid, [0; 6])
        .unwrap()
        .expect("it cannot fail");
    // Job control, which no mask holds back, comes between two calls.
    program.send(Signal::SIGSTOP);
    assert_eq!(
        injection.call(libc::SYS_getpid, [0; 6]).unwrap(),
        Ok(program.tid() as u64)
    );
    program.send(Signal::SIGCONT);
    assert_eq!(
        injection.call(libc::SYS_getpid, [0; 6]).unwrap(),
        Ok(program.tid() as u64)
    );
    program.send(Signal::SIGSTOP);
    injection.leave().expect("leave");
    program.let_go();
    wait_until(|| proc::stat(program.tid()).expect("it lives").state == 'T');
    program.send(Signal::SIGCONT);
    assert_eq!(program.line(), "user");
    program.send(Signal::SIGUSR1);
    assert_eq!(program.line(), "user");
}

#[test]
fn an_end_meanwhile_is_said_and_left_to_its_parent() {
    let mut program = Program::shell("echo ready; read line");
    program.stop_in('S');
    let mut injection = program.enter();
    injection
        .call(libc::SYS_getpid, [0; 6])
        .unwrap()
        .expect("it cannot fail");
    program.send(Signal::SIGKILL);
    wait_until(|| injection.call(libc::SYS_getpid, [0; 6]).is_err());
    let error = injection.call(libc::SYS_getpid, [0; 6]).unwrap_err();
    assert!(matches!(error, InjectError::Ended), "{error}");
    assert!(injection.leave().is_err());
    assert_eq!(program.0.wait().expect("its parent sees it").signal(), Some(9));
}

/// A filter that kills the process at one call, and lets all others pass.
#[expect(unsafe_code, reason = "no crate here sets seccomp filters")]
fn filtered(command: &mut Command, forbidden: i64) -> &mut Command {
    let filter = [
        // Load the number; if it is this one, kill the process; allow.
        libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        },
        libc::sock_filter {
            code: 0x15,
            jt: 0,
            jf: 1,
            k: forbidden as u32,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: 0x8000_0000,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: 0x7fff_0000,
        },
    ];
    // SAFETY: between fork and exec only system calls are made; the program lives in the closure.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: 4,
                filter: filter.as_ptr().cast_mut(),
            };
            Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            Errno::result(libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program))?;
            Ok(())
        })
    }
}

#[test]
fn a_filter_does_not_judge_what_its_process_did_not_ask() {
    let mut program = Program::start(filtered(
        Command::new("sh").args(["-c", "echo ready; read line; echo $line"]),
        libc::SYS_getpgid,
    ));
    assert_eq!(program.line(), "ready");
    program.stop_in('S');
    let gate = Gate::find(program.tid()).expect("gate");
    match Injection::enter(program.tid(), gate, 0) {
        Ok(mut injection) => {
            let group = injection.call(libc::SYS_getpgid, [0; 6]).unwrap().expect("allowed");
            assert_eq!(group, nix::unistd::getpgrp().as_raw() as u64);
            injection.leave().expect("leave");
        }
        // Without CAP_SYS_ADMIN, or below a filter: it is refused before anything is called.
        Err(error) => assert!(matches!(error, InjectError::Seccomp(_)), "{error}"),
    }
    program.let_go();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("it reads");
    assert_eq!(program.line(), "on");
    // The filter is in force again.
    assert_eq!(
        proc::status(program.tid()).map(|status| status.seccomp).ok(),
        Some(Some(2))
    );
}

/// A program that says so when it is told of a child, as it stood, and the injection by which it is to make a copy.
fn about_to_clone() -> (Program, Look, Injection) {
    let program = Program::shell("trap 'echo child' CHLD; echo ready; while read line; do echo $line; done");
    let tid = program.tid();
    program.stop_in('S');
    let before = look(tid);
    let gate = Gate::find(tid).expect("gate");
    let injection = Injection::enter(tid, gate, libc::PTRACE_O_TRACECLONE).expect("enter");
    (program, before, injection)
}

#[test]
fn a_copy_is_told_of_and_nobody_sees_it() {
    let (mut program, before, mut injection) = about_to_clone();
    let tid = program.tid();
    let copy = injection.call(libc::SYS_clone, [0; 6]).unwrap().expect("clone") as i32;
    assert_eq!(injection.take_events(), [(libc::PTRACE_EVENT_CLONE, copy as u64)]);
    wait_until(|| ptrace::next_stop(copy).expect("it is traced from birth") == Some(Stop::Interrupted));
    kill(Pid::from_raw(copy), Signal::SIGKILL).expect("kill");
    wait_until(|| matches!(ptrace::poll(copy), Ok(Some(ptrace::Event::Exited(_)))));
    wait_until(|| proc::stat(copy).expect("a zombie of the process").state == 'Z');
    let waited = injection
        .call(libc::SYS_wait4, [copy as u64, 0, libc::__WALL as u64, 0, 0, 0])
        .unwrap();
    assert_eq!(waited, Ok(copy as u64));
    injection.leave().expect("leave");
    assert_eq!(look(tid), before);
    program.let_go();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("it reads");
    assert_eq!(program.line(), "on");
}

/// An area, and one whose program does not run, as where memory may not be executed.
fn area(injection: &mut Injection, runs: bool) -> Area {
    let mut area = Area::map(injection).unwrap().expect("memory");
    if !runs {
        area.lead();
    } else if !area.runs() {
        eprintln!("each call is led here: no program for this architecture, or no memory that may be executed");
    }
    area
}

#[rstest]
#[case::in_a_read("echo ready; read line; echo $line", 'S')]
#[case::in_its_own_code("echo ready; while :; do :; done", 'R')]
#[case::ignoring_the_trap("trap '' TRAP; echo ready; while :; do :; done", 'R')]
#[case::stopped("echo ready; kill -STOP $$", 'T')]
fn a_list_of_calls_is_gone_through(#[case] script: &str, #[case] state: char, #[values(true, false)] runs: bool) {
    let program = Program::shell(script);
    let tid = program.tid();
    program.stop_in(state);
    let before = look(tid);
    let mut injection = program.enter();
    let mut area = area(&mut injection, runs);
    for count in [1, 5, Area::ROOM] {
        let mut calls = vec![
            Call::new(libc::SYS_getpid, [0; 6]),
            Call::answering(libc::SYS_getitimer, [libc::ITIMER_REAL as u64, 0, 0, 0, 0, 0], 1),
            Call::answering(libc::SYS_clock_getres, [libc::CLOCK_MONOTONIC as u64, 0, 0, 0, 0, 0], 1),
            Call::new(libc::SYS_close, [u64::MAX, 0, 0, 0, 0, 0]),
        ];
        calls.resize(count, Call::new(libc::SYS_getppid, [0; 6]));
        let under_way = injection.begin(Some(&mut area), calls, &[]).expect("begin");
        let answers = injection.end(Some(&mut area), under_way).expect("end");
        assert_eq!(answers.len(), count);
        assert_eq!(answers[0].result, Ok(tid as u64));
        if count == 1 {
            continue;
        }
        assert_eq!((answers[1].result, &answers[1].words[..4]), (Ok(0), &[0; 4][..]));
        assert_eq!((answers[2].result, answers[2].words[0]), (Ok(0), 0));
        assert!(answers[2].words[1] > 0, "a resolution");
        assert_eq!(answers[3].result, Err(Errno::EBADF));
        let parent = Ok(u64::from(std::process::id()));
        assert!(answers[4..].iter().all(|answer| answer.result == parent));
    }
    area.unmap(&mut injection).unwrap().expect("unmapped");
    injection.leave().expect("leave");
    assert_eq!(look(tid), before);
    program.let_go();
}

#[rstest]
fn a_list_ends_in_a_copy_that_has_its_own_part(#[values(true, false)] runs: bool) {
    let (mut program, before, mut injection) = about_to_clone();
    let tid = program.tid();
    let mut area = area(&mut injection, runs);
    let calls = vec![
        Call::new(libc::SYS_getpid, [0; 6]),
        // A child of whoever is the parent: of this process.
        Call::new(libc::SYS_clone, [libc::CLONE_PARENT as u64, 0, 0, 0, 0, 0]),
    ];
    let of_copy = vec![
        Call::new(libc::SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0]),
        Call::new(libc::SYS_getpid, [0; 6]),
    ];
    let under_way = injection.begin(Some(&mut area), calls, &of_copy).expect("begin");
    let answers = injection.end(Some(&mut area), under_way).expect("end");
    assert_eq!(answers[0].result, Ok(tid as u64));
    let copy = answers[1].result.expect("a copy") as i32;
    assert_eq!(injection.take_events(), [(libc::PTRACE_EVENT_CLONE, copy as u64)]);
    let mut born = injection.copy(copy).expect("it is traced from birth");
    let mut its = area.of_copy(copy);
    let under_way = born.follow(Some(&mut its), 2, of_copy).expect("begin");
    let answers = born.end(Some(&mut its), under_way).expect("end");
    assert_eq!(answers[0].result, Ok(0));
    assert_eq!(answers[1].result, Ok(copy as u64));
    assert!(
        fs::read_dir(format!("/proc/{copy}/fd"))
            .expect("it lives")
            .next()
            .is_none()
    );
    area.unmap(&mut injection).unwrap().expect("unmapped");
    injection.leave().expect("leave");
    its.unmap(&mut born).unwrap().expect("unmapped");
    born.leave().expect("leave");
    let of = |tid| ptrace::registers(tid, RegisterSet::General).expect("registers");
    assert_eq!(of(copy), of(tid));
    assert_eq!(look(tid), before);
    program.let_go();
    kill(Pid::from_raw(copy), Signal::SIGKILL).expect("kill");
    wait_until(|| matches!(ptrace::poll(copy), Ok(Some(ptrace::Event::Exited(_)))));
    assert!(
        proc::stat(copy).is_err(),
        "its parent's tracer has taken it off the list"
    );
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("it reads");
    assert_eq!(program.line(), "on");
}

/// As a limit of processes refuses one, which no test can set for root.
#[rstest]
fn a_list_ends_in_a_copy_that_is_refused(#[values(true, false)] runs: bool) {
    let (mut program, before, mut injection) = about_to_clone();
    let tid = program.tid();
    let mut area = area(&mut injection, runs);
    // A thread shares the signal handlers of its process, or is none.
    let calls = vec![
        Call::new(libc::SYS_getpid, [0; 6]),
        Call::new(libc::SYS_clone, [libc::CLONE_THREAD as u64, 0, 0, 0, 0, 0]),
    ];
    let of_copy = [Call::new(libc::SYS_getpid, [0; 6])];
    let under_way = injection.begin(Some(&mut area), calls, &of_copy).expect("begin");
    let answers = injection.end(Some(&mut area), under_way).expect("end");
    assert_eq!(answers[0].result, Ok(tid as u64));
    assert_eq!(answers[1].result, Err(Errno::EINVAL));
    assert_eq!(injection.take_events(), []);
    area.unmap(&mut injection).unwrap().expect("unmapped");
    injection.leave().expect("leave");
    assert_eq!(look(tid), before);
    program.let_go();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("it reads");
    assert_eq!(program.line(), "on");
}

#[test]
fn a_list_that_nobody_asks_the_answers_of_leaves_no_trace() {
    let program = Program::shell("echo ready; while :; do :; done");
    let tid = program.tid();
    program.stop_in('R');
    let before = look(tid);
    let mut injection = program.enter();
    let mut area = area(&mut injection, true);
    let calls = || vec![Call::new(libc::SYS_getpid, [0; 6])];
    // Nobody comes for the answer for a while.
    let under_way = injection.begin(Some(&mut area), calls(), &[]).expect("begin");
    wait_until(|| matches!(proc::stat(tid).expect("it lives").state, 'S' | 't'));
    let answers = injection.end(Some(&mut area), under_way).expect("end");
    assert_eq!(answers[0].result, Ok(tid as u64));
    // Nobody comes at all: whatever it is at, it is put back.
    let under_way = injection.begin(Some(&mut area), calls(), &[]);
    drop(under_way.expect("begin"));
    area.unmap(&mut injection).unwrap().expect("unmapped");
    drop(injection);
    assert_eq!(look(tid), before);
    program.let_go();
}
