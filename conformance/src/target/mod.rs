//! How to reach, start and steer what is judged. Targets know no case.
//!
//! ```text
//!  embedded   fake-cri and the reference kubelet, started here in a temporary folder
//!  real       an unmodified kubelet, started here over fake-cri or another runtime
//!  url        a kubelet that runs already
//!  cluster    the kubelets of a cluster, by its kubeconfig
//!      \
//!       Kubelet --- Client      HTTPS with good, wrong or no credentials
//!               --- Workload    canary and ticks, read from the container's log
//!               --- Evidence    the archive, where its folder can be read from here
//!               --- Faults      rules and journal, where the runtime is a fake-cri
//!               --- Steering    restart with one thing changed, where it was started here
//! ```
//!
//! What a target cannot do is `None`; the cases that need it are skipped with that reason.

mod api_server;
mod clean;
mod client;
mod cluster;
mod embedded;
mod evidence;
mod faults;
mod folder;
mod footprint;
mod freeze;
mod kubelet;
mod people;
mod pki;
mod pod;
pub mod policy;
mod product;
mod real_kubelet;
pub mod runtime;
mod thaw;
mod url;
mod workload;

pub use api_server::{ApiServer, Right, Rights};
pub use clean::clean;
pub use client::{Access, Answer, Client, Credentials, Identity, Others, Protocol, Trust};
pub use cluster::{Cluster, Made, NodeAddress, NodeTarget, PodSource, Way};
pub use embedded::{Defect, Embedded};
pub use evidence::Evidence;
pub use faults::{Call, Faults};
pub use kubelet::{ContainerRef, Kubelet, Neighbours, SHORT_DEADLINE, Steering, Variation};
pub use pki::{Authority, Pair};
pub use real_kubelet::RealKubelet;
pub use url::{Credential, UrlTarget};
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
    #[error("no answer from {url}: {}", causes(source))]
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

fn causes(error: &reqwest::Error) -> String {
    // The outermost message only repeats the URL; the causes say what happened.
    let mut error: &dyn std::error::Error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
