//! fake-cri for tests in Rust: a process of its own, started, steered and cleared away by a handle.
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
//! The process is ephemeral: it holds the reading end of a pipe, and when the writing end closes (the handle is dropped, or
//! the test was killed) it stops and removes everything and ends. It is always a process of its own, so that a crash of
//! it can be tried: [`FakeCri::kill`], then [`FakeCri::restart`] on the same state.
//!
//! Ways to fail: there is no executable to start (the program's `main` does not call [`crate::entry_point`], and none was
//! given), or it ends before it listens; its last words are in the error.

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
use crate::{control, entry};

/// Why fake-cri could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no program to start.
    #[error(
        "found no fake-cri to start: call fake_cri::entry_point() first in main, or name the executable with \
         FakeCriBuilder::executable"
    )]
    NoExecutable,
    /// The program or its folders could not be made.
    #[error("failed to start {executable:?}: {source}")]
    Io {
        /// The program.
        executable: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("fake-cri ended before it listened ({status}): {log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log, where the log is a file.
        log: String,
    },
}

/// A running fake-cri. Dropping it stops it with everything it has.
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
    /// Whether a process was killed, or ended by itself, and may have left containers.
    needs_purge: bool,
    _temp_dir: tempfile::TempDir,
}

#[derive(Debug)]
struct ServeProcess {
    child: Child,
    /// The writing end of the pipe whose end is the process's end.
    stdin: ChildStdin,
}

impl FakeCri {
    /// Options, to start with.
    pub fn builder() -> FakeCriBuilder {
        FakeCriBuilder::default()
    }

    /// The CRI's endpoint: `unix:///PATH`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The CRI's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The control API's endpoint: `unix:///PATH`.
    pub fn control_endpoint(&self) -> String {
        format!("unix://{}", self.control.display())
    }

    /// The control API's socket.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What it logged so far, where its log is a file.
    pub fn log(&self) -> String {
        self.log
            .as_ref()
            .and_then(|path| std::fs::read(path).ok())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The process; `None` after [`FakeCri::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|running| running.child.id())
    }

    /// A client of the RuntimeService. It connects with its first call, and again after a restart.
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

    /// A client of the control API: faults, the journal, the node's conditions. It connects with its first call.
    pub fn control(&self) -> control::Client {
        control::Client::from_channel(unix_channel(&self.control))
    }

    /// Kills fake-cri with SIGKILL and waits for its end. Its containers live on, until [`FakeCri::restart`] finds them
    /// again or the handle is dropped.
    pub async fn kill(&mut self) {
        if let Some(mut running) = self.process.take() {
            self.needs_purge = true;
            // It may have ended by itself, which is the same to us.
            let _ = running.child.kill();
            let _ = wait_child(running.child).await;
        }
    }

    /// Waits until fake-cri ends by itself, as a crash makes it. Its containers live on as after [`FakeCri::kill`].
    pub async fn wait_exit(&mut self) -> Option<ExitStatus> {
        let running = self.process.take()?;
        self.needs_purge = true;
        let ServeProcess { child, stdin } = running;
        let status = wait_child(child).await.ok();
        drop(stdin);
        status
    }

    /// Starts fake-cri again on the same sockets and state, and returns when it answers calls. One that still runs is
    /// killed first.
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
            unreachable!("both were asked for");
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

    /// Stops fake-cri with everything it has, and waits for its end.
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
            .env(entry::ROLE_ENV, entry::SERVE_ROLE)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C on the terminal is for us: it then ends by its stdin.
            .process_group(0);
        if let Some(log) = &self.log {
            command.stderr(File::options().create(true).append(true).open(log)?);
        }
        Ok(command)
    }

    /// Removes what a killed fake-cri left: one more is started whose stdin is cut from the start.
    fn purge(&self) -> io::Result<()> {
        let mut child = self.command()?.stdout(Stdio::null()).stdin(Stdio::null()).spawn()?;
        child.wait().map(drop)
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        if let Some(ServeProcess { mut child, stdin }) = self.process.take() {
            drop(stdin);
            // Its end is bounded: a grace for calls, then SIGKILL to every container.
            let exit = child.wait();
            self.needs_purge = !exit.is_ok_and(|status| status.success());
        }
        if self.needs_purge
            && let Err(error) = self.purge()
        {
            eprintln!("failed to clear away what a killed fake-cri left: {error}");
        }
    }
}

async fn wait_child(mut child: Child) -> io::Result<ExitStatus> {
    tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// A channel that connects when it is first used.
fn unix_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The name of a host is needed for the syntax alone.
    Endpoint::from_static("http://fake-cri.invalid").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    }))
}
