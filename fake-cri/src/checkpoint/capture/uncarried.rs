//! What no image has a place for, or what is written without it: it is looked for all the same, so that `dump.log` names it and
//! nothing is missing without a word.
//!
//! Who restores a container without images of cgroups, namespaces and labels puts it into their own. So what is compared is the
//! one who dumps: a process that is where the dumping one is loses nothing.

use std::path::PathBuf;

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use super::ids::restored_namespaces;
use crate::{
    checkpoint::log::DumpLog,
    process::proc::{self, Mapping},
};

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
}

impl Surroundings {
    /// Those of this process, for the container with this first process.
    pub(crate) fn own(init: i32) -> Self {
        let own = std::process::id() as i32;
        let restored = restored_namespaces(init);
        let expected = NAMESPACES.iter().zip(namespaces(own).into_iter().zip(namespaces(init)));
        Self {
            namespaces: expected
                .map(|(name, (own, its))| if restored.contains(name) { its } else { own })
                .collect(),
            label: label(own),
            cgroups: proc::text(own, "cgroup").ok(),
            slack: proc::text(own, "timerslack_ns").ok(),
            affinity: affinity(own),
        }
    }

    /// Says what a process has around it that is another.
    pub(super) fn process(&self, pid: i32, window: i32, log: &mut DumpLog) {
        let its = namespaces(window);
        let other = NAMESPACES.iter().zip(self.namespaces.iter().zip(&its));
        let other: Vec<_> = other
            .filter(|(_, (own, its))| its.is_some() && own != its)
            .map(|(name, _)| *name)
            .collect();
        if !other.is_empty() {
            log.lost(format_args!("pid {pid}: its own namespaces ({})", other.join(", ")));
        }
        if let Some(label) = label(window).filter(|label| self.label.as_ref() != Some(label)) {
            log.lost(format_args!("pid {pid}: the label of its security module ({label})"));
        }
    }

    /// Says the same of a thread.
    pub(super) fn thread(&self, pid: i32, tid: i32, log: &mut DumpLog) {
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
    }
}

/// Says what a mapping has that its entry does not.
pub(super) fn mapping(pid: i32, mapping: &Mapping, log: &mut DumpLog) {
    let range = &mapping.range;
    for (flag, what) in [
        (b"sl", "that it is sealed (mseal)"),
        (b"ss", "that it is a shadow stack"),
        (b"um", "that missing pages are handled by userfaultfd"),
        (b"uw", "that writing is handled by userfaultfd"),
        (b"ui", "that minor faults are handled by userfaultfd"),
        (b"mt", "its memory tags"),
    ] {
        if mapping.has(flag) {
            log.lost(format_args!("pid {pid}: of the mapping {range:x?} {what}"));
        }
    }
    if mapping.protection_key != 0 {
        let key = mapping.protection_key;
        log.lost(format_args!(
            "pid {pid}: of the mapping {range:x?} its protection key {key}"
        ));
    }
    let name = mapping.name.to_string_lossy();
    if name.starts_with("/[aio]") || name.starts_with("anon_inode:") {
        log.lost(format_args!(
            "pid {pid}: the state behind the mapping {range:x?} of {name}"
        ));
    }
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

    fn said(tell: impl FnOnce(&mut DumpLog)) -> Option<String> {
        let mut log = DumpLog::new(Instant::now());
        tell(&mut log);
        log.all_lost()
    }

    #[test]
    fn only_what_differs_is_said() {
        let surroundings = Surroundings::own(std::process::id() as i32);
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id() as i32;
        let lost = said(|log| {
            surroundings.process(pid, pid, log);
            surroundings.thread(pid, pid, log);
        });
        let one = CpuSet::new();
        let other = Surroundings {
            namespaces: vec![Some("pid:[1]".into()); NAMESPACES.len()],
            label: None,
            cgroups: Some("0::/elsewhere".to_owned()),
            slack: Some("1".to_owned()),
            affinity: Some(one),
        };
        let all = said(|log| {
            other.process(pid, pid, log);
            other.thread(pid, pid, log);
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lost, None);
        let all = all.expect("everything is another");
        for part in [
            "namespaces (cgroup, ipc, mnt, net, pid",
            "cgroups",
            "timer slack",
            "processors",
        ] {
            assert!(all.contains(part), "{all}");
        }
    }

    #[test]
    fn what_a_mapping_has_besides_is_said() {
        let plain = Mapping::anonymous(0x1000..0x2000, &[*b"rd", *b"wr"]);
        assert_eq!(said(|log| mapping(1, &plain, log)), None);
        let odd = Mapping {
            flags: vec![*b"sl", *b"uw"],
            protection_key: 7,
            name: "anon_inode:[io_uring]".into(),
            ..plain
        };
        let lost = said(|log| mapping(1, &odd, log)).expect("four things");
        for part in ["sealed", "userfaultfd", "protection key 7", "io_uring"] {
            assert!(lost.contains(part), "{lost}");
        }
    }
}
