//! Containers made, started, stopped and removed.
//!
//! A start launches the shim, so that a container that is only made costs a file. A start that has begun goes through,
//! even when its caller goes away: a half-started container would have no owner. A stop that waits out its grace period
//! ends with its caller, and nothing more is done to the container.

use std::{path::Path, sync::Arc, time::Duration};

use cri_proto::runtime::v1;

use super::{
    Container, Error, Event, Exit, Kind, Record, Runtime, State,
    clock::now,
    command,
    id::{find, new_id},
    signal::{signal_from_cri, signal_name},
    store::{absent_is_fine, failed},
};
use crate::{
    process::ProcessId,
    shim::{self, Shim, ShimError},
};

/// The exit code of a container whose command could not be started, as containerd tells it.
const START_ERROR_CODE: i32 = 128;

/// The exit code of a container whose shim was killed: all that was left of it is killed too.
const SHIM_DIED_CODE: i32 = 137;

impl Runtime {
    /// Makes a container in a pod sandbox.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is missing or wrong in the config; `NotFound` for the sandbox, and for an image that was not
    /// pulled; `Precondition` for a sandbox that was stopped; `NameReserved` when the sandbox has a container of this
    /// name and attempt.
    pub fn create_container(&self, pod_id: &str, config: Option<v1::ContainerConfig>) -> Result<String, Error> {
        let pod = self.pod(pod_id)?;
        let mut config = config.ok_or_else(|| Error::Invalid("container config is missing".to_owned()))?;
        let metadata = config
            .metadata
            .clone()
            .filter(|metadata| !metadata.name.is_empty())
            .ok_or_else(|| Error::Invalid("container config's metadata needs a name".to_owned()))?;
        let reference = config
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .filter(|image| !image.is_empty())
            .ok_or_else(|| Error::Invalid("container config names no image".to_owned()))?;
        let image = self.images.get(&reference)?;
        let resources = config
            .linux
            .as_mut()
            .and_then(|linux| linux.resources.clone())
            .unwrap_or_default();
        let log = match (pod.config.log_directory.as_str(), config.log_path.as_str()) {
            (_, "") | ("", _) => None,
            (directory, path) => Some(Path::new(directory).join(path)),
        };
        let record = Record {
            id: new_id(),
            pod_id: pod.id.clone(),
            config,
            resources,
            image,
            log,
            created_at: now(),
            state: State::Created,
        };
        // What only a start would stumble over is refused here, where its caller can still see why.
        command::launch_spec(&self.config, &record, &pod, self.shim_dir(&record.id))?;

        // Reserving the name and entering the container are one step under the lock, so a failed call leaves neither.
        let mut tables = self.tables();
        let pod = find(Kind::PodSandbox, &tables.pods, &pod.id)?;
        if !pod.ready {
            return Err(Error::Precondition(format!("pod sandbox {:?} is not ready", pod.id)));
        }
        let same = |other: &Record| {
            other.pod_id == record.pod_id && other.name() == metadata.name && other.attempt() == metadata.attempt
        };
        if let Some(other) = tables.containers.values().find(|other| same(&other.record())) {
            return Err(Error::NameReserved {
                kind: Kind::Container,
                name: format!("{}_{}_{}", metadata.name, pod.full_name(), metadata.attempt),
                id: other.id.clone(),
            });
        }
        self.store.save(&record)?;
        let id = record.id.clone();
        tables.containers.insert(id.clone(), Arc::new(Container::new(record)));
        Ok(id)
    }

    /// The folder that a container's shim has for itself.
    pub(crate) fn shim_dir(&self, id: &str) -> std::path::PathBuf {
        self.store.container(id).join("shim")
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    ///
    /// What finding it fails with; `Precondition` in any other state, or when its sandbox was stopped; `Start` when its
    /// command cannot be run, after which it has ended with reason `StartError`.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let runtime = self.clone();
        let start = tokio::spawn(async move { runtime.start(&container).await });
        start.await.unwrap_or_else(|panic| {
            Err(Error::Shim {
                id: id.to_owned(),
                message: panic.to_string(),
            })
        })
    }

