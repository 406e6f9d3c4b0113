//! An HTTP server: accepts connections, with TLS or without, and passes their requests to a function.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The timeout for the TLS handshake and for the head of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The certificates that the client sent: an extension of every request over TLS.
#[derive(Clone)]
pub(crate) struct ClientChain(pub(crate) Arc<[CertificateDer<'static>]>);

/// The number of a connection, which no other connection of this process has: an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionNumber(u64);

impl ConnectionNumber {
    fn next() -> ConnectionNumber {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ConnectionNumber(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Serves until `stop`, then drops the open connections, which drops the futures of their requests.
pub(crate) async fn serve<H, F, B>(listener: TcpListener, tls: Option<TlsAcceptor>, stop: CancellationToken, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, peer, tls.clone(), handler.clone());
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

async fn serve_connection<H, F, B>(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    // Send small responses immediately. A failure to set this only delays them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = tls else {
        return serve_requests(stream, handler).await;
    };
    match tokio::time::timeout(CLIENT_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.clone().into_owned());
            let chain = ClientChain(chain.collect());
            let with_chain = move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(chain.clone());
                handler(request)
            };
            serve_requests(stream, with_chain).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
    }
}

async fn serve_requests<F, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let number = ConnectionNumber::next();
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(number);
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
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
