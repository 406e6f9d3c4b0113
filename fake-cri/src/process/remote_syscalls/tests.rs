//! Remote syscalls in real programs, which must continue unchanged afterwards.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
};
use rstest::rstest;

use super::*;
use crate::process::{Pid, Tid};

/// A running program. Drop kills and reaps it.
struct TestProgram(Child);

impl TestProgram {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(child.expect("start the program"))
    }

    /// Starts a shell script and waits for its line `ready`.
    fn shell(script: &str) -> Self {
        let mut program = Self::start(Command::new("sh").args(["-c", script]));
        assert_eq!(program.read_line(), "ready");
        program
    }

    fn tid(&self) -> Tid {
        Tid::from_raw(self.0.id() as i32)
    }

    fn send_signal(&self, signal: Signal) {
        kill(self.tid().into(), signal).expect("the process exists");
    }

    /// The next line of output. The reader has no buffer that could swallow a later line.
    fn read_line(&mut self) -> String {
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1, self.0.stdout.as_mut().expect("piped"));
        reader.read_line(&mut line).expect("a line of output");
        line.trim_end().to_owned()
    }

    /// Seizes and stops the program when `/proc/PID/stat` shows this state.
    fn stop_in_state(&self, state: char) {
        wait_until(|| proc_files::stat(self.tid()).expect("the process exists").state == state);
        ptrace::seize(self.tid()).expect("seize");
        ptrace::interrupt(self.tid()).expect("interrupt");
        let mut stop = None;
        wait_until(|| {
            stop = stop.or(ptrace::poll_stop(self.tid()).expect("wait"));
            stop.is_some()
        });
        assert_eq!(stop, Some(PtraceStop::Interrupted));
    }

    fn attach(&self) -> RemoteSyscalls {
        let insn = SyscallInsn::find(self.tid()).expect("a system call instruction");
        RemoteSyscalls::attach(self.tid(), insn, 0).expect("attach")
    }

    fn detach(&self) {
        ptrace::detach(self.tid()).expect("detach");
    }
}

impl Drop for TestProgram {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "condition not met within 20 s");
        thread::sleep(Duration::from_micros(200));
    }
}

type ObservableState = (Option<GeneralRegs>, u64, String, Vec<Mapping>, String);

/// The state of a thread that a remote syscall could change: registers, mask, status, mappings, children.
fn observable_state(tid: Tid) -> ObservableState {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).expect("status");
    // Context switches and peaks increase; SigQ counts all processes of the user. The mask is compared below: a call
    // that waits with its own mask (sigsuspend) shows that mask in `status` until its restart.
    let volatile = ["Vm", "Rss", "SigQ", "SigBlk", "voluntary_ctxt", "nonvoluntary_ctxt"];
    let is_stable = |line: &&str| !volatile.iter().any(|name| line.starts_with(name));
    (
        ptrace::general_regs(tid).expect("registers"),
        ptrace::blocked_signals(tid).expect("mask"),
        status.lines().filter(is_stable).collect::<Vec<_>>().join("\n"),
        proc_files::maps(tid).expect("maps"),
        fs::read_to_string(format!("/proc/{tid}/task/{tid}/children")).unwrap_or_default(),
    )
}

