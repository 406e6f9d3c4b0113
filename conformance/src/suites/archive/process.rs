//! Of the processes and threads: each is there with all its parts, and nothing is there of others.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::{CoreEntry, PstreeEntry, core_entry::March};

use super::preconditions::{
    ArchiveCase, Mappings, Problems, case, ip_and_sp, is_dead_task, live_processes, pass_unless, require_images,
    require_process_tree, source,
};
use crate::{
    archive::{Images, InspectedArchive},
    engine::{CaseResult, NonPass, check, fail},
};

const CORE_PROTO_SOURCE: &str = "CRIU images/core.proto";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/processes/pstree",
        Reference,
        "checkpointctl --ps-tree; checkpointctl#213: archive without pstree.img",
        "pstree.img holds one tree: every process once, with its threads, below one root.",
        "one root, parents and threads known",
        process_tree
    ),
    case!(
        "archive/processes/core-images",
        Reference,
        "checkpointctl --ps-tree",
        "Every thread of every process has its core image.",
        "core-TID.img for each",
        |archive| {
            let images = require_process_tree(archive)?;
            let threads = all_thread_ids(images);
            let missing = threads.iter().filter(|tid| !images.cores.contains_key(tid));
            pass_unless(
                missing.map(|tid| format!("no core-{tid}.img")),
                format!("{} threads", threads.len()),
            )
        }
    ),
    case!(
        "archive/processes/mm-images",
        Reference,
        "checkpointctl --ps-tree-cmd",
        "Every process that lives has its address space.",
        "mm-PID.img for each",
        |archive| each_process_has(archive, "mm", |images, pid| images.mms.contains_key(&pid))
    ),
    case!(
        "archive/processes/pagemap-images",
        Reference,
        "checkpointctl memparse",
        "Every process that lives has its page map.",
        "pagemap-PID.img for each",
        |archive| each_process_has(archive, "pagemap", |images, pid| images.pagemaps.contains_key(&pid))
    ),
    case!(
        "archive/processes/ids-images",
        Reference,
        "checkpointctl --files",
        "Every process that lives says which kernel objects it shares.",
        "ids-PID.img for each",
        |archive| each_process_has(archive, "ids", |images, pid| images.ids.contains_key(&pid))
    ),
    case!(
        "archive/processes/fs-images",
        Reference,
        "checkpointctl --files",
        "Every process that lives has its working directory and root.",
        "fs-PID.img for each",
        |archive| each_process_has(archive, "fs", |images, pid| images.fs.contains_key(&pid))
    ),
    case!(
        "archive/processes/fdinfo-images",
        Reference,
        "checkpointctl --files",
        "Every table of descriptors that a process names is there.",
        "fdinfo-ID.img for each",
        |archive| {
            let images = require_process_tree(archive)?;
            let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
            let missing = tables.iter().filter(|id| !images.fdinfo.contains_key(id));
            pass_unless(
                missing.map(|id| format!("no fdinfo-{id}.img")),
                format!("{} tables", tables.len()),
            )
        }
    ),
    case!(
        "archive/processes/no-orphan-images",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No image is of a process that is not in the tree, or of a table of descriptors that none of them has.",
        "images of the tree's processes only",
        no_orphan_images
    ),
    case!(
        "archive/processes/architecture",
        Reference,
        CORE_PROTO_SOURCE,
        "Every core image is of one known machine and has its registers.",
        "one machine, registers of it",
        architecture
    ),
    case!(
        "archive/processes/tc-in-leaders",
        Reference,
        CORE_PROTO_SOURCE,
        "What the threads of a process share stands in its leader's core image, with the command's name.",
        "tc in leaders only",
        leader_state
    ),
    case!(
        "archive/processes/thread-creds",
        Reference,
        CORE_PROTO_SOURCE,
        "Every thread has its own state, with its credentials.",
        "thread_core with creds",
        |archive| {
            let images = require_process_tree(archive)?;
            let threads = live_processes(images)
                .flat_map(|(process, _)| thread_ids(images, process).map(|tid| (tid, images.cores.get(&tid))));
            let incomplete = |core: &CoreEntry| core.thread_core.as_ref().is_none_or(|thread| thread.creds.is_none());
            let incomplete = threads.filter(|(_, core)| core.is_some_and(incomplete));
            pass_unless(
                incomplete.map(|(tid, _)| format!("core-{tid}.img has none")),
                format!("{} core images", images.cores.len()),
            )
        }
    ),
    case!(
        "archive/processes/sigactions",
        Reference,
        "CRIU criu/cr-restore.c",
        "Every process has an action for each signal from 1 to 64 that can have one: not 9, not 19.",
        "62 actions",
        signal_actions
    ),
    case!(
        "archive/processes/rlimits",
        Reference,
        "CRIU images/rlimit.proto",
        "Every process has its 16 limits, the soft ones within the hard ones.",
        "16 limits, cur <= max",
        |archive| {
            let images = require_process_tree(archive)?;
            let problems = live_processes(images).filter_map(|(process, core)| {
                let limits = core
                    .tc
                    .as_ref()?
                    .rlimits
                    .as_ref()
                    .map_or(&[][..], |limits| &limits.rlimits);
                let fits = limits.len() == 16 && limits.iter().all(|limit| limit.cur <= limit.max);
                (!fits).then(|| format!("process {} has {} or one above its maximum", process.pid, limits.len()))
            });
            pass_unless(problems, format!("{} processes", images.pstree.len()))
        }
    ),
    case!(
        "archive/processes/itimers",
        Reference,
        CORE_PROTO_SOURCE,
        "Every process has its three interval timers.",
        "timers",
        |archive| {
            let images = require_process_tree(archive)?;
            let incomplete =
                live_processes(images).filter(|(_, core)| core.tc.as_ref().is_some_and(|tc| tc.timers.is_none()));
            pass_unless(
                incomplete.map(|(process, _)| format!("process {} has none", process.pid)),
                "in every process",
            )
        }
    ),
    case!(
        "archive/processes/posix-timer-targets",
        Reference,
        "CRIU images/timer.proto; timer_create(2), SIGEV_THREAD_ID",
        "A POSIX timer that signals a thread must signal one of its own process, or no restore can make it.",
        "notify_thread_id of a thread of the process",
        posix_timers
    ),
    case!(
        "archive/processes/leaders-alive",
        Reference,
        "CRIU criu/cr-restore.c: a dead process is restored as an exit, without threads",
        "A process must not be dead while images hold living threads of it, or a restore loses them.",
        "no core image of a thread of a dead process",
        living_leaders
    ),
    case!(
        "archive/processes/registers-within-vmas",
        Reference,
        source::PAGE,
        "Every thread goes on where it was: at an address that is mapped and executable, with a stack that is mapped.",
        "instruction and stack pointers within mappings",
        registers
    ),
    case!(
        "archive/processes/no-erestart-codes",
        Reference,
        "CRIU compel/arch/x86/src/lib/infect.c, get_task_regs",
        "A thread that was interrupted in a system call makes it again or finds it interrupted: it never sees the kernel's own word for that.",
        "no result of -512, -513, -514 or -516",
        no_restart_errnos
    ),
];

