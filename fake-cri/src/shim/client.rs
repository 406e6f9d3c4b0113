//! fake-cri's side of a shim.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    EXEC_OUTPUT_MAX_BYTES, ExitReason, ExitRecord, LaunchSpec, ShimError,
    exit_monitor::ExitMonitor,
    launch,
    message::{self, Refusal, ShimReply, ShimRequest},
    state_dir,
};
use crate::{
    checkpoint::{self, ErrorKind, Failure},
    process::ProcessId,
};

/// How long a shim may take to answer what it can answer at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a start may take: a restored container's memory is read from its archive first.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// A shim and the way to it. Cheap to clone; dropping it changes nothing for the shim.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
    process: ProcessId,
    monitor: ExitMonitor,
}

/// What [`Shim::attach`] found in a shim's folder.
#[derive(Debug)]
pub enum ShimAttachment {
    /// The shim lives.
    Live(Shim, ShimState),
    /// The container ended and its exit is on record.
    Exited(ExitRecord),
    /// The shim is gone and left no record: see [`super::kill_orphans`].
    Lost,
}

/// The state of a live shim's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShimState {
    /// Not started yet.
    Created,
    /// Its first process runs (or has just ended, and the rest is being cleared away).
    Running {
        /// The container's first process.
        init: ProcessId,
        /// When it started, in nanoseconds since the epoch.
        started_at_ns: i64,
    },
}

/// What a running container uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStats {
    /// CPU time of all its processes, those that ended too, in nanoseconds. Never falls.
    pub cpu_ns: u64,
    /// Resident memory of its processes, summed, in bytes. A shared page counts once for each of its sharers.
    pub rss_bytes: u64,
    /// When its first process started, in nanoseconds since the epoch.
    pub started_at_ns: i64,
    /// How many processes it has now.
    pub processes: usize,
}

/// What a command beside the container answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output, whole.
    pub stdout: Vec<u8>,
    /// Its standard error, whole.
    pub stderr: Vec<u8>,
    /// Its exit code; 128 plus the signal's number when one ended it.
    pub exit_code: i32,
}

impl Shim {
    /// Starts a shim from `executable` (a program that calls [`crate::entry_point`] first). It is up and listens when this
    /// returns; the container's process is not started yet. Dropping the future ends the shim.
    ///
    /// This process becomes the parent of what a killed shim leaves ([`crate::process::daemon::become_subreaper`]).
    pub async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<Self, ShimError> {
        let (process, child) = launch::launch(executable, spec).await?;
        Ok(Self {
            dir: spec.dir.clone(),
            process,
            monitor: ExitMonitor::start(spec.dir.clone(), process, Some(child)),
        })
    }

