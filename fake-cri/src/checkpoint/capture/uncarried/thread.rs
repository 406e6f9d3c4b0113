//! Of a thread: what images hold for the whole process alone, and what they do not hold at all.

use super::{SPECULATION, Surroundings, affinity, differing, namespaces, speculation};
use crate::{
    checkpoint::log::DumpLog,
    process::{
        kernel::{self, Shared, share},
        proc::{self, StatusText},
    },
};

/// What the threads of a process share unless one of them left it (unshare(2)), or was made without it (clone(2)).
const SHARED: [(Shared, &str); 3] = [
    (Shared::Descriptors, "a table of descriptors (CLONE_FILES)"),
    (Shared::FileSystem, "a working directory, a root and a umask (CLONE_FS)"),
    (Shared::SemaphoreUndo, "adjustments of semaphores (CLONE_SYSVSEM)"),
];

impl Surroundings {
    /// Says what a thread has that is another than the dumping process has, or than its own process, which is seen through the
    /// thread `window`.
    pub(in super::super) fn thread(
        &self,
        (pid, window, tid): (i32, i32, i32),
        status: Option<&StatusText>,
        log: &mut DumpLog,
    ) {
        let differs = |own: &Option<String>, name| {
            let its = proc::text(tid, name).ok();
            its.filter(|its| own.as_ref() != Some(its))
        };
        if let Some(cgroups) = differs(&self.cgroups, "cgroup") {
            log.lost(format_args!(
                "pid {pid}: the cgroups of thread {tid} ({})",
                cgroups.replace('\n', ", ")
            ));
        }
        if let Some(slack) = differs(&self.slack, "timerslack_ns") {
            log.lost(format_args!("pid {pid}: the timer slack of thread {tid} ({slack} ns)"));
        }
        if affinity(tid) != self.affinity {
            log.lost(format_args!("pid {pid}: the processors that thread {tid} may run on"));
        }
        if tid != window {
            of_its_own((pid, window, tid), log);
        }
        self.processor((pid, tid), status, log);
    }

    /// Says what a thread has chosen of the processor and of the scheduler beyond what images hold.
    fn processor(&self, (pid, tid): (i32, i32), status: Option<&StatusText>, log: &mut DumpLog) {
        if let Ok((least, most)) = kernel::utilization_clamp(tid)
            && self.utilization.is_some_and(|own| own != (least, most))
        {
            log.lost(format_args!(
                "pid {pid}: the utilization that thread {tid} is taken for ({least} to {most} of 1024)"
            ));
        }
        if kernel::core_cookie(tid).is_ok_and(|cookie| self.core_cookie.is_some_and(|own| own != cookie)) {
            log.lost(format_args!(
                "pid {pid}: with whom thread {tid} may share a core (PR_SCHED_CORE)"
            ));
        }
        let Some(status) = status else {
            return;
        };
        if let Some(features) = status
            .line("x86_Thread_features:")
            .filter(|features| !features.is_empty())
        {
            log.lost(format_args!(
                "pid {pid}: the features of the processor that thread {tid} has on ({features})"
            ));
        }
        // A filter may switch speculation off by itself, and does so again when it is restored.
        if status.number("Seccomp:").is_some_and(|mode| mode != 0) {
            return;
        }
        let pairs = self.speculation.iter().zip(speculation(status));
        for (name, (own, its)) in SPECULATION.iter().zip(pairs) {
            if let Some(its) = its.filter(|its| own.as_ref().is_some_and(|own| own != its)) {
                log.lost(format_args!(
                    "pid {pid}: the control of speculation of thread {tid} ({name} {its})"
                ));
            }
        }
    }
}

/// Says what a thread does not share with its process.
fn of_its_own((pid, window, tid): (i32, i32, i32), log: &mut DumpLog) {
    for (what, name) in SHARED {
        if share(window, tid, what) == Some(false) {
            log.lost(format_args!("pid {pid}: that thread {tid} has {name} of its own"));
        }
    }
    let other = differing(&namespaces(window), &namespaces(tid));
    if !other.is_empty() {
        let names = other.join(", ");
        log.lost(format_args!("pid {pid}: the namespaces of thread {tid} ({names})"));
    }
    let personality = |tid| proc::text(tid, "personality").ok();
    if let Some(its) = personality(tid).filter(|its| personality(window).is_some_and(|own| own != *its)) {
        log.lost(format_args!("pid {pid}: the personality of thread {tid} ({its})"));
    }
}
