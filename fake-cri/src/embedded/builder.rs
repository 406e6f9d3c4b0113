//! The options of an embedded fake-cri.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use super::{FakeCri, StartError};
use crate::entry;

/// The longest path of a unix socket (unix(7): `sun_path` has 108 bytes with the terminating NUL).
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Where fake-cri writes its log.
#[derive(Clone, Debug, Default)]
pub enum LogDestination {
    /// A file in the temporary directory. [`FakeCri::log`] reads it; dropping the handle removes it.
    #[default]
    Temporary,
    /// The standard error of this process.
    Inherit,
    /// A file at this path. The log is appended.
    File(PathBuf),
}

/// Options of an embedded fake-cri.
#[derive(Clone, Debug, Default)]
pub struct FakeCriBuilder {
    executable: Option<PathBuf>,
    listen: Option<PathBuf>,
    control: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    temp_parent: Option<PathBuf>,
    log: LogDestination,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl FakeCriBuilder {
    /// The program to start: `fake-cri`, or a program that calls [`crate::entry_point`] first in its `main`.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// The path of the CRI socket. Default: a socket in a temporary directory.
    pub fn listen(mut self, socket: impl Into<PathBuf>) -> Self {
        self.listen = Some(socket.into());
        self
    }

    /// The path of the control socket. Default: a socket in a temporary directory.
    pub fn control(mut self, socket: impl Into<PathBuf>) -> Self {
        self.control = Some(socket.into());
        self
    }

    /// The state directory, which is not removed afterwards. Default: a temporary directory.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// The parent of the temporary directory, so that the directory can be found after a crash. The system's default is
    /// used if this is not set, or if paths below `dir` would be too long for a socket.
    pub fn temporary_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_parent = Some(dir.into());
        self
    }

    /// Where the log goes.
    pub fn log(mut self, log: LogDestination) -> Self {
        self.log = log;
        self
    }

    /// Adds a fault rule that is active from the start.
    pub fn fault(self, rule: impl AsRef<OsStr>) -> Self {
        self.arg("--fault").arg(rule)
    }

    /// Runs the commands of the containers on the host (`--exec host`) instead of the test workload.
    pub fn exec_host(self) -> Self {
        self.arg("--exec").arg("host")
    }

    /// Adds a flag of `fake-cri serve`, or the value of a flag.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds flags and values of `fake-cri serve`.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable of fake-cri.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts fake-cri and returns when fake-cri serves calls.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(self) -> Result<FakeCri, StartError> {
        let executable = match self.executable {
            Some(path) => path,
            None => entry::executable().ok_or(StartError::NoExecutable)?.to_owned(),
        };
        let failed = |source| StartError::Io {
            executable: executable.clone(),
            source,
        };
        let temp_dir = create_temp_dir(self.temp_parent.as_deref()).map_err(failed)?;
        let path_or_default =
            |configured: Option<PathBuf>, name: &str| configured.unwrap_or_else(|| temp_dir.path().join(name));
        // A client that dials a bare path, as the kubelet 1.30 does, sends the path with escaped slashes as the
        // authority. An authority may contain percent escapes only before an `@`; without an `@`, hyper resets the
        // stream.
        let socket = path_or_default(self.listen, "cri@fake.sock");
        let control = path_or_default(self.control, "control.sock");
        let state_dir = path_or_default(self.state_dir, "state");
        let log = match self.log {
            LogDestination::Temporary => Some(temp_dir.path().join("log")),
            LogDestination::File(path) => Some(path),
            LogDestination::Inherit => None,
        };
        let mut args: Vec<OsString> = ["serve", "--ephemeral", "--exit-on-stdin-eof"]
            .map(OsString::from)
            .into();
        for (flag, path) in [
            ("--listen", &socket),
            ("--control", &control),
            ("--state-dir", &state_dir),
        ] {
            args.extend([flag.into(), path.clone().into_os_string()]);
        }
        args.extend(self.args);
        let mut cri = FakeCri {
            executable,
            args,
            env: self.env,
            socket,
            control,
            state_dir,
            log,
            process: None,
            needs_purge: false,
            _temp_dir: temp_dir,
        };
        cri.restart().await?;
        Ok(cri)
    }
}

/// Creates a temporary directory whose path is short enough for sockets: in `parent`, in the system's default, or in
/// `/tmp`.
fn create_temp_dir(parent: Option<&Path>) -> io::Result<tempfile::TempDir> {
    let mut prefix = tempfile::Builder::new();
    prefix.prefix("fake-cri-");
    let is_short_enough =
        |temp_dir: &tempfile::TempDir| temp_dir.path().join("control.sock").as_os_str().len() <= SOCKET_PATH_MAX_BYTES;
    if let Some(parent) = parent {
        let temp_dir = prefix.tempdir_in(parent)?;
        if is_short_enough(&temp_dir) {
            return Ok(temp_dir);
        }
    }
    let temp_dir = prefix.tempdir()?;
    if is_short_enough(&temp_dir) {
        return Ok(temp_dir);
    }
    prefix.tempdir_in("/tmp")
}
