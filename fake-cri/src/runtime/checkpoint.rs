//! CheckpointContainer: checks the request and sends a job to the shim, which makes the checkpoint.
//!
//! ```text
//!  check location, timeout, id, state -> lock -> write the record of the temporary file -> send the job
//!                                                                                           |
//!  remove the record  <------------------ archive renamed to its location, or removed  <----+
//! ```
//!
//! Only one checkpoint of a container runs at a time. A second one waits, at most until its own deadline. The deadline
//! is the request's `timeout` or the deadline of the call, whichever is earlier. If the caller cancels, the future is
//! dropped and the connection to the shim closes, which aborts the checkpoint. The same happens if fake-cri is killed.
//! If the shim cannot remove the temporary file, the record names it for the next checkpoint or the next start of
//! fake-cri.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Container, ContainerRecord, ContainerState, Pod, Runtime, RuntimeError,
    delay::{MEMORY_ANNOTATION, find_annotation},
    documents::documents,
    id::hex,
    store::{ignore_not_found, read_json, store_error, write_json},
};
use crate::checkpoint::{
    self, Document, ErrorKind, Failure, Job, Phase, Report,
    location::{LocationError, TEMPORARY_NAME_BYTES},
};
use crate::fault::CheckpointFaults;

/// The request of CheckpointContainer.
#[derive(Clone, Debug)]
pub struct CheckpointRequest {
    /// The full id of the container or a unique prefix.
    pub container_id: String,
    /// The path of the archive.
    pub location: String,
    /// Seconds; 0 means no limit.
    pub timeout: i64,
    /// The deadline of the call.
    pub deadline: Option<Instant>,
    /// The faults of this call, for the shim.
    pub faults: CheckpointFaults,
}

/// The record, on disk, of a checkpoint in progress.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PendingCheckpoint {
    version: u32,
    /// The temporary file, to be removed if the checkpoint is interrupted.
    pub(crate) temporary: PathBuf,
    location: PathBuf,
}

/// How long after the deadline to wait for the shim's reply before the call fails without a reply.
const SHIM_REPLY_GRACE: Duration = Duration::from_millis(500);

/// The interval of retries while the shim still cleans up after a cancelled checkpoint.
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(5);

