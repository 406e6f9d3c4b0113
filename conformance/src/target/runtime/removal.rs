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
use fake_cri::process::{ProcessId, family::Kin};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ANSWER_WITHIN, Container, Cri, Hold, Made, Runtime, call, freeze, read_log};
use crate::{
    exhibit::{ExhibitKind, show},
    target::TargetError,
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
    pub async fn stop(&self, container: &Container, grace: Duration) -> Result<(), TargetError> {
        stop(&self.cri, container.id(), grace).await
    }

    /// The container's first process as this machine sees it; `None` where it cannot be seen from here.
    pub async fn process(&self, container: &Container) -> Option<ProcessId> {
        first_process(&self.cri, container.id()).await
    }

    /// What holds the container still, as far as that can be seen; ask only when no checkpoint is under way.
    pub async fn hold(&self, container: &Container) -> Option<Hold> {
        let first = self.process(container).await?;
        freeze::hold(&self.cgroups, first.pid, &[container.id(), container.pod().id()])
    }

    /// Lets a container go that the runtime left frozen, and notes it. Where that does not help, it is stopped. Returns how
    /// it was found and what was done.
    ///
    /// # Errors
    /// It neither runs nor ends.
    pub async fn thaw(&self, container: &Container, held: Option<Hold>) -> Result<String, TargetError> {
        let names = [container.id(), container.pod().id()];
        let first = self.process(container).await;
        let found = held
            .as_ref()
            .map_or_else(|| "its counter stands still".to_owned(), Hold::to_string);
        let done = release_or_stop(&self.cri, &self.cgroups, container.id(), first, &names, held).await?;
        let text = format!("container {container} was left frozen: {found}; {done}");
        show(ExhibitKind::Note, || text.clone());
        let mut thawed = self.thawed.lock().unwrap_or_else(PoisonError::into_inner);
        thawed.push(text.clone());
        Ok(text)
    }

    /// Puts the runtime back after a case: takes faults back, removes what nobody has a handle of any more, and lets go what
    /// was left frozen.
    ///
    /// # Errors
    /// Something could not be removed or let go.
    pub async fn restore(&self) -> Result<(), TargetError> {
        if let Some(faults) = &self.faults {
            faults.clear().await?;
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut pods = Vec::new();
        for made in made {
            match made {
                Made::Container(id, handle) => match handle.upgrade() {
                    Some(inner) => self.check(&Container(inner)).await?,
                    None => {
                        self.remove_container(&id).await?;
                        self.forget(&id);
                    }
                },
                Made::Pod(id, handle) if handle.strong_count() == 0 => pods.push(id),
                Made::Pod(..) => {}
            }
        }
        for id in pods {
            remove_pod(&self.cri, &id).await?;
            self.forget(&id);
        }
        Ok(())
    }

    /// Lets a container go that others use as well, if it stands still and should not.
    async fn check(&self, container: &Container) -> Result<(), TargetError> {
        if container.is_busy() {
            return Ok(());
        }
        match self.hold(container).await {
            Some(held) if !container.is_busy() => self.thaw(container, Some(held)).await.map(drop),
            _ => Ok(()),
        }
    }

    fn forget(&self, gone: &str) {
        let mut list = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|made| {
            let (Made::Pod(id, _) | Made::Container(id, _)) = made;
            id != gone
        });
    }

    /// Removes a container, and lets it go first: what is frozen cannot even be killed.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), TargetError> {
        let removed = remove_container(&self.cri, &self.cgroups, id).await?;
        if let Some(how) = removed {
            let mut thawed = self.thawed.lock().unwrap_or_else(PoisonError::into_inner);
            thawed.push(how);
        }
        Ok(())
    }
}

async fn container_status(cri: &Cri, id: &str, verbose: bool) -> Result<ContainerStatusResponse, TargetError> {
    let mut client = cri.runtime();
    let ask = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose,
    };
    call("ContainerStatus", ANSWER_WITHIN, ask, |request| async move {
        client.container_status(request).await
    })
    .await
}

async fn stop(cri: &Cri, id: &str, grace: Duration) -> Result<(), TargetError> {
    let mut client = cri.runtime();
    let ask = StopContainerRequest {
        container_id: id.to_owned(),
        timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
    };
    let within = ANSWER_WITHIN.min(grace + Duration::from_secs(5));
    call("StopContainer", within, ask, |request| async move {
        client.stop_container(request).await
    })
    .await
    .map(drop)
}

