//! As much of an API server as a kubelet needs that asks one who its clients are and what they may do.
//!
//! ```text
//!  kubelet --TokenReview, SubjectAccessReview--> answered from the people that the harness made up
//!          --list, get nodes, services, pods --> one node, nothing else; a watch stays silent
//!          --create, update                  --> taken, and forgotten
//! ```
//!
//! It serves TLS on a port of 127.0.0.1, to the bearer of one token alone. Nothing is stored: a kubelet with
//! `registerNode: false` runs its static Pods over it, and authenticates and authorises as on a cluster. It ends when it is
//! dropped, and with it every watch.

mod objects;
mod review;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{CertificateAuthority, CertificateKeyPair, TargetError};

pub use review::{AccessRules, Permission};

/// More than any object that a kubelet sends, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

type BoxedResponse = Response<BoxBody<Bytes, Infallible>>;

/// An API server that runs until it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    token: String,
    stop: CancellationToken,
}

/// What its connections share.
struct ServerState {
    node: String,
    token: String,
    rules: AccessRules,
}

impl ApiServer {
    /// Starts one that knows these people and this node, with a certificate of this authority.
    ///
    /// # Errors
    /// No certificate can be made, or no port of 127.0.0.1 is free.
    pub async fn start(
        authority: &CertificateAuthority,
        node: &str,
        rules: AccessRules,
    ) -> Result<ApiServer, TargetError> {
        let acceptor = acceptor(&authority.issue_server("api-server")?)?;
        let refused = |error| TargetError::NotReady(format!("no port is free on 127.0.0.1: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let token: [u8; 16] = rand::random();
        let token = format!("{:032x}", u128::from_be_bytes(token));
        let stop = CancellationToken::new();
        let state = Arc::new(ServerState {
            node: node.to_owned(),
            token: token.clone(),
            rules,
        });
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(serve(listener, acceptor, state, stop.clone())),
        );
        Ok(ApiServer { address, token, stop })
    }

    /// Where it serves: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The token that it serves.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A kubeconfig for its one client. JSON is YAML, and a path needs no thought about quotes in it.
    pub fn kubeconfig(&self, authority_file: &std::path::Path) -> String {
        let cluster = json!({ "server": self.url(), "certificate-authority": authority_file });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "contexts": [{ "name": "stub", "context": { "cluster": "stub", "user": "kubelet" } }],
            "clusters": [{ "name": "stub", "cluster": cluster }],
            "users": [{ "name": "kubelet", "user": { "token": self.token } }],
        });
        format!("{config:#}\n")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn acceptor(pair: &CertificateKeyPair) -> Result<TlsAcceptor, TargetError> {
    let build = || -> anyhow::Result<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    };
    let config = build().map_err(|error| TargetError::NotReady(format!("the API server's certificate: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<ServerState>, stop: CancellationToken) {
    loop {
        // A connection that cannot be had is the client's to make again.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let connection = serve_connection(stream, acceptor.clone(), Arc::clone(&state));
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

async fn serve_connection(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<ServerState>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.handle(request).await) }
    });
    // One that breaks is the client's to make again.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl ServerState {
    async fn handle(&self, request: Request<Incoming>) -> BoxedResponse {
        let bearer = format!("Bearer {}", self.token);
        let authorized = request.headers().get(header::AUTHORIZATION);
        if authorized.is_none_or(|value| value.as_bytes() != bearer.as_bytes()) {
            return status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
        }
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        tracing::debug!(%method, path, query, "the kubelet asks the API server");
        match method {
            Method::GET => self.handle_get(&path, &query),
            Method::POST | Method::PUT | Method::PATCH => {
                let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                match serde_json::from_slice(&body) {
                    Ok(object) => self.handle_write(&method, &path, object),
                    Err(error) => status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
                }
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not here"),
        }
    }

    fn handle_get(&self, path: &str, query: &str) -> BoxedResponse {
        let has_parameter = |parameter: &str| query.split('&').any(|part| part == parameter);
        if let Some(list) = objects::list(path, &self.node) {
            if has_parameter("sendInitialEvents=true") {
                // A client that hears this lists, and then watches.
                let reason = "sendInitialEvents is not supported";
                return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", reason);
            }
            if has_parameter("watch=true") || has_parameter("watch=1") {
                return empty_watch();
            }
            return json(StatusCode::OK, &list);
        }
        match objects::get(path, &self.node) {
            Some(object) => json(StatusCode::OK, &object),
            None => status(StatusCode::NOT_FOUND, "NotFound", "not found"),
        }
    }

    fn handle_write(&self, method: &Method, path: &str, object: Value) -> BoxedResponse {
        match (method, path) {
            (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
                json(StatusCode::CREATED, &self.rules.review_token(object))
            }
            (&Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews") => {
                json(StatusCode::CREATED, &self.rules.review_access(object))
            }
            (&Method::POST, _) => json(StatusCode::CREATED, &object),
            (&Method::PUT, _) => json(StatusCode::OK, &object),
            // A patch holds a part: what it was put to is answered, where there is something.
            _ => match objects::get(path.trim_end_matches("/status"), &self.node) {
                Some(object) => json(StatusCode::OK, &object),
                None => status(StatusCode::NOT_FOUND, "NotFound", "not found"),
            },
        }
    }
}

fn json(code: StatusCode, value: &Value) -> BoxedResponse {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = code;
    let content_type = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn status(code: StatusCode, reason: &str, message: &str) -> BoxedResponse {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code.as_u16(),
    });
    json(code, &body)
}

/// A watch in which nothing happens. It ends with the server.
fn empty_watch() -> BoxedResponse {
    let no_events = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
    let mut response = Response::new(BoxBody::new(http_body_util::StreamBody::new(no_events)));
    let content_type = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
