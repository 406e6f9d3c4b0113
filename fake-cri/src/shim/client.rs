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
    Exit, LaunchSpec, MAX_EXEC_OUTPUT_BYTES, Reason, ShimError, folder, launch,
    message::{self, Refusal, Reply, Request},
    monitor::Monitor,
};
use crate::{
    checkpoint::{self, ErrorKind, Failure},
    process::ProcessId,
};

/// How long a shim may take to answer what it can answer at once.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a start may take: a restored container's memory is read from its archive first.
const START: Duration = Duration::from_secs(600);

/// A shim and the way to it. Cheap to clone; dropping it changes nothing for the shim.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
    process: ProcessId,
    monitor: Monitor,
}

/// What [`Shim::attach`] found in a shim's folder.
#[derive(Debug)]
pub enum Attached {
    /// The shim lives.
    Live(Shim, State),
    /// The container ended and its exit is on record.
    Exited(Exit),
    /// The shim is gone and left no record: see [`super::kill_leftovers`].
    Lost,
}

/// The state of a live shim's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
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
pub struct Stats {
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
    /// This process becomes the parent of what a killed shim leaves ([`crate::process::daemon::adopt_orphans`]).
    pub async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<Self, ShimError> {
        let (process, child) = launch::launch(executable, spec).await?;
        Ok(Self {
            dir: spec.dir.clone(),
            process,
            monitor: Monitor::start(spec.dir.clone(), process, Some(child)),
        })
    }

