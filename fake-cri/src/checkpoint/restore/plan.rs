//! What the images say is to be made, and whether it can be: nothing is made before all of this holds.
//!
//! Every number of an archive is checked before it is used: addresses, sizes, ids, the tree. What the kernel itself refuses is
//! left to it; what it would take and we would not make faithfully is refused here, with its name.

mod pagemap;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
};

use cri_proto::criu::{
    Kind,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, FileLockEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry,
        TaskKobjIdsEntry, TimensEntry, VmaEntry,
    },
};
use nix::time::{ClockId, clock_gettime};

pub(super) use self::pagemap::{PagePlan, ShmemSegment};
use super::{
    Restorable, RestoreError, RestoreOptions, documents::UnsupportedSummary, files, images::CriuImages, mm, registers,
    task,
};
use crate::{checkpoint::dump::vma_status as status, process::pagemap::PAGE_SIZE};

/// `CRTOOLS_IMAGES_V1` and `V1_1`.
const IMAGE_VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// `TASK_DEAD` and what else a task may be (criu/include/pid.h).
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
const TASK_STOPPED: u32 = 3;
/// The highest address of a program.
const USER_ADDRESS_END: u64 = 1 << 47;
/// More than a kernel gives numbers for.
const MAX_TASKS: usize = 1 << 16;
/// More descriptors than a process has here.
const MAX_FD: u32 = 1 << 20;
/// More open files than any container has: what they take in memory is a multiple of what they take in an image.
pub(super) const MAX_OPEN_FILES: usize = 1 << 18;
/// More mappings, and more descriptors, than all processes of a container have together.
const MAX_MAPPINGS: usize = 1 << 20;
const MAX_FDS: usize = 1 << 20;
/// Images of namespaces that fake-cri does not make, each with what it stands for.
const UNSUPPORTED_IMAGES: &[(&str, &str)] = &[
    ("mountpoints-", "a mount namespace of its own"),
    ("utsns-", "a host name of its own"),
    ("netdev-", "a network namespace of its own"),
    ("ipcns-", "an IPC namespace of its own"),
    ("userns-", "a user namespace of its own"),
];
/// CRIU's image of the clocks at the dump, written whichever time namespace the processes are in.
const TIMENS_IMAGE_ID: u64 = 0;

/// A process to be made.
#[derive(Debug)]
pub(super) struct Task {
    /// Its place in the tree.
    pub(super) pstree_entry: PstreeEntry,
    /// Its first thread, with what it has as a whole.
    pub(super) core: CoreEntry,
    /// Its other threads by their used_ids.
    pub(super) threads: Vec<(u32, CoreEntry)>,
    /// What it has unless it is a zombie.
    pub(super) live: Option<LiveTask>,
}

impl Task {
    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.pstree_entry.pid.cast_signed()
    }

    /// Whether job control has it stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.core
            .tc
            .as_ref()
            .is_some_and(|task| task.task_state == TASK_STOPPED)
    }
}

/// What a living process has.
#[derive(Debug)]
pub(super) struct LiveTask {
    pub(super) mm: MmEntry,
    pub(super) fs: FsEntry,
    pub(super) descriptors: Vec<FdinfoEntry>,
    pub(super) pages: PagePlan,
}

/// All that is to be made.
#[derive(Debug)]
pub(super) struct RestorePlan {
    pub(super) images: CriuImages,
    /// Parents before their children.
    pub(super) tasks: Vec<Task>,
    pub(super) files: HashMap<u32, FileEntry>,
    pub(super) shmem_segments: BTreeMap<u64, ShmemSegment>,
}

