//! The tree of the container's processes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use cri_proto::criu::message::PstreeEntry;
use procfs::process::{Stat, Status};

use super::OmittedTasks;
use crate::{
    checkpoint::{
        error::Error,
        freeze::{FrozenContainer, FrozenProcess},
    },
    process::proc_files::{self, StatusText},
};

/// A process in its place.
pub(crate) struct PstreeNode<'a> {
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
    pgid: i32,
    sid: i32,
    ns_pids: HashMap<i32, i32>,
}

impl PstreeNode<'_> {
    /// Its number, or that of one of its threads, as the container itself knows it: a restored one has a pid namespace of its own.
    pub(crate) fn ns_pid(&self, tid: i32) -> u32 {
        self.ns_pids.get(&tid).copied().unwrap_or(tid).unsigned_abs()
    }

    /// Whether it is the first process of a pid namespace, as a thread of it tells.
    pub(crate) fn is_ns_init(&self, tid: i32) -> bool {
        let status = self.statuses.get(&tid);
        status.is_none_or(|status| status.values("NStgid:").last() == Some(1))
    }

    /// The status of one of its threads.
    pub(super) fn status(&self, tid: i32) -> Option<&StatusText> {
        self.statuses.get(&tid)
    }

    /// All of it.
    pub(super) fn parsed_status(&self, tid: i32) -> Result<Status, Error> {
        let pid = self.process.pid();
        let status = self.statuses.get(&tid).ok_or(Error::TaskExited { pid })?;
        status.parse().map_err(|error| Error::capture(pid, "status", error))
    }
}

fn read_status(pid: i32, tid: i32) -> Result<StatusText, Error> {
    StatusText::read(tid).map_err(|error| Error::capture(pid, "status", error))
}

/// The last number of a line of `/proc/PID/status` that has one for each namespace from ours down.
fn ns_id_at(status: &StatusText, name: &str, depth: usize, host_id: i32) -> i32 {
    let ns_id = status.values(name).nth(depth);
    ns_id.and_then(|number| number.try_into().ok()).unwrap_or(host_id)
}

/// The processes, parents before their children.
pub(super) struct Pstree<'a> {
    nodes: Vec<PstreeNode<'a>>,
}

impl<'a> Pstree<'a> {
    /// Orders the processes below the first one. Whoever has a parent outside the container was given to the shim when its
    /// own ended; it is listed as a child of the first process, as it would be one in a pid namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the first process, or one on the way, is no more.
    pub(super) fn build(frozen: &'a FrozenContainer<'_>, init: i32, omitted: OmittedTasks) -> Result<Self, Error> {
        let mut nodes_by_pid = BTreeMap::new();
        let mut children: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        let pids: BTreeSet<i32> = frozen.processes().map(FrozenProcess::pid).collect();
        if !pids.contains(&init) {
            return Err(Error::TaskExited { pid: init });
        }
        let init_status = read_status(init, init)?;
        let depth = init_status.values("NSpid:").count().saturating_sub(1);
        for process in frozen.processes() {
            let pid = process.pid();
            let stat = proc_files::stat(pid).map_err(|error| Error::capture(pid, "stat", error))?;
            let parent = match pid == init {
                true => 0,
                false if pids.contains(&stat.ppid) => stat.ppid,
                false => init,
            };
            children.entry(parent).or_default().insert(pid);
            let mut threads = process.threads();
            if omitted.last_threads && threads.len() > 1 {
                threads.pop();
            }
            let mut node = PstreeNode {
                process,
                parent,
                threads,
                pgid: stat.pgrp,
                sid: stat.session,
                stat,
                statuses: HashMap::new(),
                ns_pids: HashMap::new(),
            };
            for tid in node.threads.clone() {
                let status = match tid == init {
                    true => init_status.clone(),
                    false => read_status(pid, tid)?,
                };
                node.statuses.insert(tid, status);
            }
            if depth > 0 {
                for tid in [pid].into_iter().chain(node.threads.clone()) {
                    let status = match node.statuses.get(&tid) {
                        Some(status) => status.clone(),
                        None => read_status(pid, tid)?,
                    };
                    node.ns_pids.insert(tid, ns_id_at(&status, "NSpid:", depth, tid));
                    if tid == pid {
                        node.pgid = ns_id_at(&status, "NSpgid:", depth, node.pgid);
                        node.sid = ns_id_at(&status, "NSsid:", depth, node.sid);
                    }
                }
            }
            nodes_by_pid.insert(pid, node);
        }
        let mut nodes = Vec::with_capacity(nodes_by_pid.len());
        let mut queue = VecDeque::from([init]);
        while let Some(pid) = queue.pop_front() {
            nodes.extend(nodes_by_pid.remove(&pid));
            queue.extend(children.remove(&pid).unwrap_or_default());
        }
        if nodes.first().is_none_or(|node| node.process.proc_tid().is_none()) {
            return Err(Error::TaskExited { pid: init });
        }
        if omitted.all_but_init {
            nodes.truncate(1);
        }
        Ok(Self { nodes })
    }

    /// The processes, parents first.
    pub(super) fn nodes(&self) -> &[PstreeNode<'a>] {
        &self.nodes
    }

    /// `pstree.img`.
    pub(super) fn entries(&self) -> Vec<PstreeEntry> {
        let ns_pid = |pid: i32| {
            let node = self.nodes.iter().find(|node| node.process.pid() == pid);
            node.map_or(pid.unsigned_abs(), |node| node.ns_pid(pid))
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
                    pid: node.ns_pid(pid),
                    ppid: ns_pid(node.parent),
                    pgid: node.pgid.unsigned_abs(),
                    sid: node.sid.unsigned_abs(),
                    threads: threads.into_iter().map(|tid| node.ns_pid(tid)).collect(),
                }
            })
            .collect()
    }
}
