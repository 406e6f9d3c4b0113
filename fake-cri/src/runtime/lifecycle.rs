//! Creates, stops and removes containers. Start and exit: see `start`.
//!
//! If the caller cancels StopContainer during the grace period, the container gets its stop signal but no SIGKILL.

use std::{path::Path, sync::Arc, time::Duration};

use cri_proto::runtime::v1;

use super::{
    Container, ContainerRecord, ContainerState, ObjectKind, Runtime, RuntimeError,
    clock::now,
    command,
    id::{find_by_id, new_id},
    identity,
    restore_source::{self, ArchiveSource},
    signal::{cri_signal_number, parse_signal},
    start::shim_error,
    store::{ignore_not_found, store_error},
    unapplied_fields,
};
use crate::{
    checkpoint::CancelFlag,
    process::pidfd,
    shim::{Shim, ShimError},
};

/// How long a killed container may take to exit: the kernel must free its memory.
const CONTAINER_EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for the exit event of a container whose shim does not respond.
const UNREACHABLE_SHIM_TIMEOUT: Duration = Duration::from_secs(1);

impl Runtime {
    /// Creates a container in a pod sandbox. For a container that is restored from an archive, reads the archive until
    /// `caller` is cancelled.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a missing or invalid field of the config; `NotFound` for an unknown sandbox or an image
    /// that was not pulled; `FailedPrecondition` if the sandbox is stopped or a field cannot be applied; `NameReserved`
    /// if the sandbox has a container with this name and attempt; `DeadlineExceeded` if the caller cancelled.
    pub fn create_container(
        &self,
        pod_id: &str,
        config: Option<v1::ContainerConfig>,
        caller: &CancelFlag,
    ) -> Result<String, RuntimeError> {
        let pod = self.pod(pod_id)?;
        let mut config =
            config.ok_or_else(|| RuntimeError::InvalidArgument("container config is missing".to_owned()))?;
        let metadata = config
            .metadata
            .clone()
            .filter(|metadata| !metadata.name.is_empty())
            .ok_or_else(|| RuntimeError::InvalidArgument("container config's metadata needs a name".to_owned()))?;
        let reference = config
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .filter(|image| !image.is_empty())
            .ok_or_else(|| RuntimeError::InvalidArgument("container config needs an image".to_owned()))?;
        unapplied_fields::check_host_paths(&config)?;
        self.unapplied_fields
            .check(&config, self.config.allow_unapplied_fields)?;
        let restored = restore_source::restore_source(self.state_dir(), &pod, &config, &reference, caller)?;
        let image = match &restored {
            Some((ArchiveSource::Image(archive), _)) => restore_source::archive_image(archive),
            _ => self.images.get(&reference)?,
        };
        let resources = config
            .linux
            .as_mut()
            .and_then(|linux| linux.resources.clone())
            .unwrap_or_default();
        let log = match (pod.config.log_directory.as_str(), config.log_path.as_str()) {
            (_, "") | ("", _) => None,
            (directory, path) => Some(Path::new(directory).join(path)),
        };
        let id = new_id();
        let decision = identity::resolve_identity(
            &config,
            &image,
            self.config.allow_unapplied_fields || restored.is_some(),
        )?;
        let identity = match &restored {
            None => {
                for unapplied in &decision.unapplied {
                    tracing::warn!(container = id, "{unapplied}");
                }
                Some(decision.identity)
            }
            Some(_) => {
                if identity::is_requested(&config) {
                    tracing::info!(
                        container = id,
                        "the user, groups and privileges of the request are not applied: a restored container has those of its archive"
                    );
                }
                None
            }
        };
        let (source, restored) = restored.unzip();
        let record = ContainerRecord {
            id,
            pod_id: pod.id.clone(),
            config,
            resources,
            image,
            restore: source.map(ArchiveSource::into_path),
            restored: restored.unwrap_or_default(),
            identity,
            log,
            created_at: now(),
            state: ContainerState::Created,
        };
        // Errors that would otherwise occur at the start are returned here, to the caller that sent the config.
        command::launch_spec(&self.config, &record, &pod, self.shim_dir(&record.id))?;

        for line in &record.restored.unsupported_state {
            tracing::warn!(
                container = record.id,
                "state is missing in the container's archive: unsupported: {line}"
            );
        }

        // One lock covers the check of the name and the insertion, so a failed call reserves no name.
        let mut tables = self.tables();
        let pod = find_by_id(ObjectKind::PodSandbox, &tables.pods, &pod.id)?;
        if !pod.ready {
            return Err(RuntimeError::FailedPrecondition(format!(
                "pod sandbox {:?} is not ready",
                pod.id
            )));
        }
        let has_same_name = |other: &ContainerRecord| {
            other.pod_id == record.pod_id && other.name() == metadata.name && other.attempt() == metadata.attempt
        };
        if let Some(other) = tables.containers.values().find(|other| has_same_name(&other.record())) {
            return Err(RuntimeError::NameReserved {
                kind: ObjectKind::Container,
                name: format!("{}_{}_{}", metadata.name, pod.full_name(), metadata.attempt),
                id: other.id.clone(),
            });
        }
        self.store.save(&record)?;
        let id = record.id.clone();
        tables.containers.insert(id.clone(), Arc::new(Container::new(record)));
        Ok(id)
    }

