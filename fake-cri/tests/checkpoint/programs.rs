//! The programs of `fixtures/programs`, built and running in a session of their own, as a container's first process does; and
//! what of them neither `/proc` nor ptrace tells.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fake_cri::checkpoint;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    archive::Contents,
    corpus,
    host::{TestHost, assert_runs_free, descendants, job, keep},
};

/// How long a program may take for what it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of the corpus that runs. It ends with its guard, and so do its children.
pub(crate) struct Program {
    child: Child,
    /// Where it keeps its files, `go` among them.
    pub(crate) folder: PathBuf,
    /// What it says of its steps.
    pub(crate) output: PathBuf,
}

impl Program {
    /// Builds one with these options of the C compiler, or takes Python for one, and starts it with a folder for its files.
    pub(crate) fn start(source: &str, options: &[&str], folder: &Path) -> Self {
        let output = OpenOptions::new().append(true).create(true).open(folder.join("output"));
        Self::start_writing_to(output.unwrap(), source, options, folder)
    }

    /// The same with another standard output, from which what it says has to reach [`Program::output`].
    pub(crate) fn start_writing_to(stdout: impl Into<Stdio>, source: &str, options: &[&str], folder: &Path) -> Self {
        let mut command = Command::new("setsid");
        command.args(corpus::command(source, options, folder));
        let files = folder.join("files");
        fs::create_dir(&files).unwrap();
        let child = command
            .arg(&files)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(folder.join("errors")).unwrap())
            .spawn()
            .expect("setsid of util-linux");
        Self {
            child,
            folder: files,
            output: folder.join("output"),
        }
    }

    /// Its pid: setsid(1) becomes the program.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// How many steps it has said.
    pub(crate) fn steps(&self) -> u64 {
        let output = fs::read_to_string(&self.output).unwrap();
        output.lines().count() as u64
    }

    /// Waits until it has done so many.
    pub(crate) fn wait_for_steps(&mut self, steps: u64) {
        let began = Instant::now();
        while self.steps() < steps {
            let errors = || fs::read_to_string(self.output.with_file_name("errors")).unwrap();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", errors());
            }
            assert!(began.elapsed() < PATIENCE, "it does not go on: {}", errors());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it with all its children.
    pub(crate) fn kill(&mut self) {
        for process in descendants(self.pid()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line of `/proc/PID/status` that is a mask of signals.
fn mask(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

#[test]
fn what_only_the_process_knows_is_asked_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start("signals.c", &[], folder.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let job = job(pid, folder.path());
    checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
    keep(&job.location);
    assert_runs_free(pid);
    let contents = Contents::read(&job.location);
    let core = contents.core(pid);
    let task = core.tc.unwrap();

    // Its actions are those that `/proc` counts, each with its flags; 62 signals have one.
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
    assert_eq!((caught, ignored), (mask(pid, "SigCgt:"), mask(pid, "SigIgn:")));
    assert_eq!(caught.count_ones(), 2);
    assert_ne!(ignored & 1 << (libc::SIGHUP - 1), 0);

    let timers = task.timers.unwrap();
    assert_eq!((timers.real.isec, timers.real.iusec), (0, 7000));
    // Zero once it has run out and its signal waits; whoever restores it begins a new interval then.
    assert!((0..=7000).contains(&timers.real.vusec), "{:?}", timers.real);
    assert_eq!(timers.virt.iusec + timers.prof.iusec, 0);
    let [timer] = &timers.posix[..] else {
        panic!("one POSIX timer: {:?}", timers.posix);
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

    // And it goes on, undisturbed, to its end.
    fs::write(program.folder.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

/// Fields 4 to 6 of `/proc/PID/stat`: parent, group, session.
fn place(pid: i32) -> [u32; 3] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let mut words = rest.split(' ').skip(1).map(|word| word.parse().unwrap());
    [(); 3].map(|()| words.next().unwrap())
}

#[test]
fn sessions_groups_and_an_ended_child_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start("tree.c", &[], folder.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let job = job(pid, folder.path());
    let report = checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
    assert_runs_free(pid);
    assert_eq!(report.processes, 4);
    let contents = Contents::read(&job.location);
    let tree = contents.tree();
    assert_eq!(tree.len(), 4);
    for process in &tree {
        let [parent, group, session] = place(process.pid as i32);
        let parent = if process.pid == pid as u32 { 0 } else { parent };
        assert_eq!((process.ppid, process.pgid, process.sid), (parent, group, session));
    }
    // The middle one began a session, its child a group in it.
    let middle = tree
        .iter()
        .find(|process| process.ppid != 0 && process.sid == process.pid)
        .expect("a session");
    let grandchild = tree
        .iter()
        .find(|process| process.ppid == middle.pid)
        .expect("a grandchild");
    assert_eq!((grandchild.sid, grandchild.pgid), (middle.pid, grandchild.pid));
    let ended: Vec<_> = tree
        .iter()
        .map(|process| contents.core(process.pid as i32).tc.unwrap())
        .collect();
    let ended: Vec<_> = ended.iter().filter(|task| task.task_state == 2).collect();
    let [ended] = ended[..] else {
        panic!("one has ended: {ended:?}");
    };
    assert_eq!(ended.exit_code, 7 << 8);

    fs::write(program.folder.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

/// Whenever it is stopped, the values are in the registers alone: here while it waits in a system call.
#[test]
fn vector_registers_are_live_at_the_freeze() {
    if !is_x86_feature_detected!("avx") {
        eprintln!("skipped: this processor has no AVX");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start("vectors.c", &[], folder.path());
    // It holds what it made of this number until it is let go.
    program.wait_for_steps(60);
    let pid = program.pid();
    let until = Instant::now() + PATIENCE;
    let halves = |of: f64| [of, of * 3.0, of / 7.0, -of].map(f64::to_bits);
    loop {
        let folder = tempfile::tempdir().unwrap();
        let job = job(pid, folder.path());
        checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
        let floating = Contents::read(&job.location).core(pid).thread_info.unwrap().fpregs;
        let pair = |words: &[u32], register: usize| {
            let words = &words[4 * register..4 * register + 4];
            [0, 2].map(|at| u64::from(words[at]) | u64::from(words[at + 1]) << 32)
        };
        let upper = &floating.xsave.as_ref().expect("AVX").ymmh_space;
        let held = [pair(&floating.xmm_space, 5), pair(upper, 5)].concat();
        let [one, three, seventh, negative] = halves(60.0);
        // It rounds upwards, so the seventh is this one or the next.
        if held[..2] == [one, three] && (held[2] == seventh || held[2] == seventh + 1) && held[3] == negative {
            let twice: Vec<u64> = held
                .iter()
                .map(|bits| (2.0 * f64::from_bits(*bits)).to_bits())
                .collect();
            assert_eq!([pair(&floating.xmm_space, 13), pair(upper, 13)].concat(), twice);
            break;
        }
        // Only before it has come from its output to where it holds them.
        assert!(Instant::now() < until, "{held:x?}");
    }
    fs::write(program.folder.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn who_is_told_of_a_socket_and_its_options_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start("sockets.c", &[], folder.path());
    program.wait_for_steps(5);
    let pid = program.pid();
    let mut job = job(pid, folder.path());
    job.strict = true;
    checkpoint::run(&job, &TestHost::new(pid)).expect("checkpoint");
    assert_runs_free(pid);
    let contents = Contents::read(&job.location);
    let files = contents
        .descriptors(pid)
        .into_values()
        .map(|entry| contents.file(entry.id));
    let sockets: Vec<_> = files.filter_map(|file| file.usk).collect();
    let told: Vec<_> = sockets.iter().filter(|socket| socket.fown.pid != 0).collect();
    let [told] = told[..] else {
        panic!("one is told of: {told:?}");
    };
    assert_eq!((told.fown.pid, told.fown.pid_type), (pid as u32, 1));
    assert_eq!(told.fown.signum as i32, libc::SIGRTMIN() + 3);
    assert_eq!(
        (told.fown.uid, told.fown.euid),
        (nix::unistd::getuid().as_raw(), nix::unistd::geteuid().as_raw())
    );
    assert_eq!(
        sockets.iter().filter(|socket| socket.opts.so_rcvbuf == 100_000).count(),
        1
    );
    let listening = sockets.iter().find(|socket| socket.state == 10).expect("one listens");
    assert_eq!((listening.backlog, listening.peer), (3, 0));
    assert!(listening.name.ends_with(b"/s\0") && listening.file_perms.is_some() && !listening.deleted());
    // Three numbers are always on their way.
    let bytes = sockets
        .iter()
        .filter(|socket| socket.r#type == libc::SOCK_STREAM as u32);
    let bytes: usize = bytes
        .flat_map(|socket| contents.packets(socket.id))
        .map(|packet| packet.len())
        .sum();
    assert!((3 * 8..=4 * 8).contains(&bytes), "{bytes}");

    fs::write(program.folder.join("go"), "").unwrap();
    program.wait_for_steps(91);
    assert!(program.child.wait().unwrap().success());
}
