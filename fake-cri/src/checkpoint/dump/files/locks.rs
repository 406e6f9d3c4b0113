//! File locks, reported by the lines of `fdinfo`. CRIU's images hold locks only on request (`file-locks.img` of `criu
//! --file-locks`).
//!
//! A POSIX lock belongs to a process, so it appears in the `fdinfo` of that process only, even if others share the open
//! file. A flock(2) lock, an open file description lock and a lease belong to the open file and appear in the `fdinfo`
//! of every process that has the file; each of these is reported once.
//!
//! The freeze removes a process that waits for a lock from the queue. The process calls again after the thaw, as after
//! any signal, so no state is lost.

use std::collections::HashSet;

use super::super::context::TaskCtx;
use crate::process::{RemoteFd, proc_files::FdInfo};

/// How many locks of one fd are listed; the rest is counted.
const MAX_LISTED_LOCKS: usize = 3;

#[derive(Default)]
pub(super) struct Locks {
    /// By entry of `files.img` and text of the lock.
    reported: HashSet<(u32, String)>,
}

impl Locks {
    /// Reports the locks in the `fdinfo` of an fd.
    pub(super) fn report(&mut self, task: &mut TaskCtx<'_>, fd: RemoteFd, file_id: u32, info: &FdInfo) {
        let mut new_locks: Vec<&str> = Vec::new();
        for line in info.all("lock") {
            // `1: POSIX  ADVISORY  WRITE 4711 08:02:1234 0 EOF`: the number before the colon is a line counter.
            let lock = line.split_once(": ").map_or(line, |(_, lock)| lock).trim();
            if self.reported.insert((file_id, lock.to_owned())) {
                new_locks.push(lock);
            }
        }
        if new_locks.is_empty() {
            return;
        }
        let more = match new_locks.len().saturating_sub(MAX_LISTED_LOCKS) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let listed = new_locks[..new_locks.len().min(MAX_LISTED_LOCKS)].join("; ");
        task.unsupported(format_args!("the file locks of descriptor {fd} ({listed}{more})"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        checkpoint::dump_log::DumpLog,
        process::{Pid, Tid},
    };

    fn info(lines: &[&str]) -> FdInfo {
        let more = lines.iter().map(|line| ("lock".to_owned(), (*line).to_owned()));
        FdInfo {
            extra: more.collect(),
            ..FdInfo::default()
        }
    }

    fn report(locks: &mut Locks, log: &mut DumpLog, pid: i32, fd: i32, file_id: u32, info: &FdInfo) {
        let task = &mut TaskCtx::new(Pid::from_raw(pid), Tid::from_raw(pid), log);
        locks.report(task, RemoteFd::from_raw(fd), file_id, info);
    }

    #[test]
    fn each_lock_is_reported_once_and_the_list_is_bounded() {
        let mut log = DumpLog::new(Instant::now());
        let mut locks = Locks::default();
        report(&mut locks, &mut log, 1, 3, 7, &info(&[]));
        assert_eq!(log.unsupported_summary(), None);
        let flock = "1: FLOCK  ADVISORY  WRITE 1 08:02:9 0 EOF";
        report(&mut locks, &mut log, 1, 3, 7, &info(&[flock]));
        // The child of pid 1 shares the open file and has a lock of its own.
        let child_lock = "1: POSIX  ADVISORY  WRITE 2 08:02:9 0 4";
        let both = info(&[child_lock, "2: FLOCK  ADVISORY  WRITE 1 08:02:9 0 EOF"]);
        report(&mut locks, &mut log, 2, 3, 7, &both);
        let text = log.text();
        assert_eq!(text.matches("FLOCK").count(), 1, "{text}");
        assert!(
            text.contains("pid 2: the file locks of descriptor 3 (POSIX  ADVISORY  WRITE 2 08:02:9 0 4)"),
            "{text}"
        );
        let mut log = DumpLog::new(Instant::now());
        let many: Vec<_> = (0..9)
            .map(|start| format!("1: OFDLCK ADVISORY  READ -1 08:02:9 {start} {start}"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        report(&mut locks, &mut log, 3, 4, 8, &info(&many));
        assert!(
            log.unsupported_summary()
                .is_some_and(|lines| lines.ends_with("; and 6 more)"))
        );
    }
}
