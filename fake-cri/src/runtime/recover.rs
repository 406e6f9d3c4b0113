//! After a restart: what the files say and what the shims say brought together.
//!
//! | file says | shim | then |
//! |---|---|---|
//! | created | none | created |
//! | created | lives, container runs | fake-cri died in the middle of a start: running |
//! | created | lives, container not started | the shim is ended: created |
//! | created or running | ended, exit on record | exited, with the true code |
//! | running | lives | running: the same process goes on being watched |
//! | running | gone without a record | killed while fake-cri was not there: what is left is killed, exited |
//! | exited | | exited |
//!
//! A temporary archive that a checkpoint left on record is removed: the shim ends a checkpoint when fake-cri is gone.

use std::sync::Arc;

use super::{Container, Error, Event, Exit, Pod, Record, Runtime, State, clock::now, start::shim_error};
use crate::shim::{self, Attached, Shim};

impl Runtime {
    /// Reads all files and finds all shims again.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let pods: Vec<Pod> = self.store.load()?;
        let records: Vec<Record> = self.store.load()?;
        self.tables().pods = pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        for record in records {
            let container = Arc::new(Container::new(record));
            self.tables().containers.insert(container.id.clone(), container.clone());
            self.remove_checkpoint_leftovers(&container.id)?;
            if let Err(error) = self.find_again(&container).await {
                // One container that cannot be found must not keep all others from being served.
                tracing::error!(container = container.id, %error, "failed to find the container's shim again");
            }
        }
        Ok(())
    }

    async fn find_again(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let record = container.record();
        let dir = self.shim_dir(&record.id);
        if record.state.exited() || (record.state == State::Created && !dir.exists()) {
            return Ok(());
        }
        let attached = Shim::attach(&dir)
            .await
            .map_err(|error| shim_error(&record.id, error))?;
        match attached {
            Attached::Live(shim, shim::State::Created) => {
                shim.shutdown().await.map_err(|error| shim_error(&record.id, error))
            }
            Attached::Live(shim, shim::State::Running { init, started_at_ns }) => {
                if record.state == State::Created {
                    let at = started_at_ns;
                    container.apply(&self.store, Event::Started { process: init, at })?;
                }
                self.learn_identity(container, init);
                container.set_shim(shim.clone());
                tokio::spawn(self.clone().watch(container.clone(), shim, init));
                Ok(())
            }
            Attached::Exited(exit) => {
                self.was_started(container, exit.started_at_ns)?;
                self.ended(container, exit, &[]).await
            }
            Attached::Lost if record.state == State::Created => {
                shim::kill_leftovers(&record.id, &[])
                    .await
                    .map_err(|error| shim_error(&record.id, error))?;
                container.apply(
                    &self.store,
                    Event::StartFailed(Exit {
                        code: 255,
                        finished_at: now(),
                        reason: "StartError".to_owned(),
                        message: "fake-cri and the container's shim were killed while it was being started".to_owned(),
                    }),
                )
            }
            Attached::Lost => {
                let known: Vec<_> = record.state.process().into_iter().collect();
                let exit = shim::Exit {
                    code: 255,
                    signal: None,
                    started_at_ns: 0,
                    finished_at_ns: now(),
                    reason: shim::Reason::Error,
                    message: String::new(),
                    lost: true,
                };
                self.ended(container, exit, &known).await
            }
        }
    }

    /// Makes up for the start that a killed fake-cri did not write down.
    fn was_started(&self, container: &Container, at: i64) -> Result<(), Error> {
        if container.record().state == State::Created {
            // The process is gone; only that there was one counts for the state.
            let process = crate::process::ProcessId { pid: 0, start_time: 0 };
            container.apply(&self.store, Event::Started { process, at })?;
        }
        Ok(())
    }
}
