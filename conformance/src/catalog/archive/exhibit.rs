//! An archive as evidence: where it is, how long, who may read it, and its members.

use std::fmt::Write as _;

use crate::{
    archive::{Inspected, Kind},
    exhibit::{self, ExhibitKind},
};

/// Shows the archive to the report of the case that runs.
pub fn exhibit(archive: &Inspected) {
    exhibit::show(ExhibitKind::Archive, || describe(archive));
}

/// The file in one line, then a line a member as `tar -tv` has it: kind and mode, size, name. Where that is too long for an
/// exhibit, the last members are only counted.
fn describe(archive: &Inspected) -> String {
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
            Kind::File => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::HardLink => 'h',
            Kind::Device => 'c',
            Kind::Fifo => 'p',
            Kind::Sparse => 'S',
            Kind::Other(_) => '?',
        };
        let link = if member.link.is_empty() {
            String::new()
        } else {
            format!(" -> {}", member.link)
        };
        let line = format!("{kind}{:04o} {:>12} {}{link}\n", member.mode, member.size, member.name);
        // Room is kept for the line that counts the rest.
        if text.len() + line.len() + 40 > exhibit::LONGEST {
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
    use crate::archive::{Expected, Limits, inspect_stream, sample};

    #[test]
    fn an_archive_is_shown_with_its_members() {
        let bytes = sample::tar_of(&sample::Sample::default().parts()).unwrap();
        let archive = inspect_stream(&bytes[..], &Expected::default(), Limits::default()).unwrap();
        let text = describe(&archive);
        assert!(text.starts_with("a stream\n"), "{text}");
        assert!(text.contains("d0700            0 checkpoint/\n"), "{text}");
        assert!(text.contains(" checkpoint/inventory.img\n"), "{text}");
    }

    #[test]
    fn of_many_members_the_last_are_counted() {
        let mut parts = sample::Sample::default().parts();
        parts.extend((0..500).map(|number| sample::Part::file(format!("file-{number}"), *b"x")));
        let bytes = sample::tar_of(&parts).unwrap();
        let archive = inspect_stream(&bytes[..], &Expected::default(), Limits::default()).unwrap();
        let text = describe(&archive);
        assert!(text.len() <= exhibit::LONGEST, "{}", text.len());
        assert!(text.ends_with(" more members\n"), "{text}");
    }
}
