//! The error type of the start.

use std::path::PathBuf;

/// Why a reference kubelet did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory could not be read, created or changed.
    #[error("failed to access {}: {source}", path.display())]
    File {
        /// The path of the file or directory.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The address could not be bound.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The content of a file is invalid.
    #[error("invalid file {}: {reason}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The certificate of the server could not be generated or used.
    #[error("failed to set up the server certificate: {0}")]
    Certificate(String),
    /// The endpoint of the runtime is invalid, or the runtime does not respond.
    #[error("failed to connect to the runtime at {endpoint}: {reason}")]
    Runtime {
        /// The endpoint.
        endpoint: String,
        /// The reason.
        reason: String,
    },
}
