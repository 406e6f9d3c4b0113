//! Defects of whole CheckpointContainer calls: the behaviour of incorrect runtimes, on request of fault rules.
//!
//! ```text
//!  checkpoint --- no defect ---> checkpoint_container
//!      |
//!      +-- 1. change the request (id, location, timeout), or reply at once
//!      +-- 2. checkpoint_container with the changed request, detached if a deadline or a cancellation is ignored
//!      +-- 3. depending on the outcome: change the archive, the container or the reported state of the container
//! ```
//!
//! Ways to fail: the errors of the call itself, and the errors that a defect returns.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{CheckpointRequest, Container, ContainerState, ObjectKind, Runtime, RuntimeError};
use crate::checkpoint::{self, CallOutcome, Defect, ErrorKind, InjectedEffect, Injection, Phase, Report, SideEffect};

/// How long after an early response the archive appears at its location.
const LATE_ARCHIVE_DELAY: Duration = Duration::from_millis(150);

struct CallDefects(Vec<Defect>);

impl CallDefects {
    fn from_injections(injections: &[Injection]) -> CallDefects {
        let defect = |injection: &Injection| match injection.effect {
            InjectedEffect::Defect(defect) => Some(defect),
            _ => None,
        };
        CallDefects(injections.iter().filter_map(defect).collect())
    }

    fn has(&self, defect: Defect) -> bool {
        self.0.contains(&defect)
    }
}

/// The file at the location before the call; empty if there was no regular file.
#[derive(Default)]
struct PreviousFile {
    mode: Option<u32>,
    content: Option<Vec<u8>>,
}

/// Sets the flags of the container if the call's future is dropped before the call has finished: the caller cancelled,
/// or its deadline passed.
struct CancelGuard<'a> {
    container: Option<&'a Container>,
    defects: &'a CallDefects,
    deadline: Option<Instant>,
    start: Instant,
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        let Some(container) = self.container.take() else { return };
        let timed_out = timed_out_at(self.start, self.deadline).is_some_and(|from| Instant::now() >= from);
        let outcome = if timed_out {
            CallOutcome::Deadline
        } else {
            CallOutcome::Cancel
        };
        container.injected.set_flags(self.defects, outcome);
    }
}

