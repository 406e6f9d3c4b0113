//! Reports state that no image can hold, or that is dumped without it, so that `dump.log` names it. `docs/STATE.md`
//! lists all of it.
//!
//! A restore without images of cgroups, namespaces and LSM labels leaves the container in those of the restorer. So a
//! process is compared with the dumper: a process in the dumper's namespaces and cgroups loses nothing. State that
//! threads share with their process is compared with the thread `proc_tid`.

mod memory;
mod scheduling;
mod thread;

use std::path::PathBuf;

use nix::sched::{CpuSet, sched_getaffinity};
use procfs::process::Stat;

pub(super) use self::{
    memory::{report_mapping, report_memory_policy},
    scheduling::report_scheduling,
};
use super::{context::TaskCtx, ids::restored_namespaces};
use crate::process::{
    Pid, Tid,
    proc_files::{self, StatusText},
    syscalls,
};

/// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE` (linux/sched.h): what `PR_SET_IO_FLUSHER` sets.
const IO_FLUSHER_FLAGS: u32 = 0x0008_0000 | 0x0010_0000;
/// Attributes of a security module for the next action of a process (proc_pid_attr(5)).
const LSM_NEXT_ATTRIBUTES: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];
/// The lines of `status` with the speculation controls (`PR_SET_SPECULATION_CTRL`).
const SPECULATION_FIELDS: [&str; 2] = ["Speculation_Store_Bypass:", "SpeculationIndirectBranch:"];
/// `untag_mask` of a process without pointer tags (linear address masking).
const UNTAG_MASK_UNTAGGED: &str = "0xffffffffffffffff";

/// The namespaces of a process (namespaces(7)), and those of its future children.
const NAMESPACES: [&str; 10] = [
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
];

/// The namespaces, cgroups and settings of the dumper.
pub(crate) struct DumperContext {
    namespaces: Vec<Option<PathBuf>>,
    lsm_label: Option<String>,
    cgroups: Option<String>,
    timer_slack: Option<String>,
    affinity: Option<CpuSet>,
    coredump_filter: Option<String>,
    speculation: [Option<String>; 2],
    util_clamp: Option<(u32, u32)>,
    core_cookie: Option<u64>,
}

impl DumperContext {
    /// Reads the context of this process. `init` is a live thread of the container's init process.
    pub(crate) fn read(init: Tid) -> Self {
        let dumper = Pid::current().main_thread();
        let restored = restored_namespaces(init);
        let expected = NAMESPACES
            .iter()
            .zip(namespaces(dumper).into_iter().zip(namespaces(init)));
        let status = StatusText::read(dumper).ok();
        Self {
            namespaces: expected
                .map(|(name, (of_dumper, of_init))| if restored.contains(name) { of_init } else { of_dumper })
                .collect(),
            lsm_label: lsm_label(dumper),
            cgroups: proc_files::read_text(dumper, "cgroup").ok(),
            timer_slack: proc_files::read_text(dumper, "timerslack_ns").ok(),
            affinity: affinity(dumper),
            coredump_filter: proc_files::read_text(dumper, "coredump_filter").ok(),
            speculation: status.as_ref().map(speculation).unwrap_or_default(),
            util_clamp: syscalls::uclamp(dumper).ok(),
            core_cookie: syscalls::core_cookie(dumper).ok(),
        }
    }

    /// Reports the state of a process that differs from the dumper's.
    pub(super) fn report_process(&self, task: &mut TaskCtx<'_>, stat: &Stat, status: Option<&StatusText>) {
        let proc_tid = task.proc_tid;
        let differing = differing_namespaces(&self.namespaces, &namespaces(proc_tid));
        if !differing.is_empty() {
            task.unsupported(format_args!("its own namespaces ({})", differing.join(", ")));
        }
        if let Some(label) = lsm_label(proc_tid).filter(|label| self.lsm_label.as_ref() != Some(label)) {
            task.unsupported(format_args!("its LSM label ({label})"));
        }
        for name in LSM_NEXT_ATTRIBUTES {
            if let Ok(label) = proc_files::read_text(proc_tid, &format!("attr/{name}"))
                && !label.is_empty()
            {
                task.unsupported(format_args!("its LSM label for {name} ({label})"));
            }
        }
        if let Ok(filter) = proc_files::read_text(proc_tid, "coredump_filter")
            && self
                .coredump_filter
                .as_ref()
                .is_some_and(|of_dumper| *of_dumper != filter)
        {
            task.unsupported(format_args!("its core dump filter (coredump_filter {filter})"));
        }
        // `/autogroup-25 nice 5`
        let nice = proc_files::read_text(proc_tid, "autogroup").ok();
        let nice = nice.as_ref().and_then(|text| text.rsplit_once(" nice "));
        if let Some((_, nice)) = nice.filter(|(_, nice)| *nice != "0") {
            task.unsupported(format_args!("the nice value {nice} of its session's autogroup"));
        }
        if proc_files::read_text(proc_tid, "ksm_stat").is_ok_and(|text| merges_any(&text)) {
            task.unsupported(format_args!("KSM merging of all its memory (PR_SET_MEMORY_MERGE)"));
        }
        if let Some(mask) = status.and_then(|status| status.line("untag_mask:"))
            && mask != UNTAG_MASK_UNTAGGED
        {
            task.unsupported(format_args!("its pointer tags (untag mask {mask})"));
        }
        if let Some(signal) = stat.exit_signal.filter(|signal| *signal != libc::SIGCHLD) {
            task.unsupported(format_args!("its exit signal {signal} in place of SIGCHLD"));
        }
        if stat.flags & IO_FLUSHER_FLAGS == IO_FLUSHER_FLAGS {
            task.unsupported(format_args!("its I/O flusher state (PR_SET_IO_FLUSHER)"));
        }
        if stat.tty_nr != 0 && stat.session == task.pid.as_raw() {
            task.unsupported(format_args!("the controlling terminal of its session"));
        }
    }
}

