//! The kubelet of one node: direct, or through the API server.

use std::{fs, path::PathBuf};

use reqwest::{Method, Url};

use super::{
    super::{
        Access, Client, ContainerRef, Credential, Credentials, Faults, Kubelet, Neighbours, Others, TargetError, Trust,
        pod, product,
    },
    Cluster, NodeAddress,
};
use crate::{case::Suite, report};

/// How the kubelet of a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// At the node's own address. Its certificate is checked against these authorities (PEM file), or those of the
    /// kubeconfig.
    Direct(Option<PathBuf>),
    /// At the node's own address, its certificate unchecked.
    Insecure,
    /// Through the API server's node proxy.
    Proxy,
}

/// A kubelet of a cluster.
#[derive(Clone, Debug)]
pub struct NodeTarget {
    /// Its node.
    pub node: NodeAddress,
    /// How it is reached.
    pub way: Way,
    /// The container that is checkpointed.
    pub container: ContainerRef,
    /// Who is known to the kubelet and may not checkpoint.
    pub denied: Option<Credential>,
    /// The other containers of its Pod are checkpointed as well.
    pub siblings: bool,
    /// Cases may load the kubelet on purpose.
    pub load: bool,
    /// Its `checkpoints` folder as it can be read from here.
    pub checkpoints: Option<PathBuf>,
    /// The control socket of the fake-cri that is its runtime.
    pub control: Option<PathBuf>,
}

impl NodeTarget {
    /// Asks the kubelet once whether it is there.
    ///
    /// # Errors
    /// It does not answer, or the API server cannot reach it; with the node's name.
    pub async fn connect(self, cluster: &Cluster) -> Result<Kubelet, TargetError> {
        let name = self.node.name.clone();
        let down = |why: String| TargetError::NotReady(format!("the kubelet of node {name} does not answer: {why}"));
        let client = Client::new(self.access(cluster)?);
        let asked = client
            .send(Credentials::Good, Method::GET, client.url("/healthz"))
            .await;
        let answer = asked.map_err(|error| down(error.to_string()))?;
        if self.way == Way::Proxy && matches!(answer.status, 502..=504) {
            return Err(down(format!("the API server says {}", answer.brief())));
        }
        let product = product::of_kubelet(&client).await;
        let about = report::Target {
            suite: Suite::Kubelet,
            kind: if self.way == Way::Proxy { "node-proxy" } else { "node" }.to_owned(),
            description: format!("the kubelet of node {name}, container {}", self.container),
            endpoint: client.access().base.to_string(),
            container: self.container.to_string(),
            node: Some(name),
            mutant: None,
            product,
        };
        let neighbours = match self.siblings {
            true => pod::discover(&client, &self.container).await,
            false => Neighbours::default(),
        };
        let mut kubelet = Kubelet::new(about, client, self.container);
        kubelet.neighbours = neighbours;
        kubelet.checkpoints = self.checkpoints;
        kubelet.load = self.load;
        kubelet.proxied = self.way == Way::Proxy;
        if let Some(socket) = &self.control {
            kubelet.faults = Some(Faults::connect(socket).await?);
        }
        Ok(kubelet)
    }

    fn access(&self, cluster: &Cluster) -> Result<Access, TargetError> {
        let access = cluster.access();
        if self.way == Way::Proxy {
            let mut base = cluster.url(&["api", "v1", "nodes", &self.node.name, "proxy"]);
            base.set_path(&format!("{}/", base.path()));
            return Ok(Access { base, ..access.clone() });
        }
        let NodeAddress { name, address, port } = &self.node;
        let Some(address) = address else {
            let why = format!("node {name} has no address: reach it with --node-proxy");
            return Err(TargetError::NotReady(why));
        };
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        let base = format!("https://{host}:{port}/");
        let trust = match &self.way {
            Way::Insecure => Trust::Insecure,
            Way::Direct(Some(file)) => Trust::Authorities(fs::read_to_string(file).map_err(TargetError::file(file))?),
            _ => access.trust.clone(),
        };
        Ok(Access {
            base: Url::parse(&base).map_err(|error| TargetError::Argument(format!("{base}: {error}")))?,
            trust,
            identity: access.identity.clone(),
            others: Others {
                denied: self.denied.as_ref().map(Credential::read).transpose()?,
                ..Others::default()
            },
            read_only: None,
        })
    }
}
