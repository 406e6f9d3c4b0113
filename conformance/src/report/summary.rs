//! The run as Markdown: the step summary of GitHub Actions, or a comment.
//!
//! GitHub accepts one MiB per step. Failures come first and long texts are truncated, so that the important part is
//! never cut off. Text from a target is put into code spans and code blocks whose fences it cannot close.

use std::fmt::Write as _;

use super::{
    CaseReport, Report,
    escape::{escape_controls, escape_to_one_line},
    labels::labels,
    phrases::{OUTCOMES, authority_link, counts, meaning, versions},
};
use crate::engine::Level;

/// The maximum number of failures with details. Further failures are listed by id only.
const MAX_DETAILED_FAILURES: usize = 50;
/// The maximum length of a text, in characters. Longer texts are truncated.
const MAX_TEXT_CHARS: usize = 2000;

pub(super) fn render(reports: &[Report]) -> String {
    let mut text = String::new();
    for (label, report) in labels(reports).iter().zip(reports) {
        let label = if label.is_empty() {
            String::new()
        } else {
            format!(" {}", code_span(label))
        };
        let _ = writeln!(
            text,
            "## Checkpoint conformance{label}: {}\n\n{} ({}): {}. {}, {:.1} s.\n",
            report.verdict.as_str(),
            code_span(&report.target.description),
            code_span(&versions(report)),
            meaning(report),
            counts(report),
            report.duration
        );
        level_table(&mut text, report);
        for line in report.conditions.describe() {
            let _ = writeln!(text, "- {}", code_span(line.trim_start()));
        }
        if !report.conditions.describe().is_empty() {
            text.push('\n');
        }
        failures(&mut text, report);
        skipped(&mut text, report);
        if !report.remaining_archives.is_empty() {
            let _ = writeln!(
                text,
                "**Archives that were not removed; they contain the memory of a container:**\n"
            );
            for path in &report.remaining_archives {
                let _ = writeln!(text, "- {}", code_span(path));
            }
            text.push('\n');
        }
    }
    text
}

fn level_table(text: &mut String, report: &Report) {
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
    let because = report.verdict.deciding_cases();
    let mut failures: Vec<_> = report
        .cases
        .iter()
        .filter(|case| matches!(case.outcome.as_str(), "fail" | "error") || because.contains(&case.id))
        .filter(|case| case.outcome != "skip")
        .collect();
    // The deciding cases come first.
    failures.sort_by_key(|case| (!because.contains(&case.id), case.level));
    for case in failures.iter().take(MAX_DETAILED_FAILURES) {
        failure(text, case);
    }
    if failures.len() > MAX_DETAILED_FAILURES {
        let further: Vec<_> = failures[MAX_DETAILED_FAILURES..]
            .iter()
            .map(|case| code_span(&case.id))
            .collect();
        let _ = writeln!(text, "And {} more: {}\n", further.len(), further.join(", "));
    }
}

fn failure(text: &mut String, case: &CaseReport) {
    let icon = if case.outcome == "fail" { "❌" } else { "💥" };
    let _ = writeln!(
        text,
        "<details><summary>{icon} <code>{}</code> ({}): {}</summary>\n",
        escape_html(&case.id),
        case.level.as_str(),
        escape_html(&case.requirement)
    );
    let _ = match authority_link(&case.authority) {
        Some(url) => writeln!(text, "Required by [{}]({url})\n", code_span(&case.authority.citation())),
        None => writeln!(text, "Required by {}\n", code_span(&case.authority.citation())),
    };
    if !case.motivation.is_empty() {
        let _ = writeln!(text, "Violated in: {}\n", code_span(&case.motivation));
    }
    let actual_label = if case.outcome == "fail" { "Actual" } else { "Error" };
    for (label, value) in [
        ("Expected", &case.expected),
        (actual_label, &case.actual),
        ("Rerun", &case.rerun),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "{label}:\n\n{}\n", code_block(value));
        }
    }
    text.push_str("</details>\n\n");
}

fn skipped(text: &mut String, report: &Report) {
    let skipped: Vec<_> = report.cases.iter().filter(|case| case.outcome == "skip").collect();
    if skipped.is_empty() {
        return;
    }
    let _ = writeln!(text, "<details><summary>{} skipped</summary>\n", skipped.len());
    for case in skipped {
        let _ = writeln!(
            text,
            "- {}: {}",
            code_span(&case.id),
            code_span(&truncate(&case.actual, MAX_TEXT_CHARS))
        );
    }
    text.push_str("\n</details>\n\n");
}

/// Returns a code span on one line. Its fence is longer than any run of backticks in the text.
pub(super) fn code_span(text: &str) -> String {
    let text = escape_to_one_line(text);
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Returns a code block. Its fence is longer than any run of backticks in the text.
fn code_block(text: &str) -> String {
    let text = escape_controls(&truncate(text, MAX_TEXT_CHARS)).into_owned();
    let fence = "`".repeat((longest_run(&text) + 1).max(3));
    format!("{fence}text\n{}\n{fence}", text.trim_end())
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Escapes text between HTML tags, on one line.
fn escape_html(text: &str) -> String {
    escape_to_one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Truncates `text` to `longest` characters and appends the number of omitted bytes.
pub(super) fn truncate(text: &str, longest: usize) -> String {
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
    fn starts_with_the_deciding_cases() {
        insta::assert_snapshot!(render(&[sample()]));
    }

    #[test]
    fn hostile_text_stays_in_code_blocks() {
        let hostile = "```\n</details>\n# forged\n<img src=x onerror=alert(1)> | `` ` \x1b[2J";
        let mut report = sample();
        for case in &mut report.cases {
            case.actual = hostile.to_owned();
        }
        let text = render(&[report]);
        assert!(text.contains("````text\n```\n</details>\n# forged\n"), "{text}");
        assert!(text.contains(": ````"), "the reason of a skip is a code span: {text}");
        // No line outside of the fences comes from the hostile text.
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
    fn stays_below_the_step_summary_limit() {
        let mut report = sample();
        let mut case = report.cases[1].clone();
        case.actual = "ä`".repeat(1 << 12);
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