/// The names of existing namespaces that differ.
fn differing_namespaces(expected: &[Option<PathBuf>], actual: &[Option<PathBuf>]) -> Vec<&'static str> {
    let pairs = NAMESPACES.iter().zip(expected.iter().zip(actual));
    pairs
        .filter(|(_, (expected, actual))| actual.is_some() && expected != actual)
        .map(|(name, _)| *name)
        .collect()
}

fn speculation(status: &StatusText) -> [Option<String>; 2] {
    SPECULATION_FIELDS.map(|name| status.line(name).map(str::to_owned))
}

/// Whether `ksm_stat` has the line `ksm_merge_any: yes`.
fn merges_any(text: &str) -> bool {
    let line = text.lines().find_map(|line| line.strip_prefix("ksm_merge_any:"));
    line.is_some_and(|value| value.trim() == "yes")
}

fn namespaces(tid: Tid) -> Vec<Option<PathBuf>> {
    let link = |name: &&str| proc_files::read_link(tid, &format!("ns/{name}")).ok();
    NAMESPACES.iter().map(link).collect()
}

/// The label of SELinux, AppArmor or Smack; `None` without such a module.
fn lsm_label(tid: Tid) -> Option<String> {
    proc_files::read_text(tid, "attr/current")
        .ok()
        .filter(|label| !label.is_empty())
}

fn affinity(tid: Tid) -> Option<CpuSet> {
    sched_getaffinity(tid.into()).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;
    use crate::checkpoint::dump_log::DumpLog;

    /// The lines that a report about this process adds to the log.
    pub(super) fn unsupported_lines(pid: Pid, report: impl FnOnce(&mut TaskCtx<'_>)) -> Option<String> {
        let mut log = DumpLog::new(Instant::now());
        report(&mut TaskCtx::new(pid, pid.main_thread(), &mut log));
        log.unsupported_summary()
    }

    #[test]
    fn only_differences_are_reported() {
        let dumper = DumperContext::read(Pid::current().main_thread());
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let tid = pid.main_thread();
        let stat = proc_files::stat(tid).unwrap();
        let status = StatusText::read(tid).unwrap();
        let lines = unsupported_lines(pid, |task| {
            dumper.report_process(task, &stat, Some(&status));
            dumper.report_thread(task, tid, Some(&status));
        });
        let no_cpus = CpuSet::new();
        let elsewhere = DumperContext {
            namespaces: vec![Some("pid:[1]".into()); NAMESPACES.len()],
            lsm_label: None,
            cgroups: Some("0::/elsewhere".to_owned()),
            timer_slack: Some("1".to_owned()),
            affinity: Some(no_cpus),
            coredump_filter: Some("0".to_owned()),
            speculation: [Some("other".to_owned()), Some("other".to_owned())],
            util_clamp: Some((1, 2)),
            core_cookie: Some(1),
        };
        let mut unusual = stat.clone();
        unusual.exit_signal = Some(0);
        unusual.flags |= IO_FLUSHER_FLAGS;
        unusual.tty_nr = 1;
        unusual.session = pid.as_raw();
        let mut log = DumpLog::new(Instant::now());
        let task = &mut TaskCtx::new(pid, pid.main_thread(), &mut log);
        elsewhere.report_process(task, &unusual, Some(&status));
        elsewhere.report_thread(task, tid, Some(&status));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lines, None);
        let text = log.text();
        for part in [
            "namespaces (cgroup, ipc, mnt, net, pid",
            "cgroups",
            "timer slack",
            "CPU affinity",
            "coredump_filter",
            "its exit signal 0",
            "PR_SET_IO_FLUSHER",
            "controlling terminal",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn ksm_merge_any_is_parsed() {
        assert!(merges_any("ksm_rmap_items 0\nksm_merge_any: yes\nksm_mergeable: no\n"));
        assert!(!merges_any("ksm_merge_any: no\n") && !merges_any(""));
    }
}