    /// Finds the shim of a folder again, after a restart of fake-cri.
    ///
    /// Errors only when the folder cannot be read or a living shim does not answer.
    pub async fn attach(dir: &Path) -> Result<ShimAttachment, ShimError> {
        if let Some(exit) = state_dir::read_json(dir, state_dir::EXIT_FILE)? {
            return Ok(ShimAttachment::Exited(exit));
        }
        // Written before the shim listens, so without it nothing was ever started there.
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

    /// The shim's own process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Starts the container's first process and says which it is.
    ///
    /// [`ShimError::ExecFailed`] when its command cannot be run, [`ShimError::RestoreFailed`] when it cannot be restored: the shim then waits
    /// for another start or [`Shim::shutdown`].
    pub async fn start(&self) -> Result<ProcessId, ShimError> {
        Ok(self.start_container().await?.0)
    }

    /// As [`Shim::start`]; also says when that was, in nanoseconds since the epoch, by the clock that also gives
    /// [`ExitRecord::finished_at_ns`]. Never later than the end.
    pub async fn start_container(&self) -> Result<(ProcessId, i64), ShimError> {
        match self.request_within(&ShimRequest::Start, START_TIMEOUT).await? {
            ShimReply::Started { init, started_at_ns } => Ok((init, started_at_ns)),
            reply => Err(unexpected_reply(&reply)),
        }
    }

    /// Waits until the container has ended, its processes are gone and its log is complete. May be called by many, at any
    /// time, also before the start. A shim that ends without a record gives an exit with `lost` set.
    pub async fn wait_exit(&self) -> ExitRecord {
        self.monitor.wait_exit().await
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::Signal(signal)).await
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::KillAll).await
    }

    /// What the container uses now.
    pub async fn stats(&self) -> Result<ShimStats, ShimError> {
        match self.request(&ShimRequest::Stats).await? {
            ShimReply::Stats(stats) => Ok(stats),
            reply => Err(unexpected_reply(&reply)),
        }
    }

    /// Runs a command beside the container: in its working directory, with its environment and `env` on top. It ends with the
    /// container at the latest. A timeout ends it and everything it started ([`ShimError::ExecTimeout`]), and so do output beyond
    /// [`EXEC_OUTPUT_MAX_BYTES`] ([`ShimError::ExecOutputTooLarge`]) and dropping the future. What it leaves running otherwise belongs to the container.
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
                            "more output than it may send",
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

    /// Closes the log and opens it anew by its name (after a rotation).
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        self.request_done(&ShimRequest::ReopenLog).await
    }

    /// Checkpoints the container. `on_phase` is called at each phase, and the checkpoint goes on when it returns. Dropping
    /// the future cancels: the container runs on and nothing is left at the location. One at a time: a second one is
    /// refused with [`checkpoint::ErrorKind::Busy`].
    pub async fn checkpoint(
        &self,
        job: checkpoint::Job,
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
        send(&mut socket, &ShimRequest::Checkpoint(Box::new(job)))
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

    /// Ends the shim of a container that was never started or whose start failed. A running container is killed first. Returns
    /// when the shim's process is gone; also when it was already.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        match self.request_done(&ShimRequest::Shutdown).await {
            Ok(()) | Err(ShimError::Gone) => {
                self.wait_gone().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the shim's process has ended, as it does by itself a little after its container.
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
                format!("process {} does not answer", self.process.pid),
            )
            .into())
        })
    }

    async fn connect(&self) -> Result<UnixStream, ShimError> {
        connect_in(&self.dir).await
    }
}

async fn connect_in(dir: &Path) -> Result<UnixStream, ShimError> {
    loop {
        // The folder's descriptor must live until the name is resolved.
        let (_dir_fd, path) = state_dir::socket_path(dir).map_err(map_io_error)?;
        match UnixStream::connect(path).await {
            // The queue of those who wait to be taken is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            result => return result.map_err(map_io_error),
        }
    }
}

/// What the shim itself says about the container's end, once it has ended.
pub(super) async fn fetch_exit(dir: &Path) -> Result<ExitRecord, ShimError> {
    let mut socket = connect_in(dir).await?;
    send(&mut socket, &ShimRequest::Wait).await?;
    match receive(&mut socket).await? {
        ShimReply::Exited(exit) => Ok(exit),
        reply => Err(unexpected_reply(&reply)),
    }
}

/// Errors that only say that nobody is there.
fn map_io_error(error: io::Error) -> ShimError {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => ShimError::Gone,
        _ => ShimError::Io(error),
    }
}

fn unexpected_reply(reply: &ShimReply) -> ShimError {
    match reply.clone() {
        ShimReply::Refused(Refusal::Exec(message)) => ShimError::ExecFailed { message },
        ShimReply::Refused(Refusal::Restore(message)) => ShimError::RestoreFailed { message },
        ShimReply::Refused(Refusal::State(message)) => ShimError::WrongState { message },
        ShimReply::Refused(Refusal::Other(message)) => ShimError::Internal { message },
        reply => ShimError::Io(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an answer to another question: {reply:?}"),
        )),
    }
}

async fn send(socket: &mut UnixStream, request: &ShimRequest) -> Result<(), ShimError> {
    socket.write_all(&message::encode(request)).await.map_err(map_io_error)
}

async fn receive(socket: &mut UnixStream) -> Result<ShimReply, ShimError> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).await.map_err(map_io_error)?;
    let mut body = vec![0; message::checked_length(length)?];
    socket.read_exact(&mut body).await.map_err(map_io_error)?;
    Ok(message::decode(&body)?)
}

/// The exit of a container whose shim was killed.
pub(super) fn lost_exit() -> ExitRecord {
    ExitRecord {
        code: 255,
        signal: None,
        started_at_ns: 0,
        finished_at_ns: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        reason: ExitReason::Error,
        message: "the container's shim ended before it could record an exit".into(),
        shim_lost: true,
    }
}
