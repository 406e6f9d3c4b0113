//! A kubelet that runs already, by its URL.

use std::{fs, path::PathBuf};

use reqwest::Url;

use super::{
    Access, Client, ContainerRef, Credentials, Faults, Identity, Kubelet, Neighbours, Others, TargetError, Trust, pod,
    product,
};
use crate::{case::Suite, report};

/// How a running kubelet is reached.
#[derive(Clone, Debug)]
pub struct UrlTarget {
    /// `https://HOST:PORT`.
    pub url: Url,
    /// Who we are.
    pub credential: Credential,
    /// Who is known to the kubelet and may not checkpoint: with this the cases about 403 can be judged.
    pub denied: Option<Credential>,
    /// The authorities of its certificate (PEM file); `None` does not check it.
    pub ca: Option<PathBuf>,
    /// The container that is checkpointed.
    pub container: ContainerRef,
    /// The other containers of its Pod are checkpointed as well.
    pub siblings: bool,
    /// Cases may load the kubelet on purpose.
    pub load: bool,
    /// Its `checkpoints` folder as it can be read from here.
    pub checkpoints: Option<PathBuf>,
    /// The control socket of the fake-cri that is its runtime.
    pub control: Option<PathBuf>,
}

/// Files that hold credentials.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A client certificate and its key (PEM files).
    Certificate {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A file that holds a bearer token.
    Token(PathBuf),
}

impl Credential {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn read(&self) -> Result<Identity, TargetError> {
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(TargetError::file(path));
        Ok(match self {
            Credential::Certificate { certificate, key } => Identity::Certificate {
                certificate: read(certificate)?,
                key: read(key)?,
            },
            Credential::Token(path) => Identity::Token(read(path)?.trim().to_owned()),
        })
    }
}

impl UrlTarget {
    /// Reads the files, connects to the control socket, and asks the kubelet once whether it is there.
    ///
    /// # Errors
    /// A file that cannot be read, a kubelet or a control socket that does not answer.
    pub async fn connect(self) -> Result<Kubelet, TargetError> {
        let trust = match &self.ca {
            Some(path) => Trust::Authorities(fs::read_to_string(path).map_err(TargetError::file(path))?),
            None => Trust::Insecure,
        };
        let client = Client::new(Access {
            base: self.url.clone(),
            trust,
            identity: self.credential.read()?,
            others: Others {
                denied: self.denied.as_ref().map(Credential::read).transpose()?,
                ..Others::default()
            },
            read_only: None,
        });
        client
            .send(Credentials::Good, reqwest::Method::GET, client.url("/healthz"))
            .await?;

        let product = product::of_kubelet(&client).await;
        let about = report::Target {
            suite: Suite::Kubelet,
            kind: "url".to_owned(),
            description: format!("the kubelet at {}, container {}", self.url, self.container),
            endpoint: self.url.to_string(),
            container: self.container.to_string(),
            node: None,
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
        if let Some(socket) = &self.control {
            kubelet.faults = Some(Faults::connect(socket).await?);
        }
        Ok(kubelet)
    }
}
