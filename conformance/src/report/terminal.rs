//! The report as text for a terminal: a table by group, failures with expected and actual, the verdict.

use std::{fmt::Write as _, io::IsTerminal as _};

use super::{
    CaseReport, Report,
    escape::{escape_controls, escape_to_one_line},
    phrases::{authority_link, counts, reason, versions},
};
use crate::engine::Verdict;

/// Whether the text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// ANSI colours.
    Colour,
    /// Plain text.
    Plain,
}

impl Palette {
    /// Selects colours when stdout is a terminal and `NO_COLOR` is unset or empty.
    pub fn of_stdout() -> Palette {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !no_color {
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

    fn outcome(self, outcome: &str, width: usize) -> String {
        // Pad before painting: the escape sequences would count as columns.
        let padded = format!("{outcome:<width$}");
        match outcome {
            "pass" => self.paint("32", &padded),
            "fail" => self.paint("1;31", &padded),
            "skip" | "known-deviation" => self.paint("33", &padded),
            _ => self.paint("1;35", &padded),
        }
    }

    fn verdict(self, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Pass => self.paint("1;32", verdict.as_str()),
            Verdict::Incomplete(_) => self.paint("1;33", verdict.as_str()),
            Verdict::Fail(_) | Verdict::Error(_) => self.paint("1;31", verdict.as_str()),
        }
    }
}

/// The width when stdout is not a terminal, such as a file or a CI log.
const DEFAULT_WIDTH: usize = 120;
/// In narrower terminals the actual value is below the expected value.
const MIN_SIDE_BY_SIDE_WIDTH: usize = 80;
/// The minimum width of the outcome column.
const MIN_OUTCOME_WIDTH: usize = 5;
/// The indentation of the details of a case.
const INDENT: usize = 8;

/// Renders a report as text.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Whether the text has colours.
    pub palette: Palette,
    /// The width in columns.
    pub width: usize,
}

impl Terminal {
    /// Creates a terminal with the colours and the width of stdout.
    pub fn of_stdout() -> Terminal {
        let columns = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        Terminal {
            palette: Palette::of_stdout(),
            width: columns.unwrap_or(DEFAULT_WIDTH),
        }
    }

    /// Renders the report, with a final newline.
    pub fn render(&self, report: &Report) -> String {
        let mut text = String::new();
        let width = report.cases.iter().map(|case| case.name().len()).max().unwrap_or(0);
        let outcome_width = report
            .cases
            .iter()
            .map(|case| case.outcome.len())
            .max()
            .unwrap_or(0)
            .max(MIN_OUTCOME_WIDTH);
        for cases in report.cases.chunk_by(|a, b| a.group() == b.group()) {
            let _ = writeln!(text, "\n{}", self.palette.paint("1", cases[0].group()));
            for case in cases {
                self.case(&mut text, case, outcome_width, width);
            }
        }
        self.summary(&mut text, report);
        text
    }

    fn case(&self, text: &mut String, case: &CaseReport, outcome_width: usize, width: usize) {
        let _ = write!(
            text,
            "  {} {:<10} {:<width$}  ",
            self.palette.outcome(&case.outcome, outcome_width),
            case.level.as_str(),
            case.name()
        );
        match case.outcome.as_str() {
            "pass" => {
                let _ = writeln!(text, "{}", escape_controls(first_line(&case.actual)));
            }
            "skip" | "known-deviation" => {
                let _ = writeln!(text, "{}", escape_to_one_line(case.actual.trim_end()));
            }
            outcome => {
                let _ = writeln!(text, "{}", escape_to_one_line(&case.requirement));
                let authority = format!(
                    "{} {}",
                    case.authority.citation(),
                    authority_link(&case.authority).unwrap_or_default()
                );
                for (label, value) in [("authority", authority.trim_end()), ("seen in", &case.motivation)] {
                    if !value.is_empty() {
                        let _ = writeln!(text, "{:INDENT$}{label:<9} {}", "", escape_to_one_line(value));
                    }
                }
                let label = if outcome == "fail" { "actual" } else { "error" };
                self.side_by_side(text, &case.expected, label, &case.actual);
                let _ = writeln!(text, "{:INDENT$}{:<9} {}", "", "rerun", escape_to_one_line(&case.rerun));
            }
        }
    }

