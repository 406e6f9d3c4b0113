//! A running kubelet that can be restarted with another configuration, or stopped.

use std::{
    ffi::OsString,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use fake_cri::FakeCri;
use futures_util::future::BoxFuture;
use jiff::tz::Offset;
use tokio::sync::Mutex;

use super::{
    super::{Client, ContainerRef, KubeletConfig, Lifecycle, ServerVerification, TargetError, embedded},
    STARTUP_TIMEOUT,
    config_file::{KubeletConfigFile, KubeletVersion, Ports},
    host_state::HostState,
    pod_removal,
    process::KubeletProcess,
};
use crate::targets::{
    ApiServer,
    identities::TestIdentities,
    pod::{self, PodReadiness},
    run_dir::RunDir,
    time_zone,
};

/// The running processes. Dropped in the order of the fields.
pub(super) struct RealLifecycle {
    pub(super) binary: PathBuf,
    pub(super) extra_args: Vec<OsString>,
    pub(super) log: PathBuf,
    pub(super) version: KubeletVersion,
    pub(super) node: String,
    pub(super) endpoint: String,
    pub(super) container: ContainerRef,
    /// The CA of the kubelet's certificate (PEM).
    pub(super) ca_certificate: String,
    pub(super) identities: TestIdentities,
    pub(super) kubelet: Mutex<Option<KubeletProcess>>,
    pub(super) cri: Mutex<Option<FakeCri>>,
    pub(super) host_state: Mutex<Option<HostState>>,
    /// Stops when dropped.
    pub(super) _api_server: ApiServer,
    pub(super) run_dir: RunDir,
}

impl RealLifecycle {
    /// Starts the kubelet and waits until it serves. Tries again with other ports if the kubelet exits: another program
    /// may have taken a port in the meantime.
    async fn start(&self, kubelet_config: KubeletConfig) -> Result<(KubeletProcess, Client), TargetError> {
        let mut last_log = None;
        for _ in 0..3 {
            let ports = free_ports()?;
            let configuration = KubeletConfigFile {
                run_dir: self.run_dir.path(),
                ports,
                endpoint: &self.endpoint,
                kubelet_config,
            };
            self.run_dir
                .write("kubelet.yaml", &configuration.render(self.version)?)?;
            let mut args: Vec<OsString> = vec![
                format!("--config={}", self.run_dir.path_of("kubelet.yaml").display()).into(),
                format!("--kubeconfig={}", self.run_dir.path_of("kubeconfig").display()).into(),
                format!("--root-dir={}", self.run_dir.path_of("kubelet").display()).into(),
                format!("--cert-dir={}", self.run_dir.path_of("pki").display()).into(),
                format!("--hostname-override={}", self.node).into(),
                "--v=2".into(),
            ];
            args.extend(self.extra_args.iter().cloned());
            let mut environment = vec![("TMPDIR", self.run_dir.path_of("tmp"))];
            if let KubeletConfig::TimeZone(seconds) = kubelet_config {
                environment.push(("TZ", self.write_time_zone(seconds)?));
            }
            let mut process = KubeletProcess::start(&self.binary, &args, &environment, &self.log)?;
            let client = self.client(ports)?;
            tokio::select! {
                served = wait_until_serving(&client) => served?,
                exited = process.wait_for_exit() => {
                    last_log = Some(exited);
                    continue;
                }
            }
            return Ok((process, client));
        }
        let log_tail = last_log.unwrap_or_default();
        Err(TargetError::NotReady(format!(
            "the kubelet exited right after its start: {log_tail}"
        )))
    }

    /// Writes the time zone with this offset from UTC. Returns the path for `TZ`.
    fn write_time_zone(&self, seconds: i32) -> Result<PathBuf, TargetError> {
        let path = self.run_dir.path_of("time-zone");
        let offset = Offset::from_seconds(seconds).unwrap_or(Offset::UTC);
        std::fs::write(&path, time_zone::tzfile(offset)).map_err(TargetError::file(&path))?;
        Ok(path)
    }

    fn client(&self, ports: Ports) -> Result<Client, TargetError> {
        let base = format!("https://127.0.0.1:{}/", ports.secure);
        let read_only = format!("http://127.0.0.1:{}/", ports.read_only);
        let verification = ServerVerification::CaBundle(self.ca_certificate.clone());
        Ok(Client::new(self.identities.endpoint(
            &base,
            verification,
            Some(read_only),
        )?))
    }
}

impl Lifecycle for RealLifecycle {
    fn restart(&self, kubelet_config: KubeletConfig) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut current = self.kubelet.lock().await;
            let started_at = Instant::now();
            if let Some(process) = current.take() {
                process.stop().await;
            }
            let stopped = started_at.elapsed();
            let (process, client) = self.start(kubelet_config).await?;
            let serving = started_at.elapsed();
            let process = current.insert(process);
            if kubelet_config.serves_endpoint() {
                tokio::select! {
                    up = pod::wait_until_running(&client, &self.container, PodReadiness::ContainerUnderTest, STARTUP_TIMEOUT) => up?,
                    exited = process.wait_for_exit() => {
                        return Err(TargetError::NotReady(format!("the kubelet exited: {exited}")));
                    }
                }
            }
            tracing::info!(?kubelet_config, ?stopped, ?serving, up = ?started_at.elapsed(), "restarted the kubelet");
            Ok(client)
        })
    }

    fn owns_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.cri.lock().await.is_some() })
    }

    fn kill_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(embedded::kill_fake_cri(&self.cri))
    }

    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(embedded::restart_fake_cri(&self.cri))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            if let Some(process) = self.kubelet.lock().await.take() {
                process.stop().await;
            }
            let removed = match self.cri.lock().await.take() {
                // `shutdown` removes the containers first.
                Some(cri) => {
                    cri.shutdown().await;
                    Ok(())
                }
                None => pod_removal::remove_pod(&self.endpoint, &self.container).await,
            };
            // Reverts the kubelet's changes even if the removal of the Pod failed.
            if let Some(host_state) = self.host_state.lock().await.take() {
                host_state.revert()?;
            }
            self.run_dir.remove()?;
            removed
        })
    }
}

async fn wait_until_serving(client: &Client) -> Result<(), TargetError> {
    // The kubelet's API has no event for it.
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    let poll = async {
        loop {
            match client.get("/healthz").await {
                Ok(response) if response.status == 200 => return,
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    };
    let timed_out = |_| {
        TargetError::NotReady(format!(
            "the kubelet does not serve after {} s",
            STARTUP_TIMEOUT.as_secs()
        ))
    };
    tokio::time::timeout(STARTUP_TIMEOUT, poll).await.map_err(timed_out)
}

/// Two free ports: a kubelet cannot choose a port itself.
fn free_ports() -> Result<Ports, TargetError> {
    let refused = |error| TargetError::NotReady(format!("no port is free on 127.0.0.1: {error}"));
    let bind = || TcpListener::bind(("127.0.0.1", 0)).map_err(refused);
    // Both listeners stay open until both ports are known, so that the ports differ.
    let (secure, read_only) = (bind()?, bind()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port()).map_err(refused);
    Ok(Ports {
        secure: port(&secure)?,
        read_only: port(&read_only)?,
    })
}
