//! The fixture of the kubelet suite: the kubelet under test and its first checkpoint, which many cases check.
//!
//! ```text
//! first_attempt            one checkpoint of the container under test, whatever its result
//!   first_checkpoint_ok    ... with response 200     else blocked by kubelet/checkpoint/succeeds
//!     require_archive_file ... with an archive       else blocked by kubelet/archive/at-location
//!       require_tar        ... that can be listed    else blocked by kubelet/archive/tar
//! ```
//!
//! The first case that needs a step executes it. Later cases use its result, so any single case can run alone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::Method;

use super::side_effects::SideEffects;
use crate::{
    archive::{Expectations, InspectedArchive},
    engine::{Capabilities, Capability, ConfigReset, NonPass, Target},
    evidence::Memo,
    suites::inspection::{inspect_with, is_complete_tar, wait_for_file},
    targets::{
        ContainerRef, Credentials, FakeCriControl, FileSnapshot, HttpResponse, JournaledCheckpoint, Kubelet,
        KubeletConfig, Protocol, RawRequest, TargetError, Workload,
    },
};

/// The case that a checkpoint of a running container succeeds.
pub const OK_CASE: &str = "kubelet/checkpoint/succeeds";
pub(super) const ARCHIVE_CASE: &str = "kubelet/archive/at-location";
pub(super) const TAR_CASE: &str = "kubelet/archive/tar";
pub(super) const WHEN_DONE_CASE: &str = "kubelet/checkpoint/waits-for-runtime";
pub(super) const KEEPS_RUNNING_CASE: &str = "kubelet/container/keeps-running";

/// How long after the response the harness waits for an archive or a journal entry. They must not come late; another
/// case checks that.
pub(super) const LATE_ARCHIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A kubelet under test, with the state of one run.
#[derive(Debug)]
pub struct KubeletSession {
    /// The kubelet under test.
    pub kubelet: Kubelet,
    /// What the kubelet did besides its responses.
    pub(super) side_effects: SideEffects,
    first_attempt: Memo<Result<FirstKubeletAttempt, NonPass>>,
    first_archive: Memo<InspectedArchive>,
    started: Instant,
    // The case that found that no further checkpoint can be tested: the container did not survive the first checkpoint,
    // or the kubelet does not wait for the runtime.
    unusable_since: OnceLock<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct KubeletAttempt {
    pub(super) workload: Workload,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) response: HttpResponse,
    /// The CheckpointContainer call that the runtime received, if known.
    pub(super) runtime_call: Option<JournaledCheckpoint>,
    /// The location of the archive, as the kubelet names it.
    pub(super) location: Option<String>,
    /// The archive at that location, or the reason why there is none.
    pub(super) file: Result<FileSnapshot, NoArchive>,
}

#[derive(Clone, Debug)]
struct FirstKubeletAttempt {
    attempt: KubeletAttempt,
    container_after: Result<ContainerAfter, NonPass>,
}

/// The container after the first checkpoint. The harness observes it at once and not when a case asks for it: a
/// container that was left frozen is thawed before the next case.
#[derive(Clone, Debug)]
pub(super) enum ContainerAfter {
    /// The container is not a test workload, or the checkpoint failed.
    NotObservable,
    /// The workload after its heartbeat moved, or after its process changed.
    Running(Workload),
    /// The heartbeat has not moved for seconds since the response. The value is the last heartbeat.
    Frozen(u64),
}

/// Why there is no archive to inspect.
#[derive(Clone, Debug)]
pub(super) enum NoArchive {
    /// The harness cannot read the location: [`Capability::ReadArchives`] is missing.
    NotAccessible,
    /// The archive is not at its location.
    NotFound(String),
}

impl KubeletSession {
    /// A session with this kubelet, before any request.
    pub fn new(kubelet: Kubelet) -> KubeletSession {
        KubeletSession {
            kubelet,
            side_effects: SideEffects::new(),
            first_attempt: Memo::default(),
            first_archive: Memo::default(),
            started: Instant::now(),
            unusable_since: OnceLock::new(),
        }
    }

    /// Records the case that found that no further checkpoint can be tested.
    pub(super) fn mark_unusable(&self, id: &'static str) {
        // Only the first reason is kept.
        let _ = self.unusable_since.set(id);
    }

    /// Blocks the calling case if no further checkpoint can be tested.
    pub(super) fn require_usable(&self) -> Result<(), NonPass> {
        self.unusable_since.get().map_or(Ok(()), |id| Err(NonPass::Blocked(id)))
    }

