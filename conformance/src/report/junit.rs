//! The report as JUnit XML for CI systems: one test suite per group of ids, one test case per case.
//!
//! JUnit XML has several schemas. The output is valid by the strictest one in use, Jenkins's `junit-10.xsd`: no
//! properties in a test case and no `skipped` on the root. The level and requirement of a case are therefore in its
//! `system-out`.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use quick_junit::{NonSuccessKind, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use super::{
    CaseReport, Report, ReportError,
    escape::escape_controls,
    labels::labels,
    phrases::{authority_link, versions},
};
use crate::{engine::Suite, evidence::EvidenceItem};

/// Renders the XML. With several reports the name of each test suite begins with the label of its report.
///
/// # Errors
/// A text cannot be serialized as XML.
pub(super) fn render(reports: &[Report]) -> Result<String, ReportError> {
    let suites: BTreeSet<_> = reports.iter().map(|report| report.target.suite).collect();
    let suites: Vec<_> = suites.into_iter().map(Suite::as_str).collect();
    let mut xml = Xml::new(format!("checkpoint-conformance {}", suites.join(" ")));
    xml.set_time(Duration::from_secs_f64(
        reports.iter().map(|report| report.duration).sum(),
    ));
    for (label, report) in labels(reports).iter().zip(reports) {
        for cases in report.cases.chunk_by(|a, b| a.group() == b.group()) {
            let group = cases[0].group();
            let name = if label.is_empty() {
                group.to_owned()
            } else {
                format!("{label}: {group}")
            };
            let mut suite = TestSuite::new(name.clone());
            suite.set_time(Duration::from_secs_f64(cases.iter().map(|case| case.duration).sum()));
            suite.add_property(("target", escape_controls(&report.target.description).as_ref()));
            suite.add_property(("versions", escape_controls(&versions(report)).as_ref()));
            suite.add_test_cases(cases.iter().map(|case| test_case(&name, report, case)));
            xml.add_test_suite(suite);
        }
    }
    Ok(without_skipped_total(&xml.to_string()?))
}

/// Removes the attribute `skipped` of the root element: quick-junit writes it, and Jenkins's schema forbids it there.
fn without_skipped_total(xml: &str) -> String {
    let root = xml.find("<testsuites").unwrap_or(0);
    let end = xml[root..].find('>').map_or(xml.len(), |end| root + end);
    match xml[root..end].find(" skipped=\"") {
        Some(from) => {
            let start = root + from;
            let value = start + " skipped=\"".len();
            let end_of_value = xml[value..].find('"').map_or(value, |length| value + length + 1);
            format!("{}{}", &xml[..start], &xml[end_of_value..])
        }
        None => xml.to_owned(),
    }
}

fn test_case(suite: &str, report: &Report, case: &CaseReport) -> TestCase {
    let actual = escape_controls(&case.actual);
    let unexpected = report.conditions.passes_unexpectedly(&case.id);
    let expected_failure = report.conditions.fails_expectedly(&case.id);
    let status = match case.outcome.as_str() {
        _ if unexpected => {
            let text = format!("passed although listed as an expected failure: {actual}");
            failed(NonSuccessKind::Failure, "unexpected-pass", &text, case)
        }
        "pass" | "known-deviation" => TestCaseStatus::success(),
        "skip" => skipped(&actual),
        "fail" if expected_failure => skipped(&format!("failed as expected: {actual}")),
        "fail" => failed(NonSuccessKind::Failure, case.level.as_str(), &actual, case),
        _ => failed(NonSuccessKind::Error, case.level.as_str(), &actual, case),
    };
    let mut test = TestCase::new(case.name(), status);
    test.set_classname(suite.replace('/', "."));
    test.set_time(Duration::from_secs_f64(case.duration));
    let mut out = format!(
        "{}: {}\n{}: {actual}",
        case.level.as_str(),
        escape_controls(&case.requirement),
        case.outcome
    );
    if case.outcome != "pass" {
        for EvidenceItem { kind, text } in &case.evidence {
            let _ = write!(out, "\n\n[{}]\n{}", kind.as_str(), escape_controls(text));
        }
    }
    test.set_system_out(out);
    test
}

fn skipped(message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(message);
    status
}

