//! What changed between two reports.
//!
//! | change | from, to | worse? |
//! |---|---|---|
//! | broken | held, does not hold | yes |
//! | unclaimed | a known deviation of the profile, a failure | yes |
//! | lost | was judged, is not (skip, error, not run) | yes |
//! | found | was not judged, does not hold | yes |
//! | repaired | did not hold, holds | |
//! | judged | was not judged, holds | |
//! | claimed | a failure, a known deviation of the profile | |
//! | added | was not there | |
//! | seen | the same outcome, but something else was seen | |
//!
//! Reports are paired by suite and node, cases by id. What differs between any two runs (times, ids, ports) is no change.
//! A case that is gone counts as lost: nobody can say any more that it holds. A case that is new was never said to hold, so
//! its failure makes nothing worse; the run's own verdict tells it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{CaseReport, Report, escape::escape_to_one_line, normalize::normalize};
use crate::engine::{Level, Suite};

/// The kind of a change, the worse ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Held, and does not any more.
    Regressed,
    /// Was a known deviation of the profile, and is a failure.
    NoLongerKnownDeviation,
    /// Was judged, and is not any more.
    NoLongerRun,
    /// Was not judged, and does not hold.
    NewFailure,
    /// Did not hold, and does.
    Fixed,
    /// Was not judged, and holds.
    NewPass,
    /// Was a failure, and is a known deviation of the profile.
    NewKnownDeviation,
    /// Was not there.
    Added,
    /// The same outcome, but something else was seen.
    ActualChanged,
}

impl Change {
    const ALL: [Change; 9] = [
        Change::Regressed,
        Change::NoLongerKnownDeviation,
        Change::NoLongerRun,
        Change::NewFailure,
        Change::Fixed,
        Change::NewPass,
        Change::NewKnownDeviation,
        Change::Added,
        Change::ActualChanged,
    ];

    /// Whether it makes the new report worse than the old one.
    pub fn is_worse(self) -> bool {
        self <= Change::NewFailure
    }

    fn title(self) -> &'static str {
        match self {
            Change::Regressed => "newly failing",
            Change::NoLongerKnownDeviation => "failing, no known deviation of the profile any more",
            Change::NoLongerRun => "not judged any more",
            Change::NewFailure => "judged for the first time, and failing",
            Change::Fixed => "newly passing",
            Change::NewPass => "judged for the first time, and passing",
            Change::NewKnownDeviation => "still failing, now a known deviation of the profile",
            Change::Added => "new cases",
            Change::ActualChanged => "the same outcome, but something else was seen",
        }
    }

    /// What became of a case, if anything.
    fn between(old: Option<&CaseReport>, new: Option<&CaseReport>) -> Option<Change> {
        let (Some(old), Some(new)) = (old, new) else {
            return Some(if old.is_some() {
                Change::NoLongerRun
            } else {
                Change::Added
            });
        };
        match (old.outcome.as_str(), new.outcome.as_str()) {
            (before, after) if before == after => {
                (normalize(&old.actual) != normalize(&new.actual)).then_some(Change::ActualChanged)
            }
            ("pass", "fail" | "known-deviation") => Some(Change::Regressed),
            ("known-deviation", "fail") => Some(Change::NoLongerKnownDeviation),
            ("fail", "known-deviation") => Some(Change::NewKnownDeviation),
            ("fail" | "known-deviation", "pass") => Some(Change::Fixed),
            ("pass" | "fail" | "known-deviation", _) => Some(Change::NoLongerRun),
            (_, "pass") => Some(Change::NewPass),
            (_, "fail" | "known-deviation") => Some(Change::NewFailure),
            // From a skip to an error the harness got worse; back, better, but it still does not know.
            ("skip", _) => Some(Change::NoLongerRun),
            _ => Some(Change::ActualChanged),
        }
    }
}

/// One case that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedCase {
    /// What became of it.
    pub change: Change,
    /// The node it was judged on; empty when there is one alone.
    pub node: String,
    /// Its id.
    pub id: String,
    /// Its level.
    pub level: Level,
    /// Outcome and what was seen before; empty when it was not there.
    pub before: String,
    /// The same after.
    pub after: String,
}

/// What changed between two reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Under which other conditions the new one was made: target, profile, strictness. A reader must know them; they decide
    /// nothing.
    pub conditions: Vec<String>,
    /// The cases that changed, by change, then by node and id.
    pub changes: Vec<ChangedCase>,
    /// How many cases did not change.
    pub unchanged: usize,
}

/// What pairs reports: the suite, the node, and the number among those alike.
type Key = (Suite, String, usize);

/// Compares two files of reports.
pub fn compare(old: &[Report], new: &[Report]) -> Comparison {
    let (old, new) = (by_key(old), by_key(new));
    let mut comparison = Comparison::default();
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        compare_pair(&mut comparison, key, old.get(key).copied(), new.get(key).copied());
    }
    comparison
        .changes
        .sort_by(|a, b| (a.change, &a.node, &a.id).cmp(&(b.change, &b.node, &b.id)));
    comparison
}

