//! The processes, made and brought to where they were, then let go.

use std::{
    collections::{BTreeSet, HashMap},
    io, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    RestoreError,
    files::Sources,
    plan::{Body, Plan, Task},
    puppet::Puppet,
    registers, space, task, timers,
};
use crate::process::{
    ProcessId,
    family::Kin,
    namespace::Namespace,
    ptrace::{self, Event},
};

/// How long a process may take to end.
const ENDING: Duration = Duration::from_secs(10);
/// `RSEQ_FLAG_UNREGISTER`.
const UNREGISTER: u64 = 1;

/// A process of the plan.
struct Actor<'a> {
    task: &'a Task,
    first: Puppet,
    threads: Vec<Puppet>,
}

/// Restores all processes; the first one, running.
pub(super) fn restore(
    plan: &Plan,
    sources: &Sources,
    namespace: &Namespace,
    container: &str,
) -> Result<ProcessId, RestoreError> {
    let failed = |what: &'static str| move |error: io::Error| RestoreError::step(what, error);
    let (first, others) = plan
        .tasks
        .split_first()
        .ok_or_else(|| RestoreError::malformed("pstree.img", "there is no process"))?;
    let tid = namespace
        .first(first.pid())
        .map_err(|error| RestoreError::step(format!("make process {}", first.pid()), error))?;
    act(plan, first, others, tid, sources, container)?;
    ProcessId::of(tid).map_err(failed("find the first process"))
}

fn act<'a>(
    plan: &'a Plan,
    first: &'a Task,
    others: &'a [Task],
    tid: i32,
    sources: &Sources,
    container: &str,
) -> Result<(), RestoreError> {
    let stage = space::find_stage(plan, tid)?;
    let mut root = Puppet::seize(tid, stage)?;
    forget_sequences(&mut root)?;
    let arguments = [sources.mounts(), libc::CLONE_NEWNS as u64, 0, 0, 0, 0];
    root.call("enter the namespace's mounts", libc::SYS_setns, arguments)?;
    root.call(
        "close descriptors",
        libc::SYS_close_range,
        [0, sources.base() - 1, 0, 0, 0, 0],
    )?;
    let kernel = space::clear(&mut root, stage)?;
    sources.make(&mut root, plan)?;

    let mut actors = cast(first, root, others)?;
    group(&mut actors)?;
    let (zombies, mut living): (Vec<_>, Vec<_>) = actors.into_iter().partition(|actor| actor.task.body.is_none());
    for actor in &mut living {
        let Some(body) = &actor.task.body else { continue };
        let pid = actor.task.place.pid;
        rebuild(plan, actor, body, sources, &kernel, container)
            .map_err(|error| error.of(format_args!("process {pid}")))?;
    }
    let with_bodies = living
        .iter_mut()
        .filter_map(|actor| Some((&mut actor.first, actor.task.body.as_ref()?)));
    Sources::watch(plan, with_bodies)?;
    let bereaved: BTreeSet<u32> = zombies.iter().map(|zombie| zombie.task.place.ppid).collect();
    for zombie in zombies {
        let pid = zombie.task.place.pid;
        end(zombie).map_err(|error| error.of(format_args!("process {pid}")))?;
    }
    for actor in &mut living {
        if bereaved.contains(&actor.task.place.pid) {
            task::forget_children(&mut actor.first)?;
        }
        let pid = actor.task.place.pid;
        finish(actor).map_err(|error| error.of(format_args!("process {pid}")))?;
    }
    let mut standing = Vec::new();
    for actor in living {
        leave(actor, &mut standing)?;
    }
    for tid in standing {
        ptrace::detach(tid).map_err(|errno| RestoreError::step("let it run", errno))?;
    }
    Ok(())
}

