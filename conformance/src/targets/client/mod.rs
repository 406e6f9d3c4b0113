//! HTTPS requests to a kubelet, with known, unknown or no credentials.

use std::{collections::HashMap, time::Duration};

use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use tokio::sync::Mutex;

use super::{ContainerRef, TargetError};
use crate::{
    evidence::{EvidenceKind, record},
    tls::{CertificateAuthority, CertificateKeyPair},
};

mod near_credentials;
mod raw;
mod request_log;

pub use near_credentials::{InvalidCertificate, TokenAlteration};
pub use raw::{Protocol, RawRequest};
pub use request_log::{RequestLog, SentRequest};

const INVALID_TOKEN: &str = "checkpoint-conformance-nobody-issued-this";
/// Longer than any response may take, and shorter than a case's time limit, so that the case's error names the request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// The address of a kubelet or API server, with the credentials for it.
#[derive(Clone, Debug)]
pub struct HttpsEndpoint {
    /// `https://HOST:PORT/`, or a path below that, with a trailing slash.
    pub base_url: Url,
    /// How to verify the server's certificate.
    pub verification: ServerVerification,
    /// The credentials of the authorized user.
    pub identity: Identity,
    /// The credentials of other known users.
    pub extra_identities: ExtraIdentities,
    /// The read-only port, which does not authenticate: `http://HOST:PORT/`.
    pub read_only: Option<Url>,
}

/// Users that the kubelet knows besides the authorized user.
#[derive(Clone, Debug, Default)]
pub struct ExtraIdentities {
    /// A user who may not checkpoint.
    pub denied_user: Option<Identity>,
    /// Another user who may read the metrics and may not checkpoint.
    pub metrics_reader: Option<Identity>,
    /// A user who has `create nodes/proxy` and may not checkpoint.
    pub node_proxy_user: Option<Identity>,
    /// A user who may checkpoint, with a bearer token.
    pub token_user: Option<Identity>,
    /// Certificates of the authorized user that have one defect each. Empty if the harness does not know the key of the
    /// kubelet's client CA.
    pub invalid_certificates: Vec<(InvalidCertificate, Identity)>,
}

impl HttpsEndpoint {
    /// All known credentials.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        let ExtraIdentities {
            denied_user,
            metrics_reader,
            node_proxy_user,
            token_user,
            invalid_certificates,
        } = &self.extra_identities;
        let extra_identities = [denied_user, metrics_reader, node_proxy_user, token_user]
            .into_iter()
            .flatten();
        let invalid_certificates = invalid_certificates.iter().map(|(_, identity)| identity);
        std::iter::once(&self.identity)
            .chain(extra_identities)
            .chain(invalid_certificates)
    }

    /// The bearer token of a user who may checkpoint.
    pub fn valid_token(&self) -> Option<&str> {
        [self.extra_identities.token_user.as_ref(), Some(&self.identity)]
            .into_iter()
            .flatten()
            .find_map(|identity| match identity {
                Identity::Token(token) => Some(token.as_str()),
                Identity::Certificate(_) => None,
            })
    }
}

/// How to verify a kubelet's certificate.
#[derive(Clone, Debug)]
pub enum ServerVerification {
    /// With these CA certificates, or this self-signed certificate (PEM).
    CaBundle(String),
    /// Not at all.
    Insecure,
}

/// The credentials of a user.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A client certificate with its key (PEM).
    Certificate(CertificateKeyPair),
    /// A bearer token.
    Token(String),
}

/// The credentials that a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Those of the authorized user.
    Authorized,
    /// Those of an authenticated user without permission.
    Denied,
    /// Those of a user who has `create nodes/proxy` and may not checkpoint.
    NodeProxyOnly,
    /// A bearer token of a user who may checkpoint.
    ValidToken,
    /// None.
    Anonymous,
    /// A bearer token that the kubelet does not know.
    InvalidToken,
    /// A bearer token that is almost valid.
    AlteredToken(TokenAlteration),
    /// A client certificate from a CA that the kubelet does not know.
    UntrustedCertificate,
    /// A client certificate that is almost valid.
    InvalidCertificate(InvalidCertificate),
    /// Those of a user who may read the metrics and not checkpoint.
    MetricsReader,
    /// The certificate of the authorized user and an unknown bearer token.
    CertificateAndInvalidToken,
    /// A valid bearer token, with the scheme `bearer` in lower case.
    ValidTokenLowerCaseScheme,
    /// A valid bearer token and a certificate from a CA that the kubelet does not know.
    ValidTokenAndUntrustedCertificate,
}