fn by_key(reports: &[Report]) -> BTreeMap<Key, &Report> {
    let mut keyed = BTreeMap::new();
    for report in reports {
        let node = report.target.node.clone().unwrap_or_default();
        let mut key = (report.target.suite, node, 0);
        while keyed.contains_key(&key) {
            key.2 += 1;
        }
        keyed.insert(key, report);
    }
    keyed
}

fn compare_pair(comparison: &mut Comparison, key: &Key, old: Option<&Report>, new: Option<&Report>) {
    let label = report_label(key);
    match (old, new) {
        (Some(old), Some(new)) => conditions(&mut comparison.conditions, &label, old, new),
        (Some(_), None) => comparison.conditions.push(format!("{label}: no report any more")),
        (None, Some(_)) => comparison.conditions.push(format!("{label}: no report before")),
        (None, None) => {}
    }
    let cases = |report: Option<&Report>| -> BTreeMap<String, CaseReport> {
        let cases = report.map(|report| report.cases.clone()).unwrap_or_default();
        cases.into_iter().map(|case| (case.id.clone(), case)).collect()
    };
    let (old, new) = (cases(old), cases(new));
    let mut ids: Vec<_> = old.keys().chain(new.keys()).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        let (before, after) = (old.get(id), new.get(id));
        let Some(change) = Change::between(before, after) else {
            comparison.unchanged += 1;
            continue;
        };
        let describe = |case: Option<&CaseReport>| {
            case.map_or_else(String::new, |case| {
                format!("{}: {}", case.outcome, case.actual.trim_end())
            })
        };
        comparison.changes.push(ChangedCase {
            change,
            node: key.1.clone(),
            id: id.clone(),
            level: after.or(before).map_or(Level::Documented, |case| case.level),
            before: describe(before),
            after: describe(after),
        });
    }
}

fn report_label((suite, node, index): &Key) -> String {
    let mut label = suite.as_str().to_owned();
    if !node.is_empty() {
        let _ = write!(label, " on {node}");
    }
    if *index > 0 {
        let _ = write!(label, " ({})", index + 1);
    }
    label
}

fn conditions(conditions: &mut Vec<String>, label: &str, old: &Report, new: &Report) {
    let profile = |report: &Report| {
        report
            .conditions
            .profile
            .as_ref()
            .map_or("none".to_owned(), |one| one.name.clone())
    };
    let strict = |report: &Report| {
        if report.strict {
            "clauses of every level"
        } else {
            "documented clauses"
        }
        .to_owned()
    };
    for (condition, before, after) in [
        (
            "target",
            normalize(&old.target.description),
            normalize(&new.target.description),
        ),
        ("profile", profile(old), profile(new)),
        ("decided by", strict(old), strict(new)),
        (
            "verdict",
            old.verdict.as_str().to_owned(),
            new.verdict.as_str().to_owned(),
        ),
    ] {
        if before != after {
            conditions.push(format!("{label}: {condition}: {before} -> {after}"));
        }
    }
}

impl Comparison {
    /// Whether the new report is worse than the old one.
    pub fn is_worse(&self) -> bool {
        self.changes.iter().any(|changed| changed.change.is_worse())
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.conditions {
            let _ = writeln!(text, "{}", escape_to_one_line(line));
        }
        for (change, cases) in self.by_change() {
            let _ = writeln!(text, "\n{} ({})", change.title(), cases.len());
            for case in cases {
                let _ = writeln!(text, "  {} ({})", case_label(case), case.level.as_str());
                for (label, value) in [("before", &case.before), ("after", &case.after)] {
                    if !value.is_empty() {
                        let _ = writeln!(text, "    {label:<7} {}", escape_to_one_line(value));
                    }
                }
            }
        }
        let _ = writeln!(text, "\n{}", self.summary_line());
        text
    }

    /// As Markdown, for a comment.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.summary_line());
        for line in &self.conditions {
            let _ = writeln!(text, "- {}", super::summary::code_span(line));
        }
        for (change, cases) in self.by_change() {
            let _ = writeln!(
                text,
                "\n### {} ({})\n\n| case | before | after |\n|---|---|---|",
                change.title(),
                cases.len()
            );
            for case in cases {
                let cell = |value: &str| match value {
                    "" => String::new(),
                    // A bar ends a cell even in a code span, unless it is escaped.
                    value => super::summary::code_span(value).replace('|', "\\|"),
                };
                let _ = writeln!(
                    text,
                    "| {} ({}) | {} | {} |",
                    cell(&case_label(case)),
                    case.level.as_str(),
                    cell(&case.before),
                    cell(&case.after)
                );
            }
        }
        text
    }

    fn by_change(&self) -> Vec<(Change, Vec<&ChangedCase>)> {
        Change::ALL
            .into_iter()
            .map(|change| {
                (
                    change,
                    self.changes
                        .iter()
                        .filter(|case| case.change == change)
                        .collect::<Vec<_>>(),
                )
            })
            .filter(|(_, cases)| !cases.is_empty())
            .collect()
    }

    fn summary_line(&self) -> String {
        let worse_count = self.changes.iter().filter(|case| case.change.is_worse()).count();
        let word = if worse_count > 0 {
            format!("worse: {worse_count} of ")
        } else {
            "not worse: ".to_owned()
        };
        format!("{word}{} changed, {} the same", self.changes.len(), self.unchanged)
    }
}

