//! What a checkpoint is asked for and what it answers. All of it crosses the shim's socket.

use std::{path::PathBuf, time::Duration};

use cri_proto::document::{CONTAINER_LOG, CRIO_LOG};
use serde::{Deserialize, Serialize};

use super::Defect;
use crate::process::ProcessId;

/// One checkpoint of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The container's id, as it stands in the archive.
    pub container_id: String,
    /// The container's first process.
    pub init: ProcessId,
    /// Where the archive appears, whole or not at all. Absolute.
    pub location: PathBuf,
    /// Where it is written until then: beside `location`, recorded in fake-cri's state before the job is sent, so that a
    /// start after a kill can remove it.
    pub temporary: PathBuf,
    /// The engine's own members of the archive (`config.dump`, `spec.dump`, `status.dump`, `status`), in their order.
    pub documents: Vec<Document>,
    /// Which members stand beside the images.
    #[serde(default)]
    pub layout: Layout,
    /// The container's log, copied as [`Layout::log_member`].
    pub log: Option<PathBuf>,
    /// How long a freeze may take before everything is thawed and the thread that would not stop is named.
    pub freeze_timeout: Duration,
    /// How long the container stands still.
    pub freeze: Freeze,
    /// How long the whole checkpoint may take, counted from the job's arrival.
    pub deadline: Option<Duration>,
    /// Flush the archive to disk before it appears.
    pub fsync: bool,
    /// Fail when some of the container's state is unsupported, instead of saying it in `dump.log` alone.
    #[serde(default)]
    pub strict: bool,
    /// How long the checkpoint takes at least.
    pub delay: Option<Delay>,
    /// What goes wrong, and where.
    pub injections: Vec<Injection>,
}

/// Which engine's members stand beside CRIU's images.
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
    /// The member that is a copy of the container's log.
    pub fn log_member(self) -> &'static str {
        match self {
            Self::Containerd => CONTAINER_LOG,
            Self::CriO => CRIO_LOG,
        }
    }

    /// Whether files that changed below the root filesystem have a member also when there are none.
    pub fn has_empty_diff(self) -> bool {
        self == Self::Containerd
    }
}

/// How long the container stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// Only until it is copied, as by fork(2), where nobody can notice that; the snapshot is read. Otherwise as full.
    #[default]
    Snapshot,
    /// Until all of its memory is read.
    Full,
}

/// A small member of the archive that the engine made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// The member's name.
    pub name: String,
    /// Its content: text, JSON by nature.
    pub content: String,
}

/// The delay model: `(base + memory / rate) * jitter`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delay {
    /// What an empty container takes.
    pub base: Duration,
    /// Bytes a second; `None` is without end.
    pub rate: Option<u64>,
    /// What the drawn jitter multiplies the sum by; 1.0 is none.
    pub jitter_factor: f64,
    /// Which memory counts.
    pub memory: DelayMemory,
    /// Whether the container stands still meanwhile.
    pub phase: DelayPhase,
}

/// Which size of the container the delay model counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelayMemory {
    /// Resident pages of all its processes.
    Rss,
    /// Proportional set size: a shared page counts by its sharers.
    Pss,
    /// A size the pod's annotation names, in bytes.
    Annotated(u64),
}

/// Where the modelled delay is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelayPhase {
    /// While the container stands still.
    Freeze,
    /// After the thaw, before the archive appears.
    Write,
}

/// The phases of a checkpoint, in their order. Each is a point where fake-cri is told and a fault may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Threads are being stopped.
    Freeze,
    /// All stand still; registers, mappings and descriptors are being read.
    Capture,
    /// The archive's members and pages are being written.
    Write,
    /// The archive is whole in its temporary place and about to appear.
    Finish,
}

/// One wrong thing at one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// When it happens: at the phase's beginning.
    pub phase: Phase,
    /// What happens.
    pub effect: InjectedEffect,
}

/// What an injection does. Everything but these is as without it: a failed checkpoint still thaws and removes.
///
/// The fault grammar lets what shapes the archive (from `NoSpace` to `OmitMember`) stand at [`Phase::Write`] alone; all
/// else may stand at every phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectedEffect {
    /// Fails with this gRPC code and message.
    Error {
        /// The gRPC code's number.
        code: i32,
        /// The message, word for word.
        message: String,
    },
    /// Waits, then goes on.
    Delay(Duration),
    /// Waits until the caller gives up or the deadline passes.
    Hang,
    /// Fails as a full disk does (ENOSPC) once this many bytes are written.
    NoSpace {
        /// Bytes that still fit.
        after: u64,
    },
    /// Fails as a broken disk does (EIO) once this many bytes are written.
    IoError {
        /// Bytes that are still written.
        after: u64,
    },
    /// Leaves this share of the archive at the location (percent) and fails, as a runtime that copies without a rename.
    PartialArchive {
        /// How much of it, in percent.
        percent: u8,
    },
    /// The archive's header checksums and some of its bytes are wrong, and the answer is success.
    CorruptArchive,
    /// The archive appears cut down to this share of its bytes (percent), and the answer is success.
    TruncatedArchive {
        /// How much of it appears, in percent.
        percent: u8,
    },
    /// A file of no bytes appears, and the answer is success.
    EmptyArchive,
    /// Success is answered and no file appears.
    NoArchive,
    /// The archive appears with this mode.
    Mode(u32),
    /// The archive lacks the members that this glob names.
    OmitMember(String),
    /// All is done, but the container's processes are left stopped: by SIGSTOP, since a ptrace stop cannot outlive its tracer.
    /// They are left so however the checkpoint ends from this phase on.
    LeaveFrozen,
    /// The container's processes are killed.
    KillContainer,
    /// fake-cri is killed with SIGKILL.
    CrashRuntime,
    /// The call as a whole goes wrong in this way; the phase does not count.
    Defect(Defect),
    /// The images (all below `checkpoint/`) are copied from this archive: what the runtime makes of [`Defect::EarlierImages`].
    CopyImages(PathBuf),
}

/// What a checkpoint did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Processes in the archive.
    pub processes: usize,
    /// Threads in the archive.
    pub threads: usize,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Pages of memory in it.
    pub pages: u64,
    /// How long it was frozen: from the first thread asked to stop to the last one running, and where copies were removed again.
    pub frozen_time: Duration,
    /// Whether its memory was read from a copy while it ran on.
    pub used_snapshot: bool,
    /// The whole of it.
    pub total_time: Duration,
}

/// Why a checkpoint failed. The container runs on and nothing is left at the location.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure, for the one place that maps it to a gRPC code.
    pub kind: ErrorKind,
    /// What went wrong, where, and what to do: a fragment that finishes "failed to checkpoint: ...".
    pub message: String,
}

/// The kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The caller went away.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// Another checkpoint of the container is under way.
    Busy,
    /// The container is not running (any more).
    NotRunning,
    /// Its processes could not be brought to stand still in time.
    Freeze,
    /// A process is in a cgroup that is frozen, so it cannot stop.
    FrozenCgroup,
    /// A process could not be read.
    Capture,
    /// Something of its state cannot be carried, and the job is strict.
    UnsupportedState,
    /// The archive could not be written.
    Write,
    /// No space is left where the archive goes.
    NoSpace,
    /// The folder of the location does not exist.
    DirectoryMissing,
    /// The location is taken by something other than a regular file, or its name is too long.
    Location,
    /// This architecture is not built.
    UnsupportedPlatform,
    /// A fault's own gRPC code.
    Injected(i32),
}
