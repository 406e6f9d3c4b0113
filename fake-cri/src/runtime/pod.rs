//! Pod sandboxes: run, stopped, removed.
//!
//! ```text
//!   RunPodSandbox -> ready --StopPodSandbox--> not ready --RemovePodSandbox--> gone
//! ```
//!
//! A sandbox has no process of its own: its containers live in the host's namespaces, so nothing needs to be held. Stop
//! and remove are idempotent, and each does what the one before it would have done.

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
    /// What the caller sent, whole.
    #[serde(with = "message")]
    pub config: v1::PodSandboxConfig,
    /// The handler it was asked to run with.
    pub runtime_handler: String,
    /// Whether it was not stopped.
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
    /// Its metadata; empty where the caller sent none, which [`Runtime::run_pod`] refuses.
    pub fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// Name, namespace, uid and attempt in one, as containerd writes the name it reserves.
    pub fn full_name(&self) -> String {
        let metadata = self.metadata();
        format!(
            "{}_{}_{}_{}",
            metadata.name, metadata.namespace, metadata.uid, metadata.attempt
        )
    }

    /// Whether the caller wants the host's network.
    pub fn host_network(&self) -> bool {
        self.namespace_options()
            .is_some_and(|options| options.network == v1::NamespaceMode::Node as i32)
    }

    /// The namespaces that the caller asked for.
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
    /// Makes and readies a pod sandbox.
    ///
    /// # Errors
    ///
    /// `Invalid` without config, metadata or name, or for a handler that Status does not list; `NameReserved` when a
    /// sandbox of this name, namespace, uid and attempt is there.
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
        // Reserving the name and entering the pod are one step under the lock, so a failed call leaves neither.
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

    /// The pod sandbox of this id, full or by a unique prefix.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound` or `Ambiguous`.
    pub fn pod(&self, id: &str) -> Result<Pod, RuntimeError> {
        find_by_id(ObjectKind::PodSandbox, &self.tables().pods, id).cloned()
    }

    /// The pod sandboxes that a filter lets through, oldest first.
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

    /// Stops a pod sandbox: kills what runs in it and marks it not ready. What is not there is stopped already.
    ///
    /// # Errors
    ///
    /// `Invalid` or `Ambiguous` for the id; what stopping a container fails with.
    pub async fn stop_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Not ready first, so that no container starts behind our back.
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

    /// Removes a pod sandbox with all its containers. What is not there is removed already.
    ///
    /// # Errors
    ///
    /// As [`Runtime::stop_pod`]; `Store` when a file cannot be removed.
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
