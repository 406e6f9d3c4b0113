//! The processes that tests checkpoint: `sleep`, and this test binary as a configurable workload.

mod events;
mod extra;
pub(crate) mod filter;
mod mapping;
mod vfork;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub(crate) use extra::{Backing, Descriptor, Map};

use crate::host::descendants;

/// A `sleep` process. Dropping it kills and reaps the process.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start() -> Self {
        Self::with_input(Stdio::null())
    }

    pub(crate) fn with_input(input: impl Into<Stdio>) -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sleep is installed");
        let sleeper = Self(child);
        // Until sleep is in its system call, the loader still allocates memory, and a low memory limit would kill it.
        // There is no event to wait for.
        let until = Instant::now() + Duration::from_secs(10);
        while !sleeper.sleeps() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        sleeper
    }

    /// Whether the process is in its sleep system call; true if the kernel does not show the call.
    fn sleeps(&self) -> bool {
        let sleeping = [libc::SYS_clock_nanosleep, libc::SYS_nanosleep].map(|number| number.to_string());
        match fs::read_to_string(format!("/proc/{}/syscall", self.0.id())) {
            Ok(call) => sleeping.contains(&call.split(' ').next().unwrap_or_default().to_owned()),
            Err(_) => true,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The checkpoint may have killed and reaped the process.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes [`workload`] run as a workload. The value is a [`Shape`] as JSON.
const SHAPE_ENV: &str = "CHECKPOINT_WORKLOAD";
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Enough pages that reading them takes a measurable time.
pub(crate) const LARGE_PAGES: u64 = (96 << 20) / PAGE_BYTES;

/// The configuration of a workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Threads that count in a busy loop.
    pub(crate) spinning: usize,
    /// Threads that sleep in different system calls.
    pub(crate) sleeping: usize,
    /// Child processes with the same shape but without children.
    pub(crate) children: usize,
    /// Whether there is a zombie child.
    pub(crate) zombie: bool,
    /// Pages of private memory; every second page is written.
    pub(crate) sparse_pages: u64,
    /// Pages of private memory; every page is written, with different content.
    pub(crate) filled_pages: u64,
    /// Pages of private memory with PROT_NONE; at least one page if `sparse_pages` is set.
    pub(crate) unreadable_pages: u64,
    /// Pages of private memory that are only read.
    pub(crate) zero_pages: u64,
    /// Pages of shared anonymous memory; every third page is written.
    pub(crate) shared_pages: u64,
    /// Whether a thread waits in vfork, and how long its child lives.
    pub(crate) vfork: Option<Duration>,
    /// Whether threads and child processes are created and end all the time.
    pub(crate) churns_tasks: bool,
    /// Pages with MADV_DONTFORK, and as many with MADV_WIPEONFORK.
    pub(crate) not_forked_pages: u64,
    /// Shared mappings of one page, each with different content.
    pub(crate) shared_mappings: usize,
    /// Whether a seccomp filter kills the process when it calls clone, fork or vfork.
    pub(crate) kills_clone: bool,
    /// Whether the process denies new executable memory (`PR_SET_MDWE`, Linux 6.3).
    pub(crate) denies_exec_memory: bool,
    /// More mappings; requires [`Shape::files`].
    pub(crate) maps: Vec<Map>,
    /// More descriptors; requires [`Shape::files`].
    pub(crate) opened: Vec<Descriptor>,
    /// Whether the process, which has no children, exits when a wait call or SIGCHLD reports one.
    pub(crate) watches_sigchld: bool,
    /// The directory for open files of all kinds, if there are any.
    pub(crate) files: Option<std::path::PathBuf>,
    /// Set in children of a workload.
    pub(crate) child: bool,
}

/// What a ready workload reports about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The start and length of the mappings, by name.
    pub(crate) mappings: HashMap<String, (u64, u64)>,
    /// The fds, by name.
    pub(crate) descriptors: HashMap<String, i32>,
    /// The start and length of the mappings of [`Shape::maps`].
    pub(crate) maps: Vec<(u64, u64)>,
    /// The fds of [`Shape::opened`].
    pub(crate) opened: Vec<Vec<i32>>,
}

