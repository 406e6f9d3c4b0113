//! `core-TID.img`: a thread, and in a process's first one what the process has as a whole.

use cri_proto::criu::message::{
    CoreEntry, CredsEntry, RlimitEntry, RseqEntry, SaEntry, SiginfoEntry, SignalQueueEntry, TaskCoreEntry,
    TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadSasEntry,
};
use procfs::process::{Stat, Status};

use super::{
    CGROUP_SET,
    asked::{Answers, Inherited},
    registers,
    seccomp::Seccomp,
    tree::Node,
    uncarried,
};
use crate::{
    checkpoint::{error::Error, log::DumpLog},
    process::{
        kernel, proc,
        ptrace::{self, SignalQueue},
    },
};

/// The states of a task (criu/include/pid.h).
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
const TASK_STOPPED: u32 = 3;
/// No alternate signal stack: `SS_DISABLE`.
pub(super) const NO_SIGNAL_STACK: ThreadSasEntry = ThreadSasEntry {
    ss_sp: 0,
    ss_size: 0,
    ss_flags: 2,
};
/// `SIG_IGN`.
const IGNORE: u64 = 1;
/// Signals that have no action: SIGKILL and SIGSTOP.
const WITHOUT_ACTION: [u32; 2] = [9, 19];
/// A login uid that was never set.
const NO_LOGIN: u32 = u32::MAX;

/// A thread that stands still. The first one carries what its process has as a whole.
pub(super) fn thread(
    node: &Node<'_>,
    tid: i32,
    first: bool,
    answers: Option<&Answers>,
    seccomp: &mut Seccomp,
    log: &mut DumpLog,
) -> Result<CoreEntry, Error> {
    let pid = node.process.pid();
    let failed = |what: &'static str| move |error: std::io::Error| Error::capture(pid, what, error);
    let refused = |what: &'static str| move |error: nix::Error| Error::capture(pid, what, error);

    let mut core = registers::capture(tid).map_err(refused("registers"))?;
    let status = proc::status(tid).map_err(failed("status"))?;
    let scheduling = kernel::scheduling(tid).map_err(refused("scheduling"))?;
    let (robust_list, robust_list_length) = kernel::robust_list(tid).map_err(refused("robust futexes"))?;
    let blocked = ptrace::blocked_signals(tid).map_err(refused("blocked signals"))?;
    let answer = answers.and_then(|answers| answers.threads.get(&tid));
    if let Some(answer) = answer {
        if let Some(info) = &mut core.thread_info {
            info.clear_tid_addr = answer.clear_at_end;
        }
        if let Some(info) = &mut core.ti_aarch64 {
            info.clear_tid_addr = answer.clear_at_end;
        }
    }
    uncarried::scheduling(pid, tid, &scheduling, log);
    let comm = proc::text(tid, "comm").map_err(failed("comm"))?;
    if comm.contains(char::REPLACEMENT_CHARACTER) {
        log.lost(format_args!(
            "pid {pid}: the name of thread {tid}, which is no UTF-8; {comm:?} stands for it"
        ));
    }
    let (seccomp_mode, seccomp_filter) = seccomp.of(tid, status.seccomp, log);
    core.thread_core = Some(ThreadCoreEntry {
        futex_rla: robust_list,
        futex_rla_len: robust_list_length,
        sched_nice: Some(scheduling.nice),
        sched_policy: Some(scheduling.policy),
        sched_prio: (scheduling.priority != 0).then_some(scheduling.priority),
        blk_sigset: Some(blocked),
        sas: Some(answer.map_or(NO_SIGNAL_STACK, |answer| answer.signal_stack)),
        pdeath_sig: answer
            .map(|answer| answer.parent_death_signal)
            .filter(|signal| *signal != 0),
        signals_p: Some(pending(tid, SignalQueue::Thread).map_err(refused("pending signals"))?),
        creds: Some(credentials(&status, answer.map_or(0, |answer| answer.secure_bits))),
        seccomp_mode: seccomp_mode.map(i32::from),
        seccomp_filter,
        comm: Some(comm),
        rseq_entry: ptrace::rseq(tid).map_err(refused("rseq"))?.map(|rseq| RseqEntry {
            rseq_abi_pointer: rseq.pointer,
            rseq_abi_size: rseq.size,
            signature: rseq.signature,
            rseq_cs_pointer: None,
        }),
        cg_set: Some(CGROUP_SET),
        ..ThreadCoreEntry::default()
    });
    if first {
        core.tc = Some(task(node, tid, &status, blocked, answers)?);
    }
    Ok(core)
}

/// Adds what was asked later to a thread that carries what its process has as a whole.
pub(super) fn complete(core: &mut CoreEntry, inherited: &Inherited) {
    if let Some(task) = &mut core.tc {
        task.sigactions.clone_from(&inherited.actions);
        task.membarrier_registration_mask = (inherited.barriers != 0).then_some(inherited.barriers);
    }
}

