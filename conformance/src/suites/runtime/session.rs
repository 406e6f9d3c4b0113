//! The fixture of the runtime suite: the runtime, one container, and its first checkpoints, which many cases check.
//!
//! ```text
//! first_attempt                      one checkpoint of the container, whatever its result
//!   first_checkpoint_ok              ... that succeeded            else blocked by runtime/checkpoint/succeeds
//!     require_archive_file           ... with an archive, or blocked by runtime/checkpoint/archive-at-location
//!       require_tar                  ... that is a complete tar    else blocked by runtime/archive/tar
//!       require_container_unharmed   ... and the same process keeps running
//!         require_second_checkpoint  another one that succeeded    else blocked by runtime/checkpoint/repeatable
//! ```
//!
//! The first case that needs a step executes it. Later cases use its result, so any single case can run alone. A case
//! that may harm a container (deadlines, errors) uses a container of its own: [`RuntimeSession::new_container`].

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::liveness::{ContainerBefore, Liveness};
use crate::{
    archive::InspectedArchive,
    engine::{Capabilities, Capability, ConfigReset, NonPass, Target, skip},
    evidence::Memo,
    suites::{
        inspection::{inspect, is_complete_tar, wait_for_file},
        topic_state::TopicState,
    },
    targets::{
        FileSnapshot,
        runtime::{CheckpointCall, CheckpointOutcome, ContainerHandle, ContainerOptions, Runtime, WorkloadProgram},
    },
};

pub(super) const OK_CASE: &str = "runtime/checkpoint/succeeds";
pub(super) const ARCHIVE_CASE: &str = "runtime/checkpoint/archive-at-location";
pub(super) const WHEN_DONE_CASE: &str = "runtime/checkpoint/complete-at-return";
pub(super) const SECOND_CASE: &str = "runtime/checkpoint/repeatable";
pub(super) const TAR_CASE: &str = "runtime/archive/tar";
pub(super) const MEMBERS_CASE: &str = "runtime/archive/required-members";
pub(super) const CONTAINER_ID_CASE: &str = "runtime/archive/container-id";
pub(super) const KEEPS_RUNNING_CASE: &str = "runtime/success/keeps-running";
pub(super) const SAME_PROCESS_CASE: &str = "runtime/success/same-process";

/// A timeout in seconds that no checkpoint of a small container comes near. The kubelet always sends a timeout.
pub(super) const AMPLE_TIMEOUT_SECS: i64 = 3600;
/// How long after the response the harness waits for an archive. The archive must not come late; another case checks
/// that.
const LATE_ARCHIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of threads of the container, not counting the thread that only holds a canary.
pub(super) const WORKLOAD_THREADS: usize = 3;
/// An environment variable of the container whose value is a secret.
const SECRET_ENV_VAR: &str = "CHECKPOINT_CONFORMANCE_CANARY";

/// A runtime under test, with the state of one run.
#[derive(Debug)]
pub struct RuntimeSession {
    /// The runtime under test.
    pub runtime: Runtime,
    secret: String,
    /// A container that no case uses: if the runtime changes or checkpoints it, that is a defect.
    control_container: OnceCell<ContainerHandle>,
    container_under_test: OnceCell<ContainerHandle>,
    first_attempt: Memo<Result<FirstRuntimeAttempt, NonPass>>,
    second_attempt: Memo<RuntimeAttempt>,
    first_archive: Memo<InspectedArchive>,
    /// What the cases of one topic share.
    pub(super) topics: TopicState,
}

#[derive(Clone, Debug)]
pub(super) struct FirstRuntimeAttempt {
    pub(super) container: ContainerHandle,
    pub(super) attempt: RuntimeAttempt,
    pub(super) container_after: Liveness,
}

#[derive(Clone, Debug)]
pub(super) struct RuntimeAttempt {
    pub(super) before: ContainerBefore,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) response: CheckpointOutcome,
    pub(super) location: PathBuf,
    pub(super) file_at_return: Option<FileSnapshot>,
    /// The archive at the location shortly after the call returned, or the reason why there is none.
    pub(super) file: Result<FileSnapshot, String>,
}

impl RuntimeSession {
    /// A session with this runtime, before any call.
    pub fn new(runtime: Runtime) -> RuntimeSession {
        RuntimeSession {
            runtime,
            secret: format!("{:032x}", rand::random::<u128>()),
            control_container: OnceCell::new(),
            container_under_test: OnceCell::new(),
            first_attempt: Memo::default(),
            second_attempt: Memo::default(),
            first_archive: Memo::default(),
            topics: TopicState::default(),
        }
    }

    /// A container for one case. The runtime removes the container when the case drops the last handle.
    pub(super) async fn new_container(&self, options: ContainerOptions) -> Result<ContainerHandle, NonPass> {
        if options.needs_test_workload() {
            self.require_test_workload()?;
        }
        Ok(self.runtime.run_container(options).await?)
    }

    /// A small container in a Pod of its own, which a case may harm.
    pub(super) async fn disposable_container(&self) -> Result<ContainerHandle, NonPass> {
        self.new_container(self.small_container_options().separate_pod()).await
    }

    /// Options for a container whose checkpoint is fast.
    pub(super) fn small_container_options(&self) -> ContainerOptions {
        match self.runtime.program {
            WorkloadProgram::TestWorkload => ContainerOptions::new()
                .memory(64 << 10)
                .workload_arg("heartbeat-interval", "20ms"),
            WorkloadProgram::Shell => ContainerOptions::new(),
        }
    }

    /// Fails unless the containers run the test workload, whose size and shape can be configured. The calling case must
    /// require [`Capability::TestWorkload`].
    pub(super) fn require_test_workload(&self) -> Result<(), NonPass> {
        if self.runtime.program == WorkloadProgram::TestWorkload {
            return Ok(());
        }
        Err(NonPass::Missing(Capability::TestWorkload))
    }

