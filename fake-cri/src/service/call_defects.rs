//! Defects of whole CheckpointContainer calls: the behaviour of incorrect runtimes, on request of fault rules.
//!
//! ```text
//!  checkpoint --- no defect ---> Runtime::checkpoint
//!      |
//!      +-- 1. change the request (id, location, timeout), or reply at once
//!      +-- 2. Runtime::checkpoint with the changed request, detached if a deadline or a cancellation is ignored
//!      +-- 3. depending on the outcome: change the archive, the container or the later responses about the container
//! ```
//!
//! A decorator: the runtime does not know the defects. Ways to fail: the errors of the call itself, and the errors that
//! a defect returns.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cri_proto::runtime::v1;
use tonic::Code;

use crate::{
    checkpoint::{ErrorKind, Phase, Report, location::rename_into_place},
    fault::{
        CallOutcome, CheckpointFaults, Defect, Effect, ErrorStatus, Injection, SideEffect,
        archive::{self, Edit},
    },
    runtime::{CheckpointRequest, Container, ContainerRecord, ContainerState, ObjectKind, Runtime, RuntimeError},
    shim::ExecOutput,
};

/// How long after an early response the archive appears at its location.
const LATE_ARCHIVE_DELAY: Duration = Duration::from_millis(150);

/// A runtime whose checkpoint calls may have defects.
#[derive(Debug)]
pub(super) struct CallDefects {
    runtime: Arc<Runtime>,
    /// Held during a checkpoint by defects that allow only one checkpoint at a time in the whole runtime.
    serial_lock: tokio::sync::Mutex<()>,
    containers: Mutex<HashMap<String, Arc<ContainerDefects>>>,
}

/// Defects of a container that remain after the checkpoint that they were injected into.
#[derive(Debug, Default)]
struct ContainerDefects {
    refuse_next_checkpoint: AtomicBool,
    /// ContainerStatus reports CONTAINER_EXITED.
    report_exited: AtomicBool,
    refuse_exec: AtomicBool,
    /// Notified to end running ExecSync commands.
    kill_execs: tokio::sync::Notify,
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
    container: Option<&'a ContainerDefects>,
    faults: &'a CheckpointFaults,
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
        container.set_flags(self.faults, outcome);
    }
}

