//! Pods and containers that the harness made in a runtime.
//!
//! A handle is the container's right to live: when the last one is dropped, as a case's end does, the container is removed
//! with the next [`super::Runtime::reset`]. Nothing is removed by the drop itself, which cannot wait.

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
    /// What a kubelet would ask for in this Pod.
    pub(super) requests: PodRequests,
}

impl PodHandle {
    /// The id that the runtime gave it.
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
    /// What the workload told when it was up; nothing in a container that was not started.
    pub(super) initial_workload: OnceLock<Workload>,
    /// Checkpoints that are under way: while there are any, that it stands still is right.
    pub(super) active_checkpoints: AtomicUsize,
}

impl ContainerHandle {
    /// The id that the runtime gave it.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Its name in its Pod.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name and the namespace of its Pod, as fault rules take them.
    pub fn pod_name(&self) -> (&str, &str) {
        let metadata = self.0.pod.config.metadata.as_ref();
        metadata.map_or(("", ""), |metadata| (&metadata.name, &metadata.namespace))
    }

    /// Its Pod.
    pub fn pod(&self) -> &Arc<PodHandle> {
        &self.0.pod
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.0.log_path
    }

    /// What its workload told when it was up: pid and start time as itself sees them, canary, first heartbeats.
    pub fn initial_workload(&self) -> &Workload {
        self.0.initial_workload.get_or_init(Workload::default)
    }

    /// A fault rule for the checkpoints of this container: what happens at this phase of them.
    pub fn fault_rule(&self, phase: &str, effect: &str) -> String {
        let (pod, namespace) = self.pod_name();
        let name = self.name();
        format!("CheckpointContainer(namespace={namespace},pod={pod},container={name}):{phase}={effect}")
    }

    pub(super) fn is_checkpointing(&self) -> bool {
        self.0.active_checkpoints.load(Ordering::SeqCst) > 0
    }

    /// Notes a checkpoint that is under way, until what is returned is dropped.
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