    /// Stops a container: sends its stop signal, waits for the grace period, then sends SIGKILL to all its processes.
    /// Succeeds if the container does not exist or does not run.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` or `AmbiguousId` for the id; `Shim` if the shim is not reachable.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !grace.is_zero() {
            // A start in progress must finish first, so that its process is stopped too.
            drop(container.start_lock.lock().await);
            let Some(shim) = container.shim().filter(|_| container.record().state.is_running()) else {
                return Ok(());
            };
            let signal = stop_signal(&container.record());
            match shim.signal(signal).await {
                Ok(()) | Err(ShimError::Gone | ShimError::WrongState { .. }) => {}
                Err(error) => return Err(shim_error(&container.id, error)),
            }
            if tokio::time::timeout(grace, container.wait_exited()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(&container).await
    }

    /// Kills all processes of a container and waits for its exit. If the container does not exit in time, kills the
    /// shim: `on_exit` then kills the orphans.
    pub(crate) async fn kill_container(&self, container: &Container) -> Result<(), RuntimeError> {
        drop(container.start_lock.lock().await);
        let Some(shim) = container.shim().filter(|_| container.record().state.is_running()) else {
            return Ok(());
        };
        let exit_timeout = match shim.kill_all().await {
            Ok(()) | Err(ShimError::WrongState { .. }) => CONTAINER_EXIT_TIMEOUT,
            // Either the shim exited together with the container and the exit event is about to arrive, or the shim is
            // not reachable, for example because its directory was deleted.
            Err(error) => {
                tracing::warn!(container = container.id, %error, "failed to reach the container's shim");
                UNREACHABLE_SHIM_TIMEOUT
            }
        };
        if tokio::time::timeout(exit_timeout, container.wait_exited())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let shim_failure = |message: String| RuntimeError::Shim {
            id: container.id.clone(),
            message,
        };
        pidfd::signal(shim.process(), nix::libc::SIGKILL).map_err(|error| shim_failure(error.to_string()))?;
        tokio::time::timeout(CONTAINER_EXIT_TIMEOUT, container.wait_exited())
            .await
            .map_err(|_| shim_failure("the container's processes did not exit after SIGKILL".to_owned()))?;
        Ok(())
    }

    /// Removes a container and kills it if it runs. Succeeds if the container does not exist. The log stays, because it
    /// belongs to the caller.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::stop_container`]; `Store` if the directory cannot be removed.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.kill_container(&container).await?;
        if let Some(shim) = container.shim() {
            // The shim reports the exit of the container before it exits itself. No process may be left after a
            // removal.
            let shim_exit = tokio::time::timeout(CONTAINER_EXIT_TIMEOUT, shim.wait_gone()).await;
            if shim_exit.is_err() {
                tracing::warn!(container = container.id, "the container's shim did not exit");
            }
        }
        let _start_guard = container.start_lock.lock().await;
        self.discard_pending_checkpoint(&container.id)?;
        self.store.remove::<ContainerRecord>(&container.id)?;
        self.tables().containers.remove(&container.id);
        Ok(())
    }

    /// Makes the shim reopen the log of its container, after a log rotation.
    ///
    /// # Errors
    ///
    /// The errors of [`Runtime::container`]; `FailedPrecondition` if the container does not run.
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let shim = self.running_shim(&container)?;
        shim.reopen_log()
            .await
            .map_err(|error| shim_error(&container.id, error))
    }

    /// Returns the shim of a running container.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if the container does not run.
    pub(crate) fn running_shim(&self, container: &Container) -> Result<Shim, RuntimeError> {
        let state = container.record().state;
        container.shim().filter(|_| state.is_running()).ok_or_else(|| {
            RuntimeError::FailedPrecondition(format!(
                "container {:?} is in {} state, not running",
                container.id,
                state.cri_name()
            ))
        })
    }

    /// Removes the temporary archive and the record of a checkpoint that was interrupted by a kill or a cancellation.
    pub(crate) fn discard_pending_checkpoint(&self, id: &str) -> Result<(), RuntimeError> {
        let Some(pending) = self.load_pending_checkpoint(id)? else {
            return Ok(());
        };
        // A checkpoint creates a regular file under this name. Any other kind of file was created by another program
        // and stays.
        let temporary = &pending.temporary;
        if std::fs::symlink_metadata(temporary).is_ok_and(|metadata| metadata.is_file()) {
            ignore_not_found(std::fs::remove_file(temporary)).map_err(store_error("remove", temporary))?;
        }
        self.remove_pending_checkpoint(id)
    }
}

/// The stop signal of a container: from its config, else from its image, else SIGTERM.
fn stop_signal(record: &ContainerRecord) -> i32 {
    v1::Signal::try_from(record.config.stop_signal)
        .ok()
        .and_then(cri_signal_number)
        .or_else(|| record.image.stop_signal.as_deref().and_then(parse_signal))
        .unwrap_or(nix::libc::SIGTERM)
}
