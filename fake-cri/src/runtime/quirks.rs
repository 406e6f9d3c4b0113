//! Faults of the call as a whole: CheckpointContainer as runtimes do it that are wrong in one way or several.
//!
//! ```text
//!  checkpoint --- no quirk ------------------------------------------> as it should be
//!      |
//!      +-- the request is bent (id, location, timeout), or answered at once
//!      +-- as it should be, with what is left of the request; in a task of its own where the caller no longer counts
//!      +-- what is wrong after such an end: the file, the container, what is told of it
//! ```
//!
//! Everything here is asked for by a fault rule. Ways to fail: those of the call, and those that the quirk is about.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{CheckpointRequest, Container, Error, Kind, Runtime, State};
use crate::checkpoint::{self, Aftermath, Effect, Ending, ErrorKind, Injection, Phase, Quirk, Report};

/// How long after an early answer the archive appears.
const EARLY: Duration = Duration::from_millis(150);

/// The quirks among the injections of a call.
struct Quirks(Vec<Quirk>);

impl Quirks {
    fn of(injections: &[Injection]) -> Quirks {
        let quirk = |injection: &Injection| match injection.effect {
            Effect::Quirk(quirk) => Some(quirk),
            _ => None,
        };
        Quirks(injections.iter().filter_map(quirk).collect())
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.0.contains(&quirk)
    }
}

/// What stood at the location before.
#[derive(Default)]
struct Former {
    mode: Option<u32>,
    content: Option<Vec<u8>>,
}

/// Notes that the caller went away when it is dropped before the call has ended.
struct Unended<'a> {
    container: Option<&'a Container>,
    quirks: &'a Quirks,
    deadline: Option<Instant>,
    begun: Instant,
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        let Some(container) = self.container.take() else { return };
        let run_out = ran_out(self.begun, self.deadline).is_some_and(|from| Instant::now() >= from);
        let ending = if run_out { Ending::Deadline } else { Ending::Cancel };
        container.marks.note(self.quirks, ending);
    }
}

