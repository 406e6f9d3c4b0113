//! Pods, containers and images: the CRI's state machine and its store on disk.
//!
//! ```text
//!  service --> Runtime --+-- pod, container   tables in memory, each object also a file (store)
//!                        +-- image            the pulled images and the catalogue that defines them
//!                        +-- recover          after a restart: reconciles the files with the shims
//!                        +-- checkpoint       checks a request, writes the documents, sends a job
//!                                |
//!                                v  one per container
//!                              Shim
//! ```
//!
//! One lock protects the tables. It is never held across an await. The record of a container is in a watch channel, so
//! that waiters are notified of its exit. For each running container a task waits for the shim. When the shim reports
//! the exit or is gone itself, the task writes the new state and notifies the waiters.
//!
//! Ways to fail: see [`RuntimeError`]. A failed call leaves no partial object: the name is not reserved, no file
//! exists.

mod checkpoint;
mod clock;
mod command;
mod config;
mod container;
mod delay;
mod documents;
mod error;
mod exec;
mod filter;
mod id;
mod identity;
pub mod image;
mod lifecycle;
mod message;
mod pod;
mod recover;
mod restore_source;
mod signal;
mod spec;
mod start;
mod state;
mod stats;
mod status;
mod store;
mod unapplied_fields;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use cri_proto::runtime::v1;

pub use self::{
    checkpoint::CheckpointRequest,
    config::{CgroupDriver, Config, ExecMode},
    container::{Container, ContainerRecord},
    delay::{DelayMemoryArg, DelayModel, MEMORY_ANNOTATION, parse_fraction, parse_rate, parse_size},
    error::{ObjectKind, RuntimeError},
    pod::Pod,
    signal::{cri_signal_number, parse_signal},
    state::{ContainerExit, ContainerState, InvalidTransition, LifecycleEvent},
    stats::ContainerUsage,
    store::Store,
};
pub(crate) use self::{clock::now, message::to_json};
use self::{
    delay::DelaySampler,
    id::find_by_id,
    image::{Catalogue, ImageStore},
};
use crate::fault::{CallTarget, ResolveTarget};

/// The runtime handlers that RunPodSandbox accepts and Status lists.
pub const RUNTIME_HANDLERS: &[&str] = &["", "fake-cri"];

/// The pods, containers and images of one state directory.
#[derive(Debug)]
pub struct Runtime {
    /// The options of the command line.
    pub config: Config,
    /// The pulled images.
    pub images: ImageStore,
    store: Arc<Store>,
    tables: Mutex<Tables>,
    delays: Option<Mutex<DelaySampler>>,
    pod_cidr: Mutex<String>,
    unapplied_fields: unapplied_fields::ReportedFields,
}

#[derive(Debug, Default)]
struct Tables {
    pods: BTreeMap<String, Pod>,
    containers: BTreeMap<String, Arc<Container>>,
}

impl Runtime {
    /// Opens a state directory and reattaches to the shims that still run.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if another fake-cri uses the directory; `Store` if a file cannot be read; `InvalidArgument`
    /// if the image catalogue cannot be read.
    pub async fn open(config: Config) -> Result<Arc<Runtime>, RuntimeError> {
        let catalogue = Catalogue::load(config.images.as_deref(), config.strict_images)?;
        let store = Arc::new(Store::open(&config.state_dir)?);
        let runtime = Arc::new(Runtime {
            images: ImageStore::open(store.clone(), catalogue)?,
            delays: config.delay.clone().map(|model| Mutex::new(DelaySampler::new(model))),
            tables: Mutex::default(),
            pod_cidr: Mutex::default(),
            unapplied_fields: unapplied_fields::ReportedFields::default(),
            store,
            config,
        });
        runtime.recover().await?;
        Ok(runtime)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no holder of this lock panics")
    }

