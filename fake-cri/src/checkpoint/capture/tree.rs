//! The tree of the container's processes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use cri_proto::criu::message::PstreeEntry;
use procfs::process::Stat;

use super::Shape;
use crate::{
    checkpoint::{
        error::Error,
        freeze::{Frozen, FrozenProcess},
    },
    process::proc,
};

/// A process in its place.
pub(super) struct Node<'a> {
    /// The process.
    pub(super) process: &'a FrozenProcess,
    /// Its parent in the container; 0 for the first process.
    pub(super) parent: i32,
    /// Its threads that stand still, the first one first.
    pub(super) threads: Vec<i32>,
    /// `/proc/PID/stat`.
    pub(super) stat: Stat,
    /// Its process group and session, by the container's own numbers.
    group: i32,
    session: i32,
    numbers: HashMap<i32, i32>,
}

impl Node<'_> {
    /// Its number, or that of one of its threads, as the container itself knows it: a restored one has a pid namespace of its own.
    pub(super) fn number(&self, tid: i32) -> u32 {
        self.numbers.get(&tid).copied().unwrap_or(tid).unsigned_abs()
    }
}

/// How many pid namespaces below ours a process is.
fn depth(pid: i32) -> Result<usize, Error> {
    let status = proc::status(pid).map_err(|error| Error::capture(pid, "status", error))?;
    Ok(status.nspid.map_or(0, |numbers| numbers.len().saturating_sub(1)))
}

/// The last number of a line of `/proc/PID/status` that has one for each namespace from ours down.
fn inside(numbers: Option<Vec<i32>>, depth: usize, outside: i32) -> i32 {
    numbers
        .and_then(|numbers| numbers.get(depth).copied())
        .unwrap_or(outside)
}

/// The processes, parents before their children.
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Tree<'a> {
    /// Orders the processes below the first one. Whoever has a parent outside the container was given to the shim when its
    /// own ended; it is listed as a child of the first process, as it would be one in a pid namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the first process, or one on the way, is no more.
    pub(super) fn of(frozen: &'a Frozen<'_>, init: i32, shape: Shape) -> Result<Self, Error> {
        let mut waiting = BTreeMap::new();
        let mut children: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        let pids: BTreeSet<i32> = frozen.processes().map(FrozenProcess::pid).collect();
        if !pids.contains(&init) {
            return Err(Error::Ended { pid: init });
        }
        let depth = depth(init)?;
        for process in frozen.processes() {
            let pid = process.pid();
            let stat = proc::stat(pid).map_err(|error| Error::capture(pid, "stat", error))?;
            let parent = match pid == init {
                true => 0,
                false if pids.contains(&stat.ppid) => stat.ppid,
                false => init,
            };
            children.entry(parent).or_default().insert(pid);
            let mut threads = process.threads();
            if shape.without_last_threads && threads.len() > 1 {
                threads.pop();
            }
            let mut node = Node {
                process,
                parent,
                threads,
                group: stat.pgrp,
                session: stat.session,
                stat,
                numbers: HashMap::new(),
            };
            if depth > 0 {
                for tid in [pid].into_iter().chain(node.threads.clone()) {
                    let status = proc::status(tid).map_err(|error| Error::capture(pid, "status", error))?;
                    node.numbers.insert(tid, inside(status.nspid, depth, tid));
                    if tid == pid {
                        node.group = inside(status.nspgid, depth, node.group);
                        node.session = inside(status.nssid, depth, node.session);
                    }
                }
            }
            waiting.insert(pid, node);
        }
        let mut nodes = Vec::with_capacity(waiting.len());
        let mut queue = VecDeque::from([init]);
        while let Some(pid) = queue.pop_front() {
            nodes.extend(waiting.remove(&pid));
            queue.extend(children.remove(&pid).unwrap_or_default());
        }
        if nodes.first().is_none_or(|node| node.process.window().is_none()) {
            return Err(Error::Ended { pid: init });
        }
        if shape.first_process_alone {
            nodes.truncate(1);
        }
        Ok(Self { nodes })
    }

    /// The processes, parents first.
    pub(super) fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    /// `pstree.img`.
    pub(super) fn entries(&self) -> Vec<PstreeEntry> {
        let number = |pid: i32| {
            let node = self.nodes.iter().find(|node| node.process.pid() == pid);
            node.map_or(pid.unsigned_abs(), |node| node.number(pid))
        };
        self.nodes
            .iter()
            .map(|node| {
                let pid = node.process.pid();
                let mut threads = node.threads.clone();
                // A process without a living first thread still has the number.
                if threads.first() != Some(&pid) {
                    threads.insert(0, pid);
                }
                PstreeEntry {
                    pid: node.number(pid),
                    ppid: number(node.parent),
                    pgid: node.group.unsigned_abs(),
                    sid: node.session.unsigned_abs(),
                    threads: threads.into_iter().map(|tid| node.number(tid)).collect(),
                }
            })
            .collect()
    }
}
