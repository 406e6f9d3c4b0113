//! The unix sockets that fake-cri listens on: for their owner alone from the first instant.
//!
//! Ways to fail: another process answers on the socket (it is left alone), what is there is no socket, the path is longer
//! than the kernel takes, the folder cannot be made.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
    stat::{Mode, fchmod},
};

/// Why fake-cri cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("{0:?} is in use: another process listens on it")]
    InUse(PathBuf),
    /// A file that is no socket.
    #[error("{0:?} is there and is no socket: it is left alone")]
    NotASocket(PathBuf),
    /// The kernel's answer.
    #[error("failed to listen on {path:?}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens on a path, with mode 0600, in place of a socket that nobody listens on any more.
///
/// # Errors
///
/// See [`ListenError`].
pub fn listen_on(path: &Path) -> Result<tokio::net::UnixListener, ListenError> {
    let failed = |source: io::Error| ListenError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!(?path, "a stale socket is replaced");
                fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
    }
    let bind_socket = || -> nix::Result<UnixListener> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        // The file takes the mode that the socket has when it is bound, so there is no instant in which it is open to all.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(UnixListener::from(socket))
    };
    let listener = bind_socket().map_err(|errno| failed(errno.into()))?;
    tokio::net::UnixListener::from_std(listener).map_err(failed)
}

/// The path of an endpoint: `unix:///PATH`, `unix://PATH` or an absolute path.
///
/// # Errors
///
/// Any other scheme, and a path that is relative.
pub fn parse_endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .unwrap_or(text);
    match Path::new(path).is_absolute() {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("{text:?} is not unix:///PATH")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn live_sockets_are_refused_and_stale_ones_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.sock");
        let first = listen_on(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen_on(&path), Err(ListenError::InUse(_))));
        drop(first);
        assert!(path.exists());
        let _second = listen_on(&path).unwrap();
    }

    #[tokio::test]
    async fn a_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(listen_on(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[rstest::rstest]
    #[case("unix:///run/a.sock", Some("/run/a.sock"))]
    #[case("/run/a.sock", Some("/run/a.sock"))]
    #[case("unix://a.sock", None)]
    #[case("tcp://1.2.3.4:5", None)]
    #[case("", None)]
    fn parses_endpoints(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(parse_endpoint(text).ok(), expected.map(PathBuf::from));
    }
}
