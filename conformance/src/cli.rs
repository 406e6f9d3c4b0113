//! The command line: which suite, which target, which cases.

mod archive;
mod clean;
mod cluster;
mod compare;
mod completions;
mod findings;
mod image;
mod kubelet;
mod merge;
mod mutants;
mod runtime;
mod suite_run;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

pub use kubelet::KubeletArgs;
pub use suite_run::RunArgs;

use crate::{
    engine::{Level, Selection, exit},
    suites,
};

/// Judges the Kubelet Checkpoint API of any kubelet, CheckpointContainer of any runtime, and checkpoint archives.
///
/// Without a subcommand the kubelet suite runs; without a target it runs on the embedded reference kubelet over an
/// embedded fake-cri.
#[derive(Debug, Parser)]
#[command(name = "checkpoint-conformance", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Say more on standard error: -v what is done, -vv every detail. `RUST_LOG` selects by module and wins
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    kubelet: KubeletArgs,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every selected documented clause was judged and holds
  1  one does not hold (with --strict: a clause of any level)
  2  the command line cannot be understood
  3  the harness could not do its work; wins over 1
  4  incomplete: nothing ran, or a documented clause could not be judged (--allow-incomplete makes it 0)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge a kubelet's checkpoint endpoint (the default)
    Kubelet(Box<KubeletArgs>),
    /// Judge CheckpointContainer of a container runtime, with no kubelet between
    Runtime(runtime::RuntimeArgs),
    /// Judge checkpoint archives, from any runtime
    Archive(archive::ArchiveArgs),
    /// Write the image of the workload, as an OCI archive to import into a runtime
    Image(image::ImageArgs),
    /// Remove what runs that were killed have left: temporary folders, what a kubelet changed, Pods in a runtime
    Clean(clean::CleanArgs),
    /// Judge the harness: run every mutant of the embedded target, each must be caught by exactly the cases that name it
    Mutants(mutants::MutantsArgs),
    /// Say what changed between two reports: exit code 0 when nothing got worse, 1 when something did
    Compare(compare::CompareArgs),
    /// Make one report of those of several machines
    Merge(merge::MergeArgs),
    /// Print docs/FINDINGS.md: what reports say of real targets, with what was confirmed by hand
    Findings(findings::FindingsArgs),
    /// Print the completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
    /// List the cases of every suite, one a line, the id first
    List(ListArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print docs/CASES.md
    #[arg(long)]
    markdown: bool,
}

/// Which cases.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    /// Only cases whose id matches this glob (`*` also matches `/`); may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Only cases of this level: documented, reference, robust; may be given several times
    #[arg(long, value_name = "LEVEL", value_delimiter = ',', value_parser = parse_level)]
    level: Vec<Level>,
}

impl SelectionArgs {
    fn selection(&self) -> Result<Selection, Failure> {
        Selection::new(&self.filter, &self.level).map_err(|error| Failure::Usage(error.to_string()))
    }
}

fn parse_level(name: &str) -> Result<Level, String> {
    Level::ALL
        .into_iter()
        .find(|level| level.as_str() == name)
        .ok_or_else(|| format!("expected one of {}", Level::ALL.map(Level::as_str).join(", ")))
}

/// Why a command ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user asked for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The harness could not do its work.
    #[error("{0:#}")]
    Harness(#[from] anyhow::Error),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

/// Runs the command line `args`, the program's name first; returns the exit code, see [`exit`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for, not wrong.
            let code = if error.use_stderr() { exit::USAGE } else { exit::PASS };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr(cli.verbose);
    let code = match dispatch(cli, &args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("checkpoint-conformance: {failure}");
            match failure {
                Failure::Usage(_) => exit::USAGE,
                Failure::Harness(_) | Failure::Interrupted => exit::ERROR,
            }
        }
    };
    ExitCode::from(code)
}

/// Warnings go to standard error whatever is asked for: what could not be put back must not be silent.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        // The embedded kubelet's Pod has a container that cannot be started, and its runtime is killed: its warnings are of no use here.
        0 => "warn,checkpoint_conformance::reference=error",
        1 => "checkpoint_conformance=info,fake_cri=info,warn",
        _ => "checkpoint_conformance=trace,fake_cri=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A caller that has a subscriber of its own keeps it.
    let _ = subscriber.try_init();
}

fn dispatch(cli: Cli, args: &[OsString]) -> Result<u8, Failure> {
    match cli.command {
        None => cli.kubelet.run(args),
        Some(Command::Kubelet(kubelet)) => kubelet.run(args),
        Some(Command::Runtime(runtime)) => runtime.run(args),
        Some(Command::Archive(archive)) => archive.run(args),
        Some(Command::Clean(clean)) => clean.run(),
        Some(Command::Image(image)) => image.run(),
        Some(Command::Mutants(mutants)) => mutants.run(),
        Some(Command::Compare(compare)) => compare.run(),
        Some(Command::Merge(merge)) => merge.run(),
        Some(Command::Findings(findings)) => findings.run(),
        Some(Command::Completions(completions)) => completions.run(),
        Some(Command::Man(man)) => man.run(),
        Some(Command::List(list)) => {
            let selection = list.selection.selection()?;
            let text = if list.markdown {
                suites::markdown(&selection)
            } else {
                suites::plain_text(&selection)
            };
            print(&text)?;
            Ok(exit::PASS)
        }
    }
}

/// Writes to stdout; a reader that has gone (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error)
            .context("failed to write to stdout")
            .map_err(Failure::Harness),
        _ => Ok(()),
    }
}

/// Runs a future to its end or to Ctrl-C or SIGTERM, whichever is first.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let interrupted = interruption()?;
    tokio::select! {
        result = work => Ok(result),
        () = interrupted => Err(Failure::Interrupted),
    }
}

/// Listens from now on for Ctrl-C and SIGTERM; what it returns ends with the first of them.
fn interruption() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
