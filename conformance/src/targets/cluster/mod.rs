//! A cluster, reached by its kubeconfig: its nodes, a Pod on each node, and the kubelet of each node.
//!
//! ```text
//!  kubeconfig -> API server --list--> nodes
//!                    |      --find or create--> a Pod on a node
//!                    |
//!                    +-- /api/v1/nodes/NAME/proxy/ --> kubelet      through the API server's node proxy
//!  node's address ---------------------------------> kubelet      direct
//! ```
//!
//! Through the node proxy, the API server authenticates the harness and sends requests to the kubelet with its own
//! identity. The kubelet's own authentication is visible only on a direct connection. For a node that is down, the
//! error names the node and comes within the time limit of one response.

mod exec;
mod kubeconfig;
mod node;
mod pods;

use std::path::Path;

use k8s_openapi::{List, api::core::v1::Node};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;

use super::{Client, Credentials, HttpResponse, HttpsEndpoint, TargetError};

pub use node::{KubeletRoute, NodeTarget};
pub use pods::{PodSource, SelectedContainer};

const KUBELET_PORT: i32 = 10250;

/// A client for the API server of a cluster.
#[derive(Debug)]
pub struct Cluster {
    client: Client,
}

/// The address of a node's kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node's name.
    pub name: String,
    /// The node's internal IP, or else its host name; `None` if the node has neither.
    pub address: Option<String>,
    /// The kubelet's port.
    pub port: i32,
}

impl Cluster {
    /// Reads a context of this kubeconfig; `None` is the current context. Connects with the first request.
    ///
    /// # Errors
    /// The kubeconfig cannot be read.
    pub fn from_kubeconfig(kubeconfig: &Path, context: Option<&str>) -> Result<Cluster, TargetError> {
        let endpoint = kubeconfig::read(kubeconfig, context)?;
        Ok(Cluster {
            client: Client::new(endpoint),
        })
    }

    /// The nodes of the cluster, sorted by name.
    ///
    /// # Errors
    /// The API server does not respond, or its response is not a list of nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeAddress>, TargetError> {
        let list: List<Node> = self.get(self.url(&["api", "v1", "nodes"])).await?;
        let mut nodes: Vec<_> = list.items.into_iter().map(node_address).collect();
        nodes.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(nodes)
    }

    /// The node of that name.
    ///
    /// # Errors
    /// The node does not exist, or the API server does not respond.
    pub async fn node(&self, name: &str) -> Result<NodeAddress, TargetError> {
        let node: Node = self.get(self.url(&["api", "v1", "nodes", name])).await?;
        Ok(node_address(node))
    }

    fn endpoint(&self) -> &HttpsEndpoint {
        self.client.endpoint()
    }

    fn url(&self, segments: &[&str]) -> Url {
        self.client.url_from_segments(segments.iter().copied())
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, TargetError> {
        let path = url.path().to_owned();
        let response = self.client.send(Credentials::Authorized, Method::GET, url).await?;
        parse_object(&path, &response)
    }
}

fn parse_object<T: DeserializeOwned>(request: &str, response: &HttpResponse) -> Result<T, TargetError> {
    if !(200..300).contains(&response.status) {
        return Err(TargetError::NotReady(format!(
            "the API server's response to {request}: {}",
            response.summary()
        )));
    }
    serde_json::from_str(&response.body)
        .and_then(serde_json::from_value::<T>)
        .map_err(|error| TargetError::NotReady(format!("invalid API server response to {request}: {error}")))
}

fn node_address(node: Node) -> NodeAddress {
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let address_of_type = |kind: &str| addresses.iter().find(|address| address.type_ == kind);
    let address = address_of_type("InternalIP").or_else(|| address_of_type("Hostname"));
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
    NodeAddress {
        name: node.metadata.name.unwrap_or_default(),
        address: address.map(|address| address.address.clone()),
        port: port.map_or(KUBELET_PORT, |endpoint| endpoint.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_internal_address_and_kubelet_port() {
        let node = |text: &str| node_address(serde_json::from_value(serde_json::from_str(text).unwrap()).unwrap());
        let complete = node(
            r#"{"metadata":{"name":"a"},"status":{"addresses":[{"type":"Hostname","address":"a.local"},
                {"type":"InternalIP","address":"10.0.0.2"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":10300}}}}"#,
        );
        assert_eq!((complete.address.as_deref(), complete.port), (Some("10.0.0.2"), 10300));
        let minimal = node(r#"{"metadata":{"name":"b"}}"#);
        assert_eq!(
            (minimal.name.as_str(), minimal.address, minimal.port),
            ("b", None, 10250)
        );
    }
}
