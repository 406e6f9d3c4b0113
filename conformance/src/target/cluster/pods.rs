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
    Cluster, read,
};

/// A pull and a start on a slow node.
const UP_WITHIN: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "default";

/// Where the Pod of a node comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// This one.
    Given(ContainerRef),
    /// One with this label that runs on the node; its first container that runs.
    Selector(String),
    /// One that is made from this image, and deleted afterwards.
    Image(String),
}

/// A container to checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Which.
    pub container: ContainerRef,
    /// Whether its Pod was made for this, and is to be deleted.
    pub ours: bool,
}

impl Cluster {
    /// A container on this node. A Pod that was made and does not come up is deleted again.
    ///
    /// # Errors
    /// There is none, or it does not come up; with the node's name.
    pub async fn pod_on(&self, node: &str, source: &PodSource) -> Result<Made, TargetError> {
        match source {
            PodSource::Given(container) => Ok(Made {
                container: container.clone(),
                ours: false,
            }),
            PodSource::Selector(selector) => self.find(node, selector).await,
            PodSource::Image(image) => self.make(node, image).await,
        }
    }

    async fn find(&self, node: &str, selector: &str) -> Result<Made, TargetError> {
        let mut url = self.url(&["api", "v1", "pods"]);
        url.query_pairs_mut()
            .append_pair("fieldSelector", &format!("spec.nodeName={node}"))
            .append_pair("labelSelector", selector);
        let list: List<Pod> = self.get(url).await?;
        let container = list.items.iter().find_map(running);
        container
            .map(|container| Made { container, ours: false })
            .ok_or_else(|| TargetError::NotReady(format!("no Pod with the label {selector} runs on node {node}")))
    }

    async fn make(&self, node: &str, image: &str) -> Result<Made, TargetError> {
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
        let url = self.url(&["api", "v1", "namespaces", NAMESPACE, "pods"]);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = pod.to_string().into_bytes();
        let answer = self
            .client
            .send_with(Credentials::Good, Method::POST, url, headers, body)
            .await?;
        let _: Pod = read("the creation of a Pod", &answer)?;
        let made = Made {
            container: ContainerRef {
                namespace: NAMESPACE.to_owned(),
                pod: name,
                container: "app".to_owned(),
            },
            ours: true,
        };
        match self.until_running(node, &made.container).await {
            Ok(()) => Ok(made),
            Err(error) => {
                self.delete(&made).await?;
                Err(error)
            }
        }
    }

    async fn until_running(&self, node: &str, container: &ContainerRef) -> Result<(), TargetError> {
        // A watch would tell at once; a few questions a second do for a wait that is seconds long.
        const POLL: Duration = Duration::from_millis(200);
        let began = Instant::now();
        loop {
            let pod: Pod = self.get(self.url(&pod_path(container))).await?;
            if running(&pod).as_ref() == Some(container) {
                return Ok(());
            }
            if began.elapsed() > UP_WITHIN {
                let status = serde_json::to_string(&pod.status).unwrap_or_default();
                let why = format!(
                    "the Pod {} does not run on node {node} after {} s: {status}",
                    container.pod,
                    UP_WITHIN.as_secs()
                );
                return Err(TargetError::NotReady(why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Deletes a Pod that was made; leaves every other one.
    ///
    /// # Errors
    /// The API server does not do it; the Pod is named.
    pub async fn delete(&self, made: &Made) -> Result<(), TargetError> {
        if !made.ours {
            return Ok(());
        }
        let url = self.url(&pod_path(&made.container));
        let left = |why: String| TargetError::NotReady(format!("the Pod of {} is left behind: {why}", made.container));
        let asked = self.client.send(Credentials::Good, Method::DELETE, url).await;
        let answer = asked.map_err(|error| left(error.to_string()))?;
        match answer.status {
            200..=299 | 404 => Ok(()),
            _ => Err(left(answer.brief())),
        }
    }
}

fn pod_path(container: &ContainerRef) -> [&str; 6] {
    let (namespace, pod) = (container.namespace.as_str(), container.pod.as_str());
    ["api", "v1", "namespaces", namespace, "pods", pod]
}

/// The first container of a Pod that runs.
fn running(pod: &Pod) -> Option<ContainerRef> {
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