/// A running workload. Dropping it kills the process and all its children.
pub(crate) struct Workload {
    child: Child,
    input: Mutex<ChildStdin>,
    output: Mutex<BufReader<ChildStdout>>,
    pub(crate) layout: Layout,
}

impl Workload {
    /// Starts a workload and waits until it is ready.
    pub(crate) fn start(shape: &Shape) -> Self {
        let mut child = command(shape)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary starts");
        let input = Mutex::new(child.stdin.take().expect("piped"));
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let layout = loop {
            line.clear();
            assert_ne!(
                output.read_line(&mut line).expect("the output is readable"),
                0,
                "the workload exited"
            );
            // The test harness of the workload also prints text, even on the same line.
            if let Some((_, layout)) = line.split_once("ready ") {
                break serde_json::from_str(layout.trim()).expect("a valid layout");
            }
        };
        Self {
            child,
            input,
            output: Mutex::new(output),
            layout,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Asks the workload for its counter, which its threads increment.
    pub(crate) fn count(&self) -> u64 {
        self.input
            .lock()
            .unwrap()
            .write_all(b"count\n")
            .expect("the workload reads its input");
        let mut line = String::new();
        self.output
            .lock()
            .unwrap()
            .read_line(&mut line)
            .expect("the workload responds");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for process in descendants(self.pid()) {
            // SIGKILL also ends stopped processes.
            let _ = nix::sys::signal::kill(process.pid.into(), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

fn command(shape: &Shape) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary"));
    command
        .args([
            "--exact",
            "workload::workload",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(SHAPE_ENV, serde_json::to_string(shape).expect("the shape serializes"))
        .stdin(Stdio::piped());
    command
}

#[test]
#[ignore = "not a test: the process that other tests checkpoint"]
fn workload() {
    let Some(shape) = std::env::var(SHAPE_ENV).ok() else {
        return;
    };
    let shape: Shape = serde_json::from_str(&shape).expect("a valid shape");
    let mut layout = Layout::default();
    let memory = Memory::map(&shape, &mut layout);
    let files = shape.files.as_deref().map(|dir| Files::open(dir, &mut layout));
    let mut extras = Vec::new();
    if let Some(dir) = &shape.files {
        layout.maps = extra::map(&shape.maps, dir, &mut extras);
        layout.opened = extra::open(&shape.opened, dir, &mut extras);
    }
    let counter = Arc::new(AtomicU64::new(0));
    if shape.watches_sigchld {
        events::watch_for_children();
    }
    start_threads(&shape, &counter);
    let children = start_children(&shape);
    if let Some(time) = shape.vfork {
        let waits = move || vfork::wait(time);
        thread::Builder::new()
            .name("vforker".to_owned())
            .spawn(waits)
            .expect("thread");
    }
    if shape.churns_tasks {
        thread::spawn(|| {
            loop {
                let threads: Vec<_> = (0..3).map(|_| thread::spawn(thread::yield_now)).collect();
                threads
                    .into_iter()
                    .for_each(|thread| thread.join().expect("the thread does not panic"));
            }
        });
        thread::spawn(|| {
            loop {
                let status = Command::new("true").stdin(Stdio::null()).status();
                assert!(status.is_ok_and(|status| status.success()));
            }
        });
    }
    if shape.denies_exec_memory {
        filter::deny_executable_memory();
    }
    if shape.kills_clone {
        assert!(filter::install(true, true), "seccomp filters are available");
    }
    println!(
        "ready {}",
        serde_json::to_string(&layout).expect("the layout serializes")
    );
    for line in std::io::stdin().lock().lines() {
        if line.is_ok_and(|line| line == "count") {
            println!("{}", counter.fetch_add(1, Ordering::SeqCst));
        }
    }
    drop((memory, files, children, extras));
    std::process::exit(0);
}

fn start_threads(shape: &Shape, counter: &Arc<AtomicU64>) {
    for _ in 0..shape.spinning {
        let counter = Arc::clone(counter);
        thread::spawn(move || {
            let mut float = 1.5_f64;
            loop {
                counter.fetch_add(1, Ordering::Relaxed);
                float = std::hint::black_box(float.sqrt() + 1.0);
            }
        });
    }
    for index in 0..shape.sleeping {
        thread::Builder::new()
            .name(format!("sleeper-{index}"))
            .spawn(move || match index % 3 {
                0 => thread::sleep(Duration::from_secs(10_000)),
                1 => thread::park(),
                _ => {
                    let (mut reader, writer) = std::io::pipe().expect("pipe");
                    let _ = reader.read(&mut [0]);
                    drop(writer);
                }
            })
            .expect("thread");
    }
}

fn start_children(shape: &Shape) -> Vec<Child> {
    let child_shape = Shape {
        children: 0,
        zombie: false,
        child: true,
        ..shape.clone()
    };
    // Each child exits at EOF of its standard input, that is when this process exits.
    let mut children: Vec<_> = (0..shape.children)
        .map(|_| {
            let mut child = command(&child_shape).stdout(Stdio::piped()).spawn().expect("child");
            let mut output = BufReader::new(child.stdout.take().expect("piped"));
            let mut line = String::new();
            while !line.contains("ready ") {
                line.clear();
                assert_ne!(
                    output.read_line(&mut line).expect("the output is readable"),
                    0,
                    "the child exited"
                );
            }
            child.stdout = Some(output.into_inner());
            child
        })
        .collect();
    if shape.zombie {
        let child = Command::new("true").spawn().expect("true");
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) {
            thread::sleep(Duration::from_millis(1));
        }
        children.push(child);
    }
    children
}

struct Memory;

impl Memory {
    fn map(shape: &Shape, layout: &mut Layout) -> Self {
        use nix::sys::mman::{MapFlags, ProtFlags};
        let mut place = |name: &str, pages: u64, flags: MapFlags| {
            (pages > 0).then(|| {
                let mapping = mapping::Mapping::new(pages * PAGE_BYTES, flags);
                layout
                    .mappings
                    .insert(name.to_owned(), (mapping.start(), pages * PAGE_BYTES));
                mapping
            })
        };
        if let Some(mut sparse) = place("sparse", shape.sparse_pages, MapFlags::MAP_PRIVATE) {
            for page in (1..shape.sparse_pages).step_by(2) {
                for (index, byte) in sparse.page(page).iter_mut().enumerate() {
                    *byte = (page as usize * 31 + index * 7) as u8;
                }
            }
        }
        if let Some(mut dense) = place("dense", shape.filled_pages, MapFlags::MAP_PRIVATE) {
            for page in 0..shape.filled_pages {
                let mut bits = page * PAGE_BYTES + 1;
                for word in dense.page(page).chunks_exact_mut(8) {
                    // xorshift64
                    bits ^= bits << 13;
                    bits ^= bits >> 7;
                    bits ^= bits << 17;
                    word.copy_from_slice(&bits.to_le_bytes());
                }
            }
        }
        if let Some(mut zero) = place("zero", shape.zero_pages, MapFlags::MAP_PRIVATE) {
            for page in 0..shape.zero_pages {
                assert_eq!(zero.page(page)[17], 0);
            }
        }
        if let Some(mut shared) = place("shared", shape.shared_pages, MapFlags::MAP_SHARED) {
            for page in (0..shape.shared_pages).step_by(3) {
                shared.page(page).fill(page as u8 | 0x80);
            }
        }
        for number in 0..shape.shared_mappings {
            let mut mapping = mapping::Mapping::new(PAGE_BYTES, MapFlags::MAP_SHARED);
            mapping.page(0)[0] = number as u8 | 1;
        }
        for (name, advice) in [("dontfork", libc::MADV_DONTFORK), ("wipeonfork", libc::MADV_WIPEONFORK)] {
            if let Some(mut unforked) = place(name, shape.not_forked_pages, MapFlags::MAP_PRIVATE) {
                for page in 0..shape.not_forked_pages {
                    unforked.page(page).fill(page as u8 | 0x40);
                }
                unforked.advise(advice);
            }
        }
        let hidden = shape.unreadable_pages.max(u64::from(shape.sparse_pages > 0));
        if let Some(mut hidden) = place("hidden", hidden, MapFlags::MAP_PRIVATE) {
            for page in 0..shape.unreadable_pages.max(1) {
                hidden.page(page).fill(page as u8 ^ 0x5a);
            }
            hidden.protect(ProtFlags::PROT_NONE);
        }
        place(
            "untouched",
            u64::from(shape.sparse_pages > 0) << 18,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        );
        Self
    }
}

/// Open files of many kinds, and file mappings.
struct Files(#[expect(dead_code, reason = "keeps the files open")] Vec<Box<dyn std::any::Any>>);

impl Files {
    fn open(dir: &Path, layout: &mut Layout) -> Self {
        use nix::sys::{
            mman::MapFlags,
            timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
        };
        let path = |name: &str| dir.join(format!("{}-{name}", std::process::id()));
        let mut kept_open: Vec<Box<dyn std::any::Any>> = Vec::new();
        let mut descriptors = HashMap::new();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);

        let mut offset = options.open(path("offset")).expect("open");
        offset.write_all(&[7; 5 * PAGE_BYTES as usize]).expect("write");
        offset.seek(SeekFrom::Start(1234)).expect("seek");
        let duplicate = offset.try_clone().expect("dup");
        let reopened = File::open(path("offset")).expect("open");
        let append = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path("append"))
            .expect("open");
        let mut deleted = options.open(path("deleted")).expect("open");
        deleted.write_all(b"nobody finds me").expect("write");
        fs::remove_file(path("deleted")).expect("remove");
        let directory = File::open(dir).expect("open");
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        writer.write_all(b"unread").expect("write");
        let event = events::eventfd(42);
        let epoll = events::epoll_watching(&event, 99);
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("timerfd");
        timer
            .set(
                Expiration::OneShot(Duration::from_secs(5000).into()),
                TimerSetTimeFlags::empty(),
            )
            .expect("set");
        let (left, right) = std::os::unix::net::UnixStream::pair().expect("pair");
        (&right).write_all(b"to the left").expect("write");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let connected = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let accepted = listener.accept().expect("accept");
        let memory = nix::sys::memfd::memfd_create(c"in memory", nix::sys::memfd::MFdFlags::empty()).expect("memfd");
        let memory = File::from(memory);
        nix::sys::uio::pwrite(&memory, b"nobody maps me", 3 * PAGE_BYTES as i64).expect("write");

        for (name, mode) in [
            ("private", MapFlags::MAP_PRIVATE),
            ("shared-file", MapFlags::MAP_SHARED),
        ] {
            let mut mapping = mapping::Mapping::of(&offset, 5 * PAGE_BYTES, mode);
            layout
                .mappings
                .insert(name.to_owned(), (mapping.start(), 5 * PAGE_BYTES));
            assert_eq!(mapping.page(1)[0], 7);
            if name == "private" {
                mapping.page(2)[0] = 8;
            }
        }
        for (name, fd) in [
            ("offset", offset.as_fd()),
            ("duplicate", duplicate.as_fd()),
            ("reopened", reopened.as_fd()),
            ("append", append.as_fd()),
            ("deleted", deleted.as_fd()),
            ("directory", directory.as_fd()),
            ("reader", reader.as_fd()),
            ("writer", writer.as_fd()),
            ("event", event.as_fd()),
            ("epoll", epoll.as_fd()),
            ("timer", timer.as_fd()),
            ("left", left.as_fd()),
            ("right", right.as_fd()),
            ("listener", listener.as_fd()),
            ("connected", connected.as_fd()),
            ("memory", memory.as_fd()),
        ] {
            descriptors.insert(name.to_owned(), fd.as_raw_fd());
        }
        layout.descriptors = descriptors;
        kept_open.push(Box::new((offset, duplicate, reopened, append, deleted, directory)));
        kept_open.push(Box::new((reader, writer, event, epoll, timer)));
        kept_open.push(Box::new((left, right, listener, connected, accepted, memory)));
        Self(kept_open)
    }
}
