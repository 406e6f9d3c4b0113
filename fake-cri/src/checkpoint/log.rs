//! `dump.log`: what a checkpoint did and what it could not carry.

use std::{fmt, fmt::Write as _, time::Instant};

/// More than this is counted, not kept: a process of a million odd mappings must not fill the archive with words.
const MOST_BYTES: usize = 1 << 20;

/// How much of what was lost an error names; the rest is counted.
const MOST_NAMED: usize = 8;

/// The lines of `dump.log`, each with the seconds since the checkpoint began, as CRIU writes them.
#[derive(Debug)]
pub(crate) struct DumpLog {
    started: Instant,
    text: String,
    dropped: usize,
    lost: usize,
    named: Vec<String>,
}

impl DumpLog {
    /// An empty log that counts from then.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            text: String::new(),
            dropped: 0,
            lost: 0,
            named: Vec::new(),
        }
    }

    /// Something that was done.
    pub(crate) fn info(&mut self, line: fmt::Arguments<'_>) {
        self.line("", line);
    }

    /// Something that the archive does not carry, or only with a default.
    pub(crate) fn lost(&mut self, line: fmt::Arguments<'_>) {
        self.lost += 1;
        if self.named.len() < MOST_NAMED {
            self.named.push(line.to_string());
        }
        self.line("Warn  not carried: ", line);
    }

    /// What was lost so far, for an error; `None` when nothing was.
    pub(crate) fn all_lost(&self) -> Option<String> {
        let more = self.lost.saturating_sub(self.named.len());
        (self.lost > 0).then(|| match more {
            0 => self.named.join("; "),
            more => format!("{}; and {more} more", self.named.join("; ")),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_named_and_the_rest_counted() {
        let mut log = DumpLog::new(Instant::now());
        log.info(format_args!("froze"));
        assert_eq!(log.all_lost(), None);
        log.lost(format_args!("a\nb"));
        assert_eq!(log.all_lost().as_deref(), Some("a\nb"));
        for number in 0..MOST_NAMED {
            log.lost(format_args!("{number}"));
        }
        let lost = log.all_lost().expect("much");
        assert!(
            lost.starts_with("a\nb; 0; 1; ") && lost.ends_with("; and 1 more"),
            "{lost}"
        );
        let text = log.into_text();
        assert_eq!(text.matches("Warn  not carried: ").count(), MOST_NAMED + 1);
        assert!(text.contains("not carried: a\\nb\n"), "{text}");
    }
}