/// A process that has ended and that its parent has not yet waited for.
pub(super) fn zombie(stat: &Stat) -> CoreEntry {
    CoreEntry {
        mtype: registers::MACHINE.into(),
        tc: Some(TaskCoreEntry {
            task_state: TASK_DEAD,
            exit_code: stat.exit_code.unwrap_or(0).unsigned_abs(),
            comm: stat.comm.clone(),
            ..TaskCoreEntry::default()
        }),
        ..CoreEntry::default()
    }
}

/// What a process has as a whole.
fn task(
    node: &Node<'_>,
    tid: i32,
    status: &Status,
    blocked: u64,
    answers: Option<&Answers>,
) -> Result<TaskCoreEntry, Error> {
    let pid = node.process.pid();
    let read = |name: &'static str| proc::text(tid, name).map_err(|error| Error::capture(pid, name, error));
    let limits = kernel::limits(pid).map_err(|error| Error::capture(pid, "limits", error))?;
    let signals = pending(tid, SignalQueue::Process).map_err(|error| Error::capture(pid, "pending signals", error))?;
    let stopped_by = node.process.stopped_by();
    let [real, virt, prof] = answers.map_or_else(Default::default, |answers| answers.interval_timers);
    Ok(TaskCoreEntry {
        task_state: if stopped_by.is_some() { TASK_STOPPED } else { TASK_ALIVE },
        exit_code: 0,
        personality: u32::from_str_radix(&read("personality")?, 16).unwrap_or(0),
        flags: node.stat.flags,
        blk_sigset: blocked,
        comm: node.stat.comm.clone(),
        timers: Some(TaskTimersEntry {
            real,
            virt,
            prof,
            posix: answers.map_or_else(Vec::new, |answers| answers.posix_timers.clone()),
        }),
        rlimits: Some(TaskRlimitsEntry {
            rlimits: limits.into_iter().map(|(cur, max)| RlimitEntry { cur, max }).collect(),
        }),
        cg_set: Some(CGROUP_SET),
        signals_s: Some(signals),
        loginuid: read("loginuid")
            .ok()
            .and_then(|uid| uid.parse().ok())
            .filter(|uid| *uid != NO_LOGIN),
        oom_score_adj: read("oom_score_adj").ok().and_then(|score| score.parse().ok()),
        sigactions: known_actions(status.sigign),
        child_subreaper: Some(answers.is_some_and(|answers| answers.subreaper)),
        stop_signo: stopped_by.map(i32::unsigned_abs),
        ..TaskCoreEntry::default()
    })
}

/// The signals that have an action, in the order of the images.
pub(super) fn signals_with_action() -> impl Iterator<Item = u32> {
    (1..=64).filter(|signal| !WITHOUT_ACTION.contains(signal))
}

/// Their actions as far as `/proc` tells: which are ignored; a handler is not known.
pub(super) fn known_actions(ignored: u64) -> Vec<SaEntry> {
    signals_with_action()
        .map(|signal| SaEntry {
            sigaction: match ignored & (1 << (signal - 1)) {
                0 => 0,
                _ => IGNORE,
            },
            ..SaEntry::default()
        })
        .collect()
}

/// The credentials of a thread.
fn credentials(status: &Status, secure_bits: u32) -> CredsEntry {
    let halves = |set: u64| vec![set as u32, (set >> 32) as u32];
    CredsEntry {
        uid: status.ruid,
        gid: status.rgid,
        euid: status.euid,
        egid: status.egid,
        suid: status.suid,
        sgid: status.sgid,
        fsuid: status.fuid,
        fsgid: status.fgid,
        cap_inh: halves(status.capinh),
        cap_prm: halves(status.capprm),
        cap_eff: halves(status.capeff),
        cap_bnd: halves(status.capbnd.unwrap_or(0)),
        cap_amb: halves(status.capamb.unwrap_or(0)),
        secbits: secure_bits,
        groups: status.groups.clone(),
        no_new_privs: status
            .nonewprivs
            .filter(|set| *set != 0)
            .and_then(|set| u32::try_from(set).ok()),
        ..CredsEntry::default()
    }
}

/// The signals that wait.
fn pending(tid: i32, queue: SignalQueue) -> nix::Result<SignalQueueEntry> {
    Ok(SignalQueueEntry {
        signals: ptrace::pending_signals(tid, queue)?
            .into_iter()
            .map(|siginfo| SiginfoEntry { siginfo })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_stand_where_criu_looks_for_them() {
        let actions = known_actions(1 << (13 - 1) | 1 << (1 - 1) | 1 << (64 - 1));
        assert_eq!(actions.len(), 62);
        let ignored: Vec<_> = (0..62).filter(|at| actions[*at].sigaction == IGNORE).collect();
        // SIGHUP, SIGPIPE (one behind SIGKILL), signal 64 (two behind).
        assert_eq!(ignored, [0, 11, 61]);
    }
}
