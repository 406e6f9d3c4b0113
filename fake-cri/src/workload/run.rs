//! Runs the test workload.

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

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    wait::{WaitPidFlag, waitpid},
};
use rand::TryRng;

use super::{MemoryPattern, OPTIONS_ENV, OPTIONS_FILE, OnSigterm, WORKLOAD_NAME, WorkloadOptions, canary, memory};
use crate::process::{Pid, pstree, workload_syscalls};

/// The exit code after an invalid option, or when a resource cannot be allocated.
const USAGE_EXIT_CODE: i32 = 2;

/// Runs the test workload and exits.
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

/// The options of each process.
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
    // Must precede every fork and thread, so that signals are blocked in all of them and one thread of each process
    // waits for them.
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
    // Generated after the start, so that only the memory and the log of this process hold it.
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

/// The main function of a child.
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

/// The resources of a process.
struct AllocatedResources {
    /// `pid=` and `start=` for the log.
    process: String,
    /// Kept until the exit.
    memory_and_files: (Vec<u64>, Vec<File>),
}

/// Allocates memory, files and threads, and returns the process's name for the log.
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
            // Small stacks, because there may be 10000 threads.
            .stack_size(128 << 10)
            .spawn(move || run_worker(thread_number))
            .map_err(|error| format!("start thread {thread_number}: {error}"))?;
    }
    let pid = Pid::current();
    // Without /proc, as in some images, the start time is logged as 0.
    let start_time = pstree::ProcStat::read(pid).map_or(0, |stat| stat.id.start_time);
    Ok(AllocatedResources {
        process: format!("pid={pid} start={start_time}"),
        memory_and_files: (memory, files),
    })
}

/// Writes heartbeats until the process must exit, and returns the exit code.
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
            // Stored before the line is written, so that the log is never ahead of the memory.
            if let Some(canaries) = &mut canaries {
                canaries.record_heartbeat(heartbeat_number);
            }
            write_stdout(&format!("{prefix}heartbeat {heartbeat_number} {process}\n"));
            // After a freeze the heartbeat continues at its interval, without catching up.
            next_heartbeat = (next_heartbeat + resources.heartbeat_interval).max(now);
        }
        // In an image the workload may be pid 1, which must reap orphans.
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
}

/// Additional threads compute on their own stack, four times a second.
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

/// Writes a line with one write(2), without the standard library's buffer. Ignores errors, so that a closed pipe does
/// not end the workload.
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

/// Opens the program itself, at a different offset for each file: the file exists everywhere, and nothing must be
/// cleaned up.
fn open_file(index: u32) -> io::Result<File> {
    let mut file = File::open("/proc/self/exe")
        .or_else(|_| File::open(env::args_os().next().map(PathBuf::from).unwrap_or_default()))
        .or_else(|_| File::open("/dev/null"))?;
    // The offsets distinguish the files in a checkpoint.
    file.seek(SeekFrom::Start(u64::from(index + 1) * 100))?;
    Ok(file)
}

fn read_options() -> Result<WorkloadOptions, String> {
    // Opened first and dropped on return, so that its inherited descriptor is closed in every case.
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

/// Reads random bytes from the kernel, without a generator and its thread-local state.
fn random_bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| format!("read random bytes: {error}"))?;
    Ok(bytes)
}

/// Whether the program was started as the test workload: by the name of its file or by its first argument.
pub(crate) fn is_invoked_as_workload(first: Option<OsString>) -> bool {
    let has_workload_name = |path: &Path| path.file_name().is_some_and(|name| name == WORKLOAD_NAME);
    workload_syscalls::exec_path().is_some_and(|path| has_workload_name(&path))
        || first.is_some_and(|first| has_workload_name(Path::new(&first)))
}
