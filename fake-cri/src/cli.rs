//! The command line: `fake-cri serve`, and the clients `fake-cri fault` and `fake-cri journal` for a running fake-cri.
//!
//! Exit codes: 0 for success, 1 for a failure, 2 for an invalid command line.

mod control;
mod daemon;
mod options;

use std::{path::Path, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

pub use self::options::ServeOptions;

/// A CRI runtime for tests: real processes, real checkpoints, faults on request.
#[derive(Debug, Parser)]
#[command(name = "fake-cri", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the CRI on a unix socket.
    Serve(Box<ServeOptions>),
    /// Add, list and clear the fault rules of a running fake-cri.
    #[command(subcommand)]
    Fault(control::FaultCommand),
    /// Print the calls that a running fake-cri has received.
    Journal(control::JournalOptions),
}

/// Returns the definition of the command line, for man pages and shell completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process. Shims are started from `executable`, see [`crate::entry::executable`].
pub fn main(executable: Option<&Path>) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(options) => daemon::run(*options, executable),
        Command::Fault(command) => control::run_fault_command(command),
        Command::Journal(options) => control::print_journal(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}