    async fn start(self: Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let _turn = container.starting.lock().await;
        // It may have been removed, and its sandbox stopped, while this start waited for its turn.
        self.container(&container.id)?;
        let record = container.record();
        let pod = self.pod(&record.pod_id)?;
        if record.state != State::Created {
            return Err(Error::Precondition(format!(
                "container {:?} is in {} state, and only a created one can be started",
                record.id,
                record.state.name()
            )));
        }
        if !pod.ready {
            return Err(Error::Precondition(format!("pod sandbox {:?} is not ready", pod.id)));
        }
        let spec = command::launch_spec(&self.config, &record, &pod, self.shim_dir(&record.id))?;
        let started = match Shim::launch(&self.config.executable, &spec).await {
            Ok(shim) => self.clone().start_below(container, &record, shim).await,
            Err(error) => Err(shim_error(&record.id, error)),
        };
        if started.is_err() {
            // Without its folder the container is as it was made, also for a restart that looks for its shim.
            let dir = self.shim_dir(&record.id);
            absent_is_fine(std::fs::remove_dir_all(&dir)).map_err(failed("remove", &dir))?;
        }
        started
    }

    /// Starts a container's process below a shim. If that fails the shim is ended, with whatever runs below it.
    async fn start_below(
        self: Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        shim: Shim,
    ) -> Result<(), Error> {
        let error = match shim.start().await {
            Ok(process) => match container.apply(&self.store, Event::Started { process, at: now() }) {
                Ok(()) => {
                    container.set_shim(shim.clone());
                    tokio::spawn(self.clone().watch(container.clone(), shim, process));
                    return Ok(());
                }
                Err(error) => error,
            },
            Err(ShimError::Exec { message }) => {
                let message = start_message(&message);
                let exit = Exit {
                    code: START_ERROR_CODE,
                    finished_at: now(),
                    reason: "StartError".to_owned(),
                    message: message.clone(),
                };
                container.apply(&self.store, Event::StartFailed(exit))?;
                Error::Start(message)
            }
            Err(error) => shim_error(&record.id, error),
        };
        if let Err(error) = shim.shutdown().await {
            tracing::error!(container = record.id, %error, "failed to end the shim of a failed start");
        }
        Err(error)
    }

    /// Waits for a container's end and writes it down. If its shim is gone, what is left of the container is killed.
    pub(crate) async fn watch(self: Arc<Self>, container: Arc<Container>, shim: Shim, init: ProcessId) {
        let exit = shim.wait().await;
        if let Err(error) = self.ended(&container, exit, &[init, shim.process()]).await {
            tracing::error!(container = container.id, %error, "failed to write down the container's end");
        }
    }

    /// Writes down how a container ended.
    pub(crate) async fn ended(
        &self,
        container: &Container,
        exit: shim::Exit,
        known: &[ProcessId],
    ) -> Result<(), Error> {
        let exit = if exit.lost {
            let killed = shim::kill_leftovers(&container.id, known).await;
            tracing::warn!(container = container.id, ?killed, "the container's shim was killed");
            self.remove_checkpoint_leftovers(&container.id)?;
            Exit {
                code: SHIM_DIED_CODE,
                finished_at: exit.finished_at_ns,
                reason: "ShimDied".to_owned(),
                message: "the container's shim was killed, so what was left of the container was killed too".to_owned(),
            }
        } else {
            Exit {
                code: exit.code,
                finished_at: exit.finished_at_ns,
                reason: exit.reason.as_str().to_owned(),
                message: exit.message,
            }
        };
        container.end(&self.store, exit)
    }

