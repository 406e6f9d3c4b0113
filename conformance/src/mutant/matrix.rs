//! The matrix: which case fails for which mutant.

use std::{collections::BTreeSet, fmt::Write as _};

use super::Finding;

/// The matrix as text: a row a mutant, a column a case that failed or should have, numbered below it.
///
/// `x` failed as it should, `-` should have failed and did not, `!` failed and should not have.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut cases = BTreeSet::new();
    for finding in findings {
        cases.extend(finding.failed.iter().map(String::as_str));
        cases.extend(finding.definition.fails.iter().copied());
    }
    let width = findings
        .iter()
        .map(|finding| finding.definition.name().len())
        .max()
        .unwrap_or(0);

    for tens in [true, false] {
        let _ = write!(text, "{:<width$}  {:<6}  ", "", "");
        for number in 1..=cases.len() {
            let digit = if tens { number / 10 } else { number % 10 };
            let blank = tens && number < 10;
            text.push_str(&if blank { " ".to_owned() } else { digit.to_string() });
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for finding in findings {
        let verdict = if finding.is_caught() { "caught" } else { "MISSED" };
        let _ = write!(text, "{:<width$}  {verdict:<6}  ", finding.definition.name());
        for case in &cases {
            text.push(
                match (finding.definition.fails.contains(case), finding.failed.contains(*case)) {
                    (true, true) => 'x',
                    (true, false) => '-',
                    (false, true) => '!',
                    (false, false) => '.',
                },
            );
        }
        text.push('\n');
    }
    text.push('\n');
    for (number, case) in cases.iter().enumerate() {
        let _ = writeln!(text, "{:>3}  {case}", number + 1);
    }
    for finding in findings.iter().filter(|finding| !finding.is_caught()) {
        complain(&mut text, finding);
    }
    let caught = findings.iter().filter(|finding| finding.is_caught()).count();
    let _ = writeln!(text, "\n{} mutants, {caught} caught", findings.len());
    text
}

fn complain(text: &mut String, finding: &Finding) {
    let _ = writeln!(
        text,
        "\n{} is not caught by exactly the cases that name it:",
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mutant::{Definition, Wrong},
        reference::Mutant,
    };

    fn finding(wrong: Mutant, fails: &'static [&'static str], failed: &[&str]) -> Finding {
        Finding {
            definition: Definition {
                wrong: Wrong::Kubelet(wrong),
                fails,
            },
            failed: failed.iter().map(|id| (*id).to_owned()).collect(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_matrix_shows_hits_misses_and_false_alarms() {
        let findings = [
            finding(
                Mutant::GateIgnored,
                &["kubelet/404/gate-off"],
                &["kubelet/404/gate-off"],
            ),
            finding(Mutant::NoAuth, &["kubelet/401/no-credentials"], &["kubelet/200/ok"]),
        ];
        insta::assert_snapshot!(render(&findings));
    }
}
