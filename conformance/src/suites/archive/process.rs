//! Processes and threads: each must have all its images, and there must be no images of others.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::{CoreEntry, PstreeEntry, core_entry::March};

use super::preconditions::{
    ArchiveCase, IMAGES, Mappings, Problems, ip_and_sp, is_dead_task, live_processes, pass_unless, process_tree_case,
    require_images, require_process_tree,
};
use crate::{
    archive::{Images, InspectedArchive},
    engine::{Authority, CaseResult, Level, NonPass, case, check, fail, skip},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/processes/pstree", Level::Reference)
        .requirement("pstree.img must hold one tree with every process once, including its threads, below one root.")
        .authority(
            authority::CHECKPOINTCTL
                .with_section("checkpointctl --ps-tree; checkpointctl#213: archive without pstree.img"),
        )
        .expected("one root, and known parents and threads")
        .depends_on(IMAGES)
        .check(process_tree),
    process_tree_case("archive/processes/core-images", Level::Reference)
        .requirement("Every thread of every process must have a core image.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --ps-tree"))
        .expected("core-TID.img for each thread")
        .check(|archive| {
            let images = require_process_tree(archive)?;
            let threads = all_thread_ids(images);
            let missing = threads.iter().filter(|tid| !images.cores.contains_key(tid));
            pass_unless(
                missing.map(|tid| format!("no core-{tid}.img")),
                format!("{} threads", threads.len()),
            )
        }),
    process_tree_case("archive/processes/mm-images", Level::Reference)
        .requirement("Every live process must have its address space in an mm image.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --ps-tree-cmd"))
        .expected("mm-PID.img for each process")
        .check(|archive| each_process_has(archive, "mm", |images, pid| images.mms.contains_key(&pid))),
    process_tree_case("archive/processes/pagemap-images", Level::Reference)
        .requirement("Every live process must have a page map.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl memparse"))
        .expected("pagemap-PID.img for each process")
        .check(|archive| each_process_has(archive, "pagemap", |images, pid| images.pagemaps.contains_key(&pid))),
    process_tree_case("archive/processes/ids-images", Level::Reference)
        .requirement("Every live process must have an ids image, which identifies the kernel objects that it shares.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --files"))
        .expected("ids-PID.img for each process")
        .check(|archive| each_process_has(archive, "ids", |images, pid| images.ids.contains_key(&pid))),
    process_tree_case("archive/processes/fs-images", Level::Reference)
        .requirement("Every live process must have an fs image with its working directory and root.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --files"))
        .expected("fs-PID.img for each process")
        .check(|archive| each_process_has(archive, "fs", |images, pid| images.fs.contains_key(&pid))),
    process_tree_case("archive/processes/fdinfo-images", Level::Reference)
        .requirement("Every descriptor table that a process refers to must have an fdinfo image.")
        .authority(authority::CHECKPOINTCTL.with_section("checkpointctl --files"))
        .expected("fdinfo-ID.img for each table")
        .check(|archive| {
            let images = require_process_tree(archive)?;
            let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
            let missing = tables.iter().filter(|id| !images.fdinfo.contains_key(id));
            pass_unless(
                missing.map(|id| format!("no fdinfo-{id}.img")),
                format!("{} tables", tables.len()),
            )
        }),
    process_tree_case("archive/processes/no-orphan-images", Level::Robust)
        .requirement("Every image must belong to a process of the tree, or to a descriptor table of such a process.")
        .authority(Authority::PROJECT)
        .motivation("cri-o#7355, cri-o#9692: images of an earlier attempt in the archive")
        .expected("no image of another process or table")
        .check(no_orphan_images),
    process_tree_case("archive/processes/architecture", Level::Reference)
        .requirement("Every core image must be of the same known architecture and contain its registers.")
        .authority(authority::criu_file("images/core.proto"))
        .expected("one architecture, with its registers")
        .check(architecture),
    process_tree_case("archive/processes/tc-in-leaders", Level::Reference)
        .requirement(
            "The state that threads of a process share, with the command name, must be in the core image of \
            the leader only.",
        )
        .authority(authority::criu_file("images/core.proto"))
        .expected("tc in leaders only")
        .check(leader_state),
    process_tree_case("archive/processes/thread-creds", Level::Reference)
        .requirement("Every thread must have its own state with its credentials.")
        .authority(authority::criu_file("images/core.proto"))
        .expected("thread_core with creds")
        .check(|archive| {
            let images = require_process_tree(archive)?;
            let threads = live_processes(images)
                .flat_map(|(process, _)| thread_ids(images, process).map(|tid| (tid, images.cores.get(&tid))));
            let incomplete = |core: &CoreEntry| core.thread_core.as_ref().is_none_or(|thread| thread.creds.is_none());
            let incomplete = threads.filter(|(_, core)| core.is_some_and(incomplete));
            pass_unless(
                incomplete.map(|(tid, _)| format!("no creds in core-{tid}.img")),
                format!("{} core images", images.cores.len()),
            )
        }),
    process_tree_case("archive/processes/sigactions", Level::Reference)
        .requirement(
            "Every process must have an action for each signal from 1 to 64 except SIGKILL (9) and SIGSTOP \
            (19).",
        )
        .authority(authority::criu_file("criu/cr-restore.c"))
        .expected("62 actions for each process")
        .check(signal_actions),
    process_tree_case("archive/processes/rlimits", Level::Reference)
        .requirement("Every process must have its 16 resource limits, with no soft limit above its hard limit.")
        .authority(authority::criu_file("images/rlimit.proto"))
        .expected("16 limits, cur <= max")
        .check(|archive| {
            let images = require_process_tree(archive)?;
            let problems = live_processes(images).filter_map(|(process, core)| {
                let limits = core
                    .tc
                    .as_ref()?
                    .rlimits
                    .as_ref()
                    .map_or(&[][..], |limits| &limits.rlimits);
                let fits = limits.len() == 16 && limits.iter().all(|limit| limit.cur <= limit.max);
                (!fits).then(|| format!("process {}: {} limits, or cur above max", process.pid, limits.len()))
            });
            pass_unless(problems, format!("{} processes", images.pstree.len()))
        }),
    process_tree_case("archive/processes/itimers", Level::Reference)
        .requirement("Every process must have its three interval timers.")
        .authority(authority::criu_file("images/core.proto"))
        .expected("timers in each process")
        .check(|archive| {
            let images = require_process_tree(archive)?;
            let incomplete =
                live_processes(images).filter(|(_, core)| core.tc.as_ref().is_some_and(|tc| tc.timers.is_none()));
            pass_unless(
                incomplete.map(|(process, _)| format!("process {} has no timers", process.pid)),
                "timers in each process",
            )
        }),
    process_tree_case("archive/processes/posix-timer-targets", Level::Reference)
        .requirement(
            "A POSIX timer that signals a thread must name a thread of its own process, or a restore cannot \
            create it.",
        )
        .authority(authority::criu_file(
            "images/timer.proto; timer_create(2), SIGEV_THREAD_ID",
        ))
        .expected("notify_thread_id of a thread of the process")
        .check(posix_timers),
    process_tree_case("archive/processes/leaders-alive", Level::Reference)
        .requirement("A process with images of live threads must not be marked dead, or a restore loses the threads.")
        .authority(authority::criu_file(
            "criu/cr-restore.c: a dead process is restored as an exit, without threads",
        ))
        .expected("no core image of a thread of a dead process")
        .check(living_leaders),
    case("archive/processes/registers-within-vmas", Level::Reference)
        .requirement(
            "The instruction pointer of every thread must be in an executable mapping, and its stack pointer \
            in a mapping.",
        )
        .authority(authority::API_INTRODUCTION)
        .expected("instruction and stack pointers within mappings")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pstree",
            "archive/processes/mm-images",
            "archive/processes/core-images",
        ])
        .check(registers),
    case("archive/processes/no-erestart-codes", Level::Reference)
        .requirement(
            "The return register of a thread that was interrupted in a system call must not hold an ERESTART* \
            value of the kernel.",
        )
        .authority(authority::criu_file("compel/arch/x86/src/lib/infect.c, get_task_regs"))
        .expected("no result of -512, -513, -514 or -516")
        .depends_on(IMAGES)
        .may_depend_on(&[
            "archive/processes/pstree",
            "archive/processes/mm-images",
            "archive/processes/core-images",
        ])
        .check(no_restart_errnos),
];

