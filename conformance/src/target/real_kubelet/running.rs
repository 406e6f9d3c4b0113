//! A kubelet that runs, and can be started again with one thing changed, or ended.

use std::{
    ffi::OsString,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use fake_cri::FakeCri;
use futures_util::future::BoxFuture;
use reqwest::Method;
use tokio::sync::Mutex;

use super::{
    super::{Client, ContainerRef, Credentials, Steering, TargetError, Trust, Variation, embedded},
    UP_WITHIN,
    configuration::{Configuration, Ports, Version},
    outside::Outside,
    process::Process,
    removal,
};
use crate::target::{
    ApiServer,
    folder::Folder,
    people::People,
    pod::{self, Wanted},
};

/// What runs, and can be started again or ended. Dropped, it ends in the order of its fields.
pub(super) struct Running {
    pub(super) binary: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) log: PathBuf,
    pub(super) version: Version,
    pub(super) node: String,
    pub(super) endpoint: String,
    pub(super) subject: ContainerRef,
    /// The authority of its certificate (PEM).
    pub(super) authority: String,
    pub(super) people: People,
    pub(super) kubelet: Mutex<Option<Process>>,
    pub(super) cri: Mutex<Option<FakeCri>>,
    pub(super) outside: Mutex<Option<Outside>>,
    /// Serves until it is dropped.
    pub(super) _api_server: ApiServer,
    pub(super) folder: Folder,
}

impl Running {
    /// Starts the kubelet and waits until it serves. A port that another program took meanwhile is tried again.
    async fn start(&self, variation: Variation) -> Result<(Process, Client), TargetError> {
        let mut last = None;
        for _ in 0..3 {
            let ports = free_ports()?;
            let configuration = Configuration {
                folder: self.folder.path(),
                ports,
                endpoint: &self.endpoint,
                variation,
            };
            self.folder
                .write("kubelet.yaml", &configuration.render(self.version)?)?;
            let mut args: Vec<OsString> = vec![
                format!("--config={}", self.folder.at("kubelet.yaml").display()).into(),
                format!("--kubeconfig={}", self.folder.at("kubeconfig").display()).into(),
                format!("--root-dir={}", self.folder.at("kubelet").display()).into(),
                format!("--cert-dir={}", self.folder.at("pki").display()).into(),
                format!("--hostname-override={}", self.node).into(),
                "--v=2".into(),
            ];
            args.extend(self.args.iter().cloned());
            let mut process = Process::start(&self.binary, &args, &self.folder.at("tmp"), &self.log)?;
            let client = self.client(ports)?;
            tokio::select! {
                served = serves(&client) => served?,
                ended = process.ended() => {
                    last = Some(ended);
                    continue;
                }
            }
            return Ok((process, client));
        }
        let words = last.unwrap_or_default();
        Err(TargetError::NotReady(format!(
            "the kubelet ended as soon as it was started: {words}"
        )))
    }

    fn client(&self, ports: Ports) -> Result<Client, TargetError> {
        let base = format!("https://127.0.0.1:{}/", ports.secure);
        let read_only = format!("http://127.0.0.1:{}/", ports.read_only);
        let trust = Trust::Authorities(self.authority.clone());
        Ok(Client::new(self.people.access(&base, trust, Some(read_only))?))
    }
}

impl Steering for Running {
    fn restart(&self, variation: Variation) -> BoxFuture<'_, Result<Client, TargetError>> {
        Box::pin(async move {
            let mut running = self.kubelet.lock().await;
            let began = Instant::now();
            if let Some(process) = running.take() {
                process.stop().await;
            }
            let stopped = began.elapsed();
            let (process, client) = self.start(variation).await?;
            let serving = began.elapsed();
            let process = running.insert(process);
            if variation.serves() {
                tokio::select! {
                    up = pod::wait_until_up(&client, &self.subject, Wanted::Subject, UP_WITHIN) => up?,
                    ended = process.ended() => {
                        return Err(TargetError::NotReady(format!("the kubelet ended: {ended}")));
                    }
                }
            }
            tracing::info!(?variation, ?stopped, ?serving, up = ?began.elapsed(), "restarted the kubelet");
            Ok(client)
        })
    }

    fn kill_runtime(&self) -> BoxFuture<'_, bool> {
        Box::pin(embedded::kill(&self.cri))
    }

    fn restart_runtime(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(embedded::restart(&self.cri))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            if let Some(process) = self.kubelet.lock().await.take() {
                process.stop().await;
            }
            let removed = match self.cri.lock().await.take() {
                // It removes its containers, then ends.
                Some(cri) => {
                    cri.shutdown().await;
                    Ok(())
                }
                None => removal::remove(&self.endpoint, &self.subject).await,
            };
            // What the kubelet left is put back also when the runtime did not do its part.
            if let Some(outside) = self.outside.lock().await.take() {
                outside.put_back()?;
            }
            self.folder.remove()?;
            removed
        })
    }
}

/// Waits until the kubelet answers as one that is well.
async fn serves(client: &Client) -> Result<(), TargetError> {
    // It has no event for it.
    const POLL: Duration = Duration::from_millis(50);
    let asked = async {
        loop {
            match client
                .send(Credentials::Good, Method::GET, client.url("/healthz"))
                .await
            {
                Ok(answer) if answer.status == 200 => return,
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    let late = |_| TargetError::NotReady(format!("the kubelet does not serve after {} s", UP_WITHIN.as_secs()));
    tokio::time::timeout(UP_WITHIN, asked).await.map_err(late)
}

/// Two ports that are free now: a kubelet takes none by itself.
fn free_ports() -> Result<Ports, TargetError> {
    let refused = |error| TargetError::NotReady(format!("no port is free on 127.0.0.1: {error}"));
    let bind = || TcpListener::bind(("127.0.0.1", 0)).map_err(refused);
    // Both are held until both are known, so that they differ.
    let (one, two) = (bind()?, bind()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port()).map_err(refused);
    Ok(Ports {
        secure: port(&one)?,
        read_only: port(&two)?,
    })
}
