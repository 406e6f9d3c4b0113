//! Lets containers go that the runtime left frozen, and removes what was made, whatever became of it.
//!
//! What is frozen cannot even be killed: a signal waits until the thaw. So every removal looks first:
//!
//! ```text
//!  hold seen -> release -> runs -> StopContainer, RemoveContainer
//!                  \-> still held -> StopContainer -> fails -> SIGKILL to the first process
//! ```

use std::{path::PathBuf, sync::PoisonError, time::Duration};

use cri_proto::runtime::v1::{
    ContainerState, ContainerStatusRequest, ContainerStatusResponse, RemoveContainerRequest, RemovePodSandboxRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use fake_cri::process::{ProcessId, pstree::ProcStat};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{CALL_TIMEOUT, ContainerHandle, CriClient, FreezeCause, Runtime, TrackedObject, call, freeze, read_log};
use crate::{
    evidence::{EvidenceKind, record},
    targets::TargetError,
};

impl Runtime {
    /// What the runtime says of a container, with its own additions when `verbose`.
    pub(super) async fn container_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<ContainerStatusResponse, TargetError> {
        container_status(&self.cri, id, verbose).await
    }

    /// Stops a container: SIGTERM, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// The runtime does not do it.
    pub async fn stop(&self, container: &ContainerHandle, grace: Duration) -> Result<(), TargetError> {
        stop(&self.cri, container.id(), grace).await
    }

    /// The container's first process as this machine sees it; `None` where it cannot be seen from here.
    pub async fn first_process_of(&self, container: &ContainerHandle) -> Option<ProcessId> {
        first_process(&self.cri, container.id()).await
    }

    /// What holds the container still, as far as that can be seen; ask only when no checkpoint is under way.
    pub async fn freeze_cause(&self, container: &ContainerHandle) -> Option<FreezeCause> {
        let first = self.first_process_of(container).await?;
        freeze::detect(&self.cgroups, first.pid, &[container.id(), container.pod().id()])
    }

    /// Lets a container go that the runtime left frozen, and notes it. Where that does not help, it is stopped. Returns how
    /// it was found and what was done.
    ///
    /// # Errors
    /// It neither runs nor ends.
    pub async fn unfreeze(
        &self,
        container: &ContainerHandle,
        cause: Option<FreezeCause>,
    ) -> Result<String, TargetError> {
        let names = [container.id(), container.pod().id()];
        let first = self.first_process_of(container).await;
        let description = cause
            .as_ref()
            .map_or_else(|| "its counter stands still".to_owned(), FreezeCause::to_string);
        let action = unfreeze_or_stop(&self.cri, &self.cgroups, container.id(), first, &names, cause).await?;
        let note = format!("container {container} was left frozen: {description}; {action}");
        record(EvidenceKind::Note, || note.clone());
        let mut unfreeze_notes = self.unfreeze_notes.lock().unwrap_or_else(PoisonError::into_inner);
        unfreeze_notes.push(note.clone());
        Ok(note)
    }

    /// Puts the runtime back after a case: takes faults back, removes what nobody has a handle of any more, and lets go what
    /// was left frozen.
    ///
    /// # Errors
    /// Something could not be removed or let go.
    pub async fn reset(&self) -> Result<(), TargetError> {
        if let Some(fake_cri) = &self.fake_cri {
            fake_cri.clear_rules().await?;
        }
        let tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut pods = Vec::new();
        for object in tracked {
            match object {
                TrackedObject::Container(id, handle) => match handle.upgrade() {
                    Some(inner) => self.unfreeze_unless_checkpointing(&ContainerHandle(inner)).await?,
                    None => {
                        self.remove_container(&id).await?;
                        self.untrack(&id);
                    }
                },
                TrackedObject::Pod(id, handle) if handle.strong_count() == 0 => pods.push(id),
                TrackedObject::Pod(..) => {}
            }
        }
        for id in pods {
            remove_pod(&self.cri, &id).await?;
            self.untrack(&id);
        }
        Ok(())
    }

    /// Lets a container go that others use as well, if it stands still and should not.
    async fn unfreeze_unless_checkpointing(&self, container: &ContainerHandle) -> Result<(), TargetError> {
        if container.is_checkpointing() {
            return Ok(());
        }
        match self.freeze_cause(container).await {
            Some(cause) if !container.is_checkpointing() => self.unfreeze(container, Some(cause)).await.map(drop),
            _ => Ok(()),
        }
    }

    fn untrack(&self, removed_id: &str) {
        let mut tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        tracked.retain(|made| {
            let (TrackedObject::Pod(id, _) | TrackedObject::Container(id, _)) = made;
            id != removed_id
        });
    }

    /// Removes a container, and lets it go first: what is frozen cannot even be killed.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), TargetError> {
        let removed = remove_container(&self.cri, &self.cgroups, id).await?;
        if let Some(note) = removed {
            let mut unfreeze_notes = self.unfreeze_notes.lock().unwrap_or_else(PoisonError::into_inner);
            unfreeze_notes.push(note);
        }
        Ok(())
    }
}

async fn container_status(cri: &CriClient, id: &str, verbose: bool) -> Result<ContainerStatusResponse, TargetError> {
    let mut client = cri.runtime();
    let message = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose,
    };
    call("ContainerStatus", CALL_TIMEOUT, message, |request| async move {
        client.container_status(request).await
    })
    .await
}

