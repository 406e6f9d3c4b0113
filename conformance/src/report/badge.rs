//! The verdict as a badge: JSON for a shields.io endpoint badge.

use serde::Serialize;

use super::{Report, phrases::worst_verdict};

/// The shields.io endpoint schema, version 1.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Badge {
    schema_version: u8,
    label: String,
    message: String,
    color: &'static str,
    is_error: bool,
}

/// Returns the badge: the passed cases out of the passed and failed ones, in the colour of the worst verdict.
pub(super) fn badge(reports: &[Report]) -> Badge {
    let count = |outcome: &str| reports.iter().map(|report| report.count(outcome)).sum::<usize>();
    let verdict_word = worst_verdict(reports);
    let (color, is_error) = match verdict_word {
        "pass" => ("brightgreen", false),
        "incomplete" => ("yellow", false),
        "fail" => ("red", true),
        _ => ("lightgrey", true),
    };
    let pass = count("pass");
    Badge {
        schema_version: 1,
        label: match reports {
            [one] => format!("checkpoint {}", one.target.suite.as_str()),
            _ => "checkpoint".to_owned(),
        },
        message: format!("{verdict_word}, {pass}/{}", pass + count("fail")),
        color,
        is_error,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{engine::Verdict, report::tests::sample};

    #[rstest]
    #[case(Verdict::Pass, "brightgreen", "pass, 1/2", false)]
    #[case(Verdict::Fail(vec![]), "red", "fail, 1/2", true)]
    #[case(Verdict::Error(vec![]), "lightgrey", "error, 1/2", true)]
    #[case(Verdict::Incomplete(vec![]), "yellow", "incomplete, 1/2", false)]
    fn badges(#[case] verdict: Verdict, #[case] color: &str, #[case] message: &str, #[case] error: bool) {
        let mut report = sample();
        report.verdict = verdict;
        let json = serde_json::to_value(badge(&[report])).unwrap();
        let expected = serde_json::json!({
            "schemaVersion": 1, "label": "checkpoint kubelet", "message": message, "color": color, "isError": error,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_worst_report_decides_the_badge() {
        let mut good = sample();
        good.verdict = Verdict::Pass;
        let badge = badge(&[good, sample()]);
        assert_eq!((badge.color, badge.message.as_str()), ("lightgrey", "error, 2/4"));
    }
}
