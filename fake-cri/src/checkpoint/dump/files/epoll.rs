//! What epoll descriptors watch, by the numbers under which a restorer can add it again.
//!
//! `fdinfo` names a watched file by the number that it had when it was added. By now the number may be free or another
//! file's, so the kernel is asked whether the number still leads to the watched file (`KCMP_EPOLL_TFD`). Where it does not,
//! another number of the same file is looked for among the descriptors of the process, as CRIU does (criu/eventpoll.c). A watch
//! of a file that the process has under no number cannot be added again: it is named and left out.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use cri_proto::criu::message::{EventpollFileEntry, EventpollTfdEntry};
use nix::errno::Errno;

use crate::{
    checkpoint::dump_log::DumpLog,
    process::syscalls::{KcmpEpollSlot, KcmpType, kcmp_epoll_order, kcmp_order},
};

/// What stands beside the events in the mask of a watch: `EPOLLEXCLUSIVE`, `EPOLLWAKEUP`, `EPOLLONESHOT`, `EPOLLET`
/// (linux/eventpoll.h).
const EPOLL_FLAG_BITS: u32 = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31;

/// A line of an epoll descriptor: `8 events: 19 data: ff  pos:0 ino:8f sdev:d`.
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

/// The process whose epoll descriptor is looked at.
pub(super) struct FdTable<'a> {
    pub(super) pid: i32,
    /// The thread that it is seen through.
    pub(super) proc_tid: i32,
    /// The numbers of its descriptors, in their order.
    pub(super) fds: &'a [i32],
}

/// Has every watch of an epoll descriptor name a number that leads to the watched file now.
pub(super) fn resolve_watches(epoll: &mut EventpollFileEntry, fd: i32, holder: &FdTable<'_>, log: &mut DumpLog) {
    let &FdTable { pid, proc_tid, fds } = holder;
    let mut next_offsets: HashMap<u32, u32> = HashMap::new();
    let mut used_fds = HashSet::new();
    let mut stale = HashMap::new();
    for (index, watch) in epoll.tfd.iter().enumerate() {
        if watch.events & !EPOLL_FLAG_BITS == 0 {
            log.unsupported(format_args!(
                "pid {pid}: that the watch of descriptor {} by the epoll descriptor {fd} reports nothing, not even an error or a \
                 hang-up (EPOLLONESHOT)",
                watch.tfd
            ));
        }
        let offset = next_offsets.entry(watch.tfd).or_default();
        let slot = KcmpEpollSlot {
            efd: fd.unsigned_abs(),
            tfd: watch.tfd,
            toff: *offset,
        };
        *offset += 1;
        let watched_fd = watch.tfd.cast_signed();
        match kcmp_epoll_order(proc_tid, watched_fd, slot) {
            Ok(Ordering::Equal) => drop(used_fds.insert(watched_fd)),
            // Without the comparison the number alone counts.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS)
                if fds.binary_search(&watched_fd).is_ok() && used_fds.insert(watched_fd) => {}
            _ => drop(stale.insert(index, slot)),
        }
    }
    if stale.is_empty() {
        return;
    }
    // In the kernel's order of open files; numbers of one open file stand side by side.
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
                watch.tfd = new_fd.unsigned_abs();
                true
            }
            None => {
                log.unsupported(format_args!(
                    "pid {pid}: what the epoll descriptor {fd} watches by the number {}, which leads to another file or to none now; \
                     no free number of the process leads to the watched file",
                    watch.tfd
                ));
                false
            }
        }
    });
}

/// A number of the watched file that no other watch of the same epoll descriptor has: the pair of both may be there but once.
fn unused_fd_of_file(proc_tid: i32, fds_by_file: &[i32], slot: KcmpEpollSlot, used_fds: &HashSet<i32>) -> Option<i32> {
    let position = fds_by_file.binary_search_by(|fd| kcmp_epoll_order(proc_tid, *fd, slot).unwrap_or(Ordering::Less));
    let is_same = |fd: &&i32| kcmp_epoll_order(proc_tid, **fd, slot) == Ok(Ordering::Equal);
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
