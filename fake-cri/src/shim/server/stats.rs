//! What the container uses.

use std::{io, time::Duration};

use nix::{
    time::clock_getcpuclockid,
    unistd::{Pid, SysconfVar, sysconf},
};

use super::{super::Stats, Server, Stage};
use crate::process::family::{self, Kin};

/// CPU time that no living process can tell any more.
#[derive(Default)]
pub(super) struct Spent {
    reaped: Duration,
    told: Duration,
}

impl Spent {
    /// A process was reaped that had used so much, with those it had reaped itself.
    pub(super) fn add(&mut self, cpu: Option<Duration>) {
        self.reaped += cpu.unwrap_or_default();
    }

    /// The sum with what the living have used. The clocks of the living are finer than what a reaped one leaves, so the sum
    /// could fall by a little: it is held.
    fn total(&mut self, living: Duration) -> Duration {
        self.told = self.told.max(self.reaped + living);
        self.told
    }
}

impl Server {
    /// What the container uses now; `None` when it does not run.
    pub(super) fn stats(&mut self) -> io::Result<Option<Stats>> {
        let Stage::Running { started_at_ns, .. } = self.stage else {
            return Ok(None);
        };
        let mut members = self.members()?.container;
        members.retain(|kin| !self.shared.is_copy(kin.id.pid));
        let ticks = sysconf(SysconfVar::CLK_TCK)?
            .and_then(|ticks| u64::try_from(ticks).ok())
            .unwrap_or(100);
        let living: Duration = members.iter().map(|kin| cpu(kin, ticks)).sum();
        let rss_bytes = members.iter().map(|kin| family::resident_bytes(kin.id.pid)).sum();
        Ok(Some(Stats {
            cpu_ns: u64::try_from(self.spent.total(living).as_nanos()).unwrap_or(u64::MAX),
            rss_bytes,
            started_at_ns,
            processes: members.iter().filter(|kin| !kin.ended()).count(),
        }))
    }
}

/// CPU time of a process by its own clock, in nanoseconds, and that of the children it has reaped, in ticks.
fn cpu(kin: &Kin, ticks: u64) -> Duration {
    let own = clock_getcpuclockid(Pid::from_raw(kin.id.pid)).and_then(|clock| clock.now());
    let own = own.map_or(Duration::ZERO, Duration::from);
    own + Duration::from_nanos(kin.children_ticks.saturating_mul(1_000_000_000 / ticks.max(1)))
}
