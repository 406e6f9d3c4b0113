//! The open files of the container, made here and inherited by its processes.
//!
//! ```text
//!   files.img entry --> one open file description of this process, numbered above all that any process wants
//!        |  first process is a copy of this one, so it and its descendants have them all
//!        v
//!   fdinfo entry   --> dup3 to its number; whatever is left above is closed
//! ```
//!
//! What is trusted of a path of the archive is said in [`paths`].
//!
//! What the first process has as descriptors 0 to 2 is replaced by the new container's streams where it was a pipe that leads out
//! of the container.

mod anonymous;
mod paths;
mod pipes;

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    fmt,
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use cri_proto::criu::{
    Kind,
    message::{FdTypes, FileEntry, GhostFileEntry, RemapFilePathEntry, RemapType},
};

pub(super) use self::paths::{kernel_file_system, reopen};
use self::{paths::Expected, pipes::Pipes};
use super::{
    RestoreError,
    plan::{Body, MOST_FILES, Plan, Segment},
    puppet::Puppet,
};
use crate::{
    checkpoint::capture::vma_status as status,
    process::{kernel, namespace, pagemap::PAGE_SIZE},
};

/// The flags of open(2) that a restored file has.
const FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | libc::O_LARGEFILE
    | libc::O_DIRECTORY
    | libc::O_NOATIME
    | libc::O_PATH;
/// `FD_CLOEXEC` in `fdinfo_entry.flags`.
const CLOSE_ON_EXEC: u32 = 1;
/// What is copied at once.
const CHUNK: usize = 1 << 20;

/// The open files, each by its entry, and the segments.
#[derive(Debug)]
pub(super) struct Sources {
    /// The first number that is ours.
    base: i32,
    files: HashMap<u32, OwnedFd>,
    /// Those that the first process makes, and the numbers that are free for them.
    made: BTreeMap<u32, u64>,
    segments: HashMap<u64, OwnedFd>,
    mounts: OwnedFd,
}

impl Sources {
    /// Opens all that the plan wants. `streams` are the new container's, `ghosts` is a folder for deleted files' content, `mounts`
    /// the namespace of mounts that the processes enter.
    pub(super) fn open(
        plan: &Plan,
        streams: [BorrowedFd<'_>; 3],
        ghosts: &Path,
        mounts: &File,
    ) -> Result<Self, RestoreError> {
        let bodies = || plan.tasks.iter().filter_map(|task| task.body.as_ref());
        let highest = bodies()
            .flat_map(|body| &body.descriptors)
            .map(|entry| entry.fd + 1)
            .max();
        let highest = i32::try_from(highest.unwrap_or(0)).unwrap_or(i32::MAX);
        let placed = |error| RestoreError::step("find room for descriptors", error);
        let base = namespace::room_above(highest).map_err(placed)?;
        let above = |descriptor: OwnedFd| namespace::moved_above(descriptor, base).map_err(placed);
        let mut sources = Self {
            base,
            files: HashMap::new(),
            made: BTreeMap::new(),
            segments: HashMap::new(),
            mounts: above(mounts.try_clone().map_err(placed)?.into())?,
        };
        let ghosts = Ghosts::read(plan, ghosts)?;
        let mut pipes = Pipes::new(plan, streams)?;
        for (id, place) in uses(plan) {
            let entry = &plan.files[&id];
            let opened = match entry.r#type() {
                FdTypes::Reg => open_path(entry, &ghosts),
                FdTypes::Pipe | FdTypes::Fifo => pipes.open(entry, &plan.files),
                _ => {
                    sources.made.insert(id, 0);
                    continue;
                }
            };
            let file = opened.map_err(|error| error.of(place))?;
            sources.files.insert(id, above(file)?);
        }
        for (id, segment) in &plan.segments {
            sources.segments.insert(*id, above(make_segment(plan, segment)?)?);
        }
        let free = namespace::room_above(base).map_err(placed)?;
        for (number, kept) in (u64::from(free.unsigned_abs())..).zip(sources.made.values_mut()) {
            *kept = number;
        }
        Ok(sources)
    }

    /// Makes what the first process has to make, before it has children.
    pub(super) fn make(&self, puppet: &mut Puppet, plan: &Plan) -> Result<(), RestoreError> {
        for (id, number) in &self.made {
            anonymous::make(puppet, &plan.files[id], *number)?;
        }
        Ok(())
    }

