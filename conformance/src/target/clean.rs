//! Removes what harnesses that were killed have left on this machine.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXX    whose lock nobody holds
//!    outside.json                      what a real kubelet changed on the machine: put back
//!    pod.json                          the Pod that it ran in another runtime: removed
//!    ..                                mounts, sockets, archives: gone with the folder
//! ```
//!
//! Processes need no cleaning: fake-cri and kubelets end with the harness, by the pipe that they hold. What is left in a
//! container runtime is found by its label: [`super::runtime::clean`].

use std::path::PathBuf;

use super::{TargetError, folder, real_kubelet};

/// Removes the temporary folders of runs that are no more, and what they tell of. Returns them, and what could not be
/// done.
pub async fn clean() -> (Vec<PathBuf>, Vec<TargetError>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    for dead in folder::dead(&std::env::temp_dir()) {
        // A folder that tells of something that is not put back yet is kept for the next try.
        let done = match real_kubelet::put_back_after(&dead.path).await {
            Ok(()) => dead.remove(),
            Err(error) => Err(error),
        };
        match done {
            Ok(path) => removed.push(path),
            Err(error) => left.push(error),
        }
    }
    (removed, left)
}
