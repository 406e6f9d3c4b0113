//! Of a thread: what images hold for the whole process alone, and what they do not hold at all.

use super::{DumperContext, SPECULATION_FIELDS, affinity, differing_namespaces, namespaces, speculation};
use crate::{
    checkpoint::dump_log::DumpLog,
    process::{
        proc_files::{self, StatusText},
        syscalls::{self, KcmpType, kcmp_equal},
    },
};

/// What the threads of a process share unless one of them left it (unshare(2)), or was made without it (clone(2)).
const SHARED_BY_CLONE: [(KcmpType, &str); 3] = [
    (KcmpType::Files, "a table of descriptors (CLONE_FILES)"),
    (KcmpType::Fs, "a working directory, a root and a umask (CLONE_FS)"),
    (KcmpType::Sysvsem, "adjustments of semaphores (CLONE_SYSVSEM)"),
];

impl DumperContext {
    /// Says what a thread has that is another than the dumping process has, or than its own process, which is seen through the
    /// thread `proc_tid`.
    pub(in super::super) fn report_thread(
        &self,
        (pid, proc_tid, tid): (i32, i32, i32),
        status: Option<&StatusText>,
        log: &mut DumpLog,
    ) {
        let differs = |of_dumper: &Option<String>, name| {
            let of_thread = proc_files::read_text(tid, name).ok();
            of_thread.filter(|its| of_dumper.as_ref() != Some(its))
        };
        if let Some(cgroups) = differs(&self.cgroups, "cgroup") {
            log.unsupported(format_args!(
                "pid {pid}: the cgroups of thread {tid} ({})",
                cgroups.replace('\n', ", ")
            ));
        }
        if let Some(slack) = differs(&self.timer_slack, "timerslack_ns") {
            log.unsupported(format_args!("pid {pid}: the timer slack of thread {tid} ({slack} ns)"));
        }
        if affinity(tid) != self.affinity {
            log.unsupported(format_args!("pid {pid}: the processors that thread {tid} may run on"));
        }
        if tid != proc_tid {
            report_unshared((pid, proc_tid, tid), log);
        }
        self.report_cpu_state((pid, tid), status, log);
    }

    /// Says what a thread has chosen of the processor and of the scheduler beyond what images hold.
    fn report_cpu_state(&self, (pid, tid): (i32, i32), status: Option<&StatusText>, log: &mut DumpLog) {
        if let Ok((min_clamp, max_clamp)) = syscalls::uclamp(tid)
            && self
                .util_clamp
                .is_some_and(|of_dumper| of_dumper != (min_clamp, max_clamp))
        {
            log.unsupported(format_args!(
                "pid {pid}: the utilization that thread {tid} is taken for ({min_clamp} to {max_clamp} of 1024)"
            ));
        }
        if syscalls::core_cookie(tid).is_ok_and(|cookie| self.core_cookie.is_some_and(|of_dumper| of_dumper != cookie))
        {
            log.unsupported(format_args!(
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
            log.unsupported(format_args!(
                "pid {pid}: the features of the processor that thread {tid} has on ({features})"
            ));
        }
        // A filter may switch speculation off by itself, and does so again when it is restored.
        if status.value("Seccomp:").is_some_and(|mode| mode != 0) {
            return;
        }
        let pairs = self.speculation.iter().zip(speculation(status));
        for (name, (of_dumper, of_thread)) in SPECULATION_FIELDS.iter().zip(pairs) {
            if let Some(value) = of_thread.filter(|its| of_dumper.as_ref().is_some_and(|of_dumper| of_dumper != its)) {
                log.unsupported(format_args!(
                    "pid {pid}: the control of speculation of thread {tid} ({name} {value})"
                ));
            }
        }
    }
}

/// Says what a thread does not share with its process.
fn report_unshared((pid, proc_tid, tid): (i32, i32, i32), log: &mut DumpLog) {
    for (kcmp_type, name) in SHARED_BY_CLONE {
        if kcmp_equal(proc_tid, tid, kcmp_type) == Some(false) {
            log.unsupported(format_args!("pid {pid}: that thread {tid} has {name} of its own"));
        }
    }
    let differing = differing_namespaces(&namespaces(proc_tid), &namespaces(tid));
    if !differing.is_empty() {
        let names = differing.join(", ");
        log.unsupported(format_args!("pid {pid}: the namespaces of thread {tid} ({names})"));
    }
    let personality = |tid| proc_files::read_text(tid, "personality").ok();
    if let Some(of_thread) =
        personality(tid).filter(|its| personality(proc_tid).is_some_and(|of_leader| of_leader != *its))
    {
        log.unsupported(format_args!("pid {pid}: the personality of thread {tid} ({of_thread})"));
    }
}