    /// The value of the secret environment variable of the container that the first checkpoint saves.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) async fn first_attempt(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.first_attempt.get_or_init(|| self.make_first_attempt()).await;
        first.as_ref().map_err(Clone::clone)
    }

    pub(super) async fn first_checkpoint_ok(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.first_attempt().await?;
        if first.attempt.response.is_ok() {
            Ok(first)
        } else {
            Err(NonPass::Blocked(OK_CASE))
        }
    }

    /// The archive of the first checkpoint, which must exist.
    pub(super) async fn require_archive_file(&self) -> Result<(&FirstRuntimeAttempt, &FileSnapshot), NonPass> {
        let first = self.first_checkpoint_ok().await?;
        match &first.attempt.file {
            Ok(evidence) if evidence.length > 0 => Ok((first, evidence)),
            _ => Err(NonPass::Blocked(ARCHIVE_CASE)),
        }
    }

    /// The first archive as the reader found it, whether valid or not.
    pub(super) async fn require_inspected_archive(&self) -> Result<&InspectedArchive, NonPass> {
        let (_, file) = self.require_archive_file().await?;
        self.first_archive.get_or_try_init(|| inspect(&file.path)).await
    }

    /// The first archive, which must be a complete tar file.
    pub(super) async fn require_tar(&self) -> Result<&InspectedArchive, NonPass> {
        let archive = self.require_inspected_archive().await?;
        if is_complete_tar(archive) {
            Ok(archive)
        } else {
            Err(NonPass::Blocked(TAR_CASE))
        }
    }

    /// The first archive, which must be a complete tar file with CRIU images.
    pub(super) async fn require_criu(&self) -> Result<&InspectedArchive, NonPass> {
        let archive = self.require_tar().await?;
        if archive.is_criu() {
            Ok(archive)
        } else {
            skip("requires an archive in CRIU's format")
        }
    }

    /// The first checkpoint, after which the same process must keep running, so that later effects have another cause.
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

    /// The first checkpoint, whose archive was complete when the call returned. A file at another location on return is
    /// then what that call left.
    pub(super) async fn require_archive_at_return(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        match (&first.attempt.file_at_return, &first.attempt.file) {
            (Some(file_at_return), Ok(file)) if file_at_return == file => Ok(first),
            _ => Err(NonPass::Blocked(WHEN_DONE_CASE)),
        }
    }

    /// The first checkpoint, whose archive names its own container, so that ids are not mixed up.
    pub(super) async fn require_own_archive(&self) -> Result<&FirstRuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        let archive = self.require_criu().await?;
        match archive.documents.config.parsed() {
            Some(config) if config.id == first.container.id() => Ok(first),
            Some(_) => Err(NonPass::Blocked(CONTAINER_ID_CASE)),
            None => Err(NonPass::Blocked(MEMBERS_CASE)),
        }
    }

    /// A second checkpoint of the same container, whatever its result.
    pub(super) async fn second_attempt(&self) -> Result<&RuntimeAttempt, NonPass> {
        let first = self.require_container_unharmed().await?;
        let second = self
            .second_attempt
            .get_or_try_init(|| self.checkpoint(&first.container, "second"));
        second.await
    }

    /// A second checkpoint of the same container, which must have succeeded. Then any number of checkpoints can follow.
    pub(super) async fn require_second_checkpoint(&self) -> Result<&RuntimeAttempt, NonPass> {
        let second = self.second_attempt().await?;
        match (second.response.is_ok(), &second.file) {
            (true, Ok(_)) => Ok(second),
            _ => Err(NonPass::Blocked(SECOND_CASE)),
        }
    }

    /// Makes one checkpoint with an ample timeout to an unused location.
    pub(super) async fn checkpoint(&self, container: &ContainerHandle, name: &str) -> Result<RuntimeAttempt, NonPass> {
        self.checkpoint_to(container, &self.runtime.location(name)).await
    }

    pub(super) async fn checkpoint_to(
        &self,
        container: &ContainerHandle,
        location: &Path,
    ) -> Result<RuntimeAttempt, NonPass> {
        let call = CheckpointCall::to(location.to_string_lossy()).timeout(AMPLE_TIMEOUT_SECS);
        self.checkpoint_with(container, &call).await
    }

    /// Makes one checkpoint, and reads the archive at its location.
    pub(super) async fn checkpoint_with(
        &self,
        container: &ContainerHandle,
        call: &CheckpointCall,
    ) -> Result<RuntimeAttempt, NonPass> {
        let before = ContainerBefore::observe(&self.runtime, container).await?;
        let location = PathBuf::from(&call.location);
        let started = Timestamp::now();
        let response = self.runtime.checkpoint(container, call).await;
        let file_at_return = FileSnapshot::read(&location).ok();
        let ended = Timestamp::now();
        let timeout = if response.is_ok() {
            LATE_ARCHIVE_TIMEOUT
        } else {
            Duration::ZERO
        };
        let file = wait_for_file(&location, timeout)
            .await
            .map_err(|error| error.to_string());
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
        let after = attempt.before.observe_liveness(&self.runtime, &container).await?;
        Ok(FirstRuntimeAttempt {
            container,
            attempt,
            container_after: after,
        })
    }
}

impl Target for RuntimeSession {
    fn capabilities(&self) -> BoxFuture<'_, Capabilities> {
        Box::pin(std::future::ready(self.runtime.capabilities()))
    }

    /// The runtime is never restarted, whatever the configuration.
    fn reset(&self, _: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.runtime.reset().await.map_err(|error| error.to_string()) })
    }
}
