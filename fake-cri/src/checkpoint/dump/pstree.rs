//! The process tree of the container: `pstree.img`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use cri_proto::criu::message::PstreeEntry;
use procfs::process::{Stat, Status};

use crate::{
    checkpoint::{
        error::Error,
        freeze::{FrozenContainer, FrozenProcess},
        hooks::Hooks,
    },
    process::proc_files::{self, StatusText},
};

/// A process in the tree.
pub(crate) struct PstreeNode<'a> {
    pub(crate) process: &'a FrozenProcess,
    /// The pid of the parent in the container; 0 for the init process.
    pub(super) parent: i32,
    /// The live threads, the leader first.
    pub(crate) threads: Vec<i32>,
    /// `/proc/PID/stat`.
    pub(crate) stat: Stat,
    /// `/proc/TID/status` of the threads.
    statuses: HashMap<i32, StatusText>,
    /// Process group and session, in the container's pid namespace.
    pgid: i32,
    sid: i32,
    ns_pids: HashMap<i32, i32>,
}

impl PstreeNode<'_> {
    /// The pid of the process or tid of a thread in the container's pid namespace; a restored container has its own.
    pub(crate) fn ns_pid(&self, tid: i32) -> u32 {
        self.ns_pids.get(&tid).copied().unwrap_or(tid).unsigned_abs()
    }

    /// Whether the process is the init of a pid namespace, by the status of the thread `tid`.
    pub(crate) fn is_ns_init(&self, tid: i32) -> bool {
        let status = self.statuses.get(&tid);
        status.is_none_or(|status| status.values("NStgid:").last() == Some(1))
    }

    pub(super) fn status(&self, tid: i32) -> Option<&StatusText> {
        self.statuses.get(&tid)
    }

    /// The parsed status of a thread.
    pub(super) fn parsed_status(&self, tid: i32) -> Result<Status, Error> {
        let pid = self.process.pid();
        let status = self.statuses.get(&tid).ok_or(Error::TaskExited { pid })?;
        status.parse().map_err(|error| Error::capture(pid, "status", error))
    }
}

fn read_status(pid: i32, tid: i32) -> Result<StatusText, Error> {
    StatusText::read(tid).map_err(|error| Error::capture(pid, "status", error))
}

/// The id at `depth` in a line of `/proc/PID/status` that has an id for each namespace, from ours down.
fn ns_id_at(status: &StatusText, name: &str, depth: usize, host_id: i32) -> i32 {
    let ns_id = status.values(name).nth(depth);
    ns_id.and_then(|number| number.try_into().ok()).unwrap_or(host_id)
}

/// The processes in an order with parents before children.
pub(super) struct Pstree<'a> {
    nodes: Vec<PstreeNode<'a>>,
}

impl<'a> Pstree<'a> {
    /// Builds the tree below the init process. A process whose parent is outside of the container was reparented to the
    /// shim when its parent exited. It becomes a child of the init process, as in a pid namespace.
    ///
    /// # Errors
    ///
    /// [`Error::TaskExited`] if init or another process exited.
    pub(super) fn build(frozen: &'a FrozenContainer<'_>, init: i32, hooks: &dyn Hooks) -> Result<Self, Error> {
        let mut nodes_by_pid = BTreeMap::new();
        let mut children: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        let pids: BTreeSet<i32> = frozen.processes().map(FrozenProcess::pid).collect();
        if !pids.contains(&init) {
            return Err(Error::TaskExited { pid: init });
        }
        let init_status = read_status(init, init)?;
        let depth = init_status.values("NSpid:").count().saturating_sub(1);
        let mut tasks = frozen
            .processes()
            .map(|process| (process.pid(), process.threads()))
            .collect();
        hooks.select_tasks(init, &mut tasks);
        for process in frozen.processes() {
            let pid = process.pid();
            let stat = proc_files::stat(pid).map_err(|error| Error::capture(pid, "stat", error))?;
            let parent = match pid == init {
                true => 0,
                false if pids.contains(&stat.ppid) => stat.ppid,
                false => init,
            };
            children.entry(parent).or_default().insert(pid);
            let Some(threads) = tasks.remove(&pid) else { continue };
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
        Ok(Self { nodes })
    }

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
                // A process with a dead leader still has its pid.
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
