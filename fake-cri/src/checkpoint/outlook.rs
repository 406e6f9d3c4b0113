//! A look at the container while it still runs, so that less has to be read while it stands.
//!
//! The flags of mappings (`VmFlags`) come with `/proc/PID/smaps` alone, for which the kernel walks all pages: that takes about
//! as long as a fork. Which of them a fork carries has to be known before the process runs on, so it is read here, and taken
//! for what stands if that still has the same mappings. What was advised in between is noticed in the copy
//! ([`super::capture::Space`]), and fails the checkpoint.

use std::collections::BTreeMap;

use super::{
    Host,
    error::Error,
    headroom::{self, Short},
};
use crate::process::{
    ProcessId,
    proc::{self, Mapping},
};

/// What was seen of the container's processes shortly before the freeze.
#[derive(Debug)]
pub(crate) struct Outlook {
    mappings: BTreeMap<i32, (ProcessId, Vec<Mapping>)>,
}

impl Outlook {
    /// Looks at every process; the inner error says that there is no room for copies of them.
    ///
    /// # Errors
    ///
    /// [`Error::Members`].
    pub(crate) fn take(host: &dyn Host) -> Result<Result<Self, Short>, Error> {
        let members = host.members().map_err(Error::Members)?;
        let mut mappings = BTreeMap::new();
        let mut bytes = 0;
        for member in &members {
            // Whoever ends meanwhile is not there at the freeze either.
            if let (Ok(status), Ok(seen)) = (proc::status(member.pid), proc::mappings(member.pid)) {
                bytes += (status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0)) * 1024;
                mappings.insert(member.pid, (*member, seen));
            }
        }
        for pid in mappings.keys() {
            if let Err(short) = headroom::look(*pid, mappings.len() as u64, bytes) {
                return Ok(Err(short));
            }
        }
        Ok(Ok(Self { mappings }))
    }

    /// Whether this process was there.
    pub(crate) fn knows(&self, process: ProcessId) -> bool {
        self.mappings
            .get(&process.pid)
            .is_some_and(|(known, _)| *known == process)
    }

    /// The headings of a process that stands with the flags that they had; `None` where that is not to be told: a mapping lies
    /// where there was none, or memory is locked (so much of it, in KiB), which a copy's is not.
    pub(crate) fn with_flags(
        &self,
        process: ProcessId,
        locked: Option<u64>,
        headings: &[Mapping],
    ) -> Option<Vec<Mapping>> {
        let (_, seen) = self.mappings.get(&process.pid).filter(|(known, _)| *known == process)?;
        if locked != Some(0) {
            return None;
        }
        let mut at = seen.as_slice();
        headings
            .iter()
            .map(|heading| {
                while at.first().is_some_and(|seen| seen.range.end <= heading.range.start) {
                    at = &at[1..];
                }
                // One that grew or shrank has kept its flags.
                let before = at.first().filter(|seen| seen.range.start < heading.range.end)?;
                let same = before.shared == heading.shared && before.inode == heading.inode && !before.has(b"lo");
                same.then(|| Mapping {
                    flags: before.flags.clone(),
                    protection_key: before.protection_key,
                    ..heading.clone()
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
    fn flags_are_those_of_what_lay_there_before() {
        let process = ProcessId::current().expect("/proc is there");
        let outlook = |seen: &[Mapping]| Outlook {
            mappings: BTreeMap::from([(process.pid, (process, seen.to_vec()))]),
        };
        let seen = [mapping(0x1000, 0x3000, &[*b"wf"]), mapping(0x5000, 0x6000, &[*b"rd"])];
        let with = |headings: &[Mapping]| outlook(&seen).with_flags(process, Some(0), headings);
        // The second one grew, the first one was split.
        let headings = [
            mapping(0x1000, 0x2000, &[]),
            mapping(0x2000, 0x3000, &[]),
            mapping(0x4000, 0x7000, &[]),
        ];
        let flags: Vec<_> = with(&headings)
            .expect("all known")
            .into_iter()
            .map(|mapping| mapping.flags)
            .collect();
        assert_eq!(flags, [vec![*b"wf"], vec![*b"wf"], vec![*b"rd"]]);
        assert_eq!(with(&[mapping(0x3000, 0x4000, &[])]), None, "nothing was there");
        let mut shared = mapping(0x5000, 0x6000, &[]);
        shared.shared = true;
        assert_eq!(with(&[shared]), None, "something else was there");
        let another = ProcessId {
            start_time: process.start_time + 1,
            ..process
        };
        assert!(outlook(&seen).knows(process) && !outlook(&seen).knows(another));
        let locked = outlook(&[mapping(0x1000, 0x2000, &[*b"lo"])]);
        assert_eq!(
            locked.with_flags(process, Some(0), &[mapping(0x1000, 0x2000, &[])]),
            None
        );
        let headings = [mapping(0x1000, 0x2000, &[])];
        assert_eq!(outlook(&seen).with_flags(process, Some(4), &headings), None, "locked");
    }
}
