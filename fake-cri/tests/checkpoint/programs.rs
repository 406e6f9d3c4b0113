//! Checkpoints of the programs in `fixtures/programs`: state that can be read neither from `/proc` nor with ptrace
//! alone. Each program runs in its own session, like the init process of a container.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint;
use nix::sys::signal::{Signal, kill};

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_running_untraced, descendants, job, keep_archive},
    program_sources,
};

/// How long a program may take for the steps that a test waits for.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running program. Dropping it kills the program and its children.
pub(crate) struct Program {
    child: Child,
    /// The directory of the program's files, including `go`.
    pub(crate) dir: PathBuf,
    /// The output of the program, one line per step.
    pub(crate) output: PathBuf,
}

impl Program {
    /// Compiles and starts a program; Python programs are not compiled.
    pub(crate) fn start(source: &str, options: &[&str], dir: &Path) -> Self {
        let output = OpenOptions::new().append(true).create(true).open(dir.join("output"));
        Self::start_with_stdout(output.unwrap(), source, options, dir)
    }

    /// Like [`Program::start`] with another standard output, which must end up in [`Program::output`].
    pub(crate) fn start_with_stdout(stdout: impl Into<Stdio>, source: &str, options: &[&str], dir: &Path) -> Self {
        let mut command = Command::new("setsid");
        command.args(program_sources::program_command(source, options, dir));
        let files = dir.join("files");
        fs::create_dir(&files).unwrap();
        let child = command
            .arg(&files)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(dir.join("errors")).unwrap())
            .spawn()
            .expect("setsid from util-linux is installed");
        Self {
            child,
            dir: files,
            output: dir.join("output"),
        }
    }

    /// setsid(1) execs the program, so the pids are the same.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn steps(&self) -> u64 {
        let output = fs::read_to_string(&self.output).unwrap();
        output.lines().count() as u64
    }

    pub(crate) fn wait_for_steps(&mut self, steps: u64) {
        let began = Instant::now();
        while self.steps() < steps {
            let errors = || fs::read_to_string(self.output.with_file_name("errors")).unwrap();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the program exited with {status}: {}", errors());
            }
            assert!(
                began.elapsed() < STEP_TIMEOUT,
                "the program does not make progress: {}",
                errors()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn kill(&mut self) {
        for process in descendants(self.pid()) {
            let _ = kill(process.pid.into(), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a signal mask of `/proc/PID/status`.
fn signal_mask(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

#[test]
fn parasite_queries_fill_the_core_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start("signals.c", &[], dir.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let job = job(pid, dir.path());
    checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    keep_archive(&job.location);
    assert_running_untraced(pid);
    let contents = ArchiveContents::read(&job.location);
    let core = contents.core(pid);
    let task = core.tc.unwrap();

    // The dumped actions are those in `/proc/PID/status`. SIGKILL and SIGSTOP have none, which leaves 62 signals.
    assert_eq!(task.sigactions.len(), 62);
    let signals = (1..=64).filter(|signal| ![9, 19].contains(signal));
    let (mut caught, mut ignored) = (0, 0);
    for (signal, action) in signals.zip(&task.sigactions) {
        match action.sigaction {
            0 => {}
            1 => ignored |= 1 << (signal - 1),
            _ => caught |= 1 << (signal - 1),
        }
        if signal == libc::SIGALRM {
            assert_eq!(
                action.flags & 0xffff_ffff,
                (libc::SA_ONSTACK | libc::SA_RESTART) as u64 | 0x400_0000
            );
            assert_eq!(action.mask, 1 << (libc::SIGTERM - 1));
            assert_ne!(action.restorer, 0);
        }
    }
    assert_eq!(
        (caught, ignored),
        (signal_mask(pid, "SigCgt:"), signal_mask(pid, "SigIgn:"))
    );
    assert_eq!(caught.count_ones(), 2);
    assert_ne!(ignored & 1 << (libc::SIGHUP - 1), 0);

    let timers = task.timers.unwrap();
    assert_eq!((timers.real.isec, timers.real.iusec), (0, 7000));
    // Zero if the timer has expired and its signal is pending; a restore then starts a new interval.
    assert!((0..=7000).contains(&timers.real.vusec), "{:?}", timers.real);
    assert_eq!(timers.virt.iusec + timers.prof.iusec, 0);
    let [timer] = &timers.posix[..] else {
        panic!("expected one POSIX timer: {:?}", timers.posix);
    };
    assert_eq!((timer.isec, timer.insec, timer.sival_ptr), (0, 11_000_000, 0x123_4567));
    assert_eq!(timer.si_signo as i32, libc::SIGRTMIN() + 1);
    assert!(timer.vsec == 0 && (0..=11_000_000).contains(&timer.vnsec), "{timer:?}");

    let stack = core.thread_core.unwrap().sas.unwrap();
    assert_eq!((stack.ss_size, stack.ss_flags & 2), (1 << 16, 0));
    assert_ne!(core.thread_info.unwrap().clear_tid_addr, 0);
    let mm = contents.mm(pid);
    assert_eq!(mm.mm_brk - mm.mm_start_brk, 12345);
    assert_eq!(mm.dumpable, Some(1));

    // The program continues unchanged to its end.
    fs::write(program.dir.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

/// Fields 4 to 6 of `/proc/PID/stat`: parent, process group, session.
fn parent_group_session(pid: i32) -> [u32; 3] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let mut columns = rest.split(' ').skip(1).map(|word| word.parse().unwrap());
    [(); 3].map(|()| columns.next().unwrap())
}

#[test]
fn sessions_groups_and_zombies_are_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start("tree.c", &[], dir.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let job = job(pid, dir.path());
    let report = checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    assert_running_untraced(pid);
    assert_eq!(report.processes, 4);
    let contents = ArchiveContents::read(&job.location);
    let tree = contents.pstree();
    assert_eq!(tree.len(), 4);
    for process in &tree {
        let [parent, group, session] = parent_group_session(process.pid as i32);
        let parent = if process.pid == pid as u32 { 0 } else { parent };
        assert_eq!((process.ppid, process.pgid, process.sid), (parent, group, session));
    }
    // The child leads a session, the grandchild a process group in that session.
    let middle = tree
        .iter()
        .find(|process| process.ppid != 0 && process.sid == process.pid)
        .expect("a session leader");
    let grandchild = tree
        .iter()
        .find(|process| process.ppid == middle.pid)
        .expect("a grandchild");
    assert_eq!((grandchild.sid, grandchild.pgid), (middle.pid, grandchild.pid));
    let zombie_tasks: Vec<_> = tree
        .iter()
        .map(|process| contents.core(process.pid as i32).tc.unwrap())
        .collect();
    let zombie_tasks: Vec<_> = zombie_tasks.iter().filter(|task| task.task_state == 2).collect();
    let [zombie_tasks] = zombie_tasks[..] else {
        panic!("expected one zombie: {zombie_tasks:?}");
    };
    assert_eq!(zombie_tasks.exit_code, 7 << 8);

    fs::write(program.dir.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

/// While the program waits in a system call, the values are only in its registers.
#[test]
fn vector_registers_are_dumped() {
    if !is_x86_feature_detected!("avx") {
        eprintln!("skipped: this processor has no AVX");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start("vectors.c", &[], dir.path());
    // After step 60 the program keeps the results of step 60 in registers until `go` exists.
    program.wait_for_steps(60);
    let pid = program.pid();
    let until = Instant::now() + STEP_TIMEOUT;
    let expected_lanes = |value: f64| [value, value * 3.0, value / 7.0, -value].map(f64::to_bits);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let job = job(pid, dir.path());
        checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
        let floating = ArchiveContents::read(&job.location)
            .core(pid)
            .thread_info
            .unwrap()
            .fpregs;
        let pair = |columns: &[u32], register: usize| {
            let columns = &columns[4 * register..4 * register + 4];
            [0, 2].map(|at| u64::from(columns[at]) | u64::from(columns[at + 1]) << 32)
        };
        let upper = &floating.xsave.as_ref().expect("AVX state").ymmh_space;
        let lanes = [pair(&floating.xmm_space, 5), pair(upper, 5)].concat();
        let [one, three, seventh, negative] = expected_lanes(60.0);
        // The program rounds upwards, so the seventh is this value or the next.
        if lanes[..2] == [one, three] && (lanes[2] == seventh || lanes[2] == seventh + 1) && lanes[3] == negative {
            let twice: Vec<u64> = lanes
                .iter()
                .map(|bits| (2.0 * f64::from_bits(*bits)).to_bits())
                .collect();
            assert_eq!([pair(&floating.xmm_space, 13), pair(upper, 13)].concat(), twice);
            break;
        }
        // The registers differ only while the program is between its output and the wait.
        assert!(Instant::now() < until, "{lanes:x?}");
    }
    fs::write(program.dir.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn socket_fown_and_options_are_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start("sockets.c", &[], dir.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let mut job = job(pid, dir.path());
    job.strict = true;
    checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    assert_running_untraced(pid);
    let contents = ArchiveContents::read(&job.location);
    let files = contents
        .descriptors(pid)
        .into_values()
        .map(|entry| contents.file(entry.id));
    let sockets: Vec<_> = files.filter_map(|file| file.usk).collect();
    let with_fown: Vec<_> = sockets.iter().filter(|socket| socket.fown.pid != 0).collect();
    let [with_fown] = with_fown[..] else {
        panic!("expected one socket with F_SETOWN: {with_fown:?}");
    };
    assert_eq!((with_fown.fown.pid, with_fown.fown.pid_type), (pid as u32, 1));
    assert_eq!(with_fown.fown.signum as i32, libc::SIGRTMIN() + 3);
    assert_eq!(
        (with_fown.fown.uid, with_fown.fown.euid),
        (nix::unistd::getuid().as_raw(), nix::unistd::geteuid().as_raw())
    );
    assert_eq!(
        sockets.iter().filter(|socket| socket.opts.so_rcvbuf == 100_000).count(),
        1
    );
    let listening = sockets
        .iter()
        .find(|socket| socket.state == 10)
        .expect("a listening socket");
    assert_eq!((listening.backlog, listening.peer), (3, 0));
    assert!(listening.name.ends_with(b"/s\0") && listening.file_perms.is_some() && !listening.deleted());
    // Three numbers are always in flight.
    let bytes = sockets
        .iter()
        .filter(|socket| socket.r#type == libc::SOCK_STREAM as u32);
    let bytes: usize = bytes
        .flat_map(|socket| contents.socket_queue(socket.id))
        .map(|packet| packet.len())
        .sum();
    assert!((3 * 8..=4 * 8).contains(&bytes), "{bytes}");

    fs::write(program.dir.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}
