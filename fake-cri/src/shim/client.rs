//! fake-cri's side of a shim.

use std::{future::Future, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Exit, LaunchSpec, ShimError};
use crate::{checkpoint, process::ProcessId};

/// A shim and the way to it. Cheap to clone; dropping it changes nothing for the shim.
#[derive(Clone, Debug)]
pub struct Shim {
    process: ProcessId,
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
    /// Its standard output, at most 16 MiB; the rest is dropped, as containerd does.
    pub stdout: Vec<u8>,
    /// Its standard error, bounded likewise.
    pub stderr: Vec<u8>,
    /// Its exit code; 128 plus the signal's number when one ended it.
    pub exit_code: i32,
}

impl Shim {
    /// Starts a shim from `executable` (a program that calls [`crate::entry_point`] first). It is up and listens when this
    /// returns; the container's process is not started yet.
    pub async fn launch(executable: &Path, spec: &LaunchSpec) -> Result<Self, ShimError> {
        let _ = (executable, spec);
        todo!()
    }

    /// Finds the shim of a folder again, after a restart of fake-cri.
    ///
    /// Errors only when the folder cannot be read or a living shim does not answer.
    pub async fn attach(dir: &Path) -> Result<Attached, ShimError> {
        let _ = dir;
        todo!()
    }

    /// The shim's own process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Starts the container's first process and says which it is.
    ///
    /// [`ShimError::Exec`] when its command cannot be run: the shim then waits for [`Shim::shutdown`].
    pub async fn start(&self) -> Result<ProcessId, ShimError> {
        todo!()
    }

    /// Waits until the container has ended, its processes are gone and its log is complete. May be called by many, at any
    /// time, also before the start. A shim that ends without a record gives an exit with `lost` set.
    pub async fn wait(&self) -> Exit {
        todo!()
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        let _ = signal;
        todo!()
    }

    /// Sends SIGKILL to every process of the container.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        todo!()
    }

    /// What the container uses now.
    pub async fn stats(&self) -> Result<Stats, ShimError> {
        todo!()
    }

    /// Runs a command beside the container: in its working directory, with its environment and `env` on top. It ends with the
    /// container at the latest. A timeout ends it and everything it started ([`ShimError::ExecTimeout`]), and so does
    /// dropping the future.
    pub async fn exec(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ShimError> {
        let _ = (argv, env, timeout);
        todo!()
    }

    /// Closes the log and opens it anew by its name (after a rotation).
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        todo!()
    }

    /// Checkpoints the container. `on_phase` is called at each phase, and the checkpoint goes on when it returns. Dropping
    /// the future cancels: the container runs on and nothing is left at the location. One at a time: a second one is
    /// refused with [`checkpoint::ErrorKind::Busy`].
    pub fn checkpoint(
        &self,
        job: checkpoint::Job,
        on_phase: impl FnMut(checkpoint::Phase) + Send,
    ) -> impl Future<Output = Result<checkpoint::Report, checkpoint::Failure>> + Send {
        let _ = (job, on_phase);
        async { todo!() }
    }

    /// Ends the shim of a container that was never started or whose start failed. A running container is killed first. Returns
    /// when the shim's process is gone; also when it was already.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        todo!()
    }
}

/// Kills what a dead shim left of a container, until nothing is left. See [`super`].
pub async fn kill_leftovers(container_id: &str, known: &[ProcessId]) -> Result<usize, ShimError> {
    let _ = (container_id, known);
    todo!()
}
