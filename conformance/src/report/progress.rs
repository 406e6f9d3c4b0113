//! A progress line on the terminal with the running cases. Nothing is drawn when stderr is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::{CaseInfo, CaseRecord, Observer, Outcome};

/// The redraw interval. Without it the elapsed time would stop while a case hangs.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// A progress bar on stderr, drawn only when stderr is a terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    running: Vec<&'static str>,
    failed: usize,
}

impl Progress {
    /// Creates a bar for this number of cases.
    pub fn new(cases: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(cases as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {wide_msg}").expect("valid template");
        bar.set_style(style);
        bar.enable_steady_tick(REDRAW_INTERVAL);
        Progress {
            bar,
            running: Vec::new(),
            failed: 0,
        }
    }

    /// Returns the number of failures, the longest-running case and the number of other running cases.
    fn message(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!("{failed} failed; "),
        };
        match self.running.as_slice() {
            [] => failed,
            [one] => format!("{failed}{one}"),
            [first, others @ ..] => format!("{failed}{first} and {} more", others.len()),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn case_started(&mut self, case_info: &CaseInfo) {
        self.running.push(case_info.id);
        self.bar.set_message(self.message());
    }

    fn case_ended(&mut self, record: &CaseRecord) {
        self.running.retain(|id| *id != record.info.id);
        if matches!(record.outcome, Outcome::Fail { .. } | Outcome::Error { .. }) {
            self.failed += 1;
        }
        self.bar.inc(1);
        self.bar.set_message(self.message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Level;

    const fn case_info(id: &'static str) -> CaseInfo {
        CaseInfo::new(id, Level::Documented)
    }

    #[test]
    fn message_names_the_longest_running_case() {
        let mut progress = Progress::new(3);
        progress.case_started(&case_info("x/a"));
        progress.case_started(&case_info("x/b"));
        progress.case_started(&case_info("x/c"));
        assert_eq!(progress.message(), "x/a and 2 more");
        let record = |case_info, outcome| CaseRecord {
            info: case_info,
            outcome,
            duration: Duration::ZERO,
            evidence: Vec::new(),
        };
        let actual = String::new();
        progress.case_ended(&record(case_info("x/a"), Outcome::Fail { actual: actual.clone() }));
        assert_eq!(progress.message(), "1 failed; x/b and 1 more");
        progress.case_ended(&record(case_info("x/c"), Outcome::Pass { actual }));
        assert_eq!(progress.message(), "1 failed; x/b");
        assert_eq!(progress.bar.position(), 2);
    }
}
