//! Creates the processes, restores their state, and resumes them.

use std::{
    collections::{BTreeSet, HashMap},
    io, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    RestoreError,
    files::OpenFiles,
    mm,
    plan::{LiveTask, RestorePlan, Task},
    registers,
    remote_task::RemoteTask,
    task, timers,
};
use crate::process::{
    Pid, ProcessId, Tid,
    namespace::PidNamespace,
    pstree::ProcStat,
    ptrace::{self, WaitEvent},
};

/// How long a process may take to become a zombie.
const ZOMBIE_TIMEOUT: Duration = Duration::from_secs(10);
const RSEQ_FLAG_UNREGISTER: u64 = 1;

/// A process of the plan while it is restored.
struct RestoringTask<'a> {
    task: &'a Task,
    leader: RemoteTask,
    threads: Vec<RemoteTask>,
}

/// Restores all processes. Returns the first process, running.
pub(super) fn restore(
    plan: &RestorePlan,
    open_files: &OpenFiles,
    namespace: &PidNamespace,
    container_id: &str,
) -> Result<ProcessId, RestoreError> {
    let step_error = |operation: &'static str| move |error: io::Error| RestoreError::step(operation, error);
    let (first, others) = plan
        .tasks
        .split_first()
        .ok_or_else(|| RestoreError::malformed("pstree.img", "no processes"))?;
    let pid = namespace
        .clone_first_process(first.ns_pid())
        .map_err(|error| RestoreError::step(format!("create process {}", first.ns_pid()), error))?;
    restore_tree(plan, first, others, pid, open_files, container_id)?;
    ProcessId::from_pid(pid).map_err(step_error("find the first process"))
}

fn restore_tree<'a>(
    plan: &'a RestorePlan,
    first: &'a Task,
    others: &'a [Task],
    pid: Pid,
    open_files: &OpenFiles,
    container_id: &str,
) -> Result<(), RestoreError> {
    let tid = pid.main_thread();
    let area = mm::find_restorer_area(plan, tid)?;
    let mut root = RemoteTask::seize(tid, area)?;
    unregister_rseq(&mut root)?;
    let arguments = [open_files.mount_ns_fd(), libc::CLONE_NEWNS as u64];
    root.call("enter the mount namespace", libc::SYS_setns, arguments)?;
    root.call("close fds", libc::SYS_close_range, [0, open_files.first_fd() - 1])?;
    let vdso = mm::unmap_all(&mut root, area)?;
    open_files.create_anon_inodes(&mut root, plan)?;

    let mut restoring_tasks = fork_tree(first, root, others)?;
    set_process_groups(&mut restoring_tasks)?;
    let (zombies, mut live_tasks): (Vec<_>, Vec<_>) = restoring_tasks
        .into_iter()
        .partition(|restoring_task| restoring_task.task.live.is_none());
    for restoring_task in &mut live_tasks {
        let Some(live) = &restoring_task.task.live else {
            continue;
        };
        let pid = restoring_task.task.ns_pid();
        restore_task(plan, restoring_task, live, open_files, &vdso, container_id)
            .map_err(|error| error.context(format_args!("process {pid}")))?;
    }
    let with_bodies = live_tasks
        .iter_mut()
        .filter_map(|restoring_task| Some((&mut restoring_task.leader, restoring_task.task.live.as_ref()?)));
    OpenFiles::add_epoll_watches(plan, with_bodies)?;
    let parents_of_zombies: BTreeSet<u32> = zombies.iter().map(|zombie| zombie.task.pstree_entry.ppid).collect();
    for zombie in zombies {
        let pid = zombie.task.ns_pid();
        make_zombie(zombie).map_err(|error| error.context(format_args!("process {pid}")))?;
    }
    for restoring_task in &mut live_tasks {
        if parents_of_zombies.contains(&restoring_task.task.pstree_entry.pid) {
            task::drop_pending_sigchld(&mut restoring_task.leader)?;
        }
        let pid = restoring_task.task.ns_pid();
        finish_task(restoring_task).map_err(|error| error.context(format_args!("process {pid}")))?;
    }
    let mut stopped_tids = Vec::new();
    for restoring_task in live_tasks {
        restore_registers(restoring_task, &mut stopped_tids)?;
    }
    for tid in stopped_tids {
        ptrace::detach(tid).map_err(|errno| RestoreError::step("resume a task", errno))?;
    }
    Ok(())
}

