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

use super::{RestoreError, cancel::CancelFlag, tar_reader::TarMember};

/// What stands before the name of unsupported state in `dump.log`.
const UNSUPPORTED_PREFIX: &str = "unsupported: ";
/// How fake-cri's dumps name file locks, which no image of theirs holds.
const FILE_LOCKS_TEXT: &str = "the file locks of descriptor";
/// More lines than a person reads; the rest is counted.
const MAX_LINES: usize = 256;
/// The longest line that is line_text, in characters.
const MAX_LINE_CHARS: usize = 512;
/// The longest line of a log that is looked at as one, in bytes.
const MAX_LOG_LINE_BYTES: u64 = 64 << 10;
/// The largest `spec.dump`, in bytes.
const MAX_SPEC_BYTES: u64 = 4 << 20;

/// What the documents say.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The unsupported state that `dump.log` names.
    pub(super) unsupported: UnsupportedSummary,
    /// `spec.dump`, as it is.
    pub(super) spec: Option<Vec<u8>>,
}

/// What a dump says that it could not carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsupportedSummary {
    /// Its lines, without the time and the words before them; at most 256.
    pub lines: Vec<String>,
    /// How many lines there are besides.
    pub omitted: usize,
    /// The lines that say that file locks were held.
    pub(super) file_locks: Vec<String>,
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
        member: &TarMember,
        cancel: &CancelFlag,
    ) -> Result<(), RestoreError> {
        let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
        let io_error = |error: io::Error| RestoreError::archive(path, error.to_string());
        if name == DUMP_LOG.as_bytes() {
            let log_reader = MemberReader {
                file: archive,
                position: member.offset,
                remaining: member.size,
            };
            self.unsupported = parse_dump_log(log_reader, cancel)?.map_err(io_error)?;
        } else if name == SPEC_DUMP.as_bytes() {
            if member.size > MAX_SPEC_BYTES {
                let reason = format!("{SPEC_DUMP} is too large: {} bytes", member.size);
                return Err(RestoreError::archive(path, reason));
            }
            let mut content = vec![0; member.size as usize];
            archive.read_exact_at(&mut content, member.offset).map_err(io_error)?;
            self.spec = Some(content);
        }
        Ok(())
    }
}

/// A member's content, read in its order.
struct MemberReader<'a> {
    file: &'a File,
    position: u64,
    remaining: u64,
}

impl Read for MemberReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max_bytes = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..max_bytes], self.position)?;
        self.position += count as u64;
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// The lines of a log that name unsupported state.
fn parse_dump_log(log: impl Read, cancel: &CancelFlag) -> Result<io::Result<UnsupportedSummary>, RestoreError> {
    let mut log = BufReader::with_capacity(1 << 16, log);
    let mut unsupported = UnsupportedSummary::default();
    let mut line = Vec::new();
    loop {
        cancel.check()?;
        line.clear();
        match (&mut log).take(MAX_LOG_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(Ok(unsupported)),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let text = String::from_utf8_lossy(&line);
        let Some((_, state)) = text.split_once(UNSUPPORTED_PREFIX) else {
            continue;
        };
        let line_text = printable(state);
        if line_text.contains(FILE_LOCKS_TEXT) && unsupported.file_locks.len() < MAX_LINES {
            unsupported.file_locks.push(line_text.clone());
        }
        match unsupported.lines.len() < MAX_LINES {
            true => unsupported.lines.push(line_text),
            false => unsupported.omitted += 1,
        }
    }
}

/// A line as it can be shown: an archive is written by anybody.
fn printable(line: &str) -> String {
    let line_text = line.trim_end().chars().take(MAX_LINE_CHARS);
    line_text
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

    fn parse(log: &str) -> UnsupportedSummary {
        parse_dump_log(log.as_bytes(), &CancelFlag::new()).unwrap().unwrap()
    }

    #[test]
    fn unsupported_lines_are_extracted() {
        let parsed = parse(
            "(00.1) froze 1 processes\n(00.2) Warn  unsupported: pid 7: the file locks of descriptor 3\n\
                        (00.3) Warn  unsupported: pid 7: \x1b[31mred\n",
        );
        assert_eq!(
            parsed.lines,
            ["pid 7: the file locks of descriptor 3", "pid 7: \u{fffd}[31mred"]
        );
        assert_eq!(parsed.file_locks, ["pid 7: the file locks of descriptor 3"]);
        assert_eq!(parse("").lines, [""; 0]);
    }

    #[test]
    fn extra_lines_are_counted() {
        let parsed = parse(&"(0) unsupported: a\n".repeat(MAX_LINES + 3));
        assert_eq!((parsed.lines.len(), parsed.omitted), (MAX_LINES, 3));
        let locks =
            "(0) unsupported: a\n".repeat(MAX_LINES + 1) + "(0) unsupported: pid 1: the file locks of descriptor 3\n";
        assert_eq!(parse(&locks).file_locks.len(), 1, "locks are never among the uncounted");
    }

    #[test]
    fn cancellation_ends_parsing() {
        let cancel = CancelFlag::new();
        drop(cancel.cancel_on_drop());
        assert!(matches!(
            parse_dump_log(&b"line"[..], &cancel),
            Err(RestoreError::Cancelled)
        ));
    }
}
