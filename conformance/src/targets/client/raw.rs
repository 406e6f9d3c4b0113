//! Requests with a verbatim path (`..`, empty segments, invalid escapes) over a chosen protocol.
//!
//! Ordinary clients normalise URLs before they send them (WHATWG URL Standard), but a kubelet must also handle paths
//! that are not normalised. Each request uses a new connection.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Client, Credentials, HttpResponse, RESPONSE_TIMEOUT, ServerVerification, TargetError};
use crate::{
    evidence::{EvidenceKind, record},
    tls,
};

/// The HTTP version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        })
    }
}

/// A request that goes over the wire as given.
#[derive(Clone, Debug)]
pub struct RawRequest<'a> {
    /// The credentials.
    pub credentials: Credentials,
    /// The HTTP version.
    pub protocol: Protocol,
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path: &'a str,
    /// The Accept header.
    pub accept: &'static str,
    /// The body.
    pub body: &'static str,
}

impl<'a> RawRequest<'a> {
    /// A request without a body that accepts any media type.
    pub fn new(credentials: Credentials, protocol: Protocol, method: Method, path: &'a str) -> RawRequest<'a> {
        RawRequest {
            credentials,
            protocol,
            method,
            path,
            accept: "*/*",
            body: "",
        }
    }

    fn record_evidence(&self) {
        record(EvidenceKind::Request, || {
            format!(
                "{} {}\nas: {:?}\nover: {}\naccept: {}\n\n{}",
                self.method, self.path, self.credentials, self.protocol, self.accept, self.body
            )
        });
    }

    fn error(&self, reason: impl std::fmt::Display) -> TargetError {
        TargetError::NotReady(format!("no response to {} {}: {reason}", self.method, self.path))
    }
}

impl std::fmt::Display for RawRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RawRequest {
            credentials,
            protocol,
            method,
            path,
            accept: _,
            body: _,
        } = self;
        write!(f, "{method} {path} as {credentials:?} over {protocol}")
    }
}