/// The first process is a clone of the shim's thread and inherits its rseq registration, whose memory is about to be
/// unmapped.
fn unregister_rseq(root: &mut RemoteTask) -> Result<(), RestoreError> {
    let rseq_area = ptrace::rseq(root.tid).map_err(|errno| RestoreError::step("read the rseq registration", errno))?;
    if let Some(rseq_area) = rseq_area {
        let arguments = [
            rseq_area.pointer,
            rseq_area.size.into(),
            RSEQ_FLAG_UNREGISTER,
            rseq_area.signature.into(),
        ];
        root.call("unregister rseq", libc::SYS_rseq, arguments)?;
    }
    Ok(())
}

/// Creates all processes without memory, each from its parent and in its session.
fn fork_tree<'a>(
    first: &'a Task,
    root: RemoteTask,
    others: &'a [Task],
) -> Result<Vec<RestoringTask<'a>>, RestoreError> {
    let mut index_by_pid = HashMap::from([(first.pstree_entry.pid, 0)]);
    let mut restoring_tasks = vec![RestoringTask {
        task: first,
        leader: root,
        threads: Vec::new(),
    }];
    start_session(&mut restoring_tasks[0])?;
    for task in others {
        let parent = index_by_pid[&task.pstree_entry.ppid];
        let remote = restoring_tasks[parent].leader.clone_child(0, task.ns_pid())?;
        index_by_pid.insert(task.pstree_entry.pid, restoring_tasks.len());
        let mut restoring_task = RestoringTask {
            task,
            leader: remote,
            threads: Vec::new(),
        };
        start_session(&mut restoring_task)?;
        restoring_tasks.push(restoring_task);
    }
    Ok(restoring_tasks)
}

fn start_session(restoring_task: &mut RestoringTask<'_>) -> Result<(), RestoreError> {
    if restoring_task.task.pstree_entry.sid == restoring_task.task.pstree_entry.pid {
        restoring_task
            .leader
            .call("create a session (setsid)", libc::SYS_setsid, [])?;
    }
    Ok(())
}

/// Sets the process groups, those of the group leaders first.
fn set_process_groups(restoring_tasks: &mut [RestoringTask<'_>]) -> Result<(), RestoreError> {
    for leads in [true, false] {
        for restoring_task in restoring_tasks.iter_mut() {
            let pstree_entry = &restoring_task.task.pstree_entry;
            if pstree_entry.sid != pstree_entry.pid && (pstree_entry.pgid == pstree_entry.pid) == leads {
                let arguments = [0, pstree_entry.pgid.into()];
                restoring_task
                    .leader
                    .call("join a process group", libc::SYS_setpgid, arguments)?;
            }
        }
    }
    Ok(())
}

/// Restores the state of a process, except limits, credentials, pending signals and timers.
fn restore_task(
    plan: &RestorePlan,
    restoring_task: &mut RestoringTask<'_>,
    live: &LiveTask,
    open_files: &OpenFiles,
    vdso: &mm::VdsoMappings,
    container_id: &str,
) -> Result<(), RestoreError> {
    let leader = &mut restoring_task.leader;
    mm::restore_mm(leader, plan, live, open_files, vdso)?;
    mm::rewrite_container_id(leader, &live.mm, container_id)?;
    open_files.install_fds(leader, live)?;
    let task_core = restoring_task
        .task
        .core
        .tc
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("core", "the task core (tc) is missing"))?;
    task::restore_process(leader, task_core, &live.fs, open_files)?;
    open_files.close_inherited_fds(leader)?;
    task::restore_thread(leader, &restoring_task.task.core)?;
    for (ns_tid, core) in &restoring_task.task.threads {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let mut thread = restoring_task.leader.clone_child(flags, *ns_tid)?;
        task::restore_thread(&mut thread, core)?;
        restoring_task.threads.push(thread);
    }
    Ok(())
}

/// Restores limits, credentials, pending signals and timers.
fn finish_task(restoring_task: &mut RestoringTask<'_>) -> Result<(), RestoreError> {
    let pid = restoring_task.task.ns_pid();
    let (core, live) = (&restoring_task.task.core, &restoring_task.task.live);
    let (Some(task_core), Some(live)) = (&core.tc, live) else {
        return Ok(());
    };
    task::set_rlimits(&mut restoring_task.leader, task_core)?;
    for (thread, (ns_tid, core)) in restoring_task.threads.iter_mut().zip(&restoring_task.task.threads) {
        task::restore_creds(thread, core)?;
        let pending = core.thread_core.as_ref().and_then(|thread| thread.signals_p.as_ref());
        task::queue_pending_signals(thread, pending, pid, Some(*ns_tid))?;
    }
    task::restore_creds(&mut restoring_task.leader, core)?;
    task::set_dumpable(&mut restoring_task.leader, live.mm.dumpable)?;
    let pending = core.thread_core.as_ref().and_then(|thread| thread.signals_p.as_ref());
    task::queue_pending_signals(&mut restoring_task.leader, pending, pid, Some(pid))?;
    task::queue_pending_signals(&mut restoring_task.leader, task_core.signals_s.as_ref(), pid, None)?;
    match &task_core.timers {
        Some(timers) => timers::set(&mut restoring_task.leader, timers),
        None => Ok(()),
    }
}

