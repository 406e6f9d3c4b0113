//! Rare process state: an archive contains the state, or `dump.log` lists the state as unsupported.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cri_proto::criu::{
    Decoder, Kind, decode_entries, decode_single,
    message::{FdTypes, FileEntry, PipeDataEntry, SeccompEntry, TtyInfoEntry, TtyType},
};
use fake_cri::checkpoint::{self, ErrorKind, Freeze};
use rstest::rstest;

use crate::{
    archive::ArchiveContents,
    host::{TestHost, assert_running_untraced, descendants, job},
    workload::Sleeper,
};

/// A Python process that prints a line when it is ready. Dropping it kills the process.
pub(crate) struct Script {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The first line of its output.
    pub(crate) ready: String,
}

impl Script {
    /// Starts a script with this working directory; `None` without Python.
    pub(crate) fn start(text: &str, dir: &Path) -> Option<Self> {
        let child = Command::new("python3")
            .args(["-c", text])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: no Python: {error}");
                return None;
            }
        };
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut script = Self {
            child,
            output,
            ready: String::new(),
        };
        script.ready = script.line();
        Some(script)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the script exited");
        line.trim().to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        for process in descendants(self.pid()) {
            let _ = nix::sys::signal::kill(process.pid.into(), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checkpoints a process, checks that the process keeps running, and returns the archive.
pub(crate) fn checkpoint_archive(pid: i32, freeze: Freeze) -> ArchiveContents {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(pid, dir.path());
    job.freeze = freeze;
    checkpoint::run(&job, &TestHost::new(pid), &()).expect("the checkpoint succeeds");
    assert_running_untraced(pid);
    ArchiveContents::read(&job.location)
}

/// Returns the error of a strict checkpoint, which lists the unsupported state.
pub(crate) fn unsupported_by_strict(pid: i32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(pid, dir.path());
    job.strict = true;
    let failure = checkpoint::run(&job, &TestHost::new(pid), &()).expect_err("unsupported state");
    assert_eq!(failure.kind, ErrorKind::UnsupportedState, "{}", failure.message);
    assert_running_untraced(pid);
    failure.message
}

pub(crate) fn file_of(contents: &ArchiveContents, pid: i32, fd: i32) -> FileEntry {
    contents.file(contents.descriptors(pid)[&fd].id)
}

const SOCKETS_SCRIPT: &str = r#"
import os, socket, time
held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
held[0].bind(b"\0of@zero\0s@%d" % os.getpid())
held[1].bind(b"@path")
bound = socket.socket(socket.AF_INET)
bound.bind(("127.0.0.1", 0))
free = socket.socket(socket.AF_INET)
print(*(each.fileno() for each in held), bound.fileno(), free.fileno(), bound.getsockname()[1], flush=True)
time.sleep(1000)
"#;

#[test]
fn socket_names_are_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(SOCKETS_SCRIPT, dir.path()) else {
        return;
    };
    let ready_values: Vec<i32> = script.ready.split(' ').map(|number| number.parse().unwrap()).collect();
    let [hidden, path, none, bound, free, port] = ready_values[..] else {
        panic!("{ready_values:?}");
    };
    let pid = script.pid();
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let name = |fd| file_of(&contents, pid, fd).usk.unwrap().name;
    assert_eq!(name(hidden), format!("\0of@zero\0s@{pid}").as_bytes());
    assert_eq!(name(path), b"@path\0");
    assert_eq!(name(none), b"");
    let log = contents.log();
    assert!(!log.contains("the directory in which"), "{log}");
    // The directory against which the relative socket name was resolved.
    let started = dir.path().canonicalize().unwrap();
    assert_eq!(
        file_of(&contents, pid, path).usk.unwrap().name_dir.as_deref(),
        started.to_str()
    );
    let inet = |fd| {
        let socket = file_of(&contents, pid, fd).isk.unwrap();
        (socket.state, socket.src_addr, socket.src_port)
    };
    // The sockets are in state TCP_CLOSE, but one is bound.
    assert_eq!(inet(bound), (7, vec![u32::from_ne_bytes([127, 0, 0, 1])], port as u32));
    assert_eq!(inet(free), (7, vec![0], 0));
}

const NAMES_SCRIPT: &str = r#"
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
held = os.open(b"odd\xff", os.O_RDWR | os.O_CREAT)
def other():
    libc.prctl(15, b"odd\xff\xfe", 0, 0, 0)
    print("ready", flush=True)
    time.sleep(1000)
threading.Thread(target=other).start()
time.sleep(1000)
"#;

#[test]
fn non_utf8_names_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(NAMES_SCRIPT, dir.path()) else {
        return;
    };
    let unsupported = unsupported_by_strict(script.pid());
    assert!(
        unsupported.contains(r"odd\xFF") && unsupported.contains("which is not UTF-8"),
        "{unsupported}"
    );
    assert!(unsupported.contains("the name of thread"), "{unsupported}");
}

