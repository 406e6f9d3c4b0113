//! HTTPS to a kubelet, as someone it knows, as someone it does not, or as no one.

use std::{collections::HashMap, time::Duration};

use reqwest::{Method, Url, header::HeaderMap};
use tokio::sync::Mutex;

use super::{CertificateAuthority, TargetError};
use crate::evidence::{EvidenceKind, record};

mod raw;

pub use raw::Protocol;

/// What nobody issued.
const INVALID_TOKEN: &str = "checkpoint-conformance-nobody-issued-this";
/// Longer than any answer may take, shorter than a case's limit: the case says what did not answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a kubelet answers and how it is recognised.
#[derive(Clone, Debug)]
pub struct HttpsEndpoint {
    /// `https://HOST:PORT/`, or a path below that ends in a slash.
    pub base_url: Url,
    /// How its certificate is checked.
    pub verification: ServerVerification,
    /// Who we are when we have a right to be there.
    pub identity: Identity,
    /// Others whom it knows.
    pub extra_identities: ExtraIdentities,
    /// The port that asks nobody who they are, `http://HOST:PORT/`, if there is one.
    pub read_only: Option<Url>,
}

/// Whom a kubelet knows beside the one as whom we come.
#[derive(Clone, Debug, Default)]
pub struct ExtraIdentities {
    /// Someone who may not checkpoint.
    pub denied_user: Option<Identity>,
    /// Someone who may do everything through the node's proxy (`create nodes/proxy`), and may not checkpoint.
    pub node_proxy_user: Option<Identity>,
    /// Someone who may checkpoint and comes with a bearer token.
    pub token_user: Option<Identity>,
}

impl HttpsEndpoint {
    /// Everyone whose credentials are known here.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        let ExtraIdentities {
            denied_user: denied,
            node_proxy_user: proxy_only,
            token_user: by_token,
        } = &self.extra_identities;
        let extra_identities = [denied, proxy_only, by_token].into_iter().flatten();
        std::iter::once(&self.identity).chain(extra_identities)
    }
}

/// How a kubelet's certificate is checked.
#[derive(Clone, Debug)]
pub enum ServerVerification {
    /// Against these authorities, or that very certificate (PEM).
    CaBundle(String),
    /// Not at all.
    Insecure,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Identity {
    /// By a client certificate (PEM, with its key).
    Certificate {
        /// The certificate and its chain.
        certificate: String,
        /// Its key.
        key: String,
    },
    /// By a bearer token.
    Token(String),
}

/// As whom a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// As the one who may.
    Authorized,
    /// As one who is known and may not.
    Denied,
    /// As one who may go through the node's proxy and may not checkpoint.
    NodeProxyOnly,
    /// As one who may, by a bearer token.
    ValidToken,
    /// With no credentials at all.
    Anonymous,
    /// With a bearer token that nobody issued.
    InvalidToken,
    /// With a client certificate of an authority that the kubelet does not know.
    UntrustedCertificate,
}

/// What a kubelet answered.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text, what is not UTF-8 replaced.
    pub body: String,
}

impl HttpResponse {
    /// The value of a header, empty when there is none.
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

    /// Status and body in one line, cut where it grows long.
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

/// Asks one kubelet. Connections are kept for each kind of credentials, and never shared between them.
#[derive(Debug)]
pub struct Client {
    endpoint: HttpsEndpoint,
    clients: Mutex<HashMap<Credentials, reqwest::Client>>,
}

impl Client {
    /// A client; nothing is connected yet.
    pub fn new(endpoint: HttpsEndpoint) -> Client {
        Client {
            endpoint,
            clients: Mutex::default(),
        }
    }

    /// Where it asks.
    pub fn endpoint(&self) -> &HttpsEndpoint {
        &self.endpoint
    }

    /// The URL of a checkpoint of that container, each segment percent-encoded, with this query (may be empty).
    pub fn checkpoint_url(&self, namespace: &str, pod: &str, container: &str, query: &str) -> Url {
        let mut url = self.url_from_segments(["checkpoint", namespace, pod, container]);
        url.set_query((!query.is_empty()).then_some(query));
        url
    }

