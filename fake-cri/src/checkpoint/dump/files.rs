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
        FdTypes, FdinfoEntry, FifoEntry, FileEntry, MemfdFileEntry, PipeEntry, RegFileEntry, TtyFileEntry,
        TtyInfoEntry, TtyPtyEntry, TtyType,
    },
};

use self::{
    ghosts::GhostDump,
    kernel_fs::{KernelFs, Reopening},
    locks::Locks,
    memfds::Memfds,
    pipes::{PipeContents, PipeEnd},
    remote_fds::RemoteFds,
};
use super::{
    ImageSetBuilder,
    context::TaskCtx,
    fown::{self, no_fown},
    sockets::{SocketFd, Sockets},
};
use crate::{
    checkpoint::{cancel::CancelToken, dump_log::DumpLog, error::Error},
    process::{
        NsPid, Pid, RemoteFd, Tid,
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

/// A file without an fd.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PathKey {
    path: PathBuf,
    dev: u64,
    ino: u64,
    flags: u32,
}

/// Necessary condition for two fds to be the same open file, before kcmp is called: the file and the position.
type OpenFileKey = (PathKey, u64);

/// An fd of an open file that has an entry.
struct ListedFd {
    proc_tid: Tid,
    fd: RemoteFd,
    id: u32,
    kind: FdTypes,
}

/// A file as a process sees it.
#[derive(Clone, Copy)]
struct TaskFile<'a> {
    /// The path, as `/proc` shows it.
    target: &'a Path,
    /// The link in `/proc` through which this process reads the file.
    source: &'a Path,
    metadata: Option<&'a Metadata>,
}

/// The pids of the container's processes, in our namespace and in the container's.
#[derive(Debug, Default)]
pub(super) struct NsPids {
    ns_by_host: HashMap<Pid, NsPid>,
    /// The numbers in both namespaces.
    all_numbers: HashSet<i32>,
}

impl NsPids {
    pub(super) fn insert(&mut self, host_pid: Pid, ns_pid: NsPid) {
        self.ns_by_host.insert(host_pid, ns_pid);
        self.all_numbers
            .extend([host_pid.as_raw(), ns_pid.as_raw().cast_signed()]);
    }

    /// The pid in the container's namespace; `None` for a process outside of the container.
    fn ns_pid(&self, host_pid: Pid) -> Option<NsPid> {
        self.ns_by_host.get(&host_pid).copied()
    }

