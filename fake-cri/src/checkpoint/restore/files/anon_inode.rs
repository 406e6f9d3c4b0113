//! Restores files without a path: eventfd, epoll, signalfd, timerfd. The first process creates them at reserved fds
//! before it has children. The watches of an epoll file are added later by a process that has an fd of it, because
//! epoll_ctl(2) takes fds of the caller.

use std::collections::{HashMap, HashSet};

use cri_proto::criu::message::{FdTypes, FileEntry, TimerfdEntry};

use crate::{
    checkpoint::restore::{RestoreError, remote_task::RemoteTask},
    process::ptrace::SIGSET_BYTES,
};

/// `_IOW('T', 0, u64)`.
const TFD_IOC_SET_TICKS: u64 = 0x4008_5400;

/// Checks that a file is of a kind that [`create`] supports.
pub(super) fn check(entry: &FileEntry) -> Result<(), RestoreError> {
    let detail = match entry.r#type() {
        FdTypes::Eventfd | FdTypes::Eventpoll | FdTypes::Signalfd | FdTypes::Timerfd => return Ok(()),
        FdTypes::Inetsk => "a network socket",
        FdTypes::Unixsk => "a unix socket",
        FdTypes::Netlinksk | FdTypes::Packetsk => "a socket",
        FdTypes::Tty => "a terminal",
        FdTypes::Inotify | FdTypes::Fanotify => "an inotify or fanotify descriptor",
        FdTypes::Memfd => "a memfd",
        FdTypes::Pidfd => "a pidfd",
        other => return Err(RestoreError::Unsupported(format!("an open file of type {other:?}"))),
    };
    Err(RestoreError::Unsupported(detail.to_owned()))
}

/// Creates a file at this fd.
pub(super) fn create(remote: &mut RemoteTask, entry: &FileEntry, target_fd: u64) -> Result<(), RestoreError> {
    let empty_entry = || RestoreError::malformed("files.img", format!("file {} has no entry of its type", entry.id));
    let fd = match entry.r#type() {
        FdTypes::Eventfd => {
            let event = entry.efd.as_ref().ok_or_else(empty_entry)?;
            let fd = remote.call("create an eventfd", libc::SYS_eventfd2, [])?;
            if event.counter > 0 {
                let counter = remote.write_words(&[event.counter])?;
                remote.call("set an eventfd", libc::SYS_write, [fd, counter, 8])?;
            }
            set_file_flags(remote, fd, event.flags)?;
            fd
        }
        FdTypes::Eventpoll => remote.call("create an epoll fd", libc::SYS_epoll_create1, [])?,
        FdTypes::Signalfd => {
            let signals = entry.sgfd.as_ref().ok_or_else(empty_entry)?;
            let mask = remote.write_words(&[signals.sigmask])?;
            let fd = remote.call("create a signalfd", libc::SYS_signalfd4, [u64::MAX, mask, SIGSET_BYTES])?;
            set_file_flags(remote, fd, signals.flags)?;
            fd
        }
        FdTypes::Timerfd => create_timerfd(remote, entry.tfd.as_ref().ok_or_else(empty_entry)?)?,
        _ => return check(entry),
    };
    remote.call("duplicate an fd (dup3)", libc::SYS_dup3, [fd, target_fd])?;
    remote.call("close an fd", libc::SYS_close, [fd])?;
    Ok(())
}

fn create_timerfd(remote: &mut RemoteTask, timer: &TimerfdEntry) -> Result<u64, RestoreError> {
    let clock = u64::from(timer.clockid);
    let fd = remote.call("create a timerfd", libc::SYS_timerfd_create, [clock])?;
    let (seconds, nanos) = match (timer.vsec, timer.vnsec) {
        // The timer has expired. It is started again with its interval.
        (0, 0) if timer.ticks > 0 => (timer.isec, timer.insec),
        left => left,
    };
    if (seconds, nanos) != (0, 0) {
        let times = remote.write_words(&[timer.isec, timer.insec, seconds, nanos])?;
        // The image holds the remaining time, also for a timer that was set to an absolute time.
        remote.call("set a timerfd", libc::SYS_timerfd_settime, [fd, 0, times])?;
    }
    if timer.ticks > 0 {
        let ticks = remote.write_words(&[timer.ticks])?;
        // The kernel sets ticks only with CONFIG_CHECKPOINT_RESTORE. Without it an expired timer becomes readable at
        // its next expiry.
        let _ = remote.try_call(
            "set the ticks of a timerfd",
            libc::SYS_ioctl,
            [fd, TFD_IOC_SET_TICKS, ticks],
        )?;
    }
    set_file_flags(remote, fd, timer.flags)?;
    Ok(fd)
}

