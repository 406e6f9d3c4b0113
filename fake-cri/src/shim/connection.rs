//! A connection to a shim: requests and replies, each after its length.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::sleep,
};

use super::{
    ShimError,
    message::{self, Refusal, ShimReply, ShimRequest},
    state_dir,
};

/// Connects to the shim of a directory.
pub(super) async fn connect(dir: &Path) -> Result<UnixStream, ShimError> {
    loop {
        // The descriptor must stay open until the path is resolved.
        let (_dir_fd, path) = state_dir::socket_path(dir).map_err(map_io_error)?;
        match UnixStream::connect(path).await {
            // The listen backlog is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            result => return result.map_err(map_io_error),
        }
    }
}

/// Maps the errors that mean that no shim listens.
pub(super) fn map_io_error(error: io::Error) -> ShimError {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => ShimError::Gone,
        _ => ShimError::Io(error),
    }
}

pub(super) fn unexpected_reply(reply: &ShimReply) -> ShimError {
    match reply.clone() {
        ShimReply::Refused(Refusal::Exec(message)) => ShimError::ExecFailed { message },
        ShimReply::Refused(Refusal::Restore(message)) => ShimError::RestoreFailed { message },
        ShimReply::Refused(Refusal::State(message)) => ShimError::WrongState { message },
        ShimReply::Refused(Refusal::Other(message)) => ShimError::Internal { message },
        reply => ShimError::Io(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected reply: {reply:?}"),
        )),
    }
}

pub(super) async fn send(socket: &mut UnixStream, request: &ShimRequest) -> Result<(), ShimError> {
    socket.write_all(&message::encode(request)).await.map_err(map_io_error)
}

pub(super) async fn receive(socket: &mut UnixStream) -> Result<ShimReply, ShimError> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).await.map_err(map_io_error)?;
    let mut body = vec![0; message::checked_length(length)?];
    socket.read_exact(&mut body).await.map_err(map_io_error)?;
    Ok(message::decode(&body)?)
}