    /// Gives a process its descriptors. Of those above it keeps what it has until [`Sources::close`].
    pub(super) fn place(&self, puppet: &mut Puppet, body: &Body) -> Result<(), RestoreError> {
        for descriptor in &body.descriptors {
            let flags = if descriptor.flags & CLOSE_ON_EXEC != 0 {
                libc::O_CLOEXEC as u64
            } else {
                0
            };
            let arguments = [self.number(descriptor.id), descriptor.fd.into(), flags, 0, 0, 0];
            puppet.call("place a descriptor", libc::SYS_dup3, arguments)?;
        }
        Ok(())
    }

    /// Takes from a process what it has above its own numbers.
    pub(super) fn close(&self, puppet: &mut Puppet) -> Result<(), RestoreError> {
        let arguments = [self.base(), u64::from(u32::MAX), 0, 0, 0, 0];
        puppet
            .call("close descriptors", libc::SYS_close_range, arguments)
            .map(drop)
    }

    /// Tells each epoll descriptor what it watches, by the first process that has it.
    pub(super) fn watch<'a>(
        plan: &Plan,
        processes: impl Iterator<Item = (&'a mut Puppet, &'a Body)>,
    ) -> Result<(), RestoreError> {
        let mut told = HashSet::new();
        for (puppet, body) in processes {
            for descriptor in &body.descriptors {
                let entry = &plan.files[&descriptor.id];
                if entry.r#type() == FdTypes::Eventpoll && told.insert(entry.id) {
                    anonymous::watch(puppet, entry, descriptor.fd.into())?;
                }
            }
        }
        Ok(())
    }

    /// The first of our numbers.
    pub(super) fn base(&self) -> u64 {
        self.base.unsigned_abs().into()
    }

    /// The number of an open file; the plan has checked that it is there.
    pub(super) fn number(&self, id: u32) -> u64 {
        let opened = self.files.get(&id).map(|file| file.as_raw_fd().unsigned_abs().into());
        opened.or_else(|| self.made.get(&id).copied()).unwrap_or(u64::MAX)
    }

    /// The number of a segment.
    pub(super) fn segment(&self, id: u64) -> u64 {
        self.segments
            .get(&id)
            .map_or(u64::MAX, |file| file.as_raw_fd().unsigned_abs().into())
    }

    /// The number of the namespace of mounts.
    pub(super) fn mounts(&self) -> u64 {
        self.mounts.as_raw_fd().unsigned_abs().into()
    }
}

/// Whether all open files are of kinds that can be opened or made, as far as the images tell.
pub(super) fn check(plan: &Plan) -> Result<(), RestoreError> {
    check_ghosts(plan)?;
    pipes::check(plan)?;
    for (id, place) in uses(plan) {
        check_file(&plan.files[&id], &plan.files).map_err(|error| error.of(place))?;
    }
    check_watches(plan)
}

/// Whether what epoll descriptors watch can be added by the first process that has each, which is the one that does it.
fn check_watches(plan: &Plan) -> Result<(), RestoreError> {
    let mut told = HashSet::new();
    for body in plan.tasks.iter().filter_map(|task| task.body.as_ref()) {
        let mut numbers = None;
        for descriptor in &body.descriptors {
            let entry = &plan.files[&descriptor.id];
            if entry.r#type() == FdTypes::Eventpoll && told.insert(entry.id) {
                let numbers = numbers.get_or_insert_with(|| {
                    let pairs = body.descriptors.iter().map(|descriptor| (descriptor.fd, descriptor.id));
                    pairs.collect()
                });
                anonymous::check_watches(entry, numbers, &plan.files)?;
            }
        }
    }
    Ok(())
}

fn check_file(entry: &FileEntry, files: &HashMap<u32, FileEntry>) -> Result<(), RestoreError> {
    let id = entry.id;
    let empty = || RestoreError::malformed("files.img", format!("file {id} is empty"));
    match entry.r#type() {
        FdTypes::Reg => paths::check(entry.reg.as_ref().ok_or_else(empty)?)?,
        FdTypes::Pipe => pipes::check_pipe(entry.pipe.as_ref().ok_or_else(empty)?)?,
        FdTypes::Fifo => {
            let fifo = entry.fifo.as_ref().ok_or_else(empty)?;
            let path = fifo.regf_id.and_then(|id| files.get(&id)?.reg.as_ref());
            paths::check(path.ok_or_else(|| RestoreError::malformed("files.img", format!("file {id} is no pipe")))?)?;
        }
        _ => anonymous::check(entry)?,
    }
    match is_owned(entry) {
        true => Err(RestoreError::Unsupported(
            "a file whose owner is told of it (F_SETOWN)".to_owned(),
        )),
        false => Ok(()),
    }
}

