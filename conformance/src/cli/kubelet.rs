//! The subcommand `kubelet`, which is the default.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use super::{
    Failure, RunArgs, SelectionArgs,
    cluster::ClusterArgs,
    parse_mutant,
    running_kubelet::{RunningKubeletArgs, run_suite},
    suite_run::{StartTime, SuiteRun, SuiteRunner},
    until_interrupted,
};
use crate::{
    engine::Suite,
    mutation::Mutant,
    targets::{Embedded, Kubelet, RealKubelet, UrlTarget},
};

/// The options of `kubelet`.
#[derive(Clone, Debug, Default, Args)]
pub struct KubeletArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    verdict: RunArgs,

    /// Inject the defect of this mutant into the embedded target (see `checkpoint-conformance mutants`)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kubelet_url", "kubelet_binary"])]
    #[arg(value_parser = |name: &str| parse_mutant(Suite::Kubelet, name))]
    mutant: Option<&'static str>,

    #[command(flatten)]
    running: RunningKubeletArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    started: StartedKubeletArgs,
}

/// The options for a kubelet that is started here.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "A kubelet started here")]
struct StartedKubeletArgs {
    /// Start this kubelet binary without a cluster and test it; needs root
    #[arg(long, value_name = "PATH", conflicts_with = "kubelet_url")]
    kubelet_binary: Option<PathBuf>,
    /// An additional argument for that kubelet; can be repeated
    #[arg(long, value_name = "ARG", requires = "kubelet_binary", allow_hyphen_values = true)]
    kubelet_arg: Vec<OsString>,
    /// The runtime of that kubelet, unix:///PATH [default: a fake-cri that is started for it]
    #[arg(long, value_name = "ENDPOINT", requires = "kubelet_binary")]
    runtime_endpoint: Option<String>,
}

impl KubeletArgs {
    /// Runs the suite, prints and writes the reports, and returns the exit code.
    pub(super) fn run(self, args: &[OsString]) -> Result<u8, Failure> {
        self.check_options()?;
        let run = SuiteRunner::new(&self.selection, &self.verdict, args)?;
        let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
        let suite_runs = runtime.block_on(self.run_targets(&run))?;
        let reports: Vec<_> = suite_runs
            .into_iter()
            .map(|suite_runs| run.report(suite_runs))
            .collect();
        run.finish(&reports)
    }

    /// Rejects options of another kind of target, which clap cannot express.
    fn check_options(&self) -> Result<(), Failure> {
        if self.cluster.is_requested() {
            return Ok(());
        }
        if self.running.kubelet_url.is_none() {
            for (is_set, option) in [
                (
                    self.running.client_cert.is_some() || self.running.token_file.is_some(),
                    "--client-cert and --token-file",
                ),
                (
                    self.running.ca.is_some() || self.running.insecure,
                    "--ca and --insecure",
                ),
                (self.running.container.is_some(), "--container"),
                (self.running.checkpoints_dir.is_some(), "--checkpoints-dir"),
                (self.running.include_siblings, "--include-siblings"),
                (self.running.include_load, "--include-load"),
                (
                    self.running.denied_token_file.is_some() || self.running.denied_client_cert.is_some(),
                    "--denied-token-file and --denied-client-cert",
                ),
                (
                    self.running.fake_cri_control.is_some() && self.started.runtime_endpoint.is_none(),
                    "--fake-cri-control",
                ),
            ] {
                if is_set {
                    return Err(Failure::Usage(format!(
                        "{option} requires --kubelet-url or --kubeconfig"
                    )));
                }
            }
        } else if self.running.ca.is_none() && !self.running.insecure {
            return Err(Failure::Usage("--kubelet-url needs --ca FILE or --insecure".to_owned()));
        }
        Ok(())
    }

    /// Tests one target, or the nodes of a cluster.
    async fn run_targets(&self, run: &SuiteRunner<'_>) -> Result<Vec<SuiteRun>, Failure> {
        if self.cluster.is_requested() {
            return self.cluster.run_nodes(run, &self.running).await;
        }
        let start_time = StartTime::now();
        let kubelet = until_interrupted(self.target()).await??;
        Ok(vec![run_suite(run, start_time, kubelet).await?])
    }

    async fn target(&self) -> Result<Kubelet, Failure> {
        if let Some(binary) = &self.started.kubelet_binary {
            let target = RealKubelet {
                binary: binary.clone(),
                extra_args: self.started.kubelet_arg.clone(),
                runtime_endpoint: self.started.runtime_endpoint.clone(),
                control_socket: self.running.fake_cri_control.clone(),
                log_dir: self.verdict.report_dir().map(Path::to_owned),
                executable: None,
            };
            return Ok(target.start().await.map_err(anyhow::Error::from)?);
        }
        let Some(url) = &self.running.kubelet_url else {
            let embedded = Embedded {
                defect: self
                    .mutant
                    .and_then(|name| Mutant::by_name(Suite::Kubelet, name))
                    .and_then(Mutant::embedded_defect),
                ..Embedded::default()
            };
            return Ok(embedded.start().await.map_err(anyhow::Error::from)?);
        };
        let credential = self.running.credential();
        let container = self.running.container.clone();
        let target = UrlTarget {
            url: url.clone(),
            credential: credential.ok_or_else(|| Failure::Usage("--client-key is missing".to_owned()))?,
            ca_file: self.running.ca.clone(),
            running: self
                .running
                .kubelet(container.ok_or_else(|| Failure::Usage("--container is missing".to_owned()))?),
        };
        Ok(target.connect().await.map_err(anyhow::Error::from)?)
    }
}
