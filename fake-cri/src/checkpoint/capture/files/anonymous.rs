//! Descriptors of what has no path: eventfd, epoll, signalfd, timerfd, inotify, pidfd. The kernel tells of them in `fdinfo`
//! (proc_pid_fdinfo(5)).

use cri_proto::criu::message::{
    EventfdFileEntry, EventpollFileEntry, ExtFileEntry, FdTypes, FileEntry, FownEntry, InotifyFileEntry, PidfdEntry,
    SignalfdEntry, TimerfdEntry,
};

use super::{super::owner::no_owner, Numbers, epoll};
use crate::{checkpoint::log::DumpLog, process::proc::DescriptorInfo};

/// `PIDFD_THREAD` (linux/pidfd.h).
const OF_THREAD: u32 = libc::O_EXCL as u32;

/// What the kernel makes without a path: eventfd, epoll and their kin.
pub(super) fn describe(
    entry: &mut FileEntry,
    name: &str,
    (pid, fd): (i32, i32),
    info: &DescriptorInfo,
    numbers: &Numbers,
    log: &mut DumpLog,
) {
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
                tfd: info.all("tfd").filter_map(|line| epoll::watch(id, line)).collect(),
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
        "pidfd" => match pidfd(id, (pid, fd), info, numbers, log) {
            Some(pidfd) => {
                entry.set_type(FdTypes::Pidfd);
                entry.pidfd = Some(pidfd);
            }
            None => external(entry, fown),
        },
        other => {
            external(entry, fown);
            log.lost(format_args!(
                "pid {pid}: descriptor {fd}, for which images have no place ({other})"
            ));
        }
    }
}

/// Makes the entry one of a file that no restorer makes by itself.
pub(super) fn external(entry: &mut FileEntry, fown: FownEntry) {
    entry.set_type(FdTypes::Ext);
    entry.ext = Some(ExtFileEntry { id: entry.id, fown });
}

/// A pidfd of a process of the container, or of one that has ended and was reaped; `None` for what CRIU refuses too
/// (criu/pidfd.c): a process outside of the container, a thread.
fn pidfd(
    id: u32,
    (pid, fd): (i32, i32),
    info: &DescriptorInfo,
    numbers: &Numbers,
    log: &mut DumpLog,
) -> Option<PidfdEntry> {
    if info.flags & OF_THREAD != 0 {
        log.lost(format_args!(
            "pid {pid}: the pidfd of descriptor {fd}, which is of a thread (PIDFD_THREAD)"
        ));
        return None;
    }
    // In our own numbers. `NSpid` goes on to the innermost namespace, which need not be the container's.
    let target = info
        .get("Pid")
        .and_then(|target| target.parse::<i32>().ok())
        .unwrap_or(-1);
    let nspid = match target {
        -1 => -1,
        target => match numbers.inside(target) {
            Some(number) => number,
            None => {
                log.lost(format_args!(
                    "pid {pid}: the pidfd of descriptor {fd}, whose process is outside of the container"
                ));
                return None;
            }
        },
    };
    Some(PidfdEntry {
        id,
        // By this CRIU knows which pidfds are of the same ended process.
        ino: info.get("ino").and_then(|inode| inode.parse::<u64>().ok()).unwrap_or(0) as u32,
        // What pidfd_open(2) takes; the kernel adds O_RDWR to what it shows.
        flags: info.flags & libc::O_NONBLOCK as u32,
        nspid,
        fown: no_owner(),
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
    fn times_are_read() {
        assert_eq!(time(Some("(12, 345)")), (12, 345));
        assert_eq!(time(Some("nonsense")), (0, 0));
    }

    #[test]
    fn pidfds_are_of_the_container_or_named() {
        let mut numbers = Numbers::default();
        numbers.add(4711, 7);
        let info = |flags, pid: &str| DescriptorInfo {
            flags,
            more: [("ino", "4294967300"), ("Pid", pid), ("NSpid", "4711\t7\t1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..DescriptorInfo::default()
        };
        let read_write = libc::O_RDWR as u32 | libc::O_CLOEXEC as u32;
        let mut log = DumpLog::new(std::time::Instant::now());
        let mut of = |info: &DescriptorInfo| pidfd(1, (2, 3), info, &numbers, &mut log);
        let known = of(&info(read_write | libc::O_NONBLOCK as u32, "4711")).expect("of the container");
        assert_eq!((known.ino, known.flags, known.nspid), (4, libc::O_NONBLOCK as u32, 7));
        let ended = of(&info(read_write, "-1")).expect("of nobody");
        assert_eq!((ended.flags, ended.nspid), (0, -1));
        assert_eq!(of(&info(read_write, "4712")), None);
        assert_eq!(of(&info(read_write, "0")), None);
        assert_eq!(of(&info(read_write | OF_THREAD, "4711")), None);
        let text = log.into_text();
        assert_eq!(text.matches("outside of the container").count(), 2, "{text}");
        assert_eq!(text.matches("PIDFD_THREAD").count(), 1, "{text}");
    }
}
