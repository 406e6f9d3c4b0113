//! Reads processes from `/proc`.

use std::{collections::HashMap, fs};

/// Identifies a process: its pid and its start time, which guards against pid reuse.
pub(crate) type PidAndStart = (i32, u64);

/// The fields of `/proc/PID/stat` after the command name, starting with the state.
pub(crate) fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

pub(crate) fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// A process and all its descendants.
pub(crate) fn process_tree(first: i32) -> Vec<PidAndStart> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut tree, mut next) = (Vec::new(), vec![first]);
    while let Some(pid) = next.pop() {
        tree.extend(start_time(pid).map(|start| (pid, start)));
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    tree
}

/// The lines of `/proc/PID/task/*/status` that show a stopped or traced task.
pub(crate) fn stopped_or_traced(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let lines = statuses.flat_map(|status| status.lines().map(str::to_owned).collect::<Vec<_>>());
    let is_stopped_or_traced = |line: &String| {
        let state = line
            .strip_prefix("State:")
            .is_some_and(|state| state.trim().starts_with(['T', 't']));
        state
            || line
                .strip_prefix("TracerPid:")
                .is_some_and(|tracer| tracer.trim() != "0")
    };
    lines.filter(is_stopped_or_traced).collect()
}