fn set_file_flags(remote: &mut RemoteTask, fd: u64, flags: u32) -> Result<(), RestoreError> {
    let arguments = [fd, libc::F_SETFL as u64, u64::from(flags)];
    remote
        .call("set file flags (F_SETFL)", libc::SYS_fcntl, arguments)
        .map(drop)
}

/// Checks that a process with these fds can add all watches of an epoll file: each watched fd is open, occurs once, and
/// refers to the file that was watched, as far as the image tells.
pub(super) fn check_watches(
    entry: &FileEntry,
    descriptors: &HashMap<u32, u32>,
    files: &HashMap<u32, FileEntry>,
) -> Result<(), RestoreError> {
    let mut watched_fds = HashSet::new();
    for watch in entry.epfd.iter().flat_map(|epoll| &epoll.tfd) {
        let malformed = |detail: &str| {
            let detail = format!("epoll file {} watches fd {}, {detail}", entry.id, watch.tfd);
            Err(RestoreError::malformed("files.img", detail))
        };
        if !watched_fds.insert(watch.tfd) {
            return malformed("which occurs twice");
        }
        let Some(file) = descriptors.get(&watch.tfd).and_then(|id| files.get(id)) else {
            return malformed("which its process does not have");
        };
        // Images record inodes only of pipes and sockets. Images of older versions may have none, or 0.
        let inode = (file.pipe.as_ref().map(|pipe| pipe.pipe_id))
            .or(file.usk.as_ref().map(|socket| socket.ino))
            .or(file.isk.as_ref().map(|socket| socket.ino));
        let watched = watch.inode.filter(|inode| *inode != 0).map(|inode| inode as u32);
        if let (Some(inode), Some(watched)) = (inode, watched)
            && inode != watched
        {
            return malformed("which refers to another file than the watched one");
        }
    }
    Ok(())
}

/// Adds the watches of an epoll file at its final fd.
pub(super) fn add_watches(remote: &mut RemoteTask, entry: &FileEntry, target_fd: u64) -> Result<(), RestoreError> {
    let watched = entry.epfd.iter().flat_map(|epoll| &epoll.tfd);
    for item in watched {
        // `struct epoll_event` is packed on x86-64 only.
        let mut event = item.events.to_ne_bytes().to_vec();
        if cfg!(not(target_arch = "x86_64")) {
            event.extend([0; 4]);
        }
        event.extend(item.data.to_ne_bytes());
        let event = remote.write_data(&event)?;
        let arguments = [target_fd, libc::EPOLL_CTL_ADD as u64, u64::from(item.tfd), event];
        remote.call("add an epoll watch", libc::SYS_epoll_ctl, arguments)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cri_proto::criu::message::{EventpollFileEntry, EventpollTfdEntry, PipeEntry};

    use super::*;

    #[test]
    fn watches_of_missing_fds_are_refused() {
        let pipe = FileEntry {
            id: 7,
            pipe: Some(PipeEntry {
                id: 7,
                pipe_id: 4711,
                ..PipeEntry::default()
            }),
            ..FileEntry::default()
        };
        let files = HashMap::from([(7, pipe)]);
        let descriptors = HashMap::from([(3, 7), (4, 7)]);
        let checked = |watches: &[(u32, Option<u64>)]| {
            let tfd = watches.iter().map(|(tfd, inode)| EventpollTfdEntry {
                tfd: *tfd,
                inode: *inode,
                ..EventpollTfdEntry::default()
            });
            let epoll = FileEntry {
                id: 9,
                epfd: Some(EventpollFileEntry {
                    tfd: tfd.collect(),
                    ..EventpollFileEntry::default()
                }),
                ..FileEntry::default()
            };
            let checked = check_watches(&epoll, &descriptors, &files);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(checked(&[(3, Some(4711)), (4, None)]), Ok(()));
        for (watches, part) in [
            (&[(5, None)][..], "which its process does not have"),
            (&[(3, None), (3, None)], "which occurs twice"),
            (&[(3, Some(4712))], "refers to another file"),
        ] {
            let error = checked(watches).expect_err("the watches are invalid");
            assert!(error.contains(part), "{error}");
        }
    }
}