impl ContainerDefects {
    fn set_flags(&self, faults: &CheckpointFaults, outcome: CallOutcome) {
        for (side_effect, flag) in [
            (SideEffect::RefuseNext, &self.refuse_next_checkpoint),
            (SideEffect::ReportExited, &self.report_exited),
            (SideEffect::BreakExec, &self.refuse_exec),
        ] {
            if faults.has(Defect::After(outcome, side_effect)) {
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

impl CallDefects {
    pub(super) fn new(runtime: Arc<Runtime>) -> CallDefects {
        CallDefects {
            runtime,
            serial_lock: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
        }
    }

    /// The defects of a container, by its full id.
    fn of(&self, id: &str) -> Arc<ContainerDefects> {
        let mut containers = self.containers.lock().expect("no holder of this lock panics");
        if !containers.contains_key(id) {
            containers.retain(|id, _| self.runtime.container(id).is_ok());
        }
        Arc::clone(containers.entry(id.to_owned()).or_default())
    }

    /// The response of ContainerStatus without the verbose info.
    pub(super) fn status(&self, record: &ContainerRecord) -> v1::ContainerStatus {
        let mut status = record.status();
        if self.of(&record.id).report_exited.load(Ordering::SeqCst) {
            status.state = v1::ContainerState::ContainerExited as i32;
        }
        status
    }

    /// Executes a command as [`Runtime::exec`].
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::exec`], and `Start` after a checkpoint that broke ExecSync.
    pub(super) async fn exec(
        &self,
        id: &str,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let defects = self.of(&self.runtime.container(id)?.id);
        if defects.refuse_exec.load(Ordering::SeqCst) {
            return Err(RuntimeError::Start(
                "cannot exec in a container that was checkpointed".to_owned(),
            ));
        }
        tokio::select! {
            output = self.runtime.exec(id, argv, timeout) => output,
            () = defects.kill_execs.notified() => Ok(ExecOutput {
                stdout: Vec::new(),
                stderr: Vec::new(),
                exit_code: 128 + libc::SIGKILL,
            }),
        }
    }

    /// Checkpoints a running container with the defects of the request. Dropping the future cancels the checkpoint,
    /// unless a defect ignores the cancellation.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::checkpoint`], or the error of a defect.
    pub(super) async fn checkpoint(&self, mut request: CheckpointRequest) -> Result<Report, RuntimeError> {
        let defects = request.faults.clone();
        if defects.defects.is_empty() {
            return self.runtime.checkpoint(request).await;
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
        let container = self.runtime.container(&request.container_id)?;
        let container_defects = self.of(&container.id);
        if container_defects.refuse_next_checkpoint.swap(false, Ordering::SeqCst) {
            return Err(RuntimeError::Internal(format!(
                "open {:?}: no such file or directory",
                self.runtime.container_dir(&container.id).join("ctrd-checkpoint/status")
            )));
        }
        let _serial_guard = self.lock_serial_checkpoints(&container, &defects).await?;
        if defects.has(Defect::KillExecs) {
            container_defects.kill_execs.notify_waiters();
        }
        if defects.has(Defect::TruncateConcurrent) && container.checkpoint_lock.try_lock().is_err() {
            add_injection(&mut request, Phase::Write, Effect::TruncatedArchive(50));
        }

        let location = PathBuf::from(&request.location);
        let reply_early = defects.has(Defect::RespondEarly) && !location.is_dir();
        if reply_early {
            request.location = sibling_path(&location, ".early").to_string_lossy().into_owned();
        }
        let deadline = request.deadline;
        let own_timeout_first = own_timeout_is_first(&request);
        let mut cancel_guard = CancelGuard {
            container: Some(&container_defects),
            faults: &defects,
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
        container_defects.set_flags(&defects, outcome);
        self.apply_side_effects(&container, &defects, outcome).await;
        if result.is_ok() {
            if reply_early {
                rename_later(location);
            } else {
                self.apply_archive_defects(&container, &location, &previous, &defects);
            }
        }
        result
    }

    async fn checkpoint_maybe_detached(
        &self,
        mut request: CheckpointRequest,
        defects: &CheckpointFaults,
    ) -> Result<Report, RuntimeError> {
        let (ignore_deadline, ignore_cancel) = (defects.has(Defect::IgnoreDeadline), defects.has(Defect::IgnoreCancel));
        let cancellable_until = match (ignore_cancel, request.deadline) {
            (false, Some(deadline)) => timed_out_at(Instant::now(), Some(deadline)),
            (false, None) => Instant::now().checked_add(Duration::from_secs(1 << 20)),
            (true, _) => None,
        };
        if ignore_deadline {
            request.deadline = None;
        }
        let own_timeout_first = own_timeout_is_first(&request);
        select_deadline_defects(&mut request.faults, own_timeout_first);
        if !ignore_deadline && !ignore_cancel {
            return self.runtime.checkpoint(request).await;
        }
        let runtime = Arc::clone(&self.runtime);
        let mut detached = DetachedTask {
            task: tokio::spawn(async move { runtime.checkpoint(request).await }),
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
        defects: &CheckpointFaults,
    ) -> Option<Result<Report, RuntimeError>> {
        let id = &request.container_id;
        let empty_success = || Some(Ok(empty_report()));
        let location = Path::new(&request.location);
        if id.is_empty() && defects.has(Defect::AcceptEmptyId) {
            return empty_success();
        }
        match self.runtime.container(id) {
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
        let full_id = self.runtime.container(id).ok()?.id.clone();
        let others = self.runtime.list_containers(None).into_iter();
        let other = others
            .filter(|record| record.state.is_running())
            .find(|record| record.id != full_id)?;
        self.runtime.container(&other.id).ok()
    }

    /// Takes the runtime-wide checkpoint lock for the defects that serialize or refuse checkpoints of several
    /// containers.
    async fn lock_serial_checkpoints(
        &self,
        container: &Container,
        defects: &CheckpointFaults,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, RuntimeError> {
        if defects.has(Defect::OneAtATime) {
            return Ok(Some(self.serial_lock.lock().await));
        }
        if !defects.has(Defect::RefuseConcurrent) {
            return Ok(None);
        }
        // Checkpoints of the same container wait for each other, as without the defect.
        match self.serial_lock.try_lock() {
            Ok(guard) => Ok(Some(guard)),
            Err(_) if container.checkpoint_lock.try_lock().is_err() => Ok(None),
            Err(_) => Err(RuntimeError::FailedPrecondition(
                "another checkpoint is in progress".to_owned(),
            )),
        }
    }

    fn apply_archive_defects(
        &self,
        container: &Container,
        location: &Path,
        previous: &PreviousFile,
        defects: &CheckpointFaults,
    ) {
        let first_archive = self.runtime.container_dir(&container.id).join("earlier.tar");
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
                    fs::copy(location, &first_archive)?;
                } else if defects.has(Defect::EarlierArchive) {
                    fs::copy(&first_archive, location)?;
                } else {
                    archive::replace_images(location, &first_archive)?;
                }
            }
            if let (true, Some(other)) = (
                defects.has(Defect::OtherMetadata),
                self.other_running_container(&container.id),
            ) {
                let documents = self.runtime.checkpoint_documents(&other.record());
                let documents = documents.map_err(std::io::Error::other)?;
                archive::rewrite(location, |name| {
                    let document = documents.iter().find(|document| document.name == name);
                    Ok(document.map_or(Edit::Keep, |document| {
                        Edit::Replace(document.content.clone().into_bytes())
                    }))
                })?;
            }
            Ok(())
        };
        if let Err(error) = apply() {
            tracing::warn!(?location, %error, "failed to change the archive for a fault");
        }
    }

    /// Applies the side effects of this outcome that the runtime implements. The shim implements the others.
    async fn apply_side_effects(&self, container: &Container, defects: &CheckpointFaults, outcome: CallOutcome) {
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
            for sibling in self.runtime.containers_of(&record.pod_id) {
                if sibling.id != container.id
                    && let Ok(shim) = self.runtime.running_shim(&sibling)
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
fn apply_timeout_defects(request: &mut CheckpointRequest, defects: &CheckpointFaults) -> Result<(), RuntimeError> {
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
fn apply_location_defects(request: &mut CheckpointRequest, defects: &CheckpointFaults) -> PreviousFile {
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
            Effect::Error(ErrorStatus {
                code: Code::Unknown,
                message: format!("open {}: no such file or directory", location.display()),
            }),
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

/// Renames the archive `LOCATION.early` to its location after a delay.
fn rename_later(location: PathBuf) {
    tokio::spawn(async move {
        tokio::time::sleep(LATE_ARCHIVE_DELAY).await;
        if let Err(error) = rename_into_place(&sibling_path(&location, ".early"), &location) {
            tracing::warn!(?location, %error, "failed to rename the archive to its location for a fault");
        }
    });
}

fn sibling_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn add_injection(request: &mut CheckpointRequest, phase: Phase, effect: Effect) {
    request.faults.injections.push(Injection { phase, effect });
}

fn own_timeout_is_first(request: &CheckpointRequest) -> bool {
    let own_timeout = u64::try_from(request.timeout).ok().filter(|timeout| *timeout > 0);
    let own_timeout_at = own_timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout)));
    own_timeout_at.is_some_and(|own| request.deadline.is_none_or(|deadline| own < deadline))
}

/// Selects the defects of the effective deadline. The shim knows a single deadline: of the defects for `Deadline` and
/// `Timeout`, those of the effective one become `Deadline`, and the others are dropped.
fn select_deadline_defects(faults: &mut CheckpointFaults, own_timeout_first: bool) {
    let effective = match own_timeout_first {
        true => CallOutcome::Timeout,
        false => CallOutcome::Deadline,
    };
    faults.defects.retain_mut(|defect| match defect {
        Defect::After(outcome @ (CallOutcome::Deadline | CallOutcome::Timeout), _) => {
            let is_effective = *outcome == effective;
            *outcome = CallOutcome::Deadline;
            is_effective
        }
        _ => true,
    });
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
