//! What the images say is to be made, and whether it can be: nothing is made before all of this holds.
//!
//! Every number of an archive is checked before it is used: addresses, sizes, ids, the tree. What the kernel itself refuses is
//! left to it; what it would take and we would not make faithfully is refused here, with its name.

mod pages;

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

pub(super) use self::pages::{PagePlan, Segment};
use super::{Options, Restorable, RestoreError, documents::Lost, files, images::Images, registers, space, task};
use crate::{checkpoint::capture::vma_status as status, process::pagemap::PAGE_SIZE};

/// `CRTOOLS_IMAGES_V1` and `V1_1`.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// `TASK_DEAD` and what else a task may be (criu/include/pid.h).
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
const TASK_STOPPED: u32 = 3;
/// The highest address of a program.
const TASK_END: u64 = 1 << 47;
/// More than a kernel gives numbers for.
const MOST_TASKS: usize = 1 << 16;
/// More descriptors than a process has here.
const MOST_DESCRIPTOR: u32 = 1 << 20;
/// More open files than any container has: what they take in memory is a multiple of what they take in an image.
pub(super) const MOST_FILES: usize = 1 << 18;
/// More mappings, and more descriptors, than all processes of a container have together.
const MOST_MAPPINGS: usize = 1 << 20;
const MOST_DESCRIPTORS: usize = 1 << 20;
/// Images of namespaces that fake-cri does not make, each with what it stands for.
const FOREIGN: &[(&str, &str)] = &[
    ("mountpoints-", "a mount namespace of its own"),
    ("utsns-", "a host name of its own"),
    ("netdev-", "a network namespace of its own"),
    ("ipcns-", "an IPC namespace of its own"),
    ("userns-", "a user namespace of its own"),
];
/// CRIU's image of the clocks at the dump, written whichever time namespace the processes are in.
const CLOCKS_ID: u64 = 0;

/// A process to be made.
#[derive(Debug)]
pub(super) struct Task {
    /// Its place in the tree.
    pub(super) place: PstreeEntry,
    /// Its first thread, with what it has as a whole.
    pub(super) core: CoreEntry,
    /// Its other threads by their numbers.
    pub(super) threads: Vec<(u32, CoreEntry)>,
    /// What it has unless it is a zombie.
    pub(super) body: Option<Body>,
}

impl Task {
    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.place.pid.cast_signed()
    }

    /// Whether job control has it stopped.
    pub(super) fn stopped(&self) -> bool {
        self.core
            .tc
            .as_ref()
            .is_some_and(|task| task.task_state == TASK_STOPPED)
    }
}

/// What a living process has.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) mm: MmEntry,
    pub(super) fs: FsEntry,
    pub(super) descriptors: Vec<FdinfoEntry>,
    pub(super) pages: PagePlan,
}

/// All that is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) images: Images,
    /// Parents before their children.
    pub(super) tasks: Vec<Task>,
    pub(super) files: HashMap<u32, FileEntry>,
    pub(super) segments: BTreeMap<u64, Segment>,
}

impl Plan {
    /// Reads and checks it all.
    ///
    /// # Errors
    ///
    /// What is wrong, or what cannot be restored.
    pub(super) fn read(images: Images, options: Options) -> Result<Self, RestoreError> {
        registers::supported()?;
        let inventory: InventoryEntry = images.single(Kind::Inventory, None)?;
        if !VERSIONS.contains(&inventory.img_version) {
            let what = format!("version {} is unknown", inventory.img_version);
            return Err(RestoreError::malformed("inventory.img", what));
        }
        for (prefix, what) in FOREIGN {
            if images.names().any(|name| name.starts_with(prefix)) {
                return Err(RestoreError::Unsupported((*what).to_owned()));
            }
        }
        check_clocks(&images)?;
        check_locks(&images, &images.documents.lost, options)?;
        let files = files_by_number(&images)?;
        let places: Vec<PstreeEntry> = images.entries(Kind::Pstree, None, MOST_TASKS)?;
        check_tree(&places)?;
        let mut seen = Seen {
            time_namespace: inventory.root_ids.as_ref().and_then(|ids| ids.time_ns_id),
            ..Seen::default()
        };
        let mut tasks = Vec::with_capacity(places.len());
        for place in places {
            images.caller.check()?;
            tasks.push(read_task(&images, place, &files, &mut seen)?);
        }
        if tasks.first().is_none_or(|task| task.body.is_none()) {
            return Err(RestoreError::malformed("pstree.img", "the first process has ended"));
        }
        let segments = pages::segments(&images, &tasks)?;
        let plan = Self {
            images,
            tasks,
            files,
            segments,
        };
        files::check(&plan)?;
        Ok(plan)
    }

