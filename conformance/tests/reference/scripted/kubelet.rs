//! A reference kubelet with credentials of every kind, and clients for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use checkpoint_conformance::reference_kubelet::{Config, ReferenceKubelet};
use http::{Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use reqwest::{Client, Identity, Response};

use super::runtime::ScriptedRuntime;

/// A Pod with an init container and two containers.
pub const WEB_POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {example.dev/of-the-pod: 'yes'}
  labels: {app: web}
spec:
  initContainers:
  - {name: first, image: busybox:1}
  containers:
  - {name: app, image: busybox:1}
  - {name: side, image: busybox:1}
";

/// A reference kubelet with a scripted runtime.
pub struct TestKubelet {
    pub runtime: ScriptedRuntime,
    pub kubelet: ReferenceKubelet,
    pub directory: tempfile::TempDir,
    /// A client with a certificate for user `alice` in group `admins`.
    pub client: Client,
}

/// The identity of a client.
pub enum ClientIdentity {
    Anonymous,
    /// A certificate of the trusted CA for this user.
    User(&'static str),
    /// A certificate for the same name from an untrusted CA.
    UntrustedCertificate,
    Token(&'static str),
    /// No credentials; HTTP/2 if the server offers it.
    AnonymousHttp2,
}

impl TestKubelet {
    /// Starts a kubelet with the Pod [`WEB_POD`] and waits until its containers run.
    pub async fn start() -> Self {
        let kubelet = Self::with_config(|_| {}).await;
        kubelet.wait_until_ready().await;
        kubelet
    }

    /// Starts a kubelet with a changed configuration, without waiting for Pods.
    pub async fn with_config(configure: impl FnOnce(&mut Config)) -> Self {
        let runtime = ScriptedRuntime::start();
        let directory = tempfile::tempdir().unwrap();
        Self::over_runtime(runtime, directory, configure).await
    }

    pub async fn over_runtime(
        runtime: ScriptedRuntime,
        directory: tempfile::TempDir,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let manifests = directory.path().join("manifests");
        std::fs::create_dir_all(&manifests).unwrap();
        std::fs::write(manifests.join("web.yaml"), WEB_POD).unwrap();
        std::fs::write(directory.path().join("tokens.csv"), "secret,bob,1,\"ops\"\n").unwrap();
        let ca = authority("ca");
        std::fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        let mut config = Config::new(directory.path().join("root"), runtime.endpoint());
        config.node_name = "Node".to_owned();
        config.static_pod_path = Some(manifests);
        config.client_ca_file = Some(directory.path().join("ca.crt"));
        config.token_auth_file = Some(directory.path().join("tokens.csv"));
        config.relist_period = Duration::from_millis(5);
        config.file_check_frequency = Duration::from_millis(20);
        config.restart_backoff = Duration::from_millis(1);
        configure(&mut config);
        let kubelet = ReferenceKubelet::start(config).await.unwrap();
        let client = client(&ClientIdentity::User("alice"), kubelet.certificate(), &ca);
        let kubelet = Self {
            runtime,
            kubelet,
            directory,
            client,
        };
        std::fs::write(kubelet.directory.path().join("ca.key"), ca.key().serialize_pem()).unwrap();
        kubelet
    }

    /// Waits until the init container has exited and both containers run.
    pub async fn wait_until_ready(&self) {
        self.finish_init_container().await;
        self.wait_for_pods("both containers run", |pods| {
            pods["items"][0]["status"]["phase"] == "Running"
        })
        .await;
    }

    /// Waits for the init container and makes it exit.
    pub async fn finish_init_container(&self) {
        let first = |runtime: &ScriptedRuntime| {
            runtime
                .containers()
                .iter()
                .any(|(name, _, state)| name == "first" && *state as i32 == 1)
        };
        self.runtime.wait_until("the init container runs", first).await;
        self.runtime.exit_container("first", 0);
    }

    /// Requests the Pods until a condition holds.
    pub async fn wait_for_pods(&self, description: &str, mut condition: impl FnMut(&serde_json::Value) -> bool) {
        let mut last = serde_json::Value::Null;
        for _ in 0..2000 {
            last = self.get("/pods").await.json().await.unwrap();
            if condition(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("timeout: {description}: {last:#}");
    }

    pub fn client_as(&self, client_identity: &ClientIdentity) -> Client {
        let key = KeyPair::from_pem(&std::fs::read_to_string(self.directory.path().join("ca.key")).unwrap()).unwrap();
        let ca = CertifiedIssuer::self_signed(authority_params("ca"), key).unwrap();
        client(client_identity, self.kubelet.certificate(), &ca)
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.kubelet.address())
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn post(&self, path: &str) -> Response {
        self.client.post(self.url(path)).send().await.unwrap()
    }

    /// Sends a request; returns status, content type and body.
    pub async fn send(&self, method: Method, path: &str) -> (StatusCode, String, String) {
        read_response(self.client.request(method, self.url(path)).send().await.unwrap()).await
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.root().join("checkpoints")
    }
}

/// Returns status, content type and body of a response.
pub async fn read_response(response: Response) -> (StatusCode, String, String) {
    let kind = response
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    (
        response.status(),
        kind.unwrap_or_default(),
        response.text().await.unwrap(),
    )
}

pub fn file_mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn client(client_identity: &ClientIdentity, server: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> Client {
    // Another test in this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(server.as_bytes()).unwrap()])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30));
    if !matches!(client_identity, ClientIdentity::AnonymousHttp2) {
        builder = builder.http1_only();
    }
    builder = match client_identity {
        ClientIdentity::Anonymous | ClientIdentity::AnonymousHttp2 => builder,
        ClientIdentity::User(name) => builder.identity(identity(name, ca)),
        ClientIdentity::UntrustedCertificate => builder.identity(identity("alice", &authority("other"))),
        ClientIdentity::Token(token) => {
            let value = format!("Bearer {token}").parse().unwrap();
            builder.default_headers(http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]))
        }
    };
    builder.build().unwrap()
}

fn identity(name: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> Identity {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "admins");
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    Identity::from_pem(format!("{}{}", certificate.pem(), key.serialize_pem()).as_bytes()).unwrap()
}