    /// Stops a container: its stop signal, the grace period, then SIGKILL to all its processes. What is not there or
    /// does not run is stopped already.
    ///
    /// # Errors
    ///
    /// `Invalid` or `Ambiguous` for the id; `Shim` when its shim cannot be reached.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !grace.is_zero() {
            // A start that is under way ends first, so that what it starts is stopped.
            drop(container.starting.lock().await);
            let Some(shim) = container.shim().filter(|_| container.record().state.running()) else {
                return Ok(());
            };
            let signal = stop_signal(&container.record());
            match shim.signal(signal).await {
                Ok(()) | Err(ShimError::Gone | ShimError::State { .. }) => {}
                Err(error) => return Err(shim_error(&container.id, error)),
            }
            if tokio::time::timeout(grace, container.exited()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(&container).await
    }

    /// Kills what runs of a container and waits for its end.
    pub(crate) async fn kill_container(&self, container: &Container) -> Result<(), Error> {
        drop(container.starting.lock().await);
        let Some(shim) = container.shim().filter(|_| container.record().state.running()) else {
            return Ok(());
        };
        match shim.kill_all().await {
            // A shim that is gone has ended the container, or the watch will.
            Ok(()) | Err(ShimError::Gone | ShimError::State { .. }) => {}
            Err(error) => return Err(shim_error(&container.id, error)),
        }
        container.exited().await;
        Ok(())
    }

    /// Removes a container; one that runs is killed. What is not there is removed already. Its log stays: it is the
    /// caller's.
    ///
    /// # Errors
    ///
    /// As [`Runtime::stop_container`]; `Store` when its folder cannot be removed.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.kill_container(&container).await?;
        let _turn = container.starting.lock().await;
        self.remove_checkpoint_leftovers(&container.id)?;
        self.store.remove::<Record>(&container.id)?;
        self.tables().containers.remove(&container.id);
        Ok(())
    }

    /// Makes a container's shim open its log anew.
    ///
    /// # Errors
    ///
    /// What finding it fails with; `Precondition` when it does not run.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let shim = self.running_shim(&container)?;
        shim.reopen_log()
            .await
            .map_err(|error| shim_error(&container.id, error))
    }

    /// The shim of a container that runs.
    ///
    /// # Errors
    ///
    /// `Precondition`, naming the state.
    pub(crate) fn running_shim(&self, container: &Container) -> Result<Shim, Error> {
        let state = container.record().state;
        container.shim().filter(|_| state.running()).ok_or_else(|| {
            Error::Precondition(format!(
                "container {:?} is in {} state, not running",
                container.id,
                state.name()
            ))
        })
    }

    /// Removes what a checkpoint left that nobody ends any more: its record, and the temporary file the record names.
    pub(crate) fn remove_checkpoint_leftovers(&self, id: &str) -> Result<(), Error> {
        let Some(pending) = self.pending_checkpoint(id)? else {
            return Ok(());
        };
        absent_is_fine(std::fs::remove_file(&pending.temporary)).map_err(failed("remove", &pending.temporary))?;
        self.forget_checkpoint(id)
    }
}

/// The signal that asks a container to stop: its own, its image's, SIGTERM.
fn stop_signal(record: &Record) -> i32 {
    v1::Signal::try_from(record.config.stop_signal)
        .ok()
        .and_then(signal_from_cri)
        .or_else(|| record.image.stop_signal.as_deref().and_then(signal_name))
        .unwrap_or(nix::libc::SIGTERM)
}

/// What a shim fails with, as the runtime's error.
pub(crate) fn shim_error(id: &str, error: ShimError) -> Error {
    match error {
        ShimError::State { message } => Error::Precondition(message),
        ShimError::Exec { message } => Error::Start(start_message(&message)),
        timeout @ ShimError::ExecTimeout(_) => Error::Deadline(timeout.to_string()),
        // A shim that has ended took its container along.
        ShimError::Gone => Error::Precondition(format!("container {id:?} has ended")),
        other => Error::Shim {
            id: id.to_owned(),
            message: other.to_string(),
        },
    }
}

/// A failed start in the words that containerd and runc put around it.
fn start_message(message: &str) -> String {
    format!(
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {message}"
    )
}
