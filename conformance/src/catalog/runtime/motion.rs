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
    case::Stop,
    target::{Workload, runtime::Container},
};

/// Many ticks long: only a container that stands still misses it.
const MOVES_WITHIN: Duration = Duration::from_secs(3);
/// How often the witnesses are asked. There is no event of a counter that moves.
const POLL: Duration = Duration::from_millis(10);
/// Returns to the processor that count as running on: a process that is just being stopped makes one or two.
const SWITCHES: u64 = 4;

/// What a container was like before.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// What its workload told.
    pub(super) workload: Workload,
    /// Its first process, where that can be seen from here.
    process: Option<ProcessId>,
}

/// What a container is like now.
#[derive(Clone, Debug)]
pub(super) struct Motion {
    /// It runs on.
    pub(super) moves: bool,
    /// Its first process is the one that it was.
    pub(super) same_process: bool,
    /// What holds it, where it does not run on and that can be seen.
    pub(super) hold: Option<String>,
    /// What the runtime says of it, or why it says nothing.
    pub(super) status: Result<ContainerState, String>,
}

impl Before {
    /// Looks at a container.
    pub(super) async fn of(s: &RuntimeSession, container: &Container) -> Result<Before, Stop> {
        Ok(Before {
            workload: s.runtime.workload(container).await?,
            process: s.runtime.process(container).await,
        })
    }

    /// Looks at it again, and lets it go where it is held.
    pub(super) async fn again(&self, s: &RuntimeSession, container: &Container) -> Result<Motion, Stop> {
        let status = match s.runtime.status(container).await {
            Ok(status) => Ok(status.state()),
            Err(error) => Err(error.to_string()),
        };
        let base = s.runtime.workload(container).await?;
        let switched = self.process.and_then(switches);
        let began = Instant::now();
        let (moves, same_process) = loop {
            let now = s.runtime.workload(container).await?;
            if !now.same_process(&self.workload) {
                break (true, false);
            }
            if let Some(process) = self.process.filter(|process| !process.alive()) {
                tracing::debug!(?process, "the container's first process has ended");
                break (false, false);
            }
            let witness = self.process.and_then(switches).zip(switched);
            let switched_on = witness.is_some_and(|(now, then)| now >= then + SWITCHES);
            if switched_on || now.tick >= base.tick + 2 {
                break (true, true);
            }
            if began.elapsed() > MOVES_WITHIN {
                // Without a look at the process only the runtime can tell one that ended from one that stands still.
                let ended = self.process.is_none() && status == Ok(ContainerState::ContainerExited);
                break (false, !ended);
            }
            tokio::time::sleep(POLL).await;
        };
        let mut hold = None;
        if !moves && same_process {
            let held = s.runtime.hold(container).await;
            hold = held.as_ref().map(ToString::to_string);
            s.runtime.thaw(container, held).await?;
        }
        Ok(Motion {
            moves,
            same_process,
            hold,
            status,
        })
    }
}

impl Motion {
    /// What the runtime says of it, in its own word.
    pub(super) fn status(&self) -> String {
        match &self.status {
            Ok(state) => state.as_str_name().to_owned(),
            Err(error) => error.clone(),
        }
    }

    /// That it stands still, by what, and what its status says meanwhile.
    pub(super) fn standstill(&self) -> String {
        let hold = self
            .hold
            .as_deref()
            .unwrap_or("nothing that can be seen from here holds it");
        format!(
            "it stands still for {} s: {hold}; its status says {}",
            MOVES_WITHIN.as_secs(),
            self.status()
        )
    }
}

/// How often a process has come back to the processor.
fn switches(process: ProcessId) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let count = |line: &str| line.rsplit_once(':')?.1.trim().parse::<u64>().ok();
    let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
    process.alive().then(|| lines.filter_map(count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_been_switched() {
        let process = ProcessId::current().unwrap();
        let before = switches(process).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(switches(process).unwrap() >= before);
        let gone = ProcessId {
            start_time: process.start_time + 1,
            ..process
        };
        assert_eq!(switches(gone), None);
    }
}
