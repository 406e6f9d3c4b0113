//! CheckpointContainer: what is asked is checked here, what is done is done in the shim.
//!
//! ```text
//!  check location, timeout, id, state -> wait for the turn -> put the temporary on record -> send the job
//!                                                                                              |
//!  forget the record  <-- the archive is there, or nothing is  <-------------------------------+
//! ```
//!
//! Checkpoints of one container take turns: a second one waits until the first has ended, within its own deadline. The
//! deadline is the request's `timeout` or the call's own, whichever is first. A caller that goes away cancels: the
//! future is dropped, which the shim sees. If fake-cri dies, the shim sees that too, and what it could not remove
//! stands on record for the next start.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Container, ContainerRecord, ContainerState, Pod, Runtime, RuntimeError,
    call_defects::{defers_location_errors, injections_for_shim},
    delay::{MEMORY_ANNOTATION, find_annotation},
    documents::documents,
    id::hex,
    store::{ignore_not_found, read_json, store_error, write_json},
};
use crate::checkpoint::{
    self, ErrorKind, Failure, Injection, Job, Phase, Report,
    location::{LocationError, TEMPORARY_NAME_BYTES},
};

/// What CheckpointContainer asks.
#[derive(Clone, Debug)]
pub struct CheckpointRequest {
    /// The container, by its full id or a unique prefix.
    pub container_id: String,
    /// Where the archive is to appear.
    pub location: String,
    /// Seconds; 0 is no limit.
    pub timeout: i64,
    /// When the caller itself gives up.
    pub deadline: Option<Instant>,
    /// What goes wrong in its phases.
    pub injections: Vec<Injection>,
}

/// The record of a checkpoint that is being written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PendingCheckpoint {
    version: u32,
    /// The file that is removed when nobody else does.
    pub(crate) temporary: PathBuf,
    location: PathBuf,
}

/// How long after its deadline a shim may still answer before its caller is told without it.
const SHIM_REPLY_GRACE: Duration = Duration::from_millis(500);

/// How long to wait before a shim is asked again that is still clearing up after a cancelled checkpoint.
const BUSY_RETRY_INTERVAL: Duration = Duration::from_millis(5);

impl Runtime {
    /// Checkpoints a running container as it should be. Dropping the future cancels: the container runs on and no file is left.
    pub(super) async fn checkpoint_container(&self, request: CheckpointRequest) -> Result<Report, RuntimeError> {
        let start = Instant::now();
        let location = check_location(&request.location)?;
        let timeout = u64::try_from(request.timeout).map_err(|_| {
            RuntimeError::InvalidArgument(format!(
                "timeout {} is negative: seconds, or 0 for no limit",
                request.timeout
            ))
        })?;
        let mut injections = request.injections;
        let own_deadline = (timeout > 0)
            .then(|| start.checked_add(Duration::from_secs(timeout)))
            .flatten();
        let deadline = own_deadline.into_iter().chain(request.deadline).min();
        injections = injections_for_shim(injections, own_deadline.is_some() && deadline == own_deadline);
        let container = self.container(&request.container_id)?;
        self.running_shim(&container).map_err(checkpoint_not_running)?;
        // A fault about what is left after an error needs one that comes late.
        match check_parent_dir(&location) {
            Err(RuntimeError::ParentDirMissing(_)) if defers_location_errors(&injections) => {}
            result => result?,
        }

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
            .checkpoint_locked(&container, &location, deadline, injections)
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
        injections: Vec<Injection>,
    ) -> Result<Report, RuntimeError> {
        // It may have ended while this checkpoint waited for its turn.
        let shim = self.running_shim(container).map_err(checkpoint_not_running)?;
        let record = container.record();
        let ContainerState::Running { process, .. } = record.state else {
            return Err(checkpoint_not_running(RuntimeError::FailedPrecondition(format!(
                "container {:?} has just ended",
                record.id
            ))));
        };
        // What a cancelled checkpoint before this one did not come to remove.
        self.discard_pending_checkpoint(&record.id)?;
        let pod = self.pod(&record.pod_id)?;
        let documents_record = self.documents_source(&record, &injections);
        let temporary = format!(".{}.partial", hex(&rand::random::<[u8; 8]>()));
        debug_assert_eq!(temporary.len(), TEMPORARY_NAME_BYTES);
        let temporary = location.with_file_name(temporary);
        let job = Job {
            container_id: record.id.clone(),
            init: process,
            location: location.to_owned(),
            temporary: temporary.clone(),
            layout: self.config.archive_layout,
            documents: documents(
                self.config.archive_layout,
                &documents_record,
                &self.pod(&documents_record.pod_id)?,
                jiff::Timestamp::now(),
            )
            .map_err(|error| RuntimeError::Internal(format!("failed to write the archive's documents: {error}")))?,
            log: record.log.clone(),
            freeze: self.config.freeze,
            freeze_timeout: self.config.freeze_timeout,
            deadline: None,
            fsync: self.config.fsync,
            strict: self.config.strict_capture,
            delay: self.next_delay(&record, &pod)?,
            injections,
        };
        self.save_pending_checkpoint(&record.id, location, &temporary)?;
        let result = loop {
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let job = Job {
                deadline: remaining,
                ..job.clone()
            };
            let id = &container.id;
            let call = shim.checkpoint(job, |phase: Phase| {
                tracing::debug!(container = id, ?phase, "checkpoint")
            });
            let result = match remaining {
                None => call.await,
                Some(remaining) => tokio::time::timeout(remaining + SHIM_REPLY_GRACE, call)
                    .await
                    .unwrap_or_else(|_| Err(shim_unresponsive())),
            };
            match result {
                // The one before was cancelled and its shim is still clearing up: turns are taken here, so it ends soon.
                Err(Failure {
                    kind: ErrorKind::Busy, ..
                }) => tokio::time::sleep(BUSY_RETRY_INTERVAL).await,
                result => break result,
            }
        };
        // On record it stays when this future is dropped instead: the shim then removes the file in its own time.
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
            // A shim that was killed could not remove it.
            Err(_) => self.discard_pending_checkpoint(&record.id)?,
        }
        result.map_err(|failure| RuntimeError::Checkpoint {
            id: record.id.clone(),
            failure,
        })
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

