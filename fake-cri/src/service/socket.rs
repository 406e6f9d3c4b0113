//! The unix sockets of fake-cri. They have mode 0600 from their creation.
//!
//! Ways to fail: another process listens on the socket (the socket is not replaced), the path exists and is not a
//! socket, the path is too long (unix(7)), the directory cannot be created.

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
    /// Another process listens on the socket.
    #[error("{0:?} is in use: another process listens on it")]
    InUse(PathBuf),
    /// A file of another type exists at the path.
    #[error("{0:?} exists and is not a socket")]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("failed to listen on {path:?}: {source}")]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Listens on a socket with mode 0600. Replaces a stale socket, on which no process listens.
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
                tracing::info!(?path, "replacing a stale socket");
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
        // bind(2) creates the file with the mode of the socket's inode, so other users can never connect.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(UnixListener::from(socket))
    };
    let listener = bind_socket().map_err(|errno| failed(errno.into()))?;
    tokio::net::UnixListener::from_std(listener).map_err(failed)
}

/// Parses the path of an endpoint: `unix:///PATH`, `unix:/PATH` or an absolute path.
///
/// # Errors
///
/// The endpoint has another scheme or a relative path.
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
