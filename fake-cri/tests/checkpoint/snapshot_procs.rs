//! Finding the copies of a process, while they are read and when none may be left.

use std::fs;

use crate::host::{assert_running_untraced, descendants};

/// The value of a field of a process's status.
pub(crate) fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

/// The copy of a process that runs on by itself already: with its address space, and a child of its parent if that is this process,
/// otherwise its own.
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
    // Looked at last: a process that runs has only a copy that is read.
    (status_field(pid, "TracerPid:")? == "0").then_some(copy)
}

/// Where a process's stack begins: each has it elsewhere, but for a copy.
pub(crate) fn stack_start(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = text.rsplit_once(')')?.1.split_whitespace().nth(28 - 3)?.parse().ok()?;
    (start > 1).then_some(start)
}

/// The processes whose stack begins there: one, and its copies.
pub(crate) fn pids_with_stack(start: u64) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| stack_start(*pid) == Some(start)).collect()
}

/// No process but itself has its address space.
pub(crate) fn assert_no_snapshot(pid: i32) {
    let start = stack_start(pid).expect("it lives");
    assert_eq!(pids_with_stack(start), [pid], "it and its copies");
}

pub(crate) fn assert_no_extra_process(pid: i32) {
    assert_running_untraced(pid);
    let pids: Vec<_> = descendants(pid).iter().map(|process| process.pid).collect();
    assert_eq!(pids, [pid]);
    assert_no_snapshot(pid);
}
