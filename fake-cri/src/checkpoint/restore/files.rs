//! Opens the container's files in the shim; the restored processes inherit them.
//!
//! ```text
//!   files.img entry --> one open file description of the shim, at an fd above all fds of the container
//!        |  the first process is cloned from the shim, so it and its descendants inherit all of them
//!        v
//!   fdinfo entry   --> dup3 to its fd; the fds above are closed afterwards
//! ```
//!
//! [`path`] states which recorded paths are opened.
//!
//! If fds 0 to 2 of the first process were pipes with an end outside the container, the new container's streams replace
//! these pipes.

mod anon_inode;
mod path;
mod pipe;

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
    FDINFO_CLOEXEC, Kind,
    message::{FdTypes, FileEntry, GhostFileEntry, RemapFilePathEntry, RemapType},
    vma_status as status,
};

use self::{path::ExpectedKind, pipe::RestoredPipes};
use super::{
    RestoreError,
    plan::{LiveTask, MAX_OPEN_FILES, RestorePlan, ShmemSegment},
    remote_task::RemoteTask,
    reopen::reopen,
};
use crate::process::{NsPid, namespace, pagemap::PAGE_SIZE, syscalls};

/// The recorded flags of open(2) that are restored.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | libc::O_LARGEFILE
    | libc::O_DIRECTORY
    | libc::O_NOATIME
    | libc::O_PATH;
const COPY_CHUNK_BYTES: usize = 1 << 20;

/// The open files by their id, and the shared memory segments by theirs.
#[derive(Debug)]
pub(super) struct OpenFiles {
    /// The lowest fd of these files in the shim, above all fds of the container.
    first_fd: i32,
    files: HashMap<u32, OwnedFd>,
    /// Files that the first process creates, each with the fd reserved for it.
    anon_inode_fds: BTreeMap<u32, u64>,
    shmem_fds: HashMap<u64, OwnedFd>,
    mount_ns: OwnedFd,
}

impl OpenFiles {
    /// Opens all files of the plan. `streams` are the new container's; `scratch_dir` takes the content of deleted
    /// files; the processes enter `mount_ns`.
    pub(super) fn open(
        plan: &RestorePlan,
        streams: [BorrowedFd<'_>; 3],
        scratch_dir: &Path,
        mount_ns: &File,
    ) -> Result<Self, RestoreError> {
        let live_tasks = || plan.tasks.iter().filter_map(|task| task.live.as_ref());
        let highest = live_tasks()
            .flat_map(|live| &live.descriptors)
            .map(|entry| entry.fd + 1)
            .max();
        let highest = i32::try_from(highest.unwrap_or(0)).unwrap_or(i32::MAX);
        let fd_failed = |error| RestoreError::step("find free fds", error);
        let base = namespace::first_free_fd(highest).map_err(fd_failed)?;
        let dup_above = |descriptor: OwnedFd| namespace::dup_above(descriptor, base).map_err(fd_failed);
        let mut open_files = Self {
            first_fd: base,
            files: HashMap::new(),
            anon_inode_fds: BTreeMap::new(),
            shmem_fds: HashMap::new(),
            mount_ns: dup_above(mount_ns.try_clone().map_err(fd_failed)?.into())?,
        };
        let ghosts = GhostFiles::read(plan, scratch_dir)?;
        let mut pipes = RestoredPipes::new(plan, streams)?;
        for (id, file_use) in file_uses(plan) {
            let entry = &plan.files[&id];
            let opened = match entry.r#type() {
                FdTypes::Reg => open_path(entry, &ghosts),
                FdTypes::Pipe | FdTypes::Fifo => pipes.open(entry, &plan.files),
                _ => {
                    open_files.anon_inode_fds.insert(id, 0);
                    continue;
                }
            };
            let file = opened.map_err(|error| error.context(file_use))?;
            open_files.files.insert(id, dup_above(file)?);
        }
        for (id, segment) in &plan.shmem_segments {
            open_files
                .shmem_fds
                .insert(*id, dup_above(create_shmem(plan, segment)?)?);
        }
        let free = namespace::first_free_fd(base).map_err(fd_failed)?;
        for (fd, anon_inode_fd) in (u64::from(free.unsigned_abs())..).zip(open_files.anon_inode_fds.values_mut()) {
            *anon_inode_fd = fd;
        }
        Ok(open_files)
    }

    /// Creates eventfds, epoll fds, signalfds and timerfds in the first process, before it has children.
    pub(super) fn create_anon_inodes(&self, remote: &mut RemoteTask, plan: &RestorePlan) -> Result<(), RestoreError> {
        for (id, fd) in &self.anon_inode_fds {
            anon_inode::create(remote, &plan.files[id], *fd)?;
        }
        Ok(())
    }

