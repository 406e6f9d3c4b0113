//! Connects to, starts and controls the systems under test. Targets do not depend on the cases.
//!
//! ```text
//!  embedded   fake-cri and the reference kubelet, started by the harness in a temporary directory
//!  real       an unmodified kubelet, started by the harness with fake-cri or another runtime
//!  url        a running kubelet
//!  cluster    the kubelets of a cluster, from its kubeconfig
//!      \
//!       Kubelet --- Client          HTTPS with valid, invalid or no credentials
//!               --- Workload        canary and heartbeats, parsed from the container's log
//!               --- FileSnapshot    the archive, if its directory is readable locally
//!               --- FakeCriControl  fault rules and journal, if the runtime is a fake-cri
//!               --- Lifecycle       restart with another configuration, if the harness started the kubelet
//! ```
//!
//! A capability that a target does not have is `None`, and not in the set that `capabilities()` returns. [`TargetKind`]
//! has the capabilities of each kind of target.

mod api_server;
mod client;
mod cluster;
mod embedded;
mod fake_cri_control;
mod file_snapshot;
mod footprint;
mod freeze;
mod identities;
mod kind;
mod kubelet;
mod kubelet_version;
mod pod;
pub mod policy;
mod real_kubelet;
mod run_dir;
pub mod runtime;
mod stale_runs;
mod time_zone;
mod unfreeze;
mod url;
mod workload;

pub use api_server::{AccessRules, ApiServer, Permission};
pub use client::{
    Client, Credentials, ExtraIdentities, HttpResponse, HttpsEndpoint, Identity, InvalidCertificate, Protocol,
    RawRequest, RequestLog, SentRequest, ServerVerification, TokenAlteration,
};
pub use cluster::{Cluster, KubeletRoute, NodeAddress, NodeTarget, PodSource, SelectedContainer};
pub use embedded::{Defect, Embedded};
pub use fake_cri_control::{FakeCriControl, JournaledCheckpoint};
pub use file_snapshot::FileSnapshot;
pub use kind::{Offer, TargetKind};
pub use kubelet::{
    ContainerRef, Kubelet, KubeletConfig, Lifecycle, NamesakePods, SHORT_REQUEST_TIMEOUT, SiblingContainers,
};
pub use real_kubelet::RealKubelet;
pub use stale_runs::remove_stale_runs;
pub use time_zone::afternoon_offset;
pub use url::{CredentialFiles, RunningKubelet, UrlTarget};
pub use workload::{Workload, parse as parse_log};

use std::path::PathBuf;

/// The target cannot be reached, started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A certificate cannot be created or parsed.
    #[error("failed to create a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The HTTP client cannot be built.
    #[error("failed to build the HTTP client: {0}")]
    Client(reqwest::Error),
    /// The kubelet did not respond.
    #[error("no response from {url}: {}", root_cause(source))]
    NoAnswer {
        /// The URL of the request.
        url: String,
        /// The HTTP client's error.
        source: reqwest::Error,
    },
    /// fake-cri's control API is unreachable or returned an error.
    #[error("fake-cri's control API: {0}")]
    Control(String),
    /// A CRI call failed.
    #[error("{call}: {code:?}: {message}")]
    Runtime {
        /// The name of the call.
        call: &'static str,
        /// The gRPC code.
        code: tonic::Code,
        /// The runtime's message, or the transport error.
        message: String,
    },
    /// The target did not reach the expected state in time.
    #[error("{0}")]
    NotReady(String),
    /// An argument is invalid.
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
    // The outermost message only repeats the URL. The innermost cause says what happened.
    anyhow::Chain::new(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}