    /// The directory of a container in the state directory.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.store.container_dir(id)
    }

    /// The canonical path of the state directory.
    pub fn state_dir(&self) -> &std::path::Path {
        self.store.root()
    }

    /// Returns the container with this id or unique id prefix.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (empty id), `NotFound` or `AmbiguousId`.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        find_by_id(ObjectKind::Container, &self.tables().containers, id).cloned()
    }

    /// Returns the containers that match a filter, oldest first.
    pub fn list_containers(&self, filter: Option<&v1::ContainerFilter>) -> Vec<ContainerRecord> {
        let match_all = v1::ContainerFilter::default();
        let filter = filter.unwrap_or(&match_all);
        let tables = self.tables();
        let pod = match filter.pod_sandbox_id.as_str() {
            "" => None,
            id => match find_by_id(ObjectKind::PodSandbox, &tables.pods, id) {
                Ok(pod) => Some(pod.id.clone()),
                Err(_) => return Vec::new(),
            },
        };
        let containers: Vec<_> = match filter.id.as_str() {
            "" => tables.containers.values().cloned().collect(),
            id => find_by_id(ObjectKind::Container, &tables.containers, id)
                .cloned()
                .into_iter()
                .collect(),
        };
        drop(tables);
        let mut records: Vec<_> = containers
            .into_iter()
            .map(|container| container.record())
            .filter(|record| pod.as_ref().is_none_or(|pod| record.pod_id == *pod) && record.matches(filter))
            .collect();
        records.sort_by_key(|record| record.created_at);
        records
    }

    pub(crate) fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let containers: Vec<_> = self.tables().containers.values().cloned().collect();
        containers
            .into_iter()
            .filter(|container| container.record().pod_id == pod)
            .collect()
    }

    /// Stores new limits, which ContainerStatus then returns. No cgroup is changed.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::container`]; `FailedPrecondition` if the container has exited.
    pub fn update_resources(
        &self,
        id: &str,
        resources: Option<v1::LinuxContainerResources>,
    ) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        container.update(&self.store, |record| {
            if record.state.is_exited() {
                return Err(RuntimeError::FailedPrecondition(format!(
                    "container {:?} is in {} state, and its resources cannot be updated",
                    record.id,
                    record.state.cri_name()
                )));
            }
            if let Some(resources) = resources {
                record.resources = resources;
            }
            Ok(())
        })
    }

    /// The OCI runtime specification of a container, for a verbose status; null if its pod was just removed.
    pub(crate) fn spec_json(&self, record: &ContainerRecord) -> serde_json::Value {
        let spec = self
            .pod(&record.pod_id)
            .ok()
            .and_then(|pod| spec::spec(self.config.archive_layout, record, &pod).ok());
        serde_json::to_value(spec).unwrap_or_default()
    }

    /// Stores the pod CIDR from UpdateRuntimeConfig.
    pub fn set_pod_cidr(&self, cidr: String) {
        *self.pod_cidr.lock().expect("no holder of this lock panics") = cidr;
    }

    /// The pod CIDR of the last UpdateRuntimeConfig; empty before the first.
    pub fn pod_cidr(&self) -> String {
        self.pod_cidr.lock().expect("no holder of this lock panics").clone()
    }

    /// Stops and removes every pod sandbox and container, as `--ephemeral` requires at the end. A failure is logged and
    /// does not stop the other removals.
    pub async fn remove_all(self: &Arc<Self>) {
        let containers: Vec<_> = self.tables().containers.keys().cloned().collect();
        let removals = containers.into_iter().map(|id| async move {
            if let Err(error) = self.remove_container(&id).await {
                tracing::error!(container = id, %error, "failed to remove the container");
            }
        });
        futures_util::future::join_all(removals).await;
        let pods: Vec<_> = self.tables().pods.keys().cloned().collect();
        for id in pods {
            if let Err(error) = self.remove_pod(&id).await {
                tracing::error!(pod = id, %error, "failed to remove the pod sandbox");
            }
        }
    }
}

impl ResolveTarget for Runtime {
    fn resolve(&self, pod_sandbox_id: Option<&str>, container_id: Option<&str>) -> CallTarget {
        let record = container_id
            .and_then(|id| self.container(id).ok())
            .map(|container| container.record());
        let pod = match (&record, pod_sandbox_id) {
            (Some(record), _) => self.pod(&record.pod_id).ok(),
            (None, Some(id)) => self.pod(id).ok(),
            (None, None) => None,
        };
        let metadata = pod.as_ref().map(Pod::metadata).unwrap_or_default();
        CallTarget {
            pod: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            container: record.map(|record| record.name().to_owned()).unwrap_or_default(),
            annotations: pod.map(|pod| pod.config.annotations).unwrap_or_default(),
        }
    }
}
