//! After every case, thaws the containers of a kubelet under test that the runtime left frozen.
//!
//! Acts only on processes that are visible to the harness and have the workload's start time. Whether a container was
//! left frozen is not checked here: the cases check that while they run.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use fake_cri::process::{Pid, ProcessId, pstree::ProcStat};
use procfs::process::Process;

use super::{ContainerRef, Kubelet, Workload, freeze, pod};
use crate::evidence::{EvidenceKind, record};

#[derive(Debug, Default)]
pub(super) struct FrozenWatch {
    cgroups: OnceLock<freeze::CgroupMounts>,
    /// By container. `None` for a process that is not visible or cannot be thawed.
    processes: Mutex<HashMap<String, Option<ContainerProcess>>>,
    notes: Mutex<Vec<String>>,
}

#[derive(Clone, Debug)]
struct ContainerProcess {
    id: ProcessId,
    /// The ids in the path of the container's own cgroup. A cgroup with such a path contains no other Pod.
    cgroup_names: Vec<String>,
}

impl Kubelet {
    /// Thaws the container under test and its running sibling.
    pub async fn unfreeze_all(&self) {
        for container in [Some(&self.container_under_test), self.siblings.running.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Some(process) = self.process(container).await {
                self.unfreeze_container(container, &process).await;
            }
        }
    }

    /// One sentence for each container that was thawed, or could not be.
    pub fn unfreeze_notes(&self) -> Vec<String> {
        let notes = self.frozen_watch.notes.lock();
        notes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn unfreeze_container(&self, container: &ContainerRef, process: &ContainerProcess) {
        // A runtime may finish a checkpoint after its caller has cancelled it, and then rightly keeps the container
        // frozen.
        const CHECKPOINT_GRACE: Duration = Duration::from_secs(2);
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let cgroups = self.frozen_watch.cgroups.get_or_init(freeze::CgroupMounts::read);
        let names: Vec<_> = process.cgroup_names.iter().map(String::as_str).collect();
        let started_at = Instant::now();
        let cause = loop {
            match freeze::detect(cgroups, process.id.pid, &names) {
                // No runtime stops a container with a signal for a checkpoint.
                Some(cause @ freeze::FreezeCause::Stopped(_)) => break cause,
                Some(cause) if started_at.elapsed() >= CHECKPOINT_GRACE => break cause,
                Some(_) => tokio::time::sleep(POLL_INTERVAL).await,
                None => return,
            }
        };
        let note = match freeze::unfreeze(&cause) {
            Ok(action) => format!("container {container} was left frozen: {cause}; {action}"),
            Err(error) => {
                // Otherwise the harness would find and report the frozen container after every case.
                self.set_process(container, None);
                format!("container {container} was left frozen: {cause}; {error}")
            }
        };
        record(EvidenceKind::Note, || note.clone());
        let mut notes = self.frozen_watch.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note);
    }

    fn set_process(&self, container: &ContainerRef, process: Option<ContainerProcess>) {
        let mut processes = self
            .frozen_watch
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.insert(container.to_string(), process);
    }

    /// The first process of a container. A process that was not found is not searched for again: the container may be
    /// on another machine.
    async fn process(&self, container: &ContainerRef) -> Option<ContainerProcess> {
        let cached = {
            let processes = self
                .frozen_watch
                .processes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            processes.get(&container.to_string()).cloned()
        };
        match cached {
            Some(None) => return None,
            Some(Some(process)) if process.id.is_alive() => return Some(process),
            _ => {}
        }
        let process = self.find_process(container).await;
        self.set_process(container, process.clone());
        process
    }

    async fn find_process(&self, container: &ContainerRef) -> Option<ContainerProcess> {
        // A kubelet that does not respond must not delay the next case.
        const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
        let workload = tokio::time::timeout(RESPONSE_TIMEOUT, self.workload(container)).await;
        let id = host_process(&workload.ok()?.ok()?)?;
        let client = self.client().await;
        let names = tokio::time::timeout(RESPONSE_TIMEOUT, pod::cgroup_names(&client, container)).await;
        Some(ContainerProcess {
            id,
            cgroup_names: names.unwrap_or_default(),
        })
    }
}

/// The workload's process in the harness's pid namespace. The workload logs its pid in its own namespace.
fn host_process(workload: &Workload) -> Option<ProcessId> {
    let (ns_pid, start) = (i32::try_from(workload.pid?).ok()?, workload.start_time?);
    let matching_process = |process: Process| {
        let kin = ProcStat::read(Pid::from_raw(process.pid()))
            .ok()
            .filter(|kin| kin.id.start_time == start)?;
        (process.status().ok()?.nspid?.last() == Some(&ns_pid)).then_some(kin.id)
    };
    let same_namespace = Process::new(ns_pid).ok().and_then(matching_process);
    same_namespace.or_else(|| {
        procfs::process::all_processes()
            .ok()?
            .flatten()
            .find_map(matching_process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifies_a_process_by_pid_and_start_time() {
        let current = ProcessId::current().unwrap();
        let workload = |pid: i32, start| Workload {
            pid: u32::try_from(pid).ok(),
            start_time: Some(start),
            ..Workload::default()
        };
        assert_eq!(
            host_process(&workload(current.pid.as_raw(), current.start_time)),
            Some(current)
        );
        assert_eq!(
            host_process(&workload(current.pid.as_raw(), current.start_time + 1)),
            None
        );
        assert_eq!(host_process(&workload(1 << 23, current.start_time)), None);
        assert_eq!(host_process(&Workload::default()), None);
    }
}
