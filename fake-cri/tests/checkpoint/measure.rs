//! What a checkpoint costs: memory of the one who makes it, and time.
//!
//! `CHECKPOINT_MEASURE=1073741824 cargo test --release -p fake-cri --test checkpoint measure::measure_checkpoints -- --ignored --nocapture`
//! prints the times of five checkpoints of so many bytes of random memory, beside those of a plain copy of the archive.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::Instant,
};

use fake_cri::checkpoint;

use crate::{
    host::{TestHost, job},
    workload::{PAGE_BYTES, Shape, Workload},
};

/// The environment variable that says how many bytes [`measure_checkpoints`] fills.
const MEASURE_BYTES_ENV: &str = "CHECKPOINT_MEASURE";

/// How much memory the container of the test has.
const CONTAINER_BYTES: u64 = 128 << 20;

/// What its checkpoint may add to the memory of who makes it. Two buffers of 1 MiB, one of 256 KiB, stacks, and lists of where
/// pages lie have been 3 MiB, and more than 4 MiB on a loaded machine, where the kernel counts resident pages late and by batches
/// of each processor. The bound tells that from a copy, even of an eighth of the memory.
const MAX_GROWTH_BYTES: u64 = CONTAINER_BYTES / 8;

/// A field of `/proc/self/status` in bytes.
fn status_bytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "no test: run by the one below, and by hand to measure"]
fn measure_checkpoints() {
    let Some(bytes) = std::env::var(MEASURE_BYTES_ENV).ok() else {
        return;
    };
    let bytes: u64 = bytes.parse().expect("a number of bytes");
    let workload = Workload::start(&Shape {
        filled_pages: bytes / PAGE_BYTES,
        ..Shape::default()
    });
    let dir = tempfile::tempdir_in(std::env::var_os("CHECKPOINT_MEASURE_IN").unwrap_or("/var/tmp".into())).unwrap();
    let job = job(workload.pid(), dir.path());
    let mut max_growth = 0;
    for _ in 0..5 {
        // The peak counts from here (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status_bytes("VmRSS:");
        let report = checkpoint::run(&job, &TestHost::new(workload.pid())).expect("checkpoint");
        // The kernel counts late, so that what grew little may seem to have shrunk.
        let grown = status_bytes("VmHWM:").saturating_sub(before);
        max_growth = max_growth.max(grown);
        let copy_started = Instant::now();
        let copy = dir.path().join("copy");
        std::io::copy(
            &mut File::open(&job.location).unwrap(),
            &mut File::create(&copy).unwrap(),
        )
        .unwrap();
        println!(
            "{} bytes: total {:?}, frozen {:?}, copy {:?}, grown by {grown} bytes",
            report.archive_bytes,
            report.total_time,
            report.frozen_time,
            copy_started.elapsed()
        );
        fs::remove_file(copy).unwrap();
    }
    println!("max_growth {max_growth}");
}

#[test]
fn container_memory_is_not_buffered() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "measure::measure_checkpoints", "--ignored", "--nocapture"])
        .env(MEASURE_BYTES_ENV, CONTAINER_BYTES.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let max_growth: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("max_growth "))
        .expect("it says so")
        .parse()
        .unwrap();
    assert!(max_growth < MAX_GROWTH_BYTES, "{text}");
}
