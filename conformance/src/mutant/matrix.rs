//! The matrix: which case fails for which mutant, as a run found it.
//!
//! A grid of hundreds of mutants by hundreds of cases is nearly empty, so it is printed sparse: a line a mutant, with the
//! cases of its suite that it touches, and nothing for those that it does not.

use std::fmt::Write as _;

use super::{Coverage, Finding};
use crate::case::Suite;

/// The matrix as text, suite by suite: a line a mutant, then what was not caught, then what the suites' cases amount to.
///
/// `x` failed as it should, `-` should have failed and did not, `!` failed and should not have.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.definition.name().len()).max();
    for suite in Suite::ALL {
        let of_suite: Vec<_> = findings
            .iter()
            .filter(|finding| finding.definition.suite() == suite)
            .collect();
        if of_suite.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{} ({} mutants)", suite.as_str(), of_suite.len());
        for finding in of_suite {
            row(&mut text, finding, width.unwrap_or_default());
        }
        text.push('\n');
    }
    for finding in findings.iter().filter(|finding| !finding.is_caught()) {
        complain(&mut text, finding);
    }
    for coverage in Coverage::of_all() {
        let _ = writeln!(text, "{}", coverage.line());
    }
    let caught = findings.iter().filter(|finding| finding.is_caught()).count();
    let _ = writeln!(text, "{} mutants, {caught} caught", findings.len());
    text
}

fn row(text: &mut String, finding: &Finding, width: usize) {
    let verdict = if finding.is_caught() { "caught" } else { "MISSED" };
    let _ = write!(text, "  {verdict}  {:<width$}", finding.definition.name());
    let prefix = format!("{}/", finding.definition.suite().as_str());
    let short = |id: &str| id.strip_prefix(&prefix).unwrap_or(id).to_owned();
    for id in finding.definition.fails {
        let mark = if finding.failed.contains(*id) { 'x' } else { '-' };
        let _ = write!(text, "  {mark} {}", short(id));
    }
    for id in finding.unexpected() {
        let _ = write!(text, "  ! {}", short(id));
    }
    text.push('\n');
}

fn complain(text: &mut String, finding: &Finding) {
    let _ = writeln!(
        text,
        "{} is not caught by exactly the cases that name it:",
        finding.definition.name()
    );
    for (what, ids) in [
        ("did not fail", finding.missing()),
        ("failed as well", finding.unexpected()),
    ] {
        if !ids.is_empty() {
            let _ = writeln!(text, "  {what}: {}", ids.join(", "));
        }
    }
    for error in &finding.errors {
        let _ = writeln!(text, "  error: {error}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mutant::{Definition, Wrong},
        reference::Mutant,
    };

    fn finding(wrong: Wrong, fails: &'static [&'static str], failed: &[&str]) -> Finding {
        Finding {
            definition: Definition { wrong, fails },
            failed: failed.iter().map(|id| (*id).to_owned()).collect(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_matrix_shows_hits_misses_and_false_alarms_suite_by_suite() {
        let findings = [
            finding(
                Wrong::Kubelet(Mutant::GateIgnored),
                &["kubelet/404/gate-off"],
                &["kubelet/404/gate-off"],
            ),
            finding(
                Wrong::Kubelet(Mutant::NoAuth),
                &["kubelet/401/no-credentials"],
                &["kubelet/200/ok"],
            ),
            finding(
                Wrong::Archive("file/executable"),
                &["archive/file/mode"],
                &["archive/file/mode"],
            ),
        ];
        // The lines about whole suites change with every case, and have tests of their own.
        let text = render(&findings);
        let (matrix, lines) = text.split_once("\nkubelet: ").unwrap();
        assert!(lines.ends_with("\n3 mutants, 2 caught\n"), "{lines}");
        insta::assert_snapshot!(matrix);
    }
}
