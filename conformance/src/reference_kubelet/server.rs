//! Accepts connections, and authenticates, authorizes and routes each request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authentication::{Authentication, ClientChain};
use super::authorization::{Attributes, Authorizer};
use super::checkpoint::CheckpointHandler;
use super::pod_store::PodStore;
use super::responses::{self, FullResponse, Rejection, reject};
use super::route::{self, Route};
use super::runtime_connection::RuntimeConnection;
use super::{Config, logs};

/// The timeout for the TLS handshake and for the head of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Handlers {
    pub(crate) config: Arc<Config>,
    pub(crate) authentication: Authentication,
    pub(super) authorizer: Authorizer,
    pub(super) cri: Arc<RuntimeConnection>,
    pub(crate) pods: Arc<PodStore>,
    pub(super) checkpoints: CheckpointHandler,
}

#[derive(Clone)]
pub(super) enum Port {
    /// HTTPS, with all handlers.
    Secure(TlsAcceptor),
    /// HTTP, without authentication and without debugging handlers.
    ReadOnly,
}

/// Serves until `stop`, then drops the open connections, which cancels their CRI calls.
pub(super) async fn serve(listener: TcpListener, port: Port, handlers: Arc<Handlers>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, peer, port.clone(), Arc::clone(&handlers));
                connections.spawn(stop.clone().run_until_cancelled_owned(connection));
            }
            Err(error) => {
                // Most likely there are too many open files. Retry when some have closed.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, port: Port, handlers: Arc<Handlers>) {
    // Send small responses immediately. A failure to set this only delays them.
    let _ = stream.set_nodelay(true);
    match port {
        Port::ReadOnly => serve_requests(stream, handlers, None).await,
        Port::Secure(acceptor) => match tokio::time::timeout(CLIENT_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let chain = chain.iter().map(|certificate| certificate.clone().into_owned());
                let chain = ClientChain(chain.collect());
                serve_requests(stream, handlers, Some(chain)).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
        },
    }
}

/// Serves the requests of one connection. `chain` is `None` on the read-only port.
async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handlers: Arc<Handlers>,
    chain: Option<ClientChain>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (handlers, chain) = (Arc::clone(&handlers), chain.clone());
        async move {
            // No handler reads the body. It is dropped after the response, because hyper drains or closes then.
            let (mut request, _body) = request.into_parts();
            if let Some(chain) = chain {
                request.extensions.insert(chain);
            }
            let response = handlers.handle(&mut request).await;
            tracing::info!(method = %request.method, path = request.uri.path(), status = response.status().as_u16());
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    // When the client disconnects, this future ends and drops the future of the handler.
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "connection ended");
    }
}

impl Handlers {
    async fn handle(&self, request: &mut Parts) -> FullResponse {
        let behavior = &self.config.behavior;
        (behavior.edit_request)(request);
        let response = self.respond(request).await.unwrap_or_else(|rejection| *rejection);
        (behavior.edit_response)(self, request, response)
    }

    /// Handles one request in the order of the kubelet: outer router, authentication, authorization, handler.
    async fn respond(&self, request: &Parts) -> Result<FullResponse, Rejection> {
        let behavior = &self.config.behavior;
        let authenticated = request.extensions.get::<ClientChain>().is_some();
        let raw = request.uri.path();
        let path = route::decode(raw).ok_or_else(|| Box::new(responses::bad_request()))?;
        let served = (behavior.served_routes)(&self.config, authenticated);
        let root = route::match_route(raw, request.uri.query(), served);
        match &root {
            Route::Redirect(to) => {
                let with_body = matches!(request.method, Method::GET | Method::HEAD);
                return Ok(responses::redirect(to, with_body));
            }
            Route::Unknown => return Ok(responses::route_not_found()),
            _ => {}
        }
        if authenticated {
            (behavior.before_authentication)(self, request)?;
            let user = (behavior.authenticate)(&self.authentication, request)
                .ok_or_else(|| reject(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
            (behavior.before_authorization)(self, request)?;
            let mut attributes = Attributes::from_request(&request.method, &path);
            if !(behavior.authorize)(&self.authorizer, &user, &mut attributes) {
                return Err(reject(StatusCode::FORBIDDEN, attributes.forbidden_body(&user)));
            }
        }
        match root {
            Route::Healthz => Ok(responses::healthy()),
            Route::Metrics => {
                let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Ok(responses::with_type(StatusCode::OK, kind, self.cri.metrics()))
            }
            Route::DebuggingDisabled => Ok(responses::go_error(
                StatusCode::METHOD_NOT_ALLOWED,
                "Debug endpoints are disabled.",
            )),
            Route::Pods => self.list_pods(request, &path),
            Route::ContainerLogs => {
                let names = route::path_names(&path)?;
                route::check_method(&request.method, Method::GET)?;
                Ok(logs::handle(&self.pods, &names, request.uri.query()).await)
            }
            Route::Checkpoint => {
                let names = (behavior.path_names)(&path)?;
                (behavior.check_method)(&request.method)?;
                route::accepts_json(&request.headers)?;
                (behavior.before_lookup)(self, request)?;
                self.checkpoints.handle(&names, request).await
            }
            Route::Redirect(_) | Route::Unknown => Ok(responses::route_not_found()),
        }
    }

    fn list_pods(&self, request: &Parts, path: &str) -> Result<FullResponse, Rejection> {
        if path.trim_matches('/') != "pods" {
            return Err(route::page_not_found());
        }
        route::check_method(&request.method, Method::GET)?;
        route::accepts_json(&request.headers)?;
        Ok(responses::json(self.pods.list().to_string()))
    }
}
