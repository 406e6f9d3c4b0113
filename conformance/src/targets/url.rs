//! A kubelet that runs already, by its URL.

use std::{fs, path::PathBuf};

use reqwest::Url;

use super::{
    Client, ContainerRef, Credentials, ExtraIdentities, FakeCriControl, HttpsEndpoint, Identity, Kubelet,
    ServerVerification, SiblingContainers, TargetError, kubelet_version, pod,
};
use crate::{engine::Suite, report};

/// How a running kubelet is reached.
#[derive(Clone, Debug)]
pub struct UrlTarget {
    /// `https://HOST:PORT`.
    pub url: Url,
    /// Who we are.
    pub credential: CredentialFiles,
    /// Who is known to the kubelet and may not checkpoint: with this the cases about 403 can be judged.
    pub denied_credential: Option<CredentialFiles>,
    /// The authorities of its certificate (PEM file); `None` does not check it.
    pub ca_file: Option<PathBuf>,
    /// The container that is checkpointed.
    pub container: ContainerRef,
    /// The other containers of its Pod are checkpointed as well.
    pub include_siblings: bool,
    /// Cases may load the kubelet on purpose.
    pub allow_load: bool,
    /// Its `checkpoints` directory as it can be read from here.
    pub checkpoints_dir: Option<PathBuf>,
    /// The control socket of the fake-cri that is its runtime.
    pub control_socket: Option<PathBuf>,
}

/// Files that hold credentials.
#[derive(Clone, Debug)]
pub enum CredentialFiles {
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

impl CredentialFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn read(&self) -> Result<Identity, TargetError> {
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(TargetError::file(path));
        Ok(match self {
            CredentialFiles::Certificate { certificate, key } => Identity::Certificate {
                certificate: read(certificate)?,
                key: read(key)?,
            },
            CredentialFiles::Token(path) => Identity::Token(read(path)?.trim().to_owned()),
        })
    }
}

impl UrlTarget {
    /// Reads the files, connects to the control socket, and asks the kubelet once whether it is there.
    ///
    /// # Errors
    /// A file that cannot be read, a kubelet or a control socket that does not answer.
    pub async fn connect(self) -> Result<Kubelet, TargetError> {
        let verification = match &self.ca_file {
            Some(path) => ServerVerification::CaBundle(fs::read_to_string(path).map_err(TargetError::file(path))?),
            None => ServerVerification::Insecure,
        };
        let client = Client::new(HttpsEndpoint {
            base_url: self.url.clone(),
            verification,
            identity: self.credential.read()?,
            extra_identities: ExtraIdentities {
                denied_user: self.denied_credential.as_ref().map(CredentialFiles::read).transpose()?,
                ..ExtraIdentities::default()
            },
            read_only: None,
        });
        client
            .send(Credentials::Authorized, reqwest::Method::GET, client.url("/healthz"))
            .await?;

        let product = kubelet_version::detect(&client).await;
        let target_info = report::TargetInfo {
            suite: Suite::Kubelet,
            kind: "url".to_owned(),
            description: format!("the kubelet at {}, container {}", self.url, self.container),
            endpoint: self.url.to_string(),
            container: self.container.to_string(),
            node: None,
            mutant: None,
            product,
        };
        let siblings = match self.include_siblings {
            true => pod::discover_siblings(&client, &self.container).await,
            false => SiblingContainers::default(),
        };
        let mut kubelet = Kubelet::new(target_info, client, self.container);
        kubelet.siblings = siblings;
        kubelet.checkpoints_dir = self.checkpoints_dir;
        kubelet.allow_load = self.allow_load;
        if let Some(socket) = &self.control_socket {
            kubelet.fake_cri = Some(FakeCriControl::connect(socket).await?);
        }
        Ok(kubelet)
    }
}
