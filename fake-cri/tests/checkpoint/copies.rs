//! Finding the copies of a process, while they are read and when none may be left.

use std::fs;

use crate::host::{assert_runs_free, descendants};

/// The value of a field of a process's status.
pub(crate) fn field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

/// The copy of a process that runs on by itself already: with its address space, and a child of its parent if that is this process,
/// otherwise its own.
pub(crate) fn copy_of(pid: i32) -> Option<i32> {
    let stack = stack(pid)?;
    let threads = ["/proc/self/task".to_owned(), format!("/proc/{pid}/task")].into_iter();
    let threads = threads.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children: Vec<i32> = children
        .flat_map(|children| {
            let numbers = children.split_whitespace().map(|pid| pid.parse().unwrap());
            numbers.collect::<Vec<_>>()
        })
        .collect();
    let is_traced = |pid: i32| field(pid, "TracerPid:").is_some_and(|tracer| tracer != "0");
    let is_copy = |child: &i32| *child != pid && self::stack(*child) == Some(stack) && is_traced(*child);
    let copy = children.into_iter().find(is_copy)?;
    // Looked at last: a process that runs has only a copy that is read.
    (field(pid, "TracerPid:")? == "0").then_some(copy)
}

/// Where a process's stack begins: each has it elsewhere, but for a copy.
pub(crate) fn stack(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = text.rsplit_once(')')?.1.split_whitespace().nth(28 - 3)?.parse().ok()?;
    (start > 1).then_some(start)
}

/// The processes whose stack begins there: one, and its copies.
pub(crate) fn with_stack(start: u64) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| stack(*pid) == Some(start)).collect()
}

/// No process but itself has its address space.
pub(crate) fn assert_no_copy(pid: i32) {
    let own = stack(pid).expect("it lives");
    assert_eq!(with_stack(own), [pid], "it and its copies");
}

pub(crate) fn assert_alone(pid: i32) {
    assert_runs_free(pid);
    let family: Vec<_> = descendants(pid).iter().map(|process| process.pid).collect();
    assert_eq!(family, [pid]);
    assert_no_copy(pid);
}
