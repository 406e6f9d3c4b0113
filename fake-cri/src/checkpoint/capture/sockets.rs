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
mod network;
mod options;
mod queue;
mod unix;
mod unplaced;

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
};

use cri_proto::criu::message::{FdTypes, FileEntry, SkOptsEntry};

use self::{
    network::{Network, Socket},
    queue::Queues,
};
use super::{Images, owner::no_owner};
use crate::{checkpoint::log::DumpLog, process::proc};

/// States of a socket, for TCP and, in CRIU's images, for unix sockets too (net/tcp_states.h).
const ESTABLISHED: u32 = 1;
const CLOSED: u32 = 7;
const LISTEN: u32 = 10;

/// A descriptor that leads to a socket.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its process.
    pub(super) pid: i32,
    /// The thread that it is seen through.
    pub(super) window: i32,
    /// Its number there.
    pub(super) fd: i32,
    /// The socket's inode.
    pub(super) inode: u64,
    /// The flags of open(2).
    pub(super) flags: u32,
    /// A descriptor of ours that leads to the same socket.
    pub(super) copy: Option<BorrowedFd<'a>>,
}

/// The sockets of each network namespace that was met.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    networks: HashMap<String, Network>,
    queues: Queues,
}

impl Sockets {
    /// Fills the entry of a socket.
    pub(super) fn describe(&mut self, entry: &mut FileEntry, place: Place<'_>, log: &mut DumpLog) {
        let Place { pid, window, fd, .. } = place;
        let namespace =
            proc::link(window, "ns/net").map_or_else(|_| pid.to_string(), |link| link.display().to_string());
        let network = self.networks.entry(namespace).or_insert_with(|| Network::of(window));
        match network.listed(place.inode).or_else(|| inet::unlisted(place, log)) {
            Some(Socket::Unix { kind, state, name }) => {
                unix::describe(entry, place, (kind, state, name), (network, &mut self.queues), log);
            }
            Some(Socket::Inet(inet)) => inet::describe(entry, place, inet, network, log),
            None => {
                entry.set_type(FdTypes::Ext);
                entry.ext = Some(cri_proto::criu::message::ExtFileEntry {
                    id: entry.id,
                    fown: no_owner(),
                });
                log.lost(format_args!(
                    "pid {pid}: the socket of descriptor {fd}, which is neither of unix nor of inet"
                ));
            }
        }
    }

    /// Adds `sk-queues.img`, and lets go of peers that no process of the container holds.
    pub(super) fn finish(self, entries: &mut [FileEntry], images: &mut Images, log: &mut DumpLog) {
        let held: HashSet<u32> = entries
            .iter()
            .filter_map(|entry| Some(entry.usk.as_ref()?.ino))
            .collect();
        for socket in entries.iter_mut().filter_map(|entry| entry.usk.as_mut()) {
            if socket.peer != 0 && !held.contains(&socket.peer) {
                log.lost(format_args!(
                    "the peer of the unix socket {}, which is outside of the container",
                    socket.ino
                ));
                socket.peer = 0;
            }
        }
        self.queues.images(images);
    }
}

/// The options of the level SOL_SOCKET; those that images have no place for are named.
fn options_of(place: Place<'_>, network: &mut Network, kind: (u32, u32, u32), log: &mut DumpLog) -> SkOptsEntry {
    let Some(copy) = place.copy else {
        return options::unknown();
    };
    report_unplaced(place, copy, network, kind, log);
    options::of_socket(copy).unwrap_or_else(|errno| {
        let Place { pid, fd, .. } = place;
        log.lost(format_args!(
            "pid {pid}: the options of the socket of descriptor {fd}: {errno}"
        ));
        options::unknown()
    })
}

/// Names the options of a socket that images have no place for, and that it did not have when it was new.
fn report_unplaced(
    place: Place<'_>,
    copy: BorrowedFd<'_>,
    network: &mut Network,
    kind: (u32, u32, u32),
    log: &mut DumpLog,
) {
    let Place { pid, fd, .. } = place;
    let Some(defaults) = network.defaults(kind) else {
        log.lost(format_args!(
            "pid {pid}: options of the socket of descriptor {fd} that images have no place for, since no socket of its kind can be \
             made to compare them with"
        ));
        return;
    };
    for name in defaults.differing(copy) {
        log.lost(format_args!(
            "pid {pid}: the option {name} of the socket of descriptor {fd}"
        ));
    }
}
