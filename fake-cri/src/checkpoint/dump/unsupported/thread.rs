//! Threads: state that images hold for the whole process only, or not at all.

use super::{DumperContext, SPECULATION_FIELDS, TaskCtx, affinity, differing_namespaces, namespaces, speculation};
use crate::process::{
    Tid,
    proc_files::{self, StatusText},
    syscalls::{self, KcmpType, kcmp_equal},
};

/// Objects that the threads of a process share, except after unshare(2) or with other flags of clone(2).
const SHARED_BY_CLONE: [(KcmpType, &str); 3] = [
    (KcmpType::Files, "descriptor table (CLONE_FILES)"),
    (KcmpType::Fs, "working directory, root and umask (CLONE_FS)"),
    (KcmpType::Sysvsem, "semaphore adjustments (CLONE_SYSVSEM)"),
];

impl DumperContext {
    /// Reports the state of a thread that differs from the dumper's, or from that of its process (`proc_tid`).
    pub(in super::super) fn report_thread(&self, task: &mut TaskCtx<'_>, tid: Tid, status: Option<&StatusText>) {
        let differs = |of_dumper: &Option<String>, name| {
            let of_thread = proc_files::read_text(tid, name).ok();
            of_thread.filter(|its| of_dumper.as_ref() != Some(its))
        };
        if let Some(cgroups) = differs(&self.cgroups, "cgroup") {
            task.unsupported(format_args!(
                "the cgroups of thread {tid} ({})",
                cgroups.replace('\n', ", ")
            ));
        }
        if let Some(slack) = differs(&self.timer_slack, "timerslack_ns") {
            task.unsupported(format_args!("the timer slack of thread {tid} ({slack} ns)"));
        }
        if affinity(tid) != self.affinity {
            task.unsupported(format_args!("the CPU affinity of thread {tid}"));
        }
        if tid != task.proc_tid {
            report_unshared(task, tid);
        }
        self.report_cpu_state(task, tid, status);
    }

    /// Reports CPU and scheduler settings of a thread that images cannot hold.
    fn report_cpu_state(&self, task: &mut TaskCtx<'_>, tid: Tid, status: Option<&StatusText>) {
        if let Ok((min_clamp, max_clamp)) = syscalls::uclamp(tid)
            && self
                .util_clamp
                .is_some_and(|of_dumper| of_dumper != (min_clamp, max_clamp))
        {
            task.unsupported(format_args!(
                "the utilization clamp of thread {tid} ({min_clamp} to {max_clamp} of 1024)"
            ));
        }
        if syscalls::core_cookie(tid).is_ok_and(|cookie| self.core_cookie.is_some_and(|of_dumper| of_dumper != cookie))
        {
            task.unsupported(format_args!(
                "the core scheduling cookie of thread {tid} (PR_SCHED_CORE)"
            ));
        }
        let Some(status) = status else {
            return;
        };
        if let Some(features) = status
            .line("x86_Thread_features:")
            .filter(|features| !features.is_empty())
        {
            task.unsupported(format_args!("the enabled CPU features of thread {tid} ({features})"));
        }
        // A seccomp filter may disable speculation by itself, and does so again when it is restored.
        if status.value("Seccomp:").is_some_and(|mode| mode != 0) {
            return;
        }
        let pairs = self.speculation.iter().zip(speculation(status));
        for (name, (of_dumper, of_thread)) in SPECULATION_FIELDS.iter().zip(pairs) {
            if let Some(value) = of_thread.filter(|its| of_dumper.as_ref().is_some_and(|of_dumper| of_dumper != its)) {
                task.unsupported(format_args!("the speculation control of thread {tid} ({name} {value})"));
            }
        }
    }
}

/// Reports objects that a thread does not share with its process.
fn report_unshared(task: &mut TaskCtx<'_>, tid: Tid) {
    let proc_tid = task.proc_tid;
    for (kcmp_type, name) in SHARED_BY_CLONE {
        if kcmp_equal(proc_tid, tid, kcmp_type) == Some(false) {
            task.unsupported(format_args!("thread {tid} has its own {name}"));
        }
    }
    let differing = differing_namespaces(&namespaces(proc_tid), &namespaces(tid));
    if !differing.is_empty() {
        let names = differing.join(", ");
        task.unsupported(format_args!("the namespaces of thread {tid} ({names})"));
    }
    let personality = |tid| proc_files::read_text(tid, "personality").ok();
    if let Some(of_thread) =
        personality(tid).filter(|its| personality(proc_tid).is_some_and(|of_leader| of_leader != *its))
    {
        task.unsupported(format_args!("the personality of thread {tid} ({of_thread})"));
    }
}
