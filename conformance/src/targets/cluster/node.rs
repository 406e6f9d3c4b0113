//! The kubelet of one node, reached directly or through the API server.

use std::{fs, path::PathBuf};

use reqwest::{Method, Url};

use super::{
    super::{
        Client, ContainerRef, CredentialFiles, Credentials, ExtraIdentities, FakeCriControl, HttpsEndpoint, Kubelet,
        ServerVerification, SiblingContainers, TargetError, kubelet_version, pod,
    },
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
    /// The container under test.
    pub container: ContainerRef,
    /// The credentials of a user who is authenticated and not authorized to checkpoint.
    pub denied_credential: Option<CredentialFiles>,
    /// Whether cases checkpoint the other containers of the Pod as well.
    pub include_siblings: bool,
    /// Whether cases may put the kubelet under load.
    pub allow_load: bool,
    /// The kubelet's `checkpoints` directory as a local path.
    pub checkpoints_dir: Option<PathBuf>,
    /// The control socket, if the runtime is a fake-cri.
    pub control_socket: Option<PathBuf>,
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
        let result = client
            .send(Credentials::Authorized, Method::GET, client.url("/healthz"))
            .await;
        let response = result.map_err(|error| no_response(error.to_string()))?;
        if self.route == KubeletRoute::NodeProxy && matches!(response.status, 502..=504) {
            return Err(no_response(format!("the API server returned {}", response.summary())));
        }
        let product = kubelet_version::detect(&client).await;
        let target_info = report::TargetInfo {
            suite: Suite::Kubelet,
            kind: if self.route == KubeletRoute::NodeProxy {
                "node-proxy"
            } else {
                "node"
            }
            .to_owned(),
            description: format!("the kubelet of node {name}, container {}", self.container),
            endpoint: client.endpoint().base_url.to_string(),
            container: self.container.to_string(),
            node: Some(name),
            mutant: None,
            product,
        };
        let siblings = if self.include_siblings {
            pod::discover_siblings(&client, &self.container).await
        } else {
            SiblingContainers::default()
        };
        let mut kubelet = Kubelet::new(target_info, client, self.container);
        kubelet.siblings = siblings;
        kubelet.checkpoints_dir = self.checkpoints_dir;
        kubelet.allow_load = self.allow_load;
        kubelet.through_node_proxy = self.route == KubeletRoute::NodeProxy;
        if let Some(socket) = &self.control_socket {
            kubelet.fake_cri = Some(FakeCriControl::connect(socket).await?);
        }
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
            extra_identities: ExtraIdentities {
                denied_user: self.denied_credential.as_ref().map(CredentialFiles::read).transpose()?,
                ..ExtraIdentities::default()
            },
            read_only: None,
        })
    }
}
