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
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
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
        let wanted: HashSet<u32> = bodies().flat_map(wanted).collect();
        let mut pipes = Pipes::new(plan, streams)?;
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_unstable();
        for id in wanted {
            let entry = &plan.files[&id];
            let file = match entry.r#type() {
                FdTypes::Reg => open_path(entry, &ghosts)?,
                FdTypes::Pipe | FdTypes::Fifo => pipes.open(entry, &plan.files)?,
                _ => {
                    anonymous::check(entry)?;
                    sources.made.insert(id, 0);
                    continue;
                }
            };
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

/// Whether all open files are of kinds that can be opened or made.
pub(super) fn check(plan: &Plan) -> Result<(), RestoreError> {
    let bodies = plan.tasks.iter().filter_map(|task| task.body.as_ref());
    for id in bodies.flat_map(wanted) {
        let entry = &plan.files[&id];
        let whole = match entry.r#type() {
            FdTypes::Reg => entry.reg.is_some(),
            FdTypes::Pipe => entry.pipe.is_some(),
            FdTypes::Fifo => entry.fifo.is_some(),
            _ => {
                anonymous::check(entry)?;
                true
            }
        };
        if !whole {
            return Err(RestoreError::malformed("files.img", format!("file {id} is empty")));
        }
        if is_owned(entry) {
            return Err(RestoreError::Unsupported(
                "a file whose owner is told of it (F_SETOWN)".to_owned(),
            ));
        }
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

/// The entries that a process has open, maps, or is in.
fn wanted(body: &Body) -> impl Iterator<Item = u32> {
    let open = body.descriptors.iter().map(|descriptor| descriptor.id);
    let mapped = body
        .mm
        .vmas
        .iter()
        .filter(|vma| vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0)
        .map(|vma| vma.shmid as u32);
    open.chain(mapped).chain([body.mm.exe_file_id, body.fs.cwd_id])
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
            if remap.remap_type() != RemapType::Ghost {
                let what = format!("a file that is known as {:?}", remap.remap_type());
                return Err(RestoreError::Unsupported(what));
            }
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

/// Makes one deleted file.
fn ghost(plan: &Plan, number: u32, folder: &Path) -> Result<File, RestoreError> {
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