fn failed(kind: NonSuccessKind, class: &str, message: &str, case: &CaseReport) -> TestCaseStatus {
    let mut text = format!(
        "requirement: {}\nauthority: {} ({}) {}\n{}expected: {}\n{}: {message}",
        escape_controls(&case.requirement),
        escape_controls(&case.authority.citation()),
        case.level.as_str(),
        authority_link(&case.authority).unwrap_or_default(),
        match case.motivation.as_str() {
            "" => String::new(),
            motivation => format!("motivation: {}\n", escape_controls(motivation)),
        },
        escape_controls(&case.expected),
        if kind == NonSuccessKind::Error {
            "error"
        } else {
            "actual"
        },
    );
    if !case.rerun.is_empty() {
        let _ = write!(text, "\nrerun: {}", escape_controls(&case.rerun));
    }
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message).set_type(class).set_description(text);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{hostile, sample};

    #[test]
    fn contains_every_case_with_its_outcome() {
        insta::assert_snapshot!(render(&[sample()]).unwrap());
    }

    #[test]
    fn round_trips_hostile_text() {
        let report = hostile();
        let xml = render(std::slice::from_ref(&report)).unwrap();
        let parsed = Xml::deserialize_from_str(&xml).unwrap();
        let tests: Vec<_> = parsed.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
        assert_eq!(tests.len(), report.cases.len());
        let message = tests
            .iter()
            .find_map(|test| match &test.status {
                TestCaseStatus::NonSuccess { message, .. } => message.as_ref(),
                _ => None,
            })
            .unwrap();
        let actual = &report.cases.iter().find(|case| case.outcome == "fail").unwrap().actual;
        let collapse_spaces = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            collapse_spaces(message.as_str()),
            collapse_spaces(&escape_controls(actual))
        );
    }

    #[test]
    fn satisfies_the_strictest_schema() {
        let xml = render(&[sample()]).unwrap();
        let root = xml.lines().nth(1).unwrap();
        let names: Vec<_> = root
            .split(' ')
            .skip(1)
            .filter_map(|word| word.split_once("=\""))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["name", "tests", "failures", "errors", "time"], "{root}");
        for test in xml.split("<testcase ").skip(1) {
            let test = test.split("</testcase>").next().unwrap();
            assert!(!test.contains("<properties>"), "{test}");
            let order: Vec<_> = ["<skipped", "<error", "<failure", "<system-out"]
                .into_iter()
                .filter_map(|tag| test.find(tag))
                .collect();
            assert!(order.is_sorted(), "{test}");
        }
    }

    #[test]
    fn skips_expected_failures_and_fails_unexpected_passes() {
        let mut report = sample();
        report.conditions.expected_failures = Some(crate::engine::ExpectedFailuresResult {
            file: "known.txt".to_owned(),
            failed: vec!["kubelet/lookup/pod-unknown".to_owned()],
            passed: vec!["kubelet/checkpoint/succeeds".to_owned()],
            other: Vec::new(),
        });
        let xml = render(&[report]).unwrap();
        assert!(
            xml.contains("<skipped message=\"failed as expected: 200 with token"),
            "{xml}"
        );
        assert!(xml.contains("type=\"unexpected-pass\""), "{xml}");
    }

    /// All JUnit viewers need consistent counts, unique suite names, times, and a class name for each test.
    #[test]
    fn merged_reports_have_consistent_counts() {
        let node = |name: &str| {
            let mut report = sample();
            report.target.node = Some(name.to_owned());
            report
        };
        let xml = render(&[node("a"), node("b")]).unwrap();
        let read = Xml::deserialize_from_str(&xml).unwrap();
        assert_eq!((read.tests, read.failures, read.errors), (8, 2, 2));
        let mut names: Vec<_> = read.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names.len(), 6);
        names.dedup();
        assert_eq!(names.len(), 6, "{names:?}");
        assert!(
            names.contains(&"a: kubelet/lookup") && names.contains(&"b: kubelet/lookup"),
            "{names:?}"
        );
        for suite in &read.test_suites {
            assert_eq!(suite.tests, suite.test_cases.len());
            assert!(suite.time.is_some());
            assert!(
                suite
                    .test_cases
                    .iter()
                    .all(|test| test.classname.is_some() && test.time.is_some())
            );
        }
    }
}
