//! Memory: state of mappings that a vma entry cannot hold, and memory policies.

use std::fs;

use super::TaskCtx;
use crate::process::proc_files::{self, Mapping};

/// Reports NUMA memory policies (set_mempolicy(2), mbind(2)), by `/proc/PID/numa_maps`.
pub(in super::super) fn report_memory_policy(task: &mut TaskCtx<'_>) {
    // With one node a policy has no effect, and reading numa_maps makes the kernel walk all pages.
    let has_several_nodes =
        fs::read_to_string("/sys/devices/system/node/online").is_ok_and(|nodes| nodes.trim() != "0");
    if !has_several_nodes {
        return;
    }
    let Ok(text) = proc_files::read_text(task.proc_tid, "numa_maps") else {
        return;
    };
    if let Some((count, first)) = numa_policies(&text) {
        task.unsupported(format_args!(
            "the NUMA memory policy of {count} mappings (the first is {first})"
        ));
    }
}

/// The number of mappings with a policy other than the default, and the first such policy.
fn numa_policies(text: &str) -> Option<(usize, &str)> {
    let policies = text.lines().filter_map(|line| line.split(' ').nth(1));
    let mut others = policies.filter(|policy| *policy != "default");
    let first = others.next()?;
    Some((1 + others.count(), first))
}

/// Reports state of a mapping that a vma entry cannot hold.
pub(in super::super) fn report_mapping(task: &mut TaskCtx<'_>, mapping: &Mapping) {
    let range = &mapping.range;
    for (flag, description) in [
        (b"sl", "the seal (mseal)"),
        (b"ss", "the shadow stack"),
        (b"um", "the userfaultfd registration for missing pages"),
        (b"uw", "the userfaultfd registration for write protection"),
        (b"ui", "the userfaultfd registration for minor faults"),
        (b"mt", "the memory tags"),
    ] {
        if mapping.has_flag(flag) {
            task.unsupported(format_args!("{description} of the mapping {range:x?}"));
        }
    }
    if mapping.protection_key != 0 {
        let key = mapping.protection_key;
        task.unsupported(format_args!("protection key {key} of the mapping {range:x?}"));
    }
    let name = mapping.name.to_string_lossy();
    if name.starts_with("[anon:") || name.starts_with("[anon_shmem:") {
        task.unsupported(format_args!(
            "the name {name} of the mapping {range:x?} (PR_SET_VMA_ANON_NAME)"
        ));
    }
    if name.starts_with("/[aio]") || name.starts_with("anon_inode:") {
        task.unsupported(format_args!("the kernel state of the mapping {range:x?} of {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::unsupported_lines, *};
    use crate::process::Pid;

    #[test]
    fn unsupported_mapping_state_is_reported() {
        let plain = Mapping::anonymous(0x1000..0x2000, &[*b"rd", *b"wr"]);
        assert_eq!(
            unsupported_lines(Pid::from_raw(1), |task| report_mapping(task, &plain)),
            None
        );
        let unusual = Mapping {
            flags: vec![*b"sl", *b"uw"],
            protection_key: 7,
            name: "anon_inode:[io_uring]".into(),
            ..plain.clone()
        };
        let lines = unsupported_lines(Pid::from_raw(1), |task| report_mapping(task, &unusual)).expect("four lines");
        for part in ["the seal", "userfaultfd", "protection key 7", "io_uring"] {
            assert!(lines.contains(part), "{lines}");
        }
        let named = Mapping {
            name: "[anon:cache of names]".into(),
            ..plain
        };
        let lines = unsupported_lines(Pid::from_raw(1), |task| report_mapping(task, &named)).expect("one line");
        assert!(lines.contains("the name [anon:cache of names]"), "{lines}");
    }

    #[test]
    fn numa_policies_are_counted() {
        let text =
            "7f0000000000 default anon=1 dirty=1 N0=1\n7f0000001000 bind:0 anon=1\n7f0000002000 prefer:1 file=/a";
        assert_eq!(numa_policies(text), Some((2, "bind:0")));
        assert_eq!(numa_policies("7f0000000000 default anon=1"), None);
    }
}
