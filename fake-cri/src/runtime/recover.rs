//! Reconciles the files with the shims after a restart of fake-cri.
//!
//! | state in the file | shim | new state |
//! |---|---|---|
//! | created | none | created |
//! | created | alive, container runs | running (fake-cri was killed during the start) |
//! | created | alive, container not started | created; the shim is shut down |
//! | created | gone without an exit record | exited, `StartError`; remaining processes are killed |
//! | created or running | gone, exit record exists | exited, with the recorded code |
//! | running | alive | running; a task waits for the exit again |
//! | running | gone without an exit record | exited, `ShimDied`; remaining processes are killed |
//! | exited | | exited |
//!
//! The temporary archive of an interrupted checkpoint is removed: a shim aborts its checkpoint when fake-cri is gone.

use std::sync::Arc;

use super::{
    Container, ContainerExit, ContainerRecord, ContainerState, LifecycleEvent, Pod, Runtime, RuntimeError, clock::now,
    start::shim_error,
};
use crate::process::{Pid, ProcessId};
use crate::shim::{self, Shim, ShimAttachment};

impl Runtime {
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let pods: Vec<Pod> = self.store.load()?;
        let records: Vec<ContainerRecord> = self.store.load()?;
        self.tables().pods = pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        for record in records {
            let container = Arc::new(Container::new(record));
            self.tables().containers.insert(container.id.clone(), container.clone());
            self.discard_pending_checkpoint(&container.id)?;
            if let Err(error) = self.reattach(&container).await {
                // One broken container must not prevent the others from being served.
                tracing::error!(container = container.id, %error, "failed to reattach to the container's shim");
            }
        }
        Ok(())
    }

    async fn reattach(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), RuntimeError> {
        let record = container.record();
        let dir = self.shim_dir(&record.id);
        if record.state.is_exited() || (record.state == ContainerState::Created && !dir.exists()) {
            return Ok(());
        }
        let attachment = Shim::attach(&dir)
            .await
            .map_err(|error| shim_error(&record.id, error))?;
        match attachment {
            ShimAttachment::Live(shim, shim::ShimState::Created) => {
                shim.shutdown().await.map_err(|error| shim_error(&record.id, error))
            }
            ShimAttachment::Live(shim, shim::ShimState::Running { init, started_at_ns }) => {
                if record.state == ContainerState::Created {
                    let started_at = started_at_ns;
                    container.apply_event(
                        &self.store,
                        LifecycleEvent::Started {
                            process: init,
                            started_at,
                        },
                    )?;
                }
                self.record_identity(container, init);
                container.set_shim(shim.clone());
                tokio::spawn(self.clone().watch_exit(container.clone(), shim, init));
                Ok(())
            }
            ShimAttachment::Exited(exit) => {
                self.ensure_started(container, exit.started_at_ns)?;
                self.on_exit(container, exit, &[]).await
            }
            ShimAttachment::Lost if record.state == ContainerState::Created => {
                shim::kill_orphans(&record.id, &[])
                    .await
                    .map_err(|error| shim_error(&record.id, error))?;
                container.apply_event(
                    &self.store,
                    LifecycleEvent::StartFailed(ContainerExit {
                        code: 255,
                        finished_at: now(),
                        reason: "StartError".to_owned(),
                        message: "fake-cri and the container's shim were killed during the start".to_owned(),
                    }),
                )
            }
            ShimAttachment::Lost => {
                let known_processes: Vec<_> = record.state.init().into_iter().collect();
                let exit = shim::ExitRecord {
                    code: 255,
                    signal: None,
                    started_at_ns: 0,
                    finished_at_ns: now(),
                    reason: shim::ExitReason::Error,
                    message: String::new(),
                    shim_lost: true,
                };
                self.on_exit(container, exit, &known_processes).await
            }
        }
    }

    /// Records the start if fake-cri was killed before it wrote the state `running`.
    fn ensure_started(&self, container: &Container, started_at: i64) -> Result<(), RuntimeError> {
        if container.record().state == ContainerState::Created {
            // The pid does not matter: the process has exited, and the caller sets the state `exited` next.
            let process = ProcessId {
                pid: Pid::NONE,
                start_time: 0,
            };
            container.apply_event(&self.store, LifecycleEvent::Started { process, started_at })?;
        }
        Ok(())
    }
}
