//! A Pod on a node whose container is checkpointed: one that is there, or one that is made for it.

use std::time::{Duration, Instant};

use k8s_openapi::{List, api::core::v1::Pod};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::json;

use super::{
    super::{ContainerRef, Credentials, TargetError},
    Cluster, parse_object,
};

/// A pull and a start on a slow node.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(120);
const POD_NAMESPACE: &str = "default";

/// Where the Pod of a node comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// This one.
    Existing(ContainerRef),
    /// One with this label that runs on the node; its first container that runs.
    Selector(String),
    /// One that is made from this image, and deleted afterwards.
    Image(String),
}

/// A container to checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedContainer {
    /// Which.
    pub container: ContainerRef,
    /// Whether its Pod was made for this, and is to be deleted.
    pub is_temporary: bool,
}

impl Cluster {
    /// A container on this node. A Pod that was made and does not come up is deleted again.
    ///
    /// # Errors
    /// There is none, or it does not come up; with the node's name.
    pub async fn select_container(&self, node: &str, source: &PodSource) -> Result<SelectedContainer, TargetError> {
        match source {
            PodSource::Existing(container) => Ok(SelectedContainer {
                container: container.clone(),
                is_temporary: false,
            }),
            PodSource::Selector(selector) => self.find_by_label(node, selector).await,
            PodSource::Image(image) => self.create_pod(node, image).await,
        }
    }

    async fn find_by_label(&self, node: &str, selector: &str) -> Result<SelectedContainer, TargetError> {
        let mut url = self.url(&["api", "v1", "pods"]);
        url.query_pairs_mut()
            .append_pair("fieldSelector", &format!("spec.nodeName={node}"))
            .append_pair("labelSelector", selector);
        let list: List<Pod> = self.get(url).await?;
        let container = list.items.iter().find_map(first_running);
        container
            .map(|container| SelectedContainer {
                container,
                is_temporary: false,
            })
            .ok_or_else(|| TargetError::NotReady(format!("no Pod with the label {selector} runs on node {node}")))
    }

    async fn create_pod(&self, node: &str, image: &str) -> Result<SelectedContainer, TargetError> {
        // No two runs at once have the same name for it.
        let name = format!("checkpoint-conformance-{:08x}", rand::random::<u32>());
        let container = |name: &str| json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent" });
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app.kubernetes.io/managed-by": "checkpoint-conformance" } },
            "spec": {
                "nodeName": node,
                "hostNetwork": true,
                "restartPolicy": "OnFailure",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [container("app"), container("second")],
            },
        });
        let url = self.url(&["api", "v1", "namespaces", POD_NAMESPACE, "pods"]);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = pod.to_string().into_bytes();
        let response = self
            .client
            .send_with(Credentials::Authorized, Method::POST, url, headers, body)
            .await?;
        let _: Pod = parse_object("the creation of a Pod", &response)?;
        let selected = SelectedContainer {
            container: ContainerRef {
                namespace: POD_NAMESPACE.to_owned(),
                pod: name,
                container: "app".to_owned(),
            },
            is_temporary: true,
        };
        match self.wait_until_running(node, &selected.container).await {
            Ok(()) => Ok(selected),
            Err(error) => {
                self.delete_temporary_pod(&selected).await?;
                Err(error)
            }
        }
    }

    async fn wait_until_running(&self, node: &str, container: &ContainerRef) -> Result<(), TargetError> {
        // A watch would tell at once; a few questions a second do for a wait that is seconds long.
        const POLL_INTERVAL: Duration = Duration::from_millis(200);
        let started_at = Instant::now();
        loop {
            let pod: Pod = self.get(self.url(&pod_path(container))).await?;
            if first_running(&pod).as_ref() == Some(container) {
                return Ok(());
            }
            if started_at.elapsed() > STARTUP_TIMEOUT {
                let status = serde_json::to_string(&pod.status).unwrap_or_default();
                let reason = format!(
                    "the Pod {} does not run on node {node} after {} s: {status}",
                    container.pod,
                    STARTUP_TIMEOUT.as_secs()
                );
                return Err(TargetError::NotReady(reason));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Deletes a Pod that was made; leaves every other one.
    ///
    /// # Errors
    /// The API server does not do it; the Pod is named.
    pub async fn delete_temporary_pod(&self, selected: &SelectedContainer) -> Result<(), TargetError> {
        if !selected.is_temporary {
            return Ok(());
        }
        let url = self.url(&pod_path(&selected.container));
        let left_behind =
            |why: String| TargetError::NotReady(format!("the Pod of {} is left behind: {why}", selected.container));
        let result = self.client.send(Credentials::Authorized, Method::DELETE, url).await;
        let response = result.map_err(|error| left_behind(error.to_string()))?;
        match response.status {
            200..=299 | 404 => Ok(()),
            _ => Err(left_behind(response.summary())),
        }
    }
}

fn pod_path(container: &ContainerRef) -> [&str; 6] {
    let (namespace, pod) = (container.namespace.as_str(), container.pod.as_str());
    ["api", "v1", "namespaces", namespace, "pods", pod]
}

/// The first container of a Pod that runs.
fn first_running(pod: &Pod) -> Option<ContainerRef> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let runs = statuses
        .iter()
        .find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))?;
    Some(ContainerRef {
        namespace: pod.metadata.namespace.clone()?,
        pod: pod.metadata.name.clone()?,
        container: runs.name.clone(),
    })
}
