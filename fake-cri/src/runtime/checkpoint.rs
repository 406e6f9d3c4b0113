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
    Container, Error, Pod, Record, Runtime, State,
    delay::{MEMORY_ANNOTATION, annotated},
    documents::documents,
    id::hex,
    quirks::{for_shim, wants_late_errors},
    store::{absent_is_fine, failed, read_json, write_json},
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
pub(crate) struct Pending {
    version: u32,
    /// The file that is removed when nobody else does.
    pub(crate) temporary: PathBuf,
    location: PathBuf,
}

/// How long after its deadline a shim may still answer before its caller is told without it.
const SHIM_GRACE: Duration = Duration::from_millis(500);

/// How long to wait before a shim is asked again that is still clearing up after a cancelled checkpoint.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

impl Runtime {
    /// Checkpoints a running container as it should be. Dropping the future cancels: the container runs on and no file is left.
    pub(super) async fn checkpoint_soundly(&self, request: CheckpointRequest) -> Result<Report, Error> {
        let begun = Instant::now();
        let location = check_location(&request.location)?;
        let timeout = u64::try_from(request.timeout).map_err(|_| {
            Error::Invalid(format!(
                "timeout {} is negative: seconds, or 0 for no limit",
                request.timeout
            ))
        })?;
        let mut injections = request.injections;
        let own = (timeout > 0)
            .then(|| begun.checked_add(Duration::from_secs(timeout)))
            .flatten();
        let deadline = own.into_iter().chain(request.deadline).min();
        injections = for_shim(injections, own.is_some() && deadline == own);
        let container = self.container(&request.container_id)?;
        self.running_shim(&container).map_err(not_running)?;
        // A fault about what is left after an error needs one that comes late.
        match check_folder(&location) {
            Err(Error::FolderMissing(_)) if wants_late_errors(&injections) => {}
            checked => checked?,
        }

        let turn = container.checkpoint.lock();
        let _turn = match deadline {
            None => turn.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), turn).await.map_err(|_| {
                Error::Deadline(format!(
                    "deadline exceeded while waiting for another checkpoint of container {:?} to end",
                    container.id
                ))
            })?,
        };
        let result = self
            .checkpoint_in_turn(&container, &location, deadline, injections)
            .await;
        match &result {
            Ok(report) => tracing::info!(container = container.id, ?location, ?report, "checkpointed"),
            Err(error) => tracing::info!(container = container.id, ?location, %error, "failed to checkpoint"),
        }
        result
    }

    async fn checkpoint_in_turn(
        &self,
        container: &Container,
        location: &Path,
        deadline: Option<Instant>,
        injections: Vec<Injection>,
    ) -> Result<Report, Error> {
        // It may have ended while this checkpoint waited for its turn.
        let shim = self.running_shim(container).map_err(not_running)?;
        let record = container.record();
        let State::Running { process, .. } = record.state else {
            return Err(not_running(Error::Precondition(format!(
                "container {:?} has just ended",
                record.id
            ))));
        };
        // What a cancelled checkpoint before this one did not come to remove.
        self.remove_checkpoint_leftovers(&record.id)?;
        let pod = self.pod(&record.pod_id)?;
        let about = self.documented(&record, &injections);
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
                &about,
                &self.pod(&about.pod_id)?,
                jiff::Timestamp::now(),
            )
            .map_err(|error| Error::Internal(format!("failed to write the archive's documents: {error}")))?,
            log: record.log.clone(),
            freeze: self.config.freeze,
            freeze_bound: self.config.freeze_bound,
            deadline: None,
            fsync: self.config.fsync,
            strict: self.config.strict_capture,
            delay: self.next_delay(&record, &pod)?,
            injections,
        };
        self.put_on_record(&record.id, location, &temporary)?;
        let result = loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let job = Job {
                deadline: left,
                ..job.clone()
            };
            let id = &container.id;
            let work = shim.checkpoint(job, |phase: Phase| {
                tracing::debug!(container = id, ?phase, "checkpoint")
            });
            let result = match left {
                None => work.await,
                Some(left) => tokio::time::timeout(left + SHIM_GRACE, work)
                    .await
                    .unwrap_or_else(|_| Err(no_answer())),
            };
            match result {
                // The one before was cancelled and its shim is still clearing up: turns are taken here, so it ends soon.
                Err(Failure {
                    kind: ErrorKind::Busy, ..
                }) => tokio::time::sleep(BUSY_PAUSE).await,
                result => break result,
            }
        };
        // On record it stays when this future is dropped instead: the shim then removes the file in its own time.
        match &result {
            Ok(report) => {
                let Report {
                    frozen, total, copied, ..
                } = report;
                tracing::debug!(container = record.id, ?frozen, ?total, copied, "checkpointed");
                self.forget_checkpoint(&record.id)?;
            }
            // A shim that was killed could not remove it.
            Err(_) => self.remove_checkpoint_leftovers(&record.id)?,
        }
        result.map_err(|failure| Error::Checkpoint {
            id: record.id.clone(),
            failure,
        })
    }

    fn next_delay(&self, record: &Record, pod: &Pod) -> Result<Option<crate::checkpoint::Delay>, Error> {
        let Some(delays) = &self.delays else {
            return Ok(None);
        };
        let annotated = annotated(
            MEMORY_ANNOTATION,
            &pod.config.annotations,
            &record.config.annotations,
            record.name(),
        );
        let mut delays = delays.lock().expect("no holder of this lock panics");
        delays.next(annotated).map(Some)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.store.container(id).join("checkpoint.json")
    }

    fn put_on_record(&self, id: &str, location: &Path, temporary: &Path) -> Result<(), Error> {
        let pending = Pending {
            version: 1,
            temporary: temporary.to_owned(),
            location: location.to_owned(),
        };
        write_json(&self.record_path(id), &pending)
    }

    /// The checkpoint of this container that was begun and of which no end is known.
    pub(crate) fn pending_checkpoint(&self, id: &str) -> Result<Option<Pending>, Error> {
        read_json(&self.record_path(id))
    }

    /// Takes a checkpoint off the record.
    pub(crate) fn forget_checkpoint(&self, id: &str) -> Result<(), Error> {
        let path = self.record_path(id);
        absent_is_fine(std::fs::remove_file(&path)).map_err(failed("remove", &path))
    }
}

