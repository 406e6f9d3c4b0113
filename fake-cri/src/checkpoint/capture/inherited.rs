//! What a fork keeps of a process, and neither `/proc` nor ptrace tells: asked of the copy where there is one, since the container
//! runs on then.

use cri_proto::criu::message::SaEntry;
use nix::errno::Errno;

use super::{
    asked::{Asked, Reader, failed, is_mute, unasked},
    core,
};
use crate::{
    checkpoint::{error::Error, log::DumpLog},
    process::{
        inject::{Area, Call, Gate},
        proc,
    },
};

/// The size of the kernel's set of signals.
const SIGNAL_SET: u64 = 8;
/// The dumpable state that `PR_SET_DUMPABLE` does not take: dumps only for root. It is closest to none.
const ROOT_ALONE: u64 = 2;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS`, Linux 6.3.
const GET_REGISTRATIONS: u64 = 1 << 9;
/// The barriers that only a registered process may ask for, each with the command that registers one (linux/membarrier.h).
const PRIVATE_BARRIERS: [(u64, u32); 3] = [(1 << 3, 1 << 4), (1 << 5, 1 << 6), (1 << 7, 1 << 8)];

/// What a process, or a copy of it, said of itself.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The actions of signals 1 to 64 without those that have none, in order.
    pub(super) actions: Vec<SaEntry>,
    /// The end of its heap, to the byte.
    pub(super) heap_end: u64,
    /// `PR_GET_DUMPABLE`.
    pub(super) dumpable: i32,
    /// The commands of membarrier(2) by which it registered itself.
    pub(super) barriers: u32,
}

/// Asks a process, or its copy, what a fork keeps; `None` when it cannot be asked, which is in the log then. `options` are those
/// of ptrace that are in force; an area that the copy has is gone afterwards.
///
/// # Errors
///
/// As [`super::Talk::begin`].
pub(super) fn ask(
    (pid, eyes): (i32, i32),
    gate: Gate,
    area: Option<Area>,
    options: i32,
    log: &mut DumpLog,
) -> Result<Option<Inherited>, Error> {
    let mut asked = match Asked::enter((pid, eyes), gate, options, area, ("its signal handlers", log)) {
        Ok(asked) => asked,
        Err(error) if is_mute(&error) => {
            unasked(pid, &error, log);
            return Ok(None);
        }
        Err(error) => return Err(failed(pid, error)),
    };
    // Which signals are ignored or take their default `/proc` tells, and their flags mean nothing but SIGCHLD's (whether ended
    // children wait to be reaped).
    let status = proc::status(eyes).map_err(|error| Error::capture(pid, "status", error))?;
    let mut actions = core::known_actions(status.sigign);
    let is_asked = |signal: u32| status.sigcgt & 1 << (signal - 1) != 0 || signal == libc::SIGCHLD as u32;
    let with_area = asked.area.is_some();
    let mut wanted: Vec<_> = core::signals_with_action()
        .zip(&mut actions)
        .filter(|(signal, _)| with_area && is_asked(*signal))
        .collect();
    let mut calls: Vec<_> = wanted
        .iter()
        .map(|(signal, _)| {
            let arguments = [u64::from(*signal), 0, 0, SIGNAL_SET, 0, 0];
            Call::answering(libc::SYS_rt_sigaction, arguments, 2)
        })
        .collect();
    calls.extend([
        Call::new(libc::SYS_brk, [0; 6]),
        Call::new(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0]),
        Call::new(libc::SYS_membarrier, [GET_REGISTRATIONS, 0, 0, 0, 0, 0]),
    ]);
    let answers = asked.ask(calls).map_err(|error| failed(pid, error))?;
    let mut answers = Reader { pid, answers: &answers };
    for (_, action) in &mut wanted {
        let [sigaction, flags, restorer, mask] = answers.words("rt_sigaction")?;
        **action = SaEntry {
            sigaction,
            flags,
            restorer,
            mask,
            ..SaEntry::default()
        };
    }
    let heap_end = answers.number("brk")?;
    let dumpable = match answers.number("dumpable")? {
        ROOT_ALONE => 0,
        other => other as i32,
    };
    let barriers = match answers.next("membarrier")?.result {
        Ok(registered) => registered as u32,
        // A kernel without it has registered nobody.
        Err(Errno::ENOSYS) => 0,
        Err(_) => tried_barriers(&mut asked, log)?,
    };
    asked.leave()?;
    Ok(Some(Inherited {
        actions,
        heap_end,
        dumpable,
        barriers,
    }))
}

/// How a process registered itself with membarrier(2), on an older kernel, which does not tell; but it refuses the barrier itself
/// to who is not registered.
fn tried_barriers(asked: &mut Asked, log: &mut DumpLog) -> Result<u32, Error> {
    let pid = asked.pid;
    let tried = PRIVATE_BARRIERS.map(|(barrier, _)| Call::new(libc::SYS_membarrier, [barrier, 0, 0, 0, 0, 0]));
    let answers = asked.ask(tried.to_vec()).map_err(|error| failed(pid, error))?;
    let registered = answers
        .iter()
        .zip(PRIVATE_BARRIERS)
        .filter(|(answer, _)| answer.result.is_ok());
    log.info(format_args!(
        "pid {pid}: whether it takes part in global memory barriers is not known (Linux before 6.3)"
    ));
    Ok(registered.fold(0, |all, (_, (_, register))| all | register))
}
