//! Restores the state of processes and threads other than memory and files.
//!
//! Credentials are restored last, because the other steps may need privileges that the program did not have. The kernel
//! accepts some credentials without applying them, so they are read back and compared.

use std::fs;

use cri_proto::criu::{
    message::{CoreEntry, CredsEntry, FsEntry, SaEntry, SignalQueueEntry, TaskCoreEntry, ThreadCoreEntry},
    sigaction_signals,
};

use super::{RestoreError, files::OpenFiles, remote_task::RemoteTask};
use crate::process::{
    NsPid, Pid, Tid, proc_files,
    ptrace::{SIGINFO_BYTES, SIGSET_BYTES},
    syscalls,
};

/// `SS_ONSTACK`, which sigaltstack(2) reports and does not accept.
const SS_ONSTACK: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`: a change of user ids keeps the capabilities.
const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
const LINUX_CAPABILITY_VERSION_3: u64 = 0x2008_0522;
/// The commands of membarrier(2) that register a process (linux/membarrier.h): global, private, private sync-core and
/// private rseq.
const MEMBARRIER_REGISTER_MASK: u32 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
/// The most supplementary groups that fit into the restorer area.
const MAX_GROUPS: usize = 2048;

/// Checks that the process-wide state can be restored, as far as the image tells.
pub(super) fn check_task(core: &TaskCoreEntry) -> Result<(), RestoreError> {
    if core.sigactions.len() != sigaction_signals().count() {
        let detail = format!(
            "{} signal actions, expected {}",
            core.sigactions.len(),
            sigaction_signals().count()
        );
        return Err(RestoreError::malformed("core", detail));
    }
    check_membarrier(core.membarrier_registration_mask.unwrap_or(0))?;
    check_pending_signals(core.signals_s.as_ref())
}

/// Checks that a process can end with this status of wait(2): by itself, or by a signal whose default action terminates
/// a process (signal(7)).
pub(super) fn check_exit_status(code: u32) -> Result<(), RestoreError> {
    const NON_FATAL_SIGNALS: [i32; 8] = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    let signal = i32::try_from(code & 0x7f).unwrap_or(0);
    match signal <= 64 && !NON_FATAL_SIGNALS.contains(&signal) {
        true => Ok(()),
        false => Err(RestoreError::malformed(
            "core",
            format!("exit by signal {signal}, which does not terminate a process"),
        )),
    }
}

/// Checks that the state of a thread can be restored, as far as the image tells.
pub(super) fn check_thread(core: &ThreadCoreEntry) -> Result<(), RestoreError> {
    if let Some(groups) = core.creds.as_ref().map(|creds| creds.groups.len())
        && groups > MAX_GROUPS
    {
        return Err(RestoreError::Unsupported(format!(
            "a thread with {groups} supplementary groups"
        )));
    }
    check_pending_signals(core.signals_p.as_ref())
}

fn check_membarrier(expected: u32) -> Result<(), RestoreError> {
    match expected & !MEMBARRIER_REGISTER_MASK {
        0 => Ok(()),
        _ => Err(RestoreError::malformed(
            "core",
            format!("invalid membarrier registration mask {expected:x}"),
        )),
    }
}

fn check_pending_signals(queue: Option<&SignalQueueEntry>) -> Result<(), RestoreError> {
    queue
        .iter()
        .flat_map(|queue| &queue.signals)
        .try_for_each(|signal| pending_signo(&signal.siginfo).map(drop))
}

/// The signal number of a pending signal.
fn pending_signo(siginfo: &[u8]) -> Result<u32, RestoreError> {
    let signo = match siginfo.get(..4).map(<[u8; 4]>::try_from) {
        Some(Ok(signo)) if siginfo.len() == SIGINFO_BYTES => u32::from_ne_bytes(signo),
        _ => return Err(RestoreError::malformed("core", "siginfo of the wrong size")),
    };
    match sigaction_signals().any(|signal| signal == signo) {
        true => Ok(signo),
        false => Err(RestoreError::malformed(
            "core",
            format!("signal {signo} cannot be pending"),
        )),
    }
}

fn prctl(remote: &mut RemoteTask, detail: &str, option: i32, value: u64) -> Result<u64, RestoreError> {
    remote.call(detail, libc::SYS_prctl, [option as u64, value])
}

/// Restores working directory, umask, signal actions, personality, subreaper flag, membarrier registrations and
/// oom_score_adj.
pub(super) fn restore_process(
    remote: &mut RemoteTask,
    core: &TaskCoreEntry,
    fs: &FsEntry,
    open_files: &OpenFiles,
) -> Result<(), RestoreError> {
    let cwd = open_files.fd(fs.cwd_id);
    remote.call("change the working directory", libc::SYS_fchdir, [cwd])?;
    if let Some(umask) = fs.umask {
        remote.call("set the umask", libc::SYS_umask, [umask.into()])?;
    }
    set_sigactions(remote, &core.sigactions)?;
    remote.call("set the personality", libc::SYS_personality, [core.personality.into()])?;
    prctl(
        remote,
        "set the subreaper flag",
        libc::PR_SET_CHILD_SUBREAPER,
        core.child_subreaper.unwrap_or(false).into(),
    )?;
    register_membarrier(remote, core.membarrier_registration_mask.unwrap_or(0))?;
    set_oom_score_adj(remote.tid.led_process(), core.oom_score_adj)
}

/// Registers a process for membarrier(2). The process has one thread here, for which the kernel need not wait for a
/// grace period.
fn register_membarrier(remote: &mut RemoteTask, expected: u32) -> Result<(), RestoreError> {
    check_membarrier(expected)?;
    for command in (0..32).map(|bit| 1 << bit).filter(|command| expected & command != 0) {
        remote.call("register for membarrier", libc::SYS_membarrier, [u64::from(command)])?;
    }
    Ok(())
}

fn set_oom_score_adj(pid: Pid, expected: Option<i32>) -> Result<(), RestoreError> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let step_error = |error| RestoreError::step("set oom_score_adj", error);
    let Some(expected) = expected else { return Ok(()) };
    if fs::read_to_string(&path).map_err(step_error)?.trim() != expected.to_string() {
        fs::write(&path, expected.to_string()).map_err(step_error)?;
    }
    Ok(())
}

/// Sets all signal actions. [`check_task`] has checked their number.
fn set_sigactions(remote: &mut RemoteTask, actions: &[SaEntry]) -> Result<(), RestoreError> {
    for (signal, action) in sigaction_signals().zip(actions) {
        let words = [action.sigaction, action.flags, action.restorer, action.mask];
        let address = remote.write_words(&words)?;
        let arguments = [signal.into(), address, 0, SIGSET_BYTES];
        remote.call("set a signal action", libc::SYS_rt_sigaction, arguments)?;
    }
    Ok(())
}

/// Sets the resource limits, after all steps that a limit could make fail.
pub(super) fn set_rlimits(remote: &mut RemoteTask, core: &TaskCoreEntry) -> Result<(), RestoreError> {
    let expected = core.rlimits.iter().flat_map(|limits| &limits.rlimits);
    let current =
        proc_files::rlimits(remote.tid.led_process()).map_err(|error| RestoreError::step("read limits", error))?;
    for ((resource, expected), current) in (0..).zip(expected).zip(current) {
        if (expected.cur, expected.max) != current {
            let address = remote.write_words(&[expected.cur, expected.max])?;
            let arguments = [0, resource, address];
            remote.call(format!("set limit {resource}"), libc::SYS_prlimit64, arguments)?;
        }
    }
    Ok(())
}

/// Restores the name of a thread, its alternate signal stack, robust futex list, `clear_child_tid`, rseq registration
/// and scheduling.
pub(super) fn restore_thread(remote: &mut RemoteTask, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(thread_core) = &core.thread_core else {
        return Ok(());
    };
    if let Some(comm) = thread_core.comm.as_ref().or(core.tc.as_ref().map(|task| &task.comm)) {
        let name: Vec<u8> = comm.bytes().take(15).chain([0]).collect();
        let name = remote.write_data(&name)?;
        prctl(remote, "set the thread name", libc::PR_SET_NAME, name)?;
    }
    if let Some(stack) = &thread_core.sas {
        let words = [stack.ss_sp, u64::from(stack.ss_flags & !SS_ONSTACK), stack.ss_size];
        let address = remote.write_words(&words)?;
        remote.call("set the alternate signal stack", libc::SYS_sigaltstack, [address])?;
    }
    if thread_core.futex_rla != 0 {
        let arguments = [thread_core.futex_rla, thread_core.futex_rla_len.into()];
        remote.call("set the robust futex list", libc::SYS_set_robust_list, arguments)?;
    }
    let clear_child_tid = core.thread_info.as_ref().map_or(0, |info| info.clear_tid_addr);
    remote.call("set clear_child_tid", libc::SYS_set_tid_address, [clear_child_tid])?;
    if let Some(rseq) = thread_core
        .rseq_entry
        .as_ref()
        .filter(|rseq| rseq.rseq_abi_pointer != 0)
    {
        let arguments = [
            rseq.rseq_abi_pointer,
            rseq.rseq_abi_size.into(),
            0,
            rseq.signature.into(),
        ];
        remote.call("register rseq", libc::SYS_rseq, arguments)?;
    }
    let current =
        syscalls::scheduling(remote.tid).map_err(|errno| RestoreError::step("read the scheduling policy", errno))?;
    let (policy, priority) = (
        thread_core.sched_policy.unwrap_or(0),
        thread_core.sched_prio.unwrap_or(0),
    );
    if (policy, priority) != (current.policy, current.priority) {
        let address = remote.write_data(&priority.to_ne_bytes())?;
        let arguments = [0, policy.into(), address];
        remote.call("set the scheduling policy", libc::SYS_sched_setscheduler, arguments)?;
    }
    if let Some(nice) = thread_core.sched_nice.filter(|nice| *nice != current.nice) {
        let arguments = [libc::PRIO_PROCESS as u64, 0, i64::from(nice).cast_unsigned()];
        remote.call("set the nice value", libc::SYS_setpriority, arguments)?;
    }
    Ok(())
}

/// Restores the credentials of a thread, and the parent-death signal, which a change of credentials clears.
pub(super) fn restore_creds(remote: &mut RemoteTask, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(thread_core) = &core.thread_core else {
        return Ok(());
    };
    if let Some(expected) = &thread_core.creds {
        let mut mismatch = creds_mismatch(remote.tid, expected)?;
        if mismatch.is_some() || expected.secbits != 0 {
            set_creds(remote, expected)?;
            mismatch = creds_mismatch(remote.tid, expected)?;
        }
        if let Some(detail) = mismatch {
            return Err(RestoreError::MachineMismatch(format!(
                "cannot set a thread's {detail} on this machine"
            )));
        }
    }
    if let Some(signal) = thread_core.pdeath_sig {
        prctl(
            remote,
            "set the parent-death signal",
            libc::PR_SET_PDEATHSIG,
            signal.into(),
        )?;
    }
    Ok(())
}

/// Returns the first kind of credential in which a thread differs from `expected`.
fn creds_mismatch(tid: Tid, expected: &CredsEntry) -> Result<Option<&'static str>, RestoreError> {
    let current = proc_files::status(tid).map_err(|error| RestoreError::step("read credentials", error))?;
    let mask = |halves: &[u32]| match halves {
        [low, high, ..] => u64::from(*low) | u64::from(*high) << 32,
        [low] => u64::from(*low),
        [] => 0,
    };
    let users = [expected.uid, expected.euid, expected.suid, expected.fsuid]
        == [current.ruid, current.euid, current.suid, current.fuid];
    let groups = [expected.gid, expected.egid, expected.sgid, expected.fsgid]
        == [current.rgid, current.egid, current.sgid, current.fgid];
    let sorted = |groups: &[i32]| {
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        groups
    };
    let expected_groups: Vec<i32> = expected.groups.iter().map(|group| group.cast_signed()).collect();
    let current_groups: Vec<i32> = current.groups.iter().map(|group| group.cast_signed()).collect();
    let capabilities = [
        (mask(&expected.cap_inh), current.capinh),
        (mask(&expected.cap_prm), current.capprm),
        (mask(&expected.cap_eff), current.capeff),
        (mask(&expected.cap_bnd), current.capbnd.unwrap_or(0)),
        (mask(&expected.cap_amb), current.capamb.unwrap_or(0)),
    ];
    let privileges = expected.no_new_privs.unwrap_or(0) != 0;
    Ok([
        (users, "user ids"),
        (groups, "group ids"),
        (sorted(&expected_groups) == sorted(&current_groups), "groups"),
        (
            capabilities.iter().all(|(expected, current)| expected == current),
            "capabilities",
        ),
        (
            privileges == current.nonewprivs.is_some_and(|set| set != 0),
            "no_new_privs",
        ),
    ]
    .into_iter()
    .find_map(|(same, detail)| (!same).then_some(detail)))
}

fn set_creds(remote: &mut RemoteTask, expected: &CredsEntry) -> Result<(), RestoreError> {
    let words = |set: &[u32]| [set.first().copied().unwrap_or(0), set.get(1).copied().unwrap_or(0)];
    let has = |set: &[u32], capability: u32| words(set)[capability as usize / 32] & 1 << (capability % 32) != 0;
    prctl(
        remote,
        "keep the capabilities (SECBIT_NO_SETUID_FIXUP)",
        libc::PR_SET_SECUREBITS,
        SECBIT_NO_SETUID_FIXUP,
    )?;
    let groups: Vec<u8> = expected.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    let address = remote.write_data(&groups)?;
    let count = expected.groups.len() as u64;
    remote.call("set the supplementary groups", libc::SYS_setgroups, [count, address])?;
    let ids = [expected.gid, expected.egid, expected.sgid].map(u64::from);
    remote.call("set the group ids", libc::SYS_setresgid, ids)?;
    remote.call(
        "set the file system group id",
        libc::SYS_setfsgid,
        [expected.fsgid.into()],
    )?;
    let ids = [expected.uid, expected.euid, expected.suid].map(u64::from);
    remote.call("set the user ids", libc::SYS_setresuid, ids)?;
    remote.call(
        "set the file system user id",
        libc::SYS_setfsuid,
        [expected.fsuid.into()],
    )?;
    for capability in 0..64 {
        let in_bounding_set = remote.try_call(
            "read the capability bounding set",
            libc::SYS_prctl,
            [libc::PR_CAPBSET_READ as u64, capability.into()],
        )?;
        if in_bounding_set == Ok(1) && !has(&expected.cap_bnd, capability) {
            prctl(
                remote,
                "drop a capability from the bounding set",
                libc::PR_CAPBSET_DROP,
                capability.into(),
            )?;
        }
    }
    prctl(
        remote,
        "set the securebits",
        libc::PR_SET_SECUREBITS,
        expected.secbits.into(),
    )?;
    let (effective, permitted, inherited) = (
        words(&expected.cap_eff),
        words(&expected.cap_prm),
        words(&expected.cap_inh),
    );
    let mut bytes = LINUX_CAPABILITY_VERSION_3.to_ne_bytes().to_vec();
    for half in 0..2 {
        for set in [effective, permitted, inherited] {
            bytes.extend(set[half].to_ne_bytes());
        }
    }
    let address = remote.write_data(&bytes)?;
    remote.call("set the capabilities", libc::SYS_capset, [address, address + 8])?;
    for capability in (0..64).filter(|capability| has(&expected.cap_amb, *capability)) {
        let arguments = [
            libc::PR_CAP_AMBIENT as u64,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            capability.into(),
        ];
        remote.call("raise an ambient capability", libc::SYS_prctl, arguments)?;
    }
    if expected.no_new_privs.unwrap_or(0) != 0 {
        prctl(remote, "set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    }
    Ok(())
}

/// Sets the dumpable flag, after the credentials, whose change resets the flag.
pub(super) fn set_dumpable(remote: &mut RemoteTask, dumpable: Option<i32>) -> Result<(), RestoreError> {
    let value = u64::from(dumpable.unwrap_or(1) != 0);
    prctl(remote, "set the dumpable flag", libc::PR_SET_DUMPABLE, value).map(drop)
}

/// Removes the pending SIGCHLD that the restored zombies raised. Recorded pending signals are queued later.
pub(super) fn drop_pending_sigchld(remote: &mut RemoteTask) -> Result<(), RestoreError> {
    let mask = 1_u64 << (libc::SIGCHLD - 1);
    // The words after the mask are a timeout of zero.
    let words = [mask, 0, 0];
    let address = remote.write_words(&words)?;
    let arguments = [address, 0, address + 8, SIGSET_BYTES];
    remote
        .try_call("dequeue SIGCHLD", libc::SYS_rt_sigtimedwait, arguments)
        .map(drop)
}

/// Queues the pending signals of a process (`thread` is `None`) or of a thread. Only the task itself may queue a
/// siginfo with a kernel `si_code` (rt_sigqueueinfo(2)).
pub(super) fn queue_pending_signals(
    remote: &mut RemoteTask,
    queue: Option<&SignalQueueEntry>,
    process: NsPid,
    thread: Option<NsPid>,
) -> Result<(), RestoreError> {
    for signal in queue.iter().flat_map(|queue| &queue.signals) {
        let signo = pending_signo(&signal.siginfo)?;
        let info = remote.write_data(&signal.siginfo)?;
        let detail = format!("queue pending signal {signo}");
        match thread {
            None => {
                remote.call(detail, libc::SYS_rt_sigqueueinfo, [process.into(), signo.into(), info])?;
            }
            Some(thread) => {
                let arguments = [process.into(), thread.into(), signo.into(), info];
                remote.call(detail, libc::SYS_rt_tgsigqueueinfo, arguments)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_fatal_exit_signals_are_refused() {
        for code in [0, 7 << 8, 19 << 8, 15, 9, 0x80 | 11, 34] {
            check_exit_status(code).unwrap_or_else(|error| panic!("{code:x}: {error}"));
        }
        // SIGSTOP would stop the process, and the restore would wait for its exit.
        for code in [17, 18, 19, 20, 23, 28, 0x7f] {
            let refused = check_exit_status(code)
                .expect_err("the signal does not terminate a process")
                .to_string();
            assert!(refused.contains("does not terminate a process"), "{refused}");
        }
    }
}
