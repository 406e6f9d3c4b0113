//! Sockets: addresses and states from `/proc/PID/net`, options and what is unread from a copy of the descriptor, the two ends of
//! a unix socket from the kernel's own list (sock_diag(7)).
//!
//! ```text
//!   network     what a network namespace lists, read once; the options of new sockets
//!   unix        names, files, peers; queue: what is unread
//!   inet        addresses, states, backlogs, errors; multicast: groups
//!   options     what images have a place for; unplaced: what they have none for
//! ```
//!
//! A pair of unix sockets within the container is carried with what is unread in it, and so is who listens; a connection to
//! somewhere else is not: it is recorded, and `dump.log` says so. Without a copy of the descriptor (Linux before 5.6) the options
//! are those of a new socket, said as well.

mod inet;
mod multicast;
mod net_ns;
mod options;
mod queue;
mod unix;
mod unsupported_options;

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
};

use cri_proto::criu::message::{FdTypes, FileEntry, SkOptsEntry};

use self::{
    net_ns::{ListedSocket, NetNs},
    queue::SocketQueues,
};
use super::{ImageSetBuilder, fown::no_fown};
use crate::{checkpoint::dump_log::DumpLog, process::proc_files};

/// States of a socket, for TCP and, in CRIU's images, for unix sockets too (net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// A descriptor that leads to a socket.
#[derive(Clone, Copy)]
pub(super) struct SocketFd<'a> {
    /// Its process.
    pub(super) pid: i32,
    /// The thread that it is seen through.
    pub(super) proc_tid: i32,
    /// Its number there.
    pub(super) fd: i32,
    /// The socket's inode.
    pub(super) inode: u64,
    /// The flags of open(2).
    pub(super) flags: u32,
    /// A descriptor of ours that leads to the same socket.
    pub(super) dup_fd: Option<BorrowedFd<'a>>,
}

/// The sockets of each network namespace that was met.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    net_namespaces: HashMap<String, NetNs>,
    queues: SocketQueues,
}

impl Sockets {
    /// Fills the entry of a socket.
    pub(super) fn describe(&mut self, entry: &mut FileEntry, socket_fd: SocketFd<'_>, log: &mut DumpLog) {
        let SocketFd { pid, proc_tid, fd, .. } = socket_fd;
        let namespace = proc_files::read_link(proc_tid, "ns/net")
            .map_or_else(|_| pid.to_string(), |link| link.display().to_string());
        let net_ns = self
            .net_namespaces
            .entry(namespace)
            .or_insert_with(|| NetNs::new(proc_tid));
        match net_ns
            .socket_of(socket_fd.inode)
            .or_else(|| inet::unlisted_socket(socket_fd, log))
        {
            Some(ListedSocket::Unix { kind, state, name }) => {
                unix::describe(entry, socket_fd, (kind, state, name), (net_ns, &mut self.queues), log);
            }
            Some(ListedSocket::Inet(inet)) => inet::describe(entry, socket_fd, inet, net_ns, log),
            None => {
                entry.set_type(FdTypes::Ext);
                entry.ext = Some(cri_proto::criu::message::ExtFileEntry {
                    id: entry.id,
                    fown: no_fown(),
                });
                log.unsupported(format_args!(
                    "pid {pid}: the socket of descriptor {fd}, which is neither of unix nor of inet"
                ));
            }
        }
    }

    /// Adds `sk-queues.img`, and lets go of peers that no process of the container holds.
    pub(super) fn finish(self, entries: &mut [FileEntry], images: &mut ImageSetBuilder, log: &mut DumpLog) {
        let held_inodes: HashSet<u32> = entries
            .iter()
            .filter_map(|entry| Some(entry.usk.as_ref()?.ino))
            .collect();
        for socket in entries.iter_mut().filter_map(|entry| entry.usk.as_mut()) {
            if socket.peer != 0 && !held_inodes.contains(&socket.peer) {
                log.unsupported(format_args!(
                    "the peer of the unix socket {}, which is outside of the container",
                    socket.ino
                ));
                socket.peer = 0;
            }
        }
        self.queues.push_images(images);
    }
}

/// The options of the level SOL_SOCKET; those that images have no place for are named.
fn socket_options(
    socket_fd: SocketFd<'_>,
    net_ns: &mut NetNs,
    kind: (u32, u32, u32),
    log: &mut DumpLog,
) -> SkOptsEntry {
    let Some(dup_fd) = socket_fd.dup_fd else {
        return options::default_options();
    };
    report_unsupported_options(socket_fd, dup_fd, net_ns, kind, log);
    options::socket_level_options(dup_fd).unwrap_or_else(|errno| {
        let SocketFd { pid, fd, .. } = socket_fd;
        log.unsupported(format_args!(
            "pid {pid}: the options of the socket of descriptor {fd}: {errno}"
        ));
        options::default_options()
    })
}

/// Names the options of a socket that images have no place for, and that it did not have when it was new.
fn report_unsupported_options(
    socket_fd: SocketFd<'_>,
    dup_fd: BorrowedFd<'_>,
    net_ns: &mut NetNs,
    kind: (u32, u32, u32),
    log: &mut DumpLog,
) {
    let SocketFd { pid, fd, .. } = socket_fd;
    let Some(defaults) = net_ns.default_options(kind) else {
        log.unsupported(format_args!(
            "pid {pid}: options of the socket of descriptor {fd} that images have no place for, since no socket of its kind can be \
             made to compare them with"
        ));
        return;
    };
    for name in defaults.differing_names(dup_fd) {
        log.unsupported(format_args!(
            "pid {pid}: the option {name} of the socket of descriptor {fd}"
        ));
    }
}
