//! Of the processes and threads: each is there with all its parts, and nothing is there of others.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::criu::message::{CoreEntry, PstreeEntry, core_entry::March};

use super::given::{ArchiveCase, Complaints, Mappings, case, images, is_dead, living, none, pointers, source, tree};
use crate::{
    archive::{Images, Inspected},
    case::{Judgement, Stop, fail, judge},
};

const PROTO: &str = "CRIU images/core.proto";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "process/tree",
        Reference,
        "checkpointctl --ps-tree; checkpointctl#213: archive without pstree.img",
        "pstree.img holds one tree: every process once, with its threads, below one root.",
        "one root, parents and threads known",
        process_tree
    ),
    case!(
        "process/cores",
        Reference,
        "checkpointctl --ps-tree",
        "Every thread of every process has its core image.",
        "core-TID.img for each",
        |archive| {
            let images = tree(archive)?;
            let threads = all_threads(images);
            let missing = threads.iter().filter(|tid| !images.cores.contains_key(tid));
            none(
                missing.map(|tid| format!("no core-{tid}.img")),
                format!("{} threads", threads.len()),
            )
        }
    ),
    case!(
        "process/mm",
        Reference,
        "checkpointctl --ps-tree-cmd",
        "Every process that lives has its address space.",
        "mm-PID.img for each",
        |archive| each_has(archive, "mm", |images, pid| images.mms.contains_key(&pid))
    ),
    case!(
        "process/pagemap",
        Reference,
        "checkpointctl memparse",
        "Every process that lives has its page map.",
        "pagemap-PID.img for each",
        |archive| each_has(archive, "pagemap", |images, pid| images.pagemaps.contains_key(&pid))
    ),
    case!(
        "process/ids",
        Reference,
        "checkpointctl --files",
        "Every process that lives says which kernel objects it shares.",
        "ids-PID.img for each",
        |archive| each_has(archive, "ids", |images, pid| images.ids.contains_key(&pid))
    ),
    case!(
        "process/fs",
        Reference,
        "checkpointctl --files",
        "Every process that lives has its working directory and root.",
        "fs-PID.img for each",
        |archive| each_has(archive, "fs", |images, pid| images.fs.contains_key(&pid))
    ),
    case!(
        "process/fdinfo",
        Reference,
        "checkpointctl --files",
        "Every table of descriptors that a process names is there.",
        "fdinfo-ID.img for each",
        |archive| {
            let images = tree(archive)?;
            let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
            let missing = tables.iter().filter(|id| !images.fdinfo.contains_key(id));
            none(
                missing.map(|id| format!("no fdinfo-{id}.img")),
                format!("{} tables", tables.len()),
            )
        }
    ),
    case!(
        "process/no-stray",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No image is of a process that is not in the tree, or of a table of descriptors that none of them has.",
        "images of the tree's processes only",
        no_stray
    ),
    case!(
        "process/machine",
        Reference,
        PROTO,
        "Every core image is of one known machine and has its registers.",
        "one machine, registers of it",
        machine
    ),
    case!(
        "process/leaders",
        Reference,
        PROTO,
        "What the threads of a process share stands in its leader's core image, with the command's name.",
        "tc in leaders only",
        leaders
    ),
    case!(
        "process/threads",
        Reference,
        PROTO,
        "Every thread has its own state, with its credentials.",
        "thread_core with creds",
        |archive| {
            let images = tree(archive)?;
            let threads = living(images)
                .flat_map(|(process, _)| threads(images, process).map(|tid| (tid, images.cores.get(&tid))));
            let bare = |core: &CoreEntry| core.thread_core.as_ref().is_none_or(|thread| thread.creds.is_none());
            let bare = threads.filter(|(_, core)| core.is_some_and(bare));
            none(
                bare.map(|(tid, _)| format!("core-{tid}.img has none")),
                format!("{} core images", images.cores.len()),
            )
        }
    ),
    case!(
        "process/signal-actions",
        Reference,
        "CRIU criu/cr-restore.c",
        "Every process has an action for each signal from 1 to 64 that can have one: not 9, not 19.",
        "62 actions",
        signal_actions
    ),
    case!(
        "process/limits",
        Reference,
        "CRIU images/rlimit.proto",
        "Every process has its 16 limits, the soft ones within the hard ones.",
        "16 limits, cur <= max",
        |archive| {
            let images = tree(archive)?;
            let bad = living(images).filter_map(|(process, core)| {
                let limits = core
                    .tc
                    .as_ref()?
                    .rlimits
                    .as_ref()
                    .map_or(&[][..], |limits| &limits.rlimits);
                let fits = limits.len() == 16 && limits.iter().all(|limit| limit.cur <= limit.max);
                (!fits).then(|| format!("process {} has {} or one above its maximum", process.pid, limits.len()))
            });
            none(bad, format!("{} processes", images.pstree.len()))
        }
    ),
    case!(
        "process/timers",
        Reference,
        PROTO,
        "Every process has its three interval timers.",
        "timers",
        |archive| {
            let images = tree(archive)?;
            let bare = living(images).filter(|(_, core)| core.tc.as_ref().is_some_and(|tc| tc.timers.is_none()));
            none(
                bare.map(|(process, _)| format!("process {} has none", process.pid)),
                "in every process",
            )
        }
    ),
    case!(
        "process/posix-timers",
        Reference,
        "CRIU images/timer.proto; timer_create(2), SIGEV_THREAD_ID",
        "A POSIX timer that signals a thread must signal one of its own process, or no restore can make it.",
        "notify_thread_id of a thread of the process",
        posix_timers
    ),
    case!(
        "process/living-leaders",
        Reference,
        "CRIU criu/cr-restore.c: a dead process is restored as an exit, without threads",
        "A process must not be dead while images hold living threads of it, or a restore loses them.",
        "no core image of a thread of a dead process",
        living_leaders
    ),
    case!(
        "process/registers",
        Reference,
        source::PAGE,
        "Every thread goes on where it was: at an address that is mapped and executable, with a stack that is mapped.",
        "instruction and stack pointers within mappings",
        registers
    ),
    case!(
        "process/system-calls",
        Reference,
        "CRIU compel/arch/x86/src/lib/infect.c, get_task_regs",
        "A thread that was interrupted in a system call makes it again or finds it interrupted: it never sees the kernel's own word for that.",
        "no result of -512, -513, -514 or -516",
        system_calls
    ),
];

