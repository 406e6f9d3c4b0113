//! Finds the processes of the container.
//!
//! Members are all descendants of the shim, including orphans, which the shim adopts. Not members are the processes
//! that a running exec has started; an orphan of an exec is recognized by its session or by a variable in its
//! environment. Neither is the init of the pid namespace of a restored container.

use std::{collections::HashSet, io};

use crate::process::{
    Pid, ProcessId,
    pstree::{self, ProcStat},
};

/// The environment variable that marks the processes of an exec.
pub(super) const EXEC_ID_ENV: &str = "FAKE_CRI_EXEC_ID";

/// Identifies an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecKey {
    /// The first process, leader of its session.
    pub(super) root: ProcessId,
    /// The value of [`EXEC_ID_ENV`].
    pub(super) id: String,
}

/// The descendants of the shim.
pub(super) struct Members {
    /// Members of the container, including zombies, parents before their children.
    pub(super) container: Vec<ProcStat>,
    /// Processes of execs, with the index of the exec.
    pub(super) execs: Vec<(usize, ProcStat)>,
}

pub(super) fn find_members(
    shim: Pid,
    init: Option<ProcessId>,
    ns_init: Option<ProcessId>,
    execs: &[ExecKey],
) -> io::Result<Members> {
    let mut descendants = pstree::descendants(shim)?;
    descendants.retain(|stat| Some(stat.id) != ns_init);
    let mut members = Members {
        container: Vec::new(),
        execs: Vec::new(),
    };
    let mut unassigned_pids: HashSet<Pid> = descendants.iter().map(|stat| stat.id.pid).collect();
    for (exec_index, exec) in execs.iter().enumerate() {
        let is_root = |stat: &ProcStat| {
            stat.sid == exec.root.pid
                || stat.ppid == shim && Some(stat.id) != init && pstree::environ_has(stat.id.pid, EXEC_ID_ENV, &exec.id)
        };
        let root_pids: HashSet<Pid> = descendants
            .iter()
            .filter(|stat| is_root(stat))
            .map(|stat| stat.id.pid)
            .collect();
        let descendant_pids = pstree::descendants_of(&descendants, &root_pids);
        for stat in &descendants {
            if (root_pids.contains(&stat.id.pid) || descendant_pids.contains(&stat.id.pid))
                && unassigned_pids.remove(&stat.id.pid)
            {
                members.execs.push((exec_index, *stat));
            }
        }
    }
    members.container = descendants
        .into_iter()
        .filter(|stat| unassigned_pids.contains(&stat.id.pid))
        .collect();
    Ok(members)
}
