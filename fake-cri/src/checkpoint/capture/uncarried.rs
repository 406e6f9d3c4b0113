//! What no image has a place for, or what is written without it: it is looked for all the same, so that `dump.log` names it and
//! nothing is missing without a word. `docs/STATE.md` lists all of it.
//!
//! Who restores a container without images of cgroups, namespaces and labels puts it into their own. So what is compared is the
//! one who dumps: a process that is where the dumping one is loses nothing. What threads share with their process is compared
//! with the thread that the process is seen through.

mod memory;
mod scheduling;
mod thread;

use std::path::PathBuf;

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use procfs::process::Stat;

pub(super) use self::{
    memory::{mapping, memory_policy},
    scheduling::scheduling,
};
use super::ids::restored_namespaces;
use crate::{
    checkpoint::log::DumpLog,
    process::{
        kernel,
        proc::{self, StatusText},
    },
};

/// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE` (linux/sched.h): what `PR_SET_IO_FLUSHER` sets.
const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
/// Attributes of a security module for what a process does next (proc_pid_attr(5)).
const NEXT_LABELS: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];
/// The lines of `status` that tell of speculation controls (`PR_SET_SPECULATION_CTRL`).
const SPECULATION: [&str; 2] = ["Speculation_Store_Bypass:", "SpeculationIndirectBranch:"];
/// `untag_mask` of a process whose pointers have no tags (linear address masking).
const NO_TAGS: &str = "0xffffffffffffffff";

/// The namespaces of a process (namespaces(7)), its own and those of its children to be.
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

/// What surrounds the one who dumps.
pub(crate) struct Surroundings {
    namespaces: Vec<Option<PathBuf>>,
    label: Option<String>,
    cgroups: Option<String>,
    slack: Option<String>,
    affinity: Option<CpuSet>,
    dumped_memory: Option<String>,
    speculation: [Option<String>; 2],
    utilization: Option<(u32, u32)>,
    core_cookie: Option<u64>,
}

impl Surroundings {
    /// Those of this process, for the container with this first process.
    pub(crate) fn own(init: i32) -> Self {
        let own = std::process::id() as i32;
        let restored = restored_namespaces(init);
        let expected = NAMESPACES.iter().zip(namespaces(own).into_iter().zip(namespaces(init)));
        let status = StatusText::of(own).ok();
        Self {
            namespaces: expected
                .map(|(name, (own, its))| if restored.contains(name) { its } else { own })
                .collect(),
            label: label(own),
            cgroups: proc::text(own, "cgroup").ok(),
            slack: proc::text(own, "timerslack_ns").ok(),
            affinity: affinity(own),
            dumped_memory: proc::text(own, "coredump_filter").ok(),
            speculation: status.as_ref().map(speculation).unwrap_or_default(),
            utilization: kernel::utilization_clamp(own).ok(),
            core_cookie: kernel::core_cookie(own).ok(),
        }
    }

    /// Says what a process has that is another.
    pub(super) fn process(
        &self,
        (pid, window): (i32, i32),
        stat: &Stat,
        status: Option<&StatusText>,
        log: &mut DumpLog,
    ) {
        let other = differing(&self.namespaces, &namespaces(window));
        if !other.is_empty() {
            log.lost(format_args!("pid {pid}: its own namespaces ({})", other.join(", ")));
        }
        if let Some(label) = label(window).filter(|label| self.label.as_ref() != Some(label)) {
            log.lost(format_args!("pid {pid}: the label of its security module ({label})"));
        }
        for name in NEXT_LABELS {
            if let Ok(label) = proc::text(window, &format!("attr/{name}"))
                && !label.is_empty()
            {
                log.lost(format_args!(
                    "pid {pid}: the label of its security module for {name} ({label})"
                ));
            }
        }
        if let Ok(filter) = proc::text(window, "coredump_filter")
            && self.dumped_memory.as_ref().is_some_and(|own| *own != filter)
        {
            log.lost(format_args!(
                "pid {pid}: which of its memory a core dump holds (coredump_filter {filter})"
            ));
        }
        // `/autogroup-25 nice 5`
        let nice = proc::text(window, "autogroup").ok();
        let nice = nice.as_ref().and_then(|text| text.rsplit_once(" nice "));
        if let Some((_, nice)) = nice.filter(|(_, nice)| *nice != "0") {
            log.lost(format_args!(
                "pid {pid}: the nice value {nice} of its session's group of the scheduler (autogroup)"
            ));
        }
        if proc::text(window, "ksm_stat").is_ok_and(|text| merges(&text)) {
            log.lost(format_args!(
                "pid {pid}: that all its memory may be merged with like pages (PR_SET_MEMORY_MERGE)"
            ));
        }
        if let Some(mask) = status.and_then(|status| status.line("untag_mask:"))
            && mask != NO_TAGS
        {
            log.lost(format_args!("pid {pid}: that its pointers may have tags (mask {mask})"));
        }
        if let Some(signal) = stat.exit_signal.filter(|signal| *signal != libc::SIGCHLD) {
            log.lost(format_args!(
                "pid {pid}: the signal {signal} that its parent gets at its end in place of SIGCHLD"
            ));
        }
        if stat.flags & IO_FLUSHER == IO_FLUSHER {
            log.lost(format_args!(
                "pid {pid}: that it serves the I/O of others (PR_SET_IO_FLUSHER)"
            ));
        }
        if stat.tty_nr != 0 && stat.session == pid {
            log.lost(format_args!("pid {pid}: the controlling terminal of its session"));
        }
    }
}

