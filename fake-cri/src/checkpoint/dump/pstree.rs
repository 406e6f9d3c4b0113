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
    process::{
        NsPid, Pid, Tid,
        proc_files::{self, StatusText},
    },
};

/// A process in the tree.
pub(crate) struct PstreeNode<'a> {
    pub(crate) process: &'a FrozenProcess,
    /// The parent in the container; `None` for the init process.
    pub(super) parent: Option<Pid>,
    /// The live threads, the leader first.
    pub(crate) threads: Vec<Tid>,
    /// `/proc/PID/stat`.
    pub(crate) stat: Stat,
    /// `/proc/TID/status` of the threads.
    statuses: HashMap<Tid, StatusText>,
    pgid: NsPid,
    sid: NsPid,
    /// The threads and the leader in the container's pid namespace.
    ns_tids: HashMap<Tid, NsPid>,
}

impl PstreeNode<'_> {
    /// The process in the container's pid namespace; a restored container has its own.
    pub(crate) fn ns_pid(&self) -> NsPid {
        self.ns_tid(self.process.pid().main_thread())
    }

    /// A thread in the container's pid namespace.
    pub(crate) fn ns_tid(&self, tid: Tid) -> NsPid {
        let same_number = NsPid::from_raw(tid.as_raw().unsigned_abs());
        self.ns_tids.get(&tid).copied().unwrap_or(same_number)
    }

    /// Whether the process is the init of a pid namespace, by the status of the thread `tid`.
    pub(crate) fn is_ns_init(&self, tid: Tid) -> bool {
        let status = self.statuses.get(&tid);
        status.is_none_or(|status| status.values("NStgid:").last() == Some(1))
    }

    pub(super) fn status(&self, tid: Tid) -> Option<&StatusText> {
        self.statuses.get(&tid)
    }

    /// The parsed status of a thread.
    pub(super) fn parsed_status(&self, tid: Tid) -> Result<Status, Error> {
        let pid = self.process.pid();
        let status = self.statuses.get(&tid).ok_or(Error::TaskExited { pid })?;
        status.parse().map_err(|error| Error::capture(pid, "status", error))
    }
}

fn read_status(pid: Pid, tid: Tid) -> Result<StatusText, Error> {
    StatusText::read(tid).map_err(|error| Error::capture(pid, "status", error))
}

/// The number at `depth` in a line of `/proc/PID/status` that has a number for each namespace, from ours down; without
/// one, our number.
fn ns_pid_at(status: &StatusText, name: &str, depth: usize, host_number: i32) -> NsPid {
    let number = status
        .values(name)
        .nth(depth)
        .and_then(|number| i32::try_from(number).ok());
    NsPid::from_raw(number.unwrap_or(host_number).unsigned_abs())
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
    pub(super) fn build(frozen: &'a FrozenContainer<'_>, init: Pid, hooks: &dyn Hooks) -> Result<Self, Error> {
        let mut nodes_by_pid = BTreeMap::new();
        let mut children: BTreeMap<Pid, BTreeSet<Pid>> = BTreeMap::new();
        let pids: BTreeSet<Pid> = frozen.processes().map(FrozenProcess::pid).collect();
        if !pids.contains(&init) {
            return Err(Error::TaskExited { pid: init });
        }
        let init_status = read_status(init, init.main_thread())?;
        let depth = init_status.values("NSpid:").count().saturating_sub(1);
        let mut tasks = frozen
            .processes()
            .map(|process| (process.pid(), process.threads()))
            .collect();
        hooks.select_tasks(init, &mut tasks);
        for process in frozen.processes() {
            let pid = process.pid();
            let stat = proc_files::stat(pid.main_thread()).map_err(|error| Error::capture(pid, "stat", error))?;
            let parent = (pid != init).then(|| {
                let parent = Pid::from_raw(stat.ppid);
                if pids.contains(&parent) { parent } else { init }
            });
            if let Some(parent) = parent {
                children.entry(parent).or_default().insert(pid);
            }
            let Some(threads) = tasks.remove(&pid) else { continue };
            let mut node = PstreeNode {
                process,
                parent,
                threads,
                pgid: NsPid::from_raw(stat.pgrp.unsigned_abs()),
                sid: NsPid::from_raw(stat.session.unsigned_abs()),
                stat,
                statuses: HashMap::new(),
                ns_tids: HashMap::new(),
            };
            for tid in node.threads.clone() {
                let status = match tid == init.main_thread() {
                    true => init_status.clone(),
                    false => read_status(pid, tid)?,
                };
                node.statuses.insert(tid, status);
            }
            if depth > 0 {
                for tid in [pid.main_thread()].into_iter().chain(node.threads.clone()) {
                    let status = match node.statuses.get(&tid) {
                        Some(status) => status.clone(),
                        None => read_status(pid, tid)?,
                    };
                    node.ns_tids
                        .insert(tid, ns_pid_at(&status, "NSpid:", depth, tid.as_raw()));
                    if tid == pid.main_thread() {
                        node.pgid = ns_pid_at(&status, "NSpgid:", depth, node.stat.pgrp);
                        node.sid = ns_pid_at(&status, "NSsid:", depth, node.stat.session);
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
        let ns_pid = |pid: Pid| {
            let node = self.nodes.iter().find(|node| node.process.pid() == pid);
            node.map_or(pid.as_raw().unsigned_abs(), |node| node.ns_pid().as_raw())
        };
        self.nodes
            .iter()
            .map(|node| {
                let leader = node.process.pid().main_thread();
                let mut threads = node.threads.clone();
                // A process with a dead leader still has its pid.
                if threads.first() != Some(&leader) {
                    threads.insert(0, leader);
                }
                PstreeEntry {
                    pid: node.ns_pid().as_raw(),
                    // 0 for the init process.
                    ppid: node.parent.map_or(0, ns_pid),
                    pgid: node.pgid.as_raw(),
                    sid: node.sid.as_raw(),
                    threads: threads.into_iter().map(|tid| node.ns_tid(tid).as_raw()).collect(),
                }
            })
            .collect()
    }
}