/// The threads of a process, its leader first even where the list of threads is wrong. A zombie has no other, whatever
/// its list says: CRIU (seen with 4.1.1) leaves it as it found the memory.
fn thread_ids<'a>(images: &Images, process: &'a PstreeEntry) -> impl Iterator<Item = u32> + use<'a> {
    let listed = if is_dead_task(images.cores.get(&process.pid)) {
        &[][..]
    } else {
        &process.threads
    };
    let others = listed.iter().copied().filter(|tid| *tid != process.pid);
    std::iter::once(process.pid).chain(others)
}

/// All threads of the tree.
fn all_thread_ids(images: &Images) -> BTreeSet<u32> {
    images
        .pstree
        .iter()
        .flat_map(|process| thread_ids(images, process))
        .collect()
}

/// The core images of the tree's threads; those of others are stray, and judged as such.
fn thread_cores(images: &Images) -> impl Iterator<Item = (u32, &CoreEntry)> {
    all_thread_ids(images)
        .into_iter()
        .filter_map(|tid| Some((tid, images.cores.get(&tid)?)))
}

fn each_process_has(archive: &InspectedArchive, image: &str, has: fn(&Images, u32) -> bool) -> CaseResult {
    let images = require_process_tree(archive)?;
    let missing = live_processes(images).filter(|(process, _)| !has(images, process.pid));
    pass_unless(
        missing.map(|(process, _)| format!("no {image}-{}.img", process.pid)),
        format!("{} processes", images.pstree.len()),
    )
}

fn process_tree(archive: &InspectedArchive) -> CaseResult {
    let images = require_images(archive)?;
    if images.pstree.is_empty() {
        return fail("no process: pstree.img is missing or empty");
    }
    let pids: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    let mut problems = Problems::default();
    let roots = || images.pstree.iter().filter(|process| !pids.contains(&process.ppid));
    let count = roots().count();
    if count != 1 {
        problems.add(|| {
            let first: Vec<_> = roots().map(|root| root.pid).take(8).collect();
            format!("{count} processes without a parent in the tree: {first:?}")
        });
    }
    let mut owners = BTreeMap::new();
    for process in &images.pstree {
        if process.pid == 0 || process.ppid == process.pid {
            problems.add(|| format!("process {} below {}", process.pid, process.ppid));
        }
        if is_dead_task(images.cores.get(&process.pid)) {
            continue;
        }
        if !process.threads.contains(&process.pid) {
            problems.add(|| format!("process {} is not among its threads", process.pid));
        }
        for tid in &process.threads {
            if let Some(other) = owners.insert(*tid, process.pid) {
                problems.add(|| format!("thread {tid} in processes {other} and {}", process.pid));
            }
        }
    }
    problems.into_result(format!("{} processes, {} threads", images.pstree.len(), owners.len()))
}

