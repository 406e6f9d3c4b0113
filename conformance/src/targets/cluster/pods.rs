//! Selects the container under test on a node: in an existing Pod, or in a temporary Pod.

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

const STARTUP_TIMEOUT: Duration = Duration::from_secs(120);
const POD_NAMESPACE: &str = "default";

/// How to select the container on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// This container.
    Existing(ContainerRef),
    /// The first running container of a Pod with this label on the node.
    Selector(String),
    /// A container of a temporary Pod with this image.
    Image(String),
}

/// The container under test on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedContainer {
    /// The container.
    pub container: ContainerRef,
    /// Whether the harness created the Pod and must delete it.
    pub is_temporary: bool,
}

impl Cluster {
    /// Selects a container on this node. A temporary Pod that does not start is deleted.
    ///
    /// # Errors
    /// No container matches, or the Pod does not start. The error names the node.
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
        // The random suffix keeps concurrent runs apart.
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
        // Polls: the wait takes seconds, so a watch is not worth its code.
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

    /// Deletes a temporary Pod. Does nothing for any other Pod.
    ///
    /// # Errors
    /// The API server does not delete the Pod. The error names the Pod.
    pub async fn delete_temporary_pod(&self, selected: &SelectedContainer) -> Result<(), TargetError> {
        if !selected.is_temporary {
            return Ok(());
        }
        let url = self.url(&pod_path(&selected.container));
        let left_behind =
            |why: String| TargetError::NotReady(format!("failed to delete the Pod of {}: {why}", selected.container));
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
