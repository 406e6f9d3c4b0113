//! The run as JUnit XML, which most CI systems read: a test suite a group of ids, a test case a case.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use super::{CaseReport, Report, ReportError};

/// The XML text.
///
/// # Errors
/// Text that cannot be put into XML.
pub(super) fn render(report: &Report) -> Result<String, ReportError> {
    let mut xml = Xml::new(format!("checkpoint-conformance {}", report.target.suite.as_str()));
    xml.set_time(Duration::from_secs_f64(report.duration));
    let mut groups: Vec<(&str, TestSuite)> = Vec::new();
    for case in &report.cases {
        let (group, name) = case.id.rsplit_once('/').unwrap_or((&case.id, &case.id));
        if groups.last().is_none_or(|(last, _)| *last != group) {
            groups.push((group, TestSuite::new(group)));
        }
        if let Some((_, suite)) = groups.last_mut() {
            suite.add_test_case(test_case(group, name, case));
        }
    }
    xml.add_test_suites(groups.into_iter().map(|(_, suite)| suite));
    Ok(xml.to_string()?)
}

fn test_case(group: &str, name: &str, case: &CaseReport) -> TestCase {
    let mut status = match case.outcome.as_str() {
        "pass" | "fact" => TestCaseStatus::success(),
        "skip" => TestCaseStatus::skipped(),
        "fail" => TestCaseStatus::non_success(NonSuccessKind::Failure),
        _ => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if case.outcome != "pass" {
        status.set_message(case.seen.as_str());
    }
    if case.outcome == "fail" {
        status.set_type(case.level.as_str());
        status.set_description(format!(
            "clause: {}\nsource: {} ({})\nexpected: {}\nseen: {}",
            case.clause,
            case.source,
            case.level.as_str(),
            case.expected,
            case.seen
        ));
    }
    let mut test = TestCase::new(name, status);
    test.set_classname(group.replace('/', "."));
    test.set_time(Duration::from_secs_f64(case.duration));
    test.add_property(("level", case.level.as_str()));
    test.add_property(("clause", case.clause.as_str()));
    test
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_xml_has_every_case_with_its_outcome() {
        insta::assert_snapshot!(render(&super::super::tests::sample()).unwrap());
    }
}