    /// Finds the shim of a folder again, after a restart of fake-cri.
    ///
    /// Errors only when the folder cannot be read or a living shim does not answer.
    pub async fn attach(dir: &Path) -> Result<Attached, ShimError> {
        if let Some(exit) = folder::read(dir, folder::EXIT)? {
            return Ok(Attached::Exited(exit));
        }
        // Written before the shim listens, so without it nothing was ever started there.
        let Some(process) = folder::read(dir, folder::SHIM)? else {
            return Ok(Attached::Lost);
        };
        let shim = Self {
            dir: dir.to_owned(),
            process,
            monitor: Monitor::start(dir.to_owned(), process, None),
        };
        match shim.ask(&Request::State).await {
            Ok(Reply::State(state)) => Ok(Attached::Live(shim, state)),
            Ok(Reply::Exited(exit)) => Ok(Attached::Exited(exit)),
            Ok(reply) => Err(unexpected(&reply)),
            Err(ShimError::Gone) => {
                shim.gone().await;
                Ok(folder::read(dir, folder::EXIT)?.map_or(Attached::Lost, Attached::Exited))
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
    /// [`ShimError::Exec`] when its command cannot be run, [`ShimError::Restore`] when it cannot be restored: the shim then waits
    /// for another start or [`Shim::shutdown`].
    pub async fn start(&self) -> Result<ProcessId, ShimError> {
        Ok(self.start_at().await?.0)
    }

    /// As [`Shim::start`]; also says when that was, in nanoseconds since the epoch, by the clock that also gives
    /// [`Exit::finished_at_ns`]. Never later than the end.
    pub async fn start_at(&self) -> Result<(ProcessId, i64), ShimError> {
        match self.ask_within(&Request::Start, START).await? {
            Reply::Started { init, started_at_ns } => Ok((init, started_at_ns)),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Waits until the container has ended, its processes are gone and its log is complete. May be called by many, at any
    /// time, also before the start. A shim that ends without a record gives an exit with `lost` set.
    pub async fn wait(&self) -> Exit {
        self.monitor.exit().await
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        self.ask_done(&Request::Signal(signal)).await
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        self.ask_done(&Request::KillAll).await
    }

    /// What the container uses now.
    pub async fn stats(&self) -> Result<Stats, ShimError> {
        match self.ask(&Request::Stats).await? {
            Reply::Stats(stats) => Ok(stats),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Runs a command beside the container: in its working directory, with its environment and `env` on top. It ends with the
    /// container at the latest. A timeout ends it and everything it started ([`ShimError::ExecTimeout`]), and so do output beyond
    /// [`MAX_EXEC_OUTPUT_BYTES`] ([`ShimError::ExecOutput`]) and dropping the future. What it leaves running otherwise belongs to the container.
    pub async fn exec(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ShimError> {
        let mut socket = self.dial().await?;
        send(&mut socket, &Request::Exec { argv, env, timeout }).await?;
        let mut output = ExecOutput {
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit_code: 0,
        };
        loop {
            match receive(&mut socket).await? {
                Reply::Output { error, bytes } => {
                    let total = output.stdout.len() + output.stderr.len();
                    let stream = if error { &mut output.stderr } else { &mut output.stdout };
                    if total + bytes > MAX_EXEC_OUTPUT_BYTES {
                        return Err(ShimError::Io(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "more output than it may send",
                        )));
                    }
                    let from = stream.len();
                    stream.resize(from + bytes, 0);
                    socket.read_exact(&mut stream[from..]).await.map_err(told)?;
                }
                Reply::ExecEnded { timed_out: true, .. } => {
                    return Err(ShimError::ExecTimeout(timeout.unwrap_or_default()));
                }
                Reply::ExecEnded { cut: true, .. } => {
                    return Err(ShimError::ExecOutput(MAX_EXEC_OUTPUT_BYTES));
                }
                Reply::ExecEnded { code, .. } => {
                    return Ok(ExecOutput {
                        exit_code: code,
                        ..output
                    });
                }
                reply => return Err(unexpected(&reply)),
            }
        }
    }

    /// Closes the log and opens it anew by its name (after a rotation).
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        self.ask_done(&Request::ReopenLog).await
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
        let mut socket = self.dial().await.map_err(failed)?;
        send(&mut socket, &Request::Checkpoint(Box::new(job)))
            .await
            .map_err(failed)?;
        loop {
            match receive(&mut socket).await.map_err(failed)? {
                Reply::Phase(phase) => {
                    on_phase(phase);
                    send(&mut socket, &Request::PhaseHeard).await.map_err(failed)?;
                }
                Reply::Checkpointed(result) => return result,
                reply => return Err(failed(unexpected(&reply))),
            }
        }
    }

    /// Ends the shim of a container that was never started or whose start failed. A running container is killed first. Returns
    /// when the shim's process is gone; also when it was already.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        match self.ask_done(&Request::Shutdown).await {
            Ok(()) | Err(ShimError::Gone) => {
                self.gone().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the shim's process has ended, as it does by itself a little after its container.
    pub(crate) async fn gone(&self) {
        self.monitor.gone().await;
    }

    async fn ask_done(&self, request: &Request) -> Result<(), ShimError> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            reply => Err(unexpected(&reply)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Reply, ShimError> {
        self.ask_within(request, ANSWER).await
    }

    async fn ask_within(&self, request: &Request, patience: Duration) -> Result<Reply, ShimError> {
        let answer = async {
            let mut socket = self.dial().await?;
            send(&mut socket, request).await?;
            receive(&mut socket).await
        };
        timeout(patience, answer).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {} does not answer", self.process.pid),
            )
            .into())
        })
    }

    async fn dial(&self) -> Result<UnixStream, ShimError> {
        dial(&self.dir).await
    }
}

async fn dial(dir: &Path) -> Result<UnixStream, ShimError> {
    loop {
        // The folder's descriptor must live until the name is resolved.
        let (_folder, path) = folder::socket(dir).map_err(told)?;
        match UnixStream::connect(path).await {
            // The queue of those who wait to be taken is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            result => return result.map_err(told),
        }
    }
}

/// What the shim itself says about the container's end, once it has ended.
pub(super) async fn told_exit(dir: &Path) -> Result<Exit, ShimError> {
    let mut socket = dial(dir).await?;
    send(&mut socket, &Request::Wait).await?;
    match receive(&mut socket).await? {
        Reply::Exited(exit) => Ok(exit),
        reply => Err(unexpected(&reply)),
    }
}

/// Errors that only say that nobody is there.
fn told(error: io::Error) -> ShimError {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => ShimError::Gone,
        _ => ShimError::Io(error),
    }
}

fn unexpected(reply: &Reply) -> ShimError {
    match reply.clone() {
        Reply::Refused(Refusal::Exec(message)) => ShimError::Exec { message },
        Reply::Refused(Refusal::Restore(message)) => ShimError::Restore { message },
        Reply::Refused(Refusal::State(message)) => ShimError::State { message },
        Reply::Refused(Refusal::Other(message)) => ShimError::Shim { message },
        reply => ShimError::Io(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an answer to another question: {reply:?}"),
        )),
    }
}

async fn send(socket: &mut UnixStream, request: &Request) -> Result<(), ShimError> {
    socket.write_all(&message::encode(request)).await.map_err(told)
}

async fn receive(socket: &mut UnixStream) -> Result<Reply, ShimError> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).await.map_err(told)?;
    let mut body = vec![0; message::length(length)?];
    socket.read_exact(&mut body).await.map_err(told)?;
    Ok(message::decode(&body)?)
}

/// The exit of a container whose shim was killed.
pub(super) fn lost() -> Exit {
    Exit {
        code: 255,
        signal: None,
        started_at_ns: 0,
        finished_at_ns: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        reason: Reason::Error,
        message: "the container's shim ended before it could record an exit".into(),
        lost: true,
    }
}