impl RestorePlan {
    /// Reads and checks it all.
    ///
    /// # Errors
    ///
    /// What is malformed, or what cannot be restored.
    pub(super) fn read(images: CriuImages, options: RestoreOptions) -> Result<Self, RestoreError> {
        registers::check_supported()?;
        let inventory: InventoryEntry = images.single(Kind::Inventory, None)?;
        if !IMAGE_VERSIONS.contains(&inventory.img_version) {
            let problem = format!("version {} is unknown", inventory.img_version);
            return Err(RestoreError::malformed("inventory.img", problem));
        }
        for (prefix, problem) in UNSUPPORTED_IMAGES {
            if images.names().any(|name| name.starts_with(prefix)) {
                return Err(RestoreError::Unsupported((*problem).to_owned()));
            }
        }
        check_clocks(&images)?;
        check_locks(&images, &images.documents.unsupported, options)?;
        let files = files_by_id(&images)?;
        let pstree_entries: Vec<PstreeEntry> = images.entries(Kind::Pstree, None, MAX_TASKS)?;
        check_pstree(&pstree_entries)?;
        let mut totals = PlanTotals {
            dumper_time_ns: inventory.root_ids.as_ref().and_then(|ids| ids.time_ns_id),
            ..PlanTotals::default()
        };
        let mut tasks = Vec::with_capacity(pstree_entries.len());
        for pstree_entry in pstree_entries {
            images.cancel.check()?;
            tasks.push(read_task(&images, pstree_entry, &files, &mut totals)?);
        }
        if tasks.first().is_none_or(|task| task.live.is_none()) {
            return Err(RestoreError::malformed("pstree.img", "the first process has ended"));
        }
        let segments = pagemap::read_shmem_segments(&images, &tasks)?;
        let plan = Self {
            images,
            tasks,
            files,
            shmem_segments: segments,
        };
        files::check(&plan)?;
        Ok(plan)
    }

    /// What its documents say.
    pub(super) fn into_restorable(self) -> Restorable {
        let documents = self.images.documents;
        Restorable {
            unsupported: documents.unsupported,
            spec: documents.spec,
        }
    }

    /// The mappings of all processes.
    pub(super) fn vma_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let live_tasks = self.tasks.iter().filter_map(|task| task.live.as_ref());
        live_tasks
            .flat_map(|live| live.mm.vmas.iter())
            .map(|vma| vma.start..vma.end)
    }
}

/// What the processes read so far have, of which there is only so much.
#[derive(Default)]
struct PlanTotals {
    /// The time namespace of the one who dumped, by its number in the images.
    dumper_time_ns: Option<u32>,
    /// What is one process's own, each by its kind and number.
    kobj_ids: BTreeSet<(u8, u32)>,
    mappings: usize,
    descriptors: usize,
}

