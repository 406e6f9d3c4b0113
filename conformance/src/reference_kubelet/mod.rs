//! The reference kubelet: the Kubelet Checkpoint API as documented, over any CRI runtime.
//!
//! ```text
//!  POST /checkpoint/{namespace}/{pod}/{container}
//!        |
//!   tls -> authentication -> authorisation -> route -> handler      responses as of the Kubernetes kubelet
//!                                                         |
//!   static Pods -> pods (sandbox, containers, restarts)   |
//!                    \                                    |
//!                     '----------- CRI ------------------'
//! ```
//!
//! The start fails when an address cannot be bound, a file cannot be used, or the runtime does not respond. Later
//! errors of the runtime become responses (500 with the message of the runtime) or are retried (Pods).

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use cri_proto::runtime::v1::VersionRequest;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Authorization, CertificateFiles, Config};
pub use start_error::StartError;

use authentication::Authentication;
use authorization::Authorizer;
use checkpoint::CheckpointHandler;
use pod_store::PodStore;
use runtime_connection::RuntimeConnection;
use server::Handlers;
use static_pod::Supervisor;

use crate::tls;

pub(crate) mod authentication;
pub(crate) mod authorization;
pub(crate) mod behavior;
mod certificates;
pub(crate) mod checkpoint;
mod config;
mod images;
mod logs;
mod pod_requests;
pub(crate) mod pod_store;
pub(crate) mod responses;
pub(crate) mod route;
pub(crate) mod runtime_connection;
pub(crate) mod server;
mod start_error;
mod static_pod;

pub(crate) use images::LocalImage;
pub(crate) use logs::log_text;
pub(crate) use pod_requests::PodRequests;

/// A reference kubelet. It serves until [`shutdown`](Self::shutdown). When it is dropped instead, it stops serving and
/// its Pods keep running.
#[derive(Debug)]
pub struct ReferenceKubelet {
    address: SocketAddr,
    read_only_address: Option<SocketAddr>,
    certificate: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ReferenceKubelet {
    /// Starts a reference kubelet. When this returns, it accepts connections.
    ///
    /// # Errors
    ///
    /// An address cannot be bound, a file cannot be read or used, or the runtime does not respond.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let cri = Arc::new(RuntimeConnection::new(
            &config.runtime_endpoint,
            config.runtime_request_timeout,
        )?);
        let authentication = Authentication::new(&config)?;
        let server_certificate = certificates::server_certificate(&config)?;
        let tls = tls::server_config(&server_certificate, authentication.client_cas(), config.http2)
            .map_err(|error| StartError::Certificate(error.to_string()))?;
        create_directories(&config)?;
        let message = VersionRequest {
            version: "0.1.0".to_owned(),
        };
        let version = cri
            .call(cri.timeout(), message)
            .await
            .map_err(|error| StartError::Runtime {
                endpoint: config.runtime_endpoint.clone(),
                reason: error.to_string(),
            })?;

        let (listener, address) = listen(SocketAddr::new(config.address, config.port)).await?;
        let read_only = match config.read_only_port {
            Some(port) => Some(listen(SocketAddr::new(config.address, port)).await?),
            None => None,
        };
        let pods = Arc::new(PodStore::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let authorizer = Authorizer::new(&config)?;
        if let Some(path) = config.static_pod_path.clone() {
            let (config, cri, pods) = (Arc::clone(&config), Arc::clone(&cri), Arc::clone(&pods));
            let supervisor = Supervisor::new(config, cri, pods, path, version.runtime_name, tasks.clone());
            tasks.spawn(supervisor.run(stop.clone()));
        }
        let handlers = Arc::new(Handlers {
            authorizer,
            checkpoints: CheckpointHandler::new(Arc::clone(&config), Arc::clone(&cri), Arc::clone(&pods)),
            authentication,
            cri,
            pods,
            config,
        });
        let tls = Some(TlsAcceptor::from(Arc::new(tls)));
        tasks.spawn(server::serve(listener, tls, Arc::clone(&handlers), stop.clone()));
        let mut read_only_address = None;
        if let Some((listener, address)) = read_only {
            read_only_address = Some(address);
            tasks.spawn(server::serve(listener, None, handlers, stop.clone()));
        }
        tasks.close();
        Ok(Self {
            address,
            read_only_address,
            certificate: server_certificate.certificate,
            stop,
            tasks,
        })
    }

    /// Returns the address of the HTTPS port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the read-only port, if it is enabled.
    #[must_use]
    pub fn read_only_address(&self) -> Option<SocketAddr> {
        self.read_only_address
    }

    /// Returns the certificate of the server (PEM), which clients must trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Stops serving, removes the Pods if the configuration says so, and waits until all tasks have ended.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for ReferenceKubelet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

/// Creates the directories; `checkpoints` only when the feature gate is on.
fn create_directories(config: &Config) -> Result<(), StartError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { path, source }
    };
    std::fs::create_dir_all(&config.root_dir).map_err(file_error(&config.root_dir))?;
    let path = config.checkpoints_dir();
    if config.checkpoint_gate() {
        (config.behavior.create_checkpoints_dir)(&path).map_err(file_error(&path))?;
    }
    Ok(())
}

pub(crate) fn create_checkpoints_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
