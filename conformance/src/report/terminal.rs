//! The run as a person reads it: a table by group, failures with expected and seen, the verdict.

use std::{fmt::Write as _, io::IsTerminal as _};

use super::{
    CaseReport, Report,
    words::{counts, reason},
};
use crate::case::Verdict;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// ANSI colours.
    Colour,
    /// Plain text.
    Plain,
}

impl Palette {
    /// Colours when stdout is a terminal and `NO_COLOR` is not set (to anything but the empty string).
    pub fn of_stdout() -> Palette {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused {
            Palette::Colour
        } else {
            Palette::Plain
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Palette::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Palette::Plain => text.to_owned(),
        }
    }

    fn outcome(self, outcome: &str) -> String {
        // Padded before it is painted: escapes would count as columns.
        let word = format!("{outcome:<5}");
        match outcome {
            "pass" => self.paint("32", &word),
            "fail" => self.paint("1;31", &word),
            "skip" | "fact" => self.paint("33", &word),
            _ => self.paint("1;35", &word),
        }
    }

    fn verdict(self, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Pass => self.paint("1;32", verdict.word()),
            Verdict::Incomplete(_) => self.paint("1;33", verdict.word()),
            Verdict::Fail(_) | Verdict::Error(_) => self.paint("1;31", verdict.word()),
        }
    }
}

/// Renders a report as text.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// Colours or none.
    pub palette: Palette,
}

impl Terminal {
    /// The whole text, with its last newline.
    pub fn render(&self, report: &Report) -> String {
        let mut text = String::new();
        let mut group = "";
        let width = report.cases.iter().map(|case| case.name().len()).max().unwrap_or(0);
        for case in &report.cases {
            let own = case.group();
            if own != group {
                group = own;
                let _ = writeln!(text, "\n{}", self.palette.paint("1", group));
            }
            self.case(&mut text, case, width);
        }
        self.summary(&mut text, report);
        text
    }

    fn case(&self, text: &mut String, case: &CaseReport, width: usize) {
        let _ = write!(
            text,
            "  {} {:<10} {:<width$}",
            self.palette.outcome(&case.outcome),
            case.level.as_str(),
            case.name()
        );
        match case.outcome.as_str() {
            "pass" => {
                let _ = writeln!(text, "  {}", first_line(&case.seen));
            }
            "skip" | "fact" => {
                let _ = writeln!(text, "  {}", case.seen);
            }
            outcome => {
                let seen = if outcome == "fail" { "seen" } else { "error" };
                let _ = writeln!(text, "  {}", case.clause);
                for (label, line) in [
                    ("source", case.source.as_str()),
                    ("expected", case.expected.as_str()),
                    (seen, case.seen.as_str()),
                ] {
                    let _ = writeln!(
                        text,
                        "        {label:<9} {}",
                        line.trim_end().replace('\n', "\n                  ")
                    );
                }
                let _ = writeln!(text, "        {:<9} {}", "again", case.again);
            }
        }
    }

    fn summary(&self, text: &mut String, report: &Report) {
        let _ = writeln!(
            text,
            "\n{}\n{}; {:.1} s",
            report.target.description,
            counts(report),
            report.duration
        );
        if !report.archives_left.is_empty() {
            let _ = writeln!(text, "archives left behind, they hold the memory of a container:");
            for path in &report.archives_left {
                let _ = writeln!(text, "  {path}");
            }
        }
        for line in report.terms.lines() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(
            text,
            "verdict: {} ({})",
            self.palette.verdict(&report.verdict),
            reason(report)
        );
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn terminal(palette: Palette) -> Terminal {
        Terminal { palette }
    }

    #[test]
    fn the_table_shows_failures_with_expected_seen_and_the_command() {
        insta::assert_snapshot!(terminal(Palette::Plain).render(&sample()));
    }

    #[test]
    fn plain_text_has_no_escapes_and_coloured_text_differs_by_them_alone() {
        let plain = terminal(Palette::Plain).render(&sample());
        let coloured = terminal(Palette::Colour).render(&sample());
        assert!(!plain.contains('\x1b'));
        assert!(coloured.contains("\x1b[1;31mfail \x1b[0m"));
    }
}
