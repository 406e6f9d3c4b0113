//! Removes the static Pod from a runtime that the harness did not start.

use std::{collections::HashMap, path::Path};

use cri_proto::runtime::v1::{ListPodSandboxRequest, PodSandboxFilter};
use serde::{Deserialize, Serialize};

use super::{ContainerRef, TargetError};
use crate::targets::runtime;

/// The file in the run directory that names the Pod and its runtime.
const SAVED_POD_FILE: &str = "pod.json";

#[derive(Serialize, Deserialize)]
struct SavedPod {
    endpoint: String,
    namespace: String,
    pod: String,
}

/// Writes the names of the Pod and its runtime to the run directory, before the Pod exists.
pub(super) fn save_pod(run_dir: &Path, endpoint: &str, container: &ContainerRef) -> Result<(), TargetError> {
    let path = run_dir.join(SAVED_POD_FILE);
    let saved = SavedPod {
        endpoint: endpoint.to_owned(),
        namespace: container.namespace.clone(),
        pod: container.pod.clone(),
    };
    let text = serde_json::to_vec(&saved).map_err(|error| TargetError::file(&path)(error.into()))?;
    std::fs::write(&path, text).map_err(TargetError::file(path))
}

/// Removes the Pod of a killed harness. Does nothing if the directory names no Pod.
pub(super) async fn remove_saved_pod(run_dir: &Path) -> Result<(), TargetError> {
    let path = run_dir.join(SAVED_POD_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(TargetError::file(path)(error)),
    };
    let saved: SavedPod = serde_json::from_slice(&text).map_err(|error| TargetError::file(path)(error.into()))?;
    let container = ContainerRef {
        namespace: saved.namespace,
        pod: saved.pod,
        container: String::new(),
    };
    remove_pod(&saved.endpoint, &container).await
}

/// Stops and removes the Pod's sandboxes with their containers.
pub(super) async fn remove_pod(endpoint: &str, container: &ContainerRef) -> Result<(), TargetError> {
    let removed = async {
        let cri = runtime::connect(endpoint)?;
        let label_selector = HashMap::from([
            ("io.kubernetes.pod.name".to_owned(), container.pod.clone()),
            ("io.kubernetes.pod.namespace".to_owned(), container.namespace.clone()),
        ]);
        let filter = Some(PodSandboxFilter {
            label_selector,
            ..PodSandboxFilter::default()
        });
        let list = runtime::call(&cri, runtime::CALL_TIMEOUT, ListPodSandboxRequest { filter });
        for sandbox in list.await?.items {
            runtime::remove_pod(&cri, &sandbox.id).await?;
        }
        Ok::<_, TargetError>(())
    };
    removed
        .await
        .map_err(|error| TargetError::NotReady(format!("failed to remove {} from {endpoint}: {error}", container.pod)))
}