/// The threads of a process, its leader first even where the list of threads is wrong. A zombie has no other, whatever
/// its list says: CRIU (seen with 4.1.1) leaves it as it found the memory.
fn threads<'a>(images: &Images, process: &'a PstreeEntry) -> impl Iterator<Item = u32> + use<'a> {
    let listed = if is_dead(images.cores.get(&process.pid)) {
        &[][..]
    } else {
        &process.threads
    };
    let others = listed.iter().copied().filter(|tid| *tid != process.pid);
    std::iter::once(process.pid).chain(others)
}

/// All threads of the tree.
fn all_threads(images: &Images) -> BTreeSet<u32> {
    images
        .pstree
        .iter()
        .flat_map(|process| threads(images, process))
        .collect()
}

/// The core images of the tree's threads; those of others are stray, and judged as such.
fn cores(images: &Images) -> impl Iterator<Item = (u32, &CoreEntry)> {
    all_threads(images)
        .into_iter()
        .filter_map(|tid| Some((tid, images.cores.get(&tid)?)))
}

fn each_has(archive: &Inspected, image: &str, has: fn(&Images, u32) -> bool) -> Judgement {
    let images = tree(archive)?;
    let missing = living(images).filter(|(process, _)| !has(images, process.pid));
    none(
        missing.map(|(process, _)| format!("no {image}-{}.img", process.pid)),
        format!("{} processes", images.pstree.len()),
    )
}