    /// What its documents say.
    pub(super) fn into_restorable(self) -> Restorable {
        let documents = self.images.documents;
        Restorable {
            lost: documents.lost,
            spec: documents.spec,
        }
    }

    /// The mappings of all processes.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let bodies = self.tasks.iter().filter_map(|task| task.body.as_ref());
        bodies
            .flat_map(|body| body.mm.vmas.iter())
            .map(|vma| vma.start..vma.end)
    }
}

/// What the processes read so far have, of which there is only so much.
#[derive(Default)]
struct Seen {
    /// The time namespace of the one who dumped, by its number in the images.
    time_namespace: Option<u32>,
    /// What is one process's own, each by its kind and number.
    tables: BTreeSet<(u8, u32)>,
    mappings: usize,
    descriptors: usize,
}

/// Whether this machine's clocks are behind those of the dump: then it was made before the machine was started anew, or elsewhere,
/// and whoever waits for a time of the monotonic clock would wait too long.
fn check_clocks(images: &Images) -> Result<(), RestoreError> {
    let Some(clocks) = images.optional::<TimensEntry>(Kind::Timens, Some(CLOCKS_ID), 1)?.pop() else {
        return Ok(());
    };
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return Ok(());
    };
    let then = (clocks.monotonic.tv_sec, clocks.monotonic.tv_nsec);
    let now = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    match then > now {
        true => Err(RestoreError::Machine(
            "its monotonic clock was ahead of this machine's, so it was made under another boot or on another machine"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Whether locks of files are lost, which a program relies on: that has to be wanted.
fn check_locks(images: &Images, lost: &Lost, options: Options) -> Result<(), RestoreError> {
    if options.without_file_locks {
        return Ok(());
    }
    let recorded: Vec<FileLockEntry> = images.optional(Kind::FileLocks, None, MOST_FILES)?;
    if let Some(lock) = recorded.first() {
        let (pid, fd, count) = (lock.pid, lock.fd, recorded.len());
        return Err(RestoreError::Locks(format!(
            "{count} file locks, the first of process {pid}, descriptor {fd}"
        )));
    }
    match lost.locks.as_slice() {
        [] => Ok(()),
        [first] => Err(RestoreError::Locks(first.clone())),
        [first, more @ ..] => Err(RestoreError::Locks(format!("{first}, and {} more", more.len()))),
    }
}

/// The open files; no two have one number.
fn files_by_number(images: &Images) -> Result<HashMap<u32, FileEntry>, RestoreError> {
    let mut files = HashMap::new();
    for entry in images.optional::<FileEntry>(Kind::Files, None, MOST_FILES)? {
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
fn check_tree(places: &[PstreeEntry]) -> Result<(), RestoreError> {
    let wrong = |what: String| Err(RestoreError::malformed("pstree.img", what));
    if places.is_empty() || places.len() > MOST_TASKS {
        return wrong(format!("{} processes", places.len()));
    }
    let mut numbers = BTreeSet::new();
    let mut known: HashMap<u32, &PstreeEntry> = HashMap::new();
    let in_session: HashSet<(u32, u32)> = places.iter().map(|place| (place.pid, place.sid)).collect();
    for (index, place) in places.iter().enumerate() {
        let pid = place.pid;
        if pid == 1 {
            return Err(RestoreError::Unsupported(
                "the first process of a pid namespace".to_owned(),
            ));
        }
        if place.threads.first() != Some(&pid) {
            return wrong(format!("process {pid} is not its own first thread"));
        }
        for number in &place.threads {
            if *number < 2 || *number > i32::MAX.unsigned_abs() || !numbers.insert(*number) {
                return wrong(format!("number {number} is impossible, or there twice"));
            }
        }
        let parent = known.get(&place.ppid);
        if (index == 0) != (place.ppid == 0) || (index > 0 && parent.is_none()) {
            return wrong(format!("process {pid} has no parent before it ({})", place.ppid));
        }
        let inherited = parent.map_or(0, |parent| parent.sid);
        if place.sid != pid && place.sid != inherited {
            let what = format!(
                "session {} of process {pid}, which it cannot have from its parent",
                place.sid
            );
            return Err(RestoreError::Unsupported(what));
        }
        if place.pgid != pid && !in_session.contains(&(place.pgid, place.sid)) {
            let what = format!("process group {} of process {pid}, whose leader has ended", place.pgid);
            return Err(RestoreError::Unsupported(what));
        }
        if place.sid == pid && place.pgid != pid {
            return wrong(format!("process {pid} leads a session in a foreign process group"));
        }
        known.insert(pid, place);
    }
    Ok(())
}

/// Reads one process.
fn read_task(
    images: &Images,
    place: PstreeEntry,
    files: &HashMap<u32, FileEntry>,
    seen: &mut Seen,
) -> Result<Task, RestoreError> {
    let pid = place.pid;
    let id = Some(u64::from(pid));
    let core: CoreEntry = images.single(Kind::Core, id)?;
    let name = Kind::Core.file_name(id);
    let of_process = |error: RestoreError| error.of(format_args!("process {pid}"));
    registers::check_machine(&core).map_err(of_process)?;
    let Some(own) = &core.tc else {
        return Err(RestoreError::malformed(name, "it is no process's first thread"));
    };
    match own.task_state {
        TASK_ALIVE | TASK_STOPPED => {}
        TASK_DEAD => {
            task::check_end(own.exit_code).map_err(of_process)?;
            return Ok(Task {
                place,
                core,
                threads: Vec::new(),
                body: None,
            });
        }
        other => {
            let what = format!("process {pid} in state {other}");
            return Err(RestoreError::Unsupported(what));
        }
    }
    check_thread(pid, &core)?;
    task::check(own).map_err(of_process)?;
    let mut threads: Vec<(u32, CoreEntry)> = Vec::new();
    for &tid in place.threads.iter().skip(1) {
        let core: CoreEntry = images.single(Kind::Core, Some(tid.into()))?;
        let of_thread = |error: RestoreError| error.of(format_args!("process {pid}, thread {tid}"));
        registers::check_machine(&core).map_err(of_thread)?;
        check_thread(tid, &core)?;
        threads.push((tid, core));
    }
    if let Some((tid, _)) = threads
        .iter()
        .find(|(_, thread)| registers::are_those_of(thread, &core))
    {
        // No image says that a first thread has ended: the dump lets another thread's state stand for it. Two threads would run
        // on one stack.
        let what = format!("process {pid}, whose first thread has ended while thread {tid} went on");
        return Err(RestoreError::Unsupported(what));
    }
    let ids: TaskKobjIdsEntry = images.single(Kind::Ids, id)?;
    for (kind, number, what) in [
        (0, ids.vm_id, "memory"),
        (1, ids.files_id, "a table of descriptors"),
        (2, ids.fs_id, "a working directory"),
        (3, ids.sighand_id, "signal handlers"),
    ] {
        if !seen.tables.insert((kind, number)) {
            let what = format!("process {pid}, which shares {what} with another process");
            return Err(RestoreError::Unsupported(what));
        }
    }
    if ids.time_ns_id.is_some() && seen.time_namespace.is_some() && ids.time_ns_id != seen.time_namespace {
        let what = format!("process {pid}, which is in a time namespace of its own");
        return Err(RestoreError::Unsupported(what));
    }
    let room = MOST_DESCRIPTORS - seen.descriptors;
    let descriptors: Vec<FdinfoEntry> = images.optional(Kind::Fdinfo, Some(ids.files_id.into()), room)?;
    seen.descriptors += descriptors.len();
    let mut numbers = BTreeSet::new();
    for descriptor in &descriptors {
        let image = || Kind::Fdinfo.file_name(u64::from(ids.files_id));
        if descriptor.fd > MOST_DESCRIPTOR || !numbers.insert(descriptor.fd) {
            let what = format!("descriptor {} is impossible, or there twice", descriptor.fd);
            return Err(RestoreError::malformed(image(), what));
        }
        known_file(files, descriptor.id, &image())?;
    }
    let mut mm: MmEntry = images.single(Kind::Mm, id)?;
    // Every process has it from the kernel, at one place.
    mm.vmas.retain(|vma| vma.status & status::VSYSCALL == 0);
    check_space(pid, &mm, files)?;
    seen.mappings += mm.vmas.len();
    if seen.mappings > MOST_MAPPINGS {
        let what = format!("there are more than {MOST_MAPPINGS} mappings");
        return Err(RestoreError::malformed(Kind::Mm.file_name(id), what));
    }
    let fs: FsEntry = images.single(Kind::Fs, id)?;
    for file in [fs.cwd_id, fs.root_id] {
        known_file(files, file, &Kind::Fs.file_name(id))?;
    }
    if files[&fs.root_id].reg.as_ref().is_none_or(|root| root.name != "/") {
        return Err(RestoreError::Unsupported(format!(
            "process {pid} with a root of its own"
        )));
    }
    let carried: Vec<Range<u64>> = mm
        .vmas
        .iter()
        .filter(|vma| vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0)
        .map(|vma| vma.start..vma.end)
        .collect();
    let pages = pages::plan(images, &Kind::Pagemap.file_name(id), &carried)?;
    Ok(Task {
        place,
        core,
        threads,
        body: Some(Body {
            mm,
            fs,
            descriptors,
            pages,
        }),
    })
}

fn known_file(files: &HashMap<u32, FileEntry>, id: u32, image: &str) -> Result<(), RestoreError> {
    match files.contains_key(&id) {
        true => Ok(()),
        false => Err(RestoreError::malformed(image, format!("file {id} is not in files.img"))),
    }
}

fn check_thread(tid: u32, core: &CoreEntry) -> Result<(), RestoreError> {
    let Some(own) = &core.thread_core else {
        let image = Kind::Core.file_name(u64::from(tid));
        return Err(RestoreError::malformed(image, "it has no thread"));
    };
    if own.seccomp_mode.is_some_and(|mode| mode != 0) {
        return Err(RestoreError::Unsupported(format!("thread {tid} under seccomp")));
    }
    task::check_thread(own)
        .and_then(|()| registers::check(core))
        .map_err(|error| error.of(format_args!("thread {tid}")))
}

/// Whether the mappings can be made.
fn check_space(pid: u32, mm: &MmEntry, files: &HashMap<u32, FileEntry>) -> Result<(), RestoreError> {
    let image = Kind::Mm.file_name(u64::from(pid));
    let wrong = |what: String| Err(RestoreError::malformed(&image, what));
    let unsupported = |what: String| Err(RestoreError::Unsupported(format!("process {pid}: {what}")));
    known_file(files, mm.exe_file_id, &image)?;
    if mm.mm_saved_auxv.len() > space::MOST_AUXILIARY {
        return wrong("the auxiliary vector is too long".to_owned());
    }
    if !mm.aios.is_empty() {
        return unsupported("asynchronous I/O contexts".to_owned());
    }
    let mut last = 0;
    for vma in &mm.vmas {
        let VmaEntry { start, end, .. } = *vma;
        if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 || vma.pgoff % PAGE_SIZE != 0 || start >= end {
            return wrong(format!("the mapping {start:x}-{end:x} is none"));
        }
        if start < last || end > TASK_END {
            return wrong(format!(
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
                return wrong(format!("file {} of {start:x}-{end:x} is impossible", vma.shmid));
            };
            known_file(files, id, &image)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_tree_of_all_numbers_is_checked_at_once() {
        // Every process leads a group, but the first, whose leader is the last.
        let last = MOST_TASKS as u32 + 1;
        let places: Vec<_> = (2..=last)
            .map(|pid| PstreeEntry {
                pid,
                ppid: if pid == 2 { 0 } else { 2 },
                pgid: last,
                sid: 0,
                threads: vec![pid],
            })
            .collect();
        let began = Instant::now();
        check_tree(&places).expect("a tree");
        let mut foreign = places;
        foreign[7].pgid = last + 1;
        let error = check_tree(&foreign).expect_err("there is no such leader").to_string();
        assert!(error.contains("whose leader has ended"), "{error}");
        // Each with each would take minutes.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
