//! A gRPC server behind the fault layer on a unix socket, which answers every rpc of the CRI, and a caller without types.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use fake_cri::{
    fault::{Engine, Injections, Journal, Subject, Subjects},
    service::{Connection, FaultLayer},
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

/// What the server saw of one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) injections: Option<Injections>,
}

/// The server, and what is before it.
pub(crate) struct Faulty {
    pub(crate) engine: Arc<Engine>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    socket: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// Answers every call: with what stands in `answer`, or nothing, as one message.
#[derive(Clone)]
struct Everything<const IMAGES: bool> {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Bytes,
}

impl NamedService for Everything<true> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl NamedService for Everything<false> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl<const IMAGES: bool> Service<http::Request<Body>> for Everything<IMAGES> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.seen.lock().expect("no panic").push(Seen {
            path: request.uri().path().to_owned(),
            injections: request.extensions().get::<Injections>().cloned(),
        });
        let mut frame = vec![0];
        frame.put_u32(self.answer.len() as u32);
        frame.extend(&self.answer);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(Bytes::from(frame)).with_trailers(ready(Some(Ok(trailers))));
        let answer = http::Response::builder().header("content-type", "application/grpc");
        ready(Ok(answer.body(Body::new(body)).expect("plain headers")))
    }
}

impl Faulty {
    /// A server whose streams a fault can close.
    pub(crate) async fn start(subjects: impl Subjects, answer: impl Into<Bytes>) -> Faulty {
        Faulty::start_with(subjects, answer, Connection::new).await
    }

    /// A server over streams of any kind.
    pub(crate) async fn start_with<IO>(
        subjects: impl Subjects,
        answer: impl Into<Bytes>,
        connection: impl Fn(UnixStream) -> IO + Send + 'static,
    ) -> Faulty
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("cri.sock");
        let listener = UnixListener::bind(&socket).expect("a free path");
        let (engine, journal, seen) = (Arc::new(Engine::new()), Arc::new(Journal::new()), Arc::default());
        let answer = answer.into();
        let runtime = Everything::<false> {
            seen: Arc::clone(&seen),
            answer: answer.clone(),
        };
        let images = Everything::<true> {
            seen: Arc::clone(&seen),
            answer,
        };
        let layer = FaultLayer::new(engine.clone(), journal.clone(), Arc::new(subjects));
        let server = Server::builder().layer(layer).add_service(runtime).add_service(images);
        let incoming = UnixListenerStream::new(listener).map(move |stream| stream.map(&connection));
        Faulty {
            engine,
            journal,
            seen,
            socket,
            server: tokio::spawn(async move { server.serve_with_incoming(incoming).await.expect("the server runs") }),
            _folder: folder,
        }
    }

    /// A new connection to it.
    pub(crate) async fn connect(&self) -> Channel {
        connect(&self.socket).await
    }

    /// Calls with a timeout that the server alone honours: tonic's client would give up by itself at the same moment.
    pub(crate) async fn call_with_timeout(&self, path: &str, timeout: &str) -> Status {
        let stream = UnixStream::connect(&self.socket).await.expect("the server listens");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = handshake.await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::post(format!("http://fake-cri{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .expect("plain headers");
        let answer = client.send_request(request).await.expect("an answer");
        connection.abort();
        Status::from_header_map(answer.headers()).expect("an answer without a message")
    }

    /// Adds rules as the control API does.
    pub(crate) fn add(&self, rules: &str) -> Vec<String> {
        let rules = fake_cri::fault::parse_rules(rules).unwrap_or_else(|error| panic!("{error}"));
        self.engine.add(rules, fake_cri::fault::Source::Control)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A new connection to a server.
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

/// Calls a path with a message and gives back the answer's message, without knowing their types.
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

/// Knows one container, `c1` in pod `p1`: container `app` of pod `default/web`.
pub(crate) struct OneContainer(pub(crate) Subject);

impl Default for OneContainer {
    fn default() -> Self {
        OneContainer(Subject {
            pod: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "uid-1".to_owned(),
            ..Subject::default()
        })
    }
}

impl Subjects for OneContainer {
    fn subject(&self, pod_sandbox_id: Option<&str>, container_id: Option<&str>) -> Subject {
        match (pod_sandbox_id, container_id) {
            (_, Some("c1")) => Subject {
                container: "app".to_owned(),
                ..self.0.clone()
            },
            (Some("p1"), None) => self.0.clone(),
            _ => Subject::default(),
        }
    }
}
