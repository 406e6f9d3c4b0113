//! The changes between two reports.
//!
//! | change | old outcome | new outcome | worse? |
//! |---|---|---|---|
//! | `Regressed` | pass | fail or known deviation | yes |
//! | `NoLongerKnownDeviation` | known deviation | fail | yes |
//! | `NoLongerRun` | pass, fail or known deviation | skip, error or no such case | yes |
//! | `NewFailure` | skip or error | fail or known deviation | yes |
//! | `Fixed` | fail or known deviation | pass | |
//! | `NewPass` | skip or error | pass | |
//! | `NewKnownDeviation` | fail | known deviation | |
//! | `Added` | no such case | any | |
//! | `ActualChanged` | any | the same, with another actual text | |
//!
//! A change from skip to error is `NoLongerRun` too: the harness got worse.
//!
//! Reports are paired by suite and node, cases by id. Values that differ between any two runs (times, ids, ports) do
//! not count as a change. A removed case counts as worse, because the new report does not show that the case still
//! passes. A new failing case does not count as worse: the old report never said that it passed. The verdict of the new
//! run covers it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{CaseReport, Report, escape::escape_to_one_line, normalize::normalize};
use crate::engine::{Level, Suite};

/// The kind of a change. The kinds that make a report worse come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The case passed and now fails.
    Regressed,
    /// The failure was a known deviation of the profile and no longer is.
    NoLongerKnownDeviation,
    /// The case no longer runs to a result.
    NoLongerRun,
    /// The case did not run and now fails.
    NewFailure,
    /// The case failed and now passes.
    Fixed,
    /// The case did not run and now passes.
    NewPass,
    /// The failure is now a known deviation of the profile.
    NewKnownDeviation,
    /// The case is new.
    Added,
    /// The outcome is the same, the actual text differs.
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

    /// Whether the change makes the new report worse than the old one.
    pub fn is_worse(self) -> bool {
        self <= Change::NewFailure
    }

    fn title(self) -> &'static str {
        match self {
            Change::Regressed => "newly failing",
            Change::NoLongerKnownDeviation => "failing, no longer a known deviation of the profile",
            Change::NoLongerRun => "no longer run",
            Change::NewFailure => "run for the first time, and failing",
            Change::Fixed => "newly passing",
            Change::NewPass => "run for the first time, and passing",
            Change::NewKnownDeviation => "still failing, now a known deviation of the profile",
            Change::Added => "new cases",
            Change::ActualChanged => "same outcome, different actual value",
        }
    }

    /// Returns the change of a case; `None` when nothing changed.
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
            // From skip to error the harness got worse. From error to skip it got better, but there is still no result.
            ("skip", _) => Some(Change::NoLongerRun),
            _ => Some(Change::ActualChanged),
        }
    }
}

/// A case that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedCase {
    /// The kind of the change.
    pub change: Change,
    /// The node of the target; empty for a target without a node.
    pub node: String,
    /// The id of the case.
    pub id: String,
    /// The level of the case.
    pub level: Level,
    /// Outcome and actual text in the old report; empty when the case is new.
    pub before: String,
    /// Outcome and actual text in the new report; empty when the case was removed.
    pub after: String,
}

/// The changes between two files of reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The conditions that differ: target, profile, strictness, verdict. They are shown to the reader and do not make
    /// the new report worse.
    pub conditions: Vec<String>,
    /// The changed cases, sorted by change, node and id.
    pub changes: Vec<ChangedCase>,
    /// The number of unchanged cases.
    pub unchanged: usize,
}

/// The key by which reports are paired: suite, node, and an index among reports with the same suite and node.
type Key = (Suite, String, usize);

/// Compares the reports of two files.
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
        (Some(_), None) => comparison
            .conditions
            .push(format!("{label}: report missing in the new file")),
        (None, Some(_)) => comparison
            .conditions
            .push(format!("{label}: report missing in the old file")),
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
            "cases of every level"
        } else {
            "documented cases"
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

    /// Returns the comparison as plain text for a terminal.
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

    /// Returns the comparison as Markdown, for a comment on a pull request.
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
                    // An unescaped `|` ends a table cell even inside a code span.
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
        format!("{word}{} changed, {} unchanged", self.changes.len(), self.unchanged)
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
        assert_eq!(comparison.conditions, ["kubelet on a: report missing in the new file"]);
        assert_eq!(comparison.changes[0].node, "a");
    }

    #[test]
    fn text_lists_changes_and_conditions() {
        let mut new = sample();
        new.strict = true;
        new.target.description = "another kubelet".to_owned();
        new.cases[0].outcome = "fail".to_owned();
        new.cases[1].outcome = "pass".to_owned();
        new.cases[1].actual = "404 | as expected".to_owned();
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
