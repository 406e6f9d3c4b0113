//! Descriptors of what has no path: eventfd, epoll, signalfd, timerfd, inotify, pidfd. The kernel tells of them in `fdinfo`
//! (proc_pid_fdinfo(5)).

use std::collections::HashMap;

use cri_proto::criu::message::{
    EventfdFileEntry, EventpollFileEntry, EventpollTfdEntry, ExtFileEntry, FdTypes, FileEntry, InotifyFileEntry,
    PidfdEntry, SignalfdEntry, TimerfdEntry,
};

use super::super::owner::no_owner;
use crate::{checkpoint::log::DumpLog, process::proc::DescriptorInfo};

/// What the kernel makes without a path: eventfd, epoll and their kin.
pub(super) fn describe(entry: &mut FileEntry, name: &str, pid: i32, fd: i32, info: &DescriptorInfo, log: &mut DumpLog) {
    let id = entry.id;
    let flags = info.flags & !(libc::O_CLOEXEC as u32);
    let fown = no_owner();
    let hex = |name| info.get(name).and_then(|value| u64::from_str_radix(value, 16).ok());
    let number = |name| info.get(name).and_then(|value| value.parse::<i64>().ok());
    match name {
        "eventfd" => {
            entry.set_type(FdTypes::Eventfd);
            entry.efd = Some(EventfdFileEntry {
                id,
                flags,
                fown,
                counter: hex("eventfd-count").unwrap_or(0),
            });
            if number("eventfd-semaphore").is_some_and(|semaphore| semaphore != 0) {
                log.lost(format_args!(
                    "pid {pid}: that the eventfd of descriptor {fd} is a semaphore"
                ));
            }
        }
        "eventpoll" => {
            entry.set_type(FdTypes::Eventpoll);
            entry.epfd = Some(EventpollFileEntry {
                id,
                flags,
                fown,
                tfd: info.all("tfd").filter_map(|line| watched(id, line)).collect(),
            });
        }
        "signalfd" => {
            entry.set_type(FdTypes::Signalfd);
            entry.sgfd = Some(SignalfdEntry {
                id,
                flags,
                fown,
                sigmask: hex("sigmask").unwrap_or(0),
            });
        }
        "timerfd" => {
            let interval = time(info.get("it_interval"));
            // One that has run out and was not read yet runs on by its interval; CRIU takes no time at all for one that is stopped.
            let value = match time(info.get("it_value")) {
                (0, 0) if number("ticks").is_some_and(|ticks| ticks > 0) => interval,
                left => left,
            };
            entry.set_type(FdTypes::Timerfd);
            entry.tfd = Some(TimerfdEntry {
                id,
                flags,
                fown,
                clockid: number("clockid").unwrap_or(0) as u32,
                ticks: number("ticks").unwrap_or(0) as u64,
                settime_flags: info
                    .get("settime flags")
                    .and_then(|flags| u32::from_str_radix(flags, 8).ok())
                    .unwrap_or(0),
                vsec: value.0,
                vnsec: value.1,
                isec: interval.0,
                insec: interval.1,
            });
        }
        "inotify" => {
            entry.set_type(FdTypes::Inotify);
            entry.ify = Some(InotifyFileEntry {
                id,
                flags,
                fown,
                wd: Vec::new(),
            });
            log.lost(format_args!("pid {pid}: the watches of descriptor {fd} (inotify)"));
        }
        "pidfd" => {
            entry.set_type(FdTypes::Pidfd);
            entry.pidfd = Some(PidfdEntry {
                id,
                ino: 0,
                flags,
                nspid: number("NSpid").or(number("Pid")).unwrap_or(-1) as i32,
                fown,
            });
        }
        other => {
            entry.set_type(FdTypes::Ext);
            entry.ext = Some(ExtFileEntry { id, fown });
            log.lost(format_args!(
                "pid {pid}: descriptor {fd}, for which images have no place ({other})"
            ));
        }
    }
}

/// A line of an epoll descriptor: `8 events: 19 data: ff  pos:0 ino:8f sdev:d`.
fn watched(id: u32, line: &str) -> Option<EventpollTfdEntry> {
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

/// A time of a timer: `(12, 345)`, seconds and nanoseconds.
fn time(value: Option<&str>) -> (u64, u64) {
    value
        .and_then(|value| value.trim_matches(['(', ')']).split_once(", "))
        .and_then(|(seconds, nanos)| Some((seconds.parse().ok()?, nanos.parse().ok()?)))
        .unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_epoll_and_timers_are_read() {
        let entry = watched(
            7,
            "       8 events:       19 data: ffffffff00000008  pos:0 ino:8f sdev:d",
        )
        .expect("well formed");
        assert_eq!((entry.id, entry.tfd, entry.events), (7, 8, 0x19));
        assert_eq!(
            (entry.data, entry.inode, entry.dev),
            (0xffff_ffff_0000_0008, Some(0x8f), Some(0xd))
        );
        assert_eq!(time(Some("(12, 345)")), (12, 345));
        assert_eq!(time(Some("nonsense")), (0, 0));
    }
}
