//! Kills the processes that a dead shim left of its container.
//!
//! When a shim is killed, its children become children of fake-cri if fake-cri started the shim, else of the init
//! process. A process belongs to the container if one of these is true:
//!
//! - the process was started with [`CONTAINER_ID_ENV`] and the container's id;
//! - the process is one of `known_processes`, with its start time;
//! - the process is in the session of a process that belongs (each container's first process leads a session);
//! - the process descends from a process that belongs;
//! - the process is a child of this process, in another session, and not named as a shim: then some dead shim left it.
//!
//! All are killed, and the search is repeated until it finds none, because processes may be forked meanwhile. A process
//! that was stopped by a checkpoint when the shim was killed continues, because its tracer is gone.

use std::{
    collections::HashSet,
    io, thread,
    time::{Duration, Instant},
};

use super::{SHIM_PROCESS_NAME, ShimError};
use crate::environment::CONTAINER_ID_ENV;
use crate::process::{
    Pid, ProcessId, pidfd, proc_files,
    pstree::{self, ProcStat},
    wait,
};

const ORPHAN_KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for zombies of a dying shim to become children of this process: the shim closes its sockets before
/// that.
const REPARENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Kills all processes that a dead shim left of a container, and returns their number when none is left.
/// `known_processes` are known members of the container: its first process. The shim must have ended.
///
/// An error names the processes that could not be killed.
pub async fn kill_orphans(container_id: &str, known_processes: &[ProcessId]) -> Result<usize, ShimError> {
    let (container_id, known_processes) = (container_id.to_owned(), known_processes.to_vec());
    let killed = tokio::task::spawn_blocking(move || kill_until_gone(&container_id, &known_processes)).await;
    killed.map_err(|error| ShimError::Internal {
        message: format!("find orphans: {error}"),
    })?
}

fn kill_until_gone(container_id: &str, known_processes: &[ProcessId]) -> Result<usize, ShimError> {
    let start = Instant::now();
    let mut killed = HashSet::new();
    loop {
        let orphans = find_orphans(container_id, known_processes)?;
        let mut alive_pids = Vec::new();
        let mut has_zombies = false;
        for stat in &orphans {
            if stat.is_dead() {
                // This process reaps the zombie, if need be once the dying shim has released it. A zombie of another
                // parent is reaped by that parent.
                has_zombies |= !matches!(wait::try_wait(stat.id.pid)?, wait::WaitOutcome::Exited(_));
                continue;
            }
            killed.insert(stat.id);
            alive_pids.push(stat.id.pid);
            pidfd::signal(stat.id, libc::SIGKILL)?;
        }
        if alive_pids.is_empty() && (!has_zombies || start.elapsed() > REPARENT_TIMEOUT) {
            return Ok(killed.len());
        }
        if start.elapsed() > ORPHAN_KILL_TIMEOUT {
            let message = format!("kill the orphans of container {container_id}: processes {alive_pids:?} did not end");
            return Err(ShimError::Internal { message });
        }
        // No event covers processes that are not children of this process and not yet known.
        thread::sleep(Duration::from_millis(5));
    }
}

fn find_orphans(container_id: &str, known_processes: &[ProcessId]) -> io::Result<Vec<ProcStat>> {
    let this_process = ProcStat::read(Pid::current())?;
    let processes = pstree::all_processes()?;
    let mut root_pids: HashSet<Pid> = HashSet::new();
    for stat in &processes {
        // A shim takes its name before it leaves this session, so a shim that is being launched is never taken for an
        // orphan.
        let is_orphan = stat.ppid == this_process.id.pid && stat.sid != this_process.sid && !is_shim(stat.id.pid);
        if is_orphan
            || known_processes.contains(&stat.id)
            || pstree::environ_has(stat.id.pid, CONTAINER_ID_ENV, container_id)
        {
            root_pids.insert(stat.id.pid);
        }
    }
    root_pids.remove(&this_process.id.pid);
    let mut pids = root_pids.clone();
    loop {
        // A pid is not reused while it is the id of a session. So if a process has that pid and is not a member, the
        // session is not the container's.
        let sessions: HashSet<Pid> = processes
            .iter()
            .filter(|stat| pids.contains(&stat.id.pid))
            .map(|stat| stat.sid)
            .chain(known_processes.iter().map(|process| process.pid))
            .filter(|session| {
                let leader = processes.iter().find(|stat| stat.id.pid == *session);
                *session != this_process.sid && leader.is_none_or(|leader| pids.contains(&leader.id.pid))
            })
            .collect();
        let mut new_pids = pstree::descendants_of(&processes, &pids);
        new_pids.extend(
            processes
                .iter()
                .filter(|stat| sessions.contains(&stat.sid))
                .map(|stat| stat.id.pid),
        );
        new_pids.remove(&this_process.id.pid);
        new_pids.retain(|pid| !pids.contains(pid));
        if new_pids.is_empty() {
            break;
        }
        pids.extend(new_pids);
    }
    Ok(processes
        .into_iter()
        .filter(|stat| pids.contains(&stat.id.pid))
        .collect())
}

/// Compares the name, which an exiting process still has, unlike its environment.
fn is_shim(pid: Pid) -> bool {
    proc_files::comm(pid.main_thread()).is_ok_and(|name| name == SHIM_PROCESS_NAME)
}