/// What a request presents.
#[derive(Clone, Debug, Default)]
struct Presented {
    certificate: Option<CertificateKeyPair>,
    /// The value of the Authorization header.
    authorization: Option<String>,
}

impl Presented {
    fn new(identity: Option<Identity>) -> Presented {
        match identity {
            None => Presented::default(),
            Some(Identity::Certificate(certificate)) => Presented {
                certificate: Some(certificate),
                authorization: None,
            },
            Some(Identity::Token(token)) => Presented {
                certificate: None,
                authorization: Some(format!("Bearer {token}")),
            },
        }
    }
}

/// The response to a request.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text; invalid UTF-8 is replaced.
    pub body: String,
}

impl HttpResponse {
    /// The value of a header; empty if the header is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    fn record_evidence(&self) {
        record(EvidenceKind::Response, || {
            format!("{}\n{}\n\n{}", self.status, header_lines(&self.headers), self.body)
        });
    }

    /// Status and body in one line, truncated.
    pub fn summary(&self) -> String {
        const MAX_BODY_CHARS: usize = 300;
        if self.body.is_empty() {
            return format!("{} without a body", self.status);
        }
        let quoted = format!("{:?}", self.body);
        match quoted.char_indices().nth(MAX_BODY_CHARS) {
            Some((end, _)) => format!("{} {}...", self.status, &quoted[..end]),
            None => format!("{} {quoted}", self.status),
        }
    }
}

/// A client for one kubelet. Each kind of credentials has its own connections.
#[derive(Debug)]
pub struct Client {
    endpoint: HttpsEndpoint,
    requests: RequestLog,
    clients: Mutex<HashMap<Credentials, reqwest::Client>>,
}

impl Client {
    /// Creates a client. It connects with the first request.
    pub fn new(endpoint: HttpsEndpoint) -> Client {
        Client {
            endpoint,
            requests: RequestLog::default(),
            clients: Mutex::default(),
        }
    }

    /// The checkpoint requests of this client, and of those that it shares the log with.
    pub fn requests(&self) -> &RequestLog {
        &self.requests
    }

    /// Continues the log of another client of the same kubelet.
    #[must_use]
    pub fn with_requests(self, requests: RequestLog) -> Client {
        Client { requests, ..self }
    }

    /// The address and credentials of the kubelet.
    pub fn endpoint(&self) -> &HttpsEndpoint {
        &self.endpoint
    }

    /// The URL of a container's checkpoint endpoint. Path segments are percent-encoded; the query may be empty.
    pub fn checkpoint_url(&self, container: &ContainerRef, query: &str) -> Url {
        let ContainerRef {
            namespace,
            pod,
            container,
        } = container;
        let mut url = self.url_from_segments(["checkpoint", namespace, pod, container]);
        url.set_query((!query.is_empty()).then_some(query));
        url
    }

    /// The URL of a path with these segments, which are percent-encoded.
    pub fn url_from_segments<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The URL of this path and query.
    pub fn url(&self, path_and_query: &str) -> Url {
        let base = &self.endpoint.base_url;
        // Relative to the base URL, which has a path if the kubelet is reached through a proxy.
        base.join(path_and_query.trim_start_matches('/'))
            .unwrap_or_else(|_| base.clone())
    }

    /// Sends a request without body and returns the response, whatever its status.
    ///
    /// # Errors
    /// The connection fails or breaks, or there is no response in time.
    pub async fn send(&self, credentials: Credentials, method: Method, url: Url) -> Result<HttpResponse, TargetError> {
        self.send_with(credentials, method, url, HeaderMap::new(), Vec::new())
            .await
    }

