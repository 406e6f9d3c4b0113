//! Descriptors of what has no path: eventfd, epoll, signalfd, timerfd. They are made by the first process before it has children,
//! at numbers that were kept free for them. What an epoll descriptor watches is told to it by a process that has it, since it
//! knows its files by their numbers.

use std::collections::{HashMap, HashSet};

use cri_proto::criu::message::{FdTypes, FileEntry, TimerfdEntry};

use crate::checkpoint::restore::{RestoreError, puppet::Puppet};

/// `TFD_IOC_SET_TICKS`: `_IOW('T', 0, u64)`.
const SET_TICKS: u64 = 0x4008_5400;
/// The size of the kernel's set of signals.
const SIGNAL_SET: u64 = 8;

/// Whether a file is one that is made here.
///
/// # Errors
///
/// It is of a kind that is made nowhere.
pub(super) fn check(entry: &FileEntry) -> Result<(), RestoreError> {
    let what = match entry.r#type() {
        FdTypes::Eventfd | FdTypes::Eventpoll | FdTypes::Signalfd | FdTypes::Timerfd => return Ok(()),
        FdTypes::Inetsk => "a network socket",
        FdTypes::Unixsk => "a unix socket",
        FdTypes::Netlinksk | FdTypes::Packetsk => "a socket",
        FdTypes::Tty => "a terminal",
        FdTypes::Inotify | FdTypes::Fanotify => "watches of files",
        FdTypes::Memfd => "a memory file",
        FdTypes::Pidfd => "a pidfd",
        other => return Err(RestoreError::Unsupported(format!("an open file of kind {other:?}"))),
    };
    Err(RestoreError::Unsupported(what.to_owned()))
}

/// Makes one at this number.
pub(super) fn make(puppet: &mut Puppet, entry: &FileEntry, number: u64) -> Result<(), RestoreError> {
    let none = || RestoreError::malformed("files.img", format!("file {} is empty", entry.id));
    let made = match entry.r#type() {
        FdTypes::Eventfd => {
            let event = entry.efd.as_ref().ok_or_else(none)?;
            let made = puppet.call("make an eventfd", libc::SYS_eventfd2, [0; 6])?;
            if event.counter > 0 {
                let counter = puppet.put_words(&[event.counter])?;
                puppet.call("set an eventfd", libc::SYS_write, [made, counter, 8, 0, 0, 0])?;
            }
            set_flags(puppet, made, event.flags)?;
            made
        }
        FdTypes::Eventpoll => puppet.call("make an epoll descriptor", libc::SYS_epoll_create1, [0; 6])?,
        FdTypes::Signalfd => {
            let signals = entry.sgfd.as_ref().ok_or_else(none)?;
            let mask = puppet.put_words(&[signals.sigmask])?;
            let arguments = [u64::MAX, mask, SIGNAL_SET, 0, 0, 0];
            let made = puppet.call("make a signalfd", libc::SYS_signalfd4, arguments)?;
            set_flags(puppet, made, signals.flags)?;
            made
        }
        FdTypes::Timerfd => timer(puppet, entry.tfd.as_ref().ok_or_else(none)?)?,
        _ => return check(entry),
    };
    puppet.call("place a descriptor", libc::SYS_dup3, [made, number, 0, 0, 0, 0])?;
    puppet.call("close a descriptor", libc::SYS_close, [made, 0, 0, 0, 0, 0])?;
    Ok(())
}