#[rstest]
#[case::in_a_read("echo ready; read line; echo $line", 'S')]
#[case::in_user_code("echo ready; while :; do :; done", 'R')]
#[case::in_a_wait("exec 3<&0; cat <&3 & echo ready; wait", 'S')]
#[case::ignoring_the_trap("trap '' TRAP; echo ready; while :; do :; done", 'R')]
#[case::stopped("echo ready; kill -STOP $$", 'T')]
fn thread_state_is_restored(#[case] script: &str, #[case] state: char) {
    let program = TestProgram::shell(script);
    let tid = program.tid();
    program.stop_in_state(state);
    let before = observable_state(tid);
    for _ in 0..3 {
        let mut remote = program.attach();
        assert_eq!(remote.call(libc::SYS_getpid, [0; 6]).unwrap(), Ok(tid.as_raw() as u64));
        assert_eq!(
            remote.call(libc::SYS_getppid, [0; 6]).unwrap(),
            Ok(u64::from(std::process::id()))
        );
        assert_eq!(remote.call(i64::from(i32::MAX), [0; 6]).unwrap(), Err(Errno::ENOSYS));
        // A call with six arguments: map a page, and unmap it.
        let page = remote
            .call(libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0])
            .unwrap()
            .expect("mmap");
        let range = page..page + 4096;
        let mut content = vec![1; 4096];
        let mut unreadable = 0;
        ProcMem::new(tid)
            .read(slice::from_ref(&range), &mut content, |_| unreadable += 1)
            .expect("read");
        assert_eq!((unreadable, content), (0, vec![0; 4096]));
        assert_eq!(remote.call(libc::SYS_munmap, [page, 4096, 0, 0, 0, 0]).unwrap(), Ok(0));
        remote.finish().expect("finish");
        assert_eq!(observable_state(tid), before);
    }
    program.detach();
    if state == 'S' || state == 'T' {
        wait_until(|| proc_files::stat(tid).expect("the process exists").state == state);
    }
    // The state is unchanged after the detach: the interrupted call waits again, the stopped process stays stopped.
    drop(program);
}

#[test]
fn interrupted_read_resumes() {
    let mut program = TestProgram::shell("echo ready; while read line; do echo got $line; done");
    for round in 0..20 {
        program.stop_in_state('S');
        let mut remote = program.attach();
        assert_eq!(
            remote.call(libc::SYS_getpid, [0; 6]).unwrap(),
            Ok(program.tid().as_raw() as u64)
        );
        remote.finish().expect("finish");
        program.detach();
        writeln!(program.0.stdin.as_mut().unwrap(), "{round}").expect("the program reads");
        assert_eq!(program.read_line(), format!("got {round}"));
    }
}

#[test]
fn sigsuspend_keeps_its_mask() {
    // The shell waits in sigsuspend. The end of its input ends the child.
    let mut program = TestProgram::shell("exec 3<&0; cat <&3 & echo ready; wait; echo over");
    program.stop_in_state('S');
    let blocked = ptrace::blocked_signals(program.tid()).expect("mask");
    let mut remote = program.attach();
    remote.call(libc::SYS_getpid, [0; 6]).unwrap().expect("always succeeds");
    remote.finish().expect("finish");
    assert_eq!(ptrace::blocked_signals(program.tid()), Ok(blocked));
    program.detach();
    drop(program.0.stdin.take());
    assert_eq!(program.read_line(), "over");
}

