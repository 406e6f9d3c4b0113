//! `core-TID.img`: a thread, and in a process's first one what the process has as a whole.

use cri_proto::criu::message::{
    CoreEntry, CredsEntry, RlimitEntry, RseqEntry, SaEntry, SeccompMode, SiginfoEntry, SignalQueueEntry, TaskCoreEntry,
    TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadSasEntry,
};
use procfs::process::{Stat, Status};

use super::{
    CGROUP_SET,
    inherited::Inherited,
    registers::{self, Registers},
    seccomp::Seccomp,
    talk::Answers,
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

/// What ptrace tells of a thread that stands still, before it is made to call anything.
pub(super) struct Stopped {
    pub(super) tid: i32,
    registers: Registers,
    blocked: u64,
    /// The signals that wait for the thread, and for its process.
    pending: [SignalQueueEntry; 2],
    rseq: Option<RseqEntry>,
    seccomp: (Option<SeccompMode>, Option<u32>),
}

impl Stopped {
    /// Looks at a thread of a process.
    pub(super) fn look(node: &Node<'_>, tid: i32, seccomp: &mut Seccomp, log: &mut DumpLog) -> Result<Self, Error> {
        let pid = node.process.pid();
        let refused = |what: &'static str| move |error: nix::Error| Error::capture(pid, what, error);
        let mode = node.status(tid).and_then(|status| status.number("Seccomp:"));
        let queue = |queue| pending(tid, queue).map_err(refused("pending signals"));
        Ok(Self {
            tid,
            registers: Registers::of(tid).map_err(refused("registers"))?,
            blocked: ptrace::blocked_signals(tid).map_err(refused("blocked signals"))?,
            pending: [queue(SignalQueue::Thread)?, queue(SignalQueue::Process)?],
            rseq: ptrace::rseq(tid).map_err(refused("rseq"))?.map(|rseq| RseqEntry {
                rseq_abi_pointer: rseq.pointer,
                rseq_abi_size: rseq.size,
                signature: rseq.signature,
                rseq_cs_pointer: None,
            }),
            seccomp: seccomp.of(tid, mode, log),
        })
    }

    /// Its image but for what only the process can tell ([`tell`]). The first one carries what its process has as a whole.
    pub(super) fn core(
        self,
        node: &Node<'_>,
        status: &Status,
        first: bool,
        log: &mut DumpLog,
    ) -> Result<CoreEntry, Error> {
        let Self {
            tid,
            registers,
            blocked,
            pending: [pending, of_process],
            rseq,
            seccomp: (seccomp_mode, seccomp_filter),
        } = self;
        let pid = node.process.pid();
        let failed = |what: &'static str| move |error: std::io::Error| Error::capture(pid, what, error);
        let refused = |what: &'static str| move |error: nix::Error| Error::capture(pid, what, error);
        let mut core = registers.core();
        let scheduling = kernel::scheduling(tid).map_err(refused("scheduling"))?;
        let (robust_list, robust_list_length) = kernel::robust_list(tid).map_err(refused("robust futexes"))?;
        uncarried::scheduling(pid, tid, &scheduling, log);
        let comm = proc::name(tid).map_err(failed("comm"))?;
        if comm.contains(char::REPLACEMENT_CHARACTER) {
            log.lost(format_args!(
                "pid {pid}: the name of thread {tid}, which is no UTF-8; {comm:?} stands for it"
            ));
        }
        core.thread_core = Some(ThreadCoreEntry {
            futex_rla: robust_list,
            futex_rla_len: robust_list_length,
            sched_nice: Some(scheduling.nice),
            sched_policy: Some(scheduling.policy),
            sched_prio: (scheduling.priority != 0).then_some(scheduling.priority),
            blk_sigset: Some(blocked),
            sas: Some(NO_SIGNAL_STACK),
            signals_p: Some(pending),
            creds: Some(credentials(status)),
            seccomp_mode: seccomp_mode.map(i32::from),
            seccomp_filter,
            comm: Some(comm),
            rseq_entry: rseq,
            cg_set: Some(CGROUP_SET),
            ..ThreadCoreEntry::default()
        });
        if first {
            core.tc = Some(task(node, tid, status, blocked, of_process)?);
        }
        Ok(core)
    }
}

/// Adds what a process said of itself and of this thread.
pub(super) fn tell(core: &mut CoreEntry, tid: i32, answers: &Answers) {
    if let Some(answer) = answers.threads.get(&tid) {
        if let Some(info) = &mut core.thread_info {
            info.clear_tid_addr = answer.clear_at_end;
        }
        if let Some(info) = &mut core.ti_aarch64 {
            info.clear_tid_addr = answer.clear_at_end;
        }
        if let Some(thread) = &mut core.thread_core {
            thread.sas = Some(answer.signal_stack);
            thread.pdeath_sig = Some(answer.parent_death_signal).filter(|signal| *signal != 0);
            if let Some(credentials) = &mut thread.creds {
                credentials.secbits = answer.secure_bits;
            }
        }
    }
    if let Some(task) = &mut core.tc {
        let [real, virt, prof] = answers.interval_timers;
        task.timers = Some(TaskTimersEntry {
            real,
            virt,
            prof,
            posix: answers.posix_timers.clone(),
        });
        task.child_subreaper = Some(answers.subreaper);
    }
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
    signals: SignalQueueEntry,
) -> Result<TaskCoreEntry, Error> {
    let pid = node.process.pid();
    let read = |name: &'static str| proc::text(tid, name).map_err(|error| Error::capture(pid, name, error));
    let limits = kernel::limits(pid).map_err(|error| Error::capture(pid, "limits", error))?;
    let stopped_by = node.process.stopped_by();
    Ok(TaskCoreEntry {
        task_state: if stopped_by.is_some() { TASK_STOPPED } else { TASK_ALIVE },
        exit_code: 0,
        personality: u32::from_str_radix(&read("personality")?, 16).unwrap_or(0),
        flags: node.stat.flags,
        blk_sigset: blocked,
        comm: node.stat.comm.clone(),
        timers: Some(TaskTimersEntry::default()),
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
        child_subreaper: Some(false),
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
fn credentials(status: &Status) -> CredsEntry {
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
