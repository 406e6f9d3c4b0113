//! Unix sockets: names, files, peers, and unread data.

use std::{
    fs::{self, Metadata},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use cri_proto::criu::message::{FdTypes, FileEntry, FilePermsEntry, SkShutdown, UnixSkEntry};
use nix::sys::stat::{major, minor};

use super::{
    SocketFd, SocketKind, TCP_LISTEN, TaskCtx,
    net_ns::{NetNs, UnixSocket},
    no_fown,
    queue::SocketQueues,
    socket_options,
};
use crate::process::{RemoteFd, proc_files, unix_diag::UnixDiag};

/// The character that `/proc/net/unix` shows for a NUL.
const NUL_PLACEHOLDER: u8 = b'@';
/// The default maximum backlog (net.core.somaxconn before Linux 5.4).
const DEFAULT_BACKLOG: u32 = 128;

/// Fills the entry of a unix socket. Type, state and name are those of `/proc/net/unix`.
pub(super) fn describe(
    task: &mut TaskCtx<'_>,
    entry: &mut FileEntry,
    socket_fd: SocketFd<'_>,
    listed: UnixSocket,
    net_ns: &mut NetNs,
    queues: &mut SocketQueues,
) {
    let UnixSocket {
        socket_type,
        state,
        name,
    } = listed;
    let fd = socket_fd.fd;
    let ino = socket_fd.inode as u32;
    let diag = net_ns.unix_state(ino, task.log).unwrap_or_else(|error| {
        task.unsupported(format_args!("the peer of the unix socket of descriptor {fd}: {error}"));
        UnixDiag {
            backlog: if state == TCP_LISTEN { DEFAULT_BACKLOG } else { 0 },
            ..UnixDiag::default()
        }
    });
    let name = match (&diag.name, name.contains(&NUL_PLACEHOLDER)) {
        (Some(diag_name), _) => diag_name.clone(),
        // `/proc/net/unix` shows every NUL of an abstract name as @, and also every @.
        (None, true) => {
            let shown = String::from_utf8_lossy(&name);
            task.unsupported(format_args!(
                "which @ are NULs in the name {shown} of the unix socket of descriptor {fd}; only the first is \
                 taken as one"
            ));
            guess_abstract_name(&name)
        }
        (None, false) => name,
    };
    let bound_file = BoundFile::find(task, fd, &name, diag.vfs_file);
    let kind = SocketKind {
        family: libc::AF_UNIX as u32,
        socket_type,
        protocol: 0,
    };
    entry.set_type(FdTypes::Unixsk);
    entry.usk = Some(UnixSkEntry {
        id: entry.id,
        ino,
        r#type: socket_type,
        state,
        flags: socket_fd.flags,
        uflags: 0,
        backlog: if state == TCP_LISTEN { diag.backlog } else { 0 },
        peer: diag.peer,
        fown: no_fown(),
        opts: socket_options(task, socket_fd, net_ns, kind),
        name,
        shutdown: match diag.shutdown & 3 {
            0 => None,
            1 => Some(SkShutdown::Read.into()),
            2 => Some(SkShutdown::Write.into()),
            _ => Some(SkShutdown::Both.into()),
        },
        file_perms: bound_file.permissions,
        name_dir: bound_file.directory,
        deleted: bound_file.deleted.then_some(true),
        ..UnixSkEntry::default()
    });
    if state == TCP_LISTEN {
        if diag.pending_connections > 0 {
            let waiting = diag.pending_connections;
            task.unsupported(format_args!(
                "{waiting} connections of the listening unix socket of descriptor {fd} that are not accepted yet"
            ));
        }
        return;
    }
    // The missing duplicate was already reported for the process.
    let Some(dup_fd) = socket_fd.dup_fd else {
        return;
    };
    match queues.add(entry.id, dup_fd, diag.shutdown & 1 != 0) {
        Ok(unsupported) => {
            for description in unsupported.descriptions(socket_type) {
                task.unsupported(format_args!("{description} of the unix socket of descriptor {fd}"));
            }
        }
        Err(errno) => task.unsupported(format_args!(
            "the unread data of the unix socket of descriptor {fd}: {errno}"
        )),
    }
}

/// The file that a unix socket is bound to.
#[derive(Debug, Default)]
struct BoundFile {
    permissions: Option<FilePermsEntry>,
    /// The directory in which a relative name was bound.
    directory: Option<String>,
    /// The file was removed, or its name refers to another file.
    deleted: bool,
}

impl BoundFile {
    /// Finds the file by the socket's name, and by the inode and device that sock_diag reports. The name alone could
    /// refer to the file of another socket, which was bound later.
    fn find(task: &mut TaskCtx<'_>, fd: RemoteFd, name: &[u8], file: Option<(u32, u32)>) -> Self {
        let proc_tid = task.proc_tid;
        let path = name.strip_suffix(&[0]).unwrap_or(name);
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let root = PathBuf::from(format!("/proc/{proc_tid}/root"));
        let stat_socket = |path: &Path| {
            let metadata = fs::symlink_metadata(path).ok()?;
            (metadata.file_type().is_socket() && file.is_none_or(|file| is_same_inode(&metadata, file)))
                .then_some(metadata)
        };
        match name.first() {
            None | Some(0) => Self::default(),
            Some(b'/') => match stat_socket(&root.join(path.strip_prefix("/").unwrap_or(path))) {
                Some(metadata) => Self {
                    permissions: Some(permissions(&metadata)),
                    ..Self::default()
                },
                None => Self {
                    deleted: true,
                    ..Self::default()
                },
            },
            Some(_) => {
                // The same search order as in CRIU (criu/sk-unix.c).
                for base in ["cwd", "root"] {
                    let socket_file = stat_socket(&PathBuf::from(format!("/proc/{proc_tid}/{base}")).join(path));
                    let directory = proc_files::read_link(proc_tid, base).ok();
                    let directory = directory.and_then(|directory| directory.to_str().map(str::to_owned));
                    if let (Some(metadata), Some(directory)) = (socket_file, directory) {
                        return Self {
                            permissions: Some(permissions(&metadata)),
                            directory: Some(directory),
                            deleted: false,
                        };
                    }
                }
                task.unsupported(format_args!(
                    "the directory in which the unix socket of descriptor {fd} was bound"
                ));
                Self::default()
            }
        }
    }
}

fn permissions(metadata: &Metadata) -> FilePermsEntry {
    FilePermsEntry {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    }
}

/// Whether a file has this inode and device of sock_diag. Some filesystems report another device in stat(2); such
/// devices have no major number.
fn is_same_inode(metadata: &Metadata, (inode, device): (u32, u32)) -> bool {
    let stat_device = (major(metadata.dev()) << 20 | minor(metadata.dev())) as u32;
    metadata.ino() as u32 == inode && (stat_device == device || (stat_device >> 20 == 0 && device >> 20 == 0))
}

/// Guesses an abstract name from its form in `/proc/net/unix`, which begins with @ and ends with a NUL.
fn guess_abstract_name(shown: &[u8]) -> Vec<u8> {
    match shown {
        [NUL_PLACEHOLDER, rest @ .., 0] => [&[0], rest].concat(),
        other => other.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_name_is_guessed_from_the_list() {
        assert_eq!(guess_abstract_name(b"@x@y\0"), b"\0x@y");
        assert_eq!(guess_abstract_name(b"/run/a@b\0"), b"/run/a@b\0");
    }
}
