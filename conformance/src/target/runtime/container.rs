//! Pods and containers that the harness made in a runtime.
//!
//! A handle is the container's right to live: when the last one is dropped, as a case's end does, the container is removed
//! with the next [`super::Runtime::restore`]. Nothing is removed by the drop itself, which cannot wait.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cri_proto::runtime::v1::PodSandboxConfig;

use super::super::Workload;
use crate::reference::PodRequests;

/// A Pod sandbox.
#[derive(Debug)]
pub struct Pod {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    /// What a kubelet would ask for in this Pod.
    pub(super) requests: PodRequests,
}

impl Pod {
    /// The id that the runtime gave it.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A container with its workload.
#[derive(Clone, Debug)]
pub struct Container(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) log: PathBuf,
    pub(super) pod: Arc<Pod>,
    /// What the workload told when it was up; nothing in a container that was not started.
    pub(super) started: OnceLock<Workload>,
    /// Checkpoints that are under way: while there are any, that it stands still is right.
    pub(super) busy: AtomicUsize,
}

impl Container {
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
    pub fn pod(&self) -> &Arc<Pod> {
        &self.0.pod
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.0.log
    }

    /// What its workload told when it was up: pid and start time as itself sees them, canary, first ticks.
    pub fn started(&self) -> &Workload {
        self.0.started.get_or_init(Workload::default)
    }

    /// A fault rule for the checkpoints of this container: what happens at this phase of them.
    pub fn rule(&self, phase: &str, effect: &str) -> String {
        let (pod, namespace) = self.pod_name();
        let name = self.name();
        format!("CheckpointContainer(namespace={namespace},pod={pod},container={name}):{phase}={effect}")
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::SeqCst) > 0
    }

    /// Notes a checkpoint that is under way, until what is returned is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(&self.0))
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pod, _) = self.pod_name();
        write!(f, "{pod}/{}", self.name())
    }
}

pub(super) struct Busy(Arc<Inner>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
