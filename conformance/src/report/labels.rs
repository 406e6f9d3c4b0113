//! Labels that distinguish the reports in one file: the node, else the suite, plus a number where these are equal.

use super::Report;

/// Returns a unique short label for each report; an empty label for a single report.
pub(super) fn labels(reports: &[Report]) -> Vec<String> {
    if reports.len() < 2 {
        return vec![String::new(); reports.len()];
    }
    let several_suites = reports
        .iter()
        .any(|report| report.target.suite != reports[0].target.suite);
    let base_labels: Vec<_> = reports
        .iter()
        .map(|report| match (&report.target.node, several_suites) {
            (Some(node), false) => node.clone(),
            (Some(node), true) => format!("{node} {}", report.target.suite.as_str()),
            (None, _) => report.target.suite.as_str().to_owned(),
        })
        .collect();
    base_labels
        .iter()
        .enumerate()
        .map(|(index, label)| {
            let same_label_count = base_labels.iter().filter(|other| *other == label).count();
            if same_label_count == 1 {
                label.clone()
            } else {
                let occurrence = base_labels[..=index].iter().filter(|other| *other == label).count();
                format!("{label} {occurrence}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Suite, report::tests::sample};

    fn report(suite: Suite, node: Option<&str>) -> Report {
        let mut report = sample();
        report.target.suite = suite;
        report.target.node = node.map(str::to_owned);
        report
    }

    #[test]
    fn labels_are_unique_and_empty_for_one_report() {
        assert_eq!(labels(&[sample()]), [""]);
        let nodes = [report(Suite::Kubelet, Some("a")), report(Suite::Kubelet, Some("b"))];
        assert_eq!(labels(&nodes), ["a", "b"]);
        let archives = [report(Suite::Archive, None), report(Suite::Archive, None)];
        assert_eq!(labels(&archives), ["archive 1", "archive 2"]);
        let both = [report(Suite::Kubelet, Some("a")), report(Suite::Runtime, Some("a"))];
        assert_eq!(labels(&both), ["a kubelet", "a runtime"]);
    }
}
