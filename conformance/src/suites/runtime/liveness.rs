//! Whether a container runs: that its status says so proves nothing, only what its processes do does.
//!
//! Two witnesses, of which one is enough: the counter in the container's log moves, or the kernel has switched its first
//! process in and out again, where that can be seen from here. So a log that is broken does not make a running container a
//! frozen one.

use std::{
    fs,
    time::{Duration, Instant},
};

use cri_proto::runtime::v1::ContainerState;
use fake_cri::process::ProcessId;

use super::session::RuntimeSession;
use crate::{
    engine::NonPass,
    targets::{Workload, runtime::ContainerHandle},
};

/// Many heartbeats long: only a container that stands still misses it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the witnesses are asked. There is no event of a counter that moves.
const PROGRESS_POLL: Duration = Duration::from_millis(10);
/// Returns to the processor that count as running on: a process that is just being stopped makes one or two.
const MIN_CONTEXT_SWITCHES: u64 = 4;

/// What a container was like before.
#[derive(Clone, Debug)]
pub(super) struct ContainerBefore {
    /// What its workload told.
    pub(super) workload: Workload,
    /// Its first process, where that can be seen from here.
    process: Option<ProcessId>,
}

/// What a container is like now.
#[derive(Clone, Debug)]
pub(super) struct Liveness {
    /// It runs on.
    pub(super) running: bool,
    /// Its first process is the one that it was.
    pub(super) same_process: bool,
    /// What holds it, where it does not run on and that can be seen.
    pub(super) frozen_by: Option<String>,
    /// What the runtime says of it, or why it says nothing.
    pub(super) status: Result<ContainerState, String>,
}

impl ContainerBefore {
    /// Looks at a container.
    pub(super) async fn observe(s: &RuntimeSession, container: &ContainerHandle) -> Result<ContainerBefore, NonPass> {
        Ok(ContainerBefore {
            workload: s.runtime.workload(container).await?,
            process: s.runtime.first_process_of(container).await,
        })
    }

    /// Looks at it again, and lets it go where it is held.
    pub(super) async fn observe_liveness(
        &self,
        s: &RuntimeSession,
        container: &ContainerHandle,
    ) -> Result<Liveness, NonPass> {
        let status = match s.runtime.status(container).await {
            Ok(status) => Ok(status.state()),
            Err(error) => Err(error.to_string()),
        };
        let first_reading = s.runtime.workload(container).await?;
        let switches_before = self.process.and_then(context_switches);
        let started = Instant::now();
        let (running, same_process) = loop {
            let now = s.runtime.workload(container).await?;
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
                // Without a look at the process only the runtime can tell one that ended from one that stands still.
                let ended = self.process.is_none() && status == Ok(ContainerState::ContainerExited);
                break (false, !ended);
            }
            tokio::time::sleep(PROGRESS_POLL).await;
        };
        let mut frozen_by = None;
        if !running && same_process {
            let freeze_cause = s.runtime.freeze_cause(container).await;
            frozen_by = freeze_cause.as_ref().map(ToString::to_string);
            s.runtime.unfreeze(container, freeze_cause).await?;
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
    /// What the runtime says of it, in its own word.
    pub(super) fn status(&self) -> String {
        match &self.status {
            Ok(state) => state.as_str_name().to_owned(),
            Err(error) => error.clone(),
        }
    }

    /// That it stands still, by what, and what its status says meanwhile.
    pub(super) fn describe_frozen(&self) -> String {
        let frozen_by = self
            .frozen_by
            .as_deref()
            .unwrap_or("nothing that can be seen from here holds it");
        format!(
            "it stands still for {} s: {frozen_by}; its status says {}",
            PROGRESS_TIMEOUT.as_secs(),
            self.status()
        )
    }
}

/// How often a process has come back to the processor.
fn context_switches(process: ProcessId) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let count = |line: &str| line.rsplit_once(':')?.1.trim().parse::<u64>().ok();
    let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
    process.is_alive().then(|| lines.filter_map(count).sum())
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