fn no_orphan_images(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let pids: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    // Threads of a dead process have a case of their own.
    let dead_processes = images
        .pstree
        .iter()
        .filter(|process| is_dead_task(images.cores.get(&process.pid)));
    let tids: BTreeSet<_> = all_thread_ids(images)
        .into_iter()
        .chain(dead_processes.flat_map(|process| process.threads.iter().copied()))
        .collect();
    let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
    // Where a process does not say which table is its own, any may be.
    let all_have_ids = live_processes(images).all(|(process, _)| images.ids.contains_key(&process.pid));
    let fdinfo: Vec<_> = images.fdinfo.keys().copied().filter(|_| all_have_ids).collect();
    let orphans_of = |kind: &'static str, image_ids: Vec<u32>, tree_ids: &BTreeSet<u32>| {
        let unknown: Vec<_> = image_ids.into_iter().filter(|id| !tree_ids.contains(id)).collect();
        unknown.into_iter().map(move |id| format!("{kind}-{id}.img"))
    };
    let orphans = orphans_of("core", images.cores.keys().copied().collect(), &tids)
        .chain(orphans_of("mm", images.mms.keys().copied().collect(), &pids))
        .chain(orphans_of("pagemap", images.pagemaps.keys().copied().collect(), &pids))
        .chain(orphans_of("fs", images.fs.keys().copied().collect(), &pids))
        .chain(orphans_of("ids", images.ids.keys().copied().collect(), &pids))
        .chain(orphans_of("fdinfo", fdinfo, &tables));
    pass_unless(orphans, "none")
}

fn architecture(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let mut machines = BTreeSet::new();
    let mut problems = Problems::default();
    for (tid, core) in thread_cores(images) {
        let machine = March::try_from(core.mtype).unwrap_or(March::Unknown);
        machines.insert(machine.as_str_name());
        // A zombie has no registers, and so no part of the machine's.
        let dead = core.thread_core.is_none() && core.thread_info.is_none() && core.ti_aarch64.is_none();
        let fits = match machine {
            March::X8664 => core.thread_info.is_some() && core.ti_aarch64.is_none(),
            March::Aarch64 => core.ti_aarch64.is_some() && core.thread_info.is_none(),
            March::Unknown => false,
            _ => true,
        };
        if !fits && (!dead || machine == March::Unknown) {
            problems.add(|| {
                format!(
                    "core-{tid}.img: machine {} without its registers",
                    machine.as_str_name()
                )
            });
        }
    }
    if machines.len() > 1 {
        problems.add(|| format!("several machines: {machines:?}"));
    }
    problems.into_result(format!("{machines:?}"))
}

fn leader_state(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let leaders: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    let problems = thread_cores(images).filter_map(|(tid, core)| match (&core.tc, leaders.contains(&tid)) {
        (None, true) => Some(format!("core-{tid}.img of a leader has none")),
        (Some(tc), true) if tc.comm.is_empty() => Some(format!("core-{tid}.img has no name of its command")),
        (Some(_), false) => Some(format!("core-{tid}.img of a thread has one")),
        _ => None,
    });
    pass_unless(problems, format!("{} leaders", leaders.len()))
}

fn signal_actions(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let mut tables = BTreeMap::<u32, usize>::new();
    for (process, _) in live_processes(images) {
        if let Some(ids) = images.ids.get(&process.pid) {
            *tables.entry(ids.sighand_id).or_default() += 1;
        }
    }
    // Processes that share their table may leave it to one of them.
    let shared = |pid| {
        images
            .ids
            .get(&pid)
            .is_some_and(|ids| tables.get(&ids.sighand_id).is_some_and(|n| *n > 1))
    };
    let problems = live_processes(images).filter_map(|(process, core)| {
        let actions = core.tc.as_ref()?.sigactions.len();
        let fits = actions == 62 || actions == 0 && shared(process.pid);
        (!fits).then(|| format!("process {} has {actions}", process.pid))
    });
    pass_unless(problems, format!("{} processes", images.pstree.len()))
}