impl super::container::InjectedState {
    fn set_flags(&self, defects: &CallDefects, outcome: CallOutcome) {
        for (side_effect, flag) in [
            (SideEffect::RefuseNext, &self.refuse_next_checkpoint),
            (SideEffect::ReportExited, &self.report_exited),
            (SideEffect::BreakExec, &self.refuse_exec),
        ] {
            if defects.has(Defect::After(outcome, side_effect)) {
                flag.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// A checkpoint in a task of its own, which ignores the caller's deadline or cancellation.
struct DetachedTask {
    task: tokio::task::JoinHandle<Result<Report, RuntimeError>>,
    /// Dropping the handle before this time aborts the task, later it does not. `None`: dropping never aborts the task.
    cancellable_until: Option<Instant>,
}

impl Drop for DetachedTask {
    fn drop(&mut self) {
        if self.cancellable_until.is_some_and(|until| Instant::now() < until) {
            self.task.abort();
        }
    }
}

impl Runtime {
    /// Checkpoints a running container with the defects of the request. Dropping the future cancels the checkpoint,
    /// unless a defect ignores the cancellation.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty or relative location, a directory as the location, or a negative timeout;
    /// `NotFound` for an unknown container; `ParentDirMissing` if the directory of the location does not exist;
    /// `FailedPrecondition` if the container does not run; `DeadlineExceeded`; `Checkpoint` if the engine fails. A
    /// defect may return any other result.
    pub async fn checkpoint(self: &Arc<Self>, mut request: CheckpointRequest) -> Result<Report, RuntimeError> {
        let defects = CallDefects::from_injections(&request.injections);
        if defects.0.is_empty() {
            return self.checkpoint_container(request).await;
        }
        if let Some(reply) = self.immediate_reply(&request, &defects) {
            return reply;
        }
        apply_timeout_defects(&mut request, &defects)?;
        let previous = apply_location_defects(&mut request, &defects);
        if defects.has(Defect::OtherContainer)
            && let Some(other) = self.other_running_container(&request.container_id)
        {
            request.container_id = other.id.clone();
        }
        let container = self.container(&request.container_id)?;
        if container.injected.refuse_next_checkpoint.swap(false, Ordering::SeqCst) {
            return Err(RuntimeError::Internal(format!(
                "open {:?}: no such file or directory",
                self.store.container_dir(&container.id).join("ctrd-checkpoint/status")
            )));
        }
        let _serial_guard = self.lock_serial_checkpoints(&container, &defects).await?;
        if defects.has(Defect::KillExecs) {
            container.injected.kill_execs.notify_waiters();
        }
        if defects.has(Defect::TruncateConcurrent) && container.checkpoint_lock.try_lock().is_err() {
            add_injection(
                &mut request,
                Phase::Write,
                InjectedEffect::TruncatedArchive { percent: 50 },
            );
        }
        let first_archive = self.store.container_dir(&container.id).join("earlier.tar");
        if defects.has(Defect::EarlierImages) && first_archive.exists() {
            add_injection(
                &mut request,
                Phase::Freeze,
                InjectedEffect::CopyImages(first_archive.clone()),
            );
        }

        let location = PathBuf::from(&request.location);
        let reply_early = defects.has(Defect::RespondEarly) && !location.is_dir();
        if reply_early {
            request.location = sibling_path(&location, ".early").to_string_lossy().into_owned();
        }
        let deadline = request.deadline;
        let own_timeout_first = own_timeout_is_first(&request);
        let mut cancel_guard = CancelGuard {
            container: Some(&container),
            defects: &defects,
            deadline,
            start: Instant::now(),
        };
        let result = self.checkpoint_maybe_detached(request, &defects).await;
        cancel_guard.container = None;

        let outcome = match &result {
            Ok(_) => CallOutcome::Success,
            Err(error) if is_deadline_exceeded(error) && own_timeout_first => CallOutcome::Timeout,
            Err(error) if is_deadline_exceeded(error) => CallOutcome::Deadline,
            Err(_) => CallOutcome::Error,
        };
        self.apply_side_effects(&container, &defects, outcome).await;
        if result.is_ok() {
            if reply_early {
                rename_later(location);
            } else {
                apply_archive_defects(&location, &previous, &defects, &first_archive);
            }
        }
        result
    }

    async fn checkpoint_maybe_detached(
        self: &Arc<Self>,
        mut request: CheckpointRequest,
        defects: &CallDefects,
    ) -> Result<Report, RuntimeError> {
        let (ignore_deadline, ignore_cancel) = (defects.has(Defect::IgnoreDeadline), defects.has(Defect::IgnoreCancel));
        if !ignore_deadline && !ignore_cancel {
            return self.checkpoint_container(request).await;
        }
        let cancellable_until = match (ignore_cancel, request.deadline) {
            (false, Some(deadline)) => timed_out_at(Instant::now(), Some(deadline)),
            (false, None) => Instant::now().checked_add(Duration::from_secs(1 << 20)),
            (true, _) => None,
        };
        if ignore_deadline {
            request.deadline = None;
        }
        let runtime = Arc::clone(self);
        let mut detached = DetachedTask {
            task: tokio::spawn(async move { runtime.checkpoint_container(request).await }),
            cancellable_until,
        };
        (&mut detached.task)
            .await
            .unwrap_or_else(|error| Err(RuntimeError::Internal(format!("checkpoint task failed: {error}"))))
    }

    /// The response of a runtime that does not start a checkpoint; `None` if no defect applies.
    fn immediate_reply(
        &self,
        request: &CheckpointRequest,
        defects: &CallDefects,
    ) -> Option<Result<Report, RuntimeError>> {
        let id = &request.container_id;
        let empty_success = || Some(Ok(empty_report()));
        let location = Path::new(&request.location);
        if id.is_empty() && defects.has(Defect::AcceptEmptyId) {
            return empty_success();
        }
        match self.container(id) {
            Err(RuntimeError::NotFound { .. }) if defects.has(Defect::AcceptUnknownContainer) => {
                return empty_success();
            }
            Err(RuntimeError::NotFound { .. }) if defects.has(Defect::UnknownContainerIsInternal) => {
                return Some(Err(RuntimeError::Internal(format!("could not find container {id:?}"))));
            }
            Ok(container) => match container.record().state {
                ContainerState::Exited { .. } if defects.has(Defect::AcceptExitedContainer) => return empty_success(),
                ContainerState::Created if defects.has(Defect::AcceptCreatedContainer) => return empty_success(),
                _ if container.record().restore.is_some() && defects.has(Defect::RejectRestoredContainer) => {
                    let message = format!(
                        "failed to checkpoint container {}: its images already exist",
                        container.id
                    );
                    return Some(Err(RuntimeError::Internal(message)));
                }
                _ if *id != container.id && defects.has(Defect::RejectIdPrefix) => {
                    return Some(Err(RuntimeError::not_found(ObjectKind::Container, id)));
                }
                _ => {}
            },
            Err(_) => {}
        }
        let parent_metadata = || location.parent().map(fs::metadata);
        if request.location.is_empty() {
            return if defects.has(Defect::AcceptEmptyLocation) {
                empty_success()
            } else {
                None
            };
        }
        let parent_error = parent_metadata()?.err().map(|error| error.kind());
        match parent_error {
            Some(std::io::ErrorKind::NotFound) if defects.has(Defect::AcceptMissingDirectory) => empty_success(),
            Some(std::io::ErrorKind::NotADirectory) if defects.has(Defect::AcceptUnwritableLocation) => empty_success(),
            None if defects.has(Defect::AcceptUnwritableLocation) && location.parent().is_some_and(Path::is_file) => {
                empty_success()
            }
            _ => None,
        }
    }

    fn other_running_container(&self, id: &str) -> Option<Arc<Container>> {
        let full_id = self.container(id).ok()?.id.clone();
        let others = self.list_containers(None).into_iter();
        let other = others
            .filter(|record| record.state.is_running())
            .find(|record| record.id != full_id)?;
        self.container(&other.id).ok()
    }

    /// The record that the documents of the archive are written from. The defect `OtherDocuments` selects another
    /// container.
    pub(super) fn documents_source(
        &self,
        record: &super::ContainerRecord,
        injections: &[Injection],
    ) -> super::ContainerRecord {
        let swap_documents = CallDefects::from_injections(injections).has(Defect::OtherMetadata);
        let other = swap_documents
            .then(|| self.other_running_container(&record.id))
            .flatten();
        other.map_or_else(|| record.clone(), |other| other.record())
    }

    /// Takes the runtime-wide checkpoint lock for the defects that serialize or refuse checkpoints of several
    /// containers.
    async fn lock_serial_checkpoints(
        &self,
        container: &Container,
        defects: &CallDefects,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, RuntimeError> {
        if defects.has(Defect::OneAtATime) {
            return Ok(Some(self.serial_checkpoint_lock.lock().await));
        }
        if !defects.has(Defect::RefuseConcurrent) {
            return Ok(None);
        }
        // Checkpoints of the same container wait for each other, as without the defect.
        match self.serial_checkpoint_lock.try_lock() {
            Ok(guard) => Ok(Some(guard)),
            Err(_) if container.checkpoint_lock.try_lock().is_err() => Ok(None),
            Err(_) => Err(RuntimeError::FailedPrecondition(
                "another checkpoint is in progress".to_owned(),
            )),
        }
    }

    /// Applies the side effects of this outcome that the runtime implements. The shim implements the others.
    async fn apply_side_effects(&self, container: &Container, defects: &CallDefects, outcome: CallOutcome) {
        container.injected.set_flags(defects, outcome);
        let has_side_effect = |side_effect| defects.has(Defect::After(outcome, side_effect));
        let record = container.record();
        if has_side_effect(SideEffect::BreakLog)
            && let Some(log) = &record.log
        {
            // The shim keeps writing to its open file, so a reader of the path sees no new lines.
            let moved_log = sibling_path(log, ".moved");
            if fs::rename(log, &moved_log)
                .and_then(|()| fs::copy(&moved_log, log))
                .is_err()
            {
                tracing::warn!(?log, "failed to break the log for a fault");
            }
        }
        if has_side_effect(SideEffect::FreezeSiblings) {
            for sibling in self.containers_of(&record.pod_id) {
                if sibling.id != container.id
                    && let Ok(shim) = self.running_shim(&sibling)
                    && let Err(error) = shim.signal(libc::SIGSTOP).await
                {
                    tracing::warn!(container = sibling.id, %error, "failed to stop the container for a fault");
                }
            }
        }
    }
}

/// The time from which a cancellation counts as a timeout of the caller. The caller's deadline began before the call
/// arrived here, so the caller may cancel before `deadline`. A caller that waited for at least half of the time is
/// assumed to have reached its deadline.
fn timed_out_at(start: Instant, deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| start + deadline.saturating_duration_since(start) / 2)
}

/// Changes the request's timeout, or fails the call at once.
fn apply_timeout_defects(request: &mut CheckpointRequest, defects: &CallDefects) -> Result<(), RuntimeError> {
    let deadline_exceeded = || Err(RuntimeError::DeadlineExceeded("context deadline exceeded".to_owned()));
    if request.timeout == 0 && defects.has(Defect::ZeroTimeoutExpiresAtOnce) {
        return deadline_exceeded();
    }
    if request.timeout > i64::MAX / 1_000_000_000 && defects.has(Defect::TimeoutOverflows) {
        return deadline_exceeded();
    }
    if defects.has(Defect::TimeoutInMilliseconds) {
        let timeout = Duration::from_millis(request.timeout.unsigned_abs());
        if request.timeout > 0
            && let Some(timeout_at) = Instant::now().checked_add(timeout)
        {
            request.deadline = Some(request.deadline.map_or(timeout_at, |deadline| deadline.min(timeout_at)));
        }
        request.timeout = 0;
    }
    if defects.has(Defect::IgnoreTimeout) {
        request.timeout = 0;
    }
    Ok(())
}

/// Changes the request's location. Returns the state of the file that exists there.
fn apply_location_defects(request: &mut CheckpointRequest, defects: &CallDefects) -> PreviousFile {
    let mut location = PathBuf::from(&request.location);
    if location.is_relative() && !request.location.is_empty() && defects.has(Defect::ResolveRelativeLocation) {
        location = std::env::current_dir().unwrap_or_default().join(location);
    }
    if defects.has(Defect::CreateDirectory)
        && let Some(dir) = location.parent().filter(|dir| !dir.exists())
        && fs::create_dir_all(dir).is_ok()
    {
        add_injection(
            request,
            Phase::Write,
            InjectedEffect::Error {
                code: 2, // UNKNOWN
                message: format!("open {}: no such file or directory", location.display()),
            },
        );
    }
    if defects.has(Defect::AcceptDirectoryLocation) && location.is_dir() {
        location = location.join("checkpoint.tar");
    }
    if defects.has(Defect::FollowSymlink)
        && let Ok(target) = fs::read_link(&location)
    {
        location = sibling_path(&location, "").with_file_name(target);
    }
    let metadata = fs::symlink_metadata(&location).ok().filter(fs::Metadata::is_file);
    request.location = location.to_string_lossy().into_owned();
    PreviousFile {
        mode: metadata.as_ref().map(|metadata| metadata.permissions().mode()),
        content: metadata.and_then(|_| fs::read(&location).ok()),
    }
}

fn apply_archive_defects(location: &Path, previous: &PreviousFile, defects: &CallDefects, first_archive: &Path) {
    let apply = || -> std::io::Result<()> {
        if let (true, Some(content)) = (defects.has(Defect::NoTruncate), &previous.content) {
            let length = usize::try_from(fs::metadata(location)?.len()).unwrap_or(usize::MAX);
            if let Some(tail) = content.get(length..) {
                std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(location)?, tail)?;
            }
        }
        if let (true, Some(mode)) = (defects.has(Defect::KeepMode), previous.mode) {
            fs::set_permissions(location, fs::Permissions::from_mode(mode))?;
        }
        if defects.has(Defect::EarlierArchive) || defects.has(Defect::EarlierImages) {
            if !first_archive.exists() {
                fs::copy(location, first_archive)?;
            } else if defects.has(Defect::EarlierArchive) {
                fs::copy(first_archive, location)?;
            }
        }
        Ok(())
    };
    if let Err(error) = apply() {
        tracing::warn!(?location, %error, "failed to change the archive for a fault");
    }
}

/// Renames the archive `LOCATION.early` to its location after a delay.
fn rename_later(location: PathBuf) {
    tokio::spawn(async move {
        tokio::time::sleep(LATE_ARCHIVE_DELAY).await;
        if let Err(error) = checkpoint::location::rename_into_place(&sibling_path(&location, ".early"), &location) {
            tracing::warn!(?location, %error, "failed to rename the archive to its location for a fault");
        }
    });
}

fn sibling_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn add_injection(request: &mut CheckpointRequest, phase: Phase, effect: InjectedEffect) {
    request.injections.push(Injection { phase, effect });
}

fn own_timeout_is_first(request: &CheckpointRequest) -> bool {
    let own_timeout = u64::try_from(request.timeout).ok().filter(|timeout| *timeout > 0);
    let own_timeout_at = own_timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout)));
    own_timeout_at.is_some_and(|own| request.deadline.is_none_or(|deadline| own < deadline))
}

