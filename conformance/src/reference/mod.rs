//! The reference kubelet: the Kubelet Checkpoint API as documented, over any CRI runtime.
//!
//! ```text
//!  POST /checkpoint/{namespace}/{pod}/{container}
//!        |
//!   tls -> authentication -> authorisation -> route -> handler      answers and texts as the Kubernetes kubelet's
//!                                                         |
//!   static Pods -> pods (sandbox, containers, restarts)   |
//!                    \                                    |
//!                     '----------- CRI ------------------'
//! ```
//!
//! It fails to start when an address, a certificate or the runtime cannot be had; later failures of the runtime
//! are answers (500 with the runtime's message) or are tried again (Pods).

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use cri_proto::runtime::v1::VersionRequest;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Authorization, CertificateFiles, Config};
pub use error::StartError;
pub use mutant::{Mutant, UnknownMutant};

use authentication::Authentication;
use authorization::Authorizer;
use checkpoint::Checkpoints;
use cri::Cri;
use pod::Pods;
use server::{Handlers, Port};
use static_pod::Supervisor;

mod answer;
mod authentication;
mod authorization;
mod checkpoint;
mod config;
mod cri;
mod cri_calls;
mod error;
mod logs;
mod mutant;
mod pod;
mod requests;
mod route;
mod server;
mod static_pod;
mod tls;

pub(crate) use cri_calls::LocalImage;
pub(crate) use logs::text as log_text;
pub(crate) use requests::PodRequests;

/// A reference kubelet that runs until [`shutdown`](Self::shutdown), or until it is dropped: then it stops to serve, and
/// its Pods run on.
#[derive(Debug)]
pub struct ReferenceKubelet {
    address: SocketAddr,
    read_only_address: Option<SocketAddr>,
    certificate: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ReferenceKubelet {
    /// Starts one; when this returns it accepts connections.
    ///
    /// # Errors
    ///
    /// When an address, a file or the runtime cannot be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let cri = Arc::new(Cri::new(&config.runtime_endpoint, config.runtime_request_timeout)?);
        let authentication = Authentication::new(&config)?;
        let tls = tls::server(&config, authentication.roots())?;
        prepare(&config)?;
        let asked = VersionRequest {
            version: "0.1.0".to_owned(),
        };
        let version = cri
            .version(cri.timeout(), asked)
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
        let pods = Arc::new(Pods::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let authorizer = Authorizer::new(&config)?;
        if let Some(path) = config.static_pod_path.clone() {
            let (config, cri, pods) = (Arc::clone(&config), Arc::clone(&cri), Arc::clone(&pods));
            let supervisor = Supervisor::new(config, cri, pods, path, version.runtime_name, tasks.clone());
            tasks.spawn(supervisor.run(stop.clone()));
        }
        let handlers = Arc::new(Handlers {
            authorizer,
            checkpoints: Checkpoints::new(Arc::clone(&config), Arc::clone(&cri), Arc::clone(&pods)),
            authentication,
            cri,
            pods,
            config,
        });
        let secure = Port::Secure(TlsAcceptor::from(tls.config));
        tasks.spawn(server::serve(listener, secure, Arc::clone(&handlers), stop.clone()));
        let mut read_only_address = None;
        if let Some((listener, address)) = read_only {
            read_only_address = Some(address);
            tasks.spawn(server::serve(listener, Port::ReadOnly, handlers, stop.clone()));
        }
        tasks.close();
        Ok(Self {
            address,
            read_only_address,
            certificate: tls.certificate,
            stop,
            tasks,
        })
    }

    /// Where HTTPS is served, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the read-only port is served, when one was asked for.
    #[must_use]
    pub fn read_only_address(&self) -> Option<SocketAddr> {
        self.read_only_address
    }

    /// The server's certificate (PEM), for a client to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Stops to serve, removes the Pods if that was asked for, and returns when all of it is done.
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

/// Makes the folders; `checkpoints` for root alone, and only when checkpoints can be asked for.
fn prepare(config: &Config) -> Result<(), StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { path, source }
    };
    std::fs::create_dir_all(&config.root_dir).map_err(failed(&config.root_dir))?;
    let path = config.checkpoints_dir();
    if config.is(Mutant::FolderEmptiedAtStart) && path.exists() {
        std::fs::remove_dir_all(&path).map_err(failed(&path))?;
    }
    let wanted = config.gate() || config.is(Mutant::GateIgnored) || config.is(Mutant::FolderAlways);
    if wanted && !config.is(Mutant::FolderLate) {
        let mode = if config.is(Mutant::FolderWorldReadable) {
            0o755
        } else {
            0o700
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(failed(&path))?;
        if config.is(Mutant::FolderWorldReadable) {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed(&path))?;
        }
    }
    Ok(())
}
