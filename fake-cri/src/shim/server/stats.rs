//! The resource usage of the container.

use std::{io, time::Duration};

use nix::{
    time::clock_getcpuclockid,
    unistd::{SysconfVar, sysconf},
};

use super::{super::ShimStats, ShimServer, ShimStage};
use crate::process::pstree::{self, ProcStat};

/// CPU time of reaped processes.
#[derive(Default)]
pub(super) struct ReapedCpu {
    total: Duration,
    reported_max: Duration,
}

impl ReapedCpu {
    /// Adds the CPU time of a reaped process and of the children that it had reaped.
    pub(super) fn add(&mut self, cpu: Option<Duration>) {
        self.total += cpu.unwrap_or_default();
    }

    /// Returns the sum with the CPU time of running processes. Their clocks are finer than the times of reaped
    /// processes, so the sum could decrease slightly; the highest value is returned instead.
    fn total_with(&mut self, live_cpu: Duration) -> Duration {
        self.reported_max = self.reported_max.max(self.total + live_cpu);
        self.reported_max
    }
}

impl ShimServer {
    /// Returns the current resource usage; `None` when the container does not run.
    pub(super) fn stats(&mut self) -> io::Result<Option<ShimStats>> {
        let ShimStage::Running { started_at_ns, .. } = self.stage else {
            return Ok(None);
        };
        let mut members = self.members()?.container;
        members.retain(|stat| !self.shared.is_snapshot(stat.id.pid));
        let ticks = sysconf(SysconfVar::CLK_TCK)?
            .and_then(|ticks| u64::try_from(ticks).ok())
            .unwrap_or(100);
        let live_cpu: Duration = members.iter().map(|stat| cpu_time(stat, ticks)).sum();
        let rss_bytes = members.iter().map(|stat| pstree::resident_bytes(stat.id.pid)).sum();
        Ok(Some(ShimStats {
            cpu_ns: u64::try_from(self.reaped_cpu.total_with(live_cpu).as_nanos()).unwrap_or(u64::MAX),
            rss_bytes,
            started_at_ns,
            processes: members.iter().filter(|stat| !stat.is_dead()).count(),
        }))
    }
}

/// The CPU time of a process by its own clock (nanoseconds) and of the children that it has reaped (ticks).
fn cpu_time(stat: &ProcStat, ticks: u64) -> Duration {
    let clock_time = clock_getcpuclockid(stat.id.pid.into()).and_then(|clock| clock.now());
    let total = clock_time.map_or(Duration::ZERO, Duration::from);
    total + Duration::from_nanos(stat.children_cpu_ticks.saturating_mul(1_000_000_000 / ticks.max(1)))
}
