//! What the engine's documents in an archive say to whoever restores it: `dump.log`, what the dump could not carry; `spec.dump`,
//! what the container ran as.
//!
//! They are read with the images and shown only of an archive that can be restored, so a file that is none is not quoted.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::Path,
};

use cri_proto::document::{DUMP_LOG, SPEC_DUMP};

use super::{RestoreError, caller::Caller, members::Member};

/// What stands before the name of unsupported state in `dump.log`.
const PREFIX: &str = "not carried: ";
/// How fake-cri's dumps name file locks, which no image of theirs holds.
const FILE_LOCKS: &str = "the file locks of descriptor";
/// More lines than a person reads; the rest is counted.
const MOST_LINES: usize = 256;
/// The longest line that is shown, in characters.
const LONGEST_LINE: usize = 512;
/// The longest line of a log that is looked at as one, in bytes.
const LONGEST_LOG_LINE: u64 = 64 << 10;
/// The largest `spec.dump`, in bytes.
const LARGEST_SPEC: u64 = 4 << 20;

/// What the documents say.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The unsupported state that `dump.log` names.
    pub(super) lost: Lost,
    /// `spec.dump`, as it is.
    pub(super) spec: Option<Vec<u8>>,
}

/// What a dump says that it could not carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Its lines, without the time and the words before them; at most 256.
    pub lines: Vec<String>,
    /// How many lines there are besides.
    pub more: usize,
    /// The lines that say that file locks were held.
    pub(super) locks: Vec<String>,
}

impl Documents {
    /// Takes in a member, if it is one of the documents.
    ///
    /// # Errors
    ///
    /// It is too large, or cannot be read.
    pub(super) fn add(
        &mut self,
        path: &Path,
        archive: &File,
        member: &Member,
        caller: &Caller,
    ) -> Result<(), RestoreError> {
        let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
        let failed = |error: io::Error| RestoreError::archive(path, error.to_string());
        if name == DUMP_LOG.as_bytes() {
            let part = Part {
                file: archive,
                at: member.offset,
                left: member.size,
            };
            self.lost = lost(part, caller)?.map_err(failed)?;
        } else if name == SPEC_DUMP.as_bytes() {
            if member.size > LARGEST_SPEC {
                let reason = format!("{SPEC_DUMP} is too large: {} bytes", member.size);
                return Err(RestoreError::archive(path, reason));
            }
            let mut content = vec![0; member.size as usize];
            archive.read_exact_at(&mut content, member.offset).map_err(failed)?;
            self.spec = Some(content);
        }
        Ok(())
    }
}

/// A member's content, read in its order.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The lines of a log that name unsupported state.
fn lost(log: impl Read, caller: &Caller) -> Result<io::Result<Lost>, RestoreError> {
    let mut log = BufReader::with_capacity(1 << 16, log);
    let mut lost = Lost::default();
    let mut line = Vec::new();
    loop {
        caller.check()?;
        line.clear();
        match (&mut log).take(LONGEST_LOG_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(Ok(lost)),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let text = String::from_utf8_lossy(&line);
        let Some((_, what)) = text.split_once(PREFIX) else {
            continue;
        };
        let shown = printable(what);
        if shown.contains(FILE_LOCKS) && lost.locks.len() < MOST_LINES {
            lost.locks.push(shown.clone());
        }
        match lost.lines.len() < MOST_LINES {
            true => lost.lines.push(shown),
            false => lost.more += 1,
        }
    }
}

/// A line as it can be shown: an archive is written by anybody.
fn printable(line: &str) -> String {
    let shown = line.trim_end().chars().take(LONGEST_LINE);
    shown
        .map(|character| {
            if character.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &str) -> Lost {
        lost(log.as_bytes(), &Caller::patient()).unwrap().unwrap()
    }

    #[test]
    fn what_was_not_carried_is_found_and_the_rest_passed_over() {
        let found = of(
            "(00.1) froze 1 processes\n(00.2) Warn  not carried: pid 7: the file locks of descriptor 3\n\
                        (00.3) Warn  not carried: pid 7: \x1b[31mred\n",
        );
        assert_eq!(
            found.lines,
            ["pid 7: the file locks of descriptor 3", "pid 7: \u{fffd}[31mred"]
        );
        assert_eq!(found.locks, ["pid 7: the file locks of descriptor 3"]);
        assert_eq!(of("").lines, [""; 0]);
    }

    #[test]
    fn more_lines_than_are_read_are_counted() {
        let found = of(&"(0) not carried: a\n".repeat(MOST_LINES + 3));
        assert_eq!((found.lines.len(), found.more), (MOST_LINES, 3));
        let locks =
            "(0) not carried: a\n".repeat(MOST_LINES + 1) + "(0) not carried: pid 1: the file locks of descriptor 3\n";
        assert_eq!(of(&locks).locks.len(), 1, "locks are never among the uncounted");
    }

    #[test]
    fn a_caller_that_is_gone_ends_it() {
        let caller = Caller::patient();
        drop(caller.until_dropped());
        assert!(matches!(lost(&b"line"[..], &caller), Err(RestoreError::Cancelled)));
    }
}
