//! Writes the results as docs/PERFORMANCE.md.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use bytesize::ByteSize;

use super::measurement::{Measurement, median};

/// The goal for RSS (docs/PERFORMANCE.md).
const MAX_RSS_BYTES: u64 = 64 << 20;
/// The goal for the frozen time, in multiples of the fork time.
const MAX_FROZEN_FORKS: f64 = 2.0;

/// Writes the page. The page links the plot by its file name, so both files should be in the same directory.
pub(crate) fn write(path: &Path, plot: &Path, rounds: usize, rows: &[Measurement]) -> anyhow::Result<()> {
    let plot = plot.file_name().context("the plot has a name")?.to_string_lossy();
    let mut page = format!(
        "# Performance\n\n\
         Made by `scripts/bench-checkpoint --report docs/PERFORMANCE.md --plot docs/{plot}`; do not edit.\n\n\
         Checkpoints of a process with this much random memory in 4 KiB pages, alternating in one run with `cp` of a file of that\n\
         size on the same file system and with `criu dump --leave-running` of the same process. Medians of {rounds} rounds after a\n\
         warm-up round. Only ratios are meaningful: the speed of memory and disk changes from minute to minute.\n\n\
         Machine: {}.\n\n![time over size]({plot})\n\n\
         | memory | CheckpointContainer | `cp` | `criu dump` | own `fork()` | frozen | frozen by CRIU | RSS of fake-cri | RSS of the shim |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        machine_description()
    );
    for row in rows {
        page += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            ByteSize(row.bytes),
            time(&row.checkpoint),
            with_ratio(&row.copy, &row.checkpoint),
            with_ratio(&row.criu, &row.checkpoint),
            time(&row.fork),
            with_ratio(&row.frozen, &row.fork),
            with_ratio(&row.criu_frozen, &row.fork),
            ByteSize(row.resident[0]),
            ByteSize(row.resident[1]),
        );
    }
    page += "\nIn parentheses: the time of `cp` and `criu dump` divided by that of the checkpoint (more than 1: the checkpoint is \
             faster),\nand the frozen time divided by the time of a fork.\n\n## Goals\n\n| goal | result |\n|---|---|\n";
    for row in rows {
        let size = ByteSize(row.bytes);
        if row.bytes == 1 << 30 {
            page += &goal(
                &format!("{size}: faster than `cp`"),
                ratio(&row.copy, &row.checkpoint),
                |ratio| ratio > 1.0,
            );
        }
        page += &goal(
            &format!("{size}: never slower than `criu dump`"),
            ratio(&row.criu, &row.checkpoint),
            |ratio| ratio >= 1.0,
        );
        page += &goal(
            &format!("{size}: frozen at most {MAX_FROZEN_FORKS} forks"),
            ratio(&row.frozen, &row.fork),
            |ratio| ratio <= MAX_FROZEN_FORKS,
        );
        let peak_rss = row.resident[0].max(row.resident[1]);
        page += &format!(
            "| {size}: RSS below {} | {}, {} |\n",
            ByteSize(MAX_RSS_BYTES),
            ByteSize(peak_rss),
            verdict(peak_rss < MAX_RSS_BYTES)
        );
    }
    fs::write(path, page).with_context(|| format!("write {}", path.display()))
}

fn goal(what: &str, ratio: Option<f64>, holds: impl Fn(f64) -> bool) -> String {
    match ratio {
        Some(ratio) => format!("| {what} | {ratio:.2}, {} |\n", verdict(holds(ratio))),
        None => format!("| {what} | not measured |\n"),
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "reached" } else { "**not reached**" }
}

fn time(times: &[Duration]) -> String {
    median(times).map_or("-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1000.0))
}

fn ratio(times: &[Duration], to: &[Duration]) -> Option<f64> {
    Some(median(times)?.as_secs_f64() / median(to)?.as_secs_f64())
}

fn with_ratio(times: &[Duration], to: &[Duration]) -> String {
    match ratio(times, to) {
        Some(ratio) => format!("{} ({ratio:.2})", time(times)),
        None => "-".to_owned(),
    }
}

fn machine_description() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = kernel.trim().split(['-', '+']).next().unwrap_or_default().to_owned();
    format!("{cpus} processors ({model}), Linux {release}")
}
