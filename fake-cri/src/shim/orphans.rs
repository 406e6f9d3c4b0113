//! Ending what a dead shim left of its container.
//!
//! When a shim is killed, its children become those of fake-cri if that started the shim, else of the init process.
//! Nothing binds them together any more but what they carry: the mark in the environment they were started with, the
//! container's sessions, and their descent. A process counts when one of these holds:
//!
//! - it was started with [`CONTAINER_ID_ENV`] and the container's id;
//! - it is one of the known processes, with its start time;
//! - it is in the session of one that counts (each container's first process leads a session);
//! - it descends from one that counts;
//! - it is a child of this process, in a session of its own, and no shim by its name: then some dead shim left it.
//!
//! All are killed, and it is looked again until nothing is found, since processes may be born meanwhile. A process that a
//! checkpoint held stopped when the shim was killed runs on by itself: its tracer is gone.

use std::{
    collections::HashSet,
    fs, io, thread,
    time::{Duration, Instant},
};

use super::{CONTAINER_ID_ENV, SHIM_PROCESS_NAME, ShimError};
use crate::process::{
    ProcessId, pidfd,
    pstree::{self, ProcStat},
    wait,
};

/// How long processes may take to die.
const ORPHAN_KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for children of a shim that is only just dying to become ours: it closes its sockets before that.
const REPARENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Kills all that a dead shim left of a container, and returns how many processes that were when nothing is left. `known_processes`
/// are processes that are known to be the container's: its first one. The shim itself must be gone.
///
/// An error names those that would not die.
pub async fn kill_orphans(container_id: &str, known_processes: &[ProcessId]) -> Result<usize, ShimError> {
    let (container_id, known_processes) = (container_id.to_owned(), known_processes.to_vec());
    let killed = tokio::task::spawn_blocking(move || kill_until_gone(&container_id, &known_processes)).await;
    killed.map_err(|error| ShimError::Internal {
        message: format!("look for leftovers: {error}"),
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
                // Ours to reap, now or when the dying shim has let go of it; else it is gone as soon as its parent looks.
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
            let message =
                format!("kill what is left of container {container_id}: processes {alive_pids:?} would not die");
            return Err(ShimError::Internal { message });
        }
        // There is no event for processes that are not our children and not all known yet.
        thread::sleep(Duration::from_millis(5));
    }
}

fn find_orphans(container_id: &str, known_processes: &[ProcessId]) -> io::Result<Vec<ProcStat>> {
    let this_process = ProcStat::read(nix::unistd::getpid().as_raw())?;
    let processes = pstree::all_processes()?;
    let mut root_pids: HashSet<i32> = HashSet::new();
    for stat in &processes {
        // A shim leaves our session only once it carries its name, so none is taken for an orphan while it is born.
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
        // The number of a session's leader is not used again while the session lasts, so a session that is led by another
        // process of that number is another session.
        let sessions: HashSet<i32> = processes
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

/// By its name, which one that is just ending still has, unlike its environment.
fn is_shim(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == SHIM_PROCESS_NAME)
}
