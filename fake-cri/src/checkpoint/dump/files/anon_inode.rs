//! Files without a path: eventfd, epoll, signalfd, timerfd, inotify, pidfd. Their state is in `fdinfo`
//! (proc_pid_fdinfo(5)).

use cri_proto::criu::message::{
    EventfdFileEntry, EventpollFileEntry, ExtFileEntry, FdTypes, FileEntry, FownEntry, InotifyFileEntry, PidfdEntry,
    SignalfdEntry, TimerfdEntry,
};

use super::{
    super::{context::TaskCtx, fown::no_fown},
    NsPids, epoll,
};
use crate::process::{Pid, proc_files::OpenFd};

/// `PIDFD_THREAD` (linux/pidfd.h).
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

pub(super) fn describe(
    task: &mut TaskCtx<'_>,
    entry: &mut FileEntry,
    name: &str,
    descriptor: &OpenFd,
    ns_pids: &NsPids,
) {
    let OpenFd { fd, info, .. } = descriptor;
    let id = entry.id;
    let flags = info.flags & !(libc::O_CLOEXEC as u32);
    let fown = no_fown();
    let hex = |name| info.get(name).and_then(|value| u64::from_str_radix(value, 16).ok());
    let decimal = |name| info.get(name).and_then(|value| value.parse::<i64>().ok());
    match name {
        "eventfd" => {
            entry.set_type(FdTypes::Eventfd);
            entry.efd = Some(EventfdFileEntry {
                id,
                flags,
                fown,
                counter: hex("eventfd-count").unwrap_or(0),
            });
            if decimal("eventfd-semaphore").is_some_and(|semaphore| semaphore != 0) {
                task.unsupported(format_args!(
                    "the semaphore mode of the eventfd of descriptor {fd} (EFD_SEMAPHORE)"
                ));
            }
        }
        "eventpoll" => {
            entry.set_type(FdTypes::Eventpoll);
            entry.epfd = Some(EventpollFileEntry {
                id,
                flags,
                fown,
                tfd: info
                    .all("tfd")
                    .filter_map(|line| epoll::parse_watch(id, line))
                    .collect(),
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
            let interval = parse_time(info.get("it_interval"));
            // An expired, unread timer continues with its interval. CRIU reads a value of 0 as a stopped timer.
            let value = match parse_time(info.get("it_value")) {
                (0, 0) if decimal("ticks").is_some_and(|ticks| ticks > 0) => interval,
                remaining => remaining,
            };
            entry.set_type(FdTypes::Timerfd);
            entry.tfd = Some(TimerfdEntry {
                id,
                flags,
                fown,
                clockid: decimal("clockid").unwrap_or(0) as u32,
                ticks: decimal("ticks").unwrap_or(0) as u64,
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
            task.unsupported(format_args!("the watches of descriptor {fd} (inotify)"));
        }
        "pidfd" => match pidfd_entry(task, id, descriptor, ns_pids) {
            Some(pidfd) => {
                entry.set_type(FdTypes::Pidfd);
                entry.pidfd = Some(pidfd);
            }
            None => set_external(entry, fown),
        },
        other => {
            set_external(entry, fown);
            task.unsupported(format_args!("descriptor {fd}, which no image can hold ({other})"));
        }
    }
}

/// Makes the entry an external file, which no restorer creates.
pub(super) fn set_external(entry: &mut FileEntry, fown: FownEntry) {
    entry.set_type(FdTypes::Ext);
    entry.ext = Some(ExtFileEntry { id: entry.id, fown });
}

/// A pidfd of a process of the container, or of a reaped process. `None` for pidfds that CRIU refuses too
/// (criu/pidfd.c): of a process outside of the container, or of a thread.
fn pidfd_entry(task: &mut TaskCtx<'_>, id: u32, descriptor: &OpenFd, ns_pids: &NsPids) -> Option<PidfdEntry> {
    /// The pid of a reaped process, in fdinfo and in the image.
    const REAPED: i32 = -1;
    let OpenFd { fd, info, .. } = descriptor;
    if info.flags & PIDFD_THREAD != 0 {
        task.unsupported(format_args!(
            "the pidfd of descriptor {fd}, which is of a thread (PIDFD_THREAD)"
        ));
        return None;
    }
    // In our namespace. `NSpid` continues down to the innermost namespace, which may not be the container's.
    let target = info
        .get("Pid")
        .and_then(|target| target.parse::<i32>().ok())
        .unwrap_or(REAPED);
    let nspid = match target {
        REAPED => REAPED,
        target => match ns_pids.ns_pid(Pid::from_raw(target)) {
            Some(ns_pid) => ns_pid.as_raw().cast_signed(),
            None => {
                task.unsupported(format_args!(
                    "the pidfd of descriptor {fd}, whose process is outside of the container"
                ));
                return None;
            }
        },
    };
    Some(PidfdEntry {
        id,
        // By the inode CRIU recognizes pidfds of the same reaped process.
        ino: info.get("ino").and_then(|inode| inode.parse::<u64>().ok()).unwrap_or(0) as u32,
        // The flags of pidfd_open(2); the kernel adds O_RDWR in fdinfo.
        flags: info.flags & libc::O_NONBLOCK as u32,
        nspid,
        fown: no_fown(),
    })
}

/// A timer value: `(12, 345)`, seconds and nanoseconds.
fn parse_time(value: Option<&str>) -> (u64, u64) {
    value
        .and_then(|value| value.trim_matches(['(', ')']).split_once(", "))
        .and_then(|(seconds, nanos)| Some((seconds.parse().ok()?, nanos.parse().ok()?)))
        .unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::dump_log::DumpLog,
        process::{NsPid, RemoteFd, Tid, proc_files::FdInfo},
    };

    #[test]
    fn timer_values_are_parsed() {
        assert_eq!(parse_time(Some("(12, 345)")), (12, 345));
        assert_eq!(parse_time(Some("nonsense")), (0, 0));
    }

    #[test]
    fn pidfds_of_other_tasks_are_unsupported() {
        let mut ns_pids = NsPids::default();
        ns_pids.insert(Pid::from_raw(4711), NsPid::from_raw(7));
        let descriptor = |flags, pid: &str| OpenFd {
            fd: RemoteFd::from_raw(3),
            target: "anon_inode:[pidfd]".into(),
            info: FdInfo {
                flags,
                extra: [("ino", "4294967300"), ("Pid", pid), ("NSpid", "4711\t7\t1")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                ..FdInfo::default()
            },
        };
        let read_write = libc::O_RDWR as u32 | libc::O_CLOEXEC as u32;
        let mut log = DumpLog::new(std::time::Instant::now());
        let mut task = TaskCtx::new(Pid::from_raw(2), Tid::from_raw(2), &mut log);
        let mut parse_pidfd = |descriptor: &OpenFd| pidfd_entry(&mut task, 1, descriptor, &ns_pids);
        let live = parse_pidfd(&descriptor(read_write | libc::O_NONBLOCK as u32, "4711")).expect("of the container");
        assert_eq!((live.ino, live.flags, live.nspid), (4, libc::O_NONBLOCK as u32, 7));
        let ended = parse_pidfd(&descriptor(read_write, "-1")).expect("of a reaped process");
        assert_eq!((ended.flags, ended.nspid), (0, -1));
        assert_eq!(parse_pidfd(&descriptor(read_write, "4712")), None);
        assert_eq!(parse_pidfd(&descriptor(read_write, "0")), None);
        assert_eq!(parse_pidfd(&descriptor(read_write | PIDFD_THREAD, "4711")), None);
        let text = log.text();
        assert_eq!(text.matches("outside of the container").count(), 2, "{text}");
        assert_eq!(text.matches("PIDFD_THREAD").count(), 1, "{text}");
    }
}