    /// Duplicates the files to the fds of a process. The inherited fds stay open until
    /// [`OpenFiles::close_inherited_fds`].
    pub(super) fn install_fds(&self, remote: &mut RemoteTask, live: &LiveTask) -> Result<(), RestoreError> {
        for descriptor in &live.descriptors {
            let flags = if descriptor.flags & FDINFO_CLOEXEC != 0 {
                libc::O_CLOEXEC as u64
            } else {
                0
            };
            let arguments = [self.fd(descriptor.id), descriptor.fd.into(), flags];
            remote.call("duplicate an fd (dup3)", libc::SYS_dup3, arguments)?;
        }
        Ok(())
    }

    /// Closes the inherited fds above the process's own.
    pub(super) fn close_inherited_fds(&self, remote: &mut RemoteTask) -> Result<(), RestoreError> {
        let arguments = [self.first_fd(), u64::from(u32::MAX)];
        remote
            .call("close inherited fds", libc::SYS_close_range, arguments)
            .map(drop)
    }

    /// Adds the watches of each epoll file, in the first process that has an fd of it.
    pub(super) fn add_epoll_watches<'a>(
        plan: &RestorePlan,
        processes: impl Iterator<Item = (&'a mut RemoteTask, &'a LiveTask)>,
    ) -> Result<(), RestoreError> {
        let mut watched = HashSet::new();
        for (remote, live) in processes {
            for descriptor in &live.descriptors {
                let entry = &plan.files[&descriptor.id];
                if entry.r#type() == FdTypes::Eventpoll && watched.insert(entry.id) {
                    anon_inode::add_watches(remote, entry, descriptor.fd.into())?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn first_fd(&self) -> u64 {
        self.first_fd.unsigned_abs().into()
    }

    /// The fd of an open file. The plan has checked that the id exists.
    pub(super) fn fd(&self, id: u32) -> u64 {
        let opened = self.files.get(&id).map(|file| file.as_raw_fd().unsigned_abs().into());
        opened
            .or_else(|| self.anon_inode_fds.get(&id).copied())
            .unwrap_or(u64::MAX)
    }

    pub(super) fn shmem_fd(&self, id: u64) -> u64 {
        self.shmem_fds
            .get(&id)
            .map_or(u64::MAX, |file| file.as_raw_fd().unsigned_abs().into())
    }

    pub(super) fn mount_ns_fd(&self) -> u64 {
        self.mount_ns.as_raw_fd().unsigned_abs().into()
    }
}

/// Checks that all open files are of supported kinds, as far as the images tell.
pub(super) fn check(plan: &RestorePlan) -> Result<(), RestoreError> {
    check_ghosts(plan)?;
    pipe::check(plan)?;
    for (id, file_use) in file_uses(plan) {
        check_file(&plan.files[&id], &plan.files).map_err(|error| error.context(file_use))?;
    }
    check_epoll_watches(plan)
}

/// Checks the watches of each epoll file against the fds of the first process that has an fd of it. That process adds
/// the watches.
fn check_epoll_watches(plan: &RestorePlan) -> Result<(), RestoreError> {
    let mut watched = HashSet::new();
    for live in plan.tasks.iter().filter_map(|task| task.live.as_ref()) {
        let mut file_ids_by_fd = None;
        for descriptor in &live.descriptors {
            let entry = &plan.files[&descriptor.id];
            if entry.r#type() == FdTypes::Eventpoll && watched.insert(entry.id) {
                let file_ids_by_fd = file_ids_by_fd.get_or_insert_with(|| {
                    let pairs = live.descriptors.iter().map(|descriptor| (descriptor.fd, descriptor.id));
                    pairs.collect()
                });
                anon_inode::check_watches(entry, file_ids_by_fd, &plan.files)?;
            }
        }
    }
    Ok(())
}

fn check_file(entry: &FileEntry, files: &HashMap<u32, FileEntry>) -> Result<(), RestoreError> {
    let id = entry.id;
    let empty = || RestoreError::malformed("files.img", format!("file {id} has no entry of its type"));
    match entry.r#type() {
        FdTypes::Reg => path::check(entry.reg.as_ref().ok_or_else(empty)?)?,
        FdTypes::Pipe => pipe::check_pipe(entry.pipe.as_ref().ok_or_else(empty)?)?,
        FdTypes::Fifo => {
            let fifo = entry.fifo.as_ref().ok_or_else(empty)?;
            let path = fifo.regf_id.and_then(|id| files.get(&id)?.reg.as_ref());
            path::check(path.ok_or_else(|| RestoreError::malformed("files.img", format!("FIFO {id} has no path")))?)?;
        }
        _ => anon_inode::check(entry)?,
    }
    match has_fown(entry) {
        true => Err(RestoreError::Unsupported(
            "a file with a signal owner (F_SETOWN)".to_owned(),
        )),
        false => Ok(()),
    }
}

