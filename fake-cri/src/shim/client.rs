//! fake-cri's client of a shim.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};

use super::{
    EXEC_OUTPUT_MAX_BYTES, ExitRecord, LaunchSpec, ShimError,
    connection::{connect, map_io_error, receive, send, unexpected_reply},
    exit_monitor::ExitMonitor,
    launch,
    message::{ShimReply, ShimRequest},
    state_dir,
};
use crate::{
    checkpoint::{self, ErrorKind, Failure},
    fault::CheckpointFaults,
    process::ProcessId,
};

/// Timeout of requests that the shim can answer at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a start: the memory of a restored container is read from its archive first.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// A client of one shim. Cheap to clone; dropping it has no effect on the shim.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
    process: ProcessId,
    monitor: ExitMonitor,
}

/// The result of [`Shim::attach`].
#[derive(Debug)]
pub enum ShimAttachment {
    /// The shim runs.
    Live(Shim, ShimState),
    /// The container has ended, and its exit is recorded.
    Exited(ExitRecord),
    /// The shim has ended without an exit record: see [`super::kill_orphans`].
    Lost,
}

/// The state of the container of a running shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShimState {
    /// The container has not been started.
    Created,
    /// The first process runs, or has just ended while the other processes are killed.
    Running {
        /// The container's first process.
        init: ProcessId,
        /// Start of the first process in nanoseconds since the epoch.
        started_at_ns: i64,
    },
}

/// The resource usage of a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStats {
    /// CPU time of all its processes, including ended ones, in nanoseconds. Never decreases.
    pub cpu_ns: u64,
    /// Sum of the resident memory of its processes in bytes. A shared page is counted once for each process.
    pub rss_bytes: u64,
    /// Start of the first process in nanoseconds since the epoch.
    pub started_at_ns: i64,
    /// Number of processes, without zombies.
    pub processes: usize,
}

/// The result of [`Shim::exec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// The complete standard output.
    pub stdout: Vec<u8>,
    /// The complete standard error.
    pub stderr: Vec<u8>,
    /// The exit code; 128 plus the signal number after a signal.
    pub exit_code: i32,
}

impl Shim {
    /// Starts a shim from `executable`, a program that calls [`crate::entry_point`] first. Returns when the shim
    /// listens; the container is not started yet. Dropping the future kills the shim.
    ///
    /// This process becomes the parent of the orphans of a killed shim ([`crate::process::daemon::become_subreaper`]).
    pub async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<Self, ShimError> {
        let (process, child) = launch::launch(executable, spec).await?;
        Ok(Self {
            dir: spec.dir.clone(),
            process,
            monitor: ExitMonitor::start(spec.dir.clone(), process, Some(child)),
        })
    }

