//! A gRPC server behind the fault layer on a unix socket that handles every rpc of the CRI, and an untyped client.
#![allow(dead_code, reason = "each test program uses only some of the items")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use fake_cri::{
    fault::{CallTarget, CheckpointFaults, FaultEngine, Journal, ResolveTarget},
    service::{CriConnection, FaultLayer},
};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::NamedService,
    transport::{Channel, Endpoint, Server, server::Connected},
};
use tower::Service;

/// A call as the server received it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceivedCall {
    pub(crate) path: String,
    pub(crate) faults: Option<CheckpointFaults>,
}

/// The server with its fault layer.
pub(crate) struct FaultServer {
    pub(crate) engine: Arc<FaultEngine>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) received_calls: Arc<Mutex<Vec<ReceivedCall>>>,
    socket: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _temp_dir: tempfile::TempDir,
}

/// Responds to every call with the bytes in `response`, or with no message.
#[derive(Clone)]
struct AnswerEveryRpc<const IMAGES: bool> {
    received_calls: Arc<Mutex<Vec<ReceivedCall>>>,
    response: Bytes,
}

impl NamedService for AnswerEveryRpc<true> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl NamedService for AnswerEveryRpc<false> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl<const IMAGES: bool> Service<http::Request<Body>> for AnswerEveryRpc<IMAGES> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.received_calls.lock().expect("no panic").push(ReceivedCall {
            path: request.uri().path().to_owned(),
            faults: request.extensions().get::<CheckpointFaults>().cloned(),
        });
        let mut frame = vec![0];
        frame.put_u32(self.response.len() as u32);
        frame.extend(&self.response);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(Bytes::from(frame)).with_trailers(ready(Some(Ok(trailers))));
        let response = http::Response::builder().header("content-type", "application/grpc");
        ready(Ok(response.body(Body::new(body)).expect("valid headers")))
    }
}

impl FaultServer {
    /// Starts a server whose connections a fault can close.
    pub(crate) async fn start(resolver: impl ResolveTarget, response: impl Into<Bytes>) -> FaultServer {
        FaultServer::start_with(resolver, response, CriConnection::new).await
    }

    /// Starts a server over connections of any type.
    pub(crate) async fn start_with<IO>(
        resolver: impl ResolveTarget,
        response: impl Into<Bytes>,
        connection: impl Fn(UnixStream) -> IO + Send + 'static,
    ) -> FaultServer
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("cri.sock");
        let listener = UnixListener::bind(&socket).expect("a free path");
        let (engine, journal, received_calls) =
            (Arc::new(FaultEngine::new()), Arc::new(Journal::new()), Arc::default());
        let response = response.into();
        let runtime = AnswerEveryRpc::<false> {
            received_calls: Arc::clone(&received_calls),
            response: response.clone(),
        };
        let images = AnswerEveryRpc::<true> {
            received_calls: Arc::clone(&received_calls),
            response,
        };
        let layer = FaultLayer::new(engine.clone(), journal.clone(), Arc::new(resolver));
        let server = Server::builder().layer(layer).add_service(runtime).add_service(images);
        let incoming = UnixListenerStream::new(listener).map(move |stream| stream.map(&connection));
        FaultServer {
            engine,
            journal,
            received_calls,
            socket,
            server: tokio::spawn(async move {
                server
                    .serve_with_incoming(incoming)
                    .await
                    .expect("the server is running")
            }),
            _temp_dir: dir,
        }
    }

    /// Opens a new connection.
    pub(crate) async fn connect(&self) -> Channel {
        connect(&self.socket).await
    }

    /// Calls with a timeout that only the server applies. tonic's client would cancel at the same moment.
    pub(crate) async fn call_with_timeout(&self, path: &str, timeout: &str) -> Status {
        let stream = UnixStream::connect(&self.socket).await.expect("the server listens");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = handshake.await.expect("an HTTP/2 connection");
        let connection = tokio::spawn(connection);
        let request = http::Request::post(format!("http://fake-cri{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .expect("valid headers");
        let response = client.send_request(request).await.expect("the call succeeds");
        connection.abort();
        Status::from_header_map(response.headers()).expect("an answer without a message")
    }

    /// Adds rules like the control API.
    pub(crate) fn add(&self, rules: &str) -> Vec<String> {
        let rules = fake_cri::fault::parse_rules(rules).unwrap_or_else(|error| panic!("{error}"));
        self.engine.add(rules, fake_cri::fault::RuleSource::Control)
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://fake-cri");
    endpoint
        .connect_with_connector(connector)
        .await
        .expect("the server listens")
}

/// Calls a path with an encoded request and returns the encoded response.
pub(crate) async fn call(channel: Channel, path: &str, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    client.unary(request, path.parse().expect("a path"), Raw).await
}

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item.as_slice());
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Resolves one container: `c1` in pod `p1` is container `app` of pod `default/web`.
pub(crate) struct OneContainerResolver(pub(crate) CallTarget);

impl Default for OneContainerResolver {
    fn default() -> Self {
        OneContainerResolver(CallTarget {
            pod: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "uid-1".to_owned(),
            ..CallTarget::default()
        })
    }
}

impl ResolveTarget for OneContainerResolver {
    fn resolve(&self, pod_sandbox_id: Option<&str>, container_id: Option<&str>) -> CallTarget {
        match (pod_sandbox_id, container_id) {
            (_, Some("c1")) => CallTarget {
                container: "app".to_owned(),
                ..self.0.clone()
            },
            (Some("p1"), None) => self.0.clone(),
            _ => CallTarget::default(),
        }
    }
}
