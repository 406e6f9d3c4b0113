//! The options for a running kubelet, and the run of the suite on any kubelet.

use std::path::PathBuf;

use clap::Args;
use reqwest::Url;

use super::{
    Failure,
    suite_run::{StartTime, SuiteRun, SuiteRunner},
    until_interrupted,
};
use crate::{
    engine::Capability,
    report::Footprint,
    suites::kubelet::{KubeletSession, cases},
    targets::{ContainerRef, CredentialFiles, Kubelet, RunningKubelet},
};

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

impl RunningKubeletArgs {
    pub(super) fn credential(&self) -> Option<CredentialFiles> {
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