/// The threads of a process, its leader first even if the list of threads is wrong. A zombie has no other thread,
/// whatever its list contains: CRIU (observed with 4.1.1) does not initialise the list.
fn thread_ids<'a>(images: &Images, process: &'a PstreeEntry) -> impl Iterator<Item = u32> + use<'a> {
    let listed = if is_dead_task(images.cores.get(&process.pid)) {
        &[][..]
    } else {
        &process.threads
    };
    let others = listed.iter().copied().filter(|tid| *tid != process.pid);
    std::iter::once(process.pid).chain(others)
}

fn all_thread_ids(images: &Images) -> BTreeSet<u32> {
    images
        .pstree
        .iter()
        .flat_map(|process| thread_ids(images, process))
        .collect()
}

/// The core images of the tree's threads. Another case reports core images of other threads.
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
            problems.add(|| format!("process {} with parent {}", process.pid, process.ppid));
        }
        if is_dead_task(images.cores.get(&process.pid)) {
            continue;
        }
        if !process.threads.contains(&process.pid) {
            problems.add(|| format!("process {} is not in its list of threads", process.pid));
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
    // Another case checks the threads of a dead process.
    let dead_processes = images
        .pstree
        .iter()
        .filter(|process| is_dead_task(images.cores.get(&process.pid)));
    let tids: BTreeSet<_> = all_thread_ids(images)
        .into_iter()
        .chain(dead_processes.flat_map(|process| process.threads.iter().copied()))
        .collect();
    let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
    // If a process has no ids image, any table may be its own.
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
    pass_unless(orphans, "no image of another process or table")
}