    /// Finds the shim of a directory again, after a restart of fake-cri.
    ///
    /// Fails only if the directory cannot be read or a running shim does not respond.
    pub async fn attach(dir: &Path) -> Result<ShimAttachment, ShimError> {
        if let Some(exit) = state_dir::read_json(dir, state_dir::EXIT_FILE)? {
            return Ok(ShimAttachment::Exited(exit));
        }
        // Written before the shim listens, so without it no container was started from this directory.
        let Some(process) = state_dir::read_json(dir, state_dir::SHIM_FILE)? else {
            return Ok(ShimAttachment::Lost);
        };
        let shim = Self {
            dir: dir.to_owned(),
            process,
            monitor: ExitMonitor::start(dir.to_owned(), process, None),
        };
        match shim.request(&ShimRequest::State).await {
            Ok(ShimReply::State(state)) => Ok(ShimAttachment::Live(shim, state)),
            Ok(ShimReply::Exited(exit)) => Ok(ShimAttachment::Exited(exit)),
            Ok(reply) => Err(unexpected_reply(&reply)),
            Err(ShimError::Gone) => {
                shim.wait_gone().await;
                Ok(state_dir::read_json(dir, state_dir::EXIT_FILE)?
                    .map_or(ShimAttachment::Lost, ShimAttachment::Exited))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the process of the shim.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Starts the container and returns its first process.
    ///
    /// After [`ShimError::ExecFailed`] (the command cannot be executed) or [`ShimError::RestoreFailed`] the shim
    /// accepts another start or [`Shim::shutdown`].
    pub async fn start(&self) -> Result<ProcessId, ShimError> {
        Ok(self.start_container().await?.0)
    }

    /// As [`Shim::start`]; also returns the start time in nanoseconds since the epoch, by the clock of
    /// [`ExitRecord::finished_at_ns`] and never later than it.
    pub async fn start_container(&self) -> Result<(ProcessId, i64), ShimError> {
        match self.request_within(&ShimRequest::Start, START_TIMEOUT).await? {
            ShimReply::Started { init, started_at_ns } => Ok((init, started_at_ns)),
            reply => Err(unexpected_reply(&reply)),
        }
    }

    /// Waits until the container has ended, its processes are gone and its log is complete. Any number of callers may
    /// wait, also before the start. If the shim ends without a record, the exit has `shim_lost` set.
    pub async fn wait_exit(&self) -> ExitRecord {
        self.monitor.wait_exit().await
    }

    /// Sends a signal to the first process.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::Signal(signal)).await
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::KillAll).await
    }

    /// Returns the current resource usage.
    pub async fn stats(&self) -> Result<ShimStats, ShimError> {
        match self.request(&ShimRequest::Stats).await? {
            ShimReply::Stats(stats) => Ok(stats),
            reply => Err(unexpected_reply(&reply)),
        }
    }

    /// Runs a command with the container's working directory, its environment and `env`. The command is killed with the
    /// container. The command and all processes that it started are killed at the timeout ([`ShimError::ExecTimeout`]),
    /// when the output exceeds [`EXEC_OUTPUT_MAX_BYTES`] ([`ShimError::ExecOutputTooLarge`]), and when the future is
    /// dropped. Otherwise processes that the command leaves running become part of the container.
    pub async fn exec(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ShimError> {
        let mut socket = self.connect().await?;
        send(&mut socket, &ShimRequest::Exec { argv, env, timeout }).await?;
        let mut output = ExecOutput {
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit_code: 0,
        };
        loop {
            match receive(&mut socket).await? {
                ShimReply::Output {
                    is_stderr: error,
                    bytes,
                } => {
                    let total = output.stdout.len() + output.stderr.len();
                    let stream = if error { &mut output.stderr } else { &mut output.stdout };
                    if total + bytes > EXEC_OUTPUT_MAX_BYTES {
                        return Err(ShimError::Io(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "the shim sent more output than allowed",
                        )));
                    }
                    let start = stream.len();
                    stream.resize(start + bytes, 0);
                    socket.read_exact(&mut stream[start..]).await.map_err(map_io_error)?;
                }
                ShimReply::ExecExited { timed_out: true, .. } => {
                    return Err(ShimError::ExecTimeout(timeout.unwrap_or_default()));
                }
                ShimReply::ExecExited { truncated: true, .. } => {
                    return Err(ShimError::ExecOutputTooLarge(EXEC_OUTPUT_MAX_BYTES));
                }
                ShimReply::ExecExited { code, .. } => {
                    return Ok(ExecOutput {
                        exit_code: code,
                        ..output
                    });
                }
                reply => return Err(unexpected_reply(&reply)),
            }
        }
    }

    /// Closes the log and opens its path again (after a rotation).
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::ReopenLog).await
    }

    /// Checkpoints the container. `on_phase` is called at each phase; the checkpoint continues when it returns.
    /// Dropping the future cancels the checkpoint: the container keeps running, and no archive is left at the location.
    /// A second checkpoint at the same time fails with [`checkpoint::ErrorKind::Busy`].
    pub async fn checkpoint(
        &self,
        job: checkpoint::Job,
        faults: CheckpointFaults,
        mut on_phase: impl FnMut(checkpoint::Phase) + Send,
    ) -> Result<checkpoint::Report, Failure> {
        let failed = |error: ShimError| match error {
            ShimError::Gone => Failure {
                kind: ErrorKind::NotRunning,
                message: "the container's shim has ended".into(),
            },
            error => Failure {
                kind: ErrorKind::Capture,
                message: error.to_string(),
            },
        };
        let mut socket = self.connect().await.map_err(failed)?;
        send(&mut socket, &ShimRequest::Checkpoint(Box::new(job), faults))
            .await
            .map_err(failed)?;
        loop {
            match receive(&mut socket).await.map_err(failed)? {
                ShimReply::Phase(phase) => {
                    on_phase(phase);
                    send(&mut socket, &ShimRequest::PhaseAck).await.map_err(failed)?;
                }
                ShimReply::CheckpointResult(result) => return result,
                reply => return Err(failed(unexpected_reply(&reply))),
            }
        }
    }

    /// Ends the shim of a container that was never started or whose start failed; a running container is killed first.
    /// Returns when the shim process is gone, also if it already was.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        match self.request_done(&ShimRequest::Shutdown).await {
            Ok(()) | Err(ShimError::Gone) => {
                self.wait_gone().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the shim process has ended, which happens shortly after its container ends.
    pub(crate) async fn wait_gone(&self) {
        self.monitor.wait_gone().await;
    }

    async fn request_done(&self, request: &ShimRequest) -> Result<(), ShimError> {
        match self.request(request).await? {
            ShimReply::Done => Ok(()),
            reply => Err(unexpected_reply(&reply)),
        }
    }

    async fn request(&self, request: &ShimRequest) -> Result<ShimReply, ShimError> {
        self.request_within(request, REQUEST_TIMEOUT).await
    }

    async fn request_within(&self, request: &ShimRequest, request_timeout: Duration) -> Result<ShimReply, ShimError> {
        let exchange = async {
            let mut socket = self.connect().await?;
            send(&mut socket, request).await?;
            receive(&mut socket).await
        };
        timeout(request_timeout, exchange).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {} does not respond", self.process.pid),
            )
            .into())
        })
    }

    async fn connect(&self) -> Result<UnixStream, ShimError> {
        connect(&self.dir).await
    }
}
