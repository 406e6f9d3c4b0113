//! A container's log, in the format of the CRI: `2026-07-01T12:00:00.000000000Z stdout F a line`.
//!
//! Lines are cut as containerd cuts them: at 16 KiB, each piece but the last tagged `P`; and what stands before the end
//! without a line end is `P` too. Each entry is one write to a file opened for appending, so entries
//! never mix.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The longest content of one entry (containerd's `max_container_log_line_size`).
pub(super) const LONGEST: usize = 16 << 10;

/// Where entries go.
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    broken: bool,
}

impl Log {
    /// Opens the log, and makes its folder when there is none.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(open).transpose()?;
        Ok(Self {
            path: path.map(Path::to_owned),
            file,
            broken: false,
        })
    }

    /// Opens it anew by its name, after a rotation. On an error the old one stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open(path)?);
            self.broken = false;
        }
        Ok(())
    }

    /// Writes one entry. A log that cannot be written to (a full disk) never holds the container up: the entry is lost, and the
    /// first loss is told on standard error.
    fn entry(&mut self, stream: &str, full: bool, content: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let now = jiff::Timestamp::now();
        let tag = if full { 'F' } else { 'P' };
        let mut entry = Vec::with_capacity(content.len() + 48);
        let _ = write!(entry, "{now:.9} {stream} {tag} ");
        entry.extend_from_slice(content);
        entry.push(b'\n');
        if let Err(error) = file.write_all(&entry)
            && !std::mem::replace(&mut self.broken, true)
        {
            eprintln!("write the container's log: {error}");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("open the log {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(named)?;
    }
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(named)
}

/// Cuts a stream into entries.
pub(super) struct Lines {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str) -> Self {
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, mut bytes: &[u8], log: &mut Log) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.add(&bytes[..end], log);
            log.entry(self.stream, true, &self.rest);
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, log);
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, log: &mut Log) {
        if !self.rest.is_empty() {
            log.entry(self.stream, false, &self.rest);
        }
        self.rest = Vec::new();
    }

    /// A piece goes out as partial only when more than the longest is there: exactly so much may still be a whole line.
    fn add(&mut self, mut bytes: &[u8], log: &mut Log) {
        while self.rest.len() + bytes.len() > LONGEST {
            let (piece, more) = bytes.split_at(LONGEST - self.rest.len());
            self.rest.extend_from_slice(piece);
            log.entry(self.stream, false, &self.rest);
            self.rest.clear();
            bytes = more;
        }
        self.rest.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn letters(count: usize) -> &'static str {
        &ALL[..count]
    }

    static ALL: &str = match std::str::from_utf8(&[b'x'; 3 * LONGEST]) {
        Ok(text) => text,
        Err(_) => panic!("it is ASCII"),
    };

    fn entries(pieces: &[&str]) -> Vec<(String, usize)> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/er/0.log");
        let mut log = Log::open(Some(&path)).expect("it opens");
        let mut lines = Lines::new("stdout");
        for piece in pieces {
            lines.take(piece.as_bytes(), &mut log);
        }
        lines.end(&mut log);
        let text = fs::read_to_string(path).expect("it was written");
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
    #[case::longest(&[letters(LONGEST), "\n"], &[("F", LONGEST)])]
    #[case::one_more(&[letters(LONGEST + 1), "\n"], &[("P", LONGEST), ("F", 1)])]
    #[case::twice_the_longest(&[letters(2 * LONGEST), "\n"], &[("P", LONGEST), ("F", LONGEST)])]
    #[case::longest_at_the_end(&[letters(LONGEST + 5)], &[("P", LONGEST), ("P", 5)])]
    #[case::nothing(&[""], &[])]
    fn lines_are_cut_as_containerd_cuts_them(#[case] pieces: &[&str], #[case] expected: &[(&str, usize)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(tag, length)| ((*tag).to_owned(), *length))
            .collect();
        assert_eq!(entries(pieces), expected);
    }

    #[test]
    fn after_a_rotation_entries_go_to_the_new_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("0.log");
        let mut log = Log::open(Some(&path)).expect("it opens");
        let mut lines = Lines::new("stderr");
        lines.take(b"old\n", &mut log);
        fs::rename(&path, folder.path().join("0.log.1")).expect("it moves");
        lines.take(b"still old\n", &mut log);
        log.reopen().expect("it opens");
        lines.take(b"new\n", &mut log);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("it is there");
        assert_eq!(read("0.log.1").lines().count(), 2);
        assert!(read("0.log").ends_with(" stderr F new\n"));
    }
}