/// What a process uses an open file as.
#[derive(Clone, Debug)]
enum Use {
    Descriptor(u32),
    Mapping(Range<u64>),
    Executable,
    WorkingDirectory,
}

/// Where a file is used: by which process and as what.
#[derive(Clone, Debug)]
struct Place {
    pid: i32,
    role: Use,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, ", self.pid)?;
        match &self.role {
            Use::Descriptor(number) => write!(f, "descriptor {number}"),
            Use::Mapping(Range { start, end }) => write!(f, "mapping {start:x}-{end:x}"),
            Use::Executable => write!(f, "executable"),
            Use::WorkingDirectory => write!(f, "working directory"),
        }
    }
}

/// The files that the processes use, in the order of their numbers, each with the first place where it is used.
fn uses(plan: &Plan) -> BTreeMap<u32, Place> {
    let mut uses = BTreeMap::new();
    for task in &plan.tasks {
        let Some(body) = &task.body else { continue };
        for (id, role) in wanted(body) {
            let pid = task.pid();
            uses.entry(id).or_insert_with(|| Place { pid, role });
        }
    }
    uses
}

/// Whether somebody is sent a signal when the file becomes ready.
fn is_owned(entry: &FileEntry) -> bool {
    let owners = [
        entry.reg.as_ref().map(|file| &file.fown),
        entry.pipe.as_ref().map(|file| &file.fown),
        entry.efd.as_ref().map(|file| &file.fown),
        entry.epfd.as_ref().map(|file| &file.fown),
        entry.sgfd.as_ref().map(|file| &file.fown),
        entry.tfd.as_ref().map(|file| &file.fown),
    ];
    owners
        .into_iter()
        .flatten()
        .any(|owner| owner.pid != 0 || owner.signum != 0)
}

/// The entries that a process has open, maps, executes, or is in.
fn wanted(body: &Body) -> impl Iterator<Item = (u32, Use)> {
    let open = body
        .descriptors
        .iter()
        .map(|descriptor| (descriptor.id, Use::Descriptor(descriptor.fd)));
    let mapped = body
        .mm
        .vmas
        .iter()
        .filter(|vma| vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0)
        .map(|vma| (vma.shmid as u32, Use::Mapping(vma.start..vma.end)));
    open.chain(mapped).chain([
        (body.mm.exe_file_id, Use::Executable),
        (body.fs.cwd_id, Use::WorkingDirectory),
    ])
}

/// Opens a file by its path, or the content of a deleted one.
fn open_path(entry: &FileEntry, ghosts: &Ghosts) -> Result<OwnedFd, RestoreError> {
    let file = entry
        .reg
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("files.img", format!("file {} has no path", entry.id)))?;
    let flags = file.flags.cast_signed() & FLAGS;
    let failed = |error: io::Error| RestoreError::step(format!("open {}", file.name), error);
    let known = match ghosts.of(entry.id) {
        Some(ghost) => ghost.try_clone().map_err(failed)?,
        None => paths::find(file, Expected::Path)?,
    };
    let mut opened = paths::reopen(known.as_fd(), flags).map_err(failed)?;
    if flags & libc::O_PATH == 0 && known.metadata().map_err(failed)?.is_file() {
        opened.seek(SeekFrom::Start(file.pos)).map_err(failed)?;
    }
    Ok(opened.into())
}

/// Files without a name, by the entries that stand for them.
struct Ghosts(HashMap<u32, File>);

impl Ghosts {
    /// Makes them anew in a folder, where they have no name either.
    fn read(plan: &Plan, folder: &Path) -> Result<Self, RestoreError> {
        let remaps: Vec<RemapFilePathEntry> = plan.images.optional(Kind::RemapFpath, None, MOST_FILES)?;
        let mut by_number: HashMap<u32, File> = HashMap::new();
        let mut by_entry = HashMap::new();
        for remap in remaps {
            let number = remap.remap_id;
            let file = match by_number.entry(number) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(ghost(plan, number, folder)?),
            };
            let file = file
                .try_clone()
                .map_err(|error| RestoreError::step("hold a deleted file", error))?;
            by_entry.insert(remap.orig_id, file);
        }
        Ok(Self(by_entry))
    }

    fn of(&self, entry: u32) -> Option<&File> {
        self.0.get(&entry)
    }
}

