//! The stand-in at work.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    hint::black_box,
    io::{self, Seek, SeekFrom, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use rand::TryRng;

use super::{NAME, OPTIONS, OPTIONS_FILE, OnTerm, Options, Pattern, canary, memory};
use crate::process::{family, workload};

/// The exit code for a value that cannot be used, and for a process that cannot be what it was told to be.
const UNUSABLE: i32 = 2;

/// Plays the workload and ends the process.
pub fn run() -> ! {
    let code = match play() {
        Ok(code) => code,
        Err(message) => {
            let _ = writeln!(io::stderr(), "{NAME}: {message}");
            UNUSABLE
        }
    };
    std::process::exit(code)
}

/// What is true of each of its processes.
struct Shape {
    memory: usize,
    pattern: Pattern,
    threads: u32,
    files: u32,
    tick: Duration,
    on_term: OnTerm,
}

fn play() -> Result<i32, String> {
    let started = Instant::now();
    let options = options()?;
    let shape = Shape {
        memory: usize::try_from(options.memory.unwrap_or(1 << 20)).map_err(|error| error.to_string())?,
        pattern: options.pattern.unwrap_or_default(),
        threads: options.threads.unwrap_or(1),
        files: options.files.unwrap_or(0),
        tick: options.tick.unwrap_or(Duration::from_millis(100)),
        on_term: options.on_term.unwrap_or_default(),
    };
    if let Some(cwd) = &options.cwd {
        env::set_current_dir(cwd).map_err(|error| format!("change to {}: {error}", cwd.display()))?;
    }
    // Before any fork or thread, so that all of them take signals the same way: in one thread's wait.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).map_err(|error| format!("block signals: {error}"))?;

    let children = options.children.unwrap_or(0);
    for _ in 0..children {
        if workload::fork().map_err(|error| format!("fork: {error}"))?.is_none() {
            return inhabit(&shape, &signals, "child ", None);
        }
    }
    let end = options
        .exit_after
        .map(|after| (started + after, options.exit_code.unwrap_or(0)));
    let Settled { name: process, held } = settle(&shape)?;
    let Shape { memory, threads, .. } = shape;
    say(&format!(
        "stand-in ready {process} memory={memory} threads={threads} children={children}\n"
    ));
    // Made only now, so that nothing but this process's memory and its log can know it.
    let secret: String = randomness::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    say(&format!("canary {secret}\n"));
    let mut on_stack = [0; 8];
    let mut canaries = match options.canaries {
        Some(true) => {
            canary::on_stack(&mut on_stack, &secret);
            Some(canary::Held::new(&secret)?)
        }
        _ => None,
    };
    let code = tick(&shape, &signals, &process, "", end, canaries.as_mut());
    black_box((&held, &secret, &mut on_stack));
    Ok(code)
}

/// A child's life.
fn inhabit(shape: &Shape, signals: &SigSet, prefix: &str, end: Option<(Instant, i32)>) -> Result<i32, String> {
    let Settled { name: process, held } = settle(shape)?;
    let code = tick(shape, signals, &process, prefix, end, None);
    black_box(&held);
    Ok(code)
}

/// A process that has all it was told to have.
struct Settled {
    /// How it names itself: number and start time.
    name: String,
    /// What it holds until its end.
    held: (Vec<u64>, Vec<File>),
}

/// Takes memory, files and threads, and says who this process is.
fn settle(shape: &Shape) -> Result<Settled, String> {
    let seed = u64::from_ne_bytes(randomness::<8>()?);
    let memory = memory::fill(shape.memory, shape.pattern, seed);
    let files = (0..shape.files)
        .map(open_file)
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| format!("open files: {error}"))?;
    for number in 1..shape.threads {
        thread::Builder::new()
            .name(format!("worker-{number}"))
            // Each has a stack of its own, and many of them fit.
            .stack_size(128 << 10)
            .spawn(move || work(number))
            .map_err(|error| format!("start thread {number}: {error}"))?;
    }
    let pid = nix::unistd::getpid().as_raw();
    // An image may come without /proc; then the start time is told as 0.
    let start = family::Kin::of(pid).map_or(0, |kin| kin.id.start_time);
    Ok(Settled {
        name: format!("pid={pid} start={start}"),
        held: (memory, files),
    })
}