/// The copy of the shim's first thread still has its registration, in memory that goes.
fn forget_sequences(root: &mut Puppet) -> Result<(), RestoreError> {
    let area = ptrace::rseq(root.tid).map_err(|errno| RestoreError::step("look for rseq", errno))?;
    if let Some(area) = area {
        let arguments = [area.pointer, area.size.into(), UNREGISTER, area.signature.into(), 0, 0];
        root.call("unregister rseq", libc::SYS_rseq, arguments)?;
    }
    Ok(())
}

/// Makes all processes, empty, each by its parent and in its session.
fn cast<'a>(first: &'a Task, root: Puppet, others: &'a [Task]) -> Result<Vec<Actor<'a>>, RestoreError> {
    let mut places = HashMap::from([(first.place.pid, 0)]);
    let mut actors = vec![Actor {
        task: first,
        first: root,
        threads: Vec::new(),
    }];
    lead_session(&mut actors[0])?;
    for task in others {
        let parent = places[&task.place.ppid];
        let puppet = actors[parent].first.bear(0, task.place.pid)?;
        places.insert(task.place.pid, actors.len());
        let mut actor = Actor {
            task,
            first: puppet,
            threads: Vec::new(),
        };
        lead_session(&mut actor)?;
        actors.push(actor);
    }
    Ok(actors)
}

fn lead_session(actor: &mut Actor<'_>) -> Result<(), RestoreError> {
    if actor.task.place.sid == actor.task.place.pid {
        actor.first.call("lead a session", libc::SYS_setsid, [0; 6])?;
    }
    Ok(())
}

/// Puts the processes into their process groups: those that lead one first.
fn group(actors: &mut [Actor<'_>]) -> Result<(), RestoreError> {
    for leads in [true, false] {
        for actor in actors.iter_mut() {
            let place = &actor.task.place;
            if place.sid != place.pid && (place.pgid == place.pid) == leads {
                let arguments = [0, place.pgid.into(), 0, 0, 0, 0];
                actor.first.call("join a process group", libc::SYS_setpgid, arguments)?;
            }
        }
    }
    Ok(())
}

/// Gives a process all that it has, but for rights, timers and signals.
fn rebuild(
    plan: &Plan,
    actor: &mut Actor<'_>,
    body: &Body,
    sources: &Sources,
    kernel: &space::KernelPages,
    container: &str,
) -> Result<(), RestoreError> {
    let first = &mut actor.first;
    space::build(first, plan, body, sources, kernel)?;
    space::mark(first, &body.mm, container)?;
    sources.place(first, body)?;
    let own = actor
        .task
        .core
        .tc
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("core", "it is no process's first thread"))?;
    task::process(first, own, &body.fs, sources)?;
    sources.close(first)?;
    task::thread(first, &actor.task.core)?;
    for (number, core) in &actor.task.threads {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let mut thread = actor.first.bear(flags, *number)?;
        task::thread(&mut thread, core)?;
        actor.threads.push(thread);
    }
    Ok(())
}

/// Limits, rights, the signals that wait, timers.
fn finish(actor: &mut Actor<'_>) -> Result<(), RestoreError> {
    let pid = actor.task.place.pid;
    let (core, body) = (&actor.task.core, &actor.task.body);
    let (Some(own), Some(body)) = (&core.tc, body) else {
        return Ok(());
    };
    task::limits(&mut actor.first, own)?;
    for (thread, (number, core)) in actor.threads.iter_mut().zip(&actor.task.threads) {
        task::rights(thread, core)?;
        let waiting = core.thread_core.as_ref().and_then(|own| own.signals_p.as_ref());
        task::signals(thread, waiting, pid, Some(*number))?;
    }
    task::rights(&mut actor.first, core)?;
    task::dumpable(&mut actor.first, body.mm.dumpable)?;
    let waiting = core.thread_core.as_ref().and_then(|own| own.signals_p.as_ref());
    task::signals(&mut actor.first, waiting, pid, Some(pid))?;
    task::signals(&mut actor.first, own.signals_s.as_ref(), pid, None)?;
    match &own.timers {
        Some(timers) => timers::set(&mut actor.first, timers),
        None => Ok(()),
    }
}

