//! The request and the result of a checkpoint. Both cross the shim's socket.

use std::{path::PathBuf, time::Duration};

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG};
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// One checkpoint of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The container's id, as written to the archive.
    pub container_id: String,
    /// The container's first process.
    pub init: ProcessId,
    /// Where the archive appears, complete or not at all. Absolute.
    pub location: PathBuf,
    /// The path of the archive while it is written: beside `location`, and recorded in fake-cri's state before the job
    /// is sent, so that the next start after a kill can remove the file.
    pub temporary: PathBuf,
    /// The runtime's own members of the archive (`config.dump`, `spec.dump`, `status.dump`, `status`), in archive
    /// order.
    pub documents: Vec<Document>,
    /// Which members the archive has besides the images.
    #[serde(default)]
    pub layout: Layout,
    /// The container's log, copied as [`Layout::log_member`].
    pub log: Option<PathBuf>,
    /// How long the freeze may take. After this time the container is thawed, and the error names the thread that did
    /// not stop.
    pub freeze_timeout: Duration,
    /// How long the container stays frozen.
    pub freeze: Freeze,
    /// How long the whole checkpoint may take, from the job's arrival.
    pub deadline: Option<Duration>,
    /// Whether to flush the archive to disk before it appears.
    pub fsync: bool,
    /// Whether to fail if state of the container is unsupported, rather than only list it in `dump.log`.
    #[serde(default)]
    pub strict: bool,
    /// The minimum duration of the checkpoint.
    pub delay: Option<Delay>,
}

/// The runtime whose members the archive has besides CRIU's images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// containerd's: status, status.dump, container.log
    #[default]
    Containerd,
    /// CRI-O's: io.kubernetes.cri-o.LogPath, and its annotations in spec.dump
    CriO,
}

impl Layout {
    /// The name of the member that holds the container's log.
    pub fn log_member(self) -> &'static str {
        match self {
            Self::Containerd => CONTAINER_LOG,
            Self::CriO => CRIO_LOG,
        }
    }

    /// Whether the archive has a member for changed files of the root filesystem even if none changed.
    pub fn has_empty_diff(self) -> bool {
        self == Self::Containerd
    }
}

/// How long the container stays frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// Until snapshots are forked, which are then dumped. Like full if a process could notice its snapshot.
    #[default]
    Snapshot,
    /// Until all memory is dumped.
    Full,
}

/// A small member of the archive that the runtime provides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// The name of the member, such as `config.dump`.
    pub name: String,
    /// The member's content: text, usually JSON.
    pub content: String,
}

/// The delay model: `(base + memory / rate) * jitter`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delay {
    /// The time for an empty container.
    pub base: Duration,
    /// Bytes per second; `None` is infinitely fast.
    pub rate: Option<u64>,
    /// The drawn jitter by which the sum is multiplied; 1.0 is no jitter.
    pub jitter_factor: f64,
    /// Which memory is counted.
    pub memory: DelayMemory,
    /// Whether the container is frozen during the delay.
    pub phase: DelayPhase,
}

/// The size of the container that the delay model uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelayMemory {
    /// Resident pages of all processes.
    Rss,
    /// Proportional set size: the size of a shared page is divided by the number of its users.
    Pss,
    /// The size in the Pod's annotation, in bytes.
    Annotated(u64),
}

/// The phase that the delay extends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum DelayPhase {
    /// While the container is frozen.
    Freeze,
    /// After the thaw, before the archive appears at its location.
    #[default]
    Write,
}

/// The phases of a checkpoint, in order. fake-cri and the hooks are notified at the start of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Threads are being stopped.
    Freeze,
    /// All threads are stopped; registers, mappings and fds are being read.
    Capture,
    /// The archive's members and pages are being written.
    Write,
    /// The archive is complete in its temporary file and about to be renamed.
    Finish,
}

/// The result of a successful checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Processes in the archive.
    pub processes: usize,
    /// Threads in the archive.
    pub threads: usize,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Pages of memory in the archive.
    pub pages: u64,
    /// How long the container was frozen: from the first interrupt to the last detach, plus the stops to reap
    /// snapshots.
    pub frozen_time: Duration,
    /// Whether the memory was dumped from snapshots while the container kept running.
    pub used_snapshot: bool,
    /// The duration of the whole checkpoint.
    pub total_time: Duration,
}

/// Why a checkpoint failed. The container keeps running and no file is left at the location.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind of failure, which one function maps to a gRPC code.
    pub kind: ErrorKind,
    /// What failed, where, and what to do: a fragment that continues "failed to checkpoint: ...".
    pub message: String,
}

/// The kinds of failure that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The caller cancelled.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// Another checkpoint of the container is in progress.
    Busy,
    /// The container is not running.
    NotRunning,
    /// The container's processes did not stop in time.
    Freeze,
    /// A process is in a frozen cgroup, so it cannot stop.
    FrozenCgroup,
    /// The state of a process could not be read.
    Capture,
    /// State of the container is unsupported, and the job is strict.
    UnsupportedState,
    /// The archive could not be written.
    Write,
    /// The filesystem of the archive is full.
    NoSpace,
    /// The directory of the location does not exist.
    DirectoryMissing,
    /// The location is occupied by something other than a regular file, or its name is too long.
    Location,
    /// This architecture or page size is not supported.
    UnsupportedPlatform,
    /// A hook returned this gRPC code.
    Injected(i32),
}
