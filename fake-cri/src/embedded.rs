//! fake-cri for tests in Rust: a handle that starts, controls and removes a fake-cri process.
//!
//! ```no_run
//! # async fn test() -> Result<(), fake_cri::StartError> {
//! let cri = fake_cri::FakeCri::builder().arg("--strict-images").start().await?;
//! let mut runtime = cri.runtime_client();
//! # let _ = &mut runtime;
//! cri.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The process is ephemeral. Its stdin is a pipe; when the write end closes (the handle was dropped or the test was
//! killed), the process removes all pods and containers and exits. fake-cri always runs as a separate process, so that
//! a test can simulate a crash: [`FakeCri::kill`], then [`FakeCri::restart`] on the same state.
//!
//! Ways to fail: there is no executable to start (`main` does not call [`crate::entry_point`], and
//! [`FakeCriBuilder::executable`] was not set), or the process exits before it listens; the error holds the end of its
//! log.

mod builder;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use cri_proto::{
    control::v1::control_client::ControlClient,
    runtime::v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use tonic::transport::{Channel, Endpoint};

pub use self::builder::{FakeCriBuilder, LogDestination};
use crate::{
    control,
    environment::{ROLE_ENV, SERVE_ROLE},
};

/// Why fake-cri could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No executable is known.
    #[error(
        "found no fake-cri to start: call fake_cri::entry_point() first in main, or set the executable with \
         FakeCriBuilder::executable"
    )]
    NoExecutable,
    /// The temporary directory, the log file or the process could not be created.
    #[error("failed to start {executable:?}: {source}")]
    Io {
        /// The executable of fake-cri.
        executable: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The process exited before it listened on its sockets.
    #[error("fake-cri exited before it listened ({status}): {log}")]
    Exited {
        /// The exit status.
        status: ExitStatus,
        /// The last lines of the log; empty if the log is not a file.
        log: String,
    },
}

/// A running fake-cri. Dropping the handle stops the process and removes all pods and containers.
#[derive(Debug)]
pub struct FakeCri {
    executable: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    socket: PathBuf,
    control: PathBuf,
    state_dir: PathBuf,
    log: Option<PathBuf>,
    process: Option<ServeProcess>,
    /// Whether the process was killed or exited by itself and may have left containers.
    needs_purge: bool,
    _temp_dir: tempfile::TempDir,
}

#[derive(Debug)]
struct ServeProcess {
    child: Child,
    /// The process exits when this end of the pipe is closed.
    stdin: ChildStdin,
}

impl FakeCri {
    /// Returns a builder with default options.
    pub fn builder() -> FakeCriBuilder {
        FakeCriBuilder::default()
    }

    /// The endpoint of the CRI: `unix:///PATH`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The path of the CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The endpoint of the control API: `unix:///PATH`.
    pub fn control_endpoint(&self) -> String {
        format!("unix://{}", self.control.display())
    }

    /// The path of the control socket.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The log so far; empty if the log is not a file.
    pub fn log(&self) -> String {
        self.log
            .as_ref()
            .and_then(|path| std::fs::read(path).ok())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The pid; `None` after [`FakeCri::kill`] and [`FakeCri::wait_exit`].
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|running| running.child.id())
    }

    /// A client of the RuntimeService. It connects on its first call and reconnects after a restart.
    pub fn runtime_client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(unix_channel(&self.socket)).max_decoding_message_size(16 << 20)
    }

    /// A client of the ImageService.
    pub fn image_client(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(unix_channel(&self.socket)).max_decoding_message_size(16 << 20)
    }

    /// A client of the control API.
    pub fn control_client(&self) -> ControlClient<Channel> {
        ControlClient::new(unix_channel(&self.control)).max_decoding_message_size(64 << 20)
    }

    /// A client of the control API: faults, the journal, the conditions of Status. It connects on its first call.
    pub fn control(&self) -> control::Client {
        control::Client::from_channel(unix_channel(&self.control))
    }

    /// Kills fake-cri with SIGKILL and waits for its exit. The containers keep running: [`FakeCri::restart`] finds them
    /// again, and dropping the handle removes them.
    pub async fn kill(&mut self) {
        if let Some(mut running) = self.process.take() {
            self.needs_purge = true;
            // An error means that the process has exited by itself.
            let _ = running.child.kill();
            let _ = wait_child(running.child).await;
        }
    }

    /// Waits until fake-cri exits by itself, for example by an injected crash. The containers keep running, as after
    /// [`FakeCri::kill`].
    pub async fn wait_exit(&mut self) -> Option<ExitStatus> {
        let running = self.process.take()?;
        self.needs_purge = true;
        let ServeProcess { child, stdin } = running;
        let status = wait_child(child).await.ok();
        drop(stdin);
        status
    }

    /// Starts fake-cri again on the same sockets and state, and returns when fake-cri serves calls. A process that
    /// still runs is killed first.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.kill().await;
        let failed = |executable: &Path| {
            let executable = executable.to_owned();
            move |source| StartError::Io { executable, source }
        };
        let mut child = self
            .command()
            .and_then(|mut command| command.spawn())
            .map_err(failed(&self.executable))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("stdin and stdout are pipes");
        };
        let ready = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).is_ok_and(|read| read > 0)
        });
        if ready.await.unwrap_or(false) {
            self.process = Some(ServeProcess { child, stdin });
            self.needs_purge = false;
            return Ok(());
        }
        let status = wait_child(child).await.map_err(failed(&self.executable))?;
        let log = self.log();
        let tail = log.lines().rev().take(5).collect::<Vec<_>>();
        Err(StartError::Exited {
            status,
            log: tail.into_iter().rev().collect::<Vec<_>>().join("\n"),
        })
    }

    /// Stops fake-cri, which removes all pods and containers, and waits for its exit.
    pub async fn shutdown(mut self) -> Option<ExitStatus> {
        let ServeProcess { child, stdin } = self.process.take()?;
        drop(stdin);
        wait_child(child).await.ok()
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(&self.executable);
        command
            .arg0("fake-cri")
            .args(&self.args)
            .env(ROLE_ENV, SERVE_ROLE)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C on the terminal must reach only this process; fake-cri exits when its stdin is closed.
            .process_group(0);
        if let Some(log) = &self.log {
            command.stderr(File::options().create(true).append(true).open(log)?);
        }
        Ok(command)
    }

    /// Removes the containers of a killed fake-cri: starts another process on the same state. Its stdin is at end of
    /// file, so it removes everything and exits.
    fn purge(&self) -> io::Result<()> {
        let mut child = self.command()?.stdout(Stdio::null()).stdin(Stdio::null()).spawn()?;
        child.wait().map(drop)
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        if let Some(ServeProcess { mut child, stdin }) = self.process.take() {
            drop(stdin);
            // The wait is bounded: fake-cri gives calls a grace period and then sends SIGKILL to every container.
            let exit = child.wait();
            self.needs_purge = !exit.is_ok_and(|status| status.success());
        }
        if self.needs_purge
            && let Err(error) = self.purge()
        {
            eprintln!("failed to remove the containers of a killed fake-cri: {error}");
        }
    }
}

async fn wait_child(mut child: Child) -> io::Result<ExitStatus> {
    tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn unix_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The URI needs a host for its syntax; the connector does not use it.
    Endpoint::from_static("http://fake-cri.invalid").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    }))
}