    /// Sends a GET for this path as [`Credentials::Authorized`].
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, path: &str) -> Result<HttpResponse, TargetError> {
        self.send(Credentials::Authorized, Method::GET, self.url(path)).await
    }

    /// Sends a request with headers and a body.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_with(
        &self,
        credentials: Credentials,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<HttpResponse, TargetError> {
        let to_error = |source: reqwest::Error| TargetError::NoAnswer {
            url: url.to_string(),
            source: source.without_url(),
        };
        let method_name = method.clone();
        let mut request = self
            .client(credentials)
            .await?
            .request(method, url.clone())
            .headers(headers);
        if let Some(authorization) = self.presented(credentials)?.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.body(body);
        }
        let evidence = request.try_clone().and_then(|request| request.build().ok());
        record(EvidenceKind::Request, || match &evidence {
            Some(request) => describe(request, credentials),
            None => url.to_string(),
        });
        let pending = self
            .requests
            .begin(url.path(), || format!("{method_name} {url} as {credentials:?}"));
        let response = request.send().await.map_err(to_error)?;
        let response = Self::read(response).await.map_err(to_error)?;
        pending.answered(response.status);
        Ok(response)
    }

    /// Sends a request to the read-only port; `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_read_only(&self, method: Method, path: &str) -> Result<Option<HttpResponse>, TargetError> {
        let Some(base) = &self.endpoint.read_only else {
            return Ok(None);
        };
        let to_error = |source: reqwest::Error| TargetError::NoAnswer {
            url: format!("{base}{path}"),
            source: source.without_url(),
        };
        let url = base.join(path).unwrap_or_else(|_| base.clone());
        record(EvidenceKind::Request, || format!("{method} {url}\nas: Anonymous"));
        let client = self.client(Credentials::Anonymous).await?;
        let pending = self
            .requests
            .begin(url.path(), || format!("{method} {url} on the read-only port"));
        let response = client.request(method, url).send().await.map_err(to_error)?;
        let response = Self::read(response).await.map_err(to_error)?;
        pending.answered(response.status);
        Ok(Some(response))
    }

    async fn read(response: reqwest::Response) -> reqwest::Result<HttpResponse> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await?;
        let response = HttpResponse {
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        response.record_evidence();
        Ok(response)
    }

    /// What a request with these credentials presents: nothing if they are unknown. An untrusted certificate is created
    /// anew each time.
    fn presented(&self, credentials: Credentials) -> Result<Presented, TargetError> {
        let extra_identities = &self.endpoint.extra_identities;
        let valid_token = || self.endpoint.valid_token().map(str::to_owned);
        let identity = match credentials {
            Credentials::Authorized => Some(self.endpoint.identity.clone()),
            Credentials::Denied => extra_identities.denied_user.clone(),
            Credentials::MetricsReader => extra_identities
                .metrics_reader
                .as_ref()
                .or(extra_identities.denied_user.as_ref())
                .cloned(),
            Credentials::NodeProxyOnly => extra_identities.node_proxy_user.clone(),
            Credentials::ValidToken => valid_token().map(Identity::Token),
            Credentials::InvalidToken => Some(Identity::Token(INVALID_TOKEN.to_owned())),
            Credentials::AlteredToken(alteration) => valid_token()
                .and_then(|token| alteration.apply(&token))
                .map(Identity::Token),
            Credentials::UntrustedCertificate => Some(Identity::Certificate(untrusted_certificate()?)),
            Credentials::InvalidCertificate(defect) => extra_identities
                .invalid_certificates
                .iter()
                .find(|(known, _)| *known == defect)
                .map(|(_, identity)| identity.clone()),
            Credentials::Anonymous => None,
            Credentials::CertificateAndInvalidToken => {
                return Ok(Presented {
                    authorization: Some(format!("Bearer {INVALID_TOKEN}")),
                    ..Presented::new(Some(self.endpoint.identity.clone()))
                });
            }
            Credentials::ValidTokenAndUntrustedCertificate => {
                return Ok(Presented {
                    certificate: Some(untrusted_certificate()?),
                    ..Presented::new(valid_token().map(Identity::Token))
                });
            }
            Credentials::ValidTokenLowerCaseScheme => {
                return Ok(Presented {
                    certificate: None,
                    authorization: valid_token().map(|token| format!("bearer {token}")),
                });
            }
        };
        Ok(Presented::new(identity))
    }

    async fn client(&self, credentials: Credentials) -> Result<reqwest::Client, TargetError> {
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&credentials) {
            return Ok(client.clone());
        }
        let client = self.build_client(credentials)?;
        clients.insert(credentials, client.clone());
        Ok(client)
    }

    fn build_client(&self, credentials: Credentials) -> Result<reqwest::Client, TargetError> {
        // The provider is global. An error only means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .timeout(RESPONSE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // Most clients use HTTP/1.1, and newer kubelets offer nothing else. One case compares it with HTTP/2.
            .http1_only()
            .no_proxy();
        builder = match &self.endpoint.verification {
            ServerVerification::CaBundle(pem) => {
                let authorities = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(TargetError::Client)?;
                builder.tls_certs_only(authorities)
            }
            ServerVerification::Insecure => builder.tls_danger_accept_invalid_certs(true),
        };
        if let Some(CertificateKeyPair { certificate, key }) = self.presented(credentials)?.certificate {
            let pem = format!("{certificate}\n{key}");
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(TargetError::Client)?);
        }
        builder.build().map_err(TargetError::Client)
    }
}