/// Translates the defects for the shim, which knows a single deadline: of the defects for `Deadline` and `Timeout`,
/// those of the effective deadline become `Deadline`, and the others are dropped.
pub(super) fn injections_for_shim(injections: Vec<Injection>, own_deadline: bool) -> Vec<Injection> {
    let deadline_outcome = if own_deadline {
        CallOutcome::Timeout
    } else {
        CallOutcome::Deadline
    };
    let translate = |injection: Injection| match injection.effect {
        InjectedEffect::Defect(Defect::After(
            outcome @ (CallOutcome::Deadline | CallOutcome::Timeout),
            side_effect,
        )) => (outcome == deadline_outcome).then_some(Injection {
            effect: InjectedEffect::Defect(Defect::After(CallOutcome::Deadline, side_effect)),
            ..injection
        }),
        _ => Some(injection),
    };
    injections.into_iter().filter_map(translate).collect()
}

/// Whether a defect acts on the container after a failed checkpoint. The engine must then detect a missing directory,
/// as in real runtimes: an early check would return before the container is touched.
pub(super) fn defers_location_errors(injections: &[Injection]) -> bool {
    let deferring = [SideEffect::LeaveFrozen, SideEffect::KillContainer];
    let defects = CallDefects::from_injections(injections);
    deferring
        .into_iter()
        .any(|side_effect| defects.has(Defect::After(CallOutcome::Error, side_effect)))
}

fn is_deadline_exceeded(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::DeadlineExceeded(_) => true,
        RuntimeError::Checkpoint { failure, .. } => failure.kind == ErrorKind::DeadlineExceeded,
        _ => false,
    }
}

fn empty_report() -> Report {
    Report {
        processes: 0,
        threads: 0,
        archive_bytes: 0,
        pages: 0,
        frozen_time: Duration::ZERO,
        used_snapshot: false,
        total_time: Duration::ZERO,
    }
}
