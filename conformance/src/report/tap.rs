//! The report as TAP 14, for tools that read test output line by line.
//!
//! The stream agrees with the exit code. A failure that does not decide the verdict (a `reference` or `robust` case
//! without `--strict`, a known deviation of the profile, an expected failure) is marked `TODO`, which TAP does not
//! count as a failure. A case that passes although it is listed as an expected failure is `not ok`, and so is an error
//! of the harness.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    CaseReport, Report, ReportError,
    escape::escape_to_one_line,
    labels::labels,
    phrases::{non_gating_reason, reason, versions},
};

#[derive(Serialize)]
struct Diagnostic<'a> {
    outcome: &'a str,
    level: &'a str,
    requirement: &'a str,
    authority: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    motivation: &'a str,
    expected: &'a str,
    actual: &'a str,
    rerun: &'a str,
    duration_ms: f64,
}

/// Renders these reports as TAP.
///
/// # Errors
/// A text cannot be serialized as YAML.
pub(super) fn render(reports: &[Report]) -> Result<String, ReportError> {
    let mut text = String::from("TAP version 14\n");
    for report in reports {
        let _ = writeln!(text, "# {}", escape_to_one_line(&report.target.description));
        let _ = writeln!(text, "# {}", escape_to_one_line(&versions(report)));
    }
    let cases = reports.iter().map(|report| report.cases.len()).sum::<usize>();
    let _ = writeln!(text, "1..{cases}");
    let mut test_number = 0;
    for (label, report) in labels(reports).iter().zip(reports) {
        for case in &report.cases {
            test_number += 1;
            let prefix = if label.is_empty() {
                String::new()
            } else {
                format!("{label}: ")
            };
            test_point(&mut text, test_number, &prefix, case, report)?;
        }
    }
    for report in reports {
        let _ = writeln!(
            text,
            "# verdict: {} ({})",
            report.verdict.as_str(),
            escape_to_one_line(&reason(report))
        );
    }
    Ok(text)
}

fn test_point(
    text: &mut String,
    number: usize,
    prefix: &str,
    case: &CaseReport,
    report: &Report,
) -> Result<(), ReportError> {
    let unexpected = report.conditions.passes_unexpectedly(&case.id);
    let is_ok = matches!(case.outcome.as_str(), "pass" | "skip") && !unexpected;
    let directive = match (case.outcome.as_str(), non_gating_reason(report, case)) {
        ("skip", _) if !unexpected => format!(" # SKIP {}", escape_tap(&case.actual)),
        (_, Some(why)) => format!(" # TODO {}", escape_tap(&why)),
        _ if unexpected => " (passed although listed as an expected failure)".to_owned(),
        _ => String::new(),
    };
    let status = if is_ok { "ok" } else { "not ok" };
    let name = escape_tap(&format!("{prefix}{}", case.id));
    let _ = writeln!(text, "{status} {number} - {name}{directive}");
    if !is_ok {
        let yaml = serde_yaml_ng::to_string(&Diagnostic {
            outcome: &case.outcome,
            level: case.level.as_str(),
            requirement: &case.requirement,
            authority: case.authority.citation(),
            url: &case.authority.url,
            motivation: &case.motivation,
            expected: &case.expected,
            actual: &case.actual,
            rerun: &case.rerun,
            duration_ms: case.duration * 1000.0,
        })?;
        text.push_str("  ---\n");
        for line in yaml.lines() {
            let _ = writeln!(text, "  {line}");
        }
        text.push_str("  ...\n");
    }
    Ok(())
}

/// Escapes a description or reason. In TAP `#` begins a directive, `\` an escape, and a line feed ends the test.
fn escape_tap(text: &str) -> String {
    escape_to_one_line(text).replace('\\', "\\\\").replace('#', "\\#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Level, report::tests::sample};

    #[test]
    fn contains_every_case() {
        insta::assert_snapshot!(render(&[sample()]).unwrap());
    }

    #[test]
    fn non_gating_failures_are_todo() {
        let mut report = sample();
        report.cases.retain(|case| case.outcome == "fail");
        let one = std::slice::from_ref;
        assert!(!render(one(&report)).unwrap().contains("TODO"));
        report.cases[0].level = Level::Robust;
        let text = render(one(&report)).unwrap();
        assert!(
            text.contains("not ok 1 - kubelet/lookup/pod-unknown # TODO robust"),
            "{text}"
        );
        report.strict = true;
        assert!(!render(one(&report)).unwrap().contains("TODO"));
    }

    #[test]
    fn escapes_line_ends_and_directives() {
        let mut report = sample();
        report.cases.retain(|case| case.outcome != "pass");
        for case in &mut report.cases {
            case.actual = "x # TODO\nok 9 - forged\n  ...\nBail out!\x1b[2J \\".to_owned();
        }
        let text = render(&[report]).unwrap();
        for line in text.lines() {
            assert!(
                !line.starts_with("ok 9") && !line.starts_with("Bail") && line != "  ...x",
                "{text}"
            );
        }
        assert!(text.contains("# SKIP x \\# TODO\\\\nok 9 - forged"), "{text}");
        assert_eq!(text.matches("\n  ...\n").count(), 2, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn numbers_and_labels_merged_reports() {
        let mut second = sample();
        second.target.node = Some("node-b".to_owned());
        let mut first = sample();
        first.target.node = Some("node-a".to_owned());
        let text = render(&[first, second]).unwrap();
        assert!(text.contains("\n1..8\n"), "{text}");
        assert!(
            text.contains("\nok 1 - node-a: kubelet/checkpoint/succeeds\n"),
            "{text}"
        );
        assert!(
            text.contains("\nok 5 - node-b: kubelet/checkpoint/succeeds\n"),
            "{text}"
        );
    }
}