    /// Waits until the run is at least this old. Sleep is enough: the condition is the clock itself.
    pub(super) async fn wait_until_age(&self, age: Duration) {
        tokio::time::sleep_until((self.started + age).into()).await;
    }

    /// Waits until the next archive of this container gets a different name than the last one. With the same name it
    /// would overwrite the last archive, or be mistaken for it.
    pub(super) async fn wait_for_unused_name(&self, container: &ContainerRef) {
        let last = self.kubelet.last_checkpoint(container);
        if last.is_some_and(|last| Timestamp::now().as_second() <= last.as_second()) {
            next_second().await;
        }
    }

    pub(super) fn container_under_test(&self) -> &ContainerRef {
        &self.kubelet.container_under_test
    }

    /// The control API of fake-cri, which the calling case must require.
    pub(super) fn require_fake_cri_control(&self) -> Result<&FakeCriControl, NonPass> {
        self.kubelet
            .fake_cri
            .as_ref()
            .ok_or(NonPass::Missing(Capability::FakeCriControl))
    }

    /// The other container of the Pod that this capability is about; the calling case must require the capability.
    pub(super) fn require_sibling(&self, capability: Capability) -> Result<&ContainerRef, NonPass> {
        self.kubelet.sibling(capability).ok_or(NonPass::Missing(capability))
    }

    /// The kubelet's directory `checkpoints` as a local path; the calling case must require
    /// [`Capability::ReadArchives`].
    pub(super) fn require_checkpoints_dir(&self) -> Result<&Path, NonPass> {
        let dir = self.kubelet.checkpoints_dir.as_deref();
        dir.ok_or(NonPass::Missing(Capability::ReadArchives))
    }

    /// Configures the kubelet with one change; the calling case must require [`Capability::RestartKubelet`]. The runner
    /// reverts the change for cases that need the default configuration.
    pub(super) async fn require_configuration(&self, config: KubeletConfig) -> Result<(), NonPass> {
        self.require_usable()?;
        let configured = self.kubelet.configure(config).await;
        Ok(configured.ok_or(NonPass::Missing(Capability::RestartKubelet))??)
    }

    pub(super) async fn first_attempt(&self) -> Result<&KubeletAttempt, NonPass> {
        self.first_kubelet_attempt()
            .await
            .map(|first_attempt| &first_attempt.attempt)
    }

    /// The state of the container after the first checkpoint, which must have succeeded.
    pub(super) async fn container_after(&self) -> Result<&ContainerAfter, NonPass> {
        self.first_checkpoint_ok().await?;
        self.first_kubelet_attempt()
            .await?
            .container_after
            .as_ref()
            .map_err(Clone::clone)
    }

    async fn first_kubelet_attempt(&self) -> Result<&FirstKubeletAttempt, NonPass> {
        let run_first_attempt = || async {
            let first = self.checkpoint(self.container_under_test()).await?;
            // Only the case about the container reports a log that cannot be read any more.
            let container_after = self.observe_container_after(&first).await;
            Ok(FirstKubeletAttempt {
                attempt: first,
                container_after,
            })
        };
        let first_attempt = self.first_attempt.get_or_init(run_first_attempt).await;
        first_attempt.as_ref().map_err(Clone::clone)
    }

    /// Waits until the container's heartbeat moves after a checkpoint, or gives up after many heartbeat intervals.
    async fn observe_container_after(&self, first: &KubeletAttempt) -> Result<ContainerAfter, NonPass> {
        const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
        let before = &first.workload;
        if first.response.status != 200 || !before.is_test_workload() {
            return Ok(ContainerAfter::NotObservable);
        }
        let now = self.kubelet.workload(self.container_under_test()).await?;
        // The first of two new heartbeats may have been written before the response. The second is certainly later.
        let enough = |later: &Workload| !later.same_process(before) || later.heartbeat >= now.heartbeat + 2;
        let later = self
            .kubelet
            .workload_until(self.container_under_test(), WAIT_TIMEOUT, enough)
            .await?;
        if !later.as_ref().is_some_and(|later| later.same_process(before)) {
            self.mark_unusable(KEEPS_RUNNING_CASE);
        }
        Ok(later.map_or(ContainerAfter::Frozen(now.heartbeat), ContainerAfter::Running))
    }

    /// The first checkpoint, if its response was 200.
    pub(super) async fn first_checkpoint_ok(&self) -> Result<&KubeletAttempt, NonPass> {
        let first = self.first_attempt().await?;
        if first.response.status == 200 {
            Ok(first)
        } else {
            Err(NonPass::Blocked(OK_CASE))
        }
    }

