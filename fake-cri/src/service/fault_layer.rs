//! The layer in front of every gRPC service that makes faults happen and writes the journal.
//!
//! ```text
//!  request -> buffer its one message -> name its pod and container -> Engine::decide
//!               before: answer | wait | hang | hang up | die
//!               inner service, with Injections in the request's extensions
//!               after: the same, in place of the answer
//!  answer  <- journal
//! ```
//!
//! What is no rpc of the CRI (health, reflection) passes untouched and is not in the journal. A stream's faults happen
//! before its first message; it is in the journal when it ends. A deadline that passes is answered with
//! DeadlineExceeded, as Go's runtimes do; tonic itself would say Cancelled.

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
    Hangup, frame, named,
    record::{Record, Recorded, json},
};
use crate::fault::{ANNOTATION, Action, Engine, Injections, Journal, Rpc, Subject, Subjects, to_json};

/// The largest request that is read: the limit that containerd and CRI-O set for theirs.
const REQUEST_BYTES: usize = 16 << 20;

/// The largest answer of a call, and the largest message of a stream: gRPC for Go's limit as containerd and CRI-O set it, and the
/// most that the kubelet's client takes.
pub(super) const ANSWER_BYTES: usize = 16 << 20;

/// Puts faults and the journal around gRPC services: `tonic::transport::Server::builder().layer(FaultLayer::new(..))`.
///
/// A fault that drops the connection needs the server's streams to be [`Connection`](super::Connection)s; of others only
/// the call's own HTTP/2 stream is reset.
#[derive(Clone)]
pub struct FaultLayer {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    journal: Arc<Journal>,
    subjects: Arc<dyn Subjects>,
}

