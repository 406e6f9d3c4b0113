//! A running kubelet, reached by its URL.

use std::{fs, path::PathBuf};

use reqwest::Url;

use super::{
    Client, ContainerRef, ExtraIdentities, FakeCriControl, HttpsEndpoint, Identity, Kubelet, ServerVerification,
    SiblingContainers, TargetError, kubelet_version, pod,
};
use crate::{engine::Suite, report, tls::CertificateKeyPair};

/// How to reach a running kubelet.
#[derive(Clone, Debug)]
pub struct UrlTarget {
    /// `https://HOST:PORT`.
    pub url: Url,
    /// The credentials of the authorized user.
    pub credential: CredentialFiles,
    /// The CA certificates for the kubelet's certificate (PEM file). `None` disables the verification.
    pub ca_file: Option<PathBuf>,
    /// The rest of the target.
    pub running: RunningKubelet,
}

/// What a run uses of a running kubelet, however it is reached.
#[derive(Clone, Debug)]
pub struct RunningKubelet {
    /// The credentials of a user who is authenticated and not authorized to checkpoint. Needed by the cases about 403.
    pub denied_credential: Option<CredentialFiles>,
    /// The container under test.
    pub container: ContainerRef,
    /// Whether cases checkpoint the other containers of the Pod as well.
    pub include_siblings: bool,
    /// Whether cases may put the kubelet under load.
    pub allow_load: bool,
    /// The kubelet's `checkpoints` directory as a local path.
    pub checkpoints_dir: Option<PathBuf>,
    /// The control socket, if the runtime is a fake-cri.
    pub control_socket: Option<PathBuf>,
}

/// Files with credentials.
#[derive(Clone, Debug)]
pub enum CredentialFiles {
    /// A client certificate and its key (PEM files).
    Certificate {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A file with a bearer token.
    Token(PathBuf),
}

impl CredentialFiles {
    /// Reads the files.
    pub(super) fn read(&self) -> Result<Identity, TargetError> {
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(TargetError::file(path));
        Ok(match self {
            CredentialFiles::Certificate { certificate, key } => Identity::Certificate(CertificateKeyPair {
                certificate: read(certificate)?,
                key: read(key)?,
            }),
            CredentialFiles::Token(path) => Identity::Token(read(path)?.trim().to_owned()),
        })
    }
}

impl UrlTarget {
    /// Reads the files, connects to the control socket, and checks that the kubelet responds.
    ///
    /// # Errors
    /// A file cannot be read, or the kubelet or the control socket does not respond.
    pub async fn connect(self) -> Result<Kubelet, TargetError> {
        let verification = match &self.ca_file {
            Some(path) => ServerVerification::CaBundle(fs::read_to_string(path).map_err(TargetError::file(path))?),
            None => ServerVerification::Insecure,
        };
        let client = Client::new(HttpsEndpoint {
            base_url: self.url.clone(),
            verification,
            identity: self.credential.read()?,
            extra_identities: self.running.extra_identities()?,
            read_only: None,
        });
        client.get("/healthz").await?;

        let description = format!("the kubelet at {}, container {}", self.url, self.running.container);
        let target_info = report::TargetInfo::new(Suite::Kubelet, "url", description, self.url.as_str());
        self.running.into_kubelet(client, target_info).await
    }
}

impl RunningKubelet {
    /// The identities besides the authorized user.
    pub(super) fn extra_identities(&self) -> Result<ExtraIdentities, TargetError> {
        Ok(ExtraIdentities {
            denied_user: self.denied_credential.as_ref().map(CredentialFiles::read).transpose()?,
            ..ExtraIdentities::default()
        })
    }

    /// Completes the target. Finds the siblings of the container, and connects to the control socket.
    pub(super) async fn into_kubelet(
        self,
        client: Client,
        mut target_info: report::TargetInfo,
    ) -> Result<Kubelet, TargetError> {
        target_info.container = self.container.to_string();
        target_info.product = kubelet_version::detect(&client).await;
        let siblings = if self.include_siblings {
            pod::discover_siblings(&client, &self.container).await
        } else {
            SiblingContainers::default()
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
