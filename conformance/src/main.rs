//! The command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // fake-cri, its shims and its workloads are this executable too, in another role.
    fake_cri::entry_point();
    checkpoint_conformance::cli::run(std::env::args_os())
}
