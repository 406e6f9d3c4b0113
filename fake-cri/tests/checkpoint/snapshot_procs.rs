//! Finds the snapshots of a process.

use std::fs;

use crate::host::{assert_running_untraced, descendants};

/// A field of `/proc/PID/status`.
pub(crate) fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

/// Returns the snapshot of a process that is running again: a process with the same address space that is a child of
/// this process if the original is one, and otherwise a child of the original.
pub(crate) fn snapshot_of(pid: i32) -> Option<i32> {
    let stack = stack_start(pid)?;
    let threads = ["/proc/self/task".to_owned(), format!("/proc/{pid}/task")].into_iter();
    let threads = threads.filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children: Vec<i32> = children
        .flat_map(|children| {
            let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<_>>()
        })
        .collect();
    let is_traced = |pid: i32| status_field(pid, "TracerPid:").is_some_and(|tracer| tracer != "0");
    let is_copy = |child: &i32| *child != pid && self::stack_start(*child) == Some(stack) && is_traced(*child);
    let copy = children.into_iter().find(is_copy)?;
    // Checked last: while the original runs, its snapshot is complete.
    (status_field(pid, "TracerPid:")? == "0").then_some(copy)
}

/// The start of the stack. Its address is random, so only a snapshot has the same.
pub(crate) fn stack_start(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = text.rsplit_once(')')?.1.split_whitespace().nth(28 - 3)?.parse().ok()?;
    (start > 1).then_some(start)
}

/// The processes whose stack starts there: the original and its snapshots.
pub(crate) fn pids_with_stack(start: u64) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| stack_start(*pid) == Some(start)).collect()
}

/// Asserts that no other process has the address space of this process.
pub(crate) fn assert_no_snapshot(pid: i32) {
    let start = stack_start(pid).expect("the process is alive");
    assert_eq!(pids_with_stack(start), [pid], "the process and its snapshots");
}

pub(crate) fn assert_no_extra_process(pid: i32) {
    assert_running_untraced(pid);
    let pids: Vec<_> = descendants(pid).iter().map(|process| process.pid.as_raw()).collect();
    assert_eq!(pids, [pid]);
    assert_no_snapshot(pid);
}