impl super::container::Marks {
    /// What the runtime has wrong about a container after a checkpoint that ended so.
    fn note(&self, quirks: &Quirks, ending: Ending) {
        for (aftermath, mark) in [
            (Aftermath::RefuseNext, &self.refuse_next),
            (Aftermath::Misreport, &self.misreported),
            (Aftermath::BreakExec, &self.exec_broken),
        ] {
            if quirks.has(Quirk::After(ending, aftermath)) {
                mark.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// A task that is ended with its handle, unless the caller has waited for too long already.
struct Detached {
    task: tokio::task::JoinHandle<Result<Report, Error>>,
    /// Until then a caller who goes away ends it; `None` for never.
    bound_until: Option<Instant>,
}

impl Drop for Detached {
    fn drop(&mut self) {
        if self.bound_until.is_some_and(|until| Instant::now() < until) {
            self.task.abort();
        }
    }
}

impl Runtime {
    /// Checkpoints a running container, in the ways that its faults say. Dropping the future cancels, unless a fault ignores it.
    ///
    /// # Errors
    ///
    /// `Invalid` for a location that is empty, relative or a folder, and for a negative timeout; `NotFound` for the
    /// container or the location's folder; `Precondition` when the container does not run; `Deadline` when time is up;
    /// `Checkpoint` for what the engine fails with. A fault may answer otherwise.
    pub async fn checkpoint(self: &Arc<Self>, mut request: CheckpointRequest) -> Result<Report, Error> {
        let quirks = Quirks::of(&request.injections);
        if quirks.0.is_empty() {
            return self.checkpoint_soundly(request).await;
        }
        if let Some(answer) = self.answered_at_once(&request, &quirks) {
            return answer;
        }
        bend_time(&mut request, &quirks)?;
        let former = bend_location(&mut request, &quirks);
        if quirks.has(Quirk::OtherContainer)
            && let Some(other) = self.another(&request.container_id)
        {
            request.container_id = other.id.clone();
        }
        let container = self.container(&request.container_id)?;
        if container.marks.refuse_next.swap(false, Ordering::SeqCst) {
            return Err(Error::Internal(format!(
                "open {:?}: no such file or directory",
                self.store.container(&container.id).join("ctrd-checkpoint/status")
            )));
        }
        let _alone = self.parallel(&container, &quirks).await?;
        if quirks.has(Quirk::KillExecs) {
            container.marks.kill_execs.notify_waiters();
        }
        if quirks.has(Quirk::SpoilConcurrent) && container.checkpoint.try_lock().is_err() {
            inject(&mut request, Phase::Write, Effect::TruncatedArchive { percent: 50 });
        }
        let earlier = self.store.container(&container.id).join("earlier.tar");
        if quirks.has(Quirk::EarlierImages) && earlier.exists() {
            inject(&mut request, Phase::Freeze, Effect::ImagesFrom(earlier.clone()));
        }

        let location = PathBuf::from(&request.location);
        let early = quirks.has(Quirk::AnswerEarly) && !location.is_dir();
        if early {
            request.location = beside(&location, ".early").to_string_lossy().into_owned();
        }
        let deadline = request.deadline;
        let own = own_deadline_is_first(&request);
        let mut unended = Unended {
            container: Some(&container),
            quirks: &quirks,
            deadline,
            begun: Instant::now(),
        };
        let result = self.checkpoint_bound(request, &quirks).await;
        unended.container = None;

        let ending = match &result {
            Ok(_) => Ending::Success,
            Err(error) if is_deadline(error) && own => Ending::Timeout,
            Err(error) if is_deadline(error) => Ending::Deadline,
            Err(_) => Ending::Error,
        };
        self.afterwards(&container, &quirks, ending).await;
        if result.is_ok() {
            if early {
                appear_late(location);
            } else {
                bend_archive(&location, &former, &quirks, &earlier);
            }
        }
        result
    }

    /// The checkpoint, in a task of its own where its caller's deadline or end is ignored.
    async fn checkpoint_bound(
        self: &Arc<Self>,
        mut request: CheckpointRequest,
        quirks: &Quirks,
    ) -> Result<Report, Error> {
        let (deadline, cancel) = (quirks.has(Quirk::IgnoreDeadline), quirks.has(Quirk::IgnoreCancel));
        if !deadline && !cancel {
            return self.checkpoint_soundly(request).await;
        }
        let bound_until = match (cancel, request.deadline) {
            (false, Some(deadline)) => ran_out(Instant::now(), Some(deadline)),
            (false, None) => Instant::now().checked_add(Duration::from_secs(1 << 20)),
            (true, _) => None,
        };
        if deadline {
            request.deadline = None;
        }
        let runtime = Arc::clone(self);
        let mut detached = Detached {
            task: tokio::spawn(async move { runtime.checkpoint_soundly(request).await }),
            bound_until,
        };
        (&mut detached.task)
            .await
            .unwrap_or_else(|error| Err(Error::Internal(format!("the checkpoint's task: {error}"))))
    }

    /// The answer of a runtime that does not even try.
    fn answered_at_once(&self, request: &CheckpointRequest, quirks: &Quirks) -> Option<Result<Report, Error>> {
        let id = &request.container_id;
        let nothing = || Some(Ok(empty_report()));
        let location = Path::new(&request.location);
        if id.is_empty() && quirks.has(Quirk::AcceptEmptyId) {
            return nothing();
        }
        match self.container(id) {
            Err(Error::NotFound { .. }) if quirks.has(Quirk::AcceptUnknown) => return nothing(),
            Err(Error::NotFound { .. }) if quirks.has(Quirk::UnknownIsInternal) => {
                return Some(Err(Error::Internal(format!("could not find container {id:?}"))));
            }
            Ok(container) => match container.record().state {
                State::Exited { .. } if quirks.has(Quirk::AcceptExited) => return nothing(),
                State::Created if quirks.has(Quirk::AcceptCreated) => return nothing(),
                _ if container.record().restore.is_some() && quirks.has(Quirk::RefuseRestored) => {
                    let message = format!(
                        "failed to checkpoint container {}: its images are there already",
                        container.id
                    );
                    return Some(Err(Error::Internal(message)));
                }
                _ if *id != container.id && quirks.has(Quirk::RefuseShortIds) => {
                    return Some(Err(Error::not_found(Kind::Container, id)));
                }
                _ => {}
            },
            Err(_) => {}
        }
        let folder = || location.parent().map(fs::metadata);
        if request.location.is_empty() {
            return if quirks.has(Quirk::AcceptEmptyLocation) {
                nothing()
            } else {
                None
            };
        }
        let kind = folder()?.err().map(|error| error.kind());
        match kind {
            Some(std::io::ErrorKind::NotFound) if quirks.has(Quirk::AcceptMissingFolder) => nothing(),
            Some(std::io::ErrorKind::NotADirectory) if quirks.has(Quirk::AcceptUnwritable) => nothing(),
            None if quirks.has(Quirk::AcceptUnwritable) && location.parent().is_some_and(Path::is_file) => nothing(),
            _ => None,
        }
    }

    /// The first of the other containers that run.
    fn another(&self, id: &str) -> Option<Arc<Container>> {
        let own = self.container(id).ok()?.id.clone();
        let others = self.list_containers(None).into_iter();
        let other = others
            .filter(|record| record.state.running())
            .find(|record| record.id != own)?;
        self.container(&other.id).ok()
    }

    /// Whose documents an archive has: those of another container by a fault.
    pub(super) fn documented(&self, record: &super::Record, injections: &[Injection]) -> super::Record {
        let wanted = Quirks::of(injections).has(Quirk::OtherDocuments);
        let other = wanted.then(|| self.another(&record.id)).flatten();
        other.map_or_else(|| record.clone(), |other| other.record())
    }

    /// The right to go on beside the checkpoints of other containers, for as long as it is held.
    async fn parallel(
        &self,
        container: &Container,
        quirks: &Quirks,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Error> {
        if quirks.has(Quirk::OneAtATime) {
            return Ok(Some(self.alone.lock().await));
        }
        if !quirks.has(Quirk::RefuseParallel) {
            return Ok(None);
        }
        // The same container's checkpoints take turns as ever.
        match self.alone.try_lock() {
            Ok(guard) => Ok(Some(guard)),
            Err(_) if container.checkpoint.try_lock().is_err() => Ok(None),
            Err(_) => Err(Error::Precondition("another checkpoint is under way".to_owned())),
        }
    }

    /// What is wrong after a checkpoint that ended so, as far as the runtime does it.
    async fn afterwards(&self, container: &Container, quirks: &Quirks, ending: Ending) {
        container.marks.note(quirks, ending);
        let after = |aftermath| quirks.has(Quirk::After(ending, aftermath));
        let record = container.record();
        if after(Aftermath::BreakLog)
            && let Some(log) = &record.log
        {
            // The shim writes on into the file it has; who reads the log by its name sees no more of it.
            let moved = beside(log, ".moved");
            if fs::rename(log, &moved).and_then(|()| fs::copy(&moved, log)).is_err() {
                tracing::warn!(?log, "a fault could not break the log");
            }
        }
        if after(Aftermath::FreezeNeighbours) {
            for neighbour in self.containers_of(&record.pod_id) {
                if neighbour.id != container.id
                    && let Ok(shim) = self.running_shim(&neighbour)
                    && let Err(error) = shim.signal(libc::SIGSTOP).await
                {
                    tracing::warn!(container = neighbour.id, %error, "a fault could not freeze the neighbour");
                }
            }
        }
    }
}

/// From when on a caller that goes away has run out of time. Its clock began before ours, so it may end the call before our
/// own deadline: whoever has waited for half of the time has not changed its mind.
fn ran_out(begun: Instant, deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| begun + deadline.saturating_duration_since(begun) / 2)
}

/// The timeout as such a runtime takes it.
fn bend_time(request: &mut CheckpointRequest, quirks: &Quirks) -> Result<(), Error> {
    let now = || Err(Error::Deadline("context deadline exceeded".to_owned()));
    if request.timeout == 0 && quirks.has(Quirk::ZeroTimeoutIsNow) {
        return now();
    }
    if request.timeout > i64::MAX / 1_000_000_000 && quirks.has(Quirk::TimeoutOverflows) {
        return now();
    }
    if quirks.has(Quirk::TimeoutInMilliseconds) {
        let span = Duration::from_millis(request.timeout.unsigned_abs());
        if request.timeout > 0
            && let Some(own) = Instant::now().checked_add(span)
        {
            request.deadline = Some(request.deadline.map_or(own, |deadline| deadline.min(own)));
        }
        request.timeout = 0;
    }
    if quirks.has(Quirk::IgnoreTimeout) {
        request.timeout = 0;
    }
    Ok(())
}

/// The location as such a runtime takes it, and what stands there.
fn bend_location(request: &mut CheckpointRequest, quirks: &Quirks) -> Former {
    let mut location = PathBuf::from(&request.location);
    if location.is_relative() && !request.location.is_empty() && quirks.has(Quirk::ResolveRelative) {
        location = std::env::current_dir().unwrap_or_default().join(location);
    }
    if quirks.has(Quirk::CreateFolder)
        && let Some(folder) = location.parent().filter(|folder| !folder.exists())
        && fs::create_dir_all(folder).is_ok()
    {
        inject(
            request,
            Phase::Write,
            Effect::Error {
                code: 2, // UNKNOWN
                message: format!("open {}: no such file or directory", location.display()),
            },
        );
    }
    if quirks.has(Quirk::AcceptFolder) && location.is_dir() {
        location = location.join("checkpoint.tar");
    }
    if quirks.has(Quirk::FollowSymlink)
        && let Ok(target) = fs::read_link(&location)
    {
        location = beside(&location, "").with_file_name(target);
    }
    let metadata = fs::symlink_metadata(&location).ok().filter(fs::Metadata::is_file);
    request.location = location.to_string_lossy().into_owned();
    Former {
        mode: metadata.as_ref().map(|metadata| metadata.permissions().mode()),
        content: metadata.and_then(|_| fs::read(&location).ok()),
    }
}

/// The archive as such a runtime leaves it.
fn bend_archive(location: &Path, former: &Former, quirks: &Quirks, earlier: &Path) {
    let bend = || -> std::io::Result<()> {
        if let (true, Some(content)) = (quirks.has(Quirk::KeepTail), &former.content) {
            let length = usize::try_from(fs::metadata(location)?.len()).unwrap_or(usize::MAX);
            if let Some(tail) = content.get(length..) {
                std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(location)?, tail)?;
            }
        }
        if let (true, Some(mode)) = (quirks.has(Quirk::KeepMode), former.mode) {
            fs::set_permissions(location, fs::Permissions::from_mode(mode))?;
        }
        if quirks.has(Quirk::EarlierArchive) || quirks.has(Quirk::EarlierImages) {
            if !earlier.exists() {
                fs::copy(location, earlier)?;
            } else if quirks.has(Quirk::EarlierArchive) {
                fs::copy(earlier, location)?;
            }
        }
        Ok(())
    };
    if let Err(error) = bend() {
        tracing::warn!(?location, %error, "a fault could not bend the archive");
    }
}

/// Lets an archive that stands beside its location appear there in a moment.
fn appear_late(location: PathBuf) {
    tokio::spawn(async move {
        tokio::time::sleep(EARLY).await;
        if let Err(error) = checkpoint::location::put(&beside(&location, ".early"), &location) {
            tracing::warn!(?location, %error, "a fault could not let the archive appear");
        }
    });
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

fn inject(request: &mut CheckpointRequest, phase: Phase, effect: Effect) {
    request.injections.push(Injection { phase, effect });
}

/// Whether the request's own timeout passes before the call's deadline.
fn own_deadline_is_first(request: &CheckpointRequest) -> bool {
    let own = u64::try_from(request.timeout).ok().filter(|timeout| *timeout > 0);
    let own = own.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout)));
    own.is_some_and(|own| request.deadline.is_none_or(|deadline| own < deadline))
}

/// What the shim is told of the quirks: a deadline is one to it, whoever set it.
pub(super) fn for_shim(injections: Vec<Injection>, own_deadline: bool) -> Vec<Injection> {
    let wanted = if own_deadline {
        Ending::Timeout
    } else {
        Ending::Deadline
    };
    let translate = |injection: Injection| match injection.effect {
        Effect::Quirk(Quirk::After(ending @ (Ending::Deadline | Ending::Timeout), aftermath)) => (ending == wanted)
            .then_some(Injection {
                effect: Effect::Quirk(Quirk::After(Ending::Deadline, aftermath)),
                ..injection
            }),
        _ => Some(injection),
    };
    injections.into_iter().filter_map(translate).collect()
}

/// Whether a fault is about what an error leaves in the container: then the runtime finds out late, as real ones do.
pub(super) fn wants_late_errors(injections: &[Injection]) -> bool {
    let late = [Aftermath::LeaveFrozen, Aftermath::KillContainer];
    let quirks = Quirks::of(injections);
    late.into_iter()
        .any(|aftermath| quirks.has(Quirk::After(Ending::Error, aftermath)))
}

fn is_deadline(error: &Error) -> bool {
    match error {
        Error::Deadline(_) => true,
        Error::Checkpoint { failure, .. } => failure.kind == ErrorKind::DeadlineExceeded,
        _ => false,
    }
}

/// What a checkpoint did that did nothing.
fn empty_report() -> Report {
    Report {
        processes: 0,
        threads: 0,
        archive_bytes: 0,
        pages: 0,
        frozen: Duration::ZERO,
        copied: false,
        total: Duration::ZERO,
    }
}