fn registers(archive: &InspectedArchive) -> CaseResult {
    /// `PROT_EXEC`.
    const PROT_EXEC: u32 = 4;
    let images = require_process_tree(archive)?;
    let mut problems = Problems::default();
    let mut checked_count = 0;
    for (process, _) in live_processes(images) {
        let Some(mm) = images.mms.get(&process.pid) else {
            continue;
        };
        let mappings = Mappings::from_mm(mm);
        let mapping = |address: u64| mappings.mapping_at(address);
        for tid in thread_ids(images, process) {
            let Some((ip, sp)) = images.cores.get(&tid).and_then(ip_and_sp) else {
                continue;
            };
            checked_count += 1;
            if mapping(ip).is_none_or(|vma| vma.prot & PROT_EXEC == 0) {
                problems.add(|| format!("thread {tid} is at {ip:#x}, where nothing can be executed"));
            }
            // A stack that grew to its mapping's very end has its pointer at the end.
            if mapping(sp).or_else(|| mapping(sp.wrapping_sub(1))).is_none() {
                problems.add(|| format!("thread {tid} has its stack at {sp:#x}, where nothing is mapped"));
            }
        }
    }
    if checked_count == 0 {
        // Without its images a process has none, which is another case's to say.
        let mut living = live_processes(images).peekable();
        if living.peek().is_none() {
            return Err(NonPass::Blocked("archive/processes/core-images"));
        }
        if living.all(|(process, _)| !images.mms.contains_key(&process.pid)) {
            return Err(NonPass::Blocked("archive/processes/mm-images"));
        }
        return check(false, "no thread has registers of a known machine");
    }
    problems.into_result(format!("{checked_count} threads"))
}

fn no_restart_errnos(archive: &InspectedArchive) -> CaseResult {
    /// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND` and `ERESTART_RESTARTBLOCK`: a kernel takes them back before the
    /// program runs on, but only the kernel that the thread was stopped in.
    const KERNEL_ERRNOS: [i64; 4] = [-512, -513, -514, -516];
    let images = require_process_tree(archive)?;
    let x86: Vec<_> = thread_cores(images)
        .filter_map(|(tid, core)| Some((tid, &core.thread_info.as_ref()?.gpregs)))
        .collect();
    if x86.is_empty() {
        return Err(NonPass::Skip("only known of x86-64".to_owned()));
    }
    let problems = x86
        .iter()
        .filter(|(_, registers)| registers.orig_ax.cast_signed() >= 0)
        .filter(|(_, registers)| KERNEL_ERRNOS.contains(&registers.ax.cast_signed()));
    pass_unless(
        problems.map(|(tid, registers)| {
            let (call, result) = (registers.orig_ax, registers.ax.cast_signed());
            format!("thread {tid} finds {result} as the result of system call {call}")
        }),
        format!("{} threads", x86.len()),
    )
}

fn posix_timers(archive: &InspectedArchive) -> CaseResult {
    /// `SIGEV_THREAD_ID` of `sigevent(3)`: the signal goes to one thread.
    const SIGEV_THREAD_ID: u32 = 4;
    let images = require_process_tree(archive)?;
    let mut checked_count = 0;
    let mut problems = Problems::default();
    for (process, core) in live_processes(images) {
        let timers = core.tc.as_ref().and_then(|tc| tc.timers.as_ref());
        let to_threads = timers
            .into_iter()
            .flat_map(|timers| &timers.posix)
            .filter(|timer| timer.it_sigev_notify & SIGEV_THREAD_ID != 0);
        let own_threads: BTreeSet<_> = thread_ids(images, process).collect();
        for timer in to_threads {
            checked_count += 1;
            let thread = timer.notify_thread_id.unwrap_or_default();
            let is_own_thread = u32::try_from(thread).is_ok_and(|thread| own_threads.contains(&thread));
            if !is_own_thread {
                problems.add(|| {
                    format!(
                        "timer {} of process {} signals thread {thread}",
                        timer.it_id, process.pid
                    )
                });
            }
        }
    }
    if checked_count == 0 {
        return Err(NonPass::Skip("no timer signals a thread".to_owned()));
    }
    problems.into_result(format!("{checked_count} timers"))
}

fn living_leaders(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let mut problems = Problems::default();
    for process in images
        .pstree
        .iter()
        .filter(|process| is_dead_task(images.cores.get(&process.pid)))
    {
        // The list of a zombie's threads is whatever CRIU found in memory, so that only an image of a thread counts.
        let of_thread = |tid: &&u32| {
            **tid != process.pid
                && images
                    .cores
                    .get(*tid)
                    .is_some_and(|core| core.thread_core.is_some() && core.tc.is_none())
        };
        let threads = process.threads.iter().filter(of_thread).count();
        if threads > 0 {
            problems.add(|| {
                format!(
                    "process {} is dead, and core images of {threads} threads are there",
                    process.pid
                )
            });
        }
    }
    problems.into_result(format!("{} processes", images.pstree.len()))
}