#[test]
fn sleep_keeps_its_deadline() {
    let began = Instant::now();
    let mut program = TestProgram::start(Command::new("sleep").arg("1"));
    for _ in 0..10 {
        program.stop_in_state('S');
        let mut remote = program.attach();
        remote.call(libc::SYS_getuid, [0; 6]).unwrap().expect("always succeeds");
        remote.finish().expect("finish");
        program.detach();
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
fn signals_are_delivered_once_afterwards() {
    let mut program = TestProgram::shell("trap 'echo user' USR1; echo ready; while :; do :; done");
    program.stop_in_state('R');
    let mut remote = program.attach();
    remote.call(libc::SYS_getpid, [0; 6]).unwrap().expect("always succeeds");
    program.send_signal(Signal::SIGUSR1);
    remote.call(libc::SYS_getpid, [0; 6]).unwrap().expect("always succeeds");
    // SIGSTOP and SIGCONT, which no mask blocks, arrive between two calls.
    program.send_signal(Signal::SIGSTOP);
    assert_eq!(
        remote.call(libc::SYS_getpid, [0; 6]).unwrap(),
        Ok(program.tid().as_raw() as u64)
    );
    program.send_signal(Signal::SIGCONT);
    assert_eq!(
        remote.call(libc::SYS_getpid, [0; 6]).unwrap(),
        Ok(program.tid().as_raw() as u64)
    );
    program.send_signal(Signal::SIGSTOP);
    remote.finish().expect("finish");
    program.detach();
    wait_until(|| proc_files::stat(program.tid()).expect("the process exists").state == 'T');
    program.send_signal(Signal::SIGCONT);
    assert_eq!(program.read_line(), "user");
    program.send_signal(Signal::SIGUSR1);
    assert_eq!(program.read_line(), "user");
}

#[test]
fn task_exit_is_reported() {
    let mut program = TestProgram::shell("echo ready; read line");
    program.stop_in_state('S');
    let mut remote = program.attach();
    remote.call(libc::SYS_getpid, [0; 6]).unwrap().expect("always succeeds");
    program.send_signal(Signal::SIGKILL);
    wait_until(|| remote.call(libc::SYS_getpid, [0; 6]).is_err());
    let error = remote.call(libc::SYS_getpid, [0; 6]).unwrap_err();
    assert!(matches!(error, RemoteSyscallError::Exited), "{error}");
    assert!(remote.finish().is_err());
    assert_eq!(program.0.wait().expect("wait").signal(), Some(9));
}

/// Installs a filter that kills the process at one system call and allows all others.
#[expect(unsafe_code, reason = "no crate here sets seccomp filters")]
fn with_seccomp_filter(command: &mut Command, forbidden: i64) -> &mut Command {
    let filter = [
        // Load the syscall number; if it is the forbidden one, kill the process; allow.
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
    // SAFETY: between fork and exec the closure only makes system calls; it owns the filter.
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
fn seccomp_filter_is_suspended() {
    let mut program = TestProgram::start(with_seccomp_filter(
        Command::new("sh").args(["-c", "echo ready; read line; echo $line"]),
        libc::SYS_getpgid,
    ));
    assert_eq!(program.read_line(), "ready");
    program.stop_in_state('S');
    let insn = SyscallInsn::find(program.tid()).expect("a system call instruction");
    match RemoteSyscalls::attach(program.tid(), insn, 0) {
        Ok(mut remote) => {
            let group = remote.call(libc::SYS_getpgid, [0; 6]).unwrap().expect("allowed");
            assert_eq!(group, nix::unistd::getpgrp().as_raw() as u64);
            remote.finish().expect("finish");
        }
        // Without CAP_SYS_ADMIN, or when the tracer has a filter: refused before any call.
        Err(error) => assert!(matches!(error, RemoteSyscallError::Seccomp(_)), "{error}"),
    }
    program.detach();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("the program reads");
    assert_eq!(program.read_line(), "on");
    // The filter applies again.
    assert_eq!(
        proc_files::status(program.tid()).map(|status| status.seccomp).ok(),
        Some(Some(2))
    );
}

/// A stopped program that reports SIGCHLD, its state, and a session that reports clones.
fn stopped_before_clone() -> (TestProgram, ObservableState, RemoteSyscalls) {
    let program = TestProgram::shell("trap 'echo child' CHLD; echo ready; while read line; do echo $line; done");
    let tid = program.tid();
    program.stop_in_state('S');
    let before = observable_state(tid);
    let insn = SyscallInsn::find(tid).expect("a system call instruction");
    let remote = RemoteSyscalls::attach(tid, insn, libc::PTRACE_O_TRACECLONE).expect("attach");
    (program, before, remote)
}

#[test]
fn cloned_child_is_reported_and_hidden() {
    let (mut program, before, mut remote) = stopped_before_clone();
    let tid = program.tid();
    let child_pid = remote.call(libc::SYS_clone, [0; 6]).unwrap().expect("clone");
    assert_eq!(remote.take_events(), [(libc::PTRACE_EVENT_CLONE, child_pid)]);
    let child = Tid::from_raw(child_pid as i32);
    wait_until(|| ptrace::poll_stop(child).expect("the child is traced") == Some(PtraceStop::Interrupted));
    kill(child.into(), Signal::SIGKILL).expect("kill");
    wait_until(|| matches!(ptrace::poll(child), Ok(Some(ptrace::WaitEvent::Exited(_)))));
    wait_until(|| proc_files::stat(child).expect("a zombie").state == 'Z');
    let waited = remote
        .call(libc::SYS_wait4, [child_pid, 0, libc::__WALL as u64, 0, 0, 0])
        .unwrap();
    assert_eq!(waited, Ok(child_pid));
    remote.finish().expect("finish");
    assert_eq!(observable_state(tid), before);
    program.detach();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("the program reads");
    assert_eq!(program.read_line(), "on");
}

/// Maps a buffer. If not `executable`, the tracer steps each call, as where executable memory is refused.
fn map_buffer(remote: &mut RemoteSyscalls, executable: bool) -> SyscallBuffer {
    let mut buffer = SyscallBuffer::map(remote).unwrap().expect("mmap");
    if !executable {
        buffer.step_by_step();
    } else if !buffer.is_executable() {
        eprintln!("each call is stepped: no stub for this architecture, or executable memory is refused");
    }
    buffer
}

#[rstest]
#[case::in_a_read("echo ready; read line; echo $line", 'S')]
#[case::in_user_code("echo ready; while :; do :; done", 'R')]
#[case::ignoring_the_trap("trap '' TRAP; echo ready; while :; do :; done", 'R')]
#[case::stopped("echo ready; kill -STOP $$", 'T')]
fn syscall_list_runs(#[case] script: &str, #[case] state: char, #[values(true, false)] executable: bool) {
    let program = TestProgram::shell(script);
    let tid = program.tid();
    program.stop_in_state(state);
    let before = observable_state(tid);
    let mut remote = program.attach();
    let mut buffer = map_buffer(&mut remote, executable);
    for count in [1, 5, SyscallBuffer::CAPACITY] {
        let mut calls = vec![
            Syscall::new(libc::SYS_getpid, [0; 6]),
            Syscall::with_output(libc::SYS_getitimer, [libc::ITIMER_REAL as u64, 0, 0, 0, 0, 0], 1),
            Syscall::with_output(libc::SYS_clock_getres, [libc::CLOCK_MONOTONIC as u64, 0, 0, 0, 0, 0], 1),
            Syscall::new(libc::SYS_close, [u64::MAX, 0, 0, 0, 0, 0]),
        ];
        calls.resize(count, Syscall::new(libc::SYS_getppid, [0; 6]));
        let pending = remote.begin_list(Some(&mut buffer), calls, &[]).expect("begin_list");
        let results = remote.finish_list(Some(&mut buffer), pending).expect("finish_list");
        assert_eq!(results.len(), count);
        assert_eq!(results[0].result, Ok(tid.as_raw() as u64));
        if count == 1 {
            continue;
        }
        assert_eq!((results[1].result, &results[1].output[..4]), (Ok(0), &[0; 4][..]));
        assert_eq!((results[2].result, results[2].output[0]), (Ok(0), 0));
        assert!(results[2].output[1] > 0, "the clock has no resolution");
        assert_eq!(results[3].result, Err(Errno::EBADF));
        let parent = Ok(u64::from(std::process::id()));
        assert!(results[4..].iter().all(|entry| entry.result == parent));
    }
    buffer.unmap(&mut remote).unwrap().expect("munmap");
    remote.finish().expect("finish");
    assert_eq!(observable_state(tid), before);
    program.detach();
}

#[rstest]
fn child_runs_its_own_list(#[values(true, false)] executable: bool) {
    let (mut program, before, mut remote) = stopped_before_clone();
    let tid = program.tid();
    let mut buffer = map_buffer(&mut remote, executable);
    let calls = vec![
        Syscall::new(libc::SYS_getpid, [0; 6]),
        // CLONE_PARENT: the child becomes a child of the test process.
        Syscall::new(libc::SYS_clone, [libc::CLONE_PARENT as u64, 0, 0, 0, 0, 0]),
    ];
    let child_calls = vec![
        Syscall::new(libc::SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0]),
        Syscall::new(libc::SYS_getpid, [0; 6]),
    ];
    let pending = remote
        .begin_list(Some(&mut buffer), calls, &child_calls)
        .expect("begin_list");
    let results = remote.finish_list(Some(&mut buffer), pending).expect("finish_list");
    assert_eq!(results[0].result, Ok(tid.as_raw() as u64));
    let child_pid = results[1].result.expect("clone");
    assert_eq!(remote.take_events(), [(libc::PTRACE_EVENT_CLONE, child_pid)]);
    let child = Pid::from_raw(child_pid as i32);
    let mut child_remote = remote.attach_child(child).expect("the child is traced");
    let mut child_buffer = buffer.in_child(child);
    let child = child.main_thread();
    let pending = child_remote
        .run_child_list(Some(&mut child_buffer), 2, child_calls)
        .expect("begin_list");
    let results = child_remote
        .finish_list(Some(&mut child_buffer), pending)
        .expect("finish_list");
    assert_eq!(results[0].result, Ok(0));
    assert_eq!(results[1].result, Ok(child_pid));
    assert!(
        fs::read_dir(format!("/proc/{child}/fd"))
            .expect("the process exists")
            .next()
            .is_none()
    );
    buffer.unmap(&mut remote).unwrap().expect("munmap");
    remote.finish().expect("finish");
    child_buffer.unmap(&mut child_remote).unwrap().expect("munmap");
    child_remote.finish().expect("finish");
    let regs_of = |tid| ptrace::general_regs(tid).expect("registers");
    assert_eq!(regs_of(child), regs_of(tid));
    assert_eq!(observable_state(tid), before);
    program.detach();
    kill(child.into(), Signal::SIGKILL).expect("kill");
    wait_until(|| matches!(ptrace::poll(child), Ok(Some(ptrace::WaitEvent::Exited(_)))));
    assert!(proc_files::stat(child).is_err(), "the child is reaped");
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("the program reads");
    assert_eq!(program.read_line(), "on");
}

/// Simulates a clone that RLIMIT_NPROC refuses: that limit does not apply to root.
#[rstest]
fn refused_clone_ends_the_list(#[values(true, false)] executable: bool) {
    let (mut program, before, mut remote) = stopped_before_clone();
    let tid = program.tid();
    let mut buffer = map_buffer(&mut remote, executable);
    // CLONE_THREAD without CLONE_SIGHAND is invalid (clone(2)).
    let calls = vec![
        Syscall::new(libc::SYS_getpid, [0; 6]),
        Syscall::new(libc::SYS_clone, [libc::CLONE_THREAD as u64, 0, 0, 0, 0, 0]),
    ];
    let child_calls = [Syscall::new(libc::SYS_getpid, [0; 6])];
    let pending = remote
        .begin_list(Some(&mut buffer), calls, &child_calls)
        .expect("begin_list");
    let results = remote.finish_list(Some(&mut buffer), pending).expect("finish_list");
    assert_eq!(results[0].result, Ok(tid.as_raw() as u64));
    assert_eq!(results[1].result, Err(Errno::EINVAL));
    assert_eq!(remote.take_events(), []);
    buffer.unmap(&mut remote).unwrap().expect("munmap");
    remote.finish().expect("finish");
    assert_eq!(observable_state(tid), before);
    program.detach();
    writeln!(program.0.stdin.as_mut().unwrap(), "on").expect("the program reads");
    assert_eq!(program.read_line(), "on");
}

#[test]
fn abandoned_list_leaves_no_trace() {
    let program = TestProgram::shell("echo ready; while :; do :; done");
    let tid = program.tid();
    program.stop_in_state('R');
    let before = observable_state(tid);
    let mut remote = program.attach();
    let mut buffer = map_buffer(&mut remote, true);
    let calls = || vec![Syscall::new(libc::SYS_getpid, [0; 6])];
    // The tracer comes late: the thread has yielded and paused.
    let pending = remote.begin_list(Some(&mut buffer), calls(), &[]).expect("begin_list");
    wait_until(|| matches!(proc_files::stat(tid).expect("the process exists").state, 'S' | 't'));
    let results = remote.finish_list(Some(&mut buffer), pending).expect("finish_list");
    assert_eq!(results[0].result, Ok(tid.as_raw() as u64));
    // The list is abandoned: the restore stops the thread wherever it is.
    let pending = remote.begin_list(Some(&mut buffer), calls(), &[]);
    drop(pending.expect("begin_list"));
    buffer.unmap(&mut remote).unwrap().expect("munmap");
    drop(remote);
    assert_eq!(observable_state(tid), before);
    program.detach();
}
