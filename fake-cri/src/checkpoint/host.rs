//! What the engine needs from the one it runs in.

use std::io;

use super::Phase;
use crate::process::ProcessId;

/// The shim, as the engine sees it.
///
/// The engine works in a thread of its own (the tracer), which calls these. While [`super::run`] runs, no other thread of this
/// process may wait for the container's processes: a `wait` of any thread takes the stops that the tracer waits for.
pub trait Host: Sync {
    /// The container's processes now, in any order, zombies included. Asked again until no new one appears.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from knowing them; the checkpoint fails then.
    fn members(&self) -> io::Result<Vec<ProcessId>>;

    /// A phase begins. Returns when fake-cri has heard of it, or is gone; in the phases while the container stands it may return
    /// before, where no fault acts.
    fn on_phase(&self, phase: Phase);

    /// Whether the caller has given up. Asked every few milliseconds.
    fn is_cancelled(&self) -> bool;

    /// A process ended while it was traced, and the tracer's wait collected this wait status. If the process was a child of
    /// this one, no other wait will show it; if it was not, its own parent still sees it.
    fn on_exited(&self, pid: i32, status: i32);

    /// A copy of a process is about to be made; [`Self::copied`] follows whatever comes of it.
    fn on_snapshot_starting(&self) {}

    /// These processes are copies that the checkpoint made, below the container's own: part of the machinery, not of the
    /// container. None are left when the list is empty.
    fn on_snapshots(&self, _snapshot_pids: &[i32]) {}

    /// Kills fake-cri with SIGKILL, as [`super::Effect::CrashRuntime`] asks.
    fn crash_runtime(&self);
}
