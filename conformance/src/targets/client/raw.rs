//! Requests with a verbatim path (`..`, empty segments, invalid escapes) over a chosen protocol.
//!
//! Ordinary clients normalise URLs before they send them (WHATWG URL Standard), but a kubelet must also handle paths
//! that are not normalised. Each request uses a new connection.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Client, Credentials, HttpResponse, Identity, RESPONSE_TIMEOUT, ServerVerification, TargetError};
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

impl Client {
    /// Sends a request whose path is not normalised. `None` if the kubelet does not speak `protocol`.
    ///
    /// # Errors
    /// The connection fails or breaks, there is no response in time, or the path is not valid in a request line.
    pub async fn send_raw(
        &self,
        credentials: Credentials,
        protocol: Protocol,
        method: Method,
        path: &str,
    ) -> Result<Option<HttpResponse>, TargetError> {
        let failed = |reason: String| TargetError::NotReady(format!("no response to {method} {path}: {reason}"));
        record(EvidenceKind::Request, || {
            format!("{method} {path}\nas: {credentials:?}\nover: {protocol}")
        });
        let roundtrip = async {
            let Some(stream) = self.connect(credentials, protocol).await? else {
                return Ok(None);
            };
            self.exchange(stream, credentials, protocol, &method, path)
                .await
                .map(Some)
                .map_err(|error| failed(error.to_string()))
        };
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, roundtrip)
            .await
            .map_err(|_| failed(format!("timeout after {} s", RESPONSE_TIMEOUT.as_secs())))??;
        if let Some(response) = &response {
            response.record_evidence();
        }
        Ok(response)
    }

    async fn exchange(
        &self,
        stream: TlsStream<TcpStream>,
        credentials: Credentials,
        protocol: Protocol,
        method: &Method,
        path: &str,
    ) -> anyhow::Result<HttpResponse> {
        let base = &self.endpoint.base_url;
        let authority = format!(
            "{}:{}",
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or_default()
        );
        let mut request = Request::builder().method(method).header(header::ACCEPT, "*/*");
        // The path of a proxy precedes the kubelet's path.
        let path = format!("{}{path}", base.path().trim_end_matches('/'));
        request = match protocol {
            Protocol::Http1 => request.uri(path).header(header::HOST, &authority),
            Protocol::Http2 => request.uri(format!("https://{authority}{path}")),
        };
        if let Some(Identity::Token(token)) = self.identity(credentials)? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let io = TokioIo::new(stream);
        let (head, body) = match protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                run_with_connection(connection, async move {
                    read_body(sender.send_request(request).await?).await
                })
                .await?
            }
            Protocol::Http2 => {
                let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                run_with_connection(connection, async move {
                    read_body(sender.send_request(request).await?).await
                })
                .await?
            }
        };
        Ok(HttpResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
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
        let mut config = match self.identity(credentials)? {
            Some(Identity::Certificate(pair)) => {
                let (chain, key) = pair.parse()?;
                builder.with_client_auth_cert(chain, key)?
            }
            _ => builder.with_no_client_auth(),
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

async fn read_body(response: http::Response<hyper::body::Incoming>) -> hyper::Result<(http::response::Parts, Bytes)> {
    let (head, body) = response.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}
