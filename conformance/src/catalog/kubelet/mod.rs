//! The cases about a kubelet's checkpoint endpoint, one file a topic.
//!
//! What stands in the Kubelet Checkpoint API page is `documented`; what the Kubernetes kubelet does beyond it is
//! `reference`; what it does not and should is `robust`.

mod archive_file;
mod auth;
mod copy;
mod gate;
mod not_found;
mod robust;
mod runtime_error;
mod session;
mod shape;
mod success;
mod timeout;

use crate::{case::Case, target::ContainerRef};

pub use session::Session;

/// The page's text about the archive.
const PAGE: &str = "Kubelet Checkpoint API: Operations";
/// The page's list of response codes.
const RESPONSE: &str = "Kubelet Checkpoint API: Response";
/// The page's parameter `timeout`.
const PARAMETERS: &str = "Kubelet Checkpoint API: Parameters";
/// The page's text about who may read an archive.
const ACCESS: &str = "Kubelet Checkpoint API: introduction (security implications)";
/// The kubelet's HTTP server.
const SERVER: &str = "kubernetes: pkg/kubelet/server/server.go";
/// The kubelet's authentication and authorisation of its server.
const AUTH: &str = "kubernetes: pkg/kubelet/server/auth.go";
/// The kubelet itself.
const KUBELET: &str = "kubernetes: pkg/kubelet/kubelet.go";
/// The kubelet's CRI client.
const CRI_CLIENT: &str = "kubernetes: cri-client/pkg/remote_runtime.go";

/// Every case, in the order in which they run: what many build on comes first.
pub fn cases() -> Vec<Case<Session>> {
    [
        success::CASES,
        copy::CASES,
        archive_file::CASES,
        success::FURTHER,
        auth::CASES,
        not_found::CASES,
        shape::CASES,
        timeout::CASES,
        runtime_error::CASES,
        robust::CASES,
        archive_file::FURTHER,
        // Last: it restarts the kubelet.
        gate::CASES,
    ]
    .concat()
}

/// A fault rule for the checkpoints of this container: what happens at this phase of them.
fn rule(container: &ContainerRef, phase: &str, effect: &str) -> String {
    let ContainerRef {
        namespace,
        pod,
        container,
    } = container;
    format!("CheckpointContainer(namespace={namespace},pod={pod},container={container}):{phase}={effect}")
}
