//! Reads all images and checks them before anything is created.
//!
//! Every id, address and size of an archive is checked before use, and so is the process tree. State that the kernel
//! would refuse is left to the kernel. State that the kernel would accept, but that a restore would not reproduce, is
//! refused here with its name.

mod pagemap;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use cri_proto::criu::{
    IMAGES_V1, IMAGES_V1_1, Kind,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, FileLockEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry,
        TaskKobjIdsEntry, TimensEntry, VmaEntry,
    },
    task_state, vma_status as status,
};
use nix::time::{ClockId, clock_gettime};

use super::{
    RestoreError, RestoreOptions,
    documents::UnsupportedSummary,
    files,
    images::CriuImages,
    plan::{LiveTask, MAX_OPEN_FILES, RestorePlan, Task},
    registers, task,
};
use crate::process::{
    NsPid,
    pagemap::{PAGE_SIZE, TASK_SIZE},
};

/// The most words of an auxiliary vector.
const MAX_AUXV_WORDS: usize = 64;
const MAX_TASKS: usize = 1 << 16;
const MAX_FD: u32 = 1 << 20;
/// The most mappings and descriptors of all processes together.
const MAX_MAPPINGS: usize = 1 << 20;
const MAX_FDS: usize = 1 << 20;
/// Prefixes of images of namespaces that fake-cri does not restore.
const UNSUPPORTED_IMAGES: &[(&str, &str)] = &[
    ("mountpoints-", "a mount namespace of its own"),
    ("utsns-", "a UTS namespace of its own"),
    ("netdev-", "a network namespace of its own"),
    ("ipcns-", "an IPC namespace of its own"),
    ("userns-", "a user namespace of its own"),
];
/// The clocks at the dump. CRIU writes this image also if the processes are in no time namespace of their own.
const TIMENS_IMAGE_ID: u64 = 0;

/// Reads the images of an archive, and checks them.
///
/// # Errors
///
/// The archive is malformed, or holds state that cannot be restored.
pub(super) fn read_plan(images: CriuImages, options: RestoreOptions) -> Result<RestorePlan, RestoreError> {
    registers::check_supported()?;
    let inventory: InventoryEntry = images.single(Kind::Inventory, None)?;
    if ![IMAGES_V1, IMAGES_V1_1].contains(&inventory.img_version) {
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
        return Err(RestoreError::malformed("pstree.img", "the first process is a zombie"));
    }
    let segments = pagemap::read_shmem_segments(&images, &tasks)?;
    let plan = RestorePlan {
        images,
        tasks,
        files,
        shmem_segments: segments,
    };
    files::check(&plan)?;
    Ok(plan)
}

/// Totals and ids of the processes read so far.
#[derive(Default)]
struct PlanTotals {
    /// The time namespace of the dumper, by its id in the images.
    dumper_time_ns: Option<u32>,
    /// Ids of kernel objects that processes must not share, with their kind.
    kobj_ids: BTreeSet<(u8, u32)>,
    mappings: usize,
    descriptors: usize,
}

/// Checks that the monotonic clock of the archive is not ahead of this machine's. If it is, the archive was made before
/// a reboot or on another machine, and a program that waits for a monotonic time would wait too long.
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
            "the archive's monotonic clock is ahead: it was made during another boot or on another machine".to_owned(),
        )),
        false => Ok(()),
    }
}

/// Fails if the container held file locks, unless the caller accepts their loss.
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
            "{count} file locks, the first held by process {pid}, descriptor {fd}"
        )));
    }
    match unsupported.file_locks.as_slice() {
        [] => Ok(()),
        [first] => Err(RestoreError::FileLocks(first.clone())),
        [first, more @ ..] => Err(RestoreError::FileLocks(format!("{first}, and {} more", more.len()))),
    }
}

fn files_by_id(images: &CriuImages) -> Result<HashMap<u32, FileEntry>, RestoreError> {
    let mut files = HashMap::new();
    for entry in images.optional::<FileEntry>(Kind::Files, None, MAX_OPEN_FILES)? {
        let id = entry.id;
        if files.insert(id, entry).is_some() {
            return Err(RestoreError::malformed("files.img", format!("duplicate file id {id}")));
        }
    }
    Ok(files)
}

