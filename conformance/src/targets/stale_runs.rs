//! Removes what harnesses that were killed have left on this machine.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX    whose lock nobody holds
//!    outside.json                      what a real kubelet changed on the machine: put back
//!    pod.json                          the Pod that it ran in another runtime: removed
//!    ..                                mounts, sockets, archives: gone with the directory
//! ```
//!
//! Processes need no cleaning: fake-cri and kubelets end with the harness, by the pipe that they hold. What is left in a
//! container runtime is found by its label: [`super::runtime::clean`].

use std::path::PathBuf;

use super::{TargetError, real_kubelet, run_dir};

/// Removes the temporary directories of runs that are no more, and what they tell of. Returns them, and what could not be
/// done.
pub async fn remove_stale_runs() -> (Vec<PathBuf>, Vec<TargetError>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for stale in run_dir::stale_run_dirs(&std::env::temp_dir()) {
        // A directory that tells of something that is not put back yet is kept for the next try.
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
