//! The tower layer in front of the gRPC services, which executes faults and writes the journal.
//!
//! ```text
//!  request -> buffer the message -> resolve pod and container -> FaultEngine::decide
//!               before: error | delay | hang | drop the connection | crash
//!               inner service, with CheckpointFaults in the request's extensions
//!               after: the same effects, instead of the response
//!  response  <- journal
//! ```
//!
//! Calls that are not rpcs of the CRI (health, reflection) pass unchanged and are not in the journal. The faults of a
//! stream act before its first message, and its journal entry is written at its end. When a deadline passes, the layer
//! returns DeadlineExceeded, as runtimes in Go do; tonic itself would return Cancelled.

use std::{
    future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use nix::sys::signal::{Signal, raise};
use prost_reflect::DynamicMessage;
use tonic::{Code, Status, body::Body};
use tower::{BoxError, Layer, Service};

use super::{
    Hangup,
    call_recorder::{CallRecorder, RecordedBody, decode_to_json},
    frame, target,
};
use crate::fault::{CallTarget, Effect, FAULT_ANNOTATION, FaultEngine, Journal, ResolveTarget, Rpc, to_json};

/// The limit for a request, as in containerd and CRI-O.
const REQUEST_MAX_BYTES: usize = 16 << 20;

/// Adds faults and the journal to gRPC services: `tonic::transport::Server::builder().layer(FaultLayer::new(..))`.
///
/// A fault that drops the connection requires that the server's connections are
/// [`CriConnection`](super::CriConnection)s. Otherwise only the HTTP/2 stream of the call is reset.
#[derive(Clone)]
pub struct FaultLayer {
    shared: Arc<FaultLayerState>,
}

struct FaultLayerState {
    engine: Arc<FaultEngine>,
    journal: Arc<Journal>,
    target_resolver: Arc<dyn ResolveTarget>,
}

impl FaultLayer {
    /// Creates a layer. `target_resolver` finds the pod and container of the ids in a request.
    pub fn new(engine: Arc<FaultEngine>, journal: Arc<Journal>, target_resolver: Arc<dyn ResolveTarget>) -> FaultLayer {
        FaultLayer {
            shared: Arc::new(FaultLayerState {
                engine,
                journal,
                target_resolver,
            }),
        }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// A gRPC service with faults and the journal. Created by [`FaultLayer`].
#[derive(Clone)]
pub struct FaultService<S> {
    inner: S,
    shared: Arc<FaultLayerState>,
}

impl<S> Service<http::Request<Body>> for FaultService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
{
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(rpc) = Rpc::by_path(request.uri().path()) else {
            let response = self.inner.call(request);
            return Box::pin(async { response.await.map_err(Into::into) });
        };
        // Only the instance on which `poll_ready` returned Ready may be called, so the clone replaces it in `self`.
        let clone = self.inner.clone();
        let call = RpcCall {
            inner: std::mem::replace(&mut self.inner, clone),
            record: CallRecorder::new(self.shared.journal.clone(), rpc, frame::grpc_timeout(request.headers())),
            shared: self.shared.clone(),
            hangup: request.extensions().get::<Hangup>().cloned(),
            rpc,
        };
        Box::pin(call.run(request))
    }
}

/// The error of a call whose connection a fault drops. tonic does not know this type, so hyper resets the stream.
#[derive(Debug, thiserror::Error)]
#[error("the connection was dropped by a fault")]
struct ConnectionDropped;

/// Why a call has no response from the inner service.
enum CallEnd {
    Status(Status),
    ConnectionDropped,
    /// The inner service failed without a gRPC status.
    Failed(BoxError),
}

struct RpcCall<S> {
    inner: S,
    record: CallRecorder,
    shared: Arc<FaultLayerState>,
    hangup: Option<Hangup>,
    rpc: &'static Rpc,
}

impl<S> RpcCall<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Send,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
{
    async fn run(mut self, request: http::Request<Body>) -> Result<http::Response<Body>, BoxError> {
        let deadline = self.record.deadline();
        let call = self.handle(request);
        let outcome = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), call).await {
                Ok(outcome) => outcome,
                Err(_) => Err(CallEnd::Status(Status::deadline_exceeded("context deadline exceeded"))),
            },
            None => call.await,
        };
        match outcome {
            Ok(response) => Ok(response.into_recorded(self.rpc, self.record)),
            Err(CallEnd::Status(status)) => {
                self.record.finish(String::new(), status.code(), status.message());
                Ok(status.into_http())
            }
            Err(CallEnd::ConnectionDropped) => {
                self.record
                    .finish(String::new(), Code::Unavailable, &ConnectionDropped.to_string());
                match self.hangup {
                    Some(hangup) => {
                        hangup.close();
                        // The server drops this future when the connection closes.
                        future::pending().await
                    }
                    None => Err(ConnectionDropped.into()),
                }
            }
            Err(CallEnd::Failed(error)) => {
                self.record.finish(String::new(), Code::Unknown, &error.to_string());
                Err(error)
            }
        }
    }

    async fn handle(&mut self, request: http::Request<Body>) -> Result<RpcResponse, CallEnd> {
        let (mut parts, body) = request.into_parts();
        let body = Limited::new(body, REQUEST_MAX_BYTES).collect().await.map_err(|error| {
            CallEnd::Status(if error.is::<LengthLimitError>() {
                Status::resource_exhausted(format!("the request is larger than {REQUEST_MAX_BYTES} bytes"))
            } else {
                Status::internal(format!("failed to read the request: {error}"))
            })
        })?;
        let body = body.to_bytes();
        let call_target = self.decode_request(&body);
        if matches!(self.rpc.name(), "RunPodSandbox" | "CreateContainer") {
            FaultEngine::check_annotations(&call_target.annotations).map_err(|error| {
                CallEnd::Status(Status::invalid_argument(format!(
                    "annotation {FAULT_ANNOTATION}: {error}"
                )))
            })?;
        }
        let decision = self.shared.engine.decide(self.rpc, &call_target);
        self.record.faults = decision.fired_rule_ids;
        run_effects(&decision.before, self.rpc).await?;

        if !decision.checkpoint.is_empty() {
            parts.extensions.insert(decision.checkpoint);
        }
        let request = http::Request::from_parts(parts, Body::new(Full::new(body)));
        let response = self
            .inner
            .call(request)
            .await
            .map_err(|error| CallEnd::Failed(error.into()))?;
        let response = match self.rpc.is_server_streaming() {
            true => RpcResponse::Stream(response),
            false => RpcResponse::unary(response).await?,
        };
        run_effects(&decision.after, self.rpc).await?;
        Ok(response)
    }

    /// Decodes the request's message, records it and finds its target. A body that cannot be decoded is refused by
    /// tonic later.
    fn decode_request(&mut self, body: &Bytes) -> CallTarget {
        let message = frame::split_messages(body.clone()).into_iter().next();
        let message = message.and_then(|message| DynamicMessage::decode(self.rpc.input(), message).ok());
        let Some(message) = message else {
            return CallTarget::default();
        };
        let call_target = target::find_target(&message, &*self.shared.target_resolver);
        self.record.request = to_json(message).to_string();
        call_target
    }
}

