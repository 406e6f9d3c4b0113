//! Pods and containers that the harness created in a runtime.
//!
//! A container lives as long as a handle to it exists. When a case ends and drops the last handle, the next
//! [`super::Runtime::reset`] removes the container. The drop itself cannot: it is not async.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cri_proto::runtime::v1::PodSandboxConfig;

use super::super::Workload;
use crate::reference_kubelet::PodRequests;

/// A Pod sandbox.
#[derive(Debug)]
pub struct PodHandle {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    /// Builds the requests that a kubelet would send for this Pod.
    pub(super) requests: PodRequests,
}

impl PodHandle {
    /// The sandbox id that the runtime returned.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A container with its workload.
#[derive(Clone, Debug)]
pub struct ContainerHandle(pub(super) Arc<ContainerInner>);

#[derive(Debug)]
pub(super) struct ContainerInner {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) log_path: PathBuf,
    pub(super) pod: Arc<PodHandle>,
    /// The workload's log at its start. Unset for a container that was not started.
    pub(super) initial_workload: OnceLock<Workload>,
    /// The number of checkpoints in progress. The container may be frozen while there is one.
    pub(super) active_checkpoints: AtomicUsize,
}

impl ContainerHandle {
    /// The container id that the runtime returned.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The container's name in its Pod.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name and the namespace of the Pod, as fault rules use them.
    pub fn pod_name(&self) -> (&str, &str) {
        let metadata = self.0.pod.config.metadata.as_ref();
        metadata.map_or(("", ""), |metadata| (&metadata.name, &metadata.namespace))
    }

    /// The Pod of the container.
    pub fn pod(&self) -> &Arc<PodHandle> {
        &self.0.pod
    }

    /// The path of the container's log.
    pub fn log_path(&self) -> &Path {
        &self.0.log_path
    }

    /// The workload's log at its start: pid and start time in the container's pid namespace, canary, first heartbeats.
    pub fn initial_workload(&self) -> &Workload {
        self.0.initial_workload.get_or_init(Workload::default)
    }

    /// A fault rule for a phase of this container's checkpoints.
    pub fn fault_rule(&self, phase: &str, effect: &str) -> String {
        let (pod, namespace) = self.pod_name();
        let name = self.name();
        format!("CheckpointContainer(namespace={namespace},pod={pod},container={name}):{phase}={effect}")
    }

    pub(super) fn is_checkpointing(&self) -> bool {
        self.0.active_checkpoints.load(Ordering::SeqCst) > 0
    }

    /// Counts a checkpoint in progress until the guard is dropped.
    pub(super) fn begin_checkpoint(&self) -> CheckpointGuard {
        self.0.active_checkpoints.fetch_add(1, Ordering::SeqCst);
        CheckpointGuard(Arc::clone(&self.0))
    }
}

impl std::fmt::Display for ContainerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pod, _) = self.pod_name();
        write!(f, "{pod}/{}", self.name())
    }
}

pub(super) struct CheckpointGuard(Arc<ContainerInner>);

impl Drop for CheckpointGuard {
    fn drop(&mut self) {
        self.0.active_checkpoints.fetch_sub(1, Ordering::SeqCst);
    }
}