fn architecture(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let mut machines = BTreeSet::new();
    let mut problems = Problems::default();
    for (tid, core) in thread_cores(images) {
        let machine = March::try_from(core.mtype).unwrap_or(March::Unknown);
        machines.insert(machine.as_str_name());
        // A zombie has no registers, and so no architecture-specific part.
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
                    "core-{tid}.img: architecture {} without its registers",
                    machine.as_str_name()
                )
            });
        }
    }
    if machines.len() > 1 {
        problems.add(|| format!("several architectures: {machines:?}"));
    }
    problems.into_result(format!("{machines:?}"))
}

fn leader_state(archive: &InspectedArchive) -> CaseResult {
    let images = require_process_tree(archive)?;
    let leaders: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    let problems = thread_cores(images).filter_map(|(tid, core)| match (&core.tc, leaders.contains(&tid)) {
        (None, true) => Some(format!("no tc in core-{tid}.img of a leader")),
        (Some(tc), true) if tc.comm.is_empty() => Some(format!("no command name in core-{tid}.img")),
        (Some(_), false) => Some(format!("tc in core-{tid}.img of a thread")),
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
    // If processes share their signal handlers, only one of them may have the actions.
    let shared = |pid| {
        images
            .ids
            .get(&pid)
            .is_some_and(|ids| tables.get(&ids.sighand_id).is_some_and(|n| *n > 1))
    };
    let problems = live_processes(images).filter_map(|(process, core)| {
        let actions = core.tc.as_ref()?.sigactions.len();
        let fits = actions == 62 || actions == 0 && shared(process.pid);
        (!fits).then(|| format!("process {} has {actions} actions", process.pid))
    });
    pass_unless(problems, format!("{} processes", images.pstree.len()))
}

fn registers(archive: &InspectedArchive) -> CaseResult {
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
                problems.add(|| format!("thread {tid}: instruction pointer {ip:#x} is not executable"));
            }
            // The pointer of a full stack is at the end address of the mapping.
            if mapping(sp).or_else(|| mapping(sp.wrapping_sub(1))).is_none() {
                problems.add(|| format!("thread {tid}: stack pointer {sp:#x} is not mapped"));
            }
        }
    }
    if checked_count == 0 {
        // Other cases report processes without images.
        let mut living = live_processes(images).peekable();
        if living.peek().is_none() {
            return Err(NonPass::Blocked("archive/processes/core-images"));
        }
        if living.all(|(process, _)| !images.mms.contains_key(&process.pid)) {
            return Err(NonPass::Blocked("archive/processes/mm-images"));
        }
        return check(false, "no thread has registers of a known architecture");
    }
    problems.into_result(format!("{checked_count} threads"))
}

fn no_restart_errnos(archive: &InspectedArchive) -> CaseResult {
    /// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND` and `ERESTART_RESTARTBLOCK`. The kernel replaces them before
    /// the program continues, but only the kernel in which the thread was stopped does so.
    const KERNEL_ERRNOS: [i64; 4] = [-512, -513, -514, -516];
    let images = require_process_tree(archive)?;
    let x86: Vec<_> = thread_cores(images)
        .filter_map(|(tid, core)| Some((tid, &core.thread_info.as_ref()?.gpregs)))
        .collect();
    if x86.is_empty() {
        return skip("requires an archive of x86-64");
    }
    let problems = x86
        .iter()
        .filter(|(_, registers)| registers.orig_ax.cast_signed() >= 0)
        .filter(|(_, registers)| KERNEL_ERRNOS.contains(&registers.ax.cast_signed()));
    pass_unless(
        problems.map(|(tid, registers)| {
            let (call, result) = (registers.orig_ax, registers.ax.cast_signed());
            format!("thread {tid} has {result} as the result of system call {call}")
        }),
        format!("{} threads", x86.len()),
    )
}

fn posix_timers(archive: &InspectedArchive) -> CaseResult {
    /// `SIGEV_THREAD_ID` of `sigevent(3)`: the signal is sent to one thread.
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
        return skip("requires a timer that signals a thread");
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
        // CRIU does not initialise the list of threads of a zombie, so only a core image of a thread counts.
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
                    "process {} is dead, but there are core images of {threads} of its threads",
                    process.pid
                )
            });
        }
    }
    problems.into_result(format!("{} processes", images.pstree.len()))
}
