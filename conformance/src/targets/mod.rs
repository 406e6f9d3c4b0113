//! How to reach, start and steer what is judged. Targets know no case.
//!
//! ```text
//!  embedded   fake-cri and the reference kubelet, started here in a temporary directory
//!  real       an unmodified kubelet, started here over fake-cri or another runtime
//!  url        a kubelet that runs already
//!  cluster    the kubelets of a cluster, by its kubeconfig
//!      \
//!       Kubelet --- Client      HTTPS with good, wrong or no credentials
//!               --- Workload    canary and heartbeats, read from the container's log
//!               --- Evidence    the archive, where its directory can be read from here
//!               --- Faults      rules and journal, where the runtime is a fake-cri
//!               --- Steering    restart with one thing changed, where it was started here
//! ```
//!
//! What a target cannot do is `None`; the cases that need it are skipped with that reason.

mod api_server;
mod client;
mod cluster;
mod embedded;
mod fake_cri_control;
mod file_snapshot;
mod footprint;
mod freeze;
mod identities;
mod kubelet;
mod kubelet_version;
mod pki;
mod pod;
pub mod policy;
mod real_kubelet;
mod run_dir;
pub mod runtime;
mod stale_runs;
mod unfreeze;
mod url;
mod workload;

pub use api_server::{AccessRules, ApiServer, Permission};
pub use client::{
    Client, Credentials, ExtraIdentities, HttpResponse, HttpsEndpoint, Identity, Protocol, ServerVerification,
};
pub use cluster::{Cluster, KubeletRoute, NodeAddress, NodeTarget, PodSource, SelectedContainer};
pub use embedded::{Defect, Embedded};
pub use fake_cri_control::{FakeCriControl, JournaledCheckpoint};
pub use file_snapshot::FileSnapshot;
pub use kubelet::{ContainerRef, Kubelet, KubeletConfig, Lifecycle, SHORT_REQUEST_TIMEOUT, SiblingContainers};
pub use pki::{CertificateAuthority, CertificateKeyPair};
pub use real_kubelet::RealKubelet;
pub use stale_runs::remove_stale_runs;
pub use url::{CredentialFiles, UrlTarget};
pub use workload::{Workload, parse as parse_log};

use std::path::PathBuf;

/// A target that could not be reached, started or steered.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate could not be made or read.
    #[error("failed to make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The HTTP client could not be set up.
    #[error("failed to set up the client: {0}")]
    Client(reqwest::Error),
    /// The kubelet did not answer.
    #[error("no answer from {url}: {}", root_cause(source))]
    NoAnswer {
        /// Which request.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// fake-cri's control API did not answer as it should.
    #[error("fake-cri's control API: {0}")]
    Control(String),
    /// A call of the CRI was refused.
    #[error("{call}: {code:?}: {message}")]
    Runtime {
        /// Which.
        call: &'static str,
        /// The gRPC code.
        code: tonic::Code,
        /// The runtime's message, or why there is no answer.
        message: String,
    },
    /// Something did not come up, or did not come to the state that is waited for.
    #[error("{0}")]
    NotReady(String),
    /// An argument cannot be used.
    #[error("{0}")]
    Argument(String),
}

impl TargetError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TargetError {
        let path = path.into();
        move |source| TargetError::File { path, source }
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    // The outermost message only repeats the URL; the causes say what happened.
    let mut error: &dyn std::error::Error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
