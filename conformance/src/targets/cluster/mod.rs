//! A cluster by its kubeconfig: its nodes, a Pod on each, and the kubelet of each.
//!
//! ```text
//!  kubeconfig -> API server --list--> nodes
//!                    |      --find or create--> a Pod on a node
//!                    |
//!                    +-- /api/v1/nodes/NAME/proxy/ --> kubelet      through the API server
//!  node's address ---------------------------------> kubelet      direct
//! ```
//!
//! Through the proxy the API server authenticates us and asks the kubelet as itself: what a kubelet says to strangers can be
//! seen directly only. A node that is down is an error with its name, within the time of one answer.

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

/// Where a kubelet listens unless its node says otherwise.
const KUBELET_PORT: i32 = 10250;

/// A cluster that answers.
#[derive(Debug)]
pub struct Cluster {
    client: Client,
}

/// A node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Its name.
    pub name: String,
    /// Its internal address, else its host name; none when it has none.
    pub address: Option<String>,
    /// Where its kubelet listens.
    pub port: i32,
}

impl Cluster {
    /// The cluster of a context of this kubeconfig, or of the current one; nothing is connected yet.
    ///
    /// # Errors
    /// The kubeconfig cannot be read.
    pub fn from_kubeconfig(kubeconfig: &Path, context: Option<&str>) -> Result<Cluster, TargetError> {
        let endpoint = kubeconfig::read(kubeconfig, context)?;
        Ok(Cluster {
            client: Client::new(endpoint),
        })
    }

    /// Its nodes, by name.
    ///
    /// # Errors
    /// The API server does not answer, or not with a list.
    pub async fn nodes(&self) -> Result<Vec<NodeAddress>, TargetError> {
        let list: List<Node> = self.get(self.url(&["api", "v1", "nodes"])).await?;
        let mut nodes: Vec<_> = list.items.into_iter().map(node_address).collect();
        nodes.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(nodes)
    }

    /// The node of that name.
    ///
    /// # Errors
    /// There is none, or the API server does not answer.
    pub async fn node(&self, name: &str) -> Result<NodeAddress, TargetError> {
        let node: Node = self.get(self.url(&["api", "v1", "nodes", name])).await?;
        Ok(node_address(node))
    }

    /// Who we are to it, and how it is recognised.
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

/// The object in an answer of the API server.
fn parse_object<T: DeserializeOwned>(request: &str, response: &HttpResponse) -> Result<T, TargetError> {
    if !(200..300).contains(&response.status) {
        return Err(TargetError::NotReady(format!(
            "the API server answers {request}: {}",
            response.summary()
        )));
    }
    serde_json::from_str(&response.body)
        .and_then(serde_json::from_value::<T>)
        .map_err(|error| TargetError::NotReady(format!("the API server's answer to {request} cannot be read: {error}")))
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
