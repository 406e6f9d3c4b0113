//! The kubelet of one node, reached directly or through the API server.

use std::{fs, path::PathBuf};

use reqwest::Url;

use super::{
    super::{Client, HttpsEndpoint, Kubelet, RunningKubelet, ServerVerification, TargetError},
    Cluster, NodeAddress,
};
use crate::{engine::Suite, report};

/// How to reach the kubelet of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletRoute {
    /// At the node's address. The kubelet's certificate is verified with these CA certificates (PEM file), or else with
    /// those of the kubeconfig.
    Direct(Option<PathBuf>),
    /// At the node's address, without verification of the certificate.
    DirectInsecure,
    /// Through the API server's node proxy.
    NodeProxy,
}

/// The kubelet of a node as a target.
#[derive(Clone, Debug)]
pub struct NodeTarget {
    /// The node.
    pub node: NodeAddress,
    /// How to reach the kubelet.
    pub route: KubeletRoute,
    /// The rest of the target.
    pub running: RunningKubelet,
}

impl NodeTarget {
    /// Connects and checks that the kubelet responds.
    ///
    /// # Errors
    /// The kubelet does not respond, or the API server cannot reach it. The error names the node.
    pub async fn connect(self, cluster: &Cluster) -> Result<Kubelet, TargetError> {
        let name = self.node.name.clone();
        let no_response =
            |why: String| TargetError::NotReady(format!("the kubelet of node {name} does not respond: {why}"));
        let client = Client::new(self.endpoint(cluster)?);
        let result = client.get("/healthz").await;
        let response = result.map_err(|error| no_response(error.to_string()))?;
        if self.route == KubeletRoute::NodeProxy && matches!(response.status, 502..=504) {
            return Err(no_response(format!("the API server returned {}", response.summary())));
        }
        let is_proxy = self.route == KubeletRoute::NodeProxy;
        let kind = if is_proxy { "node-proxy" } else { "node" };
        let description = format!("the kubelet of node {name}, container {}", self.running.container);
        let target_info = report::TargetInfo {
            node: Some(name),
            ..report::TargetInfo::new(Suite::Kubelet, kind, description, client.endpoint().base_url.as_str())
        };
        let mut kubelet = self.running.into_kubelet(client, target_info).await?;
        kubelet.through_node_proxy = is_proxy;
        Ok(kubelet)
    }

    fn endpoint(&self, cluster: &Cluster) -> Result<HttpsEndpoint, TargetError> {
        let endpoint = cluster.endpoint();
        if self.route == KubeletRoute::NodeProxy {
            let mut base = cluster.url(&["api", "v1", "nodes", &self.node.name, "proxy"]);
            base.set_path(&format!("{}/", base.path()));
            return Ok(HttpsEndpoint {
                base_url: base,
                ..endpoint.clone()
            });
        }
        let NodeAddress { name, address, port } = &self.node;
        let Some(address) = address else {
            let reason = format!("node {name} has no address: use --node-proxy");
            return Err(TargetError::NotReady(reason));
        };
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        let base = format!("https://{host}:{port}/");
        let verification = match &self.route {
            KubeletRoute::DirectInsecure => ServerVerification::Insecure,
            KubeletRoute::Direct(Some(file)) => {
                ServerVerification::CaBundle(fs::read_to_string(file).map_err(TargetError::file(file))?)
            }
            _ => endpoint.verification.clone(),
        };
        Ok(HttpsEndpoint {
            base_url: Url::parse(&base).map_err(|error| TargetError::Argument(format!("{base}: {error}")))?,
            verification,
            identity: endpoint.identity.clone(),
            extra_identities: self.running.extra_identities()?,
            read_only: None,
        })
    }
}
