//! What a process and its threads have beside memory and files.
//!
//! Rights go last: what comes before may take more than the program had. What the kernel took without a word but did not do is
//! found by reading it back.

use std::fs;

use cri_proto::criu::message::{
    CoreEntry, CredsEntry, FsEntry, SaEntry, SignalQueueEntry, TaskCoreEntry, ThreadCoreEntry,
};

use super::{RestoreError, files::Sources, puppet::Puppet};
use crate::process::{kernel, proc};

/// The size of the kernel's set of signals, and of a `siginfo_t`.
const SIGNAL_SET: u64 = 8;
const SIGINFO: usize = 128;
/// `SS_ONSTACK`, which is told and cannot be set.
const ON_STACK: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`: another user id takes no capabilities.
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITIES_VERSION: u64 = 0x2008_0522;
/// The commands of membarrier(2) that register a process (linux/membarrier.h): global, private, and the private ones of code
/// and of restartable sequences.
const REGISTER: u32 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
/// More groups than fit on the stage.
const MOST_GROUPS: usize = 2048;

/// Whether what a process has as a whole can be given to a new one, as far as the image tells.
pub(super) fn check(core: &TaskCoreEntry) -> Result<(), RestoreError> {
    if core.sigactions.len() != signals_with_action().count() {
        let what = format!(
            "{} signals have an action, not {}",
            core.sigactions.len(),
            signals_with_action().count()
        );
        return Err(RestoreError::malformed("core", what));
    }
    check_barriers(core.membarrier_registration_mask.unwrap_or(0))?;
    check_signals(core.signals_s.as_ref())
}

/// Whether a process can end so: by itself, or by a signal whose default action ends a process (signal(7)). `code` is a status of
/// wait(2).
pub(super) fn check_end(code: u32) -> Result<(), RestoreError> {
    const OTHERS: [i32; 8] = [
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
    match signal <= 64 && !OTHERS.contains(&signal) {
        true => Ok(()),
        false => Err(RestoreError::malformed(
            "core",
            format!("it ended by signal {signal}, which ends no process"),
        )),
    }
}

/// The same of what a thread has.
pub(super) fn check_thread(core: &ThreadCoreEntry) -> Result<(), RestoreError> {
    if let Some(groups) = core.creds.as_ref().map(|creds| creds.groups.len())
        && groups > MOST_GROUPS
    {
        return Err(RestoreError::Unsupported(format!("a thread of {groups} groups")));
    }
    check_signals(core.signals_p.as_ref())
}

/// The signals that have an action, in the order of the images.
fn signals_with_action() -> impl Iterator<Item = u64> {
    (1..=64).filter(|signal| ![9, 19].contains(signal))
}

fn check_barriers(wanted: u32) -> Result<(), RestoreError> {
    match wanted & !REGISTER {
        0 => Ok(()),
        _ => Err(RestoreError::malformed(
            "core",
            format!("{wanted:x} registers for no memory barrier"),
        )),
    }
}

fn check_signals(queue: Option<&SignalQueueEntry>) -> Result<(), RestoreError> {
    queue
        .iter()
        .flat_map(|queue| &queue.signals)
        .try_for_each(|signal| waiting_number(&signal.siginfo).map(drop))
}

/// The number of a signal that waits.
fn waiting_number(siginfo: &[u8]) -> Result<u32, RestoreError> {
    let number = match siginfo.get(..4).map(<[u8; 4]>::try_from) {
        Some(Ok(number)) if siginfo.len() == SIGINFO => u32::from_ne_bytes(number),
        _ => return Err(RestoreError::malformed("core", "a waiting signal has another size")),
    };
    match (1..=64).contains(&number) && ![9, 19].contains(&number) {
        true => Ok(number),
        false => Err(RestoreError::malformed("core", format!("signal {number} waits"))),
    }
}

fn prctl(puppet: &mut Puppet, what: &str, option: i32, value: u64) -> Result<u64, RestoreError> {
    puppet.call(what, libc::SYS_prctl, [option as u64, value, 0, 0, 0, 0])
}

/// Working directory, umask, signal actions, personality and limits of a process.
pub(super) fn process(
    puppet: &mut Puppet,
    core: &TaskCoreEntry,
    fs: &FsEntry,
    sources: &Sources,
) -> Result<(), RestoreError> {
    let cwd = sources.number(fs.cwd_id);
    puppet.call(
        "change to its working directory",
        libc::SYS_fchdir,
        [cwd, 0, 0, 0, 0, 0],
    )?;
    if let Some(umask) = fs.umask {
        puppet.call("set its umask", libc::SYS_umask, [umask.into(), 0, 0, 0, 0, 0])?;
    }
    actions(puppet, &core.sigactions)?;
    let personality = [core.personality.into(), 0, 0, 0, 0, 0];
    puppet.call("set its personality", libc::SYS_personality, personality)?;
    prctl(
        puppet,
        "make it a subreaper",
        libc::PR_SET_CHILD_SUBREAPER,
        core.child_subreaper.unwrap_or(false).into(),
    )?;
    barriers(puppet, core.membarrier_registration_mask.unwrap_or(0))?;
    oom_score(puppet.tid, core.oom_score_adj)
}

/// Registers a process for memory barriers, while it has one thread, for which that waits for nobody.
fn barriers(puppet: &mut Puppet, wanted: u32) -> Result<(), RestoreError> {
    check_barriers(wanted)?;
    for command in (0..32).map(|bit| 1 << bit).filter(|command| wanted & command != 0) {
        let arguments = [u64::from(command), 0, 0, 0, 0, 0];
        puppet.call("register for memory barriers", libc::SYS_membarrier, arguments)?;
    }
    Ok(())
}

/// Which process the kernel ends first when memory is short.
fn oom_score(pid: i32, wanted: Option<i32>) -> Result<(), RestoreError> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let failed = |error| RestoreError::step("set its oom_score_adj", error);
    let Some(wanted) = wanted else { return Ok(()) };
    if fs::read_to_string(&path).map_err(failed)?.trim() != wanted.to_string() {
        fs::write(&path, wanted.to_string()).map_err(failed)?;
    }
    Ok(())
}

/// The actions of all signals that have one; [`check`] has counted them.
fn actions(puppet: &mut Puppet, actions: &[SaEntry]) -> Result<(), RestoreError> {
    for (signal, action) in signals_with_action().zip(actions) {
        let words = [action.sigaction, action.flags, action.restorer, action.mask];
        let address = puppet.put_words(&words)?;
        let arguments = [signal, address, 0, SIGNAL_SET, 0, 0];
        puppet.call("set a signal's action", libc::SYS_rt_sigaction, arguments)?;
    }
    Ok(())
}

/// The limits of a process. Nothing that they may forbid comes after them.
pub(super) fn limits(puppet: &mut Puppet, core: &TaskCoreEntry) -> Result<(), RestoreError> {
    let wanted = core.rlimits.iter().flat_map(|limits| &limits.rlimits);
    let now = kernel::limits(puppet.tid).map_err(|errno| RestoreError::step("read limits", errno))?;
    for ((resource, wanted), now) in (0..).zip(wanted).zip(now) {
        if (wanted.cur, wanted.max) != now {
            let address = puppet.put_words(&[wanted.cur, wanted.max])?;
            let arguments = [0, resource, address, 0, 0, 0];
            puppet.call(format!("set limit {resource}"), libc::SYS_prlimit64, arguments)?;
        }
    }
    Ok(())
}

/// What a thread has: its name, its alternate stack, what it registered with the kernel, how it is scheduled.
pub(super) fn thread(puppet: &mut Puppet, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(own) = &core.thread_core else { return Ok(()) };
    if let Some(comm) = own.comm.as_ref().or(core.tc.as_ref().map(|task| &task.comm)) {
        let name: Vec<u8> = comm.bytes().take(15).chain([0]).collect();
        let name = puppet.put(&name)?;
        prctl(puppet, "set its name", libc::PR_SET_NAME, name)?;
    }
    if let Some(stack) = &own.sas {
        let words = [stack.ss_sp, u64::from(stack.ss_flags & !ON_STACK), stack.ss_size];
        let address = puppet.put_words(&words)?;
        let arguments = [address, 0, 0, 0, 0, 0];
        puppet.call("set its alternate signal stack", libc::SYS_sigaltstack, arguments)?;
    }
    if own.futex_rla != 0 {
        let arguments = [own.futex_rla, own.futex_rla_len.into(), 0, 0, 0, 0];
        puppet.call("set its robust futexes", libc::SYS_set_robust_list, arguments)?;
    }
    let clear = core.thread_info.as_ref().map_or(0, |info| info.clear_tid_addr);
    puppet.call(
        "set what it clears at its end",
        libc::SYS_set_tid_address,
        [clear, 0, 0, 0, 0, 0],
    )?;
    if let Some(rseq) = own.rseq_entry.as_ref().filter(|rseq| rseq.rseq_abi_pointer != 0) {
        let arguments = [
            rseq.rseq_abi_pointer,
            rseq.rseq_abi_size.into(),
            0,
            rseq.signature.into(),
            0,
            0,
        ];
        puppet.call("register its restartable sequences", libc::SYS_rseq, arguments)?;
    }
    let now = kernel::scheduling(puppet.tid).map_err(|errno| RestoreError::step("read its scheduling", errno))?;
    let (policy, priority) = (own.sched_policy.unwrap_or(0), own.sched_prio.unwrap_or(0));
    if (policy, priority) != (now.policy, now.priority) {
        let address = puppet.put(&priority.to_ne_bytes())?;
        let arguments = [0, policy.into(), address, 0, 0, 0];
        puppet.call("set its scheduling", libc::SYS_sched_setscheduler, arguments)?;
    }
    if let Some(nice) = own.sched_nice.filter(|nice| *nice != now.nice) {
        let arguments = [libc::PRIO_PROCESS as u64, 0, i64::from(nice).cast_unsigned(), 0, 0, 0];
        puppet.call("set its nice value", libc::SYS_setpriority, arguments)?;
    }
    Ok(())
}

/// The rights of a thread, and what a change of them would take away.
pub(super) fn rights(puppet: &mut Puppet, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(own) = &core.thread_core else { return Ok(()) };
    if let Some(wanted) = &own.creds {
        let mut differing = difference(puppet.tid, wanted)?;
        if differing.is_some() || wanted.secbits != 0 {
            credentials(puppet, wanted)?;
            differing = difference(puppet.tid, wanted)?;
        }
        if let Some(what) = differing {
            return Err(RestoreError::Machine(format!(
                "a thread cannot be given its {what} here"
            )));
        }
    }
    if let Some(signal) = own.pdeath_sig {
        prctl(
            puppet,
            "set its parent-death signal",
            libc::PR_SET_PDEATHSIG,
            signal.into(),
        )?;
    }
    Ok(())
}

/// In what the credentials of a thread differ from these.
fn difference(tid: i32, wanted: &CredsEntry) -> Result<Option<&'static str>, RestoreError> {
    let now = proc::status(tid).map_err(|error| RestoreError::step("read credentials", error))?;
    let mask = |halves: &[u32]| match halves {
        [low, high, ..] => u64::from(*low) | u64::from(*high) << 32,
        [low] => u64::from(*low),
        [] => 0,
    };
    let users = [wanted.uid, wanted.euid, wanted.suid, wanted.fsuid] == [now.ruid, now.euid, now.suid, now.fuid];
    let groups = [wanted.gid, wanted.egid, wanted.sgid, wanted.fsgid] == [now.rgid, now.egid, now.sgid, now.fgid];
    let sorted = |groups: &[i32]| {
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        groups
    };
    let wanted_groups: Vec<i32> = wanted.groups.iter().map(|group| group.cast_signed()).collect();
    let now_groups: Vec<i32> = now.groups.iter().map(|group| group.cast_signed()).collect();
    let capabilities = [
        (mask(&wanted.cap_inh), now.capinh),
        (mask(&wanted.cap_prm), now.capprm),
        (mask(&wanted.cap_eff), now.capeff),
        (mask(&wanted.cap_bnd), now.capbnd.unwrap_or(0)),
        (mask(&wanted.cap_amb), now.capamb.unwrap_or(0)),
    ];
    let privileges = wanted.no_new_privs.unwrap_or(0) != 0;
    Ok([
        (users, "user ids"),
        (groups, "group ids"),
        (sorted(&wanted_groups) == sorted(&now_groups), "groups"),
        (capabilities.iter().all(|(wanted, now)| wanted == now), "capabilities"),
        (privileges == now.nonewprivs.is_some_and(|set| set != 0), "no_new_privs"),
    ]
    .into_iter()
    .find_map(|(same, what)| (!same).then_some(what)))
}

/// Gives a thread these credentials.
fn credentials(puppet: &mut Puppet, wanted: &CredsEntry) -> Result<(), RestoreError> {
    let words = |set: &[u32]| [set.first().copied().unwrap_or(0), set.get(1).copied().unwrap_or(0)];
    let has = |set: &[u32], capability: u32| words(set)[capability as usize / 32] & 1 << (capability % 32) != 0;
    prctl(
        puppet,
        "keep its capabilities",
        libc::PR_SET_SECUREBITS,
        NO_SETUID_FIXUP,
    )?;
    let groups: Vec<u8> = wanted.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    let address = puppet.put(&groups)?;
    let count = wanted.groups.len() as u64;
    puppet.call("set its groups", libc::SYS_setgroups, [count, address, 0, 0, 0, 0])?;
    let ids = [wanted.gid, wanted.egid, wanted.sgid].map(u64::from);
    puppet.call(
        "set its group ids",
        libc::SYS_setresgid,
        [ids[0], ids[1], ids[2], 0, 0, 0],
    )?;
    puppet.call(
        "set its group id for files",
        libc::SYS_setfsgid,
        [wanted.fsgid.into(), 0, 0, 0, 0, 0],
    )?;
    let ids = [wanted.uid, wanted.euid, wanted.suid].map(u64::from);
    puppet.call(
        "set its user ids",
        libc::SYS_setresuid,
        [ids[0], ids[1], ids[2], 0, 0, 0],
    )?;
    puppet.call(
        "set its user id for files",
        libc::SYS_setfsuid,
        [wanted.fsuid.into(), 0, 0, 0, 0, 0],
    )?;
    for capability in 0..64 {
        let known = puppet.attempt(
            "look at a capability",
            libc::SYS_prctl,
            [libc::PR_CAPBSET_READ as u64, capability.into(), 0, 0, 0, 0],
        )?;
        if known == Ok(1) && !has(&wanted.cap_bnd, capability) {
            prctl(puppet, "drop a capability", libc::PR_CAPBSET_DROP, capability.into())?;
        }
    }
    prctl(
        puppet,
        "set its securebits",
        libc::PR_SET_SECUREBITS,
        wanted.secbits.into(),
    )?;
    let (effective, permitted, inherited) = (words(&wanted.cap_eff), words(&wanted.cap_prm), words(&wanted.cap_inh));
    let mut bytes = CAPABILITIES_VERSION.to_ne_bytes().to_vec();
    for half in 0..2 {
        for set in [effective, permitted, inherited] {
            bytes.extend(set[half].to_ne_bytes());
        }
    }
    let address = puppet.put(&bytes)?;
    puppet.call(
        "set its capabilities",
        libc::SYS_capset,
        [address, address + 8, 0, 0, 0, 0],
    )?;
    for capability in (0..64).filter(|capability| has(&wanted.cap_amb, *capability)) {
        let arguments = [
            libc::PR_CAP_AMBIENT as u64,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            capability.into(),
            0,
            0,
            0,
        ];
        puppet.call("set an ambient capability", libc::SYS_prctl, arguments)?;
    }
    if wanted.no_new_privs.unwrap_or(0) != 0 {
        prctl(puppet, "set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    }
    Ok(())
}

/// Whether others may look into the process; a change of rights decides it anew, so it comes after.
pub(super) fn dumpable(puppet: &mut Puppet, dumpable: Option<i32>) -> Result<(), RestoreError> {
    let value = u64::from(dumpable.unwrap_or(1) != 0);
    prctl(puppet, "set its dumpable flag", libc::PR_SET_DUMPABLE, value).map(drop)
}

/// Takes away that children have ended, of which the signals that are put back tell by themselves.
pub(super) fn forget_children(puppet: &mut Puppet) -> Result<(), RestoreError> {
    let mask = 1_u64 << (libc::SIGCHLD - 1);
    // Behind the mask a time of zero: it does not wait.
    let words = [mask, 0, 0];
    let address = puppet.put_words(&words)?;
    let arguments = [address, 0, address + 8, SIGNAL_SET, 0, 0];
    puppet
        .attempt("take a signal", libc::SYS_rt_sigtimedwait, arguments)
        .map(drop)
}

/// Puts the signals back that waited for a process (`thread` is `None`) or for one thread. A thread can only send them to
/// itself as they were.
pub(super) fn signals(
    puppet: &mut Puppet,
    queue: Option<&SignalQueueEntry>,
    process: u32,
    thread: Option<u32>,
) -> Result<(), RestoreError> {
    for signal in queue.iter().flat_map(|queue| &queue.signals) {
        let number = waiting_number(&signal.siginfo)?;
        let info = puppet.put(&signal.siginfo)?;
        let what = format!("put signal {number} back");
        match thread {
            None => {
                let arguments = [process.into(), number.into(), info, 0, 0, 0];
                puppet.call(what, libc::SYS_rt_sigqueueinfo, arguments)?;
            }
            Some(thread) => {
                let arguments = [process.into(), thread.into(), number.into(), info, 0, 0];
                puppet.call(what, libc::SYS_rt_tgsigqueueinfo, arguments)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_only_by_signals_that_end_one() {
        for code in [0, 7 << 8, 19 << 8, 15, 9, 0x80 | 11, 34] {
            check_end(code).unwrap_or_else(|error| panic!("{code:x}: {error}"));
        }
        // SIGSTOP would stop it, and the restore would wait for its end.
        for code in [17, 18, 19, 20, 23, 28, 0x7f] {
            let refused = check_end(code).expect_err("it would not end").to_string();
            assert!(refused.contains("ends no process"), "{refused}");
        }
    }
}