impl Client {
    /// Sends a request whose path is not normalised. `None` if the kubelet does not speak the protocol.
    ///
    /// # Errors
    /// The connection fails or breaks, there is no response in time, or the path is not valid in a request line.
    pub async fn send_raw(&self, request: RawRequest<'_>) -> Result<Option<HttpResponse>, TargetError> {
        request.record_evidence();
        let pending = self.requests.begin(request.path, || request.to_string());
        let roundtrip = async {
            let Some(stream) = self.connect(request.credentials, request.protocol).await? else {
                return Ok(None);
            };
            self.exchange(stream, &request)
                .await
                .map(Some)
                .map_err(|error| request.error(error))
        };
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, roundtrip)
            .await
            .map_err(|_| request.error(format!("timeout after {} s", RESPONSE_TIMEOUT.as_secs())))??;
        if let Some(response) = &response {
            pending.answered(response.status);
            response.record_evidence();
        }
        Ok(response)
    }

    /// Sends requests over HTTP/1.1 one after another on one connection without a client certificate. Of their
    /// credentials only the bearer tokens are sent. Returns the responses: fewer than requests if the kubelet closes the
    /// connection, `None` if it does not speak HTTP/1.1.
    ///
    /// # Errors
    /// The connection fails, or there is no response in time.
    pub async fn send_on_one_connection(
        &self,
        requests: &[RawRequest<'_>],
    ) -> Result<Option<Vec<HttpResponse>>, TargetError> {
        let Some(first) = requests.first() else {
            return Ok(Some(Vec::new()));
        };
        let roundtrips = async {
            let Some(stream) = self.connect(Credentials::Anonymous, Protocol::Http1).await? else {
                return Ok(None);
            };
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| first.error(error))?;
            let exchange = async {
                let mut responses = Vec::new();
                for request in requests {
                    let message = self.message(request).map_err(|error| request.error(error))?;
                    if sender.ready().await.is_err() {
                        break;
                    }
                    request.record_evidence();
                    let pending = self.requests.begin(request.path, || request.to_string());
                    let sent = async { read_body(sender.send_request(message).await?).await };
                    let (head, body) = sent.await.map_err(|error| request.error(error))?;
                    let response = response_of(head, &body);
                    pending.answered(response.status);
                    response.record_evidence();
                    responses.push(response);
                }
                Ok::<_, TargetError>(responses)
            };
            let mut exchange = std::pin::pin!(exchange);
            let mut connection = std::pin::pin!(connection);
            let responses = tokio::select! {
                responses = &mut exchange => responses,
                // The kubelet has closed the connection: what has arrived is read, and no further request is sent.
                _ = &mut connection => exchange.await,
            };
            responses.map(Some)
        };
        tokio::time::timeout(RESPONSE_TIMEOUT, roundtrips)
            .await
            .map_err(|_| first.error(format!("timeout after {} s", RESPONSE_TIMEOUT.as_secs())))?
    }

    /// The message of a request. The path of a proxy precedes the kubelet's path.
    fn message(&self, request: &RawRequest<'_>) -> anyhow::Result<Request<Full<Bytes>>> {
        let base = &self.endpoint.base_url;
        let authority = format!(
            "{}:{}",
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or_default()
        );
        let path = format!("{}{}", base.path().trim_end_matches('/'), request.path);
        let mut message = Request::builder()
            .method(&request.method)
            .header(header::ACCEPT, request.accept);
        message = match request.protocol {
            Protocol::Http1 => message.uri(path).header(header::HOST, &authority),
            Protocol::Http2 => message.uri(format!("https://{authority}{path}")),
        };
        if let Some(authorization) = self.presented(request.credentials)?.authorization {
            message = message.header(header::AUTHORIZATION, authorization);
        }
        Ok(message.body(Full::from(request.body))?)
    }

    async fn exchange(&self, stream: TlsStream<TcpStream>, request: &RawRequest<'_>) -> anyhow::Result<HttpResponse> {
        let message = self.message(request)?;
        let io = TokioIo::new(stream);
        let (head, body) = match request.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                run_with_connection(connection, async move {
                    read_body(sender.send_request(message).await?).await
                })
                .await?
            }
            Protocol::Http2 => {
                let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                run_with_connection(connection, async move {
                    read_body(sender.send_request(message).await?).await
                })
                .await?
            }
        };
        Ok(response_of(head, &body))
    }

    /// Opens a connection; `None` if the server does not speak `protocol`.
    async fn connect(
        &self,
        credentials: Credentials,
        protocol: Protocol,
    ) -> Result<Option<TlsStream<TcpStream>>, TargetError> {
        let base = &self.endpoint.base_url;
        let failed = |reason: String| TargetError::NotReady(format!("no connection to {base}: {reason}"));
        let (host, port) = (
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or_default(),
        );
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let config = self
            .tls(credentials, protocol)
            .map_err(|error| failed(error.to_string()))?;
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
            Ok(stream) => {
                let negotiated = stream.get_ref().1.alpn_protocol();
                // A server without ALPN speaks HTTP/1.1.
                let matches =
                    negotiated == Some(protocol.alpn()) || (negotiated.is_none() && protocol == Protocol::Http1);
                Ok(matches.then_some(stream))
            }
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Ok(None),
                _ => Err(failed(error.to_string())),
            },
        }
    }

    fn tls(&self, credentials: Credentials, protocol: Protocol) -> anyhow::Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions()?;
        let builder = match &self.endpoint.verification {
            ServerVerification::CaBundle(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate?)?;
                }
                builder.with_root_certificates(roots)
            }
            ServerVerification::Insecure => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(tls::AcceptAnyPeer::new(Vec::new()))),
        };
        let mut config = match self.presented(credentials)?.certificate {
            Some(pair) => {
                let (chain, key) = pair.parse()?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(config)
    }
}

/// Drives the connection while the exchange runs. Both end with this future.
async fn run_with_connection<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = hyper::Result<T>>,
) -> hyper::Result<T> {
    let (mut connection, mut exchange) = (std::pin::pin!(connection), std::pin::pin!(exchange));
    tokio::select! {
        response = &mut exchange => response,
        ended = &mut connection => {
            ended?;
            // The connection has ended without an error: the response has arrived, or the exchange returns the error.
            exchange.await
        }
    }
}

fn response_of(head: http::response::Parts, body: &[u8]) -> HttpResponse {
    HttpResponse {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(body).into_owned(),
    }
}

async fn read_body(response: http::Response<hyper::body::Incoming>) -> hyper::Result<(http::response::Parts, Bytes)> {
    let (head, body) = response.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}
