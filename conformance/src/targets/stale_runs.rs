//! Cleans up after killed runs on this machine.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX    whose lock is free
//!    host-state.json                   what a real kubelet changed on the machine: reverted
//!    pod.json                          the Pod that the kubelet ran in another runtime: removed
//!    ..                                mounts, sockets, archives: removed with the directory
//! ```
//!
//! Processes need no cleanup: fake-cri and kubelets exit with the harness, when their lifeline pipe closes. Objects in
//! a container runtime are found by their label: [`super::runtime::clean`].

use std::path::PathBuf;

use super::{TargetError, real_kubelet, run_dir};

/// Reverts and removes the directories of killed runs. Returns the removed directories, and the errors.
pub async fn remove_stale_runs() -> (Vec<PathBuf>, Vec<TargetError>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for stale in run_dir::stale_run_dirs(&std::env::temp_dir()) {
        // A directory stays for the next attempt if its changes cannot be reverted.
        let reverted = match real_kubelet::revert_stale(&stale.path).await {
            Ok(()) => stale.remove(),
            Err(error) => Err(error),
        };
        match reverted {
            Ok(path) => removed.push(path),
            Err(error) => failures.push(error),
        }
    }
    (removed, failures)
}
