//! What a fork keeps of a process, and neither `/proc` nor ptrace tells: asked of the copy where there is one, since the container
//! runs on then.

use cri_proto::criu::message::SaEntry;
use nix::errno::Errno;

use super::{
    core,
    parasite::{Parasite, ResultReader, is_unqueryable, log_unqueryable, query_error},
};
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::{
        proc_files,
        remote_syscalls::{Syscall, SyscallBuffer, SyscallInsn},
    },
};

/// The size of the kernel's set of signals.
const KERNEL_SIGSET_BYTES: u64 = 8;
/// The dumpable state that `PR_SET_DUMPABLE` does not take: dumps only for root. It is closest to none.
const SUID_DUMP_ROOT: u64 = 2;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS`, Linux 6.3.
const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// The barriers that only a registered process may ask for, each with the command that registers one (linux/membarrier.h).
const PRIVATE_MEMBARRIER_CMDS: [(u64, u32); 3] = [(1 << 3, 1 << 4), (1 << 5, 1 << 6), (1 << 7, 1 << 8)];

/// What a process, or a copy of it, said of itself.
#[derive(Debug)]
pub(super) struct ForkState {
    /// The actions of signals 1 to 64 without those that have none, in order.
    pub(super) actions: Vec<SaEntry>,
    /// The end of its heap, to the byte.
    pub(super) brk: u64,
    /// `PR_GET_DUMPABLE`.
    pub(super) dumpable: i32,
    /// The commands of membarrier(2) by which it registered itself.
    pub(super) membarrier_mask: u32,
}

/// Asks a process, or its copy, what a fork keeps; `None` when it cannot be asked, which is in the log then. `options` are those
/// of ptrace that are in force; an area that the copy has is gone afterwards.
///
/// # Errors
///
/// As [`super::TaskQuery::start`].
pub(super) fn query(
    (pid, source_tid): (i32, i32),
    syscall_insn: SyscallInsn,
    buffer: Option<SyscallBuffer>,
    options: i32,
    log: &mut DumpLog,
) -> Result<Option<ForkState>, Error> {
    let mut parasite = match Parasite::attach(
        (pid, source_tid),
        syscall_insn,
        options,
        buffer,
        ("its signal handlers", log),
    ) {
        Ok(parasite) => parasite,
        Err(error) if is_unqueryable(&error) => {
            log_unqueryable(pid, &error, log);
            return Ok(None);
        }
        Err(error) => return Err(query_error(pid, error)),
    };
    // Which signals are ignored or take their default `/proc` tells, and their flags mean nothing but SIGCHLD's (whether ended
    // children wait to be reaped).
    let status = proc_files::status(source_tid).map_err(|error| Error::capture(pid, "status", error))?;
    let mut actions = core::actions_from_status(status.sigign);
    let needs_query = |signal: u32| status.sigcgt & 1 << (signal - 1) != 0 || signal == libc::SIGCHLD as u32;
    let with_buffer = parasite.buffer.is_some();
    let mut queried_actions: Vec<_> = core::catchable_signals()
        .zip(&mut actions)
        .filter(|(signal, _)| with_buffer && needs_query(*signal))
        .collect();
    let mut calls: Vec<_> = queried_actions
        .iter()
        .map(|(signal, _)| {
            let arguments = [u64::from(*signal), 0, 0, KERNEL_SIGSET_BYTES, 0, 0];
            Syscall::with_output(libc::SYS_rt_sigaction, arguments, 2)
        })
        .collect();
    calls.extend([
        Syscall::new(libc::SYS_brk, [0; 6]),
        Syscall::new(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0]),
        Syscall::new(libc::SYS_membarrier, [MEMBARRIER_GET_REGISTRATIONS, 0, 0, 0, 0, 0]),
    ]);
    let results = parasite.run(calls).map_err(|error| query_error(pid, error))?;
    let mut results = ResultReader { pid, results: &results };
    for (_, action) in &mut queried_actions {
        let [sigaction, flags, restorer, mask] = results.output_words("rt_sigaction")?;
        **action = SaEntry {
            sigaction,
            flags,
            restorer,
            mask,
            ..SaEntry::default()
        };
    }
    let brk = results.return_value("brk")?;
    let dumpable = match results.return_value("dumpable")? {
        SUID_DUMP_ROOT => 0,
        other => other as i32,
    };
    let membarrier_mask = match results.next_result("membarrier")?.result {
        Ok(registered) => registered as u32,
        // A kernel without it has registered nobody.
        Err(Errno::ENOSYS) => 0,
        Err(_) => probe_membarriers(&mut parasite, log)?,
    };
    parasite.detach()?;
    Ok(Some(ForkState {
        actions,
        brk,
        dumpable,
        membarrier_mask,
    }))
}

/// How a process registered itself with membarrier(2), on an older kernel, which does not tell; but it refuses the barrier itself
/// to who is not registered.
fn probe_membarriers(parasite: &mut Parasite, log: &mut DumpLog) -> Result<u32, Error> {
    let pid = parasite.pid;
    let probes =
        PRIVATE_MEMBARRIER_CMDS.map(|(barrier, _)| Syscall::new(libc::SYS_membarrier, [barrier, 0, 0, 0, 0, 0]));
    let results = parasite.run(probes.to_vec()).map_err(|error| query_error(pid, error))?;
    let registered = results
        .iter()
        .zip(PRIVATE_MEMBARRIER_CMDS)
        .filter(|(answer, _)| answer.result.is_ok());
    log.info(format_args!(
        "pid {pid}: global membarrier registration unknown (Linux before 6.3)"
    ));
    Ok(registered.fold(0, |all, (_, (_, register))| all | register))
}
