//! The test workload at work.

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

use super::{MemoryPattern, OPTIONS_ENV, OPTIONS_FILE, OnSigterm, WORKLOAD_NAME, WorkloadOptions, canary, memory};
use crate::process::{pstree, workload_syscalls};

/// The exit code for a value that cannot be used, and for a process that cannot be what it was told to be.
const USAGE_EXIT_CODE: i32 = 2;

/// Plays the workload and ends the process.
pub fn run() -> ! {
    let code = match run_parent() {
        Ok(code) => code,
        Err(message) => {
            let _ = writeln!(io::stderr(), "{WORKLOAD_NAME}: {message}");
            USAGE_EXIT_CODE
        }
    };
    std::process::exit(code)
}

/// What is true of each of its processes.
struct ProcessResources {
    memory: usize,
    pattern: MemoryPattern,
    threads: u32,
    files: u32,
    heartbeat_interval: Duration,
    on_term: OnSigterm,
}

fn run_parent() -> Result<i32, String> {
    let start = Instant::now();
    let options = read_options()?;
    let resources = ProcessResources {
        memory: usize::try_from(options.memory.unwrap_or(1 << 20)).map_err(|error| error.to_string())?,
        pattern: options.memory_pattern.unwrap_or_default(),
        threads: options.threads.unwrap_or(1),
        files: options.open_files.unwrap_or(0),
        heartbeat_interval: options.heartbeat_interval.unwrap_or(Duration::from_millis(100)),
        on_term: options.on_sigterm.unwrap_or_default(),
    };
    if let Some(cwd) = &options.cwd {
        env::set_current_dir(cwd).map_err(|error| format!("change to {}: {error}", cwd.display()))?;
    }
    // Before any fork or thread, so that all of them take signals the same way: in one thread's wait.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).map_err(|error| format!("block signals: {error}"))?;

    let children = options.children.unwrap_or(0);
    for _ in 0..children {
        if workload_syscalls::fork()
            .map_err(|error| format!("fork: {error}"))?
            .is_none()
        {
            return run_child(&resources, &signals, "child ", None);
        }
    }
    let end = options
        .exit_after
        .map(|after| (start + after, options.exit_code.unwrap_or(0)));
    let AllocatedResources {
        process,
        memory_and_files,
    } = allocate(&resources)?;
    let ProcessResources { memory, threads, .. } = resources;
    write_stdout(&format!(
        "test-workload ready {process} memory={memory} threads={threads} children={children}\n"
    ));
    // Made only now, so that nothing but this process's memory and its log can know it.
    let canary_hex: String = random_bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    write_stdout(&format!("canary {canary_hex}\n"));
    let mut stack_canary = [0; 8];
    let mut canaries = match options.canaries {
        Some(true) => {
            canary::fill_stack(&mut stack_canary, &canary_hex);
            Some(canary::Canaries::new(&canary_hex)?)
        }
        _ => None,
    };
    let code = run_heartbeats(&resources, &signals, &process, "", end, canaries.as_mut());
    black_box((&memory_and_files, &canary_hex, &mut stack_canary));
    Ok(code)
}

/// A child's life.
fn run_child(
    resources: &ProcessResources,
    signals: &SigSet,
    prefix: &str,
    end: Option<(Instant, i32)>,
) -> Result<i32, String> {
    let AllocatedResources {
        process,
        memory_and_files,
    } = allocate(resources)?;
    let code = run_heartbeats(resources, signals, &process, prefix, end, None);
    black_box(&memory_and_files);
    Ok(code)
}

/// A process that has all it was told to have.
struct AllocatedResources {
    /// How it names itself: number and start time.
    process: String,
    /// What it holds until its end.
    memory_and_files: (Vec<u64>, Vec<File>),
}

/// Takes memory, files and threads, and says who this process is.
fn allocate(resources: &ProcessResources) -> Result<AllocatedResources, String> {
    let seed = u64::from_ne_bytes(random_bytes::<8>()?);
    let memory = memory::fill_memory(resources.memory, resources.pattern, seed);
    let files = (0..resources.files)
        .map(open_file)
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| format!("open files: {error}"))?;
    for thread_number in 1..resources.threads {
        thread::Builder::new()
            .name(format!("worker-{thread_number}"))
            // Each has a stack of its own, and many of them fit.
            .stack_size(128 << 10)
            .spawn(move || run_worker(thread_number))
            .map_err(|error| format!("start thread {thread_number}: {error}"))?;
    }
    let pid = nix::unistd::getpid().as_raw();
    // An image may come without /proc; then the start time is told as 0.
    let start_time = pstree::ProcStat::read(pid).map_or(0, |stat| stat.id.start_time);
    Ok(AllocatedResources {
        process: format!("pid={pid} start={start_time}"),
        memory_and_files: (memory, files),
    })
}

