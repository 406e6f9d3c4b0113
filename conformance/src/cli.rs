//! The command line of `checkpoint-conformance`.

mod archive;
mod clean;
mod cluster;
mod compare;
mod completions;
mod explain;
mod findings;
mod image;
mod kubelet;
mod merge;
mod mutants;
mod running_kubelet;
mod runtime;
mod suite_run;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

pub use kubelet::KubeletArgs;
pub use suite_run::RunArgs;

use crate::{
    engine::{Level, Selection, Suite, exit},
    mutation::Mutant,
    suites,
    targets::TargetKind,
};

/// Tests the Kubelet Checkpoint API of kubelets, CheckpointContainer of container runtimes, and checkpoint archives.
///
/// Without a subcommand the kubelet suite runs. Without a target it tests the embedded reference kubelet, which runs
/// its containers with an embedded fake-cri.
#[derive(Debug, Parser)]
#[command(name = "checkpoint-conformance", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Log to standard error: -v info, -vv trace. `RUST_LOG` overrides it and can filter by module
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    kubelet: KubeletArgs,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every selected documented case passed
  1  a documented case failed (with --strict: a case of any level), or a listed expected failure passed
  2  invalid command line
  3  the harness failed; takes precedence over 1
  4  incomplete: no case ran, or a documented case did not run (0 with --allow-incomplete)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Test the checkpoint endpoint of a kubelet (default)
    Kubelet(Box<KubeletArgs>),
    /// Test CheckpointContainer of a container runtime, without a kubelet
    Runtime(runtime::RuntimeArgs),
    /// Test checkpoint archives of any runtime
    Archive(archive::ArchiveArgs),
    /// Write the container image of the test workload, as an OCI archive to import into a runtime
    Image(image::ImageArgs),
    /// Clean up after killed runs: temporary directories, changes of a kubelet to the host, Pods in a runtime
    Clean(clean::CleanArgs),
    /// Test the harness: run every mutant and check that each fails exactly the cases that its definition lists
    Mutants(mutants::MutantsArgs),
    /// Show the changes between two reports; exits with 1 when the new report is worse, else 0
    Compare(compare::CompareArgs),
    /// Merge the reports of several machines into one
    Merge(merge::MergeArgs),
    /// Print docs/FINDINGS.md: the failures of real targets, with their manual confirmation
    Findings(findings::FindingsArgs),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
    /// List the cases of all suites, one per line, beginning with the id
    List(ListArgs),
    /// Explain a case: requirement, authority, what it requires and depends on, targets, mutants that fail it
    Explain(explain::ExplainArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print docs/CASES.md
    #[arg(long)]
    markdown: bool,
    /// Print for each case whether it can run on this kind of target: embedded, kubelet-binary, url, node, node-proxy,
    /// embedded-runtime, runtime, archive
    #[arg(long, value_name = "KIND", conflicts_with = "markdown")]
    target: Option<TargetKind>,
    /// Print docs/TARGETS.md
    #[arg(long, conflicts_with_all = ["markdown", "target", "filter", "level"])]
    matrix: bool,
}

/// The options that select cases.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    /// Run only cases whose id matches this glob (`*` also matches `/`); can be repeated
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Run only cases of this level: documented, reference, robust; can be repeated
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

fn parse_mutant(suite: Suite, name: &str) -> Result<&'static str, String> {
    let names = || Mutant::names(suite).collect::<Vec<_>>().join(", ");
    Mutant::by_name(suite, name)
        .map(|mutant| mutant.name)
        .ok_or_else(|| format!("unknown mutant; expected one of {}", names()))
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a file that it names is invalid.
    #[error("{0}")]
    Usage(String),
    /// The harness failed.
    #[error("{0:#}")]
    Harness(#[from] anyhow::Error),
    /// SIGINT or SIGTERM ended the run.
    #[error("interrupted")]
    Interrupted,
}

/// Runs the command line `args`, which begins with the program name. Returns an exit code of [`exit`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // clap reports --help and --version as errors too; they exit with 0.
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

/// Warnings are logged at every verbosity, because a failed clean-up must be visible.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        // The Pod of the embedded kubelet has a container that cannot start, and cases kill its runtime: its warnings
        // are expected.
        0 => "warn,checkpoint_conformance::reference_kubelet=error",
        1 => "checkpoint_conformance=info,fake_cri=info,warn",
        _ => "checkpoint_conformance=trace,fake_cri=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // This fails when the caller has installed a subscriber already, which then stays.
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
        Some(Command::Explain(explain)) => explain.run(),
        Some(Command::List(list)) => {
            let selection = list.selection.selection()?;
            let text = match list.target {
                _ if list.matrix => suites::matrix(),
                _ if list.markdown => suites::markdown(&selection),
                Some(kind) => suites::for_target(kind, &selection),
                None => suites::plain_text(&selection),
            };
            print(&text)?;
            Ok(exit::PASS)
        }
    }
}

/// Writes to stdout. A closed pipe (`| head`) is not a failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error)
            .context("failed to write to stdout")
            .map_err(Failure::Harness),
        _ => Ok(()),
    }
}

/// Runs a future until it completes, or until SIGINT or SIGTERM.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let interrupted = interruption()?;
    tokio::select! {
        result = work => Ok(result),
        () = interrupted => Err(Failure::Interrupted),
    }
}

/// Registers handlers for SIGINT and SIGTERM immediately. The returned future completes at the first of these signals.
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