/// Takes the stage away and gives every thread its registers; they stand until they are let go.
fn leave(mut actor: Actor<'_>, standing: &mut Vec<i32>) -> Result<(), RestoreError> {
    for (thread, (_, core)) in actor.threads.into_iter().zip(&actor.task.threads) {
        standing.push(set(thread, core)?);
    }
    actor.first.strike()?;
    let stopped = actor.task.stopped();
    let signal = actor.task.core.tc.as_ref().and_then(|own| own.stop_signo);
    let tid = set(actor.first, &actor.task.core)?;
    if stopped {
        // It takes the signal before an instruction of its own.
        let signal = signal
            .and_then(|signal| i32::try_from(signal).ok())
            .unwrap_or(libc::SIGSTOP);
        let failed = |error| RestoreError::step("stop it", error);
        ProcessId::of(tid)
            .and_then(|id| crate::process::pidfd::signal(id, signal))
            .map_err(failed)?;
    }
    standing.push(tid);
    Ok(())
}

fn set(puppet: Puppet, core: &cri_proto::criu::message::CoreEntry) -> Result<i32, RestoreError> {
    let tid = puppet.leave()?;
    registers::set(tid, core)?;
    let blocked = core.thread_core.as_ref().and_then(|own| own.blk_sigset);
    let blocked = blocked.or(core.tc.as_ref().map(|own| own.blk_sigset)).unwrap_or(0);
    ptrace::set_blocked_signals(tid, blocked).map_err(|errno| RestoreError::step("set blocked signals", errno))?;
    Ok(tid)
}

/// Ends a process as the zombie had ended that it is to be.
fn end(zombie: Actor<'_>) -> Result<(), RestoreError> {
    let code = zombie.task.core.tc.as_ref().map_or(0, |own| own.exit_code);
    let mut puppet = zombie.first;
    let tid = puppet.tid;
    let id = ProcessId::of(tid).map_err(|error| RestoreError::step("find a process", error))?;
    let signal = i32::try_from(code & 0x7f).unwrap_or(0);
    // By a signal or by itself; a core that was dumped then is not dumped again.
    let signal = if signal == 0 {
        // It does not come back from this call.
        let arguments = [u64::from(code >> 8 & 0xff), 0, 0, 0, 0, 0];
        let _ = puppet.attempt("end", libc::SYS_exit_group, arguments);
        None
    } else {
        let nothing = puppet.put_words(&[0; 4])?;
        let core = libc::RLIMIT_CORE as u64;
        puppet.call("dump no core", libc::SYS_prlimit64, [0, core, nothing, 0, 0, 0])?;
        // SIGKILL has no action.
        let arguments = [signal as u64, nothing, 0, 8, 0, 0];
        let _ = puppet.attempt("take a signal", libc::SYS_rt_sigaction, arguments)?;
        Some(signal)
    };
    if let Some(signal) = signal {
        let tid = puppet.leave()?;
        let failed = |errno: Errno| RestoreError::step("end a process", errno);
        ptrace::set_blocked_signals(tid, 0).map_err(failed)?;
        crate::process::pidfd::signal(id, signal).map_err(|error| RestoreError::step("end a process", error))?;
        // SIGKILL does not wait until it is let go.
        match ptrace::detach(tid) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let began = Instant::now();
    while began.elapsed() < ENDING {
        // As long as it is traced, its tracer hears of its end first; then it is its parent's.
        let heard = matches!(ptrace::poll(tid), Ok(Some(Event::Exited(_) | Event::Gone)));
        if heard && Kin::of(tid).is_ok_and(|kin| kin.id == id && kin.ended()) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(RestoreError::step(
        "end a process",
        io::Error::from_raw_os_error(libc::ETIMEDOUT),
    ))
}
