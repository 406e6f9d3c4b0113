//! Ending what a dead shim left of its container.
//!
//! When a shim is killed, its children become those of fake-cri if that started the shim, else of the init process.
//! Nothing binds them together any more but what they carry: the mark in the environment they were started with, the
//! container's sessions, and their descent. A process counts when one of these holds:
//!
//! - it was started with [`MARKER`] and the container's id;
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

use super::{MARKER, NAME, ShimError};
use crate::process::{
    ProcessId,
    family::{self, Kin},
    pidfd, reap,
};

/// How long processes may take to die.
const DYING: Duration = Duration::from_secs(10);

/// How long to wait for children of a shim that is only just dying to become ours: it closes its sockets before that.
const ADOPTION: Duration = Duration::from_secs(1);

/// Kills all that a dead shim left of a container, and returns how many processes that were when nothing is left. `known`
/// are processes that are known to be the container's: its first one. The shim itself must be gone.
///
/// An error names those that would not die.
pub async fn kill_leftovers(container_id: &str, known: &[ProcessId]) -> Result<usize, ShimError> {
    let (container_id, known) = (container_id.to_owned(), known.to_vec());
    let killed = tokio::task::spawn_blocking(move || kill(&container_id, &known)).await;
    killed.map_err(|error| ShimError::Shim {
        message: format!("look for leftovers: {error}"),
    })?
}

fn kill(container_id: &str, known: &[ProcessId]) -> Result<usize, ShimError> {
    let begun = Instant::now();
    let mut killed = HashSet::new();
    loop {
        let left = find(container_id, known)?;
        let mut alive = Vec::new();
        let mut unreaped = false;
        for kin in &left {
            if kin.ended() {
                // Ours to reap, now or when the dying shim has let go of it; else it is gone as soon as its parent looks.
                unreaped |= !matches!(reap::child(kin.id.pid)?, reap::Found::Ended(_));
                continue;
            }
            killed.insert(kin.id);
            alive.push(kin.id.pid);
            pidfd::signal(kin.id, libc::SIGKILL)?;
        }
        if alive.is_empty() && (!unreaped || begun.elapsed() > ADOPTION) {
            return Ok(killed.len());
        }
        if begun.elapsed() > DYING {
            let message = format!("kill what is left of container {container_id}: processes {alive:?} would not die");
            return Err(ShimError::Shim { message });
        }
        // There is no event for processes that are not our children and not all known yet.
        thread::sleep(Duration::from_millis(5));
    }
}

fn find(container_id: &str, known: &[ProcessId]) -> io::Result<Vec<Kin>> {
    let me = Kin::of(nix::unistd::getpid().as_raw())?;
    let all = family::everyone()?;
    let mut roots: HashSet<i32> = HashSet::new();
    for kin in &all {
        // A shim leaves our session only once it carries its name, so none is taken for an orphan while it is born.
        let orphan = kin.parent == me.id.pid && kin.session != me.session && !is_shim(kin.id.pid);
        if orphan || known.contains(&kin.id) || family::started_with(kin.id.pid, MARKER, container_id) {
            roots.insert(kin.id.pid);
        }
    }
    roots.remove(&me.id.pid);
    let mut found = roots.clone();
    loop {
        // The number of a session's leader is not used again while the session lasts, so a session that is led by another
        // process of that number is another session.
        let sessions: HashSet<i32> = all
            .iter()
            .filter(|kin| found.contains(&kin.id.pid))
            .map(|kin| kin.session)
            .chain(known.iter().map(|known| known.pid))
            .filter(|session| {
                let leader = all.iter().find(|kin| kin.id.pid == *session);
                *session != me.session && leader.is_none_or(|leader| found.contains(&leader.id.pid))
            })
            .collect();
        let mut more = family::below(&all, &found);
        more.extend(
            all.iter()
                .filter(|kin| sessions.contains(&kin.session))
                .map(|kin| kin.id.pid),
        );
        more.remove(&me.id.pid);
        more.retain(|pid| !found.contains(pid));
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    Ok(all.into_iter().filter(|kin| found.contains(&kin.id.pid)).collect())
}

/// By its name, which one that is just ending still has, unlike its environment.
fn is_shim(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == NAME)
}
