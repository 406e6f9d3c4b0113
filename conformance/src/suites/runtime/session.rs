//! What the cases of one run share: the runtime, one container, and its first checkpoints, which many cases judge.
//!
//! ```text
//!  first    one checkpoint of the container, whatever came of it
//!   made      ... that succeeded               else blocked by runtime/checkpoint/succeeds
//!    file       ... and whose archive is there else blocked by runtime/checkpoint/archive-at-location
//!     archive     ... and is a whole tar       else blocked by runtime/archive/tar
//!    intact     ... and left the container as it was, so that it can be checkpointed again
//!     second      another one, which succeeded else blocked by runtime/checkpoint/repeatable
//! ```
//!
//! Each step is taken once, by the first case that asks for it, so that a single case can be run alone. What does harm to a
//! container (deadlines, errors) belongs into a container of the case's own: [`RuntimeSession::container`].

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::{
    failed_checkpoint::FailedCheckpoints,
    liveness::{ContainerBefore, Liveness},
    location::FullDiskAttempt,
    restore::RestoreResult,
};
use crate::{
    archive::{self, Expectations, InspectedArchive, Limits},
    engine::{ConfigReset, NonPass, Reset},
    evidence::Memo,
    suites::archive::record_archive,
    targets::{
        FileSnapshot,
        runtime::{CheckpointCall, CheckpointOutcome, ContainerHandle, ContainerOptions, Runtime, WorkloadProgram},
    },
};

/// The case that judges whether a checkpoint can be had at all.
pub(super) const OK_CASE: &str = "runtime/checkpoint/succeeds";
/// The case that judges whether there is an archive.
pub(super) const ARCHIVE_CASE: &str = "runtime/checkpoint/archive-at-location";
/// The case that judges whether the archive is there with the answer.
pub(super) const WHEN_DONE_CASE: &str = "runtime/checkpoint/complete-at-return";
/// The case that judges whether a second checkpoint can be had.
pub(super) const SECOND_CASE: &str = "runtime/checkpoint/repeatable";
/// The case that judges whether the archive is a tar.
pub(super) const TAR_CASE: &str = "runtime/archive/tar";
/// The case that judges which members the archive has.
pub(super) const MEMBERS_CASE: &str = "runtime/archive/required-members";
/// The case that judges whether the archive is of the container that was named.
pub(super) const CONTAINER_ID_CASE: &str = "runtime/archive/container-id";
/// The case that judges whether the container runs on after a checkpoint.
pub(super) const KEEPS_RUNNING_CASE: &str = "runtime/success/keeps-running";
/// The case that judges whether it is the same process after a checkpoint.
pub(super) const SAME_PROCESS_CASE: &str = "runtime/success/same-process";

/// A timeout that no checkpoint of a small container comes near, in seconds: the kubelet always sends one.
pub(super) const AMPLE_TIMEOUT_SECS: i64 = 3600;
/// How long an archive may come after the answer: it must not, but another case says so.
const LATE_ARCHIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many threads the container has, without the one that only holds a canary.
pub(super) const WORKLOAD_THREADS: usize = 3;
/// The variable in the container's environment whose value is a secret.
const SECRET_ENV_VAR: &str = "CHECKPOINT_CONFORMANCE_CANARY";

/// A runtime in the course of a run.
#[derive(Debug)]
pub struct RuntimeSession {
    /// The runtime.
    pub runtime: Runtime,
    /// What came of checkpoints that failed on purpose.
    pub(super) failed_checkpoints: FailedCheckpoints,
    /// What the environment of the container holds.
    secret: String,
    /// One that nobody asks anything of: what happens to it, or is taken from it, is a mistake.
    control_container: OnceCell<ContainerHandle>,
    container_under_test: OnceCell<ContainerHandle>,
    first_attempt: Memo<Result<FirstRuntimeAttempt, NonPass>>,
    second_attempt: Memo<RuntimeAttempt>,
    first_archive: Memo<InspectedArchive>,
    /// What came of a checkpoint to a disk that is too small.
    pub(super) full_disk_attempt: Memo<FullDiskAttempt>,
    /// What a container told that goes on from an archive.
    pub(super) restored: Memo<Result<RestoreResult, NonPass>>,
}

/// The first checkpoint, and what became of the container.
#[derive(Clone, Debug)]
pub(super) struct FirstRuntimeAttempt {
    /// The container.
    pub(super) container: ContainerHandle,
    /// The checkpoint.
    pub(super) attempt: RuntimeAttempt,
    /// The container after it.
    pub(super) container_after: Liveness,
}

/// A checkpoint that was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct RuntimeAttempt {
    /// The container just before.
    pub(super) before: ContainerBefore,
    /// When it was asked for.
    pub(super) started: Timestamp,
    /// When it was answered.
    pub(super) ended: Timestamp,
    /// The answer.
    pub(super) response: CheckpointOutcome,
    /// Where the archive was to be.
    pub(super) location: PathBuf,
    /// The archive as it was found there with the answer.
    pub(super) file_at_return: Option<FileSnapshot>,
    /// The archive as it is found there a moment later at the latest, or why it is not.
    pub(super) file: Result<FileSnapshot, String>,
}

