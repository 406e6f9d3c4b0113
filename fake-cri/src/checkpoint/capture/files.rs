//! `files.img`, `fdinfo-N.img` and `tty-info.img`: what processes hold open. What is unread in [`pipes`] and the content of
//! deleted files ([`ghosts`]) have images of their own.
//!
//! An entry of `files.img` is an open file description; two descriptors that share one (after dup or fork) share the entry. A
//! path that a process has without a descriptor (executable, directories, mapped files) is an entry too. What an entry cannot
//! say, or what no image has a place for, is said in `dump.log`; the descriptor is listed all the same.

mod anonymous;
mod copies;
mod epoll;
mod ghosts;
mod kernel_files;
mod locks;
mod memfds;
mod pipes;

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    fs::{self, Metadata},
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use cri_proto::criu::{
    Kind, encode,
    message::{
        FdTypes, FdinfoEntry, FifoEntry, FileEntry, PipeEntry, RegFileEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry,
        TtyType,
    },
};

use self::{
    copies::Copies,
    epoll::Holder as EpollHolder,
    ghosts::Ghosts,
    kernel_files::{Handling, KernelFiles},
    locks::Locks,
    memfds::Memfds,
    pipes::Pipes,
};
use super::{
    Images,
    owner::{self, no_owner},
    sockets::{Place, Sockets},
};
use crate::{
    checkpoint::{error::Error, log::DumpLog, watch::Watch},
    process::{
        kernel::{Shared, order},
        proc::{self, Descriptor, DescriptorInfo, Mapping},
    },
};

/// `FD_CLOEXEC` in `fdinfo_entry.flags`.
const CLOSE_ON_EXEC: u32 = 1;
/// The major numbers of terminals: consoles, /dev/tty and its kin, pseudo terminals.
const VIRTUAL_CONSOLE: u32 = 4;
const TERMINAL: u32 = 5;
const PSEUDO: std::ops::RangeInclusive<u32> = 136..=143;
/// /dev/null, /dev/zero, /dev/random and so on, which any host has and CRIU opens by their path.
const MEMORY_DEVICES: u32 = 1;

/// A file named without a descriptor: path, device and inode, flags.
type PathKey = (PathBuf, u64, u64, u32);
/// What two descriptors of one open file have in common before the kernel is asked.
type OpenKey = (PathBuf, u64, u64, u64, u32);

/// One descriptor by its process.
type Holder = (i32, i32);

/// The numbers of the container's processes: ours, and those that the container itself knows.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    inside: HashMap<i32, i32>,
    all: HashSet<i32>,
}

impl Numbers {
    /// A process of the container by both numbers.
    pub(super) fn add(&mut self, outside: i32, inside: i32) {
        self.inside.insert(outside, inside);
        self.all.extend([outside, inside]);
    }

    /// The number that the container knows a process by; `None` for a process outside.
    fn inside(&self, outside: i32) -> Option<i32> {
        self.inside.get(&outside).copied()
    }

    /// Whether a process of the container has this number, ours or its own.
    fn has(&self, number: i32) -> bool {
        self.all.contains(&number)
    }
}

/// The open files so far.
pub(super) struct Files {
    numbers: Numbers,
    entries: Vec<FileEntry>,
    /// The number that was given last. An entry may be given its number before the one that it refers to is added.
    last_id: u32,
    paths: HashMap<PathKey, u32>,
    /// Those of one key in the kernel's order of open files, since a process may have thousands (of eventfd, say).
    open: HashMap<OpenKey, Vec<(Holder, u32, FdTypes)>>,
    terminals: Vec<TtyInfoEntry>,
    sockets: Sockets,
    ghosts: Ghosts,
    memfds: Memfds,
    pipes: Pipes,
    locks: Locks,
}