#[derive(Clone, Debug)]
enum FileRole {
    Descriptor(u32),
    Mapping(Range<u64>),
    Executable,
    WorkingDirectory,
}

#[derive(Clone, Debug)]
struct FileUse {
    ns_pid: NsPid,
    role: FileRole,
}

impl fmt::Display for FileUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, ", self.ns_pid)?;
        match &self.role {
            FileRole::Descriptor(fd) => write!(f, "descriptor {fd}"),
            FileRole::Mapping(Range { start, end }) => write!(f, "mapping {start:x}-{end:x}"),
            FileRole::Executable => write!(f, "executable"),
            FileRole::WorkingDirectory => write!(f, "working directory"),
        }
    }
}

/// The files that the processes use, by id, each with its first use.
fn file_uses(plan: &RestorePlan) -> BTreeMap<u32, FileUse> {
    let mut uses = BTreeMap::new();
    for task in &plan.tasks {
        let Some(live) = &task.live else { continue };
        for (id, role) in files_of_task(live) {
            let ns_pid = task.ns_pid();
            uses.entry(id).or_insert_with(|| FileUse { ns_pid, role });
        }
    }
    uses
}

/// Whether a process is signalled when the file becomes ready (`F_SETOWN`).
fn has_fown(entry: &FileEntry) -> bool {
    let fowns = [
        entry.reg.as_ref().map(|file| &file.fown),
        entry.pipe.as_ref().map(|file| &file.fown),
        entry.efd.as_ref().map(|file| &file.fown),
        entry.epfd.as_ref().map(|file| &file.fown),
        entry.sgfd.as_ref().map(|file| &file.fown),
        entry.tfd.as_ref().map(|file| &file.fown),
    ];
    fowns
        .into_iter()
        .flatten()
        .any(|owner| owner.pid != 0 || owner.signum != 0)
}

/// The files that a process has open, maps, executes, or has as its working directory.
fn files_of_task(live: &LiveTask) -> impl Iterator<Item = (u32, FileRole)> {
    let open = live
        .descriptors
        .iter()
        .map(|descriptor| (descriptor.id, FileRole::Descriptor(descriptor.fd)));
    let mapped = live
        .mm
        .vmas
        .iter()
        .filter(|vma| vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0)
        .map(|vma| (vma.shmid as u32, FileRole::Mapping(vma.start..vma.end)));
    open.chain(mapped).chain([
        (live.mm.exe_file_id, FileRole::Executable),
        (live.fs.cwd_id, FileRole::WorkingDirectory),
    ])
}

/// Opens a file by its path, or the content of a deleted file.
fn open_path(entry: &FileEntry, ghosts: &GhostFiles) -> Result<OwnedFd, RestoreError> {
    let file = entry
        .reg
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("files.img", format!("file {} has no path", entry.id)))?;
    let flags = file.flags.cast_signed() & OPEN_FLAGS;
    let step_error = |error: io::Error| RestoreError::step(format!("open {}", file.name), error);
    let source_file = match ghosts.get(entry.id) {
        Some(ghost) => ghost.try_clone().map_err(step_error)?,
        None => path::find_checked(file, ExpectedKind::Path)?,
    };
    let mut opened = reopen(source_file.as_fd(), flags).map_err(step_error)?;
    if flags & libc::O_PATH == 0 && source_file.metadata().map_err(step_error)?.is_file() {
        opened.seek(SeekFrom::Start(file.pos)).map_err(step_error)?;
    }
    Ok(opened.into())
}

/// Deleted files, by the id of the file entry that refers to them.
struct GhostFiles(HashMap<u32, File>);

impl GhostFiles {
    /// Creates each deleted file as an unnamed file in `scratch_dir`.
    fn read(plan: &RestorePlan, scratch_dir: &Path) -> Result<Self, RestoreError> {
        let remaps: Vec<RemapFilePathEntry> = plan.images.optional(Kind::RemapFpath, None, MAX_OPEN_FILES)?;
        let mut by_ghost_id: HashMap<u32, File> = HashMap::new();
        let mut by_entry = HashMap::new();
        for remap in remaps {
            let ghost_id = remap.remap_id;
            let file = match by_ghost_id.entry(ghost_id) {
                Entry::Occupied(existing) => existing.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(create_ghost(plan, ghost_id, scratch_dir)?),
            };
            let file = file
                .try_clone()
                .map_err(|error| RestoreError::step("duplicate the fd of a deleted file", error))?;
            by_entry.insert(remap.orig_id, file);
        }
        Ok(Self(by_entry))
    }

