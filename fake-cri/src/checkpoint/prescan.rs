//! A look at the container while it still runs, so that less has to be read while it stands.
//!
//! The flags of mappings (`VmFlags`) come with `/proc/PID/smaps` alone, for which the kernel walks all pages: that takes about
//! as long as a fork. Which of them a fork carries has to be known before the process runs on, so it is read here, and taken
//! for what stands if that still has the same mappings. What was advised in between is noticed in the copy
//! ([`super::dump::Mm`]), and fails the checkpoint.

use std::collections::BTreeMap;

use super::{
    Host,
    error::Error,
    resources::{self, InsufficientResources},
};
use crate::process::{
    ProcessId,
    proc_files::{self, Mapping},
};

/// What was scanned of the container's processes shortly before the freeze.
#[derive(Debug)]
pub(crate) struct Prescan {
    mappings: BTreeMap<i32, (ProcessId, Vec<Mapping>)>,
}

impl Prescan {
    /// Looks at every process; the inner error says that there is no room for copies of them.
    ///
    /// # Errors
    ///
    /// [`Error::Members`].
    pub(crate) fn collect(host: &dyn Host) -> Result<Result<Self, InsufficientResources>, Error> {
        let members = host.members().map_err(Error::ListMembers)?;
        let mut mappings = BTreeMap::new();
        let mut bytes = 0;
        for member in &members {
            // Whoever ends meanwhile is not there at the freeze either.
            if let (Ok(status), Ok(scanned)) = (proc_files::status(member.pid), proc_files::smaps(member.pid)) {
                bytes += (status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0)) * 1024;
                mappings.insert(member.pid, (*member, scanned));
            }
        }
        for pid in mappings.keys() {
            if let Err(short) = resources::check(*pid, mappings.len() as u64, bytes) {
                return Ok(Err(short));
            }
        }
        Ok(Ok(Self { mappings }))
    }

    /// Whether this process was there.
    pub(crate) fn contains(&self, process: ProcessId) -> bool {
        self.mappings
            .get(&process.pid)
            .is_some_and(|(scanned_id, _)| *scanned_id == process)
    }

    /// The mappings_now of a process that stands with the flags that they had; `None` where that is not to be told: a mapping lies
    /// where there was none, or memory is locked (so much of it, in KiB), which a copy's is not.
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
                // One that grew or shrank has kept its flags.
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
        let process = ProcessId::current().expect("/proc is there");
        let prescan = |scanned: &[Mapping]| Prescan {
            mappings: BTreeMap::from([(process.pid, (process, scanned.to_vec()))]),
        };
        let scanned = [mapping(0x1000, 0x3000, &[*b"wf"]), mapping(0x5000, 0x6000, &[*b"rd"])];
        let flags_for = |mappings_now: &[Mapping]| prescan(&scanned).flags_for(process, Some(0), mappings_now);
        // The second one grew, the first one was split.
        let mappings_now = [
            mapping(0x1000, 0x2000, &[]),
            mapping(0x2000, 0x3000, &[]),
            mapping(0x4000, 0x7000, &[]),
        ];
        let flags: Vec<_> = flags_for(&mappings_now)
            .expect("all known")
            .into_iter()
            .map(|mapping| mapping.flags)
            .collect();
        assert_eq!(flags, [vec![*b"wf"], vec![*b"wf"], vec![*b"rd"]]);
        assert_eq!(flags_for(&[mapping(0x3000, 0x4000, &[])]), None, "nothing was there");
        let mut shared = mapping(0x5000, 0x6000, &[]);
        shared.shared = true;
        assert_eq!(flags_for(&[shared]), None, "something else was there");
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
