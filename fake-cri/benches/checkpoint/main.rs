//! Checkpoints beside `criu dump` and `cp`, in one run and by turns: what `scripts/bench-checkpoint` runs.
//!
//! ```text
//!   for each size:  a container whose process fills so many bytes with randomness, in 4 KiB pages
//!     each round:   its own fork()  |  CheckpointContainer  |  cp of as large a file  |  criu dump --leave-running
//! ```
//!
//! By turns, because a machine's disk and memory are of another speed every minute: only ratios within one run say something.

mod comparison;
mod plot;
mod report;
mod workload;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Checkpoints beside criu dump and cp, in one run and by turns.
#[derive(Debug, Parser)]
struct Options {
    /// The sizes of memory
    #[arg(long = "size", value_name = "SIZE", default_values = ["64MiB", "256MiB", "1GiB", "4GiB"])]
    sizes: Vec<bytesize::ByteSize>,
    /// Rounds a size
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where archives and copies go
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// The CRIU to measure beside [default: criu on the PATH; without one it is left out]
    #[arg(long, env = "CRIU", default_value = "criu")]
    criu: PathBuf,
    /// Flags for `fake-cri serve`, as --serve=--freeze=full
    #[arg(long = "serve", value_name = "FLAG", allow_hyphen_values = true)]
    serve: Vec<String>,
    /// Where the plot goes
    #[arg(long, value_name = "FILE", default_value = "bench-checkpoint.svg")]
    plot: PathBuf,
    /// Write a page with the figures and the goals; the plot is shown in it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the dump.log of every checkpoint too
    #[arg(long)]
    logs: bool,
    /// What `cargo bench` gives every benchmark; without it nothing is measured, as in `cargo test --benches`
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the container's process, with so many bytes
    #[arg(long, hide = true)]
    workload: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.workload {
        Some(bytes) => workload::run(bytes),
        None if options.bench => comparison::run(&options),
        None => {
            println!("skipped: measured by scripts/bench-checkpoint alone");
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
