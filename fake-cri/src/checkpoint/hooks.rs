//! Where other code may act in a checkpoint. Faults are injected here; the engine does not know them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Failure, Host, Job, Phase,
    cancel::CancelToken,
    sink::{FileSink, Sink},
};
use crate::process::{Pid, ProcessId, Tid};

/// Calls of the engine at fixed points of a checkpoint, in the tracer thread. The defaults do nothing.
pub trait Hooks: Sync {
    /// The sink of the archive, which by default is its file.
    fn sink(&self, file: FileSink) -> Box<dyn Sink> {
        Box::new(file)
    }

    /// A phase has begun.
    ///
    /// # Errors
    ///
    /// The checkpoint fails with this failure.
    fn on_phase(&self, _phase: Phase, _host: &dyn Host, _cancel: &CancelToken<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// Selects the tasks that are dumped: the tids of each process, by its pid.
    fn select_tasks(&self, _init: Pid, _tasks: &mut BTreeMap<Pid, Vec<Tid>>) {}

    /// The frozen processes are about to be thawed, also after a failure.
    fn before_thaw(&self, _processes: &[ProcessId]) {}

    /// The temporary is complete. Returns false if it must not appear at the location.
    ///
    /// # Errors
    ///
    /// The checkpoint fails with this failure.
    fn before_persist(&self, _job: &Job, _cancel: &CancelToken<'_>) -> Result<bool, Failure> {
        Ok(true)
    }

    /// The checkpoint has ended. After a failure the temporary still exists, and is removed next.
    fn after(&self, _job: &Job, _host: &dyn Host, _failure: Option<&Failure>, _elapsed: Duration) {}
}

/// No hooks.
impl Hooks for () {}
