//! Accepts connections, and takes each request through authentication, authorisation and routing.

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

use super::answer::{self, Answer};
use super::authentication::Authentication;
use super::authorization::{Attributes, Authorizer};
use super::checkpoint::Checkpoints;
use super::cri::Cri;
use super::pod::Pods;
use super::route::{self, Root, Roots};
use super::{Config, Mutant, logs};

/// How long a client may take for the handshake or for the head of a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a mutant finds too long, in bytes.
const LONG_PATH: usize = 4096;

/// What every connection shares.
#[derive(Debug)]
pub(super) struct Handlers {
    pub(super) config: Arc<Config>,
    pub(super) authentication: Authentication,
    pub(super) authorizer: Authorizer,
    pub(super) cri: Arc<Cri>,
    pub(super) pods: Arc<Pods>,
    pub(super) checkpoints: Checkpoints,
}

/// One of the two ports.
#[derive(Clone)]
pub(super) enum Port {
    /// HTTPS, with all handlers.
    Secure(TlsAcceptor),
    /// HTTP, nobody is asked who they are, and there are no debugging handlers.
    ReadOnly,
}

/// Serves until `stop`; then open connections are dropped, and with them the calls that they wait for.
pub(super) async fn serve(listener: TcpListener, port: Port, handlers: Arc<Handlers>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, port.clone(), Arc::clone(&handlers));
                connections.spawn(stop.clone().run_until_cancelled_owned(connection));
            }
            Err(error) => {
                // Too many open files, most likely: some of them will close.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, port: Port, handlers: Arc<Handlers>) {
    // A small answer should leave at once; where that cannot be set it only leaves later.
    let _ = stream.set_nodelay(true);
    match port {
        Port::ReadOnly => requests(stream, handlers, None).await,
        Port::Secure(acceptor) => match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let chain = chain
                    .iter()
                    .map(|certificate| certificate.clone().into_owned())
                    .collect();
                requests(stream, handlers, Some(chain)).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "failed handshake"),
            Err(_) => tracing::debug!(%peer, "handshake took too long"),
        },
    }
}

/// Serves the requests of one connection; `chain` is none on the read-only port.
async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handlers: Arc<Handlers>,
    chain: Option<Vec<CertificateDer<'static>>>,
) {
    let chain = Arc::new(chain);
    let service = service_fn(move |request: Request<Incoming>| {
        let (handlers, chain) = (Arc::clone(&handlers), Arc::clone(&chain));
        async move {
            let answer = handlers.answer(&request, chain.as_deref()).await;
            let answer = answer::spoil(answer, handlers.config.mutant);
            tracing::info!(method = %request.method(), path = request.uri().path(), status = answer.status().as_u16());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new());
    // A client that goes away ends this future, and with it the handler's.
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "connection ended");
    }
}

impl Handlers {
    /// Answers one request; `chain` is none on the read-only port.
    async fn answer(&self, request: &Request<Incoming>, chain: Option<&[CertificateDer<'static>]>) -> Answer {
        let (method, uri) = (request.method(), request.uri());
        let raw = self.path(uri.path());
        let Some(path) = self.decode(&raw) else {
            return answer::bad_request();
        };
        let root = route::root(&raw, uri.query(), self.roots(chain.is_some()));
        match &root {
            Root::Redirect(to) => return answer::redirect(to, matches!(*method, Method::GET | Method::HEAD)),
            Root::Unknown => return self.unknown(&path, chain, request),
            _ => {}
        }
        let over_http2 = request.version() == http::Version::HTTP_2 && self.config.is(Mutant::Http2Unauthenticated);
        if let Some(chain) = chain.filter(|_| !over_http2) {
            if let Some(early) = self.early(
                &root,
                request,
                &path,
                [Mutant::LookupBeforeAuth, Mutant::RoutingBeforeAuth],
            ) {
                return early;
            }
            let Some(user) = self.authentication.user(chain, request.headers()) else {
                let forbid = self.config.is(Mutant::Unauthenticated403);
                let status = if forbid {
                    StatusCode::FORBIDDEN
                } else {
                    StatusCode::UNAUTHORIZED
                };
                return answer::plain(status, "Unauthorized");
            };
            let before_rights = [Mutant::LookupBeforeAuthorization, Mutant::RoutingBeforeAuthorization];
            if let Some(early) = self.early(&root, request, &path, before_rights) {
                return early;
            }
            let mut attributes = Attributes::of(method, &path);
            if self.config.is(Mutant::VerbAlwaysCreate) {
                attributes.verb = "create";
            }
            if !self.authorizer.allows(&user, &attributes) {
                let bare = self.config.is(Mutant::ForbiddenWithoutUser);
                let text = if bare {
                    "Forbidden\n".to_owned()
                } else {
                    attributes.forbidden(&user)
                };
                return answer::plain(StatusCode::FORBIDDEN, text);
            }
        }
        let answered = match root {
            Root::Healthz => Ok(answer::healthy()),
            Root::Metrics => {
                let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Ok(answer::with_type(StatusCode::OK, kind, self.metrics()))
            }
            Root::DebuggingDisabled => Ok(answer::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "Debug endpoints are disabled.",
            )),
            Root::Pods => self.list_pods(request, &path),
            Root::ContainerLogs => self.container_logs(request, &path).await,
            Root::Checkpoint => self.checkpoint(request, &path).await,
            Root::Redirect(_) | Root::Unknown => Ok(answer::no_such_route()),
        };
        answered.unwrap_or_else(|answer| *answer)
    }

