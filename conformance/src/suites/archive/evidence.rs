//! Evidence for an archive: path, size, mode and members.

use std::fmt::Write as _;

use crate::{
    archive::{InspectedArchive, MemberKind},
    evidence::{self, EvidenceKind},
};

/// Records the archive as evidence of the running case.
pub fn record_archive(archive: &InspectedArchive) {
    evidence::record(EvidenceKind::Archive, || describe_archive(archive));
}

/// The file in one line, then one line per member in the format of `tar -tv`: type and mode, size, name. If the text
/// exceeds the limit of an evidence item, the remaining members are only counted.
fn describe_archive(archive: &InspectedArchive) -> String {
    let mut text = match &archive.file {
        Some(file) => format!(
            "{} ({} bytes, mode {:04o}, owner {})\n",
            file.path.display(),
            file.bytes,
            file.mode,
            file.uid
        ),
        None => "a stream\n".to_owned(),
    };
    let _ = writeln!(text, "{} members, then {:?}", archive.members.len(), archive.end);
    for (shown, member) in archive.members.iter().enumerate() {
        let kind = match member.kind {
            MemberKind::File => '-',
            MemberKind::Directory => 'd',
            MemberKind::Symlink => 'l',
            MemberKind::HardLink => 'h',
            MemberKind::Device => 'c',
            MemberKind::Fifo => 'p',
            MemberKind::Sparse => 'S',
            MemberKind::Other(_) => '?',
        };
        let link = if member.link.is_empty() {
            String::new()
        } else {
            format!(" -> {}", member.link)
        };
        let line = format!("{kind}{:04o} {:>12} {}{link}\n", member.mode, member.size, member.name);
        // Reserves space for the line with the number of remaining members.
        if text.len() + line.len() + 40 > evidence::MAX_ITEM_BYTES {
            let _ = writeln!(text, "and {} more members", archive.members.len() - shown);
            break;
        }
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Expectations, Limits, inspect_stream, sample};

    #[test]
    fn the_evidence_lists_the_members() {
        let bytes = sample::tar_of(&sample::Sample::default().members()).unwrap();
        let archive = inspect_stream(&bytes[..], &Expectations::default(), Limits::default()).unwrap();
        let text = describe_archive(&archive);
        assert!(text.starts_with("a stream\n"), "{text}");
        assert!(text.contains("d0700            0 checkpoint/\n"), "{text}");
        assert!(text.contains(" checkpoint/inventory.img\n"), "{text}");
    }

    #[test]
    fn excess_members_are_counted() {
        let mut parts = sample::Sample::default().members();
        parts.extend((0..500).map(|index| sample::SampleMember::file(format!("file-{index}"), *b"x")));
        let bytes = sample::tar_of(&parts).unwrap();
        let archive = inspect_stream(&bytes[..], &Expectations::default(), Limits::default()).unwrap();
        let text = describe_archive(&archive);
        assert!(text.len() <= evidence::MAX_ITEM_BYTES, "{}", text.len());
        assert!(text.ends_with(" more members\n"), "{text}");
    }
}