const NAMED_MEMORY_SCRIPT: &str = r#"
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p]
places, failed = [], False
for kind, name in ((0x22, b"a cache"), (0x21, b"for all")):
    place = libc.mmap(None, 8192, 3, kind, -1, 0)
    ctypes.memset(place, 7, 8192)
    failed = failed or libc.prctl(0x53564d41, 0, place, 8192, name) != 0
    places.append(place)
print("failed" if failed else "%d %d" % tuple(places), flush=True)
time.sleep(1000)
"#;

#[test]
fn anonymous_memory_names_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(NAMED_MEMORY_SCRIPT, dir.path()) else {
        return;
    };
    if script.ready == "failed" {
        eprintln!("skipped: this kernel has no names for anonymous memory");
        return;
    }
    let pid = script.pid();
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let log = contents.log();
    assert!(
        log.contains("the name [anon:a cache]") && log.contains("the name [anon_shmem:for all]"),
        "{log}"
    );
    let shared: u64 = script.ready.split(' ').nth(1).unwrap().parse().unwrap();
    let vmas = contents.mm(pid).vmas;
    let vma = vmas.iter().find(|vma| vma.start == shared).expect("the shared mapping");
    // An anonymous shared mapping, not a file mapping.
    assert_eq!(vma.status & (1 << 6 | 1 << 7 | 1 << 8 | 1 << 9), 1 << 8);
    let pages = contents.pages(&format!("pagemap-shmem-{}.img", vma.shmid));
    assert_eq!(pages.values().map(|page| page[0]).collect::<Vec<_>>(), [7, 7]);
}

#[rstest]
fn process_at_its_address_space_limit_answers_in_part(#[values(Freeze::Snapshot, Freeze::Full)] freeze: Freeze) {
    let sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), "--as=1:"])
        .status();
    if !limited.is_ok_and(|status| status.success()) {
        eprintln!("skipped: prlimit from util-linux is not installed");
        return;
    }
    let contents = checkpoint_archive(pid, freeze);
    let log = contents.log();
    for lacking in ["its timers", "its signal handlers"] {
        assert!(log.contains(lacking), "{log}");
    }
    assert!(log.contains("no page could be mapped for the results"), "{log}");
    let task = contents.core(pid).tc.unwrap();
    assert_eq!(task.sigactions.len(), 62);
    assert_eq!(task.rlimits.unwrap().rlimits[libc::RLIMIT_AS as usize].cur, 1);
    // These values need no extra page.
    let mm = contents.mm(pid);
    assert!(mm.mm_brk > mm.mm_start_brk && mm.dumpable == Some(1), "{mm:?}");
    assert!(unsupported_by_strict(pid).contains("no page could be mapped"));
}

