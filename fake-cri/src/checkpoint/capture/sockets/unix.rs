//! Unix sockets: names, files, peers, and what is unread.

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

use super::{LISTEN, Place, network::Network, no_owner, options_of, queue::Queues};
use crate::{
    checkpoint::log::DumpLog,
    process::{proc, unix_diag::UnixState},
};

/// What the list of unix sockets shows for a zero.
const AT: u8 = b'@';
/// The longest queue of connections that Linux grants by default.
const BACKLOG: u32 = 128;

/// Fills the entry of a unix socket of this type and state, which a list shows with this name.
pub(super) fn describe(
    entry: &mut FileEntry,
    place: Place<'_>,
    (kind, state, name): (u32, u32, Vec<u8>),
    (network, queues): (&mut Network, &mut Queues),
    log: &mut DumpLog,
) {
    let Place { pid, fd, .. } = place;
    let ino = place.inode as u32;
    let known = network.unix(ino, log).unwrap_or_else(|error| {
        log.lost(format_args!(
            "pid {pid}: the peer of the unix socket of descriptor {fd}: {error}"
        ));
        UnixState {
            backlog: if state == LISTEN { BACKLOG } else { 0 },
            ..UnixState::default()
        }
    });
    let name = match (&known.name, name.contains(&AT)) {
        (Some(told), _) => told.clone(),
        // The list shows every zero of an abstract name as @, and @ too.
        (None, true) => {
            let shown = String::from_utf8_lossy(&name);
            log.lost(format_args!(
                "pid {pid}: which @ are zeroes in the name {shown} of the unix socket of descriptor {fd}; the first is taken for one"
            ));
            guessed(&name)
        }
        (None, false) => name,
    };
    let bound = Bound::of(place, &name, known.file, log);
    entry.set_type(FdTypes::Unixsk);
    entry.usk = Some(UnixSkEntry {
        id: entry.id,
        ino,
        r#type: kind,
        state,
        flags: place.flags,
        uflags: 0,
        backlog: if state == LISTEN { known.backlog } else { 0 },
        peer: known.peer,
        fown: no_owner(),
        opts: options_of(place, network, (libc::AF_UNIX as u32, kind, 0), log),
        name,
        shutdown: match known.shutdown & 3 {
            0 => None,
            1 => Some(SkShutdown::Read.into()),
            2 => Some(SkShutdown::Write.into()),
            _ => Some(SkShutdown::Both.into()),
        },
        file_perms: bound.permissions,
        name_dir: bound.folder,
        deleted: bound.deleted.then_some(true),
        ..UnixSkEntry::default()
    });
    if state == LISTEN {
        if known.waiting > 0 {
            let waiting = known.waiting;
            log.lost(format_args!(
                "pid {pid}: {waiting} connections of the listening unix socket of descriptor {fd} that are not accepted yet"
            ));
        }
        return;
    }
    // That there is no copy is said once for the whole process.
    let Some(copy) = place.copy else {
        return;
    };
    match queues.add(entry.id, copy, known.shutdown & 1 != 0) {
        Ok(lost) => {
            for what in lost.names(kind) {
                log.lost(format_args!("pid {pid}: {what} of the unix socket of descriptor {fd}"));
            }
        }
        Err(errno) => log.lost(format_args!(
            "pid {pid}: what is unread in the unix socket of descriptor {fd}: {errno}"
        )),
    }
}

/// The file that a unix socket is bound to.
#[derive(Debug, Default)]
struct Bound {
    permissions: Option<FilePermsEntry>,
    /// The folder that a relative name begins in.
    folder: Option<String>,
    /// The file is gone, or its name leads to another file.
    deleted: bool,
}

impl Bound {
    /// By the name of the socket and the inode and device that the kernel tells. A name alone may lead to the file of another
    /// socket, which was bound to it later.
    fn of(place: Place<'_>, name: &[u8], file: Option<(u32, u32)>, log: &mut DumpLog) -> Self {
        let Place { pid, window, fd, .. } = place;
        let path = name.strip_suffix(&[0]).unwrap_or(name);
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let root = PathBuf::from(format!("/proc/{window}/root"));
        let there = |path: &Path| {
            let metadata = fs::symlink_metadata(path).ok()?;
            (metadata.file_type().is_socket() && file.is_none_or(|file| is_same(&metadata, file))).then_some(metadata)
        };
        match name.first() {
            None | Some(0) => Self::default(),
            Some(b'/') => match there(&root.join(path.strip_prefix("/").unwrap_or(path))) {
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
                // As CRIU looks for it (criu/sk-unix.c).
                for start in ["cwd", "root"] {
                    let found = there(&PathBuf::from(format!("/proc/{window}/{start}")).join(path));
                    let folder = proc::link(window, start).ok();
                    let folder = folder.and_then(|folder| folder.to_str().map(str::to_owned));
                    if let (Some(metadata), Some(folder)) = (found, folder) {
                        return Self {
                            permissions: Some(permissions(&metadata)),
                            folder: Some(folder),
                            deleted: false,
                        };
                    }
                }
                log.lost(format_args!(
                    "pid {pid}: the folder that the name of the unix socket of descriptor {fd} began in"
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

/// Whether a file is that of this inode and device, as sock_diag tells them. Some file systems show stat(2) another device than
/// they have; those have no major number.
fn is_same(metadata: &Metadata, (inode, device): (u32, u32)) -> bool {
    let shown = (major(metadata.dev()) << 20 | minor(metadata.dev())) as u32;
    metadata.ino() as u32 == inode && (shown == device || (shown >> 20 == 0 && device >> 20 == 0))
}

/// What a name is likely to be that the list shows, ended by a zero, with @ at its beginning.
fn guessed(shown: &[u8]) -> Vec<u8> {
    match shown {
        [AT, rest @ .., 0] => [&[0], rest].concat(),
        other => other.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_only_shown_is_guessed() {
        assert_eq!(guessed(b"@x@y\0"), b"\0x@y");
        assert_eq!(guessed(b"/run/a@b\0"), b"/run/a@b\0");
    }
}