impl RuntimeSession {
    /// A session with this runtime.
    pub fn new(runtime: Runtime) -> RuntimeSession {
        RuntimeSession {
            runtime,
            failed_checkpoints: FailedCheckpoints::default(),
            secret: format!("{:032x}", rand::random::<u128>()),
            control_container: OnceCell::new(),
            container_under_test: OnceCell::new(),
            first_attempt: Memo::default(),
            second_attempt: Memo::default(),
            first_archive: Memo::default(),
            full_disk_attempt: Memo::default(),
            restored: Memo::default(),
        }
    }

    /// A container of the case's own; removed when the case drops its last handle.
    pub(super) async fn new_container(&self, options: ContainerOptions) -> Result<ContainerHandle, NonPass> {
        if options.needs_test_workload() {
            self.require_test_workload()?;
        }
        Ok(self.runtime.run_container(options).await?)
    }

    /// A small container in a Pod of its own, for whatever may happen to it.
    pub(super) async fn disposable_container(&self) -> Result<ContainerHandle, NonPass> {
        self.new_container(self.small_container_options().separate_pod()).await
    }

    /// A container that is quickly checkpointed.
    pub(super) fn small_container_options(&self) -> ContainerOptions {
        match self.runtime.program {
            WorkloadProgram::TestWorkload => ContainerOptions::new()
                .memory(64 << 10)
                .workload_arg("heartbeat-interval", "20ms"),
            WorkloadProgram::Shell => ContainerOptions::new(),
        }
    }

    /// The containers run the test workload, which can be told its size and shape, or the reason for a skip.
    pub(super) fn require_test_workload(&self) -> Result<(), NonPass> {
        if self.runtime.program == WorkloadProgram::TestWorkload {
            return Ok(());
        }
        Err(NonPass::Skip(
            "needs the test workload: the image of `checkpoint-conformance image`, in place of this --image".to_owned(),
        ))
    }

    /// What the environment of the first checkpoint's container holds.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The first checkpoint, whatever was answered.
    pub(super) async fn first_attempt(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.first_attempt.get_or_init(|| self.make_first_attempt()).await;
        first.as_ref().map_err(Clone::clone)
    }

    /// The first checkpoint, which succeeded.
    pub(super) async fn first_checkpoint_ok(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.first_attempt().await?;
        if first.attempt.response.is_ok() {
            Ok(first)
        } else {
            Err(NonPass::Blocked(OK_CASE))
        }
    }

    /// The first checkpoint's archive, which is there.
    pub(super) async fn require_archive_file(&self) -> Result<(&FirstRuntimeAttempt, &FileSnapshot), NonPass> {
        let first = self.first_checkpoint_ok().await?;
        match &first.attempt.file {
            Ok(evidence) if evidence.length > 0 => Ok((first, evidence)),
            _ => Err(NonPass::Blocked(ARCHIVE_CASE)),
        }
    }

    /// The first checkpoint's archive as it was read, whatever it is.
    pub(super) async fn require_inspected_archive(&self) -> Result<&InspectedArchive, NonPass> {
        let (_, file) = self.require_archive_file().await?;
        self.first_archive.get_or_try_init(|| inspect(&file.path)).await
    }

    /// The first checkpoint's archive, which is a whole tar.
    pub(super) async fn require_tar(&self) -> Result<&InspectedArchive, NonPass> {
        let archive = self.require_inspected_archive().await?;
        if is_complete_tar(archive) {
            Ok(archive)
        } else {
            Err(NonPass::Blocked(TAR_CASE))
        }
    }

    /// The same, where it has CRIU's images.
    pub(super) async fn require_criu(&self) -> Result<&InspectedArchive, NonPass> {
        let archive = self.require_tar().await?;
        if archive.is_criu() {
            Ok(archive)
        } else {
            Err(NonPass::Skip("the archive is not in CRIU's format".to_owned()))
        }
    }

    /// The first checkpoint, after which the container is as it was: whatever comes next is not its doing.
    pub(super) async fn require_container_unharmed(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let (first, _) = self.require_archive_file().await?;
        if !first.container_after.same_process {
            return Err(NonPass::Blocked(SAME_PROCESS_CASE));
        }
        if !first.container_after.running {
            return Err(NonPass::Blocked(KEEPS_RUNNING_CASE));
        }
        Ok(first)
    }

    /// The same, whose archive was there with the answer: what is at a location then is what the call has left.
    pub(super) async fn require_archive_at_return(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        match (&first.attempt.file_at_return, &first.attempt.file) {
            (Some(file_at_return), Ok(file)) if file_at_return == file => Ok(first),
            _ => Err(NonPass::Blocked(WHEN_DONE_CASE)),
        }
    }