async fn stop(cri: &CriClient, id: &str, grace: Duration) -> Result<(), TargetError> {
    let mut client = cri.runtime();
    let message = StopContainerRequest {
        container_id: id.to_owned(),
        timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
    };
    let timeout = CALL_TIMEOUT.min(grace + Duration::from_secs(5));
    call("StopContainer", timeout, message, |request| async move {
        client.stop_container(request).await
    })
    .await
    .map(drop)
}

/// The first process of a container: by the pid that the runtime tells, or the one that the workload tells in its log, if
/// that is the same process here. A pid alone proves nothing: it may be of another pid namespace.
async fn first_process(cri: &CriClient, id: &str) -> Option<ProcessId> {
    let answer = container_status(cri, id, true).await.ok()?;
    let status = answer.status?;
    if status.state() != ContainerState::ContainerRunning {
        return None;
    }
    let pid_from_runtime = answer
        .info
        .values()
        .find_map(|text| {
            serde_json::from_str::<serde_json::Value>(text)
                .ok()?
                .get("pid")?
                .as_i64()
        })
        .and_then(|pid| i32::try_from(pid).ok());
    let workload = read_log(&PathBuf::from(&status.log_path)).await.unwrap_or_default();
    let pid_from_log = workload.pid.and_then(|pid| i32::try_from(pid).ok());
    let verified = |pid: &i32| {
        let kin = ProcStat::read(*pid).ok().filter(|kin| *pid > 0 && !kin.is_dead())?;
        let cgroup_names_container = || {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            cgroup.is_ok_and(|text| text.contains(id))
        };
        (workload.start_time == Some(kin.id.start_time) || cgroup_names_container()).then_some(kin.id)
    };
    [pid_from_runtime, pid_from_log].iter().flatten().find_map(verified)
}

/// Lets a container go, or ends it where that does not help.
async fn unfreeze_or_stop(
    cri: &CriClient,
    cgroups: &freeze::CgroupMounts,
    id: &str,
    first: Option<ProcessId>,
    names: &[&str],
    cause: Option<FreezeCause>,
) -> Result<String, TargetError> {
    const UNFREEZE_TIMEOUT: Duration = Duration::from_secs(2);
    const POLL_INTERVAL: Duration = Duration::from_millis(10);
    let mut why = String::new();
    if let (Some(first), Some(cause)) = (first, cause) {
        match freeze::unfreeze(&cause) {
            Ok(action) => {
                let started_at = std::time::Instant::now();
                while started_at.elapsed() < UNFREEZE_TIMEOUT {
                    if freeze::detect(cgroups, first.pid, names).is_none() {
                        return Ok(action.to_owned());
                    }
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                why = format!("{action}, in vain; ");
            }
            Err(error) => why = format!("{error}; "),
        }
    }
    match stop(cri, id, Duration::ZERO).await {
        Ok(()) => Ok(format!("{why}stopped by StopContainer")),
        Err(error) => match first.filter(|first| first.is_alive()) {
            Some(first) => {
                let killed = kill(Pid::from_raw(first.pid), Signal::SIGKILL);
                killed.map_err(|errno| TargetError::NotReady(format!("{why}{error}; SIGKILL: {errno}")))?;
                Ok(format!(
                    "{why}StopContainer: {error}; SIGKILL sent to its first process"
                ))
            }
            None => Err(error),
        },
    }
}

/// Removes a container that may be frozen; returns how it was let go, if it was.
pub(super) async fn remove_container(
    cri: &CriClient,
    cgroups: &freeze::CgroupMounts,
    id: &str,
) -> Result<Option<String>, TargetError> {
    let mut note = None;
    if let Some(first) = first_process(cri, id).await
        && let Some(cause) = freeze::detect(cgroups, first.pid, &[id])
    {
        let description = cause.to_string();
        let action = unfreeze_or_stop(cri, cgroups, id, Some(first), &[id], Some(cause)).await?;
        note = Some(format!("container {id} was left frozen: {description}; {action}"));
    }
    let is_not_found = |error: &TargetError| {
        matches!(
            error,
            TargetError::Runtime {
                code: tonic::Code::NotFound,
                ..
            }
        )
    };
    match stop(cri, id, Duration::ZERO).await {
        Err(error) if !is_not_found(&error) => {
            tracing::debug!(%error, id, "failed to stop a container before its removal")
        }
        _ => {}
    }
    let mut client = cri.runtime();
    let message = RemoveContainerRequest {
        container_id: id.to_owned(),
    };
    let removed = call("RemoveContainer", CALL_TIMEOUT, message, |request| async move {
        client.remove_container(request).await
    });
    match removed.await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(note),
    }
}

/// Stops and removes a Pod sandbox with all that is in it.
pub(super) async fn remove_pod(cri: &CriClient, id: &str) -> Result<(), TargetError> {
    let mut client = cri.runtime();
    let message = StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call("StopPodSandbox", CALL_TIMEOUT, message, |request| async move {
        client.stop_pod_sandbox(request).await
    })
    .await?;
    let mut client = cri.runtime();
    let message = RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call("RemovePodSandbox", CALL_TIMEOUT, message, |request| async move {
        client.remove_pod_sandbox(request).await
    })
    .await
    .map(drop)
}