/// Says a line at each tick until it is time to end, and gives the exit code.
fn tick(
    shape: &Shape,
    signals: &SigSet,
    process: &str,
    prefix: &str,
    end: Option<(Instant, i32)>,
    mut canaries: Option<&mut canary::Held>,
) -> i32 {
    let mut number = 0u64;
    let mut next = Instant::now() + shape.tick;
    loop {
        let until = end.map_or(next, |(end, _)| next.min(end));
        match workload::wait_for_signal(signals, until) {
            Ok(Some(Signal::SIGHUP)) => continue,
            Ok(Some(_)) if shape.on_term == OnTerm::Exit => return 0,
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return 1,
        }
        let now = Instant::now();
        if let Some((end, code)) = end
            && now >= end
        {
            return code;
        }
        if now >= next {
            number += 1;
            // Before it is said: what the log tells is never ahead of the memory.
            if let Some(canaries) = &mut canaries {
                canaries.beat(number);
            }
            say(&format!("{prefix}tick {number} {process}\n"));
            // After a standstill it goes on in step, without catching up.
            next = (next + shape.tick).max(now);
        }
        // In an image it is the first process, whose part it is to reap.
        while waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
}

/// What a thread beside the first does: a little arithmetic on its own stack, four times a second.
fn work(number: u32) {
    let mut stack = [u64::from(number); 64];
    loop {
        for word in &mut stack {
            *word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        black_box(&mut stack);
        thread::sleep(Duration::from_millis(250));
    }
}

/// One line in one write, past the standard library's buffer. A reader that has gone changes nothing for the workload.
fn say(line: &str) {
    let stdout = io::stdout();
    let mut left = line.as_bytes();
    while !left.is_empty() {
        match nix::unistd::write(stdout.as_fd(), left) {
            Ok(count) => left = &left[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// A file that is everywhere and that nothing has to be cleaned up for: the program itself, at an offset of its own.
fn open_file(number: u32) -> io::Result<File> {
    let mut file = File::open("/proc/self/exe")
        .or_else(|_| File::open(env::args_os().next().map(PathBuf::from).unwrap_or_default()))
        .or_else(|_| File::open("/dev/null"))?;
    // Offsets that differ tell them apart in a checkpoint.
    file.seek(SeekFrom::Start(u64::from(number + 1) * 100))?;
    Ok(file)
}

fn options() -> Result<Options, String> {
    // Here, so that no descriptor of it stays whatever is read.
    let started_in = workload::started_in();
    let mut arguments = env::args();
    let named = arguments
        .next()
        .is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME));
    let told = if named {
        Options::from_arguments(arguments).map_err(|error| error.to_string())?
    } else {
        Options::default()
    };
    let read =
        |text: &[u8]| serde_json::from_slice::<Options>(text).map_err(|error| format!("read {OPTIONS}: {error}"));
    let given = if let Some(text) = env::var_os(OPTIONS) {
        read(text.as_encoded_bytes())?
    } else if let Some(text) = started_in.and_then(|at| fs::read(at.path.join(OPTIONS_FILE)).ok()) {
        read(&text)?
    } else {
        Options::default()
    };
    Ok(given.over(told))
}

/// Random bytes from the kernel, without the thread-local state of a generator.
fn randomness<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| format!("get randomness: {error}"))?;
    Ok(bytes)
}

/// Whether this program was started as the stand-in: by its file's name or by its first argument.
pub(crate) fn is_wanted(first: Option<OsString>) -> bool {
    let named = |path: &Path| path.file_name().is_some_and(|name| name == NAME);
    workload::started_by().is_some_and(|path| named(&path)) || first.is_some_and(|first| named(Path::new(&first)))
}
