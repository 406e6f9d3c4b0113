//! `dump.log`: what a checkpoint did and what it could not carry.

use std::{fmt, fmt::Write as _, time::Instant};

/// More than this is counted, not kept: a process of a million odd mappings must not fill the archive with words.
const MOST_BYTES: usize = 1 << 20;

/// The lines of `dump.log`, each with the seconds since the checkpoint began, as CRIU writes them.
#[derive(Debug)]
pub(crate) struct DumpLog {
    started: Instant,
    text: String,
    dropped: usize,
}

impl DumpLog {
    /// An empty log that counts from then.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            text: String::new(),
            dropped: 0,
        }
    }

    /// Something that was done.
    pub(crate) fn info(&mut self, line: fmt::Arguments<'_>) {
        self.line("", line);
    }

    /// Something that the archive does not carry, or only with a default.
    pub(crate) fn lost(&mut self, line: fmt::Arguments<'_>) {
        self.line("Warn  not carried: ", line);
    }

    fn line(&mut self, prefix: &str, line: fmt::Arguments<'_>) {
        if self.text.len() > MOST_BYTES {
            self.dropped += 1;
            return;
        }
        let elapsed = self.started.elapsed();
        let (seconds, micros) = (elapsed.as_secs(), elapsed.subsec_micros());
        // A name with a newline in it must not make a line of its own.
        let words = line.to_string().replace('\n', "\\n");
        writeln!(self.text, "({seconds:02}.{micros:06}) {prefix}{words}").expect("a String takes everything");
    }

    /// The whole text.
    pub(crate) fn into_text(mut self) -> String {
        if self.dropped > 0 {
            writeln!(self.text, "... and {} more lines", self.dropped).expect("a String takes everything");
        }
        self.text
    }
}