/// The first process of a container: by the pid that the runtime tells, or the one that the workload tells in its log, if
/// that is the same process here. A pid alone proves nothing: it may be of another pid namespace.
async fn first_process(cri: &Cri, id: &str) -> Option<ProcessId> {
    let answer = container_status(cri, id, true).await.ok()?;
    let status = answer.status?;
    if status.state() != ContainerState::ContainerRunning {
        return None;
    }
    let by_runtime = answer
        .info
        .values()
        .find_map(|text| {
            serde_json::from_str::<serde_json::Value>(text)
                .ok()?
                .get("pid")?
                .as_i64()
        })
        .and_then(|pid| i32::try_from(pid).ok());
    let told = read_log(&PathBuf::from(&status.log_path)).await.unwrap_or_default();
    let by_itself = told.pid.and_then(|pid| i32::try_from(pid).ok());
    let proven = |pid: &i32| {
        let kin = Kin::of(*pid).ok().filter(|kin| *pid > 0 && !kin.ended())?;
        let in_its_cgroup = || {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            cgroup.is_ok_and(|text| text.contains(id))
        };
        (told.start == Some(kin.id.start_time) || in_its_cgroup()).then_some(kin.id)
    };
    [by_runtime, by_itself].iter().flatten().find_map(proven)
}

/// Lets a container go, or ends it where that does not help.
async fn release_or_stop(
    cri: &Cri,
    cgroups: &freeze::Cgroups,
    id: &str,
    first: Option<ProcessId>,
    names: &[&str],
    held: Option<Hold>,
) -> Result<String, TargetError> {
    const LET_GO_WITHIN: Duration = Duration::from_secs(2);
    const POLL: Duration = Duration::from_millis(10);
    let mut why = String::new();
    if let (Some(first), Some(held)) = (first, held) {
        match freeze::release(&held) {
            Ok(done) => {
                let began = std::time::Instant::now();
                while began.elapsed() < LET_GO_WITHIN {
                    if freeze::hold(cgroups, first.pid, names).is_none() {
                        return Ok(done.to_owned());
                    }
                    tokio::time::sleep(POLL).await;
                }
                why = format!("{done}, in vain; ");
            }
            Err(error) => why = format!("{error}; "),
        }
    }
    match stop(cri, id, Duration::ZERO).await {
        Ok(()) => Ok(format!("{why}stopped by StopContainer")),
        Err(error) => match first.filter(|first| first.alive()) {
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
    cri: &Cri,
    cgroups: &freeze::Cgroups,
    id: &str,
) -> Result<Option<String>, TargetError> {
    let mut how = None;
    if let Some(first) = first_process(cri, id).await
        && let Some(held) = freeze::hold(cgroups, first.pid, &[id])
    {
        let found = held.to_string();
        let done = release_or_stop(cri, cgroups, id, Some(first), &[id], Some(held)).await?;
        how = Some(format!("container {id} was left frozen: {found}; {done}"));
    }
    let gone = |error: &TargetError| {
        matches!(
            error,
            TargetError::Runtime {
                code: tonic::Code::NotFound,
                ..
            }
        )
    };
    match stop(cri, id, Duration::ZERO).await {
        Err(error) if !gone(&error) => tracing::debug!(%error, id, "failed to stop a container before its removal"),
        _ => {}
    }
    let mut client = cri.runtime();
    let ask = RemoveContainerRequest {
        container_id: id.to_owned(),
    };
    let removed = call("RemoveContainer", ANSWER_WITHIN, ask, |request| async move {
        client.remove_container(request).await
    });
    match removed.await {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(how),
    }
}

/// Stops and removes a Pod sandbox with all that is in it.
pub(super) async fn remove_pod(cri: &Cri, id: &str) -> Result<(), TargetError> {
    let mut client = cri.runtime();
    let ask = StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call("StopPodSandbox", ANSWER_WITHIN, ask, |request| async move {
        client.stop_pod_sandbox(request).await
    })
    .await?;
    let mut client = cri.runtime();
    let ask = RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    call("RemovePodSandbox", ANSWER_WITHIN, ask, |request| async move {
        client.remove_pod_sandbox(request).await
    })
    .await
    .map(drop)
}