fn untrusted_certificate() -> Result<CertificateKeyPair, TargetError> {
    // The subject of a cluster administrator, so that only the issuer is wrong.
    let authority = CertificateAuthority::new("checkpoint-conformance stranger")?;
    Ok(authority.issue_client("system:admin", "system:masters")?)
}

/// A request as evidence. Names the kind of credentials and never contains them.
fn describe(request: &reqwest::Request, credentials: Credentials) -> String {
    let mut headers = request.headers().clone();
    headers.remove(AUTHORIZATION);
    let headers = header_lines(&headers);
    format!("{} {}\nas: {credentials:?}\n{headers}", request.method(), request.url())
        .trim_end()
        .to_owned()
}

fn header_lines(headers: &HeaderMap) -> String {
    let formatted: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    formatted.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(HttpsEndpoint {
            base_url: Url::parse("https://127.0.0.1:10250/").unwrap(),
            verification: ServerVerification::Insecure,
            identity: Identity::Token("t".to_owned()),
            extra_identities: ExtraIdentities::default(),
            read_only: None,
        })
    }

    fn container(path: &str) -> ContainerRef {
        let names: Vec<_> = path.split('/').map(|name| name.replace('|', "/")).collect();
        let [namespace, pod, container] = names.try_into().unwrap();
        ContainerRef {
            namespace,
            pod,
            container,
        }
    }

    #[test]
    fn encodes_names_and_keeps_the_query() {
        let url = client().checkpoint_url(&container("default/a|b/ü c"), "timeout=");
        assert_eq!(
            url.as_str(),
            "https://127.0.0.1:10250/checkpoint/default/a%2Fb/%C3%BC%20c?timeout="
        );
        assert_eq!(
            client().checkpoint_url(&container("a/b/c"), "").as_str(),
            "https://127.0.0.1:10250/checkpoint/a/b/c"
        );
    }

    #[test]
    fn summary_truncates_a_long_body() {
        let response = HttpResponse {
            status: 500,
            headers: HeaderMap::new(),
            body: "ä".repeat(1000),
        };
        assert!(response.summary().chars().count() < 320);
    }

    #[tokio::test]
    async fn reports_why_a_kubelet_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut endpoint = client().endpoint;
        endpoint
            .base_url
            .set_port(Some(listener.local_addr().unwrap().port()))
            .unwrap();
        drop(listener);
        let client = Client::new(endpoint);
        let error = client
            .send(Credentials::Authorized, Method::GET, client.url("/healthz"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
