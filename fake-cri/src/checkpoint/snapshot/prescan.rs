//! Scans the mappings of the container before the freeze, so that less must be read during the freeze.
//!
//! Only `/proc/PID/smaps` shows the flags of mappings (`VmFlags`), and for each read the kernel walks all pages, which
//! takes about as long as a fork. The flags decide which mappings fork preserves, which must be known before the
//! process resumes. So the flags are read here, and used for each mapping that still exists at the freeze. A madvise in
//! between is detected in the snapshot ([`crate::checkpoint::dump::DeferredMm`]) and fails the checkpoint.

use std::collections::BTreeMap;

use super::resources::{self, InsufficientResources};
use crate::{
    checkpoint::{Host, error::Error},
    process::{
        Pid, ProcessId,
        proc_files::{self, Mapping},
    },
};

/// The mappings of the container's processes shortly before the freeze.
#[derive(Debug)]
pub(crate) struct Prescan {
    mappings: BTreeMap<Pid, (ProcessId, Vec<Mapping>)>,
    /// The private memory of all processes, to which the pages of the snapshots may grow.
    private_bytes: u64,
}

impl Prescan {
    /// Scans every process.
    ///
    /// # Errors
    ///
    /// [`Error::ListMembers`].
    pub(crate) fn collect(host: &dyn Host) -> Result<Self, Error> {
        let members = host.members().map_err(Error::ListMembers)?;
        let mut mappings = BTreeMap::new();
        let mut private_bytes = 0;
        for member in &members {
            let tid = member.pid.main_thread();
            // A process that exits meanwhile does not exist at the freeze either.
            if let (Ok(status), Ok(scanned)) = (proc_files::status(tid), proc_files::smaps(tid)) {
                private_bytes += (status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0)) * 1024;
                mappings.insert(member.pid, (*member, scanned));
            }
        }
        Ok(Self {
            mappings,
            private_bytes,
        })
    }

    /// Checks that there are enough resources for a snapshot of every scanned process.
    pub(crate) fn check_resources(&self) -> Result<(), InsufficientResources> {
        let snapshot_count = self.mappings.len() as u64;
        let mut pids = self.mappings.keys();
        pids.try_for_each(|pid| resources::check(*pid, snapshot_count, self.private_bytes))
    }

    /// Whether this process was scanned.
    pub(crate) fn contains(&self, process: ProcessId) -> bool {
        self.mappings
            .get(&process.pid)
            .is_some_and(|(scanned_id, _)| *scanned_id == process)
    }

    /// Returns `mappings_now`, the mappings of a frozen process, with the flags of the prescan. Returns `None` if the
    /// flags are unknown: there was no mapping at an address, or memory is locked (`locked`, in KiB), which fork does
    /// not preserve.
    pub(crate) fn flags_for(
        &self,
        process: ProcessId,
        locked: Option<u64>,
        mappings_now: &[Mapping],
    ) -> Option<Vec<Mapping>> {
        let (_, scanned) = self
            .mappings
            .get(&process.pid)
            .filter(|(scanned_id, _)| *scanned_id == process)?;
        if locked != Some(0) {
            return None;
        }
        let mut remaining = scanned.as_slice();
        mappings_now
            .iter()
            .map(|mapping_now| {
                while remaining
                    .first()
                    .is_some_and(|scanned| scanned.range.end <= mapping_now.range.start)
                {
                    remaining = &remaining[1..];
                }
                // A mapping that grew or shrank has kept its flags.
                let scanned_mapping = remaining
                    .first()
                    .filter(|scanned| scanned.range.start < mapping_now.range.end)?;
                let is_same_object = scanned_mapping.shared == mapping_now.shared
                    && scanned_mapping.inode == mapping_now.inode
                    && !scanned_mapping.has_flag(b"lo");
                is_same_object.then(|| Mapping {
                    flags: scanned_mapping.flags.clone(),
                    protection_key: scanned_mapping.protection_key,
                    ..mapping_now.clone()
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, flags: &[[u8; 2]]) -> Mapping {
        Mapping::anonymous(start..end, flags)
    }

    #[test]
    fn flags_come_from_the_prescan() {
        let process = ProcessId::current().expect("readable /proc");
        let prescan = |scanned: &[Mapping]| Prescan {
            mappings: BTreeMap::from([(process.pid, (process, scanned.to_vec()))]),
            private_bytes: 0,
        };
        let scanned = [mapping(0x1000, 0x3000, &[*b"wf"]), mapping(0x5000, 0x6000, &[*b"rd"])];
        let flags_for = |mappings_now: &[Mapping]| prescan(&scanned).flags_for(process, Some(0), mappings_now);
        // The first mapping was split, the second one grew.
        let mappings_now = [
            mapping(0x1000, 0x2000, &[]),
            mapping(0x2000, 0x3000, &[]),
            mapping(0x4000, 0x7000, &[]),
        ];
        let flags: Vec<_> = flags_for(&mappings_now)
            .expect("all flags known")
            .into_iter()
            .map(|mapping| mapping.flags)
            .collect();
        assert_eq!(flags, [vec![*b"wf"], vec![*b"wf"], vec![*b"rd"]]);
        assert_eq!(flags_for(&[mapping(0x3000, 0x4000, &[])]), None, "no mapping before");
        let mut shared = mapping(0x5000, 0x6000, &[]);
        shared.shared = true;
        assert_eq!(flags_for(&[shared]), None, "another mapping before");
        let reused_pid = ProcessId {
            start_time: process.start_time + 1,
            ..process
        };
        assert!(prescan(&scanned).contains(process) && !prescan(&scanned).contains(reused_pid));
        let locked = prescan(&[mapping(0x1000, 0x2000, &[*b"lo"])]);
        assert_eq!(
            locked.flags_for(process, Some(0), &[mapping(0x1000, 0x2000, &[])]),
            None
        );
        let mappings_now = [mapping(0x1000, 0x2000, &[])];
        assert_eq!(
            prescan(&scanned).flags_for(process, Some(4), &mappings_now),
            None,
            "locked"
        );
    }
}
