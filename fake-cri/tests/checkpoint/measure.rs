//! The cost of a checkpoint: memory of the dumper, and time.
//!
//! `CHECKPOINT_MEASURE=1073741824 cargo test --release -p fake-cri --test checkpoint measure::measure_checkpoints -- --ignored --nocapture`
//! prints the times of five checkpoints of this many bytes of random memory, and the times of a plain copy of the
//! archive.

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

/// The number of bytes that [`measure_checkpoints`] fills.
const MEASURE_BYTES_ENV: &str = "CHECKPOINT_MEASURE";

/// The memory of the container in the test.
const CONTAINER_BYTES: u64 = 128 << 20;

/// The maximum memory that a checkpoint may add to the dumper. Two buffers of 1 MiB, one of 256 KiB, stacks and page
/// lists have taken 3 MiB, and more than 4 MiB on a loaded machine, where the kernel updates the per-CPU resident page
/// counters late and in batches. The limit distinguishes this from a copy of even an eighth of the memory.
const MAX_GROWTH_BYTES: u64 = CONTAINER_BYTES / 8;

/// A field of `/proc/self/status`, in bytes.
fn status_bytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "not a test: run by the test below, or by hand to measure"]
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
        // Resets the peak (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status_bytes("VmRSS:");
        let report = checkpoint::run(&job, &TestHost::new(workload.pid()), &()).expect("the checkpoint succeeds");
        // The kernel updates the counters late, so a small growth can appear as a decrease.
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
        .expect("the growth is printed")
        .parse()
        .unwrap();
    assert!(max_growth < MAX_GROWTH_BYTES, "{text}");
}
