//! The watches of epoll fds, with fds by which a restorer can add them again.
//!
//! `fdinfo` names a watched file by its fd at the time of EPOLL_CTL_ADD. That fd may be closed or refer to another file
//! by now, so kcmp (`KCMP_EPOLL_TFD`) checks whether it still refers to the watched file. If it does not, another fd of
//! the same file is searched in the process, as in CRIU (criu/eventpoll.c). A watch of a file for which the process has
//! no fd cannot be added again: it is reported and omitted.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use cri_proto::criu::message::{EventpollFileEntry, EventpollTfdEntry};
use nix::errno::Errno;

use super::super::context::TaskCtx;
use crate::process::{
    RemoteFd, Tid,
    syscalls::{KcmpEpollSlot, KcmpType, kcmp_epoll_order, kcmp_order},
};

/// Flags in the event mask of a watch: `EPOLLEXCLUSIVE`, `EPOLLWAKEUP`, `EPOLLONESHOT`, `EPOLLET` (linux/eventpoll.h).
const EPOLL_FLAG_BITS: u32 = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31;

/// Parses a line of an epoll fd's fdinfo: `8 events: 19 data: ff  pos:0 ino:8f sdev:d`.
pub(super) fn parse_watch(id: u32, line: &str) -> Option<EventpollTfdEntry> {
    let spaced = line.replace(':', ": ");
    let mut words = spaced.split_whitespace();
    let tfd = words.next()?.parse().ok()?;
    let mut fields = HashMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        fields.insert(name.trim_end_matches(':').to_owned(), value.to_owned());
    }
    let hex = |name: &str| u64::from_str_radix(fields.get(name)?, 16).ok();
    Some(EventpollTfdEntry {
        id,
        tfd,
        events: hex("events")? as u32,
        data: hex("data")?,
        dev: hex("sdev").map(|dev| dev as u32),
        inode: hex("ino"),
        pos: fields.get("pos").and_then(|pos| pos.parse().ok()),
    })
}

/// Sets the fd of every watch to an fd that refers to the watched file now. `fds` are the fds of the process that has
/// the epoll fd, in ascending order.
pub(super) fn resolve_watches(task: &mut TaskCtx<'_>, epoll: &mut EventpollFileEntry, fd: RemoteFd, fds: &[RemoteFd]) {
    let proc_tid = task.proc_tid;
    let mut next_offsets: HashMap<u32, u32> = HashMap::new();
    let mut used_fds = HashSet::new();
    let mut stale = HashMap::new();
    for (index, watch) in epoll.tfd.iter().enumerate() {
        if watch.events & !EPOLL_FLAG_BITS == 0 {
            task.unsupported(format_args!(
                "the disabled state of the watch of descriptor {} by the epoll descriptor {fd} \
                 (EPOLLONESHOT)",
                watch.tfd
            ));
        }
        let offset = next_offsets.entry(watch.tfd).or_default();
        let slot = KcmpEpollSlot {
            efd: fd.as_raw().unsigned_abs(),
            tfd: watch.tfd,
            toff: *offset,
        };
        *offset += 1;
        let watched_fd = RemoteFd::from_raw(watch.tfd.cast_signed());
        match kcmp_epoll_order(proc_tid, watched_fd, slot) {
            Ok(Ordering::Equal) => drop(used_fds.insert(watched_fd)),
            // Without kcmp only the fd counts.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS)
                if fds.binary_search(&watched_fd).is_ok() && used_fds.insert(watched_fd) => {}
            _ => drop(stale.insert(index, slot)),
        }
    }
    if stale.is_empty() {
        return;
    }
    // In kcmp order; fds of one open file are adjacent.
    let mut fds_by_file = fds.to_vec();
    fds_by_file
        .sort_by(|one, other| kcmp_order(proc_tid, proc_tid, KcmpType::File(*one, *other)).unwrap_or(Ordering::Less));
    let mut index = 0;
    epoll.tfd.retain_mut(|watch| {
        let slot = stale.get(&index);
        index += 1;
        let Some(slot) = slot else {
            return true;
        };
        match unused_fd_of_file(proc_tid, &fds_by_file, *slot, &used_fds) {
            Some(new_fd) => {
                used_fds.insert(new_fd);
                watch.tfd = new_fd.as_raw().unsigned_abs();
                true
            }
            None => {
                task.unsupported(format_args!(
                    "the watch of the epoll descriptor {fd} on descriptor {}, which was closed or replaced; \
                     no other descriptor of the process refers to the watched file",
                    watch.tfd
                ));
                false
            }
        }
    });
}

/// An fd of the watched file that no other watch of the same epoll fd uses: each pair of file and fd can be watched
/// once.
fn unused_fd_of_file(
    proc_tid: Tid,
    fds_by_file: &[RemoteFd],
    slot: KcmpEpollSlot,
    used_fds: &HashSet<RemoteFd>,
) -> Option<RemoteFd> {
    let position = fds_by_file.binary_search_by(|fd| kcmp_epoll_order(proc_tid, *fd, slot).unwrap_or(Ordering::Less));
    let is_same = |fd: &&RemoteFd| kcmp_epoll_order(proc_tid, **fd, slot) == Ok(Ordering::Equal);
    let (before, after) = fds_by_file.split_at(position.ok()?);
    let same_file = after
        .iter()
        .take_while(is_same)
        .chain(before.iter().rev().take_while(is_same));
    same_file.copied().filter(|fd| !used_fds.contains(fd)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_line_is_parsed() {
        let entry = parse_watch(
            7,
            "       8 events:       19 data: ffffffff00000008  pos:0 ino:8f sdev:d",
        )
        .expect("well formed");
        assert_eq!((entry.id, entry.tfd, entry.events), (7, 8, 0x19));
        assert_eq!(
            (entry.data, entry.inode, entry.dev),
            (0xffff_ffff_0000_0008, Some(0x8f), Some(0xd))
        );
    }
}