    /// The checkpoint of this container that was start and of which no end is known.
    pub(crate) fn load_pending_checkpoint(&self, id: &str) -> Result<Option<PendingCheckpoint>, RuntimeError> {
        read_json(&self.pending_checkpoint_path(id))
    }

    /// Takes a checkpoint off the record.
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
        message: "deadline exceeded, and the shim gives no answer".to_owned(),
    }
}

/// The location as a path.
///
/// # Errors
///
/// `Invalid` when it is empty, relative or names no file.
fn check_location(location: &str) -> Result<PathBuf, RuntimeError> {
    let invalid = |reason: &str| {
        Err(RuntimeError::InvalidArgument(format!(
            "checkpoint location {location:?} {reason}"
        )))
    };
    let path = Path::new(location);
    if location.is_empty() {
        return invalid("is empty: the absolute path of the archive is needed");
    }
    if location.contains('\0') {
        return invalid("holds a zero byte");
    }
    if !path.is_absolute() {
        return invalid("is relative: the absolute path of the archive is needed");
    }
    if path.file_name().is_none() || location.ends_with('/') {
        return invalid("names a folder: the archive is one file");
    }
    Ok(path.to_owned())
}

/// Whether the archive can appear there.
///
/// # Errors
///
/// `NotFound` when the folder is missing; `Invalid` when it lies below a file, or the location is anything but a regular file or
/// nothing, or a name is too long.
fn check_parent_dir(location: &Path) -> Result<(), RuntimeError> {
    let dir = location.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(RuntimeError::ParentDirMissing(dir.to_owned()));
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENAMETOOLONG | libc::ELOOP)) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "checkpoint location {location:?}: {error}"
            )));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotADirectory => return Err(store_error("read", dir)(error)),
        Ok(_) | Err(_) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "the folder {dir:?} of the checkpoint location is no folder"
            )));
        }
    }
    checkpoint::location::check(location).map_err(|error| match error {
        LocationError::Unreadable { path, source } if source.raw_os_error() != Some(libc::ENAMETOOLONG) => {
            store_error("look at", &path)(source)
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
    #[case("/tmp/", "names a folder")]
    #[case("/tmp/..", "names a folder")]
    #[case("/", "names a folder")]
    #[case("/tmp/a\0b", "zero byte")]
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
        assert!(matches!(
            check_parent_dir(&dir.path().join("none/a.tar")),
            Err(RuntimeError::ParentDirMissing(_))
        ));
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
