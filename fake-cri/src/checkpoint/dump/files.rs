//! `files.img`, `fdinfo-N.img` and `tty-info.img`: the open files. The unread content of [`pipes`] and the content of
//! deleted files ([`ghosts`]) have images of their own.
//!
//! An entry of `files.img` is an open file description; two fds that share one (after dup or fork) share the entry. A
//! path that a process uses without an fd (executable, directories, mapped files) is an entry too. State that an entry
//! cannot hold is reported in `dump.log`; the fd is listed all the same.

mod anon_inode;
mod epoll;
mod ghosts;
mod kernel_fs;
mod locks;
mod memfds;
mod pipes;
mod remote_fds;

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
    FDINFO_CLOEXEC, Kind, encode,
    message::{
        FdTypes, FdinfoEntry, FifoEntry, FileEntry, PipeEntry, RegFileEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry,
        TtyType,
    },
};

use self::{
    epoll::FdTable,
    ghosts::GhostDump,
    kernel_fs::{KernelFs, Reopening},
    locks::Locks,
    memfds::Memfds,
    pipes::PipeContents,
    remote_fds::RemoteFds,
};
use super::{
    ImageSetBuilder,
    fown::{self, no_fown},
    sockets::{SocketFd, Sockets},
};
use crate::{
    checkpoint::{cancel::CancelToken, dump_log::DumpLog, error::Error},
    process::{
        proc_files::{self, FdInfo, Mapping, OpenFd},
        syscalls::{KcmpType, kcmp_order},
    },
};

/// Major numbers of terminals: consoles, /dev/tty and similar, pseudo terminals.
const TTY_MAJOR: u32 = 4;
const TTYAUX_MAJOR: u32 = 5;
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// /dev/null, /dev/zero, /dev/random and similar: present on every host, and CRIU opens them by path.
const MEM_MAJOR: u32 = 1;

/// A file without an fd: path, device, inode, flags.
type PathKey = (PathBuf, u64, u64, u32);
/// Necessary condition for two fds to be the same open file, before kcmp is called: path, device, inode, position,
/// flags.
type OpenFileKey = (PathBuf, u64, u64, u64, u32);

/// A `proc_tid` and an fd.
type FdKey = (i32, i32);

/// The pids of the container's processes, in our namespace and in the container's.
#[derive(Debug, Default)]
pub(super) struct NsPids {
    ns_by_host: HashMap<i32, i32>,
    all_pids: HashSet<i32>,
}

impl NsPids {
    pub(super) fn insert(&mut self, host_pid: i32, ns_pid: i32) {
        self.ns_by_host.insert(host_pid, ns_pid);
        self.all_pids.extend([host_pid, ns_pid]);
    }

    /// The pid in the container's namespace; `None` for a process outside of the container.
    fn ns_pid(&self, host_pid: i32) -> Option<i32> {
        self.ns_by_host.get(&host_pid).copied()
    }

    /// Whether a process of the container has this pid in either namespace.
    fn contains(&self, pid: i32) -> bool {
        self.all_pids.contains(&pid)
    }
}

/// The open files so far.
pub(super) struct Files {
    ns_pids: NsPids,
    entries: Vec<FileEntry>,
    /// The last id. An entry may get its id before an entry that it refers to is added.
    last_id: u32,
    path_ids: HashMap<PathKey, u32>,
    /// The files with the same key, in kcmp order for binary search, since a process may have thousands (of eventfds,
    /// say).
    open_files: HashMap<OpenFileKey, Vec<(FdKey, u32, FdTypes)>>,
    terminals: Vec<TtyInfoEntry>,
    sockets: Sockets,
    ghosts: GhostDump,
    memfds: Memfds,
    pipes: PipeContents,
    locks: Locks,
}

impl Files {
    pub(super) fn new(ns_pids: NsPids) -> Self {
        Self {
            ns_pids,
            entries: Vec::new(),
            last_id: 0,
            path_ids: HashMap::new(),
            open_files: HashMap::new(),
            terminals: Vec::new(),
            sockets: Sockets::default(),
            ghosts: GhostDump::default(),
            memfds: Memfds::default(),
            pipes: PipeContents::default(),
            locks: Locks::default(),
        }
    }