#[test]
fn fifo_path_and_data_are_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    let mut writer = fs::File::options().write(true).open(&path).unwrap();
    writer.write_all(b"unread").unwrap();
    let sleeper = Sleeper::with_input(reader);
    let pid = sleeper.pid();
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let file = file_of(&contents, pid, 0);
    assert_eq!(file.r#type(), FdTypes::Fifo);
    let fifo = file.fifo.unwrap();
    let named = contents.file(fifo.regf_id.expect("the path of the FIFO"));
    assert_eq!(named.r#type(), FdTypes::Reg);
    let named = named.reg.unwrap();
    assert_eq!(Path::new(&named.name), path);
    assert_eq!(named.mode.unwrap() & libc::S_IFMT, libc::S_IFIFO);
    assert_eq!(
        named.flags & (libc::O_ACCMODE | libc::O_NONBLOCK) as u32,
        libc::O_NONBLOCK as u32
    );
    let image = &contents.members["checkpoint/fifo-data.img"];
    let mut decoder = Decoder::open_as("fifo-data.img", Kind::FifoData, &image[..]).unwrap();
    let head: PipeDataEntry = decoder.message().unwrap().expect("an entry");
    let mut unread = Vec::new();
    decoder.copy_payload(head.bytes.into(), &mut unread).unwrap();
    assert_eq!((head.pipe_id, &unread[..]), (fifo.pipe_id, &b"unread"[..]));
    assert!(decoder.message::<PipeDataEntry>().unwrap().is_none());
}

#[test]
fn terminal_is_dumped() {
    use nix::{fcntl::OFlag, pty};
    // Close-on-exec, so that children of tests that run in parallel do not inherit the descriptor.
    let main = pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    pty::grantpt(&main).unwrap();
    pty::unlockpt(&main).unwrap();
    let path = PathBuf::from(pty::ptsname_r(&main).unwrap());
    let terminal = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(&path)
        .unwrap();
    let sleeper = Sleeper::with_input(terminal);
    let pid = sleeper.pid();
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let file = file_of(&contents, pid, 0);
    assert_eq!(file.r#type(), FdTypes::Tty);
    let terminal = file.tty.unwrap();
    let named = contents
        .file(terminal.regf_id.expect("the path of the terminal"))
        .reg
        .expect("a regular file entry");
    assert_eq!(Path::new(&named.name), path);
    let name = "checkpoint/tty-info.img";
    let tty_info: Vec<TtyInfoEntry> = decode_entries(name, Kind::TtyInfo, &contents.members[name]).unwrap();
    let [tty_info] = &tty_info[..] else {
        panic!("expected one terminal: {tty_info:?}");
    };
    assert_eq!((tty_info.id, tty_info.r#type()), (terminal.tty_info_id, TtyType::Pty));
    let number = path.file_name().unwrap().to_str().unwrap().parse().ok();
    assert_eq!(tty_info.pty.map(|pty| pty.index), number);
    assert!(unsupported_by_strict(pid).contains("the settings and the size of the terminal of descriptor 0"));
}

/// Installs two seccomp filters. The second denies mmap (9), which parasite queries need.
#[cfg(target_arch = "x86_64")]
const SECCOMP_SCRIPT: &str = r#"
import ctypes, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
def filter_of(number):
    # Load the number of the call; if it is this one, EPERM; else allow.
    code = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, number, 6, 0, 0, 0x50001, 6, 0, 0, 0x7fff0000)
    return ctypes.create_string_buffer(code, len(code))
libc.prctl(38, 1, 0, 0, 0)
for number in (135, 9):
    code = filter_of(number)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
    assert libc.prctl(22, 2, ctypes.addressof(program), 0, 0) == 0
print("ready", flush=True)
while True:
    time.sleep(0.001)
    assert libc.syscall(135, 0xffffffff) == -1 and ctypes.get_errno() == 1
    print("refused", flush=True)
    time.sleep(0.2)
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn seccomp_filters_are_dumped_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut script) = Script::start(SECCOMP_SCRIPT, dir.path()) else {
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: reading filters requires CAP_SYS_ADMIN");
        return;
    }
    let pid = script.pid();
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let thread_core = contents.core(pid).thread_core.unwrap();
    assert_eq!(
        (thread_core.seccomp_mode, thread_core.seccomp_filter),
        (Some(2), Some(1))
    );
    assert_eq!(thread_core.creds.unwrap().no_new_privs, Some(1));
    let name = "checkpoint/seccomp.img";
    let filters: SeccompEntry = decode_single(name, Kind::Seccomp, &contents.members[name]).unwrap();
    let [first, second] = &filters.seccomp_filters[..] else {
        panic!("expected two filters: {filters:?}");
    };
    assert_eq!((first.prev, second.prev), (None, Some(0)));
    // Each filter has four instructions. The second instruction compares the syscall number.
    for (filter, number) in [(first, 135_u32), (second, 9)] {
        assert_eq!(filter.filter.len(), 4 * 8);
        assert_eq!(filter.filter[12..16], number.to_ne_bytes());
    }
    // The parasite queries worked although the filter denies mmap, and the filters are active again.
    let log = contents.log();
    assert!(!log.contains("seccomp"), "{log}");
    for _ in 0..2 {
        assert_eq!(script.line(), "refused");
    }
}

const HUGE_PAGE_SCRIPT: &str = r#"
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
place = libc.mmap(None, 2 << 20, 3, 0x22 | 0x40000, -1, 0)
if place != ctypes.c_void_p(-1).value:
    ctypes.memset(place, 7, 4096)
print("none" if place == ctypes.c_void_p(-1).value else "ready", flush=True)
time.sleep(1000)
"#;

#[test]
fn huge_pages_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(HUGE_PAGE_SCRIPT, dir.path()) else {
        return;
    };
    if script.ready == "none" {
        eprintln!("skipped: no huge pages are available");
        return;
    }
    let unsupported = unsupported_by_strict(script.pid());
    assert!(unsupported.contains("the huge page size of"), "{unsupported}");
}

/// A cgroup for a test. Dropping it kills all its processes.
struct ChildCgroup(PathBuf);