impl Runtime {
    /// Checkpoints a running container. Dropping the future cancels the checkpoint: the container keeps running and no
    /// file is left.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty or relative location, a directory as the location, or a negative timeout;
    /// `NotFound` for an unknown container; `ParentDirMissing` if the directory of the location does not exist;
    /// `FailedPrecondition` if the container does not run; `DeadlineExceeded`; `Checkpoint` if the engine fails.
    pub async fn checkpoint(&self, request: CheckpointRequest) -> Result<Report, RuntimeError> {
        let start = Instant::now();
        let location = check_location(&request.location)?;
        let timeout = u64::try_from(request.timeout).map_err(|_| {
            RuntimeError::InvalidArgument(format!(
                "timeout {} is negative: must be seconds, or 0 for no limit",
                request.timeout
            ))
        })?;
        let own_deadline = (timeout > 0)
            .then(|| start.checked_add(Duration::from_secs(timeout)))
            .flatten();
        let deadline = own_deadline.into_iter().chain(request.deadline).min();
        let container = self.container(&request.container_id)?;
        self.running_shim(&container).map_err(checkpoint_not_running)?;
        check_parent_dir(&location)?;

        let lock = container.checkpoint_lock.lock();
        let _checkpoint_guard = match deadline {
            None => lock.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), lock).await.map_err(|_| {
                RuntimeError::DeadlineExceeded(format!(
                    "deadline exceeded while waiting for another checkpoint of container {:?} to end",
                    container.id
                ))
            })?,
        };
        let result = self
            .checkpoint_locked(&container, &location, deadline, request.faults)
            .await;
        match &result {
            Ok(report) => tracing::info!(container = container.id, ?location, ?report, "checkpointed"),
            Err(error) => tracing::info!(container = container.id, ?location, %error, "failed to checkpoint"),
        }
        result
    }

    async fn checkpoint_locked(
        &self,
        container: &Container,
        location: &Path,
        deadline: Option<Instant>,
        faults: CheckpointFaults,
    ) -> Result<Report, RuntimeError> {
        // The container may have exited while this checkpoint waited for the lock.
        let shim = self.running_shim(container).map_err(checkpoint_not_running)?;
        let record = container.record();
        let ContainerState::Running { process, .. } = record.state else {
            return Err(checkpoint_not_running(RuntimeError::FailedPrecondition(format!(
                "container {:?} has just exited",
                record.id
            ))));
        };
        // An earlier checkpoint that was cancelled may have left its temporary file.
        self.discard_pending_checkpoint(&record.id)?;
        let pod = self.pod(&record.pod_id)?;
        let temporary = format!(".{}.partial", hex(&rand::random::<[u8; 8]>()));
        debug_assert_eq!(temporary.len(), TEMPORARY_NAME_BYTES);
        let temporary = location.with_file_name(temporary);
        let job = Job {
            container_id: record.id.clone(),
            init: process,
            location: location.to_owned(),
            temporary: temporary.clone(),
            layout: self.config.archive_layout,
            documents: self.checkpoint_documents(&record)?,
            log: record.log.clone(),
            freeze: self.config.freeze,
            freeze_timeout: self.config.freeze_timeout,
            deadline: None,
            fsync: self.config.fsync,
            strict: self.config.strict_capture,
            delay: self.next_delay(&record, &pod)?,
        };
        self.save_pending_checkpoint(&record.id, location, &temporary)?;
        let result = loop {
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let job = Job {
                deadline: remaining,
                ..job.clone()
            };
            let id = &container.id;
            let call = shim.checkpoint(job, faults.clone(), |phase: Phase| {
                tracing::debug!(container = id, ?phase, "checkpoint")
            });
            let result = match remaining {
                None => call.await,
                Some(remaining) => tokio::time::timeout(remaining + SHIM_REPLY_GRACE, call)
                    .await
                    .unwrap_or_else(|_| Err(shim_unresponsive())),
            };
            match result {
                // The previous checkpoint was cancelled and the shim still cleans up. The checkpoint lock is held, so
                // no other checkpoint can begin and the shim is free soon.
                Err(Failure {
                    kind: ErrorKind::Busy, ..
                }) => tokio::time::sleep(BUSY_RETRY_INTERVAL).await,
                result => break result,
            }
        };
        // If this future is dropped before this point, the record stays, because the shim removes the file
        // asynchronously.
        match &result {
            Ok(report) => {
                let Report {
                    frozen_time: frozen,
                    total_time: total,
                    used_snapshot: copied,
                    ..
                } = report;
                tracing::debug!(container = record.id, ?frozen, ?total, copied, "checkpointed");
                self.remove_pending_checkpoint(&record.id)?;
            }
            // If the shim was killed, the temporary file still exists.
            Err(_) => self.discard_pending_checkpoint(&record.id)?,
        }
        result.map_err(|failure| match failure.kind {
            ErrorKind::DirectoryMissing => RuntimeError::ParentDirMissing(parent_of(location).to_owned()),
            _ => RuntimeError::Checkpoint {
                id: record.id.clone(),
                failure,
            },
        })
    }

    /// The members of an archive that describe a container.
    pub(crate) fn checkpoint_documents(&self, record: &ContainerRecord) -> Result<Vec<Document>, RuntimeError> {
        let pod = self.pod(&record.pod_id)?;
        documents(self.config.archive_layout, record, &pod, jiff::Timestamp::now())
            .map_err(|error| RuntimeError::Internal(format!("failed to create the archive's documents: {error}")))
    }

    fn next_delay(
        &self,
        record: &ContainerRecord,
        pod: &Pod,
    ) -> Result<Option<crate::checkpoint::Delay>, RuntimeError> {
        let Some(delays) = &self.delays else {
            return Ok(None);
        };
        let annotated_memory = find_annotation(
            MEMORY_ANNOTATION,
            &pod.config.annotations,
            &record.config.annotations,
            record.name(),
        );
        let mut delays = delays.lock().expect("no holder of this lock panics");
        delays.sample(annotated_memory).map(Some)
    }

    fn pending_checkpoint_path(&self, id: &str) -> PathBuf {
        self.store.container_dir(id).join("checkpoint.json")
    }

    fn save_pending_checkpoint(&self, id: &str, location: &Path, temporary: &Path) -> Result<(), RuntimeError> {
        let pending = PendingCheckpoint {
            version: 1,
            temporary: temporary.to_owned(),
            location: location.to_owned(),
        };
        write_json(&self.pending_checkpoint_path(id), &pending)
    }

    pub(crate) fn load_pending_checkpoint(&self, id: &str) -> Result<Option<PendingCheckpoint>, RuntimeError> {
        read_json(&self.pending_checkpoint_path(id))
    }

    pub(crate) fn remove_pending_checkpoint(&self, id: &str) -> Result<(), RuntimeError> {
        let path = self.pending_checkpoint_path(id);
        ignore_not_found(std::fs::remove_file(&path)).map_err(store_error("remove", &path))
    }
}