    /// Writes expected on the left and actual on the right, or one below the other in a narrow terminal.
    fn side_by_side(&self, text: &mut String, expected: &str, label: &str, actual: &str) {
        let (expected, actual) = (escape_controls(expected.trim_end()), escape_controls(actual.trim_end()));
        let left_column = INDENT + 10;
        if self.width < MIN_SIDE_BY_SIDE_WIDTH {
            let available = self.width.saturating_sub(left_column).max(20);
            for (label, value) in [("expected", &expected), (label, &actual)] {
                for (index, line) in textwrap::wrap(value, available).iter().enumerate() {
                    let label = if index == 0 { label } else { "" };
                    let _ = writeln!(text, "{:INDENT$}{label:<9} {line}", "");
                }
            }
            return;
        }
        let separator_width = label.len() + 4;
        let available = self.width - left_column - separator_width;
        let longest = expected.lines().map(textwrap::core::display_width).max().unwrap_or(0);
        let left_width = longest.clamp(1, available / 2);
        let left = textwrap::wrap(&expected, left_width);
        let right = textwrap::wrap(&actual, available - left_width);
        for row in 0..left.len().max(right.len()) {
            let (left_label, right_label) = if row == 0 { ("expected", label) } else { ("", "") };
            let left = left.get(row).map_or("", |line| line);
            let right = right.get(row).map_or("", |line| line);
            let pad = " ".repeat(left_width.saturating_sub(textwrap::core::display_width(left)));
            let label_width = label.len();
            let line = format!(
                "{:INDENT$}{left_label:<9} {left}{pad}  {right_label:<label_width$}  {right}",
                ""
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }

    fn summary(&self, text: &mut String, report: &Report) {
        let _ = writeln!(
            text,
            "\n{}\n{}\n{}; {:.1} s",
            escape_to_one_line(&report.target.description),
            escape_to_one_line(&versions(report)),
            counts(report),
            report.duration
        );
        if !report.remaining_archives.is_empty() {
            let _ = writeln!(
                text,
                "archives that were not removed; they contain the memory of a container:"
            );
            for path in &report.remaining_archives {
                let _ = writeln!(text, "  {}", escape_to_one_line(path));
            }
        }
        for line in report.conditions.describe() {
            let _ = writeln!(text, "{}", escape_to_one_line(&line));
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
        Terminal {
            palette,
            width: DEFAULT_WIDTH,
        }
    }

    #[test]
    fn shows_failures_with_expected_and_actual() {
        insta::assert_snapshot!(terminal(Palette::Plain).render(&sample()));
    }

    #[test]
    fn plain_text_has_no_escapes() {
        let plain = terminal(Palette::Plain).render(&sample());
        let coloured = terminal(Palette::Colour).render(&sample());
        assert!(!plain.contains('\x1b'));
        assert!(coloured.contains("\x1b[1;31mfail \x1b[0m"));
    }

    #[test]
    fn stacks_expected_and_actual_when_narrow() {
        let mut report = sample();
        report.cases.retain(|case| case.outcome == "fail");
        report.cases[0].expected =
            "one of a long list of values that the documentation allows for this field of the response".to_owned();
        report.cases[0].actual = "something else\nin two lines".to_owned();
        let wide = terminal(Palette::Plain).render(&report);
        insta::assert_snapshot!(wide);
        let narrow = Terminal {
            palette: Palette::Plain,
            width: 40,
        };
        let narrow = narrow.render(&report);
        assert!(
            narrow.contains("\n        expected  one of a long list of\n                  values"),
            "{narrow}"
        );
        assert!(
            narrow.contains("\n        actual    something else\n                  in two lines\n"),
            "{narrow}"
        );
    }

    #[test]
    fn escapes_hostile_text() {
        for palette in [Palette::Plain, Palette::Colour] {
            let text = terminal(palette).render(&crate::report::tests::hostile());
            assert!(!text.contains("\x1b[2J") && !text.contains('\u{202e}'), "{text}");
            assert!(!text.lines().any(|line| line.starts_with("ok 9")), "{text}");
        }
    }
}