fn timer(puppet: &mut Puppet, timer: &TimerfdEntry) -> Result<u64, RestoreError> {
    let clock = u64::from(timer.clockid);
    let made = puppet.call("make a timerfd", libc::SYS_timerfd_create, [clock, 0, 0, 0, 0, 0])?;
    let (seconds, nanos) = match (timer.vsec, timer.vnsec) {
        // It has run out and begins anew.
        (0, 0) if timer.ticks > 0 => (timer.isec, timer.insec),
        left => left,
    };
    if (seconds, nanos) != (0, 0) {
        let times = puppet.put_words(&[timer.isec, timer.insec, seconds, nanos])?;
        // The time that is left is told, whichever way it was set.
        puppet.call("set a timerfd", libc::SYS_timerfd_settime, [made, 0, times, 0, 0, 0])?;
    }
    if timer.ticks > 0 {
        let ticks = puppet.put_words(&[timer.ticks])?;
        // Without CONFIG_CHECKPOINT_RESTORE they cannot be set; then a timer that had run out tells it at its next time.
        let _ = puppet.attempt(
            "set the ticks of a timerfd",
            libc::SYS_ioctl,
            [made, SET_TICKS, ticks, 0, 0, 0],
        )?;
    }
    set_flags(puppet, made, timer.flags)?;
    Ok(made)
}

fn set_flags(puppet: &mut Puppet, number: u64, flags: u32) -> Result<(), RestoreError> {
    let arguments = [number, libc::F_SETFL as u64, u64::from(flags), 0, 0, 0];
    puppet
        .call("set a descriptor's flags", libc::SYS_fcntl, arguments)
        .map(drop)
}

/// Whether all that an epoll descriptor watches can be added by a process that has it, whose descriptors are these: by numbers
/// that it has, no number twice, and of the files that were watched, as far as the image tells.
///
/// # Errors
///
/// The image is wrong.
pub(super) fn check_watches(
    entry: &FileEntry,
    descriptors: &HashMap<u32, u32>,
    files: &HashMap<u32, FileEntry>,
) -> Result<(), RestoreError> {
    let mut seen = HashSet::new();
    for watch in entry.epfd.iter().flat_map(|epoll| &epoll.tfd) {
        let wrong = |what: &str| {
            let what = format!("epoll descriptor {} watches {}, {what}", entry.id, watch.tfd);
            Err(RestoreError::malformed("files.img", what))
        };
        if !seen.insert(watch.tfd) {
            return wrong("and twice");
        }
        let Some(file) = descriptors.get(&watch.tfd).and_then(|id| files.get(id)) else {
            return wrong("which its process has not");
        };
        // Of pipes and sockets alone an image tells the inode. Images written by older versions may have none, or 0.
        let inode = (file.pipe.as_ref().map(|pipe| pipe.pipe_id))
            .or(file.usk.as_ref().map(|socket| socket.ino))
            .or(file.isk.as_ref().map(|socket| socket.ino));
        let watched = watch.inode.filter(|inode| *inode != 0).map(|inode| inode as u32);
        if let (Some(inode), Some(watched)) = (inode, watched)
            && inode != watched
        {
            return wrong("a number that leads to another file now");
        }
    }
    Ok(())
}

/// Tells an epoll descriptor at its final number what it watches.
pub(super) fn watch(puppet: &mut Puppet, entry: &FileEntry, number: u64) -> Result<(), RestoreError> {
    let watched = entry.epfd.iter().flat_map(|epoll| &epoll.tfd);
    for item in watched {
        // `struct epoll_event`, which is packed on x86-64.
        let mut event = item.events.to_ne_bytes().to_vec();
        if cfg!(not(target_arch = "x86_64")) {
            event.extend([0; 4]);
        }
        event.extend(item.data.to_ne_bytes());
        let event = puppet.put(&event)?;
        let arguments = [number, libc::EPOLL_CTL_ADD as u64, u64::from(item.tfd), event, 0, 0];
        puppet.call("watch a descriptor", libc::SYS_epoll_ctl, arguments)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cri_proto::criu::message::{EventpollFileEntry, EventpollTfdEntry, PipeEntry};

    use super::*;

    #[test]
    fn watches_are_of_descriptors_that_are_there() {
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
            (&[(5, None)][..], "which its process has not"),
            (&[(3, None), (3, None)], "and twice"),
            (&[(3, Some(4712))], "leads to another file now"),
        ] {
            let error = checked(watches).expect_err("it is wrong");
            assert!(error.contains(part), "{error}");
        }
    }
}
