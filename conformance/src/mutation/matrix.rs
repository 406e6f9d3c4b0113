//! The matrix of mutants and cases, from the results of a run.
//!
//! A grid of hundreds of mutants and hundreds of cases is nearly empty, so the output is sparse: one line per mutant,
//! with the cases of its suite that must fail or did fail.

use std::fmt::Write as _;

use super::{Coverage, MutantResult};
use crate::engine::Suite;

/// The matrix as text, suite by suite: one line per mutant, then the mutants that were not caught, then one summary
/// line per suite.
///
/// `x` failed as expected, `-` should have failed and did not, `!` failed and should not have.
pub fn render(results: &[MutantResult]) -> String {
    let mut text = String::new();
    let width = results.iter().map(|result| result.mutant.name.len()).max();
    for suite in Suite::ALL {
        let suite_results: Vec<_> = results.iter().filter(|result| result.mutant.suite == suite).collect();
        if suite_results.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{} ({} mutants)", suite.as_str(), suite_results.len());
        for result in suite_results {
            write_row(&mut text, result, width.unwrap_or_default());
        }
        text.push('\n');
    }
    for result in results.iter().filter(|result| !result.is_caught()) {
        write_mismatch(&mut text, result);
    }
    for coverage in Coverage::for_all_suites() {
        let _ = writeln!(text, "{}", coverage.summary_line());
    }
    let caught = results.iter().filter(|result| result.is_caught()).count();
    let _ = writeln!(text, "{} mutants, {caught} caught", results.len());
    text
}

fn write_row(text: &mut String, result: &MutantResult, width: usize) {
    let verdict = if result.is_caught() { "caught" } else { "MISSED" };
    let _ = write!(text, "  {verdict}  {:<width$}", result.mutant.name);
    let prefix = format!("{}/", result.mutant.suite.as_str());
    let short = |id: &str| id.strip_prefix(&prefix).unwrap_or(id).to_owned();
    for id in result.mutant.must_fail {
        let mark = if result.failed_cases.contains(*id) { 'x' } else { '-' };
        let _ = write!(text, "  {mark} {}", short(id));
    }
    for id in result.unexpected_failures() {
        let _ = write!(text, "  ! {}", short(id));
    }
    text.push('\n');
}

fn write_mismatch(text: &mut String, result: &MutantResult) {
    let _ = writeln!(
        text,
        "{} is not caught by exactly the cases of its definition:",
        result.mutant.name
    );
    for (label, ids) in [
        ("did not fail", result.missing_failures()),
        ("failed unexpectedly", result.unexpected_failures()),
    ] {
        if !ids.is_empty() {
            let _ = writeln!(text, "  {label}: {}", ids.join(", "));
        }
    }
    for error in &result.errors {
        let _ = writeln!(text, "  error: {error}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::Mutant;

    fn mutant_result(
        suite: Suite,
        name: &'static str,
        must_fail: &'static [&'static str],
        failed: &[&str],
    ) -> MutantResult {
        MutantResult {
            mutant: Mutant::preset(suite, name, must_fail),
            failed_cases: failed.iter().map(|id| (*id).to_owned()).collect(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_matrix_marks_expected_missing_and_unexpected_failures() {
        let results = [
            mutant_result(
                Suite::Kubelet,
                "feature-gate-ignored",
                &["kubelet/feature-gate/disabled"],
                &["kubelet/feature-gate/disabled"],
            ),
            mutant_result(
                Suite::Kubelet,
                "anonymous-accepted",
                &["kubelet/authentication/credentials-required"],
                &["kubelet/checkpoint/succeeds"],
            ),
            mutant_result(
                Suite::Archive,
                "file/executable",
                &["archive/file/mode-0600"],
                &["archive/file/mode-0600"],
            ),
        ];
        // The summary lines of the suites change with every case, and other tests cover them.
        let text = render(&results);
        let (matrix, lines) = text.split_once("\nkubelet: ").unwrap();
        assert!(lines.ends_with("\n3 mutants, 2 caught\n"), "{lines}");
        insta::assert_snapshot!(matrix);
    }
}
