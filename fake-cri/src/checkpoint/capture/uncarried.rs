//! What no image has a place for, or what is written without it: it is looked for all the same, so that `dump.log` names it and
//! nothing is missing without a word.
//!
//! Who restores a container without images of cgroups, namespaces and labels puts it into their own. So what is compared is the
//! one who dumps: a process that is where the dumping one is loses nothing.

use std::{fs, path::PathBuf};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use super::ids::restored_namespaces;
use crate::{
    checkpoint::log::DumpLog,
    process::{
        kernel::{self, Scheduling},
        proc::{self, Mapping},
    },
};

/// The policies that have more to them than a priority (linux/sched.h), and the flag beside a policy.
const SCHED_DEADLINE: u32 = 6;
const SCHED_EXT: u32 = 7;
const SCHED_RESET_ON_FORK: u32 = 1 << 30;
/// The classes of I/O priority (linux/ioprio.h).
const IO_NONE: u32 = 0;
const IO_REALTIME: u32 = 1;
const IO_BEST_EFFORT: u32 = 2;
const IO_IDLE: u32 = 3;

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

/// Says what a thread's scheduling is beyond policy, priority and nice value.
pub(super) fn scheduling(pid: i32, tid: i32, scheduling: &Scheduling, log: &mut DumpLog) {
    match scheduling.policy & !SCHED_RESET_ON_FORK {
        SCHED_DEADLINE => log.lost(format_args!(
            "pid {pid}: runtime, deadline and period of thread {tid} (SCHED_DEADLINE)"
        )),
        SCHED_EXT => log.lost(format_args!("pid {pid}: the scheduler of thread {tid} (SCHED_EXT)")),
        _ => {}
    }
    if let Ok((class, level)) = kernel::io_priority(tid)
        && !is_derived(class, level, scheduling)
    {
        log.lost(format_args!(
            "pid {pid}: the I/O priority of thread {tid} (class {class}, level {level})"
        ));
    }
}

/// Whether an I/O priority follows from how the thread is scheduled, or is none.
fn is_derived(class: u32, level: u32, scheduling: &Scheduling) -> bool {
    // As the kernel does it (task_nice_ioclass and task_nice_ioprio of linux/ioprio.h).
    let of_policy = match (scheduling.policy & !SCHED_RESET_ON_FORK).cast_signed() {
        libc::SCHED_IDLE => IO_IDLE,
        libc::SCHED_FIFO | libc::SCHED_RR => IO_REALTIME,
        _ => IO_BEST_EFFORT,
    };
    let of_nice = (scheduling.nice + 20).unsigned_abs() / 5;
    class == IO_NONE || (class == of_policy && level == of_nice)
}

/// Says that memory is bound to certain nodes of a machine with several, as `/proc/PID/numa_maps` tells (set_mempolicy(2),
/// mbind(2)).
pub(super) fn memory_policy(pid: i32, eyes: i32, log: &mut DumpLog) {
    // With one node a policy changes nothing, and to look for one takes a walk through all pages.
    let several = fs::read_to_string("/sys/devices/system/node/online").is_ok_and(|nodes| nodes.trim() != "0");
    if !several {
        return;
    }
    let Ok(text) = proc::text(eyes, "numa_maps") else {
        return;
    };
    if let Some((count, first)) = bound(&text) {
        log.lost(format_args!(
            "pid {pid}: the NUMA memory policy of {count} mappings (the first is {first})"
        ));
    }
}

/// How many mappings have a policy other than the default, and what the first one has.
fn bound(text: &str) -> Option<(usize, &str)> {
    let policies = text.lines().filter_map(|line| line.split(' ').nth(1));
    let mut others = policies.filter(|policy| *policy != "default");
    let first = others.next()?;
    Some((1 + others.count(), first))
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
    if name.starts_with("[anon:") || name.starts_with("[anon_shmem:") {
        log.lost(format_args!(
            "pid {pid}: of the mapping {range:x?} its name {name} (PR_SET_VMA_ANON_NAME)"
        ));
    }
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
            ..plain.clone()
        };
        let lost = said(|log| mapping(1, &odd, log)).expect("four things");
        for part in ["sealed", "userfaultfd", "protection key 7", "io_uring"] {
            assert!(lost.contains(part), "{lost}");
        }
        let named = Mapping {
            name: "[anon:cache of names]".into(),
            ..plain
        };
        let lost = said(|log| mapping(1, &named, log)).expect("its name");
        assert!(lost.contains("its name [anon:cache of names]"), "{lost}");
    }

    #[test]
    fn scheduling_beyond_policy_and_nice_value_is_said() {
        // A child of its own: what is set here must not be another test's.
        let child = || {
            Command::new("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .expect("sleep is everywhere")
        };
        let scheduling_of = |pid: i32| kernel::scheduling(pid).expect("scheduling");
        let mut plain = child();
        let pid = plain.id() as i32;
        let lost = said(|log| scheduling(pid, pid, &scheduling_of(pid), log));
        let deadline = Scheduling {
            policy: SCHED_DEADLINE | SCHED_RESET_ON_FORK,
            ..scheduling_of(pid)
        };
        let all = said(|log| scheduling(pid, pid, &deadline, log));
        let set = Command::new("ionice")
            .args(["-c", "2", "-n", "7", "-p", &pid.to_string()])
            .status();
        let other = said(|log| scheduling(pid, pid, &scheduling_of(pid), log));
        plain.kill().unwrap();
        plain.wait().unwrap();
        assert_eq!(lost, None);
        let all = all.expect("what a deadline takes");
        assert!(all.contains("runtime, deadline and period"), "{all}");
        if !set.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no ionice");
            return;
        }
        let other = other.expect("an I/O priority");
        assert!(other.contains("(class 2, level 7)"), "{other}");
    }

    #[test]
    fn io_priorities_that_follow_from_the_rest_are_none_of_their_own() {
        let of = |policy: i32, nice| Scheduling {
            policy: policy.cast_unsigned(),
            priority: 0,
            nice,
        };
        assert!(is_derived(IO_NONE, 0, &of(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 4, &of(libc::SCHED_OTHER, 0)));
        assert!(is_derived(IO_BEST_EFFORT, 7, &of(libc::SCHED_BATCH, 19)));
        assert!(is_derived(IO_IDLE, 4, &of(libc::SCHED_IDLE, 0)));
        assert!(!is_derived(IO_BEST_EFFORT, 0, &of(libc::SCHED_OTHER, 0)));
        assert!(!is_derived(IO_IDLE, 4, &of(libc::SCHED_OTHER, 0)));
    }

    #[test]
    fn memory_that_is_bound_to_nodes_is_counted() {
        let text =
            "7f0000000000 default anon=1 dirty=1 N0=1\n7f0000001000 bind:0 anon=1\n7f0000002000 prefer:1 file=/a";
        assert_eq!(bound(text), Some((2, "bind:0")));
        assert_eq!(bound("7f0000000000 default anon=1"), None);
    }
}
