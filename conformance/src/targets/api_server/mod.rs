//! A stub API server: the part that a kubelet needs to authenticate and authorise its clients.
//!
//! ```text
//!  kubelet --TokenReview, SubjectAccessReview--> answered from the harness's test identities
//!          --list, get nodes, services, pods --> one node, nothing else; a watch has no events
//!          --create, update                  --> accepted, not stored
//! ```
//!
//! Serves TLS on a port of 127.0.0.1 and accepts a single bearer token. With it a kubelet with `registerNode: false`
//! runs its static Pods, and authenticates and authorises as in a cluster. Dropping the server ends it and every watch.

mod objects;
mod review;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::TargetError;
use crate::{
    http_server,
    tls::{self, CertificateAuthority},
};

pub use review::{AccessRules, Permission};

/// Larger than any object that a kubelet sends.
const MAX_BODY_BYTES: usize = 4 << 20;

type BoxedResponse = Response<BoxBody<Bytes, Infallible>>;

/// A running API server. Stops when dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    token: String,
    stop: CancellationToken,
}

struct ServerState {
    node: String,
    token: String,
    rules: AccessRules,
}

impl ApiServer {
    /// Starts an API server for this node with these access rules. Its certificate is issued by `authority`.
    ///
    /// # Errors
    /// No certificate can be created, or no port of 127.0.0.1 is free.
    pub async fn start(
        authority: &CertificateAuthority,
        node: &str,
        rules: AccessRules,
    ) -> Result<ApiServer, TargetError> {
        let tls = tls::server_config(&authority.issue_server("api-server")?, None, true)
            .map_err(|error| TargetError::NotReady(format!("the API server's certificate: {error}")))?;
        let refused = |error| TargetError::NotReady(format!("no port is free on 127.0.0.1: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let token = format!("{:032x}", rand::random::<u128>());
        let stop = CancellationToken::new();
        let state = Arc::new(ServerState {
            node: node.to_owned(),
            token: token.clone(),
            rules,
        });
        let handler = move |request| {
            let state = Arc::clone(&state);
            async move { state.handle(request).await }
        };
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(http_server::serve(listener, Some(acceptor), stop.clone(), handler));
        Ok(ApiServer { address, token, stop })
    }

    /// The server's URL: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The bearer token that the server accepts.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The kubelet's kubeconfig. JSON is valid YAML and quotes paths correctly.
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
        tracing::debug!(%method, path, query, "received a request from the kubelet");
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
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "method not allowed"),
        }
    }

    fn handle_get(&self, path: &str, query: &str) -> BoxedResponse {
        let has_parameter = |parameter: &str| query.split('&').any(|part| part == parameter);
        if let Some(list) = objects::list(path, &self.node) {
            if has_parameter("sendInitialEvents=true") {
                // A client-go reflector that gets this error falls back to a list and a watch.
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
            // A patch contains only a part of the object, so the response is the stored object, if there is one.
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

fn empty_watch() -> BoxedResponse {
    let no_events = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
    let mut response = Response::new(BoxBody::new(http_body_util::StreamBody::new(no_events)));
    let content_type = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
