//! The CPU affinity of the tracer.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Tid, proc_files};

const CALLING_THREAD: nix::unistd::Pid = nix::unistd::Pid::from_raw(0);

/// Keeps the calling thread off the CPU that another thread last ran on. Drop restores the affinity.
///
/// Without this guard, a thread that its tracer wakes often waits until the tracer sleeps, because the scheduler
/// searches for an idle CPU only among those that share a cache. Tracer and tracee would then take turns instead of
/// running at the same time.
#[derive(Debug)]
pub(crate) struct AvoidCpuGuard {
    previous: CpuSet,
}

impl AvoidCpuGuard {
    /// Returns `None` when the calling thread may run on no other CPU.
    pub(crate) fn of_task(tid: Tid) -> Option<Self> {
        let avoided_cpu = usize::try_from(proc_files::stat(tid).ok()?.processor?).ok()?;
        let previous = sched_getaffinity(CALLING_THREAD).ok()?;
        let mut other_cpus = previous;
        other_cpus.unset(avoided_cpu).ok()?;
        let has_other_cpu = (0..CpuSet::count()).any(|cpu| other_cpus.is_set(cpu) == Ok(true));
        (has_other_cpu && sched_setaffinity(CALLING_THREAD, &other_cpus).is_ok()).then_some(Self { previous })
    }
}

impl Drop for AvoidCpuGuard {
    fn drop(&mut self) {
        // If this fails, the thread keeps the reduced affinity.
        let _ = sched_setaffinity(CALLING_THREAD, &self.previous);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avoided_cpu_is_allowed_again() {
        let affinity = || sched_getaffinity(CALLING_THREAD).expect("affinity");
        let previous = affinity();
        let tid = Tid::current();
        let avoided_cpu =
            usize::try_from(proc_files::stat(tid).expect("stat").processor.expect("a processor")).unwrap();
        let guard = AvoidCpuGuard::of_task(tid);
        let other_cpus = (0..CpuSet::count()).filter(|cpu| *cpu != avoided_cpu && previous.is_set(*cpu) == Ok(true));
        assert_eq!(guard.is_some(), other_cpus.count() > 0);
        if guard.is_some() {
            assert_ne!(affinity(), previous);
        }
        drop(guard);
        assert_eq!(affinity(), previous);
    }
}