    /// The same, whose archive says that it is of this container: ids are not mixed up.
    pub(super) async fn require_own_archive(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        let archive = self.require_criu().await?;
        match archive.documents.config.parsed() {
            Some(config) if config.id == first.container.id() => Ok(first),
            Some(_) => Err(NonPass::Blocked(CONTAINER_ID_CASE)),
            None => Err(NonPass::Blocked(MEMBERS_CASE)),
        }
    }

    /// Another checkpoint of the same container, whatever was answered.
    pub(super) async fn second_attempt(&self) -> Result<&RuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        let second = self
            .second_attempt
            .get_or_try_init(|| self.checkpoint(&first.container, "second"));
        second.await
    }

    /// Another checkpoint of the same container, which succeeded: any number of them can be had.
    pub(super) async fn require_second_checkpoint(&self) -> Result<&RuntimeAttempt, NonPass> {
        let second = self.second_attempt().await?;
        match (second.response.is_ok(), &second.file) {
            (true, Ok(_)) => Ok(second),
            _ => Err(NonPass::Blocked(SECOND_CASE)),
        }
    }

    /// One checkpoint with an ample timeout, to a place of its own.
    pub(super) async fn checkpoint(&self, container: &ContainerHandle, name: &str) -> Result<RuntimeAttempt, NonPass> {
        self.checkpoint_to(container, &self.runtime.location(name)).await
    }

    /// The same to this location.
    pub(super) async fn checkpoint_to(
        &self,
        container: &ContainerHandle,
        location: &Path,
    ) -> Result<RuntimeAttempt, NonPass> {
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        self.checkpoint_with(container, &call).await
    }

    /// One checkpoint, and its archive where it was to be.
    pub(super) async fn checkpoint_with(
        &self,
        container: &ContainerHandle,
        call: &CheckpointCall,
    ) -> Result<RuntimeAttempt, NonPass> {
        const POLL_INTERVAL: Duration = Duration::from_millis(5);
        let before = ContainerBefore::observe(self, container).await?;
        let location = PathBuf::from(&call.location);
        let started = Timestamp::now();
        let response = self.runtime.checkpoint(container, call).await;
        let file_at_return = FileSnapshot::read(&location).ok();
        let ended = Timestamp::now();
        let returned = Instant::now();
        let file = loop {
            match FileSnapshot::read(&location) {
                Err(_) if response.is_ok() && returned.elapsed() < LATE_ARCHIVE_TIMEOUT => {
                    tokio::time::sleep(POLL_INTERVAL).await
                }
                result => break result.map_err(|error| error.to_string()),
            }
        };
        Ok(RuntimeAttempt {
            before,
            started,
            ended,
            response,
            location,
            file_at_return,
            file,
        })
    }

    async fn make_first_attempt(&self) -> Result<FirstRuntimeAttempt, NonPass> {
        let options = match self.runtime.program {
            WorkloadProgram::TestWorkload => self
                .small_container_options()
                .workload_arg("threads", WORKLOAD_THREADS)
                .workload_arg("canaries", "yes"),
            WorkloadProgram::Shell => self.small_container_options(),
        };
        self.control_container
            .get_or_try_init(|| self.disposable_container())
            .await?;
        let options = options.separate_pod().env(SECRET_ENV_VAR, &self.secret);
        let container = self
            .container_under_test
            .get_or_try_init(|| self.new_container(options))
            .await?
            .clone();
        let attempt = self.checkpoint(&container, "first").await?;
        let after = attempt.before.observe_liveness(self, &container).await?;
        Ok(FirstRuntimeAttempt {
            container,
            attempt,
            container_after: after,
        })
    }
}

impl Reset for RuntimeSession {
    /// A runtime is not restarted.
    fn reset(&self, _: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.runtime.reset().await.map_err(|error| error.to_string()) })
    }
}

/// Whether an archive lists at least one member and was read to its end, with nothing behind it.
pub(super) fn is_complete_tar(archive: &InspectedArchive) -> bool {
    archive.is_complete() && !archive.members.is_empty()
}

/// Reads an archive without holding up the other tasks.
pub(super) async fn inspect(path: &Path) -> Result<InspectedArchive, NonPass> {
    let path = path.to_owned();
    let archive = blocking(move || archive::inspect_file(&path, &Expectations::default(), Limits::default())).await?;
    record_archive(&archive);
    Ok(archive)
}

/// Where in an archive's pages these bytes are, as `MEMBER at byte N`.
pub(super) async fn find_in_archive(path: &Path, bytes: Vec<u8>) -> Result<Option<archive::MatchPosition>, NonPass> {
    let path = path.to_owned();
    blocking(move || archive::find_in_pages(&path, &bytes)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, archive::InspectError> + Send + 'static,
) -> Result<T, NonPass> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| NonPass::error(&error))?
        .map_err(|error| NonPass::error(&error))
}
