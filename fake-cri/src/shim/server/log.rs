//! Writes a container's log in the CRI format: `2026-07-01T12:00:00.000000000Z stdout F a line`.
//!
//! Lines are split as containerd does: at 16 KiB, with the tag `P` for each part except the last. A last line without a
//! newline is `P` too. Each entry is one write to a file opened with O_APPEND, so entries never mix.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The longest content of an entry (containerd's `max_container_log_line_size`).
pub(super) const LOG_LINE_MAX_BYTES: usize = 16 << 10;

pub(super) struct LogWriter {
    path: Option<PathBuf>,
    file: Option<File>,
    write_failed: bool,
}

impl LogWriter {
    /// Opens the log, and creates its directory if missing.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(open_log_file).transpose()?;
        Ok(Self {
            path: path.map(Path::to_owned),
            file,
            write_failed: false,
        })
    }

    /// Opens the path again after a rotation. On an error the old file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open_log_file(path)?);
            self.write_failed = false;
        }
        Ok(())
    }

    /// Writes an entry. If the log cannot be written (a full disk), the entry is lost and the container is not delayed;
    /// the first loss is reported on stderr.
    fn write_entry(&mut self, stream: &str, full: bool, content: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let now = jiff::Timestamp::now();
        let tag = if full { 'F' } else { 'P' };
        let mut entry = Vec::with_capacity(content.len() + 48);
        let _ = write!(entry, "{now:.9} {stream} {tag} ");
        entry.extend_from_slice(content);
        entry.push(b'\n');
        if let Err(error) = file.write_all(&entry)
            && !std::mem::replace(&mut self.write_failed, true)
        {
            eprintln!("write the container's log: {error}");
        }
    }
}

fn open_log_file(path: &Path) -> io::Result<File> {
    let with_path =
        |error: io::Error| io::Error::new(error.kind(), format!("open the log {}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(with_path)?;
    }
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(with_path)
}

/// Splits a stream into entries.
pub(super) struct LineSplitter {
    stream: &'static str,
    partial_line: Vec<u8>,
}

impl LineSplitter {
    pub(super) fn new(stream: &'static str) -> Self {
        Self {
            stream,
            partial_line: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], log: &mut LogWriter) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end], log);
            log.write_entry(self.stream, true, &self.partial_line);
            self.partial_line.clear();
            bytes = &bytes[end + 1..];
        }
        self.append(bytes, log);
    }

    /// Writes the last line, which has no newline.
    pub(super) fn finish(&mut self, log: &mut LogWriter) {
        if !self.partial_line.is_empty() {
            log.write_entry(self.stream, false, &self.partial_line);
        }
        self.partial_line = Vec::new();
    }

    /// Writes a partial entry only when more bytes follow: exactly [`LOG_LINE_MAX_BYTES`] may still be a whole line.
    fn append(&mut self, mut bytes: &[u8], log: &mut LogWriter) {
        while self.partial_line.len() + bytes.len() > LOG_LINE_MAX_BYTES {
            let (head, tail) = bytes.split_at(LOG_LINE_MAX_BYTES - self.partial_line.len());
            self.partial_line.extend_from_slice(head);
            log.write_entry(self.stream, false, &self.partial_line);
            self.partial_line.clear();
            bytes = tail;
        }
        self.partial_line.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn repeated_x(count: usize) -> &'static str {
        &REPEATED_X[..count]
    }

    static REPEATED_X: &str = match std::str::from_utf8(&[b'x'; 3 * LOG_LINE_MAX_BYTES]) {
        Ok(text) => text,
        Err(_) => panic!("not UTF-8"),
    };

    fn entries(chunks: &[&str]) -> Vec<(String, usize)> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("deep/er/0.log");
        let mut log = LogWriter::open(Some(&path)).expect("the log opens");
        let mut lines = LineSplitter::new("stdout");
        for chunk in chunks {
            lines.write(chunk.as_bytes(), &mut log);
        }
        lines.finish(&mut log);
        let text = fs::read_to_string(path).expect("the log is readable");
        text.lines()
            .map(|line| {
                let [time, stream, tag, content] =
                    line.splitn(4, ' ').collect::<Vec<_>>().try_into().expect("four parts");
                time.parse::<jiff::Timestamp>().expect("an RFC 3339 time");
                assert_eq!((time.len(), stream), (30, "stdout"));
                (tag.to_owned(), content.len())
            })
            .collect()
    }

    #[rstest]
    #[case::lines(&["one\ntwo\n"], &[("F", 3), ("F", 3)])]
    #[case::in_pieces(&["on", "e\ntw", "o\n"], &[("F", 3), ("F", 3)])]
    #[case::empty_line(&["\n"], &[("F", 0)])]
    #[case::no_line_end(&["one\ntail"], &[("F", 3), ("P", 4)])]
    #[case::longest(&[repeated_x(LOG_LINE_MAX_BYTES), "\n"], &[("F", LOG_LINE_MAX_BYTES)])]
    #[case::one_more(&[repeated_x(LOG_LINE_MAX_BYTES + 1), "\n"], &[("P", LOG_LINE_MAX_BYTES), ("F", 1)])]
    #[case::twice_the_longest(&[repeated_x(2 * LOG_LINE_MAX_BYTES), "\n"], &[("P", LOG_LINE_MAX_BYTES), ("F", LOG_LINE_MAX_BYTES)])]
    #[case::longest_at_the_end(&[repeated_x(LOG_LINE_MAX_BYTES + 5)], &[("P", LOG_LINE_MAX_BYTES), ("P", 5)])]
    #[case::nothing(&[""], &[])]
    fn long_lines_are_split_as_by_containerd(#[case] chunks: &[&str], #[case] expected: &[(&str, usize)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(tag, length)| ((*tag).to_owned(), *length))
            .collect();
        assert_eq!(entries(chunks), expected);
    }

    #[test]
    fn reopen_writes_to_the_new_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(Some(&path)).expect("the log opens");
        let mut lines = LineSplitter::new("stderr");
        lines.write(b"old\n", &mut log);
        fs::rename(&path, dir.path().join("0.log.1")).expect("the log is renamed");
        lines.write(b"still old\n", &mut log);
        log.reopen().expect("the log opens");
        lines.write(b"new\n", &mut log);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("the file is readable");
        assert_eq!(read("0.log.1").lines().count(), 2);
        assert!(read("0.log").ends_with(" stderr F new\n"));
    }
}