/// Whether this machine's clocks are behind those of the dump: then it was made before the machine was started anew, or elsewhere,
/// and whoever waits for a time of the monotonic clock would wait too long.
fn check_clocks(images: &CriuImages) -> Result<(), RestoreError> {
    let Some(clocks) = images
        .optional::<TimensEntry>(Kind::Timens, Some(TIMENS_IMAGE_ID), 1)?
        .pop()
    else {
        return Ok(());
    };
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return Ok(());
    };
    let dump_time = (clocks.monotonic.tv_sec, clocks.monotonic.tv_nsec);
    let now = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    match dump_time > now {
        true => Err(RestoreError::MachineMismatch(
            "its monotonic clock was ahead of this machine's, so it was made under another boot or on another machine"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Whether locks of files are unsupported, which a program relies on: that has to be wanted.
fn check_locks(
    images: &CriuImages,
    unsupported: &UnsupportedSummary,
    options: RestoreOptions,
) -> Result<(), RestoreError> {
    if options.without_file_locks {
        return Ok(());
    }
    let recorded: Vec<FileLockEntry> = images.optional(Kind::FileLocks, None, MAX_OPEN_FILES)?;
    if let Some(lock) = recorded.first() {
        let (pid, fd, count) = (lock.pid, lock.fd, recorded.len());
        return Err(RestoreError::FileLocks(format!(
            "{count} file locks, the first of process {pid}, descriptor {fd}"
        )));
    }
    match unsupported.file_locks.as_slice() {
        [] => Ok(()),
        [first] => Err(RestoreError::FileLocks(first.clone())),
        [first, more @ ..] => Err(RestoreError::FileLocks(format!("{first}, and {} more", more.len()))),
    }
}

/// The open files; no two have one number.
fn files_by_id(images: &CriuImages) -> Result<HashMap<u32, FileEntry>, RestoreError> {
    let mut files = HashMap::new();
    for entry in images.optional::<FileEntry>(Kind::Files, None, MAX_OPEN_FILES)? {
        let id = entry.id;
        if files.insert(id, entry).is_some() {
            return Err(RestoreError::malformed(
                "files.img",
                format!("file {id} is there twice"),
            ));
        }
    }
    Ok(files)
}

/// Whether the processes are a tree that can be made in this order.
fn check_pstree(pstree_entries: &[PstreeEntry]) -> Result<(), RestoreError> {
    let malformed = |problem: String| Err(RestoreError::malformed("pstree.img", problem));
    if pstree_entries.is_empty() || pstree_entries.len() > MAX_TASKS {
        return malformed(format!("{} processes", pstree_entries.len()));
    }
    let mut used_ids = BTreeSet::new();
    let mut entries_by_pid: HashMap<u32, &PstreeEntry> = HashMap::new();
    let in_session: HashSet<(u32, u32)> = pstree_entries
        .iter()
        .map(|pstree_entry| (pstree_entry.pid, pstree_entry.sid))
        .collect();
    for (index, pstree_entry) in pstree_entries.iter().enumerate() {
        let pid = pstree_entry.pid;
        if pid == 1 {
            return Err(RestoreError::Unsupported(
                "the first process of a pid namespace".to_owned(),
            ));
        }
        if pstree_entry.threads.first() != Some(&pid) {
            return malformed(format!("process {pid} is not its own first thread"));
        }
        for tid in &pstree_entry.threads {
            if *tid < 2 || *tid > i32::MAX.unsigned_abs() || !used_ids.insert(*tid) {
                return malformed(format!("number {tid} is impossible, or there twice"));
            }
        }
        let parent = entries_by_pid.get(&pstree_entry.ppid);
        if (index == 0) != (pstree_entry.ppid == 0) || (index > 0 && parent.is_none()) {
            return malformed(format!("process {pid} has no parent before it ({})", pstree_entry.ppid));
        }
        let parent_sid = parent.map_or(0, |parent| parent.sid);
        if pstree_entry.sid != pid && pstree_entry.sid != parent_sid {
            let problem = format!(
                "session {} of process {pid}, which it cannot have from its parent",
                pstree_entry.sid
            );
            return Err(RestoreError::Unsupported(problem));
        }
        if pstree_entry.pgid != pid && !in_session.contains(&(pstree_entry.pgid, pstree_entry.sid)) {
            let problem = format!(
                "process group {} of process {pid}, whose leader has ended",
                pstree_entry.pgid
            );
            return Err(RestoreError::Unsupported(problem));
        }
        if pstree_entry.sid == pid && pstree_entry.pgid != pid {
            return malformed(format!("process {pid} leads a session in a foreign process group"));
        }
        entries_by_pid.insert(pid, pstree_entry);
    }
    Ok(())
}

/// Reads one process.
fn read_task(
    images: &CriuImages,
    pstree_entry: PstreeEntry,
    files: &HashMap<u32, FileEntry>,
    totals: &mut PlanTotals,
) -> Result<Task, RestoreError> {
    let pid = pstree_entry.pid;
    let id = Some(u64::from(pid));
    let core: CoreEntry = images.single(Kind::Core, id)?;
    let name = Kind::Core.file_name(id);
    let of_process = |error: RestoreError| error.context(format_args!("process {pid}"));
    registers::check_machine(&core).map_err(of_process)?;
    let Some(task_core) = &core.tc else {
        return Err(RestoreError::malformed(name, "it is no process's first thread"));
    };
    match task_core.task_state {
        TASK_ALIVE | TASK_STOPPED => {}
        TASK_DEAD => {
            task::check_exit_status(task_core.exit_code).map_err(of_process)?;
            return Ok(Task {
                pstree_entry,
                core,
                threads: Vec::new(),
                live: None,
            });
        }
        other => {
            let problem = format!("process {pid} in state {other}");
            return Err(RestoreError::Unsupported(problem));
        }
    }
    check_thread(pid, &core)?;
    task::check_task(task_core).map_err(of_process)?;
    let mut threads: Vec<(u32, CoreEntry)> = Vec::new();
    for &tid in pstree_entry.threads.iter().skip(1) {
        let core: CoreEntry = images.single(Kind::Core, Some(tid.into()))?;
        let of_thread = |error: RestoreError| error.context(format_args!("process {pid}, thread {tid}"));
        registers::check_machine(&core).map_err(of_thread)?;
        check_thread(tid, &core)?;
        threads.push((tid, core));
    }
    if let Some((tid, _)) = threads
        .iter()
        .find(|(_, thread)| registers::same_registers(thread, &core))
    {
        // No image says that a first thread has ended: the dump lets another thread's state stand for it. Two threads would run
        // on one stack.
        let problem = format!("process {pid}, whose first thread has ended while thread {tid} went on");
        return Err(RestoreError::Unsupported(problem));
    }
    let ids: TaskKobjIdsEntry = images.single(Kind::Ids, id)?;
    for (kind, kobj_id, problem) in [
        (0, ids.vm_id, "memory"),
        (1, ids.files_id, "a table of descriptors"),
        (2, ids.fs_id, "a working directory"),
        (3, ids.sighand_id, "signal handlers"),
    ] {
        if !totals.kobj_ids.insert((kind, kobj_id)) {
            let problem = format!("process {pid}, which shares {problem} with another process");
            return Err(RestoreError::Unsupported(problem));
        }
    }
    if ids.time_ns_id.is_some() && totals.dumper_time_ns.is_some() && ids.time_ns_id != totals.dumper_time_ns {
        let problem = format!("process {pid}, which is in a time namespace of its own");
        return Err(RestoreError::Unsupported(problem));
    }
    let remaining_fds = MAX_FDS - totals.descriptors;
    let descriptors: Vec<FdinfoEntry> = images.optional(Kind::Fdinfo, Some(ids.files_id.into()), remaining_fds)?;
    totals.descriptors += descriptors.len();
    let mut used_ids = BTreeSet::new();
    for descriptor in &descriptors {
        let image = || Kind::Fdinfo.file_name(u64::from(ids.files_id));
        if descriptor.fd > MAX_FD || !used_ids.insert(descriptor.fd) {
            let problem = format!("descriptor {} is impossible, or there twice", descriptor.fd);
            return Err(RestoreError::malformed(image(), problem));
        }
        check_file_id(files, descriptor.id, &image())?;
    }
    let mut mm: MmEntry = images.single(Kind::Mm, id)?;
    // Every process has it from the kernel, at one pstree_entry.
    mm.vmas.retain(|vma| vma.status & status::VSYSCALL == 0);
    check_mm(pid, &mm, files)?;
    totals.mappings += mm.vmas.len();
    if totals.mappings > MAX_MAPPINGS {
        let problem = format!("there are more than {MAX_MAPPINGS} mappings");
        return Err(RestoreError::malformed(Kind::Mm.file_name(id), problem));
    }
    let fs: FsEntry = images.single(Kind::Fs, id)?;
    for file in [fs.cwd_id, fs.root_id] {
        check_file_id(files, file, &Kind::Fs.file_name(id))?;
    }
    if files[&fs.root_id].reg.as_ref().is_none_or(|root| root.name != "/") {
        return Err(RestoreError::Unsupported(format!(
            "process {pid} with a root of its own"
        )));
    }
    let private_ranges: Vec<Range<u64>> = mm
        .vmas
        .iter()
        .filter(|vma| vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0)
        .map(|vma| vma.start..vma.end)
        .collect();
    let pages = pagemap::read_pagemap(images, &Kind::Pagemap.file_name(id), &private_ranges)?;
    Ok(Task {
        pstree_entry,
        core,
        threads,
        live: Some(LiveTask {
            mm,
            fs,
            descriptors,
            pages,
        }),
    })
}

fn check_file_id(files: &HashMap<u32, FileEntry>, id: u32, image: &str) -> Result<(), RestoreError> {
    match files.contains_key(&id) {
        true => Ok(()),
        false => Err(RestoreError::malformed(image, format!("file {id} is not in files.img"))),
    }
}

fn check_thread(tid: u32, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(thread_core) = &core.thread_core else {
        let image = Kind::Core.file_name(u64::from(tid));
        return Err(RestoreError::malformed(image, "it has no thread"));
    };
    if thread_core.seccomp_mode.is_some_and(|mode| mode != 0) {
        return Err(RestoreError::Unsupported(format!("thread {tid} under seccomp")));
    }
    task::check_thread(thread_core)
        .and_then(|()| registers::check(core))
        .map_err(|error| error.context(format_args!("thread {tid}")))
}

/// Whether the mappings can be made.
fn check_mm(pid: u32, mm: &MmEntry, files: &HashMap<u32, FileEntry>) -> Result<(), RestoreError> {
    let image = Kind::Mm.file_name(u64::from(pid));
    let malformed = |problem: String| Err(RestoreError::malformed(&image, problem));
    let unsupported = |problem: String| Err(RestoreError::Unsupported(format!("process {pid}: {problem}")));
    check_file_id(files, mm.exe_file_id, &image)?;
    if mm.mm_saved_auxv.len() > mm::MAX_AUXV_WORDS {
        return malformed("the auxiliary vector is too long".to_owned());
    }
    if !mm.aios.is_empty() {
        return unsupported("asynchronous I/O contexts".to_owned());
    }
    let mut last = 0;
    for vma in &mm.vmas {
        let VmaEntry { start, end, .. } = *vma;
        if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 || vma.pgoff % PAGE_SIZE != 0 || start >= end {
            return malformed(format!("the mapping {start:x}-{end:x} is none"));
        }
        if start < last || end > USER_ADDRESS_END {
            return malformed(format!(
                "the mapping {start:x}-{end:x} overlaps another one, or no program has it"
            ));
        }
        last = end;
        if vma.prot > 7 {
            return unsupported(format!("protection {:x} of {start:x}-{end:x}", vma.prot));
        }
        if vma.flags & libc::MAP_HUGETLB as u32 != 0 {
            return unsupported(format!("huge pages at {start:x}-{end:x}"));
        }
        if vma.status & status::SYSVIPC != 0 {
            return unsupported(format!("a System V segment at {start:x}-{end:x}"));
        }
        let kinds = status::VDSO
            | status::VVAR
            | status::FILE_PRIVATE
            | status::FILE_SHARED
            | status::ANON_SHARED
            | status::ANON_PRIVATE;
        if vma.status & kinds == 0 {
            return unsupported(format!("a mapping of kind {:x} at {start:x}-{end:x}", vma.status));
        }
        if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 {
            let Ok(id) = u32::try_from(vma.shmid) else {
                return malformed(format!("file {} of {start:x}-{end:x} is impossible", vma.shmid));
            };
            check_file_id(files, id, &image)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn largest_pstree_is_checked_quickly() {
        // Every process leads a group, but the first, whose leader is the last.
        let last = MAX_TASKS as u32 + 1;
        let pstree_entries: Vec<_> = (2..=last)
            .map(|pid| PstreeEntry {
                pid,
                ppid: if pid == 2 { 0 } else { 2 },
                pgid: last,
                sid: 0,
                threads: vec![pid],
            })
            .collect();
        let began = Instant::now();
        check_pstree(&pstree_entries).expect("a tree");
        let mut foreign = pstree_entries;
        foreign[7].pgid = last + 1;
        let error = check_pstree(&foreign).expect_err("there is no such leader").to_string();
        assert!(error.contains("whose leader has ended"), "{error}");
        // Each with each would take minutes.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