/// Runs the effects before or after a call.
async fn run_effects(effects: &[Effect], rpc: &Rpc) -> Result<(), CallEnd> {
    let fail = |code, message: String| Err(CallEnd::Status(Status::new(code, message)));
    for effect in effects {
        match effect {
            Effect::Delay(span) => tokio::time::sleep(*span).await,
            // The deadline in `run` or the cancellation by the caller drops this future.
            Effect::Hang => future::pending().await,
            Effect::Error(status) => return fail(status.code, status.message.clone()),
            // The messages of grpc-go: of its generated servers, and of its dispatcher.
            Effect::Unimplemented => {
                return fail(Code::Unimplemented, format!("method {} not implemented", rpc.name()));
            }
            Effect::UnknownMethod => {
                let message = format!("unknown method {} for service {}", rpc.name(), rpc.service());
                return fail(Code::Unimplemented, message);
            }
            Effect::Disconnect => return Err(CallEnd::ConnectionDropped),
            Effect::Crash => {
                tracing::warn!("killed by a fault");
                // SIGKILL does not return. If the kernel refuses the signal, abort.
                let _ = raise(Signal::SIGKILL);
                std::process::abort();
            }
            // The grammar allows the other effects only in the phases of a checkpoint.
            _ => {}
        }
    }
    Ok(())
}

enum RpcResponse {
    /// A stream; its messages are not read yet.
    Stream(http::Response<Body>),
    /// The complete response.
    Unary {
        parts: http::response::Parts,
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
}

impl RpcResponse {
    /// Reads the whole response, so that it can be recorded and replaced.
    async fn unary(response: http::Response<Body>) -> Result<RpcResponse, CallEnd> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(CallEnd::Status)?;
        let trailers = body.trailers().cloned();
        let data = body.to_bytes();
        // The data is one message with its prefix. The limit must be checked here: with its own limit, tonic 0.14 sends
        // a broken frame.
        let length = data.len().saturating_sub(frame::PREFIX_BYTES);
        if length > frame::RESPONSE_MAX_BYTES {
            return Err(CallEnd::Status(frame::too_large(length, frame::RESPONSE_MAX_BYTES)));
        }
        Ok(RpcResponse::Unary { parts, data, trailers })
    }

    /// Returns the response for the caller. A unary response is recorded now, a stream at its end.
    fn into_recorded(self, rpc: &Rpc, record: CallRecorder) -> http::Response<Body> {
        match self {
            RpcResponse::Stream(response) => match Status::from_header_map(response.headers()) {
                Some(status) => {
                    record.finish(String::new(), status.code(), status.message());
                    response
                }
                None => response.map(|body| Body::new(RecordedBody::new(body, record))),
            },
            RpcResponse::Unary { parts, data, trailers } => {
                let status = trailers.as_ref().and_then(Status::from_header_map);
                match status.or_else(|| Status::from_header_map(&parts.headers)) {
                    Some(status) if status.code() != Code::Ok => {
                        record.finish(String::new(), status.code(), status.message());
                    }
                    _ => {
                        let message = frame::split_messages(data.clone()).into_iter().next();
                        let response = message.and_then(|message| decode_to_json(rpc.output(), message));
                        let response = response.map(|json| json.to_string()).unwrap_or_default();
                        record.finish(response, Code::Ok, "");
                    }
                }
                // A response with the status in its headers must end with them: clients in Go treat an empty data frame
                // after the headers as a response without trailers.
                let body = match trailers {
                    None if data.is_empty() => Body::empty(),
                    trailers => Body::new(Full::new(data).with_trailers(future::ready(trailers.map(Ok)))),
                };
                http::Response::from_parts(parts, body)
            }
        }
    }
}
