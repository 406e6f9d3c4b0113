//! What the runtime has, asked again and again: the only way by which a kubelet learns that a container ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::runtime::v1::{Container, ListContainersRequest, ListPodSandboxRequest, PodSandbox};
use tokio::sync::watch;

use super::super::runtime_connection::{CriError, RuntimeConnection};

/// Everything that the runtime has, as of one moment.
#[derive(Debug)]
pub(super) struct RuntimeState {
    /// When it was asked for; what was done later is not in it.
    pub(super) taken_at: Instant,
    pub(super) sandboxes: Vec<PodSandbox>,
    pub(super) containers: Vec<Container>,
}

/// Asks until nobody listens any more. A runtime that does not answer is asked on; that is said once for each cause.
pub(super) async fn poll(
    cri: Arc<RuntimeConnection>,
    period: Duration,
    sender: watch::Sender<Option<Arc<RuntimeState>>>,
) {
    let mut last_error = None;
    while !sender.is_closed() {
        match list_all(&cri).await {
            Ok(snapshot) => {
                last_error = None;
                sender.send_replace(Some(Arc::new(snapshot)));
            }
            Err(error) if last_error.as_ref() != Some(&error) => {
                tracing::warn!(%error, "failed to list what the runtime has");
                last_error = Some(error);
            }
            Err(_) => {}
        }
        tokio::time::sleep(period).await;
    }
}

/// Asks once.
pub(super) async fn list_all(cri: &RuntimeConnection) -> Result<RuntimeState, CriError> {
    let taken_at = Instant::now();
    let sandboxes = cri
        .list_pod_sandbox(cri.timeout(), ListPodSandboxRequest::default())
        .await?
        .items;
    let containers = cri
        .list_containers(cri.timeout(), ListContainersRequest::default())
        .await?
        .containers;
    Ok(RuntimeState {
        taken_at,
        sandboxes,
        containers,
    })
}
