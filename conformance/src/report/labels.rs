//! What tells several reports in one file apart: the node, else the suite, else the number.

use super::Report;

/// A short label for each report, no two alike; empty for a report that stands alone.
pub(super) fn labels(reports: &[Report]) -> Vec<String> {
    if reports.len() < 2 {
        return vec![String::new(); reports.len()];
    }
    let several_suites = reports
        .iter()
        .any(|report| report.target.suite != reports[0].target.suite);
    let wanted: Vec<_> = reports
        .iter()
        .map(|report| match (&report.target.node, several_suites) {
            (Some(node), false) => node.clone(),
            (Some(node), true) => format!("{node} {}", report.target.suite.as_str()),
            (None, _) => report.target.suite.as_str().to_owned(),
        })
        .collect();
    wanted
        .iter()
        .enumerate()
        .map(|(index, label)| {
            let alike = wanted.iter().filter(|other| *other == label).count();
            if alike == 1 {
                label.clone()
            } else {
                let number = wanted[..=index].iter().filter(|other| *other == label).count();
                format!("{label} {number}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{case::Suite, report::tests::sample};

    fn report(suite: Suite, node: Option<&str>) -> Report {
        let mut report = sample();
        report.target.suite = suite;
        report.target.node = node.map(str::to_owned);
        report
    }

    #[test]
    fn labels_differ_and_one_report_needs_none() {
        assert_eq!(labels(&[sample()]), [""]);
        let nodes = [report(Suite::Kubelet, Some("a")), report(Suite::Kubelet, Some("b"))];
        assert_eq!(labels(&nodes), ["a", "b"]);
        let archives = [report(Suite::Archive, None), report(Suite::Archive, None)];
        assert_eq!(labels(&archives), ["archive 1", "archive 2"]);
        let both = [report(Suite::Kubelet, Some("a")), report(Suite::Runtime, Some("a"))];
        assert_eq!(labels(&both), ["a kubelet", "a runtime"]);
    }
}