    pub(super) async fn require_archive_file(&self) -> Result<&FileSnapshot, NonPass> {
        match &self.first_checkpoint_ok().await?.file {
            Ok(evidence) => Ok(evidence),
            Err(NoArchive::NotAccessible) => Err(NonPass::Missing(Capability::ReadArchives)),
            Err(NoArchive::NotFound(_)) => Err(NonPass::Blocked(ARCHIVE_CASE)),
        }
    }

    /// The first archive as the reader found it, whether valid or not.
    pub(super) async fn require_inspected_archive(&self) -> Result<&InspectedArchive, NonPass> {
        let evidence = self.require_archive_file().await?;
        let canary = self.first_attempt().await?.workload.canary.clone();
        let inspection = || inspect_with(&evidence.path, memory_expectation(canary));
        self.first_archive.get_or_try_init(inspection).await
    }

    /// The first archive, if it is a tar file that can be listed.
    pub(super) async fn require_tar(&self) -> Result<&InspectedArchive, NonPass> {
        let archive = self.require_inspected_archive().await?;
        if is_complete_tar(archive) {
            Ok(archive)
        } else {
            Err(NonPass::Blocked(TAR_CASE))
        }
    }

    /// The first checkpoint, if its response was 200 and another checkpoint can follow.
    pub(super) async fn require_checkpointable(&self) -> Result<&KubeletAttempt, NonPass> {
        let first = self.first_checkpoint_ok().await?;
        self.require_usable()?;
        Ok(first)
    }

    /// Blocks the calling case if the endpoint rejects the first request: a 404 or 401 of another request would then
    /// prove nothing.
    pub(super) async fn require_endpoint(&self) -> Result<(), NonPass> {
        match self.first_attempt().await?.response.status {
            401 | 403 | 404 | 405 => Err(NonPass::Blocked(OK_CASE)),
            _ => Ok(()),
        }
    }

    /// The current end of the journal, if there is a journal.
    pub(super) async fn journal_position(&self) -> Result<Option<u64>, NonPass> {
        match &self.kubelet.fake_cri {
            Some(control) => Ok(Some(control.journal_position().await?)),
            None => Ok(None),
        }
    }

    /// The CheckpointContainer calls after this journal position; `None` without a journal.
    pub(super) async fn calls_after(
        &self,
        journal_position: Option<u64>,
    ) -> Result<Option<Vec<JournaledCheckpoint>>, NonPass> {
        match (&self.kubelet.fake_cri, journal_position) {
            (Some(control), Some(journal_position)) => Ok(Some(control.checkpoints_after(journal_position).await?)),
            _ => Ok(None),
        }
    }

    /// Requests a checkpoint of the container under test, with this query.
    pub(super) async fn request(&self, query: &str) -> Result<HttpResponse, TargetError> {
        self.kubelet.checkpoint(self.container_under_test(), query).await
    }

    /// Sends a POST whose path goes over the wire exactly as given.
    pub(super) async fn post_raw_path(&self, path: &str) -> Result<HttpResponse, NonPass> {
        self.require_endpoint().await?;
        let client = self.kubelet.client().await;
        let response = client
            .send_raw(RawRequest::new(
                Credentials::Authorized,
                Protocol::Http1,
                Method::POST,
                path,
            ))
            .await?
            .ok_or_else(|| NonPass::Skip("requires a kubelet that speaks HTTP/1.1".to_owned()))?;
        self.kubelet.remember_archives(&response);
        Ok(response)
    }

    /// Makes one checkpoint of a container and collects all available information about it.
    pub(super) async fn checkpoint(&self, container: &ContainerRef) -> Result<KubeletAttempt, NonPass> {
        self.require_usable()?;
        let kubelet = &self.kubelet;
        // A target whose log cannot be read is tested all the same. The cases about the workload report why the log is
        // missing.
        let workload = kubelet.workload(container).await.unwrap_or_default();
        let journal_position = match &kubelet.fake_cri {
            Some(control) => Some((control, control.journal_position().await?)),
            None => None,
        };
        let before = self.checkpoints_dir_names();
        let started = Timestamp::now();
        let response = kubelet.checkpoint(container, "").await?;
        let ended = Timestamp::now();
        let runtime_call = match journal_position {
            Some((control, journal_position)) if response.status == 200 => {
                control.next_checkpoint(journal_position, LATE_ARCHIVE_TIMEOUT).await?
            }
            Some((control, journal_position)) => control.checkpoints_after(journal_position).await?.pop(),
            None => None,
        };
        let new_archive_name = || self.checkpoints_dir_names().difference(&before).next().cloned();
        let location = runtime_call
            .as_ref()
            .map(|call| call.location.clone())
            .or_else(|| first_item(&response))
            .or_else(|| {
                Some(
                    kubelet
                        .checkpoints_dir
                        .as_ref()?
                        .join(new_archive_name()?)
                        .to_string_lossy()
                        .into_owned(),
                )
            });
        if let Some(location) = &location {
            kubelet.remember_archive(location);
        }
        let file = self.find_archive(&response, location.as_deref()).await;
        Ok(KubeletAttempt {
            workload,
            started,
            ended,
            response,
            runtime_call,
            location,
            file,
        })
    }

