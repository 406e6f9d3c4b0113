//! Sockets: addresses and states from `/proc/PID/net`, options and unread data through a duplicate of the fd, peers of
//! unix sockets from sock_diag(7).
//!
//! ```text
//!   net_ns      the sockets of a network namespace, read once; the options of new sockets
//!   unix        names, files, peers; queue: unread data
//!   inet        addresses, states, backlogs, errors; multicast: groups
//!   options     options with a field in the images; unsupported_options: options without one
//! ```
//!
//! Pairs of unix sockets within the container are dumped with their unread data, and so are listening sockets. A
//! connection to a peer outside of the container is recorded but cannot be restored, and `dump.log` reports it. Without
//! a duplicate of the fd (Linux before 5.6) the options are those of a new socket, which is reported too.

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
use super::{ImageSetBuilder, context::TaskCtx, fown::no_fown};
use crate::{
    checkpoint::dump_log::DumpLog,
    process::{RemoteFd, proc_files},
};

/// Socket states of TCP, which CRIU's images use for unix sockets too (net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// An fd of a socket.
#[derive(Clone, Copy)]
pub(super) struct SocketFd<'a> {
    pub(super) fd: RemoteFd,
    pub(super) inode: u64,
    /// Open file flags.
    pub(super) flags: u32,
    /// A duplicate of the fd in this process.
    pub(super) dup_fd: Option<BorrowedFd<'a>>,
}

/// The arguments of socket(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SocketKind {
    family: u32,
    socket_type: u32,
    protocol: u32,
}

/// The sockets by network namespace.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    net_namespaces: HashMap<String, NetNs>,
    queues: SocketQueues,
}

impl Sockets {
    pub(super) fn describe(&mut self, task: &mut TaskCtx<'_>, entry: &mut FileEntry, socket_fd: SocketFd<'_>) {
        let (proc_tid, fd) = (task.proc_tid, socket_fd.fd);
        let namespace = proc_files::read_link(proc_tid, "ns/net")
            .map_or_else(|_| task.pid.to_string(), |link| link.display().to_string());
        let net_ns = self
            .net_namespaces
            .entry(namespace)
            .or_insert_with(|| NetNs::new(proc_tid));
        match net_ns
            .socket_of(socket_fd.inode)
            .or_else(|| inet::unlisted_socket(task, socket_fd))
        {
            Some(ListedSocket::Unix(unix)) => {
                unix::describe(task, entry, socket_fd, unix, net_ns, &mut self.queues);
            }
            Some(ListedSocket::Inet(inet)) => inet::describe(task, entry, socket_fd, inet, net_ns),
            None => {
                entry.set_type(FdTypes::Ext);
                entry.ext = Some(cri_proto::criu::message::ExtFileEntry {
                    id: entry.id,
                    fown: no_fown(),
                });
                task.unsupported(format_args!(
                    "the socket of descriptor {fd}, which is neither a unix nor an inet socket"
                ));
            }
        }
    }

    /// Adds `sk-queues.img`, and clears peers that no process of the container has.
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

/// The options of level SOL_SOCKET. Options without a field are reported.
fn socket_options(
    task: &mut TaskCtx<'_>,
    socket_fd: SocketFd<'_>,
    net_ns: &mut NetNs,
    kind: SocketKind,
) -> SkOptsEntry {
    let Some(dup_fd) = socket_fd.dup_fd else {
        return options::default_options();
    };
    let fd = socket_fd.fd;
    report_unsupported_options(task, fd, dup_fd, net_ns, kind);
    options::socket_level_options(dup_fd).unwrap_or_else(|errno| {
        task.unsupported(format_args!("the options of the socket of descriptor {fd}: {errno}"));
        options::default_options()
    })
}

/// Reports options without a field in the images that differ from those of a new socket.
fn report_unsupported_options(
    task: &mut TaskCtx<'_>,
    fd: RemoteFd,
    dup_fd: BorrowedFd<'_>,
    net_ns: &mut NetNs,
    kind: SocketKind,
) {
    let Some(defaults) = net_ns.default_options(kind) else {
        task.unsupported(format_args!(
            "options of the socket of descriptor {fd} that no image can hold: no socket of its kind can be \
             created to compare them with"
        ));
        return;
    };
    for name in defaults.differing_names(dup_fd) {
        task.unsupported(format_args!("the option {name} of the socket of descriptor {fd}"));
    }
}