impl FaultLayer {
    /// A layer that asks this engine, writes into this journal, and names ids through `subjects`.
    pub fn new(engine: Arc<Engine>, journal: Arc<Journal>, subjects: Arc<dyn Subjects>) -> FaultLayer {
        FaultLayer {
            shared: Arc::new(Shared {
                engine,
                journal,
                subjects,
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

/// A gRPC service with faults in front of it. Made by [`FaultLayer`].
#[derive(Clone)]
pub struct FaultService<S> {
    inner: S,
    shared: Arc<Shared>,
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
            let answer = self.inner.call(request);
            return Box::pin(async { answer.await.map_err(Into::into) });
        };
        // The service that is ready is the one that was polled; the clone takes its place.
        let clone = self.inner.clone();
        let call = Call {
            inner: std::mem::replace(&mut self.inner, clone),
            record: Record::new(self.shared.journal.clone(), rpc, frame::timeout(request.headers())),
            shared: self.shared.clone(),
            hangup: request.extensions().get::<Hangup>().cloned(),
            rpc,
        };
        Box::pin(call.run(request))
    }
}

/// The connection ends without an answer. tonic does not know this error, so hyper resets the stream.
#[derive(Debug, thiserror::Error)]
#[error("the connection was dropped by a fault")]
struct Dropped;

/// Why a call has no answer of the runtime's.
enum End {
    /// The layer answers in its place.
    Answer(Status),
    /// The connection is closed.
    Dropped,
    /// The inner service failed below gRPC.
    Failed(BoxError),
}

/// One call on its way through the layer.
struct Call<S> {
    inner: S,
    record: Record,
    shared: Arc<Shared>,
    hangup: Option<Hangup>,
    rpc: &'static Rpc,
}

impl<S> Call<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Send,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
{
    async fn run(mut self, request: http::Request<Body>) -> Result<http::Response<Body>, BoxError> {
        let deadline = self.record.deadline();
        let work = self.work(request);
        let done = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(done) => done,
                Err(_) => Err(End::Answer(Status::deadline_exceeded("context deadline exceeded"))),
            },
            None => work.await,
        };
        match done {
            Ok(answer) => Ok(answer.journalled(self.rpc, self.record)),
            Err(End::Answer(status)) => {
                self.record.finish(String::new(), status.code(), status.message());
                Ok(status.into_http())
            }
            Err(End::Dropped) => {
                self.record
                    .finish(String::new(), Code::Unavailable, &Dropped.to_string());
                match self.hangup {
                    Some(hangup) => {
                        hangup.close();
                        // What runs a call ends it with its connection.
                        future::pending().await
                    }
                    None => Err(Dropped.into()),
                }
            }
            Err(End::Failed(error)) => {
                self.record.finish(String::new(), Code::Unknown, &error.to_string());
                Err(error)
            }
        }
    }

    async fn work(&mut self, request: http::Request<Body>) -> Result<Answer, End> {
        let (mut parts, body) = request.into_parts();
        let body = Limited::new(body, REQUEST_BYTES).collect().await.map_err(|error| {
            End::Answer(if error.is::<LengthLimitError>() {
                Status::resource_exhausted(format!("the request is larger than {REQUEST_BYTES} bytes"))
            } else {
                Status::internal(format!("cannot read the request: {error}"))
            })
        })?;
        let body = body.to_bytes();
        let subject = self.read(&body);
        if matches!(self.rpc.name(), "RunPodSandbox" | "CreateContainer") {
            Engine::check_annotations(&subject.annotations)
                .map_err(|error| End::Answer(Status::invalid_argument(format!("annotation {ANNOTATION}: {error}"))))?;
        }
        let decision = self.shared.engine.decide(self.rpc, &subject);
        self.record.faults = decision.fired;
        act(&decision.before).await?;

        if !decision.injections.is_empty() {
            parts.extensions.insert(Injections(decision.injections));
        }
        let request = http::Request::from_parts(parts, Body::new(Full::new(body)));
        let answer = self
            .inner
            .call(request)
            .await
            .map_err(|error| End::Failed(error.into()))?;
        let answer = match self.rpc.streams() {
            true => Answer::Stream(answer),
            false => Answer::unary(answer).await?,
        };
        act(&decision.after).await?;
        Ok(answer)
    }

    /// Reads the request's one message into the record. A body that cannot be read is left to tonic to refuse.
    fn read(&mut self, body: &Bytes) -> Subject {
        let message = frame::messages(body.clone()).into_iter().next();
        let message = message.and_then(|message| DynamicMessage::decode(self.rpc.input(), message).ok());
        let Some(message) = message else {
            return Subject::default();
        };
        let subject = named::subject(&message, &*self.shared.subjects);
        self.record.request = to_json(message).to_string();
        subject
    }
}

async fn act(actions: &[Action]) -> Result<(), End> {
    for action in actions {
        match action {
            Action::Delay(span) => tokio::time::sleep(*span).await,
            // Its deadline, or the caller's end, ends the call as a whole.
            Action::Hang => future::pending().await,
            Action::Answer { code, message } => return Err(End::Answer(Status::new(*code, message))),
            Action::Drop => return Err(End::Dropped),
            Action::Crash => {
                tracing::warn!("killed by a fault");
                // It does not come back. Should the kernel refuse, an abort is as sudden.
                let _ = raise(Signal::SIGKILL);
                std::process::abort();
            }
        }
    }
    Ok(())
}

/// What the inner service answered.
enum Answer {
    /// A stream, whose messages are still to come.
    Stream(http::Response<Body>),
    /// Everything there is.
    Unary {
        parts: http::response::Parts,
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
}

impl Answer {
    /// Waits for all of it, so that it can be judged and replaced.
    async fn unary(answer: http::Response<Body>) -> Result<Answer, End> {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(End::Answer)?;
        let trailers = body.trailers().cloned();
        let data = body.to_bytes();
        // One message with its prefix. It is known here alone: tonic's own limit leaves a broken frame behind (0.14).
        let length = data.len().saturating_sub(frame::PREFIX_BYTES);
        if length > ANSWER_BYTES {
            return Err(End::Answer(frame::too_large(length, ANSWER_BYTES)));
        }
        Ok(Answer::Unary { parts, data, trailers })
    }

    /// The answer for the caller, written into the journal now or at its end.
    fn journalled(self, rpc: &Rpc, record: Record) -> http::Response<Body> {
        match self {
            Answer::Stream(answer) => match Status::from_header_map(answer.headers()) {
                Some(status) => {
                    record.finish(String::new(), status.code(), status.message());
                    answer
                }
                None => answer.map(|body| Body::new(Recorded::new(body, record))),
            },
            Answer::Unary { parts, data, trailers } => {
                let status = trailers.as_ref().and_then(Status::from_header_map);
                match status.or_else(|| Status::from_header_map(&parts.headers)) {
                    Some(status) if status.code() != Code::Ok => {
                        record.finish(String::new(), status.code(), status.message());
                    }
                    _ => {
                        let message = frame::messages(data.clone()).into_iter().next();
                        let response = message.and_then(|message| json(rpc.output(), message));
                        let response = response.map(|json| json.to_string()).unwrap_or_default();
                        record.finish(response, Code::Ok, "");
                    }
                }
                // A status in the headers ends the stream with them: Go's clients take an empty frame of data after
                // them for an answer whose trailers are missing.
                let body = match trailers {
                    None if data.is_empty() => Body::empty(),
                    trailers => Body::new(Full::new(data).with_trailers(future::ready(trailers.map(Ok)))),
                };
                http::Response::from_parts(parts, body)
            }
        }
    }
}
