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
    checkpoint::log::DumpLog,
    process::kernel::{EpollWatch, Shared, order, order_of_watched},
};

/// What stands beside the events in the mask of a watch: `EPOLLEXCLUSIVE`, `EPOLLWAKEUP`, `EPOLLONESHOT`, `EPOLLET`
/// (linux/eventpoll.h).
const NO_EVENTS: u32 = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31;

/// A line of an epoll descriptor: `8 events: 19 data: ff  pos:0 ino:8f sdev:d`.
pub(super) fn watch(id: u32, line: &str) -> Option<EventpollTfdEntry> {
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
pub(super) struct Holder<'a> {
    pub(super) pid: i32,
    /// The thread that it is seen through.
    pub(super) window: i32,
    /// The numbers of its descriptors, in their order.
    pub(super) numbers: &'a [i32],
}

/// Has every watch of an epoll descriptor name a number that leads to the watched file now.
pub(super) fn resolve(epoll: &mut EventpollFileEntry, fd: i32, holder: &Holder<'_>, log: &mut DumpLog) {
    let &Holder { pid, window, numbers } = holder;
    let mut places: HashMap<u32, u32> = HashMap::new();
    let mut taken = HashSet::new();
    let mut elsewhere = HashMap::new();
    for (index, watch) in epoll.tfd.iter().enumerate() {
        if watch.events & !NO_EVENTS == 0 {
            log.lost(format_args!(
                "pid {pid}: that the watch of descriptor {} by the epoll descriptor {fd} reports nothing, not even an error or a \
                 hang-up (EPOLLONESHOT)",
                watch.tfd
            ));
        }
        let place = places.entry(watch.tfd).or_default();
        let slot = EpollWatch {
            epoll: fd.unsigned_abs(),
            number: watch.tfd,
            place: *place,
        };
        *place += 1;
        let number = watch.tfd.cast_signed();
        match order_of_watched(window, number, slot) {
            Ok(Ordering::Equal) => drop(taken.insert(number)),
            // Without the comparison the number alone counts.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS)
                if numbers.binary_search(&number).is_ok() && taken.insert(number) => {}
            _ => drop(elsewhere.insert(index, slot)),
        }
    }
    if elsewhere.is_empty() {
        return;
    }
    // In the kernel's order of open files; numbers of one open file stand side by side.
    let mut by_file = numbers.to_vec();
    by_file.sort_by(|one, other| order(window, window, Shared::File(*one, *other)).unwrap_or(Ordering::Less));
    let mut index = 0;
    epoll.tfd.retain_mut(|watch| {
        let slot = elsewhere.get(&index);
        index += 1;
        let Some(slot) = slot else {
            return true;
        };
        match free_number(window, &by_file, *slot, &taken) {
            Some(number) => {
                taken.insert(number);
                watch.tfd = number.unsigned_abs();
                true
            }
            None => {
                log.lost(format_args!(
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
fn free_number(window: i32, by_file: &[i32], slot: EpollWatch, taken: &HashSet<i32>) -> Option<i32> {
    let found = by_file.binary_search_by(|number| order_of_watched(window, *number, slot).unwrap_or(Ordering::Less));
    let is_same = |number: &&i32| order_of_watched(window, **number, slot) == Ok(Ordering::Equal);
    let (before, behind) = by_file.split_at(found.ok()?);
    let same = behind
        .iter()
        .take_while(is_same)
        .chain(before.iter().rev().take_while(is_same));
    same.copied().filter(|number| !taken.contains(number)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let entry = watch(
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
