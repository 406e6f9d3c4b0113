//! Authenticates, authorizes and routes each request.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authentication::Authentication;
use super::authorization::{Attributes, Authorizer};
use super::checkpoint::CheckpointHandler;
use super::pod_store::PodStore;
use super::responses::{self, FullResponse, Rejection, reject};
use super::route::{self, Route};
use super::runtime_connection::RuntimeConnection;
use super::{Config, logs};
use crate::http_server::{self, ClientChain};

#[derive(Debug)]
pub(crate) struct Handlers {
    pub(crate) config: Arc<Config>,
    pub(crate) authentication: Authentication,
    pub(crate) authorizer: Authorizer,
    pub(crate) cri: Arc<RuntimeConnection>,
    pub(crate) pods: Arc<PodStore>,
    pub(crate) checkpoints: CheckpointHandler,
}

/// Serves with all handlers over TLS; without it, the read-only port: without authentication and debugging handlers.
/// Dropping a connection cancels its CRI calls.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handlers: Arc<Handlers>,
    stop: CancellationToken,
) {
    let handler = move |request: Request<Incoming>| {
        let handlers = Arc::clone(&handlers);
        async move {
            // No handler reads the body. It is dropped after the response, because hyper drains or closes then.
            let (mut request, _body) = request.into_parts();
            let response = handlers.handle(&mut request).await;
            tracing::info!(method = %request.method, path = request.uri.path(), status = response.status().as_u16());
            if request.method == Method::HEAD {
                return without_body(response).map(Full::new);
            }
            response.map(Full::new)
        }
    };
    http_server::serve(listener, tls, stop, handler).await;
}

/// The response to HEAD: with the length of the body and without the body, which HTTP/2 would transmit.
fn without_body(mut response: FullResponse) -> FullResponse {
    let length = response.body().len();
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response.map(|_| Bytes::new())
}

impl Handlers {
    async fn handle(self: &Arc<Self>, request: &mut Parts) -> FullResponse {
        let behavior = &self.config.behavior;
        (behavior.edit_request)(request);
        let response = self.respond(request).await.unwrap_or_else(|rejection| *rejection);
        if response.status().is_client_error() {
            (behavior.after_refusal)(self, request, response.status()).await;
        }
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
            if !(behavior.authorize)(self, &user, &mut attributes) {
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
