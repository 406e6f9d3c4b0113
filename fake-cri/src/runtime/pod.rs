//! Pod sandboxes and their lifecycle.
//!
//! ```text
//!   RunPodSandbox -> ready --StopPodSandbox--> not ready --RemovePodSandbox--> gone
//! ```
//!
//! A sandbox has no process: its containers run in the host's namespaces, so no process must hold namespaces open. Stop
//! and remove are idempotent. Remove stops a sandbox that was not stopped before.

use cri_proto::runtime::v1;
use serde::{Deserialize, Serialize};

use super::{
    Runtime,
    clock::now,
    error::{ObjectKind, RuntimeError},
    filter::matches_labels,
    id::{find_by_id, new_id},
    identity, message,
    store::StoredObject,
};

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The config of the request, unchanged.
    #[serde(with = "message")]
    pub config: v1::PodSandboxConfig,
    /// The runtime handler of the request.
    pub runtime_handler: String,
    /// False after StopPodSandbox.
    pub ready: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

impl StoredObject for Pod {
    const DIR_NAME: &'static str = "pods";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Pod {
    /// The metadata of the config. Never empty in practice: [`Runtime::run_pod`] refuses a config without metadata.
    pub fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// `NAME_NAMESPACE_UID_ATTEMPT`, the name that containerd reserves for a sandbox.
    pub fn full_name(&self) -> String {
        let metadata = self.metadata();
        format!(
            "{}_{}_{}_{}",
            metadata.name, metadata.namespace, metadata.uid, metadata.attempt
        )
    }

    /// Whether the request asks for the host's network.
    pub fn host_network(&self) -> bool {
        self.namespace_options()
            .is_some_and(|options| options.network == v1::NamespaceMode::Node as i32)
    }

    /// The namespace options of the request.
    pub fn namespace_options(&self) -> Option<&v1::NamespaceOption> {
        self.config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.as_ref())
    }

    fn matches(&self, filter: &v1::PodSandboxFilter) -> bool {
        let has_state = |expected: &v1::PodSandboxStateValue| {
            (expected.state == v1::PodSandboxState::SandboxReady as i32) == self.ready
        };
        filter.state.as_ref().is_none_or(has_state) && matches_labels(&self.config.labels, &filter.label_selector)
    }
}

impl Runtime {
    /// Creates a pod sandbox, which is ready at once.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the config, the metadata, the name, the namespace or the uid is missing, or the handler is
    /// not one of [`RUNTIME_HANDLERS`](super::RUNTIME_HANDLERS); `FailedPrecondition` for a field that cannot be
    /// applied; `NameReserved` if a sandbox with this name, namespace, uid and attempt exists.
    pub fn run_pod(&self, config: Option<v1::PodSandboxConfig>, handler: &str) -> Result<String, RuntimeError> {
        let config = config.ok_or_else(|| RuntimeError::InvalidArgument("sandbox config is missing".to_owned()))?;
        let metadata = config
            .metadata
            .as_ref()
            .ok_or_else(|| RuntimeError::InvalidArgument("sandbox config's metadata is missing".to_owned()))?;
        if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
            return Err(RuntimeError::InvalidArgument(
                "sandbox config's metadata needs name, namespace and uid".to_owned(),
            ));
        }
        if !handler.is_empty() && !super::RUNTIME_HANDLERS.contains(&handler) {
            return Err(RuntimeError::InvalidArgument(format!(
                "no runtime for {handler:?} is configured"
            )));
        }
        identity::check_sandbox(&config)?;
        self.unapplied_fields
            .check(&config, self.config.allow_unapplied_fields)?;
        let pod = Pod {
            id: new_id(),
            config,
            runtime_handler: handler.to_owned(),
            ready: true,
            created_at: now(),
        };
        let name = pod.full_name();
        // One lock covers the check of the name and the insertion, so a failed call reserves no name.
        let mut tables = self.tables();
        if let Some(other) = tables.pods.values().find(|other| other.full_name() == name) {
            return Err(RuntimeError::NameReserved {
                kind: ObjectKind::PodSandbox,
                name,
                id: other.id.clone(),
            });
        }
        self.store.save(&pod)?;
        let id = pod.id.clone();
        tables.pods.insert(id.clone(), pod);
        Ok(id)
    }

    /// Returns the pod sandbox with this id or unique id prefix.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (empty id), `NotFound` or `AmbiguousId`.
    pub fn pod(&self, id: &str) -> Result<Pod, RuntimeError> {
        find_by_id(ObjectKind::PodSandbox, &self.tables().pods, id).cloned()
    }

    /// Returns the pod sandboxes that match a filter, oldest first.
    pub fn list_pods(&self, filter: Option<&v1::PodSandboxFilter>) -> Vec<Pod> {
        let tables = self.tables();
        let Some(filter) = filter else {
            return sort_by_creation(tables.pods.values().cloned().collect());
        };
        let pods: Vec<Pod> = if filter.id.is_empty() {
            tables.pods.values().cloned().collect()
        } else {
            find_by_id(ObjectKind::PodSandbox, &tables.pods, &filter.id)
                .cloned()
                .into_iter()
                .collect()
        };
        sort_by_creation(pods.into_iter().filter(|pod| pod.matches(filter)).collect())
    }

    /// Stops a pod sandbox: marks it not ready and kills its containers. Succeeds if the sandbox does not exist.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` or `AmbiguousId` for the id; `Store` if the state cannot be written; `Shim` if a container
    /// cannot be killed.
    pub async fn stop_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Not ready first, so that no container starts while the others are killed.
        self.set_not_ready(&pod.id)?;
        for container in self.containers_of(&pod.id) {
            self.kill_container(&container).await?;
        }
        Ok(())
    }

    fn set_not_ready(&self, id: &str) -> Result<(), RuntimeError> {
        let mut tables = self.tables();
        if let Some(pod) = tables.pods.get_mut(id)
            && pod.ready
        {
            pod.ready = false;
            self.store.save(pod)?;
        }
        Ok(())
    }

    /// Stops and removes a pod sandbox and all its containers. Succeeds if the sandbox does not exist.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::stop_pod`]; `Store` if a file cannot be removed.
    pub async fn remove_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_pod(&pod.id).await?;
        for container in self.containers_of(&pod.id) {
            self.remove_container(&container.id).await?;
        }
        self.store.remove::<Pod>(&pod.id)?;
        self.tables().pods.remove(&pod.id);
        Ok(())
    }
}

fn sort_by_creation(mut pods: Vec<Pod>) -> Vec<Pod> {
    pods.sort_by_key(|pod| pod.created_at);
    pods
}
