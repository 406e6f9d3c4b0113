//! Phrases that several report formats share.

use std::borrow::Cow;

use super::{CaseReport, Report};
use crate::engine::{CitedAuthority, Level, Verdict};

/// The outcomes in display order.
pub(super) const OUTCOMES: [&str; 5] = ["pass", "fail", "known-deviation", "skip", "error"];

/// Returns the number of cases by outcome, such as `61 cases: 59 pass, 2 fail`.
pub(super) fn counts(report: &Report) -> String {
    let counts: Vec<_> = OUTCOMES
        .into_iter()
        .map(|outcome| (report.count(outcome), outcome))
        .filter(|(count, _)| *count > 0)
        .map(|(count, outcome)| format!("{count} {outcome}"))
        .collect();
    let counts = if counts.is_empty() {
        "none ran".to_owned()
    } else {
        counts.join(", ")
    };
    match report.cases.len() {
        1 => format!("1 case: {counts}"),
        many => format!("{many} cases: {counts}"),
    }
}

/// Returns the version of the target and the version of the program that tested it.
pub(super) fn versions(report: &Report) -> String {
    match &report.target.product {
        Some(product) => format!("{product}, tested by {}", report.tool),
        None => format!("version unknown, tested by {}", report.tool),
    }
}

/// Returns the URL of an authority if it is a plain `https` URL. No other text may become a link.
pub(super) fn authority_link(authority: &CitedAuthority) -> Option<&str> {
    let url = authority.url.as_str();
    let is_plain = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"'<>`|()".contains(&byte));
    (url.starts_with("https://") && is_plain).then_some(url)
}

/// Explains the verdict, without the ids of the deciding cases.
pub(super) fn meaning(report: &Report) -> Cow<'static, str> {
    Cow::Borrowed(match &report.verdict {
        Verdict::Pass => return pass_meaning(report),
        // An outdated list of expected failures fails the run too.
        Verdict::Fail(ids) if ids.iter().all(|id| report.conditions.passes_unexpectedly(id)) => {
            "cases listed as expected failures passed"
        }
        Verdict::Fail(ids) if ids.iter().any(|id| report.conditions.passes_unexpectedly(id)) => {
            "required cases failed, or cases listed as expected failures passed"
        }
        Verdict::Fail(_) => "required cases failed",
        Verdict::Error(_) => "the harness failed",
        Verdict::Incomplete(ids) if ids.is_empty() => "no case ran",
        Verdict::Incomplete(_) => "documented cases did not run",
    })
}

/// Explains the verdict `pass`. Failures that only a list or a profile excuses are counted.
fn pass_meaning(report: &Report) -> Cow<'static, str> {
    let deciding = |outcome: &str| {
        let gates = |case: &&CaseReport| report.strict || case.level == Level::Documented;
        let has_outcome = |case: &&CaseReport| case.outcome == outcome;
        report.cases.iter().filter(gates).filter(has_outcome).count()
    };
    let exceptions: Vec<_> = [
        (deciding("fail"), "listed as expected failures"),
        (deciding("known-deviation"), "known deviations of the profile"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, why)| format!("{count} {why}"))
    .collect();
    let scope = if report.strict {
        "every case that ran"
    } else {
        "every selected documented case"
    };
    if exceptions.is_empty() {
        Cow::Owned(format!("{scope} passed"))
    } else {
        Cow::Owned(format!("{scope} passed, except {}", exceptions.join(" and ")))
    }
}

/// Returns [`meaning`] with the ids of the deciding cases.
pub(super) fn reason(report: &Report) -> String {
    let meaning = meaning(report);
    match report.verdict.deciding_cases() {
        [] => meaning.into_owned(),
        ids => format!("{meaning}: {}", ids.join(", ")),
    }
}

/// Returns why the failure of a case does not fail the run; `None` when it does, and for a case that did not fail.
pub(super) fn non_gating_reason(report: &Report, case: &CaseReport) -> Option<String> {
    match case.outcome.as_str() {
        "known-deviation" => {
            let name = report
                .conditions
                .profile
                .as_ref()
                .map_or("named", |profile| &profile.name);
            Some(format!("a known deviation of the profile {name}"))
        }
        "fail" if report.conditions.fails_expectedly(&case.id) => Some("listed as an expected failure".to_owned()),
        "fail" if !report.strict && case.level != Level::Documented => {
            Some(format!("{} cases do not decide the verdict", case.level.as_str()))
        }
        _ => None,
    }
}

/// Returns the worst verdict: error, then fail, then incomplete, then pass.
pub(super) fn worst_verdict(reports: &[Report]) -> &'static str {
    let words: Vec<_> = reports.iter().map(|report| report.verdict.as_str()).collect();
    ["error", "fail", "incomplete", "pass"]
        .into_iter()
        .find(|word| words.contains(word))
        .unwrap_or("incomplete")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::report::tests::sample;

    #[rstest]
    #[case(false, "pass", "every selected documented case passed")]
    #[case(
        false,
        "fail",
        "every selected documented case passed, except 1 listed as expected failures"
    )]
    #[case(
        true,
        "known-deviation",
        "every case that ran passed, except 1 known deviations of the profile"
    )]
    fn a_pass_names_the_exceptions(#[case] strict: bool, #[case] outcome: &str, #[case] expected: &str) {
        let mut report = sample();
        report.verdict = Verdict::Pass;
        report.strict = strict;
        for case in &mut report.cases {
            "pass".clone_into(&mut case.outcome);
        }
        let documented = |case: &&mut CaseReport| case.level == Level::Documented;
        let case = report.cases.iter_mut().find(documented).unwrap();
        outcome.clone_into(&mut case.outcome);
        assert_eq!(meaning(&report), expected);
    }
}