/// The names of the namespaces that there are and that differ.
fn differing(expected: &[Option<PathBuf>], its: &[Option<PathBuf>]) -> Vec<&'static str> {
    let pairs = NAMESPACES.iter().zip(expected.iter().zip(its));
    pairs
        .filter(|(_, (expected, its))| its.is_some() && expected != its)
        .map(|(name, _)| *name)
        .collect()
}

fn speculation(status: &StatusText) -> [Option<String>; 2] {
    SPECULATION.map(|name| status.line(name).map(str::to_owned))
}

/// Whether `ksm_stat` has the line `ksm_merge_any: yes`.
fn merges(text: &str) -> bool {
    let line = text.lines().find_map(|line| line.strip_prefix("ksm_merge_any:"));
    line.is_some_and(|value| value.trim() == "yes")
}

fn namespaces(tid: i32) -> Vec<Option<PathBuf>> {
    let link = |name: &&str| proc::link(tid, &format!("ns/{name}")).ok();
    NAMESPACES.iter().map(link).collect()
}

/// The label of SELinux, AppArmor or Smack; none without such a module.
fn label(tid: i32) -> Option<String> {
    proc::text(tid, "attr/current").ok().filter(|label| !label.is_empty())
}

fn affinity(tid: i32) -> Option<CpuSet> {
    sched_getaffinity(Pid::from_raw(tid)).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;

    pub(super) fn said(tell: impl FnOnce(&mut DumpLog)) -> Option<String> {
        let mut log = DumpLog::new(Instant::now());
        tell(&mut log);
        log.all_lost()
    }

    #[test]
    fn only_what_differs_is_said() {
        let surroundings = Surroundings::own(std::process::id() as i32);
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id() as i32;
        let stat = proc::stat(pid).unwrap();
        let status = StatusText::of(pid).unwrap();
        let lost = said(|log| {
            surroundings.process((pid, pid), &stat, Some(&status), log);
            surroundings.thread((pid, pid, pid), Some(&status), log);
        });
        let one = CpuSet::new();
        let other = Surroundings {
            namespaces: vec![Some("pid:[1]".into()); NAMESPACES.len()],
            label: None,
            cgroups: Some("0::/elsewhere".to_owned()),
            slack: Some("1".to_owned()),
            affinity: Some(one),
            dumped_memory: Some("0".to_owned()),
            speculation: [Some("other".to_owned()), Some("other".to_owned())],
            utilization: Some((1, 2)),
            core_cookie: Some(1),
        };
        let mut odd = stat.clone();
        odd.exit_signal = Some(0);
        odd.flags |= IO_FLUSHER;
        odd.tty_nr = 1;
        odd.session = pid;
        let mut log = DumpLog::new(Instant::now());
        other.process((pid, pid), &odd, Some(&status), &mut log);
        other.thread((pid, pid, pid), Some(&status), &mut log);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lost, None);
        let all = log.into_text();
        for part in [
            "namespaces (cgroup, ipc, mnt, net, pid",
            "cgroups",
            "timer slack",
            "processors",
            "coredump_filter",
            "the signal 0 that its parent gets",
            "PR_SET_IO_FLUSHER",
            "controlling terminal",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn merging_is_read() {
        assert!(merges("ksm_rmap_items 0\nksm_merge_any: yes\nksm_mergeable: no\n"));
        assert!(!merges("ksm_merge_any: no\n") && !merges(""));
    }
}
