//! The reference kubelet as a program. Flags that the kubelet has too have the same names and meanings.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use checkpoint_conformance::{
    engine::Suite,
    mutation::{Defect, MUTANTS, Mutant},
    reference_kubelet::{Authorization, CertificateFiles, Config, ReferenceKubelet},
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Serves the Kubelet Checkpoint API for any CRI runtime and runs static Pods, without a cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// The directory for checkpoints and logs.
    #[arg(long, default_value = "/var/lib/reference-kubelet")]
    root_dir: PathBuf,
    /// The node name, which is appended to the name of each static Pod [default: the host name].
    #[arg(long, alias = "node-name")]
    hostname_override: Option<String>,
    /// The endpoint of the runtime, unix:///PATH.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    /// The timeout of CRI calls; the timeout of a checkpoint request can only be longer.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    runtime_request_timeout: Duration,
    /// A directory of static Pod manifests, or one manifest.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// The interval for reading the manifests again; 0s reads them once.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    file_check_frequency: Duration,
    /// The directory for the logs of Pods [default: `pod-logs` in the root directory].
    #[arg(long)]
    pod_logs_dir: Option<PathBuf>,
    /// The address to serve on.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The port; 0 selects a free port.
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// The read-only port, without authentication and checkpoints; 0 disables it.
    #[arg(long, default_value_t = 0)]
    read_only_port: u16,
    /// The certificate of the server [default: generated, and written to `pki/kubelet.crt` in the root directory].
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The private key of the server.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The CAs whose client certificates are accepted.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// A file of bearer tokens: lines of `token,user,uid,"group1,group2"`.
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Accept requests without credentials.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    anonymous_auth: bool,
    /// The authorization mode.
    #[arg(long, value_enum, default_value_t = AuthorizationMode::AlwaysAllow)]
    authorization_mode: AuthorizationMode,
    /// The file for `--authorization-mode Rules`: lines of `USER VERB RESOURCE`, such as `alice create
    /// nodes/checkpoint`.
    #[arg(long, required_if_eq("authorization_mode", "Rules"))]
    authorization_rules_file: Option<PathBuf>,
    /// Feature gates, such as `ContainerCheckpoint=false`; other gates are ignored.
    #[arg(long, value_delimiter = ',', value_parser = parse_gate)]
    feature_gates: Vec<(String, bool)>,
    /// Serve the debugging handlers, including the checkpoint route.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    enable_debugging_handlers: bool,
    /// Offer HTTP/2, like kubelets up to 1.35.
    #[arg(long)]
    http2: bool,
    /// Stop and remove the Pods at shutdown [default: the Pods keep running].
    #[arg(long)]
    remove_pods: bool,
    /// Inject the defect of this mutant; `list` prints all mutants.
    #[arg(long)]
    mutant: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AuthorizationMode {
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    #[value(name = "Rules")]
    Rules,
}

fn parse_gate(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=true or NAME=false")?;
    let value = value
        .parse()
        .map_err(|_| format!("expected true or false, found {value:?}"))?;
    Ok((name.to_owned(), value))
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reference-kubelet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(flags: Flags) -> anyhow::Result<()> {
    if flags.mutant.as_deref() == Some("list") {
        let is_kubelet = |mutant: &&Mutant| matches!(mutant.defect, Defect::Kubelet { .. });
        for mutant in MUTANTS.iter().filter(is_kubelet) {
            println!("{:<28} {}", mutant.name, mutant.summary());
        }
        return Ok(());
    }
    let config = flags.config()?;
    let certificate = config
        .server_certificate
        .is_none()
        .then(|| config.root_dir.join("pki/kubelet.crt"));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let kubelet = ReferenceKubelet::start(config)
        .await
        .context("failed to start the reference kubelet")?;
    if let Some(path) = certificate {
        let directory = path.parent().expect("the path ends in pki/kubelet.crt");
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        std::fs::write(&path, kubelet.certificate()).with_context(|| path.display().to_string())?;
    }
    println!("https://{}", kubelet.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    kubelet.shutdown().await;
    Ok(())
}

impl Flags {
    fn config(self) -> anyhow::Result<Config> {
        let host = || {
            let name = nix::unistd::gethostname().context("failed to read the host name")?;
            Ok::<_, anyhow::Error>(name.to_string_lossy().to_lowercase())
        };
        let root_dir = std::path::absolute(&self.root_dir).context("--root-dir")?;
        let mut config = Config::new(root_dir, self.container_runtime_endpoint);
        config.node_name = self.hostname_override.map_or_else(host, Ok)?;
        config.runtime_request_timeout = self.runtime_request_timeout;
        config.static_pod_path = self.pod_manifest_path;
        config.file_check_frequency = self.file_check_frequency;
        if let Some(path) = self.pod_logs_dir {
            config.pod_logs_dir = std::path::absolute(path).context("--pod-logs-dir")?;
        }
        config.address = self.address;
        config.port = self.port;
        config.read_only_port = (self.read_only_port != 0).then_some(self.read_only_port);
        let pair = self.tls_cert_file.zip(self.tls_private_key_file);
        config.server_certificate = pair.map(|(certificate, key)| CertificateFiles { certificate, key });
        config.client_ca_file = self.client_ca_file;
        config.token_auth_file = self.token_auth_file;
        config.anonymous = self.anonymous_auth;
        config.authorization = match (self.authorization_mode, self.authorization_rules_file) {
            (AuthorizationMode::Rules, Some(path)) => Authorization::Rules(path),
            _ => Authorization::AlwaysAllow,
        };
        let checkpoint_gate = self
            .feature_gates
            .iter()
            .rev()
            .find(|(name, _)| name == "ContainerCheckpoint");
        config.container_checkpoint = checkpoint_gate.map(|(_, value)| *value);
        config.debugging_handlers = self.enable_debugging_handlers;
        config.http2 = self.http2;
        config.remove_pods_at_shutdown = self.remove_pods;
        if let Some(name) = self.mutant {
            match Mutant::by_name(Suite::Kubelet, &name).map(|mutant| mutant.defect) {
                Some(Defect::Kubelet { apply, .. }) => apply(&mut config),
                _ => anyhow::bail!("--mutant: unknown mutant `{name}`"),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
        let flags = Flags::parse_from([
            "reference-kubelet",
            "--root-dir=/r",
            "--node-name=n",
            "--feature-gates=A=true,ContainerCheckpoint=false",
            "--mutant=anonymous-accepted",
        ]);
        let config = flags.config().unwrap();
        assert_eq!(config.container_checkpoint, Some(false));
        assert_eq!((config.node_name.as_str(), config.anonymous), ("n", true));
        assert_eq!(config.port, 10250);
    }

    #[test]
    fn refuses_unknown_mutants_and_missing_rules() {
        let parsed = Flags::try_parse_from(["reference-kubelet", "--authorization-mode=Rules"]);
        assert!(parsed.unwrap_err().to_string().contains("--authorization-rules-file"));
        let flags = Flags::parse_from(["reference-kubelet", "--node-name=n", "--mutant=nothing"]);
        assert!(format!("{:#}", flags.config().unwrap_err()).contains("unknown mutant `nothing`"));
    }
}