fn process_tree(archive: &Inspected) -> Judgement {
    let images = images(archive)?;
    if images.pstree.is_empty() {
        return fail("no process: pstree.img is missing or empty");
    }
    let pids: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    let mut bad = Complaints::default();
    let roots = || images.pstree.iter().filter(|process| !pids.contains(&process.ppid));
    let count = roots().count();
    if count != 1 {
        bad.add(|| {
            let first: Vec<_> = roots().map(|root| root.pid).take(8).collect();
            format!("{count} processes without a parent in the tree: {first:?}")
        });
    }
    let mut owners = BTreeMap::new();
    for process in &images.pstree {
        if process.pid == 0 || process.ppid == process.pid {
            bad.add(|| format!("process {} below {}", process.pid, process.ppid));
        }
        if is_dead(images.cores.get(&process.pid)) {
            continue;
        }
        if !process.threads.contains(&process.pid) {
            bad.add(|| format!("process {} is not among its threads", process.pid));
        }
        for tid in &process.threads {
            if let Some(other) = owners.insert(*tid, process.pid) {
                bad.add(|| format!("thread {tid} in processes {other} and {}", process.pid));
            }
        }
    }
    bad.judge(format!("{} processes, {} threads", images.pstree.len(), owners.len()))
}

fn no_stray(archive: &Inspected) -> Judgement {
    let images = tree(archive)?;
    let pids: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    // Threads of a dead process have a case of their own.
    let of_the_dead = images
        .pstree
        .iter()
        .filter(|process| is_dead(images.cores.get(&process.pid)));
    let tids: BTreeSet<_> = all_threads(images)
        .into_iter()
        .chain(of_the_dead.flat_map(|process| process.threads.iter().copied()))
        .collect();
    let tables: BTreeSet<_> = images.ids.values().map(|ids| ids.files_id).collect();
    // Where a process does not say which table is its own, any may be.
    let said = living(images).all(|(process, _)| images.ids.contains_key(&process.pid));
    let fdinfo: Vec<_> = images.fdinfo.keys().copied().filter(|_| said).collect();
    let stray = |kind: &'static str, found: Vec<u32>, known: &BTreeSet<u32>| {
        let unknown: Vec<_> = found.into_iter().filter(|id| !known.contains(id)).collect();
        unknown.into_iter().map(move |id| format!("{kind}-{id}.img"))
    };
    let found = stray("core", images.cores.keys().copied().collect(), &tids)
        .chain(stray("mm", images.mms.keys().copied().collect(), &pids))
        .chain(stray("pagemap", images.pagemaps.keys().copied().collect(), &pids))
        .chain(stray("fs", images.fs.keys().copied().collect(), &pids))
        .chain(stray("ids", images.ids.keys().copied().collect(), &pids))
        .chain(stray("fdinfo", fdinfo, &tables));
    none(found, "none")
}

fn machine(archive: &Inspected) -> Judgement {
    let images = tree(archive)?;
    let mut machines = BTreeSet::new();
    let mut bad = Complaints::default();
    for (tid, core) in cores(images) {
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
            bad.add(|| {
                format!(
                    "core-{tid}.img: machine {} without its registers",
                    machine.as_str_name()
                )
            });
        }
    }
    if machines.len() > 1 {
        bad.add(|| format!("several machines: {machines:?}"));
    }
    bad.judge(format!("{machines:?}"))
}

fn leaders(archive: &Inspected) -> Judgement {
    let images = tree(archive)?;
    let leaders: BTreeSet<_> = images.pstree.iter().map(|process| process.pid).collect();
    let bad = cores(images).filter_map(|(tid, core)| match (&core.tc, leaders.contains(&tid)) {
        (None, true) => Some(format!("core-{tid}.img of a leader has none")),
        (Some(tc), true) if tc.comm.is_empty() => Some(format!("core-{tid}.img has no name of its command")),
        (Some(_), false) => Some(format!("core-{tid}.img of a thread has one")),
        _ => None,
    });
    none(bad, format!("{} leaders", leaders.len()))
}

