//! The subcommand `kubelet`, which is the default.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use reqwest::Url;

use super::{
    Failure, RunArgs, SelectionArgs,
    cluster::ClusterArgs,
    parse_mutant,
    suite_run::{StartTime, SuiteRun, SuiteRunner},
    until_interrupted,
};
use crate::{
    engine::{Capability, Suite},
    mutation::Mutant,
    report::Footprint,
    suites::kubelet::{KubeletSession, cases},
    targets::{ContainerRef, CredentialFiles, Embedded, Kubelet, RealKubelet, RunningKubelet, UrlTarget},
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

/// The options for a running kubelet.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "A running kubelet")]
pub(super) struct RunningKubeletArgs {
    /// Test the running kubelet at this URL: https://HOST:PORT
    #[arg(long, value_name = "URL", requires = "container", requires = "credential")]
    pub(super) kubelet_url: Option<Url>,
    /// The client certificate (PEM)
    #[arg(long, value_name = "FILE", group = "credential", requires = "client_key")]
    pub(super) client_cert: Option<PathBuf>,
    /// The key (PEM) of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(super) client_key: Option<PathBuf>,
    /// A file with the bearer token
    #[arg(long, value_name = "FILE", group = "credential")]
    pub(super) token_file: Option<PathBuf>,
    /// The CA certificates (PEM) that verify the kubelet's serving certificate
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca: Option<PathBuf>,
    /// Do not verify the kubelet's serving certificate
    #[arg(long)]
    pub(super) insecure: bool,
    /// The container to checkpoint: NAMESPACE/POD/CONTAINER
    #[arg(long, value_name = "NS/POD/NAME", value_parser = parse_container)]
    pub(super) container: Option<ContainerRef>,
    /// Also checkpoint the other containers of that Pod [default: only the named container]
    #[arg(long)]
    pub(super) include_siblings: bool,
    /// Run the load cases, with 32 concurrent checkpoints
    #[arg(long)]
    pub(super) include_load: bool,
    /// A file with the bearer token of an authenticated user without permission to checkpoint, to test 403
    #[arg(long, value_name = "FILE", conflicts_with = "denied_client_cert")]
    pub(super) denied_token_file: Option<PathBuf>,
    /// The client certificate (PEM) of an authenticated user without permission to checkpoint, to test 403
    #[arg(long, value_name = "FILE", requires = "denied_client_key")]
    pub(super) denied_client_cert: Option<PathBuf>,
    /// The key (PEM) of --denied-client-cert
    #[arg(long, value_name = "FILE", requires = "denied_client_cert")]
    pub(super) denied_client_key: Option<PathBuf>,
    /// The path of the kubelet's `checkpoints` directory on this machine
    #[arg(long, value_name = "DIR")]
    pub(super) checkpoints_dir: Option<PathBuf>,
    /// The control socket of fake-cri, when it is the kubelet's runtime
    #[arg(long, value_name = "SOCKET")]
    pub(super) fake_cri_control: Option<PathBuf>,
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

fn parse_container(text: &str) -> Result<ContainerRef, String> {
    let parts: Vec<_> = text.split('/').collect();
    match parts[..] {
        [namespace, pod, container] if parts.iter().all(|part| !part.is_empty()) => Ok(ContainerRef {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        }),
        _ => Err("expected NAMESPACE/POD/CONTAINER".to_owned()),
    }
}

impl RunningKubeletArgs {
    fn credential(&self) -> Option<CredentialFiles> {
        credential(&self.client_cert, &self.client_key, &self.token_file)
    }

    /// Returns the options that do not depend on how the kubelet is reached.
    pub(super) fn kubelet(&self, container: ContainerRef) -> RunningKubelet {
        RunningKubelet {
            denied_credential: credential(
                &self.denied_client_cert,
                &self.denied_client_key,
                &self.denied_token_file,
            ),
            container,
            include_siblings: self.include_siblings,
            allow_load: self.include_load,
            checkpoints_dir: self.checkpoints_dir.clone(),
            control_socket: self.fake_cri_control.clone(),
        }
    }
}

fn credential(
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
    token_file: &Option<PathBuf>,
) -> Option<CredentialFiles> {
    if let (Some(certificate), Some(key)) = (certificate, key) {
        let (certificate, key) = (certificate.clone(), key.clone());
        return Some(CredentialFiles::Certificate { certificate, key });
    }
    token_file.clone().map(CredentialFiles::Token)
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

/// Runs the suite on a kubelet. Stops the target and removes the archives even when the run fails.
///
/// # Errors
/// The run is interrupted, the disk of the node is too small, or the target cannot be stopped.
pub(super) async fn run_suite(
    run: &SuiteRunner<'_>,
    start_time: StartTime,
    kubelet: Kubelet,
) -> Result<SuiteRun, Failure> {
    let session = KubeletSession::new(kubelet);
    let footprint = footprint(run, &session.kubelet).await;
    if !footprint.fits() {
        let (_, shutdown) = shut_down(&session.kubelet).await;
        shutdown?;
        return Err(Failure::Harness(anyhow::anyhow!(
            "not enough disk space on the node: the run {}; select fewer cases with --filter, or checkpoint a smaller container",
            footprint.summary()
        )));
    }
    eprintln!("checkpoint-conformance: the run {}", footprint.summary());
    let records = until_interrupted(run.run_cases(cases(), &session)).await;
    // Stop the target and remove the archives in every case.
    let (remaining_archives, shutdown) = shut_down(&session.kubelet).await;
    let records = match records {
        Ok(records) => records,
        Err(failure) => {
            report_left_archives(&remaining_archives);
            return Err(failure);
        }
    };
    shutdown?;
    Ok(SuiteRun {
        target: session.kubelet.target_info.clone(),
        start_time,
        records,
        secrets: session.kubelet.secrets().await,
        remaining_archives,
        footprint: Some(footprint),
    })
}

/// Returns the footprint of the selected cases.
async fn footprint(run: &SuiteRunner<'_>, kubelet: &Kubelet) -> Footprint {
    let selected: Vec<_> = cases().into_iter().filter(|case| run.selects(&case.info)).collect();
    let archives = selected
        .iter()
        .filter(|case| kubelet.allow_load || !case.info.requires.contains(&Capability::Load))
        .map(|case| u64::from(case.plan.max_archives));
    // Most cases share the first checkpoint, which the first of them creates.
    let first = u64::from(!selected.is_empty());
    kubelet.footprint(first + archives.sum::<u64>()).await
}

async fn shut_down(kubelet: &Kubelet) -> (Vec<String>, Result<(), Failure>) {
    kubelet.unfreeze_all().await;
    for note in kubelet.unfreeze_notes() {
        eprintln!("checkpoint-conformance: {note}");
    }
    let left_archives = kubelet.remove_archives();
    match &kubelet.lifecycle {
        // The archives are in the run directory, which the shutdown removes.
        Some(lifecycle) => match lifecycle.shutdown().await {
            Ok(()) => (Vec::new(), Ok(())),
            Err(error) => (left_archives, Err(Failure::Harness(error.into()))),
        },
        None => (left_archives, Ok(())),
    }
}

fn report_left_archives(archives: &[String]) {
    if !archives.is_empty() {
        eprintln!("archives that were not removed; they contain the memory of a container:");
        for path in archives {
            eprintln!("  {path}");
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("default/web/app", true)]
    #[case("default/web", false)]
    #[case("default//app", false)]
    #[case("a/b/c/d", false)]
    fn parses_container_references(#[case] text: &str, #[case] holds: bool) {
        assert_eq!(parse_container(text).is_ok(), holds);
    }
}
