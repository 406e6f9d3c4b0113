//! `core-TID.img`: a thread, and in the core of the leader the state of the whole process.

use cri_proto::criu::{
    message::{
        CoreEntry, CredsEntry, RlimitEntry, RseqEntry, SeccompMode, SiginfoEntry, SignalQueueEntry, TaskCoreEntry,
        TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry,
    },
    task_state,
};
use procfs::process::{Stat, Status};

use super::{
    CGROUP_SET,
    context::TaskCtx,
    fork_state::ForkState,
    pstree::PstreeNode,
    registers::{self, Registers},
    seccomp::SeccompFilters,
    sigactions::actions_from_status,
    task_query::{NO_SIGALTSTACK, TaskQueryResult},
    unsupported,
};
use crate::{
    checkpoint::error::Error,
    process::{
        Tid, proc_files,
        ptrace::{self, SignalQueue},
        syscalls,
    },
};

/// A login uid that was not set.
const LOGINUID_UNSET: u32 = u32::MAX;

/// The state of a stopped thread that ptrace shows, read before any remote syscall.
pub(super) struct PtraceState {
    pub(super) tid: Tid,
    registers: Registers,
    blocked_signals: u64,
    /// The pending signals of the thread and of its process.
    pending: [SignalQueueEntry; 2],
    rseq: Option<RseqEntry>,
    seccomp: (Option<SeccompMode>, Option<u32>),
}

impl PtraceState {
    pub(super) fn read(
        task: &mut TaskCtx<'_>,
        node: &PstreeNode<'_>,
        tid: Tid,
        seccomp: &mut SeccompFilters,
    ) -> Result<Self, Error> {
        let mode = node.status(tid).and_then(|status| status.value("Seccomp:"));
        let registers = Registers::read(tid).map_err(task.error("registers"))?;
        if registers.is_foreign_abi() {
            task.unsupported(format_args!(
                "the registers of thread {tid}, which is not a 64-bit task"
            ));
        }
        let queue = |queue| signal_queue(tid, queue).map_err(task.error("pending signals"));
        Ok(Self {
            tid,
            registers,
            blocked_signals: ptrace::blocked_signals(tid).map_err(task.error("blocked signals"))?,
            pending: [queue(SignalQueue::Thread)?, queue(SignalQueue::Process)?],
            rseq: ptrace::rseq(tid).map_err(task.error("rseq"))?.map(|rseq| RseqEntry {
                rseq_abi_pointer: rseq.pointer,
                rseq_abi_size: rseq.size,
                signature: rseq.signature,
                rseq_cs_pointer: None,
            }),
            seccomp: seccomp.thread_filters(tid, mode, task.log),
        })
    }

    /// Returns the image without the query results ([`apply_query_result`]). `with_task_core` adds the state of the
    /// whole process.
    pub(super) fn core(
        self,
        task: &mut TaskCtx<'_>,
        node: &PstreeNode<'_>,
        status: &Status,
        with_task_core: bool,
    ) -> Result<CoreEntry, Error> {
        let Self {
            tid,
            registers,
            blocked_signals,
            pending: [pending, shared_pending],
            rseq,
            seccomp: (seccomp_mode, seccomp_filter),
        } = self;
        let mut core = registers.core();
        let scheduling = syscalls::scheduling(tid).map_err(task.error("scheduling"))?;
        let (robust_list, robust_list_length) = syscalls::robust_list(tid).map_err(task.error("robust futexes"))?;
        unsupported::report_scheduling(task, tid, &scheduling);
        let comm = proc_files::comm(tid).map_err(task.error("comm"))?;
        if comm.contains(char::REPLACEMENT_CHARACTER) {
            task.unsupported(format_args!(
                "the name of thread {tid}, which is not UTF-8; the archive has {comm:?}"
            ));
        }
        core.thread_core = Some(ThreadCoreEntry {
            futex_rla: robust_list,
            futex_rla_len: robust_list_length,
            sched_nice: Some(scheduling.nice),
            sched_policy: Some(scheduling.policy),
            sched_prio: (scheduling.priority != 0).then_some(scheduling.priority),
            blk_sigset: Some(blocked_signals),
            sas: Some(NO_SIGALTSTACK),
            signals_p: Some(pending),
            creds: Some(credentials(status)),
            seccomp_mode: seccomp_mode.map(i32::from),
            seccomp_filter,
            comm: Some(comm),
            rseq_entry: rseq,
            cg_set: Some(CGROUP_SET),
            ..ThreadCoreEntry::default()
        });
        if with_task_core {
            core.tc = Some(task_core(task, node, status, blocked_signals, shared_pending)?);
        }
        Ok(core)
    }
}

