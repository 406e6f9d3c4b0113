//! Which processor a thread runs on.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::proc;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Keeps the calling thread off the processor that another thread ran on last. Dropped, it may run there again.
///
/// A thread that was woken by its tracer otherwise often waits until that gives way, since the kernel looks for a free processor
/// only among those that share a cache; so the two would work by turns where they could work at once.
#[derive(Debug)]
pub(crate) struct Aside {
    before: CpuSet,
}

impl Aside {
    /// Steps aside for a thread; `None` where there is no other processor to go to.
    pub(crate) fn of(tid: i32) -> Option<Self> {
        let its = usize::try_from(proc::stat(tid).ok()?.processor?).ok()?;
        let before = sched_getaffinity(SELF).ok()?;
        let mut others = before;
        others.unset(its).ok()?;
        let any = (0..CpuSet::count()).any(|cpu| others.is_set(cpu) == Ok(true));
        (any && sched_setaffinity(SELF, &others).is_ok()).then_some(Self { before })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Where that fails it goes on with what it has.
        let _ = sched_setaffinity(SELF, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_aside_and_comes_back() {
        let own = || sched_getaffinity(SELF).expect("affinity");
        let before = own();
        let pid = std::process::id().cast_signed();
        let its = usize::try_from(proc::stat(pid).expect("stat").processor.expect("a processor")).unwrap();
        let aside = Aside::of(pid);
        let others = (0..CpuSet::count()).filter(|cpu| *cpu != its && before.is_set(*cpu) == Ok(true));
        assert_eq!(aside.is_some(), others.count() > 0);
        if aside.is_some() {
            assert_ne!(own(), before);
        }
        drop(aside);
        assert_eq!(own(), before);
    }
}
