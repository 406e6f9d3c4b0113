//! What the engine needs from its host process.

use std::io;

use super::Phase;
use crate::process::{Pid, ProcessId};

/// The shim, as seen by the engine.
///
/// The engine calls these methods from a thread of its own, the tracer. While [`super::run`] runs, no other thread of
/// this process may wait for the container's processes: a `wait` by any thread consumes the stops that the tracer waits
/// for.
pub trait Host: Sync {
    /// The current processes of the container, in any order, zombies included. Called until no new process appears.
    ///
    /// # Errors
    ///
    /// The processes could not be listed. The checkpoint fails.
    fn members(&self) -> io::Result<Vec<ProcessId>>;

    /// A phase begins. Returns once fake-cri has acknowledged the phase, or is gone. It may return earlier in the phases
    /// in which the container is frozen.
    fn on_phase(&self, phase: Phase);

    /// Whether the caller has cancelled. Called every few milliseconds.
    fn is_cancelled(&self) -> bool;

    /// A process exited while it was traced, and the tracer's wait collected this wait status. If the process was a
    /// child of this process, no other wait will report it. Otherwise its own parent still sees the exit.
    fn on_exited(&self, pid: Pid, status: i32);

    /// A snapshot is about to be made. [`Self::on_snapshots`] follows in any case.
    fn on_snapshot_starting(&self) {}

    /// These processes are snapshots that the checkpoint made, and descendants of the container's processes or children
    /// of this process. They are not part of the container. An empty list: no snapshot is left.
    fn on_snapshots(&self, _snapshot_pids: &[Pid]) {}
}