/// Says a line at each heartbeat until it is time to end, and gives the exit code.
fn run_heartbeats(
    resources: &ProcessResources,
    signals: &SigSet,
    process: &str,
    prefix: &str,
    end: Option<(Instant, i32)>,
    mut canaries: Option<&mut canary::Canaries>,
) -> i32 {
    let mut heartbeat_number = 0u64;
    let mut next_heartbeat = Instant::now() + resources.heartbeat_interval;
    loop {
        let wake_at = end.map_or(next_heartbeat, |(end, _)| next_heartbeat.min(end));
        match workload_syscalls::wait_for_signal(signals, wake_at) {
            Ok(Some(Signal::SIGHUP)) => continue,
            Ok(Some(_)) if resources.on_term == OnSigterm::Exit => return 0,
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
        if now >= next_heartbeat {
            heartbeat_number += 1;
            // Before it is said: what the log tells is never ahead of the memory.
            if let Some(canaries) = &mut canaries {
                canaries.record_heartbeat(heartbeat_number);
            }
            write_stdout(&format!("{prefix}heartbeat {heartbeat_number} {process}\n"));
            // After a standstill it goes on in step, without catching up.
            next_heartbeat = (next_heartbeat + resources.heartbeat_interval).max(now);
        }
        // In an image it is the first process, whose part it is to reap.
        while waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
}

/// What a thread beside the first does: a little arithmetic on its own stack, four times a second.
fn run_worker(thread_number: u32) {
    let mut stack = [u64::from(thread_number); 64];
    loop {
        for word in &mut stack {
            *word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        black_box(&mut stack);
        thread::sleep(Duration::from_millis(250));
    }
}

/// One line in one write, past the standard library's buffer. A reader that has gone changes nothing for the workload.
fn write_stdout(line: &str) {
    let stdout = io::stdout();
    let mut remaining = line.as_bytes();
    while !remaining.is_empty() {
        match nix::unistd::write(stdout.as_fd(), remaining) {
            Ok(count) => remaining = &remaining[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// A file that is everywhere and that nothing has to be cleaned up for: the program itself, at an offset of its own.
fn open_file(index: u32) -> io::Result<File> {
    let mut file = File::open("/proc/self/exe")
        .or_else(|_| File::open(env::args_os().next().map(PathBuf::from).unwrap_or_default()))
        .or_else(|_| File::open("/dev/null"))?;
    // Offsets that differ tell them apart in a checkpoint.
    file.seek(SeekFrom::Start(u64::from(index + 1) * 100))?;
    Ok(file)
}

fn read_options() -> Result<WorkloadOptions, String> {
    // Here, so that no descriptor of it stays whatever is read.
    let start_dir = workload_syscalls::exec_dir();
    let mut arguments = env::args();
    let has_workload_name = arguments
        .next()
        .is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == WORKLOAD_NAME));
    let argument_options = if has_workload_name {
        WorkloadOptions::from_arguments(arguments).map_err(|error| error.to_string())?
    } else {
        WorkloadOptions::default()
    };
    let parse = |text: &[u8]| {
        serde_json::from_slice::<WorkloadOptions>(text).map_err(|error| format!("read {OPTIONS_ENV}: {error}"))
    };
    let configured_options = if let Some(text) = env::var_os(OPTIONS_ENV) {
        parse(text.as_encoded_bytes())?
    } else if let Some(text) = start_dir.and_then(|dir| fs::read(dir.path.join(OPTIONS_FILE)).ok()) {
        parse(&text)?
    } else {
        WorkloadOptions::default()
    };
    Ok(configured_options.or_defaults(argument_options))
}

/// Random bytes from the kernel, without the thread-local state of a generator.
fn random_bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| format!("get randomness: {error}"))?;
    Ok(bytes)
}

/// Whether this program was started as the test workload: by its file's name or by its first argument.
pub(crate) fn is_invoked_as_workload(first: Option<OsString>) -> bool {
    let has_workload_name = |path: &Path| path.file_name().is_some_and(|name| name == WORKLOAD_NAME);
    workload_syscalls::exec_path().is_some_and(|path| has_workload_name(&path))
        || first.is_some_and(|first| has_workload_name(Path::new(&first)))
}
