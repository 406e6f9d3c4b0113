//! `seccomp.img`: the seccomp filters, each once.

use cri_proto::criu::message::{SeccompEntry, SeccompFilter, SeccompMode};
use nix::errno::Errno;

use crate::{
    checkpoint::dump_log::DumpLog,
    process::{Tid, ptrace},
};

#[derive(Debug, Default)]
pub(super) struct SeccompFilters {
    filters: Vec<SeccompFilter>,
}

impl SeccompFilters {
    /// The mode of a thread and the index of its newest filter. `mode` is the `Seccomp` line of its status.
    pub(super) fn thread_filters(
        &mut self,
        tid: Tid,
        mode: Option<u64>,
        log: &mut DumpLog,
    ) -> (Option<SeccompMode>, Option<u32>) {
        match mode {
            None | Some(0) => (None, None),
            Some(1) => (Some(SeccompMode::Strict), None),
            Some(_) => (Some(SeccompMode::Filter), self.filter_chain(tid, log)),
        }
    }

    /// Adds the filters of a thread, oldest first, and returns the index of the newest. Threads share equal filter
    /// chains.
    fn filter_chain(&mut self, tid: Tid, log: &mut DumpLog) -> Option<u32> {
        let mut newest = None;
        for index in 0.. {
            match ptrace::seccomp_filter(tid, index) {
                Ok(Some(filter)) => {
                    let flags = ptrace::seccomp_flags(tid, index).ok().flatten();
                    let flags = flags
                        .filter(|flags| *flags != 0)
                        .and_then(|flags| u32::try_from(flags).ok());
                    let existing = self
                        .filters
                        .iter()
                        .position(|existing| existing.prev == newest && existing.filter == filter);
                    let position = existing.unwrap_or_else(|| {
                        self.filters.push(SeccompFilter {
                            filter,
                            prev: newest,
                            flags,
                        });
                        self.filters.len() - 1
                    });
                    newest = u32::try_from(position).ok();
                }
                Ok(None) => break,
                Err(Errno::EACCES) => {
                    log.unsupported(format_args!(
                        "thread {tid}: seccomp filters, which only CAP_SYS_ADMIN may read"
                    ));
                    break;
                }
                Err(errno) => {
                    log.unsupported(format_args!("thread {tid}: seccomp filter {index}: {errno}"));
                    break;
                }
            }
        }
        newest
    }

    /// `seccomp.img`.
    pub(super) fn into_entry(self) -> SeccompEntry {
        SeccompEntry {
            seccomp_filters: self.filters,
        }
    }
}
