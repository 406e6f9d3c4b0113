//! Lets the containers of a judged kubelet go that its runtime left frozen, after every case.
//!
//! Only processes that can be seen from here, and are proven to be the workload's by their start time. Whether one was left
//! frozen is judged before: a case looks at the container while it has it checkpointed.

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use fake_cri::process::{ProcessId, family::Kin};

use super::{ContainerRef, Kubelet, Workload, freeze, pod};
use crate::exhibit::{ExhibitKind, show};

/// What is known of the processes, and what was done.
#[derive(Debug, Default)]
pub(super) struct Watched {
    cgroups: OnceLock<freeze::Cgroups>,
    /// By container; none that cannot be seen or let go.
    processes: Mutex<HashMap<String, Option<Process>>>,
    thawed: Mutex<Vec<String>>,
}

/// The first process of a container.
#[derive(Clone, Debug)]
struct Process {
    id: ProcessId,
    /// What the path of its cgroup may be called after: only such cgroups hold nobody else.
    names: Vec<String>,
}

impl Kubelet {
    /// Lets go what was left frozen.
    pub async fn thaw(&self) {
        for container in [Some(&self.subject), self.neighbours.running.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Some(process) = self.process(container).await {
                self.thaw_one(container, &process).await;
            }
        }
    }

    /// What was let go, a sentence each.
    pub fn thawed(&self) -> Vec<String> {
        let thawed = self.watched.thawed.lock();
        thawed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn thaw_one(&self, container: &ContainerRef, process: &Process) {
        // A runtime that goes on with a checkpoint which its caller has given up holds its container rightly.
        const UNDER_WAY: Duration = Duration::from_secs(2);
        const POLL: Duration = Duration::from_millis(20);
        let cgroups = self.watched.cgroups.get_or_init(freeze::Cgroups::look);
        let names: Vec<_> = process.names.iter().map(String::as_str).collect();
        let began = Instant::now();
        let held = loop {
            match freeze::hold(cgroups, process.id.pid, &names) {
                // No checkpoint stops by a signal in passing.
                Some(held @ freeze::Hold::Stopped(_)) => break held,
                Some(held) if began.elapsed() >= UNDER_WAY => break held,
                Some(_) => tokio::time::sleep(POLL).await,
                None => return,
            }
        };
        let text = match freeze::release(&held) {
            Ok(done) => format!("container {container} was left frozen: {held}; {done}"),
            Err(error) => {
                // It would be found after every case.
                self.know(container, None);
                format!("container {container} was left frozen: {held}; {error}")
            }
        };
        show(ExhibitKind::Note, || text.clone());
        let mut thawed = self.watched.thawed.lock().unwrap_or_else(PoisonError::into_inner);
        thawed.push(text);
    }

    fn know(&self, container: &ContainerRef, process: Option<Process>) {
        let mut processes = self.watched.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.insert(container.to_string(), process);
    }

    /// The first process of a container. Who cannot be found once is not looked for again: it may be on another machine.
    async fn process(&self, container: &ContainerRef) -> Option<Process> {
        let known = {
            let processes = self.watched.processes.lock().unwrap_or_else(PoisonError::into_inner);
            processes.get(&container.to_string()).cloned()
        };
        match known {
            Some(None) => return None,
            Some(Some(process)) if process.id.alive() => return Some(process),
            _ => {}
        }
        let found = self.find(container).await;
        self.know(container, found.clone());
        found
    }

    async fn find(&self, container: &ContainerRef) -> Option<Process> {
        // A kubelet that no longer answers must not hold up the next case.
        const ANSWER_WITHIN: Duration = Duration::from_secs(2);
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.workload(container)).await;
        let id = visible(&asked.ok()?.ok()?)?;
        let client = self.client().await;
        let names = tokio::time::timeout(ANSWER_WITHIN, pod::names(&client, container)).await;
        Some(Process {
            id,
            names: names.unwrap_or_default(),
        })
    }
}

/// The process that a workload tells of, as it is numbered here: it may see itself in a namespace of its own.
fn visible(workload: &Workload) -> Option<ProcessId> {
    let (number, start) = (i32::try_from(workload.pid?).ok()?, workload.start?);
    let is_it = |pid: i32| {
        let kin = Kin::of(pid).ok().filter(|kin| kin.id.start_time == start)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        (numbers.split_ascii_whitespace().next_back() == Some(&number.to_string())).then_some(kin.id)
    };
    is_it(number).or_else(|| {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find_map(is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_not_by_its_number_alone() {
        let own = ProcessId::current().unwrap();
        let workload = |pid: i32, start| Workload {
            pid: u32::try_from(pid).ok(),
            start: Some(start),
            ..Workload::default()
        };
        assert_eq!(visible(&workload(own.pid, own.start_time)), Some(own));
        assert_eq!(visible(&workload(own.pid, own.start_time + 1)), None);
        assert_eq!(visible(&workload(1 << 23, own.start_time)), None);
        assert_eq!(visible(&Workload::default()), None);
    }
}
