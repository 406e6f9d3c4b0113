//! Compares checkpoints with `criu dump` and `cp`, alternating within one run; run by `scripts/bench-checkpoint`.
//!
//! ```text
//!   for each size:  a container whose process fills this many bytes with random data, in 4 KiB pages
//!     each round:   fork() of the process | CheckpointContainer | cp of a file of that size | criu dump --leave-running
//! ```
//!
//! The measurements alternate because the speed of disk and memory changes from minute to minute: only ratios within
//! one run are meaningful.

mod comparison;
mod measurement;
mod plot;
mod report;
mod workload;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Compares checkpoints with criu dump and cp, alternating within one run.
#[derive(Debug, Parser)]
struct Options {
    /// A size of memory to measure
    #[arg(long = "size", value_name = "SIZE", default_values = ["64MiB", "256MiB", "1GiB", "4GiB"])]
    sizes: Vec<bytesize::ByteSize>,
    /// The number of rounds per size
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The directory of archives and copies
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// The CRIU to compare with [default: criu on the PATH; omitted if missing]
    #[arg(long, env = "CRIU", default_value = "criu")]
    criu: PathBuf,
    /// A flag for `fake-cri serve`, such as --serve=--freeze=full
    #[arg(long = "serve", value_name = "FLAG", allow_hyphen_values = true)]
    serve: Vec<String>,
    /// The file of the plot
    #[arg(long, value_name = "FILE", default_value = "bench-checkpoint.svg")]
    plot: PathBuf,
    /// Write a Markdown page with the results, the goals and the plot
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the dump.log of each checkpoint
    #[arg(long)]
    logs: bool,
    /// Passed by `cargo bench`. Without it nothing is measured, so that `cargo test --benches` is fast
    #[arg(long, hide = true)]
    bench: bool,
    /// Run as the workload with this many bytes
    #[arg(long, hide = true)]
    workload: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.workload {
        Some(bytes) => workload::run(bytes),
        None if options.bench => comparison::run(&options),
        None => {
            println!("skipped: run scripts/bench-checkpoint to measure");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}
