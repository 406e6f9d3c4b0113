//! Accepts connections, and authenticates, authorizes and routes each request.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authentication::Authentication;
use super::authorization::{Attributes, Authorizer};
use super::checkpoint::CheckpointHandler;
use super::pod_store::PodStore;
use super::responses::{self, FullResponse};
use super::route::{self, Route, ServedRoutes};
use super::runtime_connection::RuntimeConnection;
use super::{Config, Mutant, logs};

/// The timeout for the TLS handshake and for the head of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Mutant: the maximum length of a path, in bytes.
const MUTANT_MAX_PATH_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Handlers {
    pub(super) config: Arc<Config>,
    pub(super) authentication: Authentication,
    pub(super) authorizer: Authorizer,
    pub(super) cri: Arc<RuntimeConnection>,
    pub(super) pods: Arc<PodStore>,
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
                let chain = chain
                    .iter()
                    .map(|certificate| certificate.clone().into_owned())
                    .collect();
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
    chain: Option<Vec<CertificateDer<'static>>>,
) {
    let chain = Arc::new(chain);
    let service = service_fn(move |request: Request<Incoming>| {
        let (handlers, chain) = (Arc::clone(&handlers), Arc::clone(&chain));
        async move {
            let response = handlers.handle(&request, chain.as_deref()).await;
            let response = responses::apply_mutant(response, handlers.config.mutant);
            tracing::info!(method = %request.method(), path = request.uri().path(), status = response.status().as_u16());
            Ok::<_, Infallible>(response)
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
    /// Handles one request. `chain` is `None` on the read-only port.
    async fn handle(&self, request: &Request<Incoming>, chain: Option<&[CertificateDer<'static>]>) -> FullResponse {
        let (method, uri) = (request.method(), request.uri());
        let raw = self.request_path(uri.path());
        let Some(path) = self.decode(&raw) else {
            return responses::bad_request();
        };
        let root = route::match_route(&raw, uri.query(), self.served_routes(chain.is_some()));
        match &root {
            Route::Redirect(to) => return responses::redirect(to, matches!(*method, Method::GET | Method::HEAD)),
            Route::Unknown => return self.respond_unknown(&path, chain, request),
            _ => {}
        }
        let over_http2 =
            request.version() == http::Version::HTTP_2 && self.config.has_mutant(Mutant::Http2Unauthenticated);
        if let Some(chain) = chain.filter(|_| !over_http2) {
            if let Some(early) = self.respond_early(
                &root,
                request,
                &path,
                [Mutant::LookupBeforeAuthentication, Mutant::RoutingBeforeAuthentication],
            ) {
                return early;
            }
            let Some(user) = self.authentication.user(chain, request.headers()) else {
                let forbid = self.config.has_mutant(Mutant::Unauthenticated403);
                let status = if forbid {
                    StatusCode::FORBIDDEN
                } else {
                    StatusCode::UNAUTHORIZED
                };
                return responses::with_sniffed_type(status, "Unauthorized");
            };
            let before_authorization = [Mutant::LookupBeforeAuthorization, Mutant::RoutingBeforeAuthorization];
            if let Some(early) = self.respond_early(&root, request, &path, before_authorization) {
                return early;
            }
            let mut attributes = Attributes::from_request(method, &path);
            if self.config.has_mutant(Mutant::VerbAlwaysCreate) {
                attributes.verb = "create";
            }
            if !self.authorizer.allows(&user, &attributes) {
                let without_user = self.config.has_mutant(Mutant::ForbiddenBodyWithoutUser);
                let text = if without_user {
                    "Forbidden\n".to_owned()
                } else {
                    attributes.forbidden_body(&user)
                };
                return responses::with_sniffed_type(StatusCode::FORBIDDEN, text);
            }
        }
        let response = match root {
            Route::Healthz => Ok(responses::healthy()),
            Route::Metrics => {
                let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Ok(responses::with_type(StatusCode::OK, kind, self.metrics()))
            }
            Route::DebuggingDisabled => Ok(responses::go_error(
                StatusCode::METHOD_NOT_ALLOWED,
                "Debug endpoints are disabled.",
            )),
            Route::Pods => self.list_pods(request, &path),
            Route::ContainerLogs => self.container_logs(request, &path).await,
            Route::Checkpoint => self.checkpoint(request, &path).await,
            Route::Redirect(_) | Route::Unknown => Ok(responses::route_not_found()),
        };
        response.unwrap_or_else(|response| *response)
    }

    fn served_routes(&self, secure: bool) -> ServedRoutes {
        let config = &self.config;
        let debugging =
            secure && (config.debugging_handlers || config.has_mutant(Mutant::DebuggingHandlersFlagIgnored));
        let gate = config.checkpoint_gate() || config.has_mutant(Mutant::FeatureGateIgnored);
        let read_only_checkpoint = !secure && config.has_mutant(Mutant::ReadOnlyPortCheckpoints);
        ServedRoutes {
            debugging,
            checkpoint: (debugging || read_only_checkpoint) && gate,
        }
    }

    /// Returns the path as received. Mutants make the path canonical.
    fn request_path<'a>(&self, raw: &'a str) -> Cow<'a, str> {
        let has_dot_segments = raw.split('/').any(|segment| matches!(segment, "." | ".."));
        let canonicalise = match self.config.mutant {
            Some(Mutant::DotSegmentsResolved) => has_dot_segments,
            Some(Mutant::EmptySegmentsDropped) => !has_dot_segments,
            _ => false,
        };
        if canonicalise {
            route::canonical(raw).into()
        } else {
            raw.into()
        }
    }

    /// Decodes the path. Mutants decode only a part.
    fn decode(&self, raw: &str) -> Option<String> {
        match self.config.mutant {
            Some(Mutant::MalformedEscapeAccepted) => Some(route::decode(raw).unwrap_or_else(|| raw.to_owned())),
            // A malformed escape is rejected as usual.
            Some(Mutant::PercentEncodingNotDecoded) => route::decode(raw).map(|_| raw.to_owned()),
            Some(Mutant::EncodedSlashNotDecoded) => route::decode(&raw.replace("%2F", "%252F").replace("%2f", "%252f")),
            _ => route::decode(raw),
        }
    }

    /// Mutants: responds to an unknown Pod, a wrong path or a wrong method before the checks that must come first.
    fn respond_early(
        &self,
        root: &Route,
        request: &Request<Incoming>,
        path: &str,
        mutants: [Mutant; 2],
    ) -> Option<FullResponse> {
        let [lookup, routing] = mutants;
        if *root != Route::Checkpoint {
            return None;
        }
        let names = route::path_names(path, None);
        if self.config.has_mutant(routing) {
            let path_error = names.as_ref().map_err(|response| response.as_ref().clone()).err();
            let method = || {
                route::check_method(request.method(), Method::POST)
                    .err()
                    .map(|response| *response)
            };
            return path_error.or_else(method);
        }
        let names = names.ok().filter(|_| self.config.has_mutant(lookup))?;
        let unknown = self.pods.find(&names[0], &names[1], false).is_none();
        unknown.then(|| responses::with_sniffed_type(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    fn respond_unknown(
        &self,
        path: &str,
        chain: Option<&[CertificateDer<'static>]>,
        request: &Request<Incoming>,
    ) -> FullResponse {
        const GATE_OFF_MESSAGE: &str = "the feature gate ContainerCheckpoint is off";
        let user = || self.authentication.user(chain?, request.headers());
        match self.config.mutant.filter(|_| path.starts_with("/checkpoint/")) {
            Some(Mutant::FeatureGateDisabled500) if !self.config.checkpoint_gate() => {
                responses::with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, GATE_OFF_MESSAGE)
            }
            Some(Mutant::FeatureGateDisabledWrongBody) if !self.config.checkpoint_gate() => {
                responses::with_sniffed_type(StatusCode::NOT_FOUND, GATE_OFF_MESSAGE)
            }
            Some(Mutant::FeatureGateDisabled401) if !self.config.checkpoint_gate() && user().is_none() => {
                responses::with_sniffed_type(StatusCode::UNAUTHORIZED, "Unauthorized")
            }
            _ => responses::route_not_found(),
        }
    }

    /// Returns the metrics. Mutants omit some.
    fn metrics(&self) -> String {
        let omitted_prefix = match self.config.mutant {
            Some(Mutant::OperationsNotCounted) => {
                "kubelet_runtime_operations_total{operation_type=\"checkpoint_container\"}"
            }
            Some(Mutant::ErrorsNotCounted) => {
                "kubelet_runtime_operations_errors_total{operation_type=\"checkpoint_container\"}"
            }
            _ => return self.cri.metrics(),
        };
        let metrics = self.cri.metrics();
        let lines = metrics.lines().filter(|line| !line.starts_with(omitted_prefix));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    fn list_pods(&self, request: &Request<Incoming>, path: &str) -> Result<FullResponse, Box<FullResponse>> {
        if path.trim_matches('/') != "pods" {
            return Err(Box::new(responses::with_sniffed_type(
                StatusCode::NOT_FOUND,
                "404: Page Not Found",
            )));
        }
        route::check_method(request.method(), Method::GET)?;
        route::accepts_json(request.headers(), None)?;
        Ok(responses::json(self.pods.list().to_string()))
    }

    async fn container_logs(&self, request: &Request<Incoming>, path: &str) -> Result<FullResponse, Box<FullResponse>> {
        let names = route::path_names(path, None)?;
        route::check_method(request.method(), Method::GET)?;
        Ok(logs::handle(&self.pods, &names, request.uri().query()).await)
    }

    async fn checkpoint(&self, request: &Request<Incoming>, path: &str) -> Result<FullResponse, Box<FullResponse>> {
        if path.len() > MUTANT_MAX_PATH_BYTES && self.config.has_mutant(Mutant::OverlongName414) {
            return Err(Box::new(responses::with_sniffed_type(
                StatusCode::URI_TOO_LONG,
                "414: URI Too Long",
            )));
        }
        let names = route::path_names(path, self.config.mutant)?;
        let allowed = self.config.has_mutant(Mutant::GetAllowed) && request.method() == Method::GET;
        let refused = route::check_method(request.method(), Method::POST)
            .err()
            .filter(|_| !allowed);
        if let Some(refused) = refused {
            if self.config.has_mutant(Mutant::Method405Checkpoints) {
                let pod = self.pods.find(&names[0], &names[1], false);
                self.checkpoints.handle(&names, pod, request.uri().query()).await;
            }
            return Err(refused);
        }
        route::accepts_json(request.headers(), self.config.mutant)?;
        if self.config.has_mutant(Mutant::NonJsonBody400) && has_body(request) {
            let status = StatusCode::BAD_REQUEST;
            return Err(Box::new(responses::with_sniffed_type(status, "the body is not JSON")));
        }
        let any_namespace = self.config.has_mutant(Mutant::NamespaceIgnored);
        let pod = self.pods.find(&names[0], &names[1], any_namespace).or_else(|| {
            let full_name = format!("{}-{}", names[1], self.config.node_name.to_lowercase());
            let accept_short_name = self.config.has_mutant(Mutant::StaticPodShortNameFound);
            self.pods
                .find(&names[0], &full_name, false)
                .filter(|_| accept_short_name)
        });
        let runs_of = |name: &str| self.pods.container(&pod.as_ref()?.uid, name);
        let waiting = runs_of(&names[2]).is_some_and(|container| container.waiting.is_some());
        if waiting && self.config.has_mutant(Mutant::CrashLoop404) {
            let text = format!("container {} does not exist", names[2]);
            return Err(Box::new(responses::with_sniffed_type(StatusCode::NOT_FOUND, text)));
        }
        let log = runs_of(&names[2])
            .and_then(|container| container.current)
            .map(|run| run.log);
        let response = self.checkpoints.handle(&names, pod, request.uri().query()).await;
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR
            && self.config.has_mutant(Mutant::ContainerLogInErrorBody)
        {
            let log = log.and_then(|log| std::fs::read(log).ok()).unwrap_or_default();
            return Ok(responses::with_sniffed_type(StatusCode::INTERNAL_SERVER_ERROR, log));
        }
        Ok(response)
    }
}

fn has_body(request: &Request<Incoming>) -> bool {
    hyper::body::Body::size_hint(request.body()).upper() != Some(0)
}
