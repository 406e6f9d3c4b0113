//! The subcommand `runtime`.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::{
    Failure, RunArgs, SelectionArgs, clean, parse_mutant,
    suite_run::{StartTime, SuiteRun, SuiteRunner},
    until_interrupted,
};
use crate::{
    engine::Suite,
    mutation::Mutant,
    report::Secrets,
    suites::runtime::{RuntimeSession, cases},
    targets::runtime::{EmbeddedRuntime, Runtime, RuntimeTarget},
};

#[derive(Clone, Debug, Args)]
pub(super) struct RuntimeArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    verdict: RunArgs,

    /// Inject the defect of this mutant into the embedded fake-cri (see `checkpoint-conformance mutants`)
    #[arg(long, value_name = "NAME", conflicts_with = "runtime_endpoint")]
    #[arg(value_parser = |name: &str| parse_mutant(Suite::Runtime, name))]
    mutant: Option<&'static str>,

    #[command(flatten)]
    running: RunningRuntimeArgs,
}

/// The options for a running runtime.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "A running runtime")]
struct RunningRuntimeArgs {
    /// Test the runtime at this endpoint, such as unix:///run/containerd/containerd.sock [default: embedded fake-cri]
    #[arg(long, value_name = "unix:///PATH")]
    runtime_endpoint: Option<String>,
    /// The image of the containers; pulled when the runtime does not have it [default: the image that
    /// `checkpoint-conformance image` writes]
    #[arg(long, value_name = "REF", requires = "runtime_endpoint")]
    image: Option<String>,
    /// The runtime handler of the Pods, as in a RuntimeClass
    #[arg(long, value_name = "HANDLER", requires = "runtime_endpoint")]
    runtime_handler: Option<String>,
    /// The control socket of fake-cri, when it is the tested runtime
    #[arg(long, value_name = "SOCKET", requires = "runtime_endpoint")]
    fake_cri_control: Option<PathBuf>,
    /// A directory for logs and archives that has the same path for the runtime [default: temporary directory]
    #[arg(long, value_name = "DIR", requires = "runtime_endpoint")]
    work_dir: Option<PathBuf>,
    /// Run no case; remove the Pods and containers of all runs, including runs in progress
    #[arg(long, requires = "runtime_endpoint")]
    #[arg(conflicts_with_all = ["image", "runtime_handler", "fake_cri_control", "work_dir"])]
    clean: bool,
}

impl RuntimeArgs {
    /// Runs the suite, prints and writes the reports, and returns the exit code.
    pub(super) fn run(self, args: &[OsString]) -> Result<u8, Failure> {
        let run = SuiteRunner::new(&self.selection, &self.verdict, args)?;
        let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
        if let (true, Some(endpoint)) = (self.running.clean, &self.running.runtime_endpoint) {
            return runtime.block_on(clean::run(Some(endpoint)));
        }
        let report = run.report(runtime.block_on(self.run_suite(&run))?);
        run.finish(&[report])
    }

    async fn run_suite(&self, run: &SuiteRunner<'_>) -> Result<SuiteRun, Failure> {
        let start_time = StartTime::now();
        let session = RuntimeSession::new(self.target().await?);
        let records = until_interrupted(run.run_cases(cases(), &session)).await;
        // Remove the Pods and stop the target in every case.
        let shutdown = session.runtime.shutdown().await;
        for note in session.runtime.unfreeze_notes() {
            eprintln!("checkpoint-conformance: {note}");
        }
        let records = match (records, shutdown) {
            (Err(failure), Err(error)) => {
                eprintln!("checkpoint-conformance: {error}");
                return Err(failure);
            }
            (records, ended) => {
                ended.map_err(anyhow::Error::from)?;
                records?
            }
        };
        let mut secrets = Secrets::default();
        for canary in session.runtime.canaries() {
            secrets.add(&canary);
        }
        Ok(SuiteRun {
            target: session.runtime.target_info.clone(),
            start_time,
            records,
            secrets,
            // The archives are in the run directory, which the session removes.
            remaining_archives: Vec::new(),
            footprint: None,
        })
    }

    async fn target(&self) -> Result<Runtime, Failure> {
        let Some(endpoint) = &self.running.runtime_endpoint else {
            let embedded = EmbeddedRuntime {
                defect: self
                    .mutant
                    .and_then(|name| Mutant::by_name(Suite::Runtime, name))
                    .map(|mutant| (mutant.name.to_owned(), mutant.runtime_rules())),
                executable: None,
            };
            let started = until_interrupted(embedded.start()).await?;
            return Ok(started.map_err(anyhow::Error::from)?);
        };
        let mut target = RuntimeTarget::new(endpoint);
        target.image.clone_from(&self.running.image);
        target.handler = self.running.runtime_handler.clone().unwrap_or_default();
        target.control_socket.clone_from(&self.running.fake_cri_control);
        target.work_dir.clone_from(&self.running.work_dir);
        match until_interrupted(target.connect()).await {
            Ok(connected) => Ok(connected.map_err(anyhow::Error::from)?),
            Err(failure) => {
                if let Err(error) = target.clean_up().await {
                    eprintln!("checkpoint-conformance: {error}");
                }
                Err(failure)
            }
        }
    }
}
