//! Which processes are the container's.
//!
//! All descendants of the shim are, orphans included, since the shim adopts them; but not what an ExecSync that is still
//! under way has started. Of those, an orphan is told by its session or by a mark in its environment. Nor is the process that
//! holds the pid namespace of a restored container, to which its orphans come.

use std::{collections::HashSet, io};

use crate::process::{
    ProcessId,
    pstree::{self, ProcStat},
};

/// The environment variable by which the processes of an exec are told from the container's.
pub(super) const EXEC_ID_ENV: &str = "FAKE_CRI_EXEC_ID";

/// A command that runs beside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecKey {
    /// Its first process, the leader of its session.
    pub(super) root: ProcessId,
    /// The value of [`EXEC_ID_ENV`] in its environment.
    pub(super) id: String,
}

/// The shim's descendants, parted.
pub(super) struct Members {
    /// The container's, zombies included, parents before their children.
    pub(super) container: Vec<ProcStat>,
    /// Those of the commands beside it, with the command's place in the list that was asked with.
    pub(super) execs: Vec<(usize, ProcStat)>,
}

/// Looks who is there now.
pub(super) fn find_members(
    shim: i32,
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
    let mut unassigned_pids: HashSet<i32> = descendants.iter().map(|stat| stat.id.pid).collect();
    for (exec_index, exec) in execs.iter().enumerate() {
        let is_root = |stat: &ProcStat| {
            stat.sid == exec.root.pid
                || stat.ppid == shim && Some(stat.id) != init && pstree::environ_has(stat.id.pid, EXEC_ID_ENV, &exec.id)
        };
        let root_pids: HashSet<i32> = descendants
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