/// Adds the query results of a process and of this thread.
pub(super) fn apply_query_result(core: &mut CoreEntry, tid: Tid, task_result: &TaskQueryResult) {
    if let Some(thread_result) = task_result.threads.get(&tid) {
        if let Some(info) = &mut core.thread_info {
            info.clear_tid_addr = thread_result.clear_child_tid;
        }
        if let Some(info) = &mut core.ti_aarch64 {
            info.clear_tid_addr = thread_result.clear_child_tid;
        }
        if let Some(thread) = &mut core.thread_core {
            thread.sas = Some(thread_result.sigaltstack);
            thread.pdeath_sig = Some(thread_result.pdeath_sig).filter(|signal| *signal != 0);
            if let Some(credentials) = &mut thread.creds {
                credentials.secbits = thread_result.securebits;
            }
        }
    }
    if let Some(task) = &mut core.tc {
        let [real, virt, prof] = task_result.interval_timers;
        task.timers = Some(TaskTimersEntry {
            real,
            virt,
            prof,
            posix: task_result.posix_timers.clone(),
        });
        task.child_subreaper = Some(task_result.subreaper);
    }
}

/// Adds the state that fork preserves to a core with process state.
pub(super) fn apply_fork_state(core: &mut CoreEntry, fork_state: &ForkState) {
    if let Some(task) = &mut core.tc {
        task.sigactions.clone_from(&fork_state.actions);
        task.membarrier_registration_mask = (fork_state.membarrier_mask != 0).then_some(fork_state.membarrier_mask);
    }
}

/// The core of a zombie.
pub(super) fn zombie_core(stat: &Stat) -> CoreEntry {
    CoreEntry {
        mtype: registers::CORE_MARCH.into(),
        tc: Some(TaskCoreEntry {
            task_state: task_state::DEAD,
            exit_code: stat.exit_code.unwrap_or(0).unsigned_abs(),
            comm: stat.comm.clone(),
            ..TaskCoreEntry::default()
        }),
        ..CoreEntry::default()
    }
}

/// The state of the whole process.
fn task_core(
    task: &TaskCtx<'_>,
    node: &PstreeNode<'_>,
    status: &Status,
    blocked_signals: u64,
    signals: SignalQueueEntry,
) -> Result<TaskCoreEntry, Error> {
    let read = |name: &'static str| proc_files::read_text(task.proc_tid, name).map_err(task.error(name));
    let limits = proc_files::rlimits(task.pid).map_err(task.error("limits"))?;
    let stopped_by = node.process.stopped_by();
    Ok(TaskCoreEntry {
        task_state: if stopped_by.is_some() {
            task_state::STOPPED
        } else {
            task_state::ALIVE
        },
        exit_code: 0,
        personality: u32::from_str_radix(&read("personality")?, 16).unwrap_or(0),
        flags: node.stat.flags,
        blk_sigset: blocked_signals,
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
            .filter(|uid| *uid != LOGINUID_UNSET),
        oom_score_adj: read("oom_score_adj").ok().and_then(|score| score.parse().ok()),
        sigactions: actions_from_status(status.sigign),
        child_subreaper: Some(false),
        stop_signo: stopped_by.map(i32::unsigned_abs),
        ..TaskCoreEntry::default()
    })
}

fn credentials(status: &Status) -> CredsEntry {
    let low_and_high = |set: u64| vec![set as u32, (set >> 32) as u32];
    CredsEntry {
        uid: status.ruid,
        gid: status.rgid,
        euid: status.euid,
        egid: status.egid,
        suid: status.suid,
        sgid: status.sgid,
        fsuid: status.fuid,
        fsgid: status.fgid,
        cap_inh: low_and_high(status.capinh),
        cap_prm: low_and_high(status.capprm),
        cap_eff: low_and_high(status.capeff),
        cap_bnd: low_and_high(status.capbnd.unwrap_or(0)),
        cap_amb: low_and_high(status.capamb.unwrap_or(0)),
        groups: status.groups.clone(),
        no_new_privs: status
            .nonewprivs
            .filter(|set| *set != 0)
            .and_then(|set| u32::try_from(set).ok()),
        ..CredsEntry::default()
    }
}

fn signal_queue(tid: Tid, queue: SignalQueue) -> nix::Result<SignalQueueEntry> {
    Ok(SignalQueueEntry {
        signals: ptrace::pending_signals(tid, queue)?
            .into_iter()
            .map(|siginfo| SiginfoEntry { siginfo })
            .collect(),
    })
}