    /// Adds the state that must be read during the freeze: socket queues, and the plan of the pages of memfds.
    ///
    /// # Errors
    ///
    /// The pages of a memfd cannot be found.
    pub(super) fn dump_frozen(&mut self, images: &mut ImageSetBuilder, log: &mut DumpLog) -> Result<(), Error> {
        std::mem::take(&mut self.sockets).finish(&mut self.entries, images, log);
        self.pipes.report_hang_ups(log);
        self.pipes.report_unreadable(log);
        let failed = |error| Error::capture(std::process::id() as i32, "the memfds", error);
        std::mem::take(&mut self.memfds).push_images(images).map_err(failed)
    }

    /// Adds `files.img` and, if they have entries, `tty-info.img`, ghost files and pipe contents.
    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        images.push(Kind::Files.file_name(None), encode(Kind::Files, &self.entries));
        if !self.terminals.is_empty() {
            images.push(Kind::TtyInfo.file_name(None), encode(Kind::TtyInfo, &self.terminals));
        }
        self.ghosts.push_images(images);
        self.pipes.push_images(images);
    }

    /// The file of a link in `/proc/PID`: `exe`, `cwd` or `root`.
    pub(super) fn link_file(
        &mut self,
        pid: i32,
        proc_tid: i32,
        name: &'static str,
        log: &mut DumpLog,
    ) -> Result<u32, Error> {
        let failed = |error| Error::capture(pid, name, error);
        let target = proc_files::read_link(proc_tid, name).map_err(failed)?;
        let source = PathBuf::from(format!("/proc/{proc_tid}/{name}"));
        let metadata = fs::metadata(&source).map_err(failed)?;
        Ok(self.path_file(
            (pid, proc_tid),
            &target,
            &source,
            Some(&metadata),
            libc::O_RDONLY as u32,
            log,
        ))
    }

    /// The file of a mapping.
    pub(super) fn mapped_file(
        &mut self,
        pid: i32,
        proc_tid: i32,
        mapping: &Mapping,
        open_flags: u32,
        log: &mut DumpLog,
    ) -> Result<u32, Error> {
        // The path leads to the mapped file unless it now names another file.
        let below_root = mapping.name.strip_prefix("/").unwrap_or(&mapping.name);
        let metadata = fs::metadata(Path::new(&format!("/proc/{proc_tid}/root")).join(below_root))
            .ok()
            .filter(|metadata| metadata.ino() == mapping.inode);
        // This link works even without a path, but needs CAP_CHECKPOINT_RESTORE.
        let Range { start, end } = mapping.range;
        let source = PathBuf::from(format!("/proc/{proc_tid}/map_files/{start:x}-{end:x}"));
        let metadata = metadata.or_else(|| fs::metadata(&source).ok());
        Ok(self.path_file(
            (pid, proc_tid),
            &mapping.name,
            &source,
            metadata.as_ref(),
            open_flags,
            log,
        ))
    }

    /// The file with the path `target`, readable at `source`.
    fn path_file(
        &mut self,
        (pid, proc_tid): (i32, i32),
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
        if let Some(id) = self.path_ids.get(&key) {
            return *id;
        }
        let id = self.next_id();
        let info = FdInfo {
            flags,
            ..Default::default()
        };
        let mut entry = FileEntry {
            id,
            ..FileEntry::default()
        };
        if !self.memfd_entry(&mut entry, pid, target, source, metadata, &info, log) {
            entry.set_type(FdTypes::Reg);
            entry.reg = Some(self.regular_file((pid, proc_tid), id, target, source, metadata, &info, log));
        }
        self.path_ids.insert(key, id);
        self.entries.push(entry);
        id
    }

    /// Dumps the fd table of a process.
    ///
    /// # Errors
    ///
    /// A process exited or cannot be read, the caller cancelled, or the deadline passed.
    pub(super) fn fd_table(
        &mut self,
        pid: i32,
        proc_tid: i32,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<Vec<FdinfoEntry>, Error> {
        let failed = |error| Error::capture(pid, "descriptors", error);
        let fds = proc_files::list_fds(proc_tid).map_err(failed)?;
        let remote_fds = RemoteFds::open(pid, log);
        let entries_before = self.entries.len();
        let mut table = Vec::with_capacity(fds.len());
        for &fd in &fds {
            cancel.check()?;
            let descriptor = proc_files::read_fd(proc_tid, fd).map_err(failed)?;
            let (id, kind) = self.descriptor_entry(pid, proc_tid, &descriptor, &remote_fds, log)?;
            self.locks.report((pid, fd, id), &descriptor.info, log);
            let close_on_exec = descriptor.info.flags & libc::O_CLOEXEC as u32 != 0;
            table.push(FdinfoEntry {
                id,
                flags: if close_on_exec { FDINFO_CLOEXEC } else { 0 },
                r#type: kind.into(),
                fd: fd.unsigned_abs(),
                xattr_security_selinux: None,
            });
        }
        let fd_table = FdTable {
            pid,
            proc_tid,
            fds: &fds,
        };
        let mut epoll_ids = HashSet::new();
        let epoll_fds: HashMap<u32, i32> = table
            .iter()
            .filter(|entry| entry.r#type() == FdTypes::Eventpoll && epoll_ids.insert(entry.id))
            .map(|entry| (entry.id, entry.fd.cast_signed()))
            .collect();
        for entry in &mut self.entries[entries_before..] {
            if let (Some(epoll), Some(fd)) = (&mut entry.epfd, epoll_fds.get(&entry.id)) {
                cancel.check()?;
                epoll::resolve_watches(epoll, *fd, &fd_table, log);
            }
        }
        Ok(table)
    }

    fn descriptor_entry(
        &mut self,
        pid: i32,
        proc_tid: i32,
        descriptor: &OpenFd,
        remote_fds: &RemoteFds,
        log: &mut DumpLog,
    ) -> Result<(u32, FdTypes), Error> {
        let fd = descriptor.fd;
        let metadata = fs::metadata(format!("/proc/{proc_tid}/fd/{fd}"))
            .map_err(|error| Error::capture(pid, format!("descriptor {fd}"), error))?;
        let key = (
            descriptor.target.clone(),
            metadata.dev(),
            metadata.ino(),
            descriptor.info.pos,
            descriptor.info.flags & !(libc::O_CLOEXEC as u32),
        );
        let candidates = self.open_files.get(&key).map_or(&[][..], Vec::as_slice);
        // Without kcmp every fd counts as a separate open file.
        let position = candidates.binary_search_by(|((other_tid, other_fd), ..)| {
            kcmp_order(*other_tid, proc_tid, KcmpType::File(*other_fd, fd)).unwrap_or(Ordering::Less)
        });
        let insert_at = match position {
            Ok(index) => return Ok((candidates[index].1, candidates[index].2)),
            Err(index) => index,
        };
        let id = self.next_id();
        let dup_fd = remote_fds.dup(fd, log);
        let dup_fd = dup_fd.as_ref().map(AsFd::as_fd);
        let mut entry = self.file_entry((pid, proc_tid), id, descriptor, &metadata, dup_fd, log);
        if let Some(dup_fd) = dup_fd {
            fown::set_fown(&mut entry, pid, fd, dup_fd, log);
        }
        let kind = entry.r#type();
        self.entries.push(entry);
        let same_key = self.open_files.entry(key).or_default();
        same_key.insert(insert_at, ((proc_tid, fd), id, kind));
        Ok((id, kind))
    }

    fn file_entry(
        &mut self,
        (pid, proc_tid): (i32, i32),
        id: u32,
        descriptor: &OpenFd,
        metadata: &Metadata,
        dup_fd: Option<BorrowedFd<'_>>,
        log: &mut DumpLog,
    ) -> FileEntry {
        let OpenFd { fd, target, info } = descriptor;
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let name = target.to_string_lossy();
        let kind = metadata.file_type();
        let inode = metadata.ino() as u32;
        let mut entry = FileEntry {
            id,
            ..FileEntry::default()
        };
        let source = PathBuf::from(format!("/proc/{proc_tid}/fd/{fd}"));
        if kind.is_fifo() {
            let is_named = !name.starts_with("pipe:[");
            let access = flags.cast_signed() & libc::O_ACCMODE;
            self.pipes
                .add(is_named, inode, (pid, proc_tid, *fd), (dup_fd, access), log);
            if flags & libc::O_DIRECT as u32 != 0 {
                log.unsupported(format_args!(
                    "pid {pid}: the packet boundaries of the pipe of descriptor {fd} (O_DIRECT)"
                ));
            }
            if !is_named {
                entry.set_type(FdTypes::Pipe);
                entry.pipe = Some(PipeEntry {
                    id,
                    pipe_id: inode,
                    flags,
                    fown: pipes::pipe_fown((pid, *fd), metadata, log),
                });
            } else {
                self.pipes.add_fifo_end((inode, pid, *fd), flags, dup_fd);
                entry.set_type(FdTypes::Fifo);
                entry.fifo = Some(FifoEntry {
                    id,
                    pipe_id: inode,
                    regf_id: Some(self.path_file((pid, proc_tid), target, &source, Some(metadata), flags, log)),
                });
            }
        } else if kind.is_socket() {
            let socket_fd = SocketFd {
                pid,
                proc_tid,
                fd: *fd,
                inode: metadata.ino(),
                flags,
                dup_fd,
            };
            self.sockets.describe(&mut entry, socket_fd, log);
        } else if let Some(anon_name) = name.strip_prefix("anon_inode:") {
            let kind = anon_name.trim_matches(['[', ']']);
            anon_inode::describe(&mut entry, kind, (pid, *fd), info, &self.ns_pids, log);
        } else if kernel_fs::is_pidfd(&source) {
            anon_inode::describe(&mut entry, "pidfd", (pid, *fd), info, &self.ns_pids, log);
        } else if kind.is_char_device() && is_terminal(metadata.rdev()) {
            let regular_id = self.path_file((pid, proc_tid), target, &source, Some(metadata), flags, log);
            entry.set_type(FdTypes::Tty);
            entry.tty = Some(TtyFileEntry {
                id,
                tty_info_id: self.tty_info(metadata, pid, *fd, log),
                flags,
                fown: no_fown(),
                regf_id: Some(regular_id),
            });
        } else if let Some(kernel_fs) =
            kernel_fs::lookup(&source).filter(|kernel_fs| kernel_fs.handling == Reopening::NoPath)
        {
            log.unsupported(format_args!(
                "pid {pid}: the file {name} of descriptor {fd}, which is of {} and has no path",
                kernel_fs.name
            ));
            anon_inode::set_external(&mut entry, no_fown());
        } else {
            if kind.is_block_device() || kind.is_char_device() && major(metadata.rdev()) != MEM_MAJOR {
                log.unsupported(format_args!(
                    "pid {pid}: the state of the device of descriptor {fd} ({name})"
                ));
            }
            if !self.memfd_entry(&mut entry, pid, target, &source, Some(metadata), info, log) {
                entry.set_type(FdTypes::Reg);
                entry.reg = Some(self.regular_file((pid, proc_tid), id, target, &source, Some(metadata), info, log));
            }
        }
        entry
    }

    /// The id of a terminal, which is added once.
    fn tty_info(&mut self, metadata: &Metadata, pid: i32, fd: i32, log: &mut DumpLog) -> u32 {
        let rdev = metadata.rdev() as u32;
        if let Some(existing) = self.terminals.iter().find(|tty| tty.rdev == rdev) {
            return existing.id;
        }
        let id = u32::try_from(self.terminals.len() + 1).expect("few terminals");
        log.unsupported(format_args!(
            "pid {pid}: the settings and the size of the terminal of descriptor {fd}"
        ));
        let (major, minor) = (major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()) as u32);
        let pty = PTY_MAJORS.contains(&major).then(|| TtyPtyEntry {
            index: (major - PTY_MAJORS.start()) * 256 + minor,
        });
        let kind = match (major, minor) {
            _ if pty.is_some() => TtyType::Pty,
            (TTYAUX_MAJOR, 0) => TtyType::Ctty,
            (TTYAUX_MAJOR, 1) => TtyType::Console,
            (TTY_MAJOR, 64..) => TtyType::Serial,
            (TTY_MAJOR, _) => TtyType::Vt,
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

    /// Makes the entry a memfd. Returns false if the file is not a memfd, or cannot be dumped as one.
    #[expect(clippy::too_many_arguments, reason = "properties of one file")]
    fn memfd_entry(
        &mut self,
        entry: &mut FileEntry,
        pid: i32,
        target: &Path,
        source: &Path,
        metadata: Option<&Metadata>,
        info: &FdInfo,
        log: &mut DumpLog,
    ) -> bool {
        let (path, _) = proc_files::split_deleted(target);
        let (Some(name), Some(metadata)) = (
            memfds::memfd_name(&path),
            metadata.filter(|metadata| metadata.nlink() == 0),
        ) else {
            return false;
        };
        match self.memfds.add(entry.id, name, source, metadata, info) {
            Ok(file) => {
                entry.set_type(FdTypes::Memfd);
                entry.memfd = Some(file);
                true
            }
            Err(error) => {
                log.unsupported(format_args!("pid {pid}: the memfd {name}: {error}"));
                false
            }
        }
    }

    pub(super) fn is_memfd(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.memfd.is_some())
    }

    /// A file with a path, readable at `source`.
    #[expect(clippy::too_many_arguments, reason = "properties of one file")]
    fn regular_file(
        &mut self,
        (pid, proc_tid): (i32, i32),
        id: u32,
        target: &Path,
        source: &Path,
        metadata: Option<&Metadata>,
        info: &FdInfo,
        log: &mut DumpLog,
    ) -> RegFileEntry {
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let (path, deleted) = match metadata {
            // A name may end with " (deleted)" by itself; a file with a link is not deleted.
            Some(metadata) if metadata.nlink() > 0 => (target.to_owned(), false),
            _ => proc_files::split_deleted(target),
        };
        let kernel_fs = kernel_fs::lookup(source);
        if let Some(kernel_fs) = kernel_fs {
            self.report_kernel_file((pid, kernel_fs), &path, metadata, flags, log);
        }
        if deleted {
            let ghost_result = match (metadata, kernel_fs) {
                (_, Some(kernel_fs)) => Err(io::Error::other(format!("it is of {}", kernel_fs.name))),
                (None, _) => Err(io::Error::other("no path to it in /proc")),
                (Some(metadata), _) => self.ghosts.add(id, source, metadata),
            };
            let display = path.display();
            match ghost_result {
                Ok(unsupported) => {
                    for description in unsupported {
                        log.unsupported(format_args!("pid {pid}: {description} of the deleted file {display}"));
                    }
                }
                Err(error) => log.unsupported(format_args!(
                    "pid {pid}: the content of the deleted file {display}: {error}"
                )),
            }
        }
        let is_replaced = || {
            let below_root = path.strip_prefix("/").unwrap_or(&path);
            let current = fs::metadata(Path::new(&format!("/proc/{proc_tid}/root")).join(below_root)).ok();
            let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
            current.as_ref().map(identity) != metadata.map(identity)
        };
        if !deleted && metadata.is_some() && is_replaced() {
            log.unsupported(format_args!(
                "pid {pid}: the open file {}, whose path leads to another file or to none",
                path.display()
            ));
        }
        if path.to_str().is_none() {
            log.unsupported(format_args!(
                "pid {pid}: the path {path:?}, which is not UTF-8; the archive has a lossy form"
            ));
        }
        let append_only = flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32 && flags & libc::O_APPEND as u32 != 0;
        let size = metadata
            .filter(|metadata| metadata.is_file() && !append_only)
            .map(Metadata::len);
        RegFileEntry {
            id,
            flags,
            pos: info.pos,
            fown: no_fown(),
            name: path.to_string_lossy().into_owned(),
            size,
            mode: metadata.map(Metadata::mode),
            ..RegFileEntry::default()
        }
    }

    /// Reports state of an open file of a kernel filesystem that its path does not determine.
    fn report_kernel_file(
        &self,
        (pid, kernel_fs): (i32, KernelFs),
        path: &Path,
        metadata: Option<&Metadata>,
        flags: u32,
        log: &mut DumpLog,
    ) {
        let display = path.display();
        let is_open = flags & libc::O_PATH as u32 == 0 && metadata.is_none_or(|metadata| !metadata.is_dir());
        if kernel_fs.handling != Reopening::ByPath && is_open {
            let name = kernel_fs.name;
            log.unsupported(format_args!(
                "pid {pid}: the kernel's state of the open file {display} ({name})"
            ));
        }
        if kernel_fs::proc_pid(kernel_fs, path).is_some_and(|target_pid| !self.ns_pids.contains(target_pid)) {
            log.unsupported(format_args!(
                "pid {pid}: the file {display}, whose process is outside of the container"
            ));
        }
        if is_open && kernel_fs::has_psi_trigger(path, flags) {
            log.unsupported(format_args!(
                "pid {pid}: the pressure stall trigger (PSI) of the open file {display}"
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
    matches!(major(device), TTY_MAJOR | TTYAUX_MAJOR) || PTY_MAJORS.contains(&major(device))
}
