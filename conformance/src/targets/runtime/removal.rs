//! Thaws containers that the runtime left frozen, and removes Pods and containers in any state.
//!
//! A process in a frozen v1 freezer cgroup does not die from SIGKILL until the cgroup is thawed. So a removal thaws
//! first:
//!
//! ```text
//!  frozen -> thaw -> running -> StopContainer, RemoveContainer
//!              \-> still frozen -> StopContainer -> fails -> SIGKILL to the first process
//! ```

use std::{path::PathBuf, sync::PoisonError, time::Duration};

use cri_proto::runtime::v1::{
    ContainerState, ContainerStatusRequest, ContainerStatusResponse, RemoveContainerRequest, RemovePodSandboxRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use fake_cri::process::{Pid, ProcessId, pstree::ProcStat};
use nix::sys::signal::{Signal, kill};

use super::{CALL_TIMEOUT, ContainerHandle, FreezeCause, Runtime, TrackedObject, call, freeze, read_log};
use crate::{
    cri_client::CriClient,
    evidence::{EvidenceKind, record},
    targets::TargetError,
};

impl Runtime {
    /// The CRI status of a container; with `verbose`, including the runtime's own `info`.
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
    /// The call fails.
    pub async fn stop(&self, container: &ContainerHandle, grace: Duration) -> Result<(), TargetError> {
        stop(&self.cri, container.id(), grace).await
    }

    /// The container's first process in the harness's pid namespace; `None` if it is not visible there.
    pub async fn first_process_of(&self, container: &ContainerHandle) -> Option<ProcessId> {
        first_process(&self.cri, container.id()).await
    }

    /// What keeps the container frozen, as far as it is visible. Meaningful only if no checkpoint is in progress.
    pub async fn freeze_cause(&self, container: &ContainerHandle) -> Option<FreezeCause> {
        let first = self.first_process_of(container).await?;
        freeze::detect(&self.cgroups, first.pid, &[container.id(), container.pod().id()])
    }

    /// Thaws a container that the runtime left frozen; stops it if it cannot be thawed. Returns and remembers a note
    /// with the cause and the action.
    ///
    /// # Errors
    /// The container can be neither thawed nor stopped.
    pub async fn unfreeze(
        &self,
        container: &ContainerHandle,
        cause: Option<FreezeCause>,
    ) -> Result<String, TargetError> {
        let names = [container.id(), container.pod().id()];
        let first = self.first_process_of(container).await;
        let description = cause
            .as_ref()
            .map_or_else(|| "its heartbeat does not advance".to_owned(), FreezeCause::to_string);
        let action = unfreeze_or_stop(&self.cri, &self.cgroups, container.id(), first, &names, cause).await?;
        let note = format!("container {container} was left frozen: {description}; {action}");
        record(EvidenceKind::Note, || note.clone());
        let mut unfreeze_notes = self.unfreeze_notes.lock().unwrap_or_else(PoisonError::into_inner);
        unfreeze_notes.push(note.clone());
        Ok(note)
    }

    /// Resets the runtime after a case: removes fault rules, removes objects without a handle, thaws frozen containers.
    ///
    /// # Errors
    /// An object cannot be removed or thawed.
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

    /// Thaws a container that other cases use, if it is frozen without a checkpoint in progress.
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
        tracked.retain(|object| {
            let (TrackedObject::Pod(id, _) | TrackedObject::Container(id, _)) = object;
            id != removed_id
        });
    }

    /// Removes a container, and remembers a note if it was frozen.
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
    let message = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose,
    };
    call(cri, CALL_TIMEOUT, message).await
}

async fn stop(cri: &CriClient, id: &str, grace: Duration) -> Result<(), TargetError> {
    let message = StopContainerRequest {
        container_id: id.to_owned(),
        timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
    };
    let timeout = CALL_TIMEOUT.min(grace + Duration::from_secs(5));
    call(cri, timeout, message).await.map(drop)
}

/// The container's first process. The pid comes from the runtime's verbose status or from the workload's log. A pid may
/// belong to another pid namespace, so the process must also have the workload's start time or a cgroup that contains
/// the container's id.
async fn first_process(cri: &CriClient, id: &str) -> Option<ProcessId> {
    let response = container_status(cri, id, true).await.ok()?;
    let status = response.status?;
    if status.state() != ContainerState::ContainerRunning {
        return None;
    }
    let pid_from_runtime = response
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
        let pid = Some(*pid).filter(|pid| *pid > 0).map(Pid::from_raw)?;
        let kin = ProcStat::read(pid).ok().filter(|kin| !kin.is_dead())?;
        let cgroup_names_container = || {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            cgroup.is_ok_and(|text| text.contains(id))
        };
        (workload.start_time == Some(kin.id.start_time) || cgroup_names_container()).then_some(kin.id)
    };
    [pid_from_runtime, pid_from_log].iter().flatten().find_map(verified)
}

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
                why = format!("{action}, without effect; ");
            }
            Err(error) => why = format!("{error}; "),
        }
    }
    match stop(cri, id, Duration::ZERO).await {
        Ok(()) => Ok(format!("{why}stopped by StopContainer")),
        Err(error) => match first.filter(|first| first.is_alive()) {
            Some(first) => {
                let killed = kill(first.pid.into(), Signal::SIGKILL);
                killed.map_err(|errno| TargetError::NotReady(format!("{why}{error}; SIGKILL: {errno}")))?;
                Ok(format!(
                    "{why}StopContainer: {error}; SIGKILL sent to its first process"
                ))
            }
            None => Err(error),
        },
    }
}

/// Removes a container that may be frozen. Returns a note if it was.
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
    let message = RemoveContainerRequest {
        container_id: id.to_owned(),
    };
    let removed = call(cri, CALL_TIMEOUT, message);
    match removed.await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(note),
    }
}

pub(in crate::targets) async fn remove_pod(cri: &CriClient, id: &str) -> Result<(), TargetError> {
    let message = StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call(cri, CALL_TIMEOUT, message).await?;
    let message = RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call(cri, CALL_TIMEOUT, message).await.map(drop)
}