impl Files {
    /// None yet, of a container with these processes.
    pub(super) fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            entries: Vec::new(),
            last_id: 0,
            paths: HashMap::new(),
            open: HashMap::new(),
            terminals: Vec::new(),
            sockets: Sockets::default(),
            ghosts: Ghosts::default(),
            memfds: Memfds::default(),
            pipes: Pipes::default(),
            locks: Locks::default(),
        }
    }

    /// Adds what has to be read while all stand: what sockets hold, and the plan of the pages of files in memory.
    ///
    /// # Errors
    ///
    /// A file in memory whose pages cannot be found.
    pub(super) fn stand(&mut self, images: &mut Images, log: &mut DumpLog) -> Result<(), Error> {
        std::mem::take(&mut self.sockets).finish(&mut self.entries, images, log);
        self.pipes.report_hang_ups(log);
        self.pipes.tell_failed(log);
        let failed = |error| Error::capture(std::process::id() as i32, "the files of memfd_create", error);
        std::mem::take(&mut self.memfds).images(images).map_err(failed)
    }

    /// Adds `files.img` and `tty-info.img`, those that have entries, and the images of what was copied.
    pub(super) fn images(self, images: &mut Images) {
        images.push(Kind::Files.file_name(None), encode(Kind::Files, &self.entries));
        if !self.terminals.is_empty() {
            images.push(Kind::TtyInfo.file_name(None), encode(Kind::TtyInfo, &self.terminals));
        }
        self.ghosts.images(images);
        self.pipes.images(images);
    }

    /// The file that a link of a process names: `exe`, `cwd` or `root`.
    pub(super) fn link(&mut self, pid: i32, window: i32, name: &'static str, log: &mut DumpLog) -> Result<u32, Error> {
        let failed = |error| Error::capture(pid, name, error);
        let target = proc::link(window, name).map_err(failed)?;
        let source = PathBuf::from(format!("/proc/{window}/{name}"));
        let metadata = fs::metadata(&source).map_err(failed)?;
        Ok(self.path(
            (pid, window),
            &target,
            &source,
            Some(&metadata),
            libc::O_RDONLY as u32,
            log,
        ))
    }

    /// The file behind a mapping.
    pub(super) fn mapped(
        &mut self,
        pid: i32,
        window: i32,
        mapping: &Mapping,
        opened: u32,
        log: &mut DumpLog,
    ) -> Result<u32, Error> {
        // The path leads to the mapped file unless something else has taken its name since.
        let below_root = mapping.name.strip_prefix("/").unwrap_or(&mapping.name);
        let metadata = fs::metadata(Path::new(&format!("/proc/{window}/root")).join(below_root))
            .ok()
            .filter(|metadata| metadata.ino() == mapping.inode);
        // This link leads to it also when no path does any more; it takes CAP_CHECKPOINT_RESTORE.
        let Range { start, end } = mapping.range;
        let source = PathBuf::from(format!("/proc/{window}/map_files/{start:x}-{end:x}"));
        let metadata = metadata.or_else(|| fs::metadata(&source).ok());
        Ok(self.path((pid, window), &mapping.name, &source, metadata.as_ref(), opened, log))
    }

    /// The file of this name, which `source` leads to.
    fn path(
        &mut self,
        (pid, window): (i32, i32),
        target: &Path,
        source: &Path,
        metadata: Option<&Metadata>,
        flags: u32,
        log: &mut DumpLog,
    ) -> u32 {
        let key = (
            target.to_owned(),
            metadata.map_or(0, Metadata::dev),
            metadata.map_or(0, Metadata::ino),
            flags,
        );
        if let Some(id) = self.paths.get(&key) {
            return *id;
        }
        let id = self.next_id();
        let info = DescriptorInfo {
            flags,
            ..Default::default()
        };
        let mut entry = FileEntry {
            id,
            ..FileEntry::default()
        };
        if !self.memory_file(&mut entry, pid, target, source, metadata, &info, log) {
            entry.set_type(FdTypes::Reg);
            entry.reg = Some(self.regular((pid, window), id, target, source, metadata, &info, log));
        }
        self.paths.insert(key, id);
        self.entries.push(entry);
        id
    }

    /// The table of descriptors of a process.
    ///
    /// # Errors
    ///
    /// A process that ended or cannot be read, the caller, the deadline.
    pub(super) fn table(
        &mut self,
        pid: i32,
        window: i32,
        watch: &Watch<'_>,
        log: &mut DumpLog,
    ) -> Result<Vec<FdinfoEntry>, Error> {
        let failed = |error| Error::capture(pid, "descriptors", error);
        let numbers = proc::descriptor_numbers(window).map_err(failed)?;
        let copies = Copies::of(pid, log);
        let known = self.entries.len();
        let mut table = Vec::with_capacity(numbers.len());
        for &fd in &numbers {
            watch.check()?;
            let descriptor = proc::descriptor(window, fd).map_err(failed)?;
            let (id, kind) = self.descriptor(pid, window, &descriptor, &copies, log)?;
            self.locks.report((pid, fd, id), &descriptor.info, log);
            let close_on_exec = descriptor.info.flags & libc::O_CLOEXEC as u32 != 0;
            table.push(FdinfoEntry {
                id,
                flags: if close_on_exec { CLOSE_ON_EXEC } else { 0 },
                r#type: kind.into(),
                fd: fd.unsigned_abs(),
                xattr_security_selinux: None,
            });
        }
        let holder = EpollHolder {
            pid,
            window,
            numbers: &numbers,
        };
        let mut seen = HashSet::new();
        let by_id: HashMap<u32, i32> = table
            .iter()
            .filter(|entry| entry.r#type() == FdTypes::Eventpoll && seen.insert(entry.id))
            .map(|entry| (entry.id, entry.fd.cast_signed()))
            .collect();
        for entry in &mut self.entries[known..] {
            if let (Some(epoll), Some(fd)) = (&mut entry.epfd, by_id.get(&entry.id)) {
                watch.check()?;
                epoll::resolve(epoll, *fd, &holder, log);
            }
        }
        Ok(table)
    }

    fn descriptor(
        &mut self,
        pid: i32,
        window: i32,
        descriptor: &Descriptor,
        copies: &Copies,
        log: &mut DumpLog,
    ) -> Result<(u32, FdTypes), Error> {
        let fd = descriptor.fd;
        let metadata = fs::metadata(format!("/proc/{window}/fd/{fd}"))
            .map_err(|error| Error::capture(pid, format!("descriptor {fd}"), error))?;
        let key = (
            descriptor.target.clone(),
            metadata.dev(),
            metadata.ino(),
            descriptor.info.position,
            descriptor.info.flags & !(libc::O_CLOEXEC as u32),
        );
        let known = self.open.get(&key).map_or(&[][..], Vec::as_slice);
        // Where the kernel does not say, it is another one.
        let found = known.binary_search_by(|((other, number), ..)| {
            order(*other, window, Shared::File(*number, fd)).unwrap_or(Ordering::Less)
        });
        let place = match found {
            Ok(at) => return Ok((known[at].1, known[at].2)),
            Err(place) => place,
        };
        let id = self.next_id();
        let copy = copies.get(fd, log);
        let copy = copy.as_ref().map(AsFd::as_fd);
        let mut entry = self.entry((pid, window), id, descriptor, &metadata, copy, log);
        if let Some(copy) = copy {
            owner::put(&mut entry, pid, fd, copy, log);
        }
        let kind = entry.r#type();
        self.entries.push(entry);
        let alike = self.open.entry(key).or_default();
        alike.insert(place, ((window, fd), id, kind));
        Ok((id, kind))
    }

    /// What kind of file it is and what is known of it.
    fn entry(
        &mut self,
        (pid, window): (i32, i32),
        id: u32,
        descriptor: &Descriptor,
        metadata: &Metadata,
        copy: Option<BorrowedFd<'_>>,
        log: &mut DumpLog,
    ) -> FileEntry {
        let Descriptor { fd, target, info } = descriptor;
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let name = target.to_string_lossy();
        let kind = metadata.file_type();
        let inode = metadata.ino() as u32;
        let mut entry = FileEntry {
            id,
            ..FileEntry::default()
        };
        let source = PathBuf::from(format!("/proc/{window}/fd/{fd}"));
        if kind.is_fifo() {
            let named = !name.starts_with("pipe:[");
            let access = flags.cast_signed() & libc::O_ACCMODE;
            self.pipes.add(named, inode, (pid, window, *fd), (copy, access), log);
            if flags & libc::O_DIRECT as u32 != 0 {
                log.lost(format_args!(
                    "pid {pid}: where one packet of the pipe of descriptor {fd} ends and the next begins"
                ));
            }
            if !named {
                entry.set_type(FdTypes::Pipe);
                entry.pipe = Some(PipeEntry {
                    id,
                    pipe_id: inode,
                    flags,
                    fown: pipes::pipe_owner((pid, *fd), metadata, log),
                });
            } else {
                self.pipes.fifo_end((inode, pid, *fd), flags, copy);
                entry.set_type(FdTypes::Fifo);
                entry.fifo = Some(FifoEntry {
                    id,
                    pipe_id: inode,
                    regf_id: Some(self.path((pid, window), target, &source, Some(metadata), flags, log)),
                });
            }
        } else if kind.is_socket() {
            let place = Place {
                pid,
                window,
                fd: *fd,
                inode: metadata.ino(),
                flags,
                copy,
            };
            self.sockets.describe(&mut entry, place, log);
        } else if let Some(anonymous) = name.strip_prefix("anon_inode:") {
            let kind = anonymous.trim_matches(['[', ']']);
            anonymous::describe(&mut entry, kind, (pid, *fd), info, &self.numbers, log);
        } else if kernel_files::is_pidfd(&source) {
            anonymous::describe(&mut entry, "pidfd", (pid, *fd), info, &self.numbers, log);
        } else if kind.is_char_device() && is_terminal(metadata.rdev()) {
            let regular_id = self.path((pid, window), target, &source, Some(metadata), flags, log);
            entry.set_type(FdTypes::Tty);
            entry.tty = Some(TtyFileEntry {
                id,
                tty_info_id: self.terminal(metadata, pid, *fd, log),
                flags,
                fown: no_owner(),
                regf_id: Some(regular_id),
            });
        } else if let Some(files) = kernel_files::of(&source).filter(|files| files.handling == Handling::NoPath) {
            log.lost(format_args!(
                "pid {pid}: the file {name} of descriptor {fd}, which is of {} and has no path",
                files.name
            ));
            anonymous::external(&mut entry, no_owner());
        } else {
            if kind.is_block_device() || kind.is_char_device() && major(metadata.rdev()) != MEMORY_DEVICES {
                log.lost(format_args!(
                    "pid {pid}: the state of the device of descriptor {fd} ({name})"
                ));
            }
            if !self.memory_file(&mut entry, pid, target, &source, Some(metadata), info, log) {
                entry.set_type(FdTypes::Reg);
                entry.reg = Some(self.regular((pid, window), id, target, &source, Some(metadata), info, log));
            }
        }
        entry
    }

    /// The terminal of a device, once each.
    fn terminal(&mut self, metadata: &Metadata, pid: i32, fd: i32, log: &mut DumpLog) -> u32 {
        let rdev = metadata.rdev() as u32;
        if let Some(known) = self.terminals.iter().find(|known| known.rdev == rdev) {
            return known.id;
        }
        let id = u32::try_from(self.terminals.len() + 1).expect("few terminals");
        log.lost(format_args!(
            "pid {pid}: the settings and the size of the terminal of descriptor {fd}"
        ));
        let (major, minor) = (major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()) as u32);
        let pty = PSEUDO.contains(&major).then(|| TtyPtyEntry {
            index: (major - PSEUDO.start()) * 256 + minor,
        });
        let kind = match (major, minor) {
            _ if pty.is_some() => TtyType::Pty,
            (TERMINAL, 0) => TtyType::Ctty,
            (TERMINAL, 1) => TtyType::Console,
            (VIRTUAL_CONSOLE, 64..) => TtyType::Serial,
            (VIRTUAL_CONSOLE, _) => TtyType::Vt,
            _ => TtyType::Unknown,
        };
        self.terminals.push(TtyInfoEntry {
            id,
            r#type: kind.into(),
            rdev,
            pty,
            dev: Some(metadata.dev() as u32),
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
            ..TtyInfoEntry::default()
        });
        id
    }

    /// Makes the entry that of a file of memfd_create; false when it is none, or cannot be carried.
    #[expect(clippy::too_many_arguments, reason = "what is known of the file, each once")]
    fn memory_file(
        &mut self,
        entry: &mut FileEntry,
        pid: i32,
        target: &Path,
        source: &Path,
        metadata: Option<&Metadata>,
        info: &DescriptorInfo,
        log: &mut DumpLog,
    ) -> bool {
        let (path, _) = proc::without_deleted(target);
        let (Some(name), Some(metadata)) = (memfds::name(&path), metadata.filter(|metadata| metadata.nlink() == 0))
        else {
            return false;
        };
        match self.memfds.add(entry.id, name, source, metadata, info) {
            Ok(file) => {
                entry.set_type(FdTypes::Memfd);
                entry.memfd = Some(file);
                true
            }
            Err(error) => {
                log.lost(format_args!("pid {pid}: the file of memfd_create {name}: {error}"));
                false
            }
        }
    }

    /// Whether this entry is a file of memfd_create.
    pub(super) fn is_memory_file(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.memfd.is_some())
    }

    /// A file with a path, to be read where `source` leads.
    #[expect(clippy::too_many_arguments, reason = "what is known of the file, each once")]
    fn regular(
        &mut self,
        (pid, window): (i32, i32),
        id: u32,
        target: &Path,
        source: &Path,
        metadata: Option<&Metadata>,
        info: &DescriptorInfo,
        log: &mut DumpLog,
    ) -> RegFileEntry {
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let (path, deleted) = match metadata {
            // A name may end in these words by itself; a file that has a link is not deleted.
            Some(metadata) if metadata.nlink() > 0 => (target.to_owned(), false),
            _ => proc::without_deleted(target),
        };
        let kernel_files = kernel_files::of(source);
        if let Some(files) = kernel_files {
            self.kernel_file((pid, files), &path, metadata, flags, log);
        }
        if deleted {
            let carried = match (metadata, kernel_files) {
                (_, Some(files)) => Err(io::Error::other(format!("it is of {}", files.name))),
                (None, _) => Err(io::Error::other("nothing leads to it")),
                (Some(metadata), _) => self.ghosts.add(id, source, metadata),
            };
            let display = path.display();
            match carried {
                Ok(lost) => {
                    for what in lost {
                        log.lost(format_args!("pid {pid}: {what} of the deleted file {display}"));
                    }
                }
                Err(error) => log.lost(format_args!(
                    "pid {pid}: the content of the deleted file {display}: {error}"
                )),
            }
        }
        let replaced = || {
            let below_root = path.strip_prefix("/").unwrap_or(&path);
            let there = fs::metadata(Path::new(&format!("/proc/{window}/root")).join(below_root)).ok();
            let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
            there.as_ref().map(identity) != metadata.map(identity)
        };
        if !deleted && metadata.is_some() && replaced() {
            log.lost(format_args!(
                "pid {pid}: the file that was {}, a name that leads to another file or to none now",
                path.display()
            ));
        }
        if path.to_str().is_none() {
            log.lost(format_args!(
                "pid {pid}: the path {path:?}, which is no UTF-8; another stands for it"
            ));
        }
        let append_only = flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32 && flags & libc::O_APPEND as u32 != 0;
        let size = metadata
            .filter(|metadata| metadata.is_file() && !append_only)
            .map(Metadata::len);
        RegFileEntry {
            id,
            flags,
            pos: info.position,
            fown: no_owner(),
            name: path.to_string_lossy().into_owned(),
            size,
            mode: metadata.map(Metadata::mode),
            ..RegFileEntry::default()
        }
    }

    /// Names what an open file of the kernel has beside its path.
    fn kernel_file(
        &self,
        (pid, files): (i32, KernelFiles),
        path: &Path,
        metadata: Option<&Metadata>,
        flags: u32,
        log: &mut DumpLog,
    ) {
        let display = path.display();
        let is_open = flags & libc::O_PATH as u32 == 0 && metadata.is_none_or(|metadata| !metadata.is_dir());
        if files.handling != Handling::ByPath && is_open {
            let name = files.name;
            log.lost(format_args!(
                "pid {pid}: what the kernel keeps of the open file {display} ({name})"
            ));
        }
        if kernel_files::process_of(files, path).is_some_and(|number| !self.numbers.has(number)) {
            log.lost(format_args!(
                "pid {pid}: the file {display}, whose process is outside of the container"
            ));
        }
        if is_open && kernel_files::takes_trigger(path, flags) {
            log.lost(format_args!(
                "pid {pid}: the trigger for pressure stall information of the open file {display}"
            ));
        }
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }
}

fn major(device: u64) -> u32 {
    nix::sys::stat::major(device) as u32
}

fn is_terminal(device: u64) -> bool {
    matches!(major(device), VIRTUAL_CONSOLE | TERMINAL) || PSEUDO.contains(&major(device))
}