fn case_label(case: &ChangedCase) -> String {
    if case.node.is_empty() {
        case.id.clone()
    } else {
        format!("{}: {}", case.node, case.id)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::report::tests::{hostile, sample};

    fn report_with(outcome: &str, actual: &str) -> Report {
        let mut report = sample();
        report.cases.truncate(1);
        outcome.clone_into(&mut report.cases[0].outcome);
        actual.clone_into(&mut report.cases[0].actual);
        report
    }

    #[rstest]
    #[case("pass", "fail", Some(Change::Regressed), true)]
    #[case("pass", "known-deviation", Some(Change::Regressed), true)]
    #[case("known-deviation", "fail", Some(Change::NoLongerKnownDeviation), true)]
    #[case("fail", "known-deviation", Some(Change::NewKnownDeviation), false)]
    #[case("fail", "pass", Some(Change::Fixed), false)]
    #[case("known-deviation", "pass", Some(Change::Fixed), false)]
    #[case("pass", "skip", Some(Change::NoLongerRun), true)]
    #[case("fail", "skip", Some(Change::NoLongerRun), true)]
    #[case("pass", "error", Some(Change::NoLongerRun), true)]
    #[case("skip", "error", Some(Change::NoLongerRun), true)]
    #[case("error", "skip", Some(Change::ActualChanged), false)]
    #[case("skip", "fail", Some(Change::NewFailure), true)]
    #[case("error", "fail", Some(Change::NewFailure), true)]
    #[case("skip", "pass", Some(Change::NewPass), false)]
    #[case("pass", "pass", None, false)]
    fn changes(#[case] before: &str, #[case] after: &str, #[case] change: Option<Change>, #[case] worse: bool) {
        let comparison = compare(&[report_with(before, "x")], &[report_with(after, "x")]);
        assert_eq!(comparison.changes.first().map(|changed| changed.change), change);
        assert_eq!(comparison.is_worse(), worse);
    }

    #[test]
    fn ignores_run_specific_details() {
        let old = report_with("pass", "pid 12 after 317 ms");
        assert_eq!(
            compare(std::slice::from_ref(&old), &[report_with("pass", "pid 99 after 2 ms")]).unchanged,
            1
        );
        let comparison = compare(&[old], &[report_with("pass", "another")]);
        assert_eq!(comparison.changes[0].change, Change::ActualChanged);
        assert!(!comparison.is_worse());
    }

    #[test]
    fn missing_cases_are_worse_and_new_ones_are_not() {
        let (full, mut reduced) = (sample(), sample());
        reduced.cases.retain(|case| case.outcome != "fail");
        let comparison = compare(std::slice::from_ref(&full), std::slice::from_ref(&reduced));
        assert_eq!(
            (comparison.changes[0].change, comparison.is_worse()),
            (Change::NoLongerRun, true)
        );
        let comparison = compare(&[reduced], &[full]);
        assert_eq!(
            (comparison.changes[0].change, comparison.is_worse()),
            (Change::Added, false)
        );
    }

    #[test]
    fn pairs_reports_by_node() {
        let node = |name: &str, mut report: Report| {
            report.target.node = Some(name.to_owned());
            report
        };
        let old = [node("a", report_with("pass", "x")), node("b", report_with("pass", "x"))];
        let same = [node("b", report_with("pass", "x")), node("a", report_with("pass", "x"))];
        assert!(compare(&old, &same).changes.is_empty());
        let comparison = compare(&old, &same[..1]);
        assert!(comparison.is_worse());
        assert_eq!(comparison.conditions, ["kubelet on a: no report any more"]);
        assert_eq!(comparison.changes[0].node, "a");
    }

    #[test]
    fn text_lists_changes_and_conditions() {
        let mut new = sample();
        new.strict = true;
        new.target.description = "another kubelet".to_owned();
        new.cases[0].outcome = "fail".to_owned();
        new.cases[1].outcome = "pass".to_owned();
        new.cases[1].actual = "404 | as it should".to_owned();
        let comparison = compare(&[sample()], &[new]);
        insta::assert_snapshot!(comparison.text());
        insta::assert_snapshot!("markdown", comparison.markdown());
    }

    #[test]
    fn hostile_text_stays_in_its_table_cell() {
        let comparison = compare(&[hostile()], &[sample()]);
        let markdown = comparison.markdown();
        for line in markdown.lines().filter(|line| line.starts_with("| `")) {
            let bars = line.replace("\\|", "").matches('|').count();
            assert_eq!(bars, 4, "{line}");
        }
        assert!(!markdown.contains('\x1b') && !comparison.text().contains('\x1b'));
        assert!(!comparison.text().contains("\nok 9"));
    }
}
