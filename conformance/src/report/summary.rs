//! The run as Markdown: the step summary of GitHub Actions, or a comment.
//!
//! GitHub takes one MiB a step. The failures come first and long ones are cut, so that what matters is above any limit. What a
//! target says stands in code spans and code blocks whose fences it cannot close.

use std::fmt::Write as _;

use super::{
    CaseReport, Report,
    labels::labels,
    visible::{on_one_line, visible},
    words::{OUTCOMES, counts, link, meaning, versions},
};
use crate::case::Level;

/// Failures beyond this many are listed by id alone.
const MOST: usize = 50;
/// A longer text is cut, in characters.
const LONGEST: usize = 2000;

/// The Markdown of these reports.
pub(super) fn render(reports: &[Report]) -> String {
    let mut text = String::new();
    for (label, report) in labels(reports).iter().zip(reports) {
        let label = if label.is_empty() {
            String::new()
        } else {
            format!(" {}", span(label))
        };
        let _ = writeln!(
            text,
            "## Checkpoint conformance{label}: {}\n\n{} ({}): {}. {}, {:.1} s.\n",
            report.verdict.word(),
            span(&report.target.description),
            span(&versions(report)),
            meaning(report),
            counts(report),
            report.duration
        );
        levels(&mut text, report);
        for line in report.terms.lines() {
            let _ = writeln!(text, "- {}", span(line.trim_start()));
        }
        if !report.terms.lines().is_empty() {
            text.push('\n');
        }
        failures(&mut text, report);
        skipped(&mut text, report);
        if !report.archives_left.is_empty() {
            let _ = writeln!(text, "**Archives left behind; they hold the memory of a container:**\n");
            for path in &report.archives_left {
                let _ = writeln!(text, "- {}", span(path));
            }
            text.push('\n');
        }
    }
    text
}

fn levels(text: &mut String, report: &Report) {
    let _ = writeln!(text, "| level | {} |", OUTCOMES.join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(OUTCOMES.len()));
    for level in Level::ALL {
        let of_level: Vec<_> = report.cases.iter().filter(|case| case.level == level).collect();
        if of_level.is_empty() {
            continue;
        }
        let counts = OUTCOMES.map(|outcome| {
            of_level
                .iter()
                .filter(|case| case.outcome == outcome)
                .count()
                .to_string()
        });
        let _ = writeln!(text, "| {} | {} |", level.as_str(), counts.join(" | "));
    }
    text.push('\n');
}

fn failures(text: &mut String, report: &Report) {
    let because = report.verdict.because();
    let mut failures: Vec<_> = report
        .cases
        .iter()
        .filter(|case| matches!(case.outcome.as_str(), "fail" | "error") || because.contains(&case.id))
        .filter(|case| case.outcome != "skip")
        .collect();
    // What decided the verdict first.
    failures.sort_by_key(|case| (!because.contains(&case.id), case.level));
    for case in failures.iter().take(MOST) {
        failure(text, case);
    }
    if failures.len() > MOST {
        let rest: Vec<_> = failures[MOST..].iter().map(|case| span(&case.id)).collect();
        let _ = writeln!(text, "And {} more: {}\n", rest.len(), rest.join(", "));
    }
}

fn failure(text: &mut String, case: &CaseReport) {
    let mark = if case.outcome == "fail" { "❌" } else { "💥" };
    let _ = writeln!(
        text,
        "<details><summary>{mark} <code>{}</code> ({}): {}</summary>\n",
        escaped(&case.id),
        case.level.as_str(),
        escaped(&case.clause)
    );
    let _ = match link(&case.authority) {
        Some(url) => writeln!(text, "Demanded by [{}]({url})\n", span(&case.source)),
        None => writeln!(text, "Demanded by {}\n", span(&case.source)),
    };
    if !case.motivation.is_empty() {
        let _ = writeln!(text, "Seen broken: {}\n", span(&case.motivation));
    }
    let seen = if case.outcome == "fail" { "Seen" } else { "Error" };
    for (label, said) in [("Expected", &case.expected), (seen, &case.seen), ("Again", &case.again)] {
        if !said.is_empty() {
            let _ = writeln!(text, "{label}:\n\n{}\n", block(said));
        }
    }
    text.push_str("</details>\n\n");
}

fn skipped(text: &mut String, report: &Report) {
    let skipped: Vec<_> = report.cases.iter().filter(|case| case.outcome == "skip").collect();
    if skipped.is_empty() {
        return;
    }
    let _ = writeln!(text, "<details><summary>{} not judged</summary>\n", skipped.len());
    for case in skipped {
        let _ = writeln!(text, "- {}: {}", span(&case.id), span(&cut(&case.seen, LONGEST)));
    }
    text.push_str("\n</details>\n\n");
}

/// A code span, on one line, with a fence longer than any run of backticks within.
pub(super) fn span(text: &str) -> String {
    let text = on_one_line(text);
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// A code block, fenced so that nothing within ends it.
fn block(text: &str) -> String {
    let text = visible(&cut(text, LONGEST)).into_owned();
    let fence = "`".repeat((longest_run(&text) + 1).max(3));
    format!("{fence}text\n{}\n{fence}", text.trim_end())
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Text between tags.
fn escaped(text: &str) -> String {
    on_one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// `text` without what is beyond so many characters, and a word on how much that was.
pub(super) fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}... ({} more bytes)", &text[..end], text.len() - end),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_summary_begins_with_what_decided() {
        insta::assert_snapshot!(render(&[sample()]));
    }

    #[test]
    fn a_target_cannot_leave_its_code() {
        let hostile = "```\n</details>\n# forged\n<img src=x onerror=alert(1)> | `` ` \x1b[2J";
        let mut report = sample();
        for case in &mut report.cases {
            case.seen = hostile.to_owned();
        }
        let text = render(&[report]);
        assert!(text.contains("````text\n```\n</details>\n# forged\n"), "{text}");
        assert!(text.contains(": ````"), "the reason of a skip is a span: {text}");
        // Outside of fences there is nothing of it.
        let mut fenced = false;
        for line in text.lines() {
            if line.starts_with("````") {
                fenced = !fenced;
            } else if !fenced {
                assert_ne!(line, "# forged");
                assert!(!line.starts_with("<img"), "{line}");
            }
        }
        assert!(!fenced);
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn many_and_long_failures_stay_below_the_limit_of_a_step() {
        let mut report = sample();
        let mut case = report.cases[2].clone();
        case.seen = "ä`".repeat(1 << 12);
        report.cases = (0..1000)
            .map(|number| CaseReport {
                id: format!("kubelet/x/{number}"),
                ..case.clone()
            })
            .collect();
        let text = render(&[report]);
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        assert!(text.contains("And 950 more: `kubelet/x/50`"));
    }
}
