//! The command `checkpoint-conformance`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // This executable also runs as fake-cri, as its shims and as its workloads. `entry_point` does not return for them.
    fake_cri::entry_point();
    checkpoint_conformance::cli::run(std::env::args_os())
}
