//! A report in words, as every format says them.

use std::borrow::Cow;

use super::{CaseReport, Report};
use crate::engine::{CitedAuthority, Level, Verdict};

/// The outcomes in the order in which they are counted.
pub(super) const OUTCOMES: [&str; 5] = ["pass", "fail", "known-deviation", "skip", "error"];

/// `61 cases: 59 pass, 2 fail`.
pub(super) fn counts(report: &Report) -> String {
    let counts: Vec<_> = OUTCOMES
        .into_iter()
        .map(|outcome| (report.count(outcome), outcome))
        .filter(|(count, _)| *count > 0)
        .map(|(count, outcome)| format!("{count} {outcome}"))
        .collect();
    let counts = if counts.is_empty() {
        "nothing ran".to_owned()
    } else {
        counts.join(", ")
    };
    match report.cases.len() {
        1 => format!("1 case: {counts}"),
        many => format!("{many} cases: {counts}"),
    }
}

/// Which version was tested by which version of this program.
pub(super) fn versions(report: &Report) -> String {
    match &report.target.product {
        Some(product) => format!("{product}, tested by {}", report.tool),
        None => format!("version unknown, tested by {}", report.tool),
    }
}

/// Where an authority can be read, if that is a web page: nothing else becomes a link.
pub(super) fn authority_link(authority: &CitedAuthority) -> Option<&str> {
    let url = authority.url.as_str();
    let is_plain = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"'<>`|()".contains(&byte));
    (url.starts_with("https://") && is_plain).then_some(url)
}

/// What the verdict means, without the ids that decided it.
pub(super) fn meaning(report: &Report) -> Cow<'static, str> {
    Cow::Borrowed(match &report.verdict {
        Verdict::Pass => return pass_meaning(report),
        // A list of known failures that is out of date fails the run too.
        Verdict::Fail(ids) if ids.iter().all(|id| report.conditions.passes_unexpectedly(id)) => {
            "passes, and is listed as an expected failure"
        }
        Verdict::Fail(ids) if ids.iter().any(|id| report.conditions.passes_unexpectedly(id)) => {
            "does not hold, or passes and is listed as an expected failure"
        }
        Verdict::Fail(_) => "does not hold",
        Verdict::Error(_) => "the harness could not do its work",
        Verdict::Incomplete(ids) if ids.is_empty() => "nothing was judged",
        Verdict::Incomplete(_) => "not judged",
    })
}

/// What holds where the verdict is pass: what was spared by a list or a profile would have decided otherwise, and is named.
fn pass_meaning(report: &Report) -> Cow<'static, str> {
    let deciding = |outcome: &str| {
        let gates = |case: &&CaseReport| report.strict || case.level == Level::Documented;
        let has_outcome = |case: &&CaseReport| case.outcome == outcome;
        report.cases.iter().filter(gates).filter(has_outcome).count()
    };
    let exceptions: Vec<_> = [
        (deciding("fail"), "listed as expected failures"),
        (deciding("known-deviation"), "claimed by the profile"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, why)| format!("{count} {why}"))
    .collect();
    let scope = if report.strict {
        "every clause that was judged"
    } else {
        "every documented clause that was selected was judged and"
    };
    if exceptions.is_empty() {
        Cow::Owned(format!("{scope} holds"))
    } else {
        Cow::Owned(format!("{scope} holds, but {}", exceptions.join(" and ")))
    }
}

/// [`meaning`] with the ids that decided it.
pub(super) fn reason(report: &Report) -> String {
    let meaning = meaning(report);
    match report.verdict.deciding_cases() {
        [] => meaning.into_owned(),
        ids => format!("{meaning}: {}", ids.join(", ")),
    }
}

/// Why a clause that does not hold does not fail the run; `None` when it does, or when it holds or was not judged.
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
            Some(format!("{} clauses do not decide", case.level.as_str()))
        }
        _ => None,
    }
}

/// The worst verdict's word: error, then fail, then incomplete, then pass.
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
    #[case(false, "pass", "every documented clause that was selected was judged and holds")]
    #[case(
        false,
        "fail",
        "every documented clause that was selected was judged and holds, but 1 listed as expected failures"
    )]
    #[case(
        true,
        "known-deviation",
        "every clause that was judged holds, but 1 claimed by the profile"
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
