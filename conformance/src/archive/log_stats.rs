//! A container's log, parsed line by line: `TIME stdout|stderr P|F CONTENT`.

use jiff::Timestamp;

/// The number of bytes of a line that are parsed: time, stream and tag are shorter.
const MAX_HEAD_BYTES: usize = 96;

/// Statistics of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// The size in bytes.
    pub bytes: u64,
    /// The number of complete lines.
    pub lines: u64,
    /// The first line that does not have the CRI's format.
    pub malformed_line: Option<String>,
    /// Whether the log contains a NUL byte.
    pub has_nul: bool,
    head: Vec<u8>,
}

impl LogStats {
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.has_nul |= bytes.contains(&0);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend_head(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.lines += 1;
            if self.malformed_line.is_none() && !is_cri_line(&self.head) {
                let head = super::tar_reader::display_name(&self.head);
                self.malformed_line = Some(format!("line {}: {head}", self.lines));
            }
            self.head.clear();
        }
        self.extend_head(bytes);
    }

    fn extend_head(&mut self, bytes: &[u8]) {
        let remaining = MAX_HEAD_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..remaining]);
    }
}

fn is_cri_line(head: &[u8]) -> bool {
    let mut parts = head.splitn(4, |byte| *byte == b' ');
    let time = parts.next().and_then(|time| std::str::from_utf8(time).ok());
    let time = time.is_some_and(|time| time.parse::<Timestamp>().is_ok());
    let stream = parts
        .next()
        .is_some_and(|stream| stream == b"stdout" || stream == b"stderr");
    // Tags can be joined by colons. The first tag says whether the line is complete.
    let tag = parts
        .next()
        .is_some_and(|tag| matches!(tag.split(|byte| *byte == b':').next(), Some(b"P" | b"F")));
    time && stream && tag && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"2026-11-22T14:06:59.381936957Z stdout F heartbeat 1\n", None)]
    #[case(
        b"2026-11-22T14:06:59.381936957+01:00 stderr P \n2026-11-22T14:06:59Z stdout F x\n",
        None
    )]
    #[case(b"heartbeat 1\n", Some("line 1: heartbeat 1"))]
    #[case(
        b"2026-11-22T14:06:59Z stdout F a\n2026-11-22T14:06:59Z stdin F a\n",
        Some("line 2: 2026-11-22T14:06:59Z stdin F a")
    )]
    #[case(
        b"2026-11-22T14:06:59Z stdout X a\n",
        Some("line 1: 2026-11-22T14:06:59Z stdout X a")
    )]
    // The writer may be in the middle of a line.
    #[case(b"2026-11-22T14:06:59Z stdout F a\n2026-11-22T14", None)]
    #[case(b"", None)]
    fn reports_the_first_malformed_line(
        #[case] log: &[u8],
        #[case] malformed: Option<&str>,
        #[values(1, 7, 4096)] chunk_bytes: usize,
    ) {
        let mut stats = LogStats::default();
        log.chunks(chunk_bytes).for_each(|bytes| stats.feed(bytes));
        assert_eq!(stats.malformed_line.as_deref(), malformed);
        assert_eq!(stats.bytes, log.len() as u64);
    }
}