/// Whether the deleted files can be made.
fn check_ghosts(plan: &Plan) -> Result<(), RestoreError> {
    let remaps: Vec<RemapFilePathEntry> = plan.images.optional(Kind::RemapFpath, None, MOST_FILES)?;
    let mut seen = HashSet::new();
    for remap in remaps {
        plan.images.caller.check()?;
        if remap.remap_type() != RemapType::Ghost {
            let what = format!(
                "a file that is known as {:?} (file {})",
                remap.remap_type(),
                remap.orig_id
            );
            return Err(RestoreError::Unsupported(what));
        }
        if seen.insert(remap.remap_id) {
            ghost_entry(plan, remap.remap_id)?;
        }
    }
    Ok(())
}

/// What the image of a deleted file says, and its content.
fn ghost_entry(plan: &Plan, number: u32) -> Result<(GhostFileEntry, Vec<u8>), RestoreError> {
    let name = Kind::GhostFile.file_name(u64::from(number));
    let mut decoder = plan.images.decoder(&name, Kind::GhostFile)?;
    let entry: GhostFileEntry = decoder
        .message()?
        .ok_or_else(|| RestoreError::malformed(&name, "it is empty"))?;
    if entry.mode & libc::S_IFMT != libc::S_IFREG || entry.chunks == Some(true) {
        return Err(RestoreError::Unsupported(format!("{name}, which is no plain file")));
    }
    let mut content = Vec::new();
    decoder.rest(&mut content)?;
    Ok((entry, content))
}

/// Makes one deleted file.
fn ghost(plan: &Plan, number: u32, folder: &Path) -> Result<File, RestoreError> {
    let name = Kind::GhostFile.file_name(u64::from(number));
    let (entry, content) = ghost_entry(plan, number)?;
    let failed = |error: io::Error| RestoreError::step(format!("make the deleted file of {name}"), error);
    let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
    file.write_all(&content).map_err(failed)?;
    let (owner, group) = (
        nix::unistd::Uid::from_raw(entry.uid),
        nix::unistd::Gid::from_raw(entry.gid),
    );
    nix::unistd::fchown(&file, Some(owner), Some(group)).map_err(|errno| failed(errno.into()))?;
    // Without the bits that lend another user's rights.
    let mode = nix::sys::stat::Mode::from_bits_truncate(entry.mode & 0o777);
    nix::sys::stat::fchmod(&file, mode).map_err(|errno| failed(errno.into()))?;
    if let (Some(read), Some(changed)) = (&entry.atim, &entry.mtim) {
        let times = [read, changed].map(|time| {
            let seconds = i64::try_from(time.tv_sec).unwrap_or(i64::MAX);
            let nanos = i64::try_from(time.tv_usec).unwrap_or(0).saturating_mul(1000);
            nix::sys::time::TimeSpec::new(seconds, nanos)
        });
        nix::sys::stat::futimens(&file, &times[0], &times[1]).map_err(|errno| failed(errno.into()))?;
    }
    Ok(file)
}

/// Makes a segment with its pages.
fn make_segment(plan: &Plan, segment: &Segment) -> Result<OwnedFd, RestoreError> {
    let failed = |error| RestoreError::step("make shared memory", error);
    let size = usize::try_from(segment.size)
        .ok()
        .and_then(std::num::NonZeroUsize::new)
        .ok_or_else(|| failed(io::Error::other("it has an impossible size")))?;
    let file = kernel::shared_anonymous(size).map_err(failed)?;
    if let Some(pages) = &segment.pages {
        let mut from = 0;
        let mut buffer = vec![0; CHUNK];
        for run in &pages.runs {
            let mut at = run.start;
            while at < run.end {
                let part = &mut buffer[..CHUNK.min((run.end - at) as usize)];
                plan.images.read_pages(pages.file, from, part)?;
                file.write_all_at(part, at).map_err(failed)?;
                from += part.len() as u64;
                at += part.len() as u64;
            }
        }
    }
    debug_assert!(segment.size.is_multiple_of(PAGE_SIZE), "mappings are whole pages");
    Ok(file.into())
}
