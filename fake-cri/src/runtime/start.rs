//! How a container starts, and how its end is noticed.
//!
//! A start launches the shim, so that a container that is only made costs a file. A start that has begun goes through,
//! even when its caller goes away: a half-started container would have no owner. From then on a task waits for the shim.

use std::sync::Arc;

use super::{
    Container, ContainerExit, ContainerRecord, ContainerState, LifecycleEvent, Runtime, RuntimeError,
    clock::now,
    command,
    store::{ignore_not_found, store_error},
};
use crate::{
    process::{ProcessId, identity::Identity},
    shim::{self, Shim, ShimError},
};

/// The exit code of a container whose command could not be started, as containerd tells it.
const START_ERROR_EXIT_CODE: i32 = 128;

/// The exit code of a container whose shim was killed: all that was left of it is killed too.
const SHIM_DIED_EXIT_CODE: i32 = 137;

impl Runtime {
    /// The folder that a container's shim has for itself.
    pub(crate) fn shim_dir(&self, id: &str) -> std::path::PathBuf {
        self.store.container_dir(id).join("shim")
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    ///
    /// What finding it fails with; `Precondition` in any other state, or when its sandbox was stopped; `Start` when its
    /// command cannot be run, after which it has ended with reason `StartError`.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let runtime = self.clone();
        let start = tokio::spawn(async move { runtime.start(&container).await });
        start.await.unwrap_or_else(|panic| {
            Err(RuntimeError::Shim {
                id: id.to_owned(),
                message: panic.to_string(),
            })
        })
    }

    async fn start(self: Arc<Self>, container: &Arc<Container>) -> Result<(), RuntimeError> {
        let _start_guard = container.start_lock.lock().await;
        // It may have been removed, and its sandbox stopped, while this start waited for its turn.
        self.container(&container.id)?;
        let record = container.record();
        let pod = self.pod(&record.pod_id)?;
        if record.state != ContainerState::Created {
            return Err(RuntimeError::FailedPrecondition(format!(
                "container {:?} is in {} state, and only a created one can be started",
                record.id,
                record.state.cri_name()
            )));
        }
        if !pod.ready {
            return Err(RuntimeError::FailedPrecondition(format!(
                "pod sandbox {:?} is not ready",
                pod.id
            )));
        }
        let spec = command::launch_spec(&self.config, &record, &pod, self.shim_dir(&record.id))?;
        let result = match Shim::launch(&self.config.executable, &spec).await {
            Ok(shim) => self.clone().start_in_shim(container, &record, shim).await,
            Err(error) => Err(shim_error(&record.id, error)),
        };
        if result.is_err() {
            // Without its folder the container is as it was made, also for a restart that looks for its shim.
            let dir = self.shim_dir(&record.id);
            ignore_not_found(std::fs::remove_dir_all(&dir)).map_err(store_error("remove", &dir))?;
        }
        result
    }

    /// Starts a container's process below a shim. If that fails the shim is ended, with whatever runs below it.
    async fn start_in_shim(
        self: Arc<Self>,
        container: &Arc<Container>,
        record: &ContainerRecord,
        shim: Shim,
    ) -> Result<(), RuntimeError> {
        let error = match shim.start_container().await {
            Ok((process, at)) => match container.apply_event(
                &self.store,
                LifecycleEvent::Started {
                    process,
                    started_at: at,
                },
            ) {
                Ok(()) => {
                    self.record_identity(container, process);
                    container.set_shim(shim.clone());
                    tokio::spawn(self.clone().watch_exit(container.clone(), shim, process));
                    return Ok(());
                }
                Err(error) => error,
            },
            Err(error) => {
                let error = shim_error(&record.id, error);
                if let RuntimeError::Start(message) | RuntimeError::Restore(message) = &error {
                    let exit = ContainerExit {
                        code: START_ERROR_EXIT_CODE,
                        finished_at: now(),
                        reason: "StartError".to_owned(),
                        message: message.clone(),
                    };
                    container.apply_event(&self.store, LifecycleEvent::StartFailed(exit))?;
                }
                error
            }
        };
        if let Err(error) = shim.shutdown().await {
            tracing::error!(container = record.id, %error, "failed to end the shim of a failed start");
        }
        Err(error)
    }

    /// Notes as whom a restored container runs, which its archive decided.
    pub(crate) fn record_identity(&self, container: &Container, init: ProcessId) {
        if container.record().identity.is_some() {
            return;
        }
        let identity = Identity::of_process(init.pid).map_err(|error| RuntimeError::Internal(error.to_string()));
        let result = identity.and_then(|identity| {
            // The number may be another process's by now.
            let identity = init.is_alive().then_some(identity);
            container.update(&self.store, |record| {
                record.identity = identity;
                Ok(())
            })
        });
        if let Err(error) = result {
            tracing::warn!(container = container.id, %error, "failed to learn the user of a restored container");
        }
    }

    /// Waits for a container's end and writes it down. If its shim is gone, what is left of the container is killed.
    pub(crate) async fn watch_exit(self: Arc<Self>, container: Arc<Container>, shim: Shim, init: ProcessId) {
        let exit = shim.wait_exit().await;
        if let Err(error) = self.on_exit(&container, exit, &[init, shim.process()]).await {
            tracing::error!(container = container.id, %error, "failed to write down the container's end");
        }
    }

    /// Writes down how a container ended.
    pub(crate) async fn on_exit(
        &self,
        container: &Container,
        exit: shim::ExitRecord,
        known_processes: &[ProcessId],
    ) -> Result<(), RuntimeError> {
        let exit = if exit.shim_lost {
            let killed = shim::kill_orphans(&container.id, known_processes).await;
            tracing::warn!(container = container.id, ?killed, "the container's shim was killed");
            self.discard_pending_checkpoint(&container.id)?;
            ContainerExit {
                code: SHIM_DIED_EXIT_CODE,
                finished_at: exit.finished_at_ns,
                reason: "ShimDied".to_owned(),
                message: "the container's shim was killed, so what was left of the container was killed too".to_owned(),
            }
        } else {
            ContainerExit {
                code: exit.code,
                finished_at: exit.finished_at_ns,
                reason: exit.reason.as_str().to_owned(),
                message: exit.message,
            }
        };
        container.record_exit(&self.store, exit)
    }
}

/// What a shim fails with, as the runtime's error.
pub(crate) fn shim_error(id: &str, error: ShimError) -> RuntimeError {
    match error {
        ShimError::WrongState { message } => RuntimeError::FailedPrecondition(message),
        ShimError::ExecFailed { message } => RuntimeError::Start(runc_start_error(&message)),
        ShimError::RestoreFailed { message } => RuntimeError::Restore(message),
        timeout @ ShimError::ExecTimeout(_) => RuntimeError::DeadlineExceeded(timeout.to_string()),
        too_large @ ShimError::ExecOutputTooLarge(_) => RuntimeError::ResourceExhausted(too_large.to_string()),
        // A shim that has ended took its container along.
        ShimError::Gone => RuntimeError::FailedPrecondition(format!("container {id:?} has ended")),
        other => RuntimeError::Shim {
            id: id.to_owned(),
            message: other.to_string(),
        },
    }
}

/// A failed start in the words that containerd and runc put around it.
fn runc_start_error(message: &str) -> String {
    format!(
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {message}"
    )
}
