//! State that fork preserves and that neither `/proc` nor ptrace shows. It is queried in the snapshot, if there is one,
//! because the container already runs then.

use cri_proto::criu::{message::SaEntry, sigaction_signals};
use nix::errno::Errno;

use super::{
    context::TaskCtx,
    parasite::{Parasite, QueryError, ResultReader, log_unqueryable, query_error},
    sigactions::actions_from_status,
};
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::{
        proc_files,
        ptrace::SIGSET_BYTES,
        remote_syscalls::{Syscall, SyscallBuffer, SyscallInsn},
    },
};

/// The dumpable state that `PR_SET_DUMPABLE` does not accept: core dumps readable by root only. Dumped as not dumpable.
const SUID_DUMP_ROOT: u64 = 2;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS`, Linux 6.3.
const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// The barriers that need a registration, each with the command that registers (linux/membarrier.h).
const PRIVATE_MEMBARRIER_CMDS: [(u64, u32); 3] = [(1 << 3, 1 << 4), (1 << 5, 1 << 6), (1 << 7, 1 << 8)];

/// The query results of a process or its snapshot.
#[derive(Debug)]
pub(super) struct ForkState {
    /// The actions of signals 1 to 64 except SIGKILL and SIGSTOP, in order.
    pub(super) actions: Vec<SaEntry>,
    /// The exact end of the heap.
    pub(super) brk: u64,
    /// `PR_GET_DUMPABLE`.
    pub(super) dumpable: i32,
    /// The registrations of the process for membarrier(2).
    pub(super) membarrier_mask: u32,
}

/// Queries a process or its snapshot. Returns `None`, with a line in the log, if it cannot be queried. `options` are
/// the ptrace options in force. An inherited buffer is unmapped afterwards.
///
/// # Errors
///
/// As [`super::TaskQuery::start`].
pub(super) fn query(
    task: &mut TaskCtx<'_>,
    syscall_insn: SyscallInsn,
    buffer: Option<SyscallBuffer>,
    options: i32,
) -> Result<Option<ForkState>, Error> {
    let pid = task.pid;
    let mut parasite = match Parasite::attach(task, syscall_insn, options, buffer, "its signal handlers") {
        Ok(parasite) => parasite,
        Err(QueryError::Unqueryable(error)) => {
            log_unqueryable(pid, &error, task.log);
            return Ok(None);
        }
        Err(QueryError::Failed(error)) => return Err(error),
    };
    // `/proc` shows ignored and default signals, and their flags have no effect, except for SIGCHLD (SA_NOCLDWAIT).
    let status = proc_files::status(task.proc_tid).map_err(task.error("status"))?;
    let mut actions = actions_from_status(status.sigign);
    let needs_query = |signal: u32| status.sigcgt & 1 << (signal - 1) != 0 || signal == libc::SIGCHLD as u32;
    let with_buffer = parasite.buffer.is_some();
    let mut queried_actions: Vec<_> = sigaction_signals()
        .zip(&mut actions)
        .filter(|(signal, _)| with_buffer && needs_query(*signal))
        .collect();
    let mut calls: Vec<_> = queried_actions
        .iter()
        .map(|(signal, _)| {
            let arguments = [u64::from(*signal), 0, 0, SIGSET_BYTES];
            Syscall::with_output(libc::SYS_rt_sigaction, arguments, 2)
        })
        .collect();
    calls.extend([
        Syscall::new(libc::SYS_brk, []),
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
        // ENOSYS: without membarrier there is no registration.
        Err(Errno::ENOSYS) => 0,
        Err(_) => probe_membarriers(&mut parasite, task.log)?,
    };
    parasite.detach()?;
    Ok(Some(ForkState {
        actions,
        brk,
        dumpable,
        membarrier_mask,
    }))
}

/// Finds the membarrier(2) registrations on kernels that do not report them: there, a barrier fails for a process that
/// is not registered.
fn probe_membarriers(parasite: &mut Parasite, log: &mut DumpLog) -> Result<u32, Error> {
    let pid = parasite.pid;
    let probes = PRIVATE_MEMBARRIER_CMDS.map(|(barrier, _)| Syscall::new(libc::SYS_membarrier, [barrier]));
    let results = parasite.run(probes.to_vec()).map_err(|error| query_error(pid, error))?;
    let registered = results
        .iter()
        .zip(PRIVATE_MEMBARRIER_CMDS)
        .filter(|(result, _)| result.result.is_ok());
    log.info(format_args!(
        "pid {pid}: global membarrier registration unknown (Linux before 6.3)"
    ));
    Ok(registered.fold(0, |all, (_, (_, register))| all | register))
}
