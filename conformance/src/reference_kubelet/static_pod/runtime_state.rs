//! Lists the sandboxes and containers of the runtime periodically, which is the only way to detect an exited container.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::runtime::v1::{Container, ListContainersRequest, ListPodSandboxRequest, PodSandbox};
use tokio::sync::watch;

use super::super::runtime_connection::{CriError, RuntimeConnection};

#[derive(Debug)]
pub(super) struct RuntimeState {
    /// The time before the calls. Later changes may be missing.
    pub(super) taken_at: Instant,
    pub(super) sandboxes: Vec<PodSandbox>,
    pub(super) containers: Vec<Container>,
}

/// Lists the state until all receivers are dropped. Continues after an error, and logs an error once until it changes.
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
                tracing::warn!(%error, "failed to list sandboxes and containers");
                last_error = Some(error);
            }
            Err(_) => {}
        }
        tokio::time::sleep(period).await;
    }
}

pub(super) async fn list_all(cri: &RuntimeConnection) -> Result<RuntimeState, CriError> {
    let taken_at = Instant::now();
    let sandboxes = cri.call(cri.timeout(), ListPodSandboxRequest::default()).await?.items;
    let containers = cri
        .call(cri.timeout(), ListContainersRequest::default())
        .await?
        .containers;
    Ok(RuntimeState {
        taken_at,
        sandboxes,
        containers,
    })
}
