//! Why a reference kubelet did not start.

use std::path::PathBuf;

/// Why a reference kubelet did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory cannot be read, made or changed.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The server's certificate cannot be made or used.
    #[error("the server's certificate: {0}")]
    Certificate(String),
    /// The runtime's endpoint cannot be used, or the runtime does not answer.
    #[error("the runtime at {endpoint}: {reason}")]
    Runtime {
        /// The endpoint.
        endpoint: String,
        /// Why.
        reason: String,
    },
}
