//! The tree of the container's processes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use cri_proto::criu::message::PstreeEntry;
use procfs::process::{Stat, Status};

use super::Shape;
use crate::{
    checkpoint::{
        error::Error,
        freeze::{Frozen, FrozenProcess},
    },
    process::proc::{self, StatusText},
};

/// A process in its place.
pub(crate) struct Node<'a> {
    /// The process.
    pub(crate) process: &'a FrozenProcess,
    /// Its parent in the container; 0 for the first process.
    pub(super) parent: i32,
    /// Its threads that stand still, the first one first.
    pub(crate) threads: Vec<i32>,
    /// `/proc/PID/stat`.
    pub(crate) stat: Stat,
    /// `/proc/TID/status` of its threads.
    statuses: HashMap<i32, StatusText>,
    /// Its process group and session, by the container's own numbers.
    group: i32,
    session: i32,
    numbers: HashMap<i32, i32>,
}

impl Node<'_> {
    /// Its number, or that of one of its threads, as the container itself knows it: a restored one has a pid namespace of its own.
    pub(crate) fn number(&self, tid: i32) -> u32 {
        self.numbers.get(&tid).copied().unwrap_or(tid).unsigned_abs()
    }

    /// Whether it is the first process of a pid namespace, as a thread of it tells.
    pub(crate) fn is_first_of_namespace(&self, tid: i32) -> bool {
        let status = self.statuses.get(&tid);
        status.is_none_or(|status| status.numbers("NStgid:").last() == Some(1))
    }

    /// The status of one of its threads.
    pub(super) fn status(&self, tid: i32) -> Option<&StatusText> {
        self.statuses.get(&tid)
    }

    /// All of it.
    pub(super) fn whole_status(&self, tid: i32) -> Result<Status, Error> {
        let pid = self.process.pid();
        let status = self.statuses.get(&tid).ok_or(Error::Ended { pid })?;
        status.parse().map_err(|error| Error::capture(pid, "status", error))
    }
}

fn status(pid: i32, tid: i32) -> Result<StatusText, Error> {
    StatusText::of(tid).map_err(|error| Error::capture(pid, "status", error))
}

/// The last number of a line of `/proc/PID/status` that has one for each namespace from ours down.
fn inside(status: &StatusText, name: &str, depth: usize, outside: i32) -> i32 {
    let number = status.numbers(name).nth(depth);
    number.and_then(|number| number.try_into().ok()).unwrap_or(outside)
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
        let of_init = status(init, init)?;
        let depth = of_init.numbers("NSpid:").count().saturating_sub(1);
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
                statuses: HashMap::new(),
                numbers: HashMap::new(),
            };
            for tid in node.threads.clone() {
                let status = match tid == init {
                    true => of_init.clone(),
                    false => status(pid, tid)?,
                };
                node.statuses.insert(tid, status);
            }
            if depth > 0 {
                for tid in [pid].into_iter().chain(node.threads.clone()) {
                    let status = match node.statuses.get(&tid) {
                        Some(known) => known.clone(),
                        None => status(pid, tid)?,
                    };
                    node.numbers.insert(tid, inside(&status, "NSpid:", depth, tid));
                    if tid == pid {
                        node.group = inside(&status, "NSpgid:", depth, node.group);
                        node.session = inside(&status, "NSsid:", depth, node.session);
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
