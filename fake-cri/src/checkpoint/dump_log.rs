//! `dump.log`: the steps of a checkpoint and the unsupported state.

use std::{fmt, fmt::Write as _, time::Instant};

/// Further lines are counted, not kept, so that a process with a million mappings does not fill the archive.
const MAX_LOG_BYTES: usize = 1 << 20;

/// How many items of unsupported state an error lists; the rest is counted.
const MAX_NAMED: usize = 8;

/// The lines of `dump.log`, each with the time since the start of the checkpoint in CRIU's format.
#[derive(Debug)]
pub(crate) struct DumpLog {
    started: Instant,
    text: String,
    dropped_lines: usize,
    unsupported_count: usize,
    unsupported_named: Vec<String>,
}

impl DumpLog {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            text: String::new(),
            dropped_lines: 0,
            unsupported_count: 0,
            unsupported_named: Vec::new(),
        }
    }

    pub(crate) fn info(&mut self, line: fmt::Arguments<'_>) {
        self.push_line("", line);
    }

    /// Logs state that the archive does not hold, or only with a default.
    pub(crate) fn unsupported(&mut self, line: fmt::Arguments<'_>) {
        self.unsupported_count += 1;
        if self.unsupported_named.len() < MAX_NAMED {
            self.unsupported_named.push(line.to_string());
        }
        self.push_line("Warn  unsupported: ", line);
    }

    /// The unsupported state so far, for an error; `None` if there is none.
    pub(crate) fn unsupported_summary(&self) -> Option<String> {
        let unnamed = self.unsupported_count.saturating_sub(self.unsupported_named.len());
        (self.unsupported_count > 0).then(|| match unnamed {
            0 => self.unsupported_named.join("; "),
            more => format!("{}; and {more} more", self.unsupported_named.join("; ")),
        })
    }

    fn push_line(&mut self, prefix: &str, line: fmt::Arguments<'_>) {
        if self.text.len() > MAX_LOG_BYTES {
            self.dropped_lines += 1;
            return;
        }
        let elapsed = self.started.elapsed();
        let (seconds, micros) = (elapsed.as_secs(), elapsed.subsec_micros());
        // A name that contains a newline must not start a new line.
        let message = line.to_string().replace('\n', "\\n");
        writeln!(self.text, "({seconds:02}.{micros:06}) {prefix}{message}").expect("infallible");
    }

    pub(crate) fn text(&self) -> String {
        match self.dropped_lines {
            0 => self.text.clone(),
            count => format!("{}... and {count} more lines\n", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_some_and_counts_the_rest() {
        let mut log = DumpLog::new(Instant::now());
        log.info(format_args!("froze"));
        assert_eq!(log.unsupported_summary(), None);
        log.unsupported(format_args!("a\nb"));
        assert_eq!(log.unsupported_summary().as_deref(), Some("a\nb"));
        for number in 0..MAX_NAMED {
            log.unsupported(format_args!("{number}"));
        }
        let summary = log.unsupported_summary().expect("much");
        assert!(
            summary.starts_with("a\nb; 0; 1; ") && summary.ends_with("; and 1 more"),
            "{summary}"
        );
        let text = log.text();
        assert_eq!(text.matches("Warn  unsupported: ").count(), MAX_NAMED + 1);
        assert!(text.contains("unsupported: a\\nb\n"), "{text}");
    }
}