    /// The URL of these segments, each percent-encoded.
    pub fn url_from_segments<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The URL of this path and query on the kubelet.
    pub fn url(&self, path_and_query: &str) -> Url {
        let base = &self.endpoint.base_url;
        // Below the base, which is a path of its own where the kubelet is reached through a proxy.
        base.join(path_and_query.trim_start_matches('/'))
            .unwrap_or_else(|_| base.clone())
    }

    /// One request and its answer, whatever its status.
    ///
    /// # Errors
    /// No connection, a broken one, or no answer in time.
    pub async fn send(&self, credentials: Credentials, method: Method, url: Url) -> Result<HttpResponse, TargetError> {
        self.send_with(credentials, method, url, HeaderMap::new(), Vec::new())
            .await
    }

    /// One request with headers and a body of its own.
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
        let mut request = self
            .client(credentials)
            .await?
            .request(method, url.clone())
            .headers(headers);
        if let Some(Identity::Token(token)) = self.identity(credentials)? {
            request = request.bearer_auth(token);
        }
        if !body.is_empty() {
            request = request.body(body);
        }
        let evidence = request.try_clone().and_then(|request| request.build().ok());
        record(EvidenceKind::Request, || match &evidence {
            Some(request) => describe(request, credentials),
            None => url.to_string(),
        });
        let response = request.send().await.map_err(to_error)?;
        Self::read(response).await.map_err(to_error)
    }

    /// One request to the port that asks nobody who they are; `None` when there is no such port.
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
        record(EvidenceKind::Request, || format!("{method} {url}\nas: nobody"));
        let client = self.client(Credentials::Anonymous).await?;
        let response = client.request(method, url).send().await.map_err(to_error)?;
        Self::read(response).await.map(Some).map_err(to_error)
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

    /// What proves who asks; none for no one. A stranger is made up anew each time.
    fn identity(&self, credentials: Credentials) -> Result<Option<Identity>, TargetError> {
        let extra_identities = &self.endpoint.extra_identities;
        Ok(match credentials {
            Credentials::Authorized => Some(self.endpoint.identity.clone()),
            Credentials::Denied => extra_identities.denied_user.clone(),
            Credentials::NodeProxyOnly => extra_identities.node_proxy_user.clone(),
            Credentials::ValidToken => extra_identities.token_user.clone(),
            Credentials::InvalidToken => Some(Identity::Token(INVALID_TOKEN.to_owned())),
            Credentials::UntrustedCertificate => {
                // The same name as a real administrator's, so that only the issuer is wrong.
                let pair = CertificateAuthority::new("checkpoint-conformance stranger")?
                    .issue_client("system:admin", "system:masters")?;
                Some(Identity::Certificate {
                    certificate: pair.certificate,
                    key: pair.key,
                })
            }
            Credentials::Anonymous => None,
        })
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
        // One provider for the process; a second call only says that there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .timeout(RESPONSE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // What most clients speak, and newer kubelets alone; one case compares it with HTTP/2.
            .http1_only()
            .no_proxy();
        builder = match &self.endpoint.verification {
            ServerVerification::CaBundle(pem) => {
                let authorities = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(TargetError::Client)?;
                builder.tls_certs_only(authorities)
            }
            ServerVerification::Insecure => builder.tls_danger_accept_invalid_certs(true),
        };
        let identity = self.identity(credentials)?;
        if let Some(Identity::Certificate { certificate, key }) = identity {
            let pem = format!("{certificate}\n{key}");
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(TargetError::Client)?);
        }
        builder.build().map_err(TargetError::Client)
    }
}

/// A request as evidence: who asks is said in words, never by what proves it.
fn describe(request: &reqwest::Request, credentials: Credentials) -> String {
    let mut headers = request.headers().clone();
    headers.remove(http::header::AUTHORIZATION);
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

    #[test]
    fn encodes_names_and_keeps_the_query() {
        let url = client().checkpoint_url("default", "a/b", "ü c", "timeout=");
        assert_eq!(
            url.as_str(),
            "https://127.0.0.1:10250/checkpoint/default/a%2Fb/%C3%BC%20c?timeout="
        );
        assert_eq!(
            client().checkpoint_url("a", "b", "c", "").as_str(),
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
