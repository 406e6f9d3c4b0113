//! Removes the static Pod from a runtime that the harness did not start.

use std::{collections::HashMap, path::Path};

use cri_proto::runtime::v1::{
    ListPodSandboxRequest, PodSandboxFilter, RemovePodSandboxRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tonic::{Status, transport::Endpoint};

use super::{ContainerRef, TargetError};

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
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint).to_owned();
    let refused =
        |why: String| TargetError::NotReady(format!("failed to remove {} from {endpoint}: {why}", container.pod));
    let connect = move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    };
    // `Endpoint` requires a URI. It is not used: the connector knows the socket.
    let channel = Endpoint::from_static("http://runtime.invalid")
        .connect_with_connector(tower::service_fn(connect))
        .await
        .map_err(|error| refused(error.to_string()))?;
    let mut runtime = RuntimeServiceClient::new(channel);

    let label_selector = HashMap::from([
        ("io.kubernetes.pod.name".to_owned(), container.pod.clone()),
        ("io.kubernetes.pod.namespace".to_owned(), container.namespace.clone()),
    ]);
    let filter = Some(PodSandboxFilter {
        label_selector,
        ..PodSandboxFilter::default()
    });
    let removed = async {
        let list = runtime
            .list_pod_sandbox(ListPodSandboxRequest { filter })
            .await?
            .into_inner();
        for pod_sandbox_id in list.items.into_iter().map(|sandbox| sandbox.id) {
            runtime
                .stop_pod_sandbox(StopPodSandboxRequest {
                    pod_sandbox_id: pod_sandbox_id.clone(),
                })
                .await?;
            runtime
                .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })
                .await?;
        }
        Ok::<_, Status>(())
    };
    removed
        .await
        .map_err(|status| refused(format!("{:?}: {}", status.code(), status.message())))
}