    fn get(&self, entry: u32) -> Option<&File> {
        self.0.get(&entry)
    }
}

/// Checks that the deleted files can be created.
fn check_ghosts(plan: &RestorePlan) -> Result<(), RestoreError> {
    let remaps: Vec<RemapFilePathEntry> = plan.images.optional(Kind::RemapFpath, None, MAX_OPEN_FILES)?;
    let mut checked_ids = HashSet::new();
    for remap in remaps {
        plan.images.cancel.check()?;
        if remap.remap_type() != RemapType::Ghost {
            let detail = format!(
                "a file with remap type {:?} (file {})",
                remap.remap_type(),
                remap.orig_id
            );
            return Err(RestoreError::Unsupported(detail));
        }
        if checked_ids.insert(remap.remap_id) {
            read_ghost_entry(plan, remap.remap_id)?;
        }
    }
    Ok(())
}

/// Reads the image and the content of a deleted file.
fn read_ghost_entry(plan: &RestorePlan, ghost_id: u32) -> Result<(GhostFileEntry, Vec<u8>), RestoreError> {
    let name = Kind::GhostFile.file_name(u64::from(ghost_id));
    let mut decoder = plan.images.decoder(&name, Kind::GhostFile)?;
    let entry: GhostFileEntry = decoder
        .message()?
        .ok_or_else(|| RestoreError::malformed(&name, "the image is empty"))?;
    if entry.mode & libc::S_IFMT != libc::S_IFREG || entry.chunks == Some(true) {
        return Err(RestoreError::Unsupported(format!(
            "{name}, which is not a regular file or is stored in chunks"
        )));
    }
    let mut content = Vec::new();
    decoder.copy_rest(&mut content)?;
    Ok((entry, content))
}

fn create_ghost(plan: &RestorePlan, ghost_id: u32, scratch_dir: &Path) -> Result<File, RestoreError> {
    let name = Kind::GhostFile.file_name(u64::from(ghost_id));
    let (entry, content) = read_ghost_entry(plan, ghost_id)?;
    let step_error = |error: io::Error| RestoreError::step(format!("create the deleted file of {name}"), error);
    let mut file = tempfile::tempfile_in(scratch_dir).map_err(step_error)?;
    file.write_all(&content).map_err(step_error)?;
    let (owner, group) = (
        nix::unistd::Uid::from_raw(entry.uid),
        nix::unistd::Gid::from_raw(entry.gid),
    );
    nix::unistd::fchown(&file, Some(owner), Some(group)).map_err(|errno| step_error(errno.into()))?;
    // Without set-uid and set-gid bits.
    let mode = nix::sys::stat::Mode::from_bits_truncate(entry.mode & 0o777);
    nix::sys::stat::fchmod(&file, mode).map_err(|errno| step_error(errno.into()))?;
    if let (Some(read), Some(changed)) = (&entry.atim, &entry.mtim) {
        let times = [read, changed].map(|time| {
            let seconds = i64::try_from(time.tv_sec).unwrap_or(i64::MAX);
            let nanos = i64::try_from(time.tv_usec).unwrap_or(0).saturating_mul(1000);
            nix::sys::time::TimeSpec::new(seconds, nanos)
        });
        nix::sys::stat::futimens(&file, &times[0], &times[1]).map_err(|errno| step_error(errno.into()))?;
    }
    Ok(file)
}

/// Creates a shared memory segment with its content.
fn create_shmem(plan: &RestorePlan, segment: &ShmemSegment) -> Result<OwnedFd, RestoreError> {
    let step_error = |error| RestoreError::step("create shared memory", error);
    let size = usize::try_from(segment.size)
        .ok()
        .and_then(std::num::NonZeroUsize::new)
        .ok_or_else(|| step_error(io::Error::other("the size is zero or too large")))?;
    let file = syscalls::create_shmem_file(size).map_err(step_error)?;
    if let Some(pages) = &segment.pages {
        let mut from = 0;
        let mut buffer = vec![0; COPY_CHUNK_BYTES];
        for run in &pages.runs {
            let mut offset = run.start;
            while offset < run.end {
                let chunk = &mut buffer[..COPY_CHUNK_BYTES.min((run.end - offset) as usize)];
                plan.images.read_pages(pages.file, from, chunk)?;
                file.write_all_at(chunk, offset).map_err(step_error)?;
                from += chunk.len() as u64;
                offset += chunk.len() as u64;
            }
        }
    }
    debug_assert!(segment.size.is_multiple_of(PAGE_SIZE), "mappings are whole pages");
    Ok(file.into())
}