/// Checks that the processes form a tree whose parents precede their children.
fn check_pstree(pstree_entries: &[PstreeEntry]) -> Result<(), RestoreError> {
    let malformed = |problem: String| Err(RestoreError::malformed("pstree.img", problem));
    if pstree_entries.is_empty() || pstree_entries.len() > MAX_TASKS {
        return malformed(format!("{} processes, expected 1 to {MAX_TASKS}", pstree_entries.len()));
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
            return malformed(format!("the first thread of process {pid} has another tid"));
        }
        for tid in &pstree_entry.threads {
            if *tid < 2 || *tid > i32::MAX.unsigned_abs() || !used_ids.insert(*tid) {
                return malformed(format!("invalid or duplicate tid {tid}"));
            }
        }
        let parent = entries_by_pid.get(&pstree_entry.ppid);
        if (index == 0) != (pstree_entry.ppid == 0) || (index > 0 && parent.is_none()) {
            return malformed(format!(
                "process {pid} does not follow its parent ({})",
                pstree_entry.ppid
            ));
        }
        let parent_sid = parent.map_or(0, |parent| parent.sid);
        if pstree_entry.sid != pid && pstree_entry.sid != parent_sid {
            let problem = format!(
                "session {} of process {pid}, which the process cannot inherit from its parent",
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
            return malformed(format!("process {pid} leads a session but is in another process group"));
        }
        entries_by_pid.insert(pid, pstree_entry);
    }
    Ok(())
}

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
        return Err(RestoreError::malformed(
            name,
            "no task core (tc): not the image of a thread-group leader",
        ));
    };
    match task_core.task_state {
        task_state::ALIVE | task_state::STOPPED => {}
        task_state::DEAD => {
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
    let mut threads: Vec<(NsPid, CoreEntry)> = Vec::new();
    for &tid in pstree_entry.threads.iter().skip(1) {
        let core: CoreEntry = images.single(Kind::Core, Some(tid.into()))?;
        let of_thread = |error: RestoreError| error.context(format_args!("process {pid}, thread {tid}"));
        registers::check_machine(&core).map_err(of_thread)?;
        check_thread(tid, &core)?;
        threads.push((NsPid::from_raw(tid), core));
    }
    if let Some((tid, _)) = threads
        .iter()
        .find(|(_, thread)| registers::same_registers(thread, &core))
    {
        // No image records that the thread-group leader has exited: the dump then writes the state of another thread in
        // its place. After a restore two threads would run on one stack.
        let problem = format!("process {pid}, whose first thread has ended while thread {tid} still runs");
        return Err(RestoreError::Unsupported(problem));
    }
    let ids: TaskKobjIdsEntry = images.single(Kind::Ids, id)?;
    for (kind, kobj_id, problem) in [
        (0, ids.vm_id, "its memory"),
        (1, ids.files_id, "its fd table"),
        (2, ids.fs_id, "its working directory (CLONE_FS)"),
        (3, ids.sighand_id, "its signal handlers"),
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
            let problem = format!("invalid or duplicate fd {}", descriptor.fd);
            return Err(RestoreError::malformed(image(), problem));
        }
        check_file_id(files, descriptor.id, &image())?;
    }
    let mut mm: MmEntry = images.single(Kind::Mm, id)?;
    // The kernel maps [vsyscall] into every process, at a fixed address.
    mm.vmas.retain(|vma| vma.status & status::VSYSCALL == 0);
    check_mm(pid, &mm, files)?;
    totals.mappings += mm.vmas.len();
    if totals.mappings > MAX_MAPPINGS {
        let problem = format!("the processes have more than {MAX_MAPPINGS} mappings");
        return Err(RestoreError::malformed(Kind::Mm.file_name(id), problem));
    }
    let fs: FsEntry = images.single(Kind::Fs, id)?;
    for file in [fs.cwd_id, fs.root_id] {
        check_file_id(files, file, &Kind::Fs.file_name(id))?;
    }
    if files[&fs.root_id].reg.as_ref().is_none_or(|root| root.name != "/") {
        return Err(RestoreError::Unsupported(format!(
            "process {pid}, which has a root directory of its own"
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
        return Err(RestoreError::malformed(image, "thread_core is missing"));
    };
    if thread_core.seccomp_mode.is_some_and(|mode| mode != 0) {
        return Err(RestoreError::Unsupported(format!(
            "thread {tid}, which is under seccomp"
        )));
    }
    task::check_thread(thread_core)
        .and_then(|()| registers::check(core))
        .map_err(|error| error.context(format_args!("thread {tid}")))
}

/// Checks that the mappings can be restored.
fn check_mm(pid: u32, mm: &MmEntry, files: &HashMap<u32, FileEntry>) -> Result<(), RestoreError> {
    let image = Kind::Mm.file_name(u64::from(pid));
    let malformed = |problem: String| Err(RestoreError::malformed(&image, problem));
    let unsupported = |problem: String| Err(RestoreError::Unsupported(format!("process {pid}: {problem}")));
    check_file_id(files, mm.exe_file_id, &image)?;
    if mm.mm_saved_auxv.len() > MAX_AUXV_WORDS {
        return malformed("the auxiliary vector is too long".to_owned());
    }
    if !mm.aios.is_empty() {
        return unsupported("asynchronous I/O contexts".to_owned());
    }
    let mut last = 0;
    for vma in &mm.vmas {
        let VmaEntry { start, end, .. } = *vma;
        if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 || vma.pgoff % PAGE_SIZE != 0 || start >= end {
            return malformed(format!("invalid mapping {start:x}-{end:x}"));
        }
        if start < last || end > TASK_SIZE {
            return malformed(format!(
                "mapping {start:x}-{end:x} overlaps or precedes another one, or is not in user space"
            ));
        }
        last = end;
        if vma.prot > 7 {
            return unsupported(format!("protection {:x} at {start:x}-{end:x}", vma.prot));
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
                return malformed(format!("invalid file id {} of mapping {start:x}-{end:x}", vma.shmid));
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
        // Every process leads a process group except the first, which is in the group of the last.
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
        check_pstree(&pstree_entries).expect("a valid tree");
        let mut foreign = pstree_entries;
        foreign[7].pgid = last + 1;
        let error = check_pstree(&foreign).expect_err("the group has no leader").to_string();
        assert!(error.contains("whose leader has ended"), "{error}");
        // A comparison of every pair would take minutes.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