fn not_running(error: Error) -> Error {
    match error {
        Error::Precondition(message) => {
            Error::Precondition(format!("{message}: only a running container can be checkpointed"))
        }
        other => other,
    }
}

fn no_answer() -> Failure {
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
fn check_location(location: &str) -> Result<PathBuf, Error> {
    let invalid = |reason: &str| Err(Error::Invalid(format!("checkpoint location {location:?} {reason}")));
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
fn check_folder(location: &Path) -> Result<(), Error> {
    let folder = location.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::FolderMissing(folder.to_owned()));
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENAMETOOLONG | libc::ELOOP)) => {
            return Err(Error::Invalid(format!("checkpoint location {location:?}: {error}")));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotADirectory => return Err(failed("read", folder)(error)),
        Ok(_) | Err(_) => {
            return Err(Error::Invalid(format!(
                "the folder {folder:?} of the checkpoint location is no folder"
            )));
        }
    }
    checkpoint::location::check(location).map_err(|error| match error {
        LocationError::Unreadable { path, source } if source.raw_os_error() != Some(libc::ENAMETOOLONG) => {
            failed("look at", &path)(source)
        }
        refused => Error::Invalid(refused.to_string()),
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
    fn locations_that_are_none(#[case] location: &str, #[case] reason: &str) {
        let error = check_location(location).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn the_folder_must_be_there_and_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_folder(&file).is_ok());
        assert!(check_folder(&folder.path().join("new")).is_ok());
        assert!(matches!(
            check_folder(&folder.path().join("none/a.tar")),
            Err(Error::FolderMissing(_))
        ));
        assert!(matches!(check_folder(&file.join("a.tar")), Err(Error::Invalid(_))));
        assert!(matches!(check_folder(folder.path()), Err(Error::Invalid(_))));
    }
}