/// Unmaps the restorer area and sets the registers of every thread. The threads stay stopped until they are detached.
fn restore_registers(mut restoring_task: RestoringTask<'_>, stopped_tids: &mut Vec<Tid>) -> Result<(), RestoreError> {
    for (thread, (_, core)) in restoring_task.threads.into_iter().zip(&restoring_task.task.threads) {
        stopped_tids.push(set_thread_registers(thread, core)?);
    }
    restoring_task.leader.unmap_area()?;
    let stopped = restoring_task.task.is_stopped();
    let signal = restoring_task
        .task
        .core
        .tc
        .as_ref()
        .and_then(|task_core| task_core.stop_signo);
    let tid = set_thread_registers(restoring_task.leader, &restoring_task.task.core)?;
    if stopped {
        // The task receives the signal before it executes an instruction of its program.
        let signal = signal
            .and_then(|signal| i32::try_from(signal).ok())
            .unwrap_or(libc::SIGSTOP);
        let step_error = |error| RestoreError::step("stop the process again", error);
        ProcessId::from_pid(tid.led_process())
            .and_then(|id| crate::process::pidfd::signal(id, signal))
            .map_err(step_error)?;
    }
    stopped_tids.push(tid);
    Ok(())
}

fn set_thread_registers(remote: RemoteTask, core: &cri_proto::criu::message::CoreEntry) -> Result<Tid, RestoreError> {
    let tid = remote.finish()?;
    registers::set(tid, core)?;
    let blocked = core.thread_core.as_ref().and_then(|thread| thread.blk_sigset);
    let blocked = blocked
        .or(core.tc.as_ref().map(|task_core| task_core.blk_sigset))
        .unwrap_or(0);
    ptrace::set_blocked_signals(tid, blocked).map_err(|errno| RestoreError::step("set blocked signals", errno))?;
    Ok(tid)
}

/// Ends a process with the exit status of the recorded zombie.
fn make_zombie(zombie: RestoringTask<'_>) -> Result<(), RestoreError> {
    let code = zombie.task.core.tc.as_ref().map_or(0, |task_core| task_core.exit_code);
    let mut remote = zombie.leader;
    let tid = remote.tid;
    let id = ProcessId::from_pid(tid.led_process()).map_err(|error| RestoreError::step("find a process", error))?;
    let signal = i32::try_from(code & 0x7f).unwrap_or(0);
    // The recorded core dump, if there was one, is not written again.
    let signal = if signal == 0 {
        // The call does not return.
        let _ = remote.try_call("exit", libc::SYS_exit_group, [u64::from(code >> 8 & 0xff)]);
        None
    } else {
        let zeroed = remote.write_words(&[0; 4])?;
        let core = libc::RLIMIT_CORE as u64;
        remote.call("disable core dumps", libc::SYS_prlimit64, [0, core, zeroed])?;
        // rt_sigaction fails for SIGKILL.
        let arguments = [signal as u64, zeroed, 0, 8];
        let _ = remote.try_call("reset a signal action", libc::SYS_rt_sigaction, arguments)?;
        Some(signal)
    };
    if let Some(signal) = signal {
        let tid = remote.finish()?;
        let step_error = |errno: Errno| RestoreError::step("end a process", errno);
        ptrace::set_blocked_signals(tid, 0).map_err(step_error)?;
        crate::process::pidfd::signal(id, signal).map_err(|error| RestoreError::step("end a process", error))?;
        // SIGKILL may end the task before the detach.
        match ptrace::detach(tid) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(step_error(errno)),
        }
    }
    let started = Instant::now();
    while started.elapsed() < ZOMBIE_TIMEOUT {
        // The tracer's wait collects the exit of a traced task first; only then does the parent see the zombie.
        let reported = matches!(ptrace::poll(tid), Ok(Some(WaitEvent::Exited(_) | WaitEvent::Vanished)));
        if reported && ProcStat::read(id.pid).is_ok_and(|stat| stat.id == id && stat.is_dead()) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(RestoreError::step(
        "end a process",
        io::Error::from_raw_os_error(libc::ETIMEDOUT),
    ))
}