impl ChildCgroup {
    /// Creates a cgroup below that of this process, in any hierarchy that is writable.
    fn create() -> Option<Self> {
        let self_cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        self_cgroups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let name = format!("fake-cri-test-{}", std::process::id());
            let mounted = match controllers {
                "" => vec!["/sys/fs/cgroup".to_owned(), "/sys/fs/cgroup/unified".to_owned()],
                other => vec![format!("/sys/fs/cgroup/{}", other.trim_start_matches("name="))],
            };
            mounted.into_iter().find_map(|mounted| {
                let parent = PathBuf::from(format!("{mounted}{path}"));
                if !parent.join("cgroup.procs").exists() || controllers.contains("cpuset") {
                    return None;
                }
                let cgroup_dir = parent.join(&name);
                fs::create_dir(&cgroup_dir).ok()?;
                Some(Self(cgroup_dir))
            })
        })
    }
}

impl Drop for ChildCgroup {
    fn drop(&mut self) {
        // Killed processes leave the cgroup with a delay.
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

const FORK_SCRIPT: &str = r#"
import os, time
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(1000)
"#;

#[test]
fn other_cgroup_is_logged() {
    let Some(cgroup) = ChildCgroup::create() else {
        eprintln!("skipped: cannot create a cgroup");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(FORK_SCRIPT, dir.path()) else {
        return;
    };
    let (pid, child) = (script.pid(), script.ready.parse::<i32>().unwrap());
    if let Err(error) = fs::write(cgroup.0.join("cgroup.procs"), child.to_string()) {
        eprintln!("skipped: cannot move a process to the cgroup: {error}");
        return;
    }
    let contents = checkpoint_archive(pid, Freeze::Snapshot);
    let log = contents.log();
    let cgroup_name = cgroup.0.file_name().unwrap().to_str().unwrap();
    let line_logged = log
        .lines()
        .find(|line| line.contains(&format!("pid {child}: the cgroups of thread {child}")))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(line_logged.contains(cgroup_name), "{line_logged}");
    assert!(!log.contains(&format!("pid {pid}: the cgroups")), "{log}");
    // Without a cgroup image there is only one cgroup set: that of the restorer.
    for pid in [pid, child] {
        let core = contents.core(pid);
        assert_eq!(
            (core.tc.unwrap().cg_set, core.thread_core.unwrap().cg_set),
            (Some(1), Some(1))
        );
    }
    assert!(unsupported_by_strict(pid).contains("the cgroups of thread"));
    drop(script);
}

/// A parent and a child that poll wait calls and count SIGCHLD. Both print everything that they notice.
const CHILD_WATCHER_SCRIPT: &str = r#"
import os, signal, sys, time
heard = []
signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
child = os.fork()
parent = os.getppid()
own = os.getpid()
def notice(what):
    os.write(1, b"%d noticed: %s\n" % (own, what.encode()))
    os._exit(1)
count = 0
ways = os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG
while True:
    try:
        seen = os.waitid(os.P_ALL, 0, ways)
        if not child:
            notice("it has a child")
        if seen is not None:
            notice("a child that is %s" % (seen,))
    except ChildProcessError:
        if child:
            notice("its child is gone")
    if heard:
        notice("a signal")
    if os.getppid() != parent:
        notice("another parent")
    count += 1
    if child and count % 2000 == 0:
        os.write(1, b"%f\n" % time.monotonic())
"#;

#[test]
fn wait_and_sigchld_do_not_show_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut script) = Script::start(CHILD_WATCHER_SCRIPT, dir.path()) else {
        return;
    };
    script.ready.parse::<f64>().expect("a timestamp");
    let pid = script.pid();
    let pids: Vec<_> = descendants(pid).iter().map(|process| process.pid.as_raw()).collect();
    let [_, child] = pids[..] else {
        panic!("expected a parent and a child: {pids:?}");
    };
    // Checkpoints the parent with its child, and the child alone, whose parent then is outside the container.
    for first in [pid, child, pid, child] {
        let dir = tempfile::tempdir().unwrap();
        let job = job(first, dir.path());
        let report = checkpoint::run(&job, &TestHost::new(first), &()).expect("the checkpoint succeeds");
        assert!(report.used_snapshot, "{}", ArchiveContents::read(&job.location).log());
        // Earlier output may still be in the pipe. A line with a later timestamp comes after thousands of wait calls.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let later = now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9;
        let mut lines = 0;
        while lines < 3 {
            let line = script.line();
            let line_logged: f64 = line.parse().unwrap_or_else(|_| panic!("{line}"));
            lines += usize::from(line_logged > later);
        }
        let pids_after: Vec<_> = descendants(pid).iter().map(|process| process.pid.as_raw()).collect();
        assert_eq!(pids_after, pids);
    }
}
