//! Accepts connections, and takes each request through authentication, authorisation and routing.

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
        let Some(path) = route::decode(uri.path()) else {
            return answer::bad_request();
        };
        let gate = self.config.container_checkpoint || self.config.is(Mutant::GateIgnored);
        let debugging = chain.is_some() && self.config.debugging_handlers;
        let roots = Roots {
            debugging,
            checkpoint: debugging && gate,
        };
        let root = route::root(uri.path(), uri.query(), roots);
        match &root {
            Root::Redirect(to) => return answer::redirect(to, matches!(*method, Method::GET | Method::HEAD)),
            Root::Unknown => return self.unknown(&path),
            _ => {}
        }
        if let Some(chain) = chain {
            let Some(user) = self.authentication.user(chain, request.headers()) else {
                let forbid = self.config.is(Mutant::Unauthenticated403);
                let status = if forbid {
                    StatusCode::FORBIDDEN
                } else {
                    StatusCode::UNAUTHORIZED
                };
                return answer::plain(status, "Unauthorized");
            };
            let attributes = Attributes::of(method, &path);
            if !self.authorizer.allows(&user, &attributes) {
                return answer::plain(StatusCode::FORBIDDEN, attributes.forbidden(&user));
            }
        }
        let answered = match root {
            Root::Healthz => Ok(answer::healthy()),
            Root::Metrics => {
                let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
                Ok(answer::with_type(StatusCode::OK, kind, self.cri.metrics()))
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

    fn unknown(&self, path: &str) -> Answer {
        if self.config.is(Mutant::GateOff500) && path.starts_with("/checkpoint/") {
            return answer::plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the feature gate ContainerCheckpoint is off",
            );
        }
        answer::no_such_route()
    }

    fn list_pods(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        if path.trim_matches('/') != "pods" {
            return Err(Box::new(answer::plain(StatusCode::NOT_FOUND, "404: Page Not Found")));
        }
        route::method(request.method(), Method::GET)?;
        route::accepts_json(request.headers())?;
        Ok(answer::json(self.pods.list().to_string()))
    }

    async fn container_logs(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        let names = route::names(path)?;
        route::method(request.method(), Method::GET)?;
        Ok(logs::handle(&self.pods, &names, request.uri().query()).await)
    }

    async fn checkpoint(&self, request: &Request<Incoming>, path: &str) -> Result<Answer, Box<Answer>> {
        let names = route::names(path)?;
        if !(self.config.is(Mutant::GetAllowed) && request.method() == Method::GET) {
            route::method(request.method(), Method::POST)?;
        }
        route::accepts_json(request.headers())?;
        let pod = self
            .pods
            .find(&names[0], &names[1], self.config.is(Mutant::NamespaceIgnored));
        Ok(self.checkpoints.handle(&names, pod, request.uri().query()).await)
    }
}