fn checkpoint_not_running(error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::FailedPrecondition(message) => {
            RuntimeError::FailedPrecondition(format!("{message}: only a running container can be checkpointed"))
        }
        other => other,
    }
}

fn shim_unresponsive() -> Failure {
    Failure {
        kind: ErrorKind::DeadlineExceeded,
        message: "deadline exceeded, and the shim does not reply".to_owned(),
    }
}

/// Checks the syntax of the location.
///
/// # Errors
///
/// `InvalidArgument` if the location is empty or relative, contains a NUL byte, or ends in `/` or `..`.
fn check_location(location: &str) -> Result<PathBuf, RuntimeError> {
    let invalid = |reason: &str| {
        Err(RuntimeError::InvalidArgument(format!(
            "checkpoint location {location:?} {reason}"
        )))
    };
    let path = Path::new(location);
    if location.is_empty() {
        return invalid("is empty: must be the absolute path of the archive");
    }
    if location.contains('\0') {
        return invalid("contains a NUL byte");
    }
    if !path.is_absolute() {
        return invalid("is relative: must be the absolute path of the archive");
    }
    if path.file_name().is_none() || location.ends_with('/') {
        return invalid("names a directory: must be the path of a file");
    }
    Ok(path.to_owned())
}

fn parent_of(location: &Path) -> &Path {
    location.parent().unwrap_or(Path::new("/"))
}

/// Checks that an archive can be created at the location. The engine finds a missing directory.
///
/// # Errors
///
/// `InvalidArgument` if the parent is not a directory, something other than a regular file exists at the location, or a
/// name is too long; `Store` if a path cannot be inspected.
fn check_parent_dir(location: &Path) -> Result<(), RuntimeError> {
    let dir = parent_of(location);
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENAMETOOLONG | libc::ELOOP)) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "checkpoint location {location:?}: {error}"
            )));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotADirectory => return Err(store_error("read", dir)(error)),
        Ok(_) | Err(_) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "the parent {dir:?} of the checkpoint location is not a directory"
            )));
        }
    }
    checkpoint::location::check(location).map_err(|error| match error {
        LocationError::Unreadable { path, source } if source.raw_os_error() != Some(libc::ENAMETOOLONG) => {
            store_error("inspect", &path)(source)
        }
        error => RuntimeError::InvalidArgument(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", "is empty")]
    #[case("a.tar", "is relative")]
    #[case("./a.tar", "is relative")]
    #[case("/tmp/", "names a directory")]
    #[case("/tmp/..", "names a directory")]
    #[case("/", "names a directory")]
    #[case("/tmp/a\0b", "NUL byte")]
    fn invalid_locations_are_refused(#[case] location: &str, #[case] reason: &str) {
        let error = check_location(location).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn parent_must_be_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_parent_dir(&file).is_ok());
        assert!(check_parent_dir(&dir.path().join("new")).is_ok());
        assert!(check_parent_dir(&dir.path().join("none/a.tar")).is_ok());
        assert!(matches!(
            check_parent_dir(&file.join("a.tar")),
            Err(RuntimeError::InvalidArgument(_))
        ));
        assert!(matches!(
            check_parent_dir(dir.path()),
            Err(RuntimeError::InvalidArgument(_))
        ));
    }
}