    /// The roots of a port.
    fn roots(&self, secure: bool) -> Roots {
        let config = &self.config;
        let debugging = secure && (config.debugging_handlers || config.is(Mutant::DebuggingOffIgnored));
        let gate = config.gate() || config.is(Mutant::GateIgnored);
        let open = !secure && config.is(Mutant::ReadOnlyPortServes);
        Roots {
            debugging,
            checkpoint: (debugging || open) && gate,
        }
    }

    /// The path as it was sent; mutants make it canonical by themselves.
    fn path<'a>(&self, raw: &'a str) -> Cow<'a, str> {
        let dots = raw.split('/').any(|segment| matches!(segment, "." | ".."));
        let follows = match self.config.mutant {
            Some(Mutant::DotSegmentsFollowed) => dots,
            Some(Mutant::EmptySegmentsDropped) => !dots,
            _ => false,
        };
        if follows {
            route::canonical(raw).into()
        } else {
            raw.into()
        }
    }

    /// The path, decoded; mutants decode less.
    fn decode(&self, raw: &str) -> Option<String> {
        match self.config.mutant {
            Some(Mutant::MalformedEscapeKept) => Some(route::decode(raw).unwrap_or_else(|| raw.to_owned())),
            // A malformed one is refused all the same.
            Some(Mutant::PercentEncodingKept) => route::decode(raw).map(|_| raw.to_owned()),
            Some(Mutant::EncodedSlashKept) => route::decode(&raw.replace("%2F", "%252F").replace("%2f", "%252f")),
            _ => route::decode(raw),
        }
    }

    /// What mutants say before it is their turn: of a Pod that is not there, of a path or method that is wrong.
    fn early(&self, root: &Root, request: &Request<Incoming>, path: &str, mutants: [Mutant; 2]) -> Option<Answer> {
        let [lookup, routing] = mutants;
        if *root != Root::Checkpoint {
            return None;
        }
        let names = route::names(path, None);
        if self.config.is(routing) {
            let wrong = names.as_ref().map_err(|answer| answer.as_ref().clone()).err();
            let method = || {
                route::method(request.method(), Method::POST)
                    .err()
                    .map(|answer| *answer)
            };
            return wrong.or_else(method);
        }
        let names = names.ok().filter(|_| self.config.is(lookup))?;
        let unknown = self.pods.find(&names[0], &names[1], false).is_none();
        unknown.then(|| answer::plain(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    fn unknown(&self, path: &str, chain: Option<&[CertificateDer<'static>]>, request: &Request<Incoming>) -> Answer {
        const OFF: &str = "the feature gate ContainerCheckpoint is off";
        let user = || self.authentication.user(chain?, request.headers());
        match self.config.mutant.filter(|_| path.starts_with("/checkpoint/")) {
            Some(Mutant::GateOff500) if !self.config.gate() => answer::plain(StatusCode::INTERNAL_SERVER_ERROR, OFF),
            Some(Mutant::GateOffSaysSo) if !self.config.gate() => answer::plain(StatusCode::NOT_FOUND, OFF),
            Some(Mutant::GateOffAsksWho) if !self.config.gate() && user().is_none() => {
                answer::plain(StatusCode::UNAUTHORIZED, "Unauthorized")
            }
            _ => answer::no_such_route(),
        }
    }

    /// The counters; mutants leave some out.
    fn metrics(&self) -> String {
        let left_out = match self.config.mutant {
            Some(Mutant::OperationsNotCounted) => {
                "kubelet_runtime_operations_total{operation_type=\"checkpoint_container\"}"
            }
            Some(Mutant::ErrorsNotCounted) => {
                "kubelet_runtime_operations_errors_total{operation_type=\"checkpoint_container\"}"
            }
            _ => return self.cri.metrics(),
        };
        let metrics = self.cri.metrics();
        let kept = metrics.lines().filter(|line| !line.starts_with(left_out));
        kept.flat_map(|line| [line, "\n"]).collect()
    }

    fn list_pods(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        if path.trim_matches('/') != "pods" {
            return Err(Box::new(answer::plain(StatusCode::NOT_FOUND, "404: Page Not Found")));
        }
        route::method(request.method(), Method::GET)?;
        route::accepts_json(request.headers(), None)?;
        Ok(answer::json(self.pods.list().to_string()))
    }

    async fn container_logs(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        let names = route::names(path, None)?;
        route::method(request.method(), Method::GET)?;
        Ok(logs::handle(&self.pods, &names, request.uri().query()).await)
    }

    async fn checkpoint(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        if path.len() > LONG_PATH && self.config.is(Mutant::LongName414) {
            return Err(Box::new(answer::plain(StatusCode::URI_TOO_LONG, "414: URI Too Long")));
        }
        let names = route::names(path, self.config.mutant)?;
        let allowed = self.config.is(Mutant::GetAllowed) && request.method() == Method::GET;
        let refused = route::method(request.method(), Method::POST).err().filter(|_| !allowed);
        if let Some(refused) = refused {
            if self.config.is(Mutant::RefusedMethodCheckpoints) {
                let pod = self.pods.find(&names[0], &names[1], false);
                self.checkpoints.handle(&names, pod, request.uri().query()).await;
            }
            return Err(refused);
        }
        route::accepts_json(request.headers(), self.config.mutant)?;
        if self.config.is(Mutant::RequestBodyParsed) && has_body(request) {
            let status = StatusCode::BAD_REQUEST;
            return Err(Box::new(answer::plain(status, "the body is not JSON")));
        }
        let any_namespace = self.config.is(Mutant::NamespaceIgnored);
        let pod = self.pods.find(&names[0], &names[1], any_namespace).or_else(|| {
            let full = format!("{}-{}", names[1], self.config.node_name.to_lowercase());
            let short = self.config.is(Mutant::NodeSuffixOptional);
            self.pods.find(&names[0], &full, false).filter(|_| short)
        });
        let standing = |name: &str| self.pods.container(&pod.as_ref()?.uid, name);
        let waiting = standing(&names[2]).is_some_and(|container| container.waiting.is_some());
        if waiting && self.config.is(Mutant::Restarting404) {
            let text = format!("container {} does not exist", names[2]);
            return Err(Box::new(answer::plain(StatusCode::NOT_FOUND, text)));
        }
        let log = standing(&names[2])
            .and_then(|container| container.current)
            .map(|run| run.log);
        let answer = self.checkpoints.handle(&names, pod, request.uri().query()).await;
        if answer.status() == StatusCode::INTERNAL_SERVER_ERROR && self.config.is(Mutant::LogInError) {
            let log = log.and_then(|log| std::fs::read(log).ok()).unwrap_or_default();
            return Ok(answer::plain(StatusCode::INTERNAL_SERVER_ERROR, log));
        }
        Ok(answer)
    }
}

fn has_body(request: &Request<Incoming>) -> bool {
    hyper::body::Body::size_hint(request.body()).upper() != Some(0)
}
