//! The `fake-cri` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    fake_cri::entry_point();
    fake_cri::cli::main(fake_cri::entry::executable())
}