fn signal_actions(archive: &Inspected) -> Judgement {
    let images = tree(archive)?;
    let mut tables = BTreeMap::<u32, usize>::new();
    for (process, _) in living(images) {
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
    let bad = living(images).filter_map(|(process, core)| {
        let actions = core.tc.as_ref()?.sigactions.len();
        let fits = actions == 62 || actions == 0 && shared(process.pid);
        (!fits).then(|| format!("process {} has {actions}", process.pid))
    });
    none(bad, format!("{} processes", images.pstree.len()))
}

fn registers(archive: &Inspected) -> Judgement {
    /// `PROT_EXEC`.
    const EXEC: u32 = 4;
    let images = tree(archive)?;
    let mut bad = Complaints::default();
    let mut judged = 0;
    for (process, _) in living(images) {
        let Some(mm) = images.mms.get(&process.pid) else {
            continue;
        };
        let mappings = Mappings::of(mm);
        let mapping = |address: u64| mappings.at(address);
        for tid in threads(images, process) {
            let Some((ip, sp)) = images.cores.get(&tid).and_then(pointers) else {
                continue;
            };
            judged += 1;
            if mapping(ip).is_none_or(|vma| vma.prot & EXEC == 0) {
                bad.add(|| format!("thread {tid} is at {ip:#x}, where nothing can be executed"));
            }
            // A stack that grew to its mapping's very end has its pointer at the end.
            if mapping(sp).or_else(|| mapping(sp.wrapping_sub(1))).is_none() {
                bad.add(|| format!("thread {tid} has its stack at {sp:#x}, where nothing is mapped"));
            }
        }
    }
    if judged == 0 {
        // Without its images a process has none, which is another case's to say.
        let mut living = living(images).peekable();
        if living.peek().is_none() {
            return Err(Stop::Blocked("archive/process/cores"));
        }
        if living.all(|(process, _)| !images.mms.contains_key(&process.pid)) {
            return Err(Stop::Blocked("archive/process/mm"));
        }
        return judge(false, "no thread has registers of a known machine");
    }
    bad.judge(format!("{judged} threads"))
}

fn system_calls(archive: &Inspected) -> Judgement {
    /// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND` and `ERESTART_RESTARTBLOCK`: a kernel takes them back before the
    /// program runs on, but only the kernel that the thread was stopped in.
    const OF_THE_KERNEL: [i64; 4] = [-512, -513, -514, -516];
    let images = tree(archive)?;
    let x86: Vec<_> = cores(images)
        .filter_map(|(tid, core)| Some((tid, &core.thread_info.as_ref()?.gpregs)))
        .collect();
    if x86.is_empty() {
        return Err(Stop::Skip("only known of x86-64".to_owned()));
    }
    let bad = x86
        .iter()
        .filter(|(_, registers)| registers.orig_ax.cast_signed() >= 0)
        .filter(|(_, registers)| OF_THE_KERNEL.contains(&registers.ax.cast_signed()));
    none(
        bad.map(|(tid, registers)| {
            let (call, result) = (registers.orig_ax, registers.ax.cast_signed());
            format!("thread {tid} finds {result} as the result of system call {call}")
        }),
        format!("{} threads", x86.len()),
    )
}

fn posix_timers(archive: &Inspected) -> Judgement {
    /// `SIGEV_THREAD_ID` of `sigevent(3)`: the signal goes to one thread.
    const THREAD_ID: u32 = 4;
    let images = tree(archive)?;
    let mut judged = 0;
    let mut bad = Complaints::default();
    for (process, core) in living(images) {
        let timers = core.tc.as_ref().and_then(|tc| tc.timers.as_ref());
        let to_threads = timers
            .into_iter()
            .flat_map(|timers| &timers.posix)
            .filter(|timer| timer.it_sigev_notify & THREAD_ID != 0);
        let known: BTreeSet<_> = threads(images, process).collect();
        for timer in to_threads {
            judged += 1;
            let thread = timer.notify_thread_id.unwrap_or_default();
            let is_known = u32::try_from(thread).is_ok_and(|thread| known.contains(&thread));
            if !is_known {
                bad.add(|| {
                    format!(
                        "timer {} of process {} signals thread {thread}",
                        timer.it_id, process.pid
                    )
                });
            }
        }
    }
    if judged == 0 {
        return Err(Stop::Skip("no timer signals a thread".to_owned()));
    }
    bad.judge(format!("{judged} timers"))
}

fn living_leaders(archive: &Inspected) -> Judgement {
    let images = tree(archive)?;
    let mut bad = Complaints::default();
    for process in images
        .pstree
        .iter()
        .filter(|process| is_dead(images.cores.get(&process.pid)))
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
            bad.add(|| {
                format!(
                    "process {} is dead, and core images of {threads} threads are there",
                    process.pid
                )
            });
        }
    }
    bad.judge(format!("{} processes", images.pstree.len()))
}