    /// Whether a process of the container has this pid in either namespace.
    fn contains(&self, number: i32) -> bool {
        self.all_numbers.contains(&number)
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
    open_files: HashMap<OpenFileKey, Vec<ListedFd>>,
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
        let failed = |error| Error::capture(Pid::current(), "the memfds", error);
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
    pub(super) fn link_file(&mut self, task: &mut TaskCtx<'_>, name: &'static str) -> Result<u32, Error> {
        let target = proc_files::read_link(task.proc_tid, name).map_err(task.error(name))?;
        let source = PathBuf::from(format!("/proc/{}/{name}", task.proc_tid));
        let metadata = fs::metadata(&source).map_err(task.error(name))?;
        let file = TaskFile {
            target: &target,
            source: &source,
            metadata: Some(&metadata),
        };
        Ok(self.path_file(task, file, libc::O_RDONLY as u32))
    }

    /// The file of a mapping.
    pub(super) fn mapped_file(&mut self, task: &mut TaskCtx<'_>, mapping: &Mapping, open_flags: u32) -> u32 {
        let proc_tid = task.proc_tid;
        // The path leads to the mapped file unless it now names another file.
        let below_root = mapping.name.strip_prefix("/").unwrap_or(&mapping.name);
        let metadata = fs::metadata(Path::new(&format!("/proc/{proc_tid}/root")).join(below_root))
            .ok()
            .filter(|metadata| metadata.ino() == mapping.inode);
        // This link works even without a path, but needs CAP_CHECKPOINT_RESTORE.
        let Range { start, end } = mapping.range;
        let source = PathBuf::from(format!("/proc/{proc_tid}/map_files/{start:x}-{end:x}"));
        let metadata = metadata.or_else(|| fs::metadata(&source).ok());
        let file = TaskFile {
            target: &mapping.name,
            source: &source,
            metadata: metadata.as_ref(),
        };
        self.path_file(task, file, open_flags)
    }

    fn path_file(&mut self, task: &mut TaskCtx<'_>, file: TaskFile<'_>, flags: u32) -> u32 {
        let key = PathKey {
            path: file.target.to_owned(),
            dev: file.metadata.map_or(0, Metadata::dev),
            ino: file.metadata.map_or(0, Metadata::ino),
            flags,
        };
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
        self.reg_or_memfd(task, &mut entry, file, &info);
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
        task: &mut TaskCtx<'_>,
        cancel: &CancelToken<'_>,
    ) -> Result<Vec<FdinfoEntry>, Error> {
        let fds = proc_files::list_fds(task.proc_tid).map_err(task.error("descriptors"))?;
        let remote_fds = RemoteFds::open(task);
        let entries_before = self.entries.len();
        let mut table = Vec::with_capacity(fds.len());
        for &fd in &fds {
            cancel.check()?;
            let descriptor = proc_files::read_fd(task.proc_tid, fd).map_err(task.error("descriptors"))?;
            let (id, kind) = self.descriptor_entry(task, &descriptor, &remote_fds)?;
            self.locks.report(task, fd, id, &descriptor.info);
            let close_on_exec = descriptor.info.flags & libc::O_CLOEXEC as u32 != 0;
            table.push(FdinfoEntry {
                id,
                flags: if close_on_exec { FDINFO_CLOEXEC } else { 0 },
                r#type: kind.into(),
                fd: fd.as_raw().unsigned_abs(),
                xattr_security_selinux: None,
            });
        }
        let mut epoll_ids = HashSet::new();
        let epoll_fds: HashMap<u32, RemoteFd> = table
            .iter()
            .filter(|entry| entry.r#type() == FdTypes::Eventpoll && epoll_ids.insert(entry.id))
            .map(|entry| (entry.id, RemoteFd::from_raw(entry.fd.cast_signed())))
            .collect();
        for entry in &mut self.entries[entries_before..] {
            if let (Some(epoll), Some(fd)) = (&mut entry.epfd, epoll_fds.get(&entry.id)) {
                cancel.check()?;
                epoll::resolve_watches(task, epoll, *fd, &fds);
            }
        }
        Ok(table)
    }

    fn descriptor_entry(
        &mut self,
        task: &mut TaskCtx<'_>,
        descriptor: &OpenFd,
        remote_fds: &RemoteFds,
    ) -> Result<(u32, FdTypes), Error> {
        let (proc_tid, fd) = (task.proc_tid, descriptor.fd);
        let metadata = fs::metadata(format!("/proc/{proc_tid}/fd/{fd}"));
        let metadata = metadata.map_err(task.error(format!("descriptor {fd}")))?;
        let path_key = PathKey {
            path: descriptor.target.clone(),
            dev: metadata.dev(),
            ino: metadata.ino(),
            flags: descriptor.info.flags & !(libc::O_CLOEXEC as u32),
        };
        let key = (path_key, descriptor.info.pos);
        let candidates = self.open_files.get(&key).map_or(&[][..], Vec::as_slice);
        // Without kcmp every fd counts as a separate open file.
        let position = candidates.binary_search_by(|other| {
            kcmp_order(other.proc_tid, proc_tid, KcmpType::File(other.fd, fd)).unwrap_or(Ordering::Less)
        });
        let insert_at = match position {
            Ok(index) => return Ok((candidates[index].id, candidates[index].kind)),
            Err(index) => index,
        };
        let id = self.next_id();
        let dup_fd = remote_fds.dup(task, fd);
        let dup_fd = dup_fd.as_ref().map(AsFd::as_fd);
        let mut entry = self.file_entry(task, id, descriptor, &metadata, dup_fd);
        if let Some(dup_fd) = dup_fd {
            fown::set_fown(task, &mut entry, fd, dup_fd);
        }
        let kind = entry.r#type();
        self.entries.push(entry);
        let same_key = self.open_files.entry(key).or_default();
        same_key.insert(insert_at, ListedFd { proc_tid, fd, id, kind });
        Ok((id, kind))
    }

    fn file_entry(
        &mut self,
        task: &mut TaskCtx<'_>,
        id: u32,
        descriptor: &OpenFd,
        metadata: &Metadata,
        dup_fd: Option<BorrowedFd<'_>>,
    ) -> FileEntry {
        let OpenFd { target, info, .. } = descriptor;
        let fd = descriptor.fd;
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let name = target.to_string_lossy();
        let kind = metadata.file_type();
        let inode = metadata.ino() as u32;
        let mut entry = FileEntry {
            id,
            ..FileEntry::default()
        };
        let source = PathBuf::from(format!("/proc/{}/fd/{fd}", task.proc_tid));
        let file = TaskFile {
            target,
            source: &source,
            metadata: Some(metadata),
        };
        if kind.is_fifo() {
            let is_named = !name.starts_with("pipe:[");
            let end = PipeEnd {
                inode,
                fd,
                flags,
                dup_fd,
            };
            self.pipes.add(task, is_named, end);
            if flags & libc::O_DIRECT as u32 != 0 {
                task.unsupported(format_args!(
                    "the packet boundaries of the pipe of descriptor {fd} (O_DIRECT)"
                ));
            }
            if !is_named {
                entry.set_type(FdTypes::Pipe);
                entry.pipe = Some(PipeEntry {
                    id,
                    pipe_id: inode,
                    flags,
                    fown: pipes::pipe_fown(task, fd, metadata),
                });
            } else {
                self.pipes.add_fifo_end(task.pid, end);
                entry.set_type(FdTypes::Fifo);
                entry.fifo = Some(FifoEntry {
                    id,
                    pipe_id: inode,
                    regf_id: Some(self.path_file(task, file, flags)),
                });
            }
        } else if kind.is_socket() {
            let socket_fd = SocketFd {
                fd,
                inode: metadata.ino(),
                flags,
                dup_fd,
            };
            self.sockets.describe(task, &mut entry, socket_fd);
        } else if let Some(anon_name) = name.strip_prefix("anon_inode:") {
            let kind = anon_name.trim_matches(['[', ']']);
            anon_inode::describe(task, &mut entry, kind, descriptor, &self.ns_pids);
        } else if kernel_fs::is_pidfd(&source) {
            anon_inode::describe(task, &mut entry, "pidfd", descriptor, &self.ns_pids);
        } else if kind.is_char_device() && is_terminal(metadata.rdev()) {
            let regular_id = self.path_file(task, file, flags);
            entry.set_type(FdTypes::Tty);
            entry.tty = Some(TtyFileEntry {
                id,
                tty_info_id: self.tty_info(task, metadata, fd),
                flags,
                fown: no_fown(),
                regf_id: Some(regular_id),
            });
        } else if let Some(kernel_fs) =
            kernel_fs::lookup(&source).filter(|kernel_fs| kernel_fs.handling == Reopening::NoPath)
        {
            task.unsupported(format_args!(
                "the file {name} of descriptor {fd}, which is of {} and has no path",
                kernel_fs.name
            ));
            anon_inode::set_external(&mut entry, no_fown());
        } else {
            if kind.is_block_device() || kind.is_char_device() && major(metadata.rdev()) != MEM_MAJOR {
                task.unsupported(format_args!("the state of the device of descriptor {fd} ({name})"));
            }
            self.reg_or_memfd(task, &mut entry, file, info);
        }
        entry
    }

    /// The id of a terminal, which is added once.
    fn tty_info(&mut self, task: &mut TaskCtx<'_>, metadata: &Metadata, fd: RemoteFd) -> u32 {
        let rdev = metadata.rdev() as u32;
        if let Some(existing) = self.terminals.iter().find(|tty| tty.rdev == rdev) {
            return existing.id;
        }
        let id = u32::try_from(self.terminals.len() + 1).expect("few terminals");
        task.unsupported(format_args!(
            "the settings and the size of the terminal of descriptor {fd}"
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

    /// Makes the entry a memfd, or a file with a path.
    fn reg_or_memfd(&mut self, task: &mut TaskCtx<'_>, entry: &mut FileEntry, file: TaskFile<'_>, info: &FdInfo) {
        match self.memfd_entry(task, entry.id, file, info) {
            Some(memfd) => {
                entry.set_type(FdTypes::Memfd);
                entry.memfd = Some(memfd);
            }
            None => {
                entry.set_type(FdTypes::Reg);
                entry.reg = Some(self.regular_file(task, entry.id, file, info));
            }
        }
    }

    /// `None` if the file is not a memfd, or cannot be dumped as one.
    fn memfd_entry(
        &mut self,
        task: &mut TaskCtx<'_>,
        id: u32,
        file: TaskFile<'_>,
        info: &FdInfo,
    ) -> Option<MemfdFileEntry> {
        let (path, _) = proc_files::split_deleted(file.target);
        let name = memfds::memfd_name(&path)?;
        let metadata = file.metadata.filter(|metadata| metadata.nlink() == 0)?;
        let memfd = self.memfds.add(id, name, file.source, metadata, info);
        memfd
            .inspect_err(|error| task.unsupported(format_args!("the memfd {name}: {error}")))
            .ok()
    }

    pub(super) fn is_memfd(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.memfd.is_some())
    }

    fn regular_file(&mut self, task: &mut TaskCtx<'_>, id: u32, file: TaskFile<'_>, info: &FdInfo) -> RegFileEntry {
        let TaskFile {
            target,
            source,
            metadata,
        } = file;
        let flags = info.flags & !(libc::O_CLOEXEC as u32);
        let (path, deleted) = match metadata {
            // A name may end with " (deleted)" by itself; a file with a link is not deleted.
            Some(metadata) if metadata.nlink() > 0 => (target.to_owned(), false),
            _ => proc_files::split_deleted(target),
        };
        let kernel_fs = kernel_fs::lookup(source);
        if let Some(kernel_fs) = kernel_fs {
            self.report_kernel_file(task, kernel_fs, &path, metadata, flags);
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
                        task.unsupported(format_args!("{description} of the deleted file {display}"));
                    }
                }
                Err(error) => task.unsupported(format_args!("the content of the deleted file {display}: {error}")),
            }
        }
        let is_replaced = || {
            let below_root = path.strip_prefix("/").unwrap_or(&path);
            let root = PathBuf::from(format!("/proc/{}/root", task.proc_tid));
            let current = fs::metadata(root.join(below_root)).ok();
            let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
            current.as_ref().map(identity) != metadata.map(identity)
        };
        if !deleted && metadata.is_some() && is_replaced() {
            task.unsupported(format_args!(
                "the open file {}, whose path leads to another file or to none",
                path.display()
            ));
        }
        if path.to_str().is_none() {
            task.unsupported(format_args!(
                "the path {path:?}, which is not UTF-8; the archive has a lossy form"
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
        task: &mut TaskCtx<'_>,
        kernel_fs: KernelFs,
        path: &Path,
        metadata: Option<&Metadata>,
        flags: u32,
    ) {
        let display = path.display();
        let is_open = flags & libc::O_PATH as u32 == 0 && metadata.is_none_or(|metadata| !metadata.is_dir());
        if kernel_fs.handling != Reopening::ByPath && is_open {
            let name = kernel_fs.name;
            task.unsupported(format_args!("the kernel's state of the open file {display} ({name})"));
        }
        if kernel_fs::proc_pid(kernel_fs, path).is_some_and(|target_pid| !self.ns_pids.contains(target_pid)) {
            task.unsupported(format_args!(
                "the file {display}, whose process is outside of the container"
            ));
        }
        if is_open && kernel_fs::has_psi_trigger(path, flags) {
            task.unsupported(format_args!(
                "the pressure stall trigger (PSI) of the open file {display}"
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
