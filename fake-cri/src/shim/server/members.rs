//! Which processes are the container's.
//!
//! All descendants of the shim are, orphans included, since the shim adopts them; but not what an ExecSync that is still
//! under way has started. Of those, an orphan is told by its session or by a mark in its environment. Nor is the process that
//! holds the pid namespace of a restored container, to which its orphans come.

use std::{collections::HashSet, io};

use crate::process::{
    ProcessId,
    family::{self, Kin},
};

/// The environment variable by which the processes of an exec are told from the container's.
pub(super) const EXEC_MARKER: &str = "FAKE_CRI_EXEC";

/// A command that runs beside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecMark {
    /// Its first process, the leader of its session.
    pub(super) root: ProcessId,
    /// The value of [`EXEC_MARKER`] in its environment.
    pub(super) id: String,
}

/// The shim's descendants, parted.
pub(super) struct Members {
    /// The container's, zombies included, parents before their children.
    pub(super) container: Vec<Kin>,
    /// Those of the commands beside it, with the command's place in the list that was asked with.
    pub(super) execs: Vec<(usize, Kin)>,
}

/// Looks who is there now.
pub(super) fn look(
    shim: i32,
    init: Option<ProcessId>,
    keeper: Option<ProcessId>,
    execs: &[ExecMark],
) -> io::Result<Members> {
    let mut all = family::descendants(shim)?;
    all.retain(|kin| Some(kin.id) != keeper);
    let mut members = Members {
        container: Vec::new(),
        execs: Vec::new(),
    };
    let mut left: HashSet<i32> = all.iter().map(|kin| kin.id.pid).collect();
    for (place, exec) in execs.iter().enumerate() {
        let is_root = |kin: &Kin| {
            kin.session == exec.root.pid
                || kin.parent == shim && Some(kin.id) != init && family::started_with(kin.id.pid, EXEC_MARKER, &exec.id)
        };
        let roots: HashSet<i32> = all.iter().filter(|kin| is_root(kin)).map(|kin| kin.id.pid).collect();
        let below = family::below(&all, &roots);
        for kin in &all {
            if (roots.contains(&kin.id.pid) || below.contains(&kin.id.pid)) && left.remove(&kin.id.pid) {
                members.execs.push((place, *kin));
            }
        }
    }
    members.container = all.into_iter().filter(|kin| left.contains(&kin.id.pid)).collect();
    Ok(members)
}
