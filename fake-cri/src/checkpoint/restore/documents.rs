//! Reads the runtime's files in an archive: `dump.log` for the unsupported state, `spec.dump` for the container's
//! configuration.
//!
//! Their content reaches the caller only if the archive can be restored, so a file that is not an archive is never
//! quoted.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::Path,
};

use cri_proto::document::{DUMP_LOG, SPEC_DUMP};

use super::{RestoreError, cancel::CancelFlag, tar_reader::TarMember};

/// Precedes each item of unsupported state in `dump.log`.
const UNSUPPORTED_PREFIX: &str = "unsupported: ";
/// How fake-cri's `dump.log` names file locks. fake-cri writes no image of them.
const FILE_LOCKS_TEXT: &str = "the file locks of descriptor";
/// Lines beyond this limit are only counted.
const MAX_LINES: usize = 256;
/// The longest line that is kept, in characters.
const MAX_LINE_CHARS: usize = 512;
/// Longer lines of `dump.log` are read in parts of this size, in bytes.
const MAX_LOG_LINE_BYTES: u64 = 64 << 10;
const MAX_SPEC_BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) unsupported: UnsupportedSummary,
    /// The content of `spec.dump`, unparsed.
    pub(super) spec: Option<Vec<u8>>,
}

/// The unsupported state that `dump.log` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsupportedSummary {
    /// The text after `unsupported: ` of each line; at most 256.
    pub lines: Vec<String>,
    /// The number of further lines.
    pub omitted: usize,
    /// The lines about file locks. They are kept also when `lines` is full.
    pub(super) file_locks: Vec<String>,
}

impl Documents {
    /// Reads a member, if it is `dump.log` or `spec.dump`.
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

/// Removes control characters: anybody may have written the archive.
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
        assert_eq!(
            parse(&locks).file_locks.len(),
            1,
            "lines about locks are kept beyond the limit"
        );
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
