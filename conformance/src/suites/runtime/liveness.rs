//! Whether a container runs. Its status proves nothing; only activity of its processes does.
//!
//! One of two observations is enough: the heartbeat in the container's log moves, or the kernel has switched its first
//! process in again, if that process is visible from here. So a broken log does not make a running container look
//! frozen.

use std::time::{Duration, Instant};

use cri_proto::runtime::v1::ContainerState;
use fake_cri::process::ProcessId;
use procfs::process::Process;

use crate::{
    engine::NonPass,
    targets::{
        Workload,
        runtime::{ContainerHandle, Runtime},
    },
};

/// Many heartbeat intervals: only a frozen container exceeds it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Polling interval: no event reports a heartbeat.
const PROGRESS_POLL: Duration = Duration::from_millis(10);
/// Context switches that prove activity: a process that is just being stopped makes one or two.
const MIN_CONTEXT_SWITCHES: u64 = 4;

#[derive(Clone, Debug)]
pub(super) struct ContainerBefore {
    pub(super) workload: Workload,
    /// The first process, if visible from here.
    process: Option<ProcessId>,
}

#[derive(Clone, Debug)]
pub(super) struct Liveness {
    pub(super) running: bool,
    pub(super) same_process: bool,
    /// What freezes the container, if it is frozen and the cause is visible.
    pub(super) frozen_by: Option<String>,
    /// The state that the runtime reports, or the error of ContainerStatus.
    pub(super) status: Result<ContainerState, String>,
}

impl ContainerBefore {
    /// Records the current state of a container.
    pub(super) async fn observe(runtime: &Runtime, container: &ContainerHandle) -> Result<ContainerBefore, NonPass> {
        Ok(ContainerBefore {
            workload: runtime.workload(container).await?,
            process: runtime.first_process_of(container).await,
        })
    }

    /// Observes the container again, and thaws it if it is frozen.
    pub(super) async fn observe_liveness(
        &self,
        runtime: &Runtime,
        container: &ContainerHandle,
    ) -> Result<Liveness, NonPass> {
        let status = match runtime.status(container).await {
            Ok(status) => Ok(status.state()),
            Err(error) => Err(error.to_string()),
        };
        let first_reading = runtime.workload(container).await?;
        let switches_before = self.process.and_then(context_switches);
        let started = Instant::now();
        let (running, same_process) = loop {
            let now = runtime.workload(container).await?;
            if !now.same_process(&self.workload) {
                break (true, false);
            }
            if let Some(process) = self.process.filter(|process| !process.is_alive()) {
                tracing::debug!(?process, "the container's first process has ended");
                break (false, false);
            }
            let switch_counts = self.process.and_then(context_switches).zip(switches_before);
            let kept_switching = switch_counts.is_some_and(|(now, then)| now >= then + MIN_CONTEXT_SWITCHES);
            if kept_switching || now.heartbeat >= first_reading.heartbeat + 2 {
                break (true, true);
            }
            if started.elapsed() > PROGRESS_TIMEOUT {
                // If the process is not visible, only the runtime can distinguish an ended process from a frozen one.
                let ended = self.process.is_none() && status == Ok(ContainerState::ContainerExited);
                break (false, !ended);
            }
            tokio::time::sleep(PROGRESS_POLL).await;
        };
        let mut frozen_by = None;
        if !running && same_process {
            let freeze_cause = runtime.freeze_cause(container).await;
            frozen_by = freeze_cause.as_ref().map(ToString::to_string);
            runtime.unfreeze(container, freeze_cause).await?;
        }
        Ok(Liveness {
            running,
            same_process,
            frozen_by,
            status,
        })
    }
}

impl Liveness {
    /// The state in the CRI's spelling, or the error.
    pub(super) fn status(&self) -> String {
        match &self.status {
            Ok(state) => state.as_str_name().to_owned(),
            Err(error) => error.clone(),
        }
    }

    /// Describes a frozen container: cause and reported status.
    pub(super) fn describe_frozen(&self) -> String {
        let frozen_by = self.frozen_by.as_deref().unwrap_or("cause unknown");
        format!(
            "no activity for {} s: {frozen_by}; status {}",
            PROGRESS_TIMEOUT.as_secs(),
            self.status()
        )
    }
}

/// The number of context switches of a process; `None` if the process has ended.
fn context_switches(process: ProcessId) -> Option<u64> {
    let status = Process::new(process.pid.as_raw()).ok()?.status().ok()?;
    let switches = status.voluntary_ctxt_switches? + status.nonvoluntary_ctxt_switches?;
    process.is_alive().then_some(switches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_context_switches() {
        let process = ProcessId::current().unwrap();
        let before = context_switches(process).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(context_switches(process).unwrap() >= before);
        let gone = ProcessId {
            start_time: process.start_time + 1,
            ..process
        };
        assert_eq!(context_switches(gone), None);
    }
}
