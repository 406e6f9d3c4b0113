//! Starts containers and handles their exit.
//!
//! The start launches the shim; a created container is only a file. A start runs in a task of its own and completes
//! even if the caller cancels, because nothing would clean up a partly started container. After the start, a task waits
//! for the exit.

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

/// The exit code that containerd reports for a container whose command could not be started.
const START_ERROR_EXIT_CODE: i32 = 128;

/// 128 + SIGKILL: the exit code of a container whose shim was killed, because its remaining processes are killed too.
const SHIM_DIED_EXIT_CODE: i32 = 137;

impl Runtime {
    pub(crate) fn shim_dir(&self, id: &str) -> std::path::PathBuf {
        self.store.container_dir(id).join("shim")
    }

    /// Starts a created container.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::container`]; `FailedPrecondition` if the container is not in state `created` or its
    /// sandbox is stopped; `Start` or `Restore` if the command cannot be executed or the archive cannot be restored,
    /// after which the container is in state `exited` with reason `StartError`.
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
        // The container may have been removed or its sandbox stopped while this start waited for the lock.
        self.container(&container.id)?;
        let record = container.record();
        let pod = self.pod(&record.pod_id)?;
        if record.state != ContainerState::Created {
            return Err(RuntimeError::FailedPrecondition(format!(
                "container {:?} is in {} state: only a created container can be started",
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
            // Without this directory, recovery after a restart treats the container as not started.
            let dir = self.shim_dir(&record.id);
            ignore_not_found(std::fs::remove_dir_all(&dir)).map_err(store_error("remove", &dir))?;
        }
        result
    }

    /// Starts the container's first process in a shim. On an error, shuts the shim down, which kills its processes.
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
            tracing::error!(container = record.id, %error, "failed to shut down the shim after a failed start");
        }
        Err(error)
    }

    /// Records the user and groups of a restored container: the archive decides them, and the first process has them.
    pub(crate) fn record_identity(&self, container: &Container, init: ProcessId) {
        if container.record().identity.is_some() {
            return;
        }
        let identity = Identity::of_process(init.pid).map_err(|error| RuntimeError::Internal(error.to_string()));
        let result = identity.and_then(|identity| {
            // If the process has exited, its pid may have been reused by another process.
            let identity = init.is_alive().then_some(identity);
            container.update(&self.store, |record| {
                record.identity = identity;
                Ok(())
            })
        });
        if let Err(error) = result {
            tracing::warn!(container = container.id, %error, "failed to read the user of a restored container");
        }
    }

    /// Waits for the exit of a container and records it. If the shim is gone, kills the remaining processes.
    pub(crate) async fn watch_exit(self: Arc<Self>, container: Arc<Container>, shim: Shim, init: ProcessId) {
        let exit = shim.wait_exit().await;
        if let Err(error) = self.on_exit(&container, exit, &[init, shim.process()]).await {
            tracing::error!(container = container.id, %error, "failed to record the container's exit");
        }
    }

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
                message: "the container's shim was killed, and the container's remaining processes with it".to_owned(),
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

pub(crate) fn shim_error(id: &str, error: ShimError) -> RuntimeError {
    match error {
        ShimError::WrongState { message } => RuntimeError::FailedPrecondition(message),
        ShimError::ExecFailed { message } => RuntimeError::Start(runc_start_error(&message)),
        ShimError::RestoreFailed { message } => RuntimeError::Restore(message),
        timeout @ ShimError::ExecTimeout(_) => RuntimeError::DeadlineExceeded(timeout.to_string()),
        too_large @ ShimError::ExecOutputTooLarge(_) => RuntimeError::ResourceExhausted(too_large.to_string()),
        // The shim exits only after its container, or the container is killed with it.
        ShimError::Gone => RuntimeError::FailedPrecondition(format!("container {id:?} has exited")),
        other => RuntimeError::Shim {
            id: id.to_owned(),
            message: other.to_string(),
        },
    }
}

/// Wraps the message of a failed start in the text of containerd and runc.
fn runc_start_error(message: &str) -> String {
    format!(
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {message}"
    )
}
