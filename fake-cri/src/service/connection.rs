//! A client connection that a fault can close and whose `:authority` headers are rewritten.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::authority::AuthorityRewriter;

const READ_BYTES: usize = 8 << 10;

/// A unix stream that [`Hangup::close`] closes in both directions.
///
/// The server passes accepted connections to tonic as `CriConnection`s. tonic adds the [`Hangup`] to the extensions of
/// each request.
pub struct CriConnection {
    stream: UnixStream,
    rewriter: AuthorityRewriter,
    hangup: Hangup,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// A handle that closes the connection of a request.
#[derive(Clone, Debug, Default)]
pub struct Hangup(CancellationToken);

impl Hangup {
    /// Closes the connection. Its calls end without a response.
    pub fn close(&self) {
        self.0.cancel();
    }
}

impl CriConnection {
    /// Wraps an accepted stream.
    pub fn new(stream: UnixStream) -> CriConnection {
        let hangup = Hangup::default();
        CriConnection {
            stream,
            rewriter: AuthorityRewriter::new(),
            closed: Box::pin(hangup.0.clone().cancelled_owned()),
            hangup,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by a fault")),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for CriConnection {
    type ConnectInfo = Hangup;

    fn connect_info(&self) -> Hangup {
        self.hangup.clone()
    }
}

impl AsyncRead for CriConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let this = &mut *self;
        if this.rewriter.is_disabled() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            let ready = this.rewriter.pop(buffer.remaining());
            if !ready.is_empty() || buffer.remaining() == 0 {
                buffer.put_slice(&ready);
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            match read.filled() {
                [] if this.rewriter.is_disabled() => return Poll::Ready(Ok(())),
                [] => this.rewriter.end(),
                bytes => this.rewriter.push(bytes),
            }
        }
    }
}

impl AsyncWrite for CriConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