    /// The local path of one of the kubelet's locations.
    pub(super) fn local_path(&self, location: &str) -> Option<PathBuf> {
        let dir = self.kubelet.checkpoints_dir.as_ref()?;
        if self.kubelet.paths_are_local {
            return Some(PathBuf::from(location));
        }
        Some(dir.join(Path::new(location).file_name()?))
    }

    /// The files in the directory of a location, if the directory can be read.
    pub(super) fn archives_beside(&self, location: &str) -> Vec<FileSnapshot> {
        let dir = self
            .local_path(location)
            .and_then(|path| std::fs::read_dir(path.parent()?).ok());
        let entries = dir.into_iter().flatten().flatten();
        entries
            .filter_map(|entry| FileSnapshot::read(&entry.path()).ok())
            .collect()
    }

    async fn find_archive(&self, response: &HttpResponse, location: Option<&str>) -> Result<FileSnapshot, NoArchive> {
        let Some(location) = location else {
            return Err(NoArchive::NotFound(
                "neither the body, the journal nor the checkpoints directory names the \
                archive"
                    .to_owned(),
            ));
        };
        let Some(path) = self.local_path(location) else {
            return Err(NoArchive::NotAccessible);
        };
        let timeout = if response.status == 200 {
            LATE_ARCHIVE_TIMEOUT
        } else {
            Duration::ZERO
        };
        let file = wait_for_file(&path, timeout).await;
        file.map_err(|error| NoArchive::NotFound(format!("{location}: {error}")))
    }

    fn checkpoints_dir_names(&self) -> BTreeSet<String> {
        let dir = self
            .kubelet
            .checkpoints_dir
            .as_ref()
            .and_then(|dir| std::fs::read_dir(dir).ok());
        dir.into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Target for KubeletSession {
    fn capabilities(&self) -> BoxFuture<'_, Capabilities> {
        Box::pin(self.kubelet.capabilities())
    }

    fn reset(&self, configuration: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.kubelet.reset().await.map_err(|error| error.to_string())?;
            self.side_effects
                .observe(self)
                .await
                .map_err(|error| format!("the comparison of the side effects failed: {error:?}"))?;
            match configuration {
                ConfigReset::Revert => self.kubelet.configure(KubeletConfig::Default).await,
                ConfigReset::Keep => None,
            }
            .unwrap_or(Ok(()))
            .map_err(|error| error.to_string())
        })
    }
}

impl From<TargetError> for NonPass {
    fn from(error: TargetError) -> NonPass {
        NonPass::error(&error)
    }
}

/// The first item of a success body, if the body has the format of the Kubernetes kubelet.
pub(super) fn first_item(response: &HttpResponse) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&response.body).ok()?;
    Some(body.get("items")?.as_array()?.first()?.as_str()?.to_owned())
}

/// An archive must contain this canary in memory.
pub(super) fn memory_expectation(canary: Option<String>) -> Expectations {
    Expectations {
        memory: canary.map(String::into_bytes),
        ..Expectations::default()
    }
}

/// Waits for the next second: the timestamp in an archive's name has a resolution of one second.
pub(super) async fn next_second() {
    let remaining_ms = 1000 - Timestamp::now().subsec_millisecond();
    tokio::time::sleep(Duration::from_millis(u64::try_from(remaining_ms).unwrap_or(1000) + 20)).await;
}

/// How often the runtime was called, or that the number is unknown: without a journal, "no call seen" does not mean
/// "not called".
pub(super) fn describe_calls(calls: &Option<Vec<JournaledCheckpoint>>) -> String {
    match calls.as_deref() {
        None => "runtime calls unknown (no journal)".to_owned(),
        Some([]) => "the runtime was not called".to_owned(),
        Some([_]) => "the runtime was called once".to_owned(),
        Some(calls) => format!("the runtime was called {} times", calls.len()),
    }
}
