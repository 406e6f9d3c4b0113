//! What changed between two reports.
//!
//! | change | from, to | worse? |
//! |---|---|---|
//! | broken | held, does not hold | yes |
//! | unclaimed | a fact of the profile, a failure | yes |
//! | lost | was judged, is not (skip, error, not run) | yes |
//! | found | was not judged, does not hold | yes |
//! | repaired | did not hold, holds | |
//! | judged | was not judged, holds | |
//! | claimed | a failure, a fact of the profile | |
//! | added | was not there | |
//! | seen | the same outcome, but something else was seen | |
//!
//! Reports are paired by suite and node, cases by id. What differs between any two runs (times, ids, ports) is no change.
//! A case that is gone counts as lost: nobody can say any more that it holds. A case that is new was never said to hold, so
//! its failure makes nothing worse; the run's own verdict tells it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{CaseReport, Report, normal::normalised, visible::on_one_line};
use crate::case::{Level, Suite};

/// The kind of a change, the worse ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Held, and does not any more.
    Broken,
    /// Was a fact of the profile, and is a failure.
    Unclaimed,
    /// Was judged, and is not any more.
    Lost,
    /// Was not judged, and does not hold.
    Found,
    /// Did not hold, and does.
    Repaired,
    /// Was not judged, and holds.
    Judged,
    /// Was a failure, and is a fact of the profile.
    Claimed,
    /// Was not there.
    Added,
    /// The same outcome, but something else was seen.
    Seen,
}

impl Change {
    const ALL: [Change; 9] = [
        Change::Broken,
        Change::Unclaimed,
        Change::Lost,
        Change::Found,
        Change::Repaired,
        Change::Judged,
        Change::Claimed,
        Change::Added,
        Change::Seen,
    ];

    /// Whether it makes the new report worse than the old one.
    pub fn is_worse(self) -> bool {
        self <= Change::Found
    }

    fn title(self) -> &'static str {
        match self {
            Change::Broken => "newly failing",
            Change::Unclaimed => "failing, no fact of the profile any more",
            Change::Lost => "not judged any more",
            Change::Found => "judged for the first time, and failing",
            Change::Repaired => "newly passing",
            Change::Judged => "judged for the first time, and passing",
            Change::Claimed => "still failing, now a fact of the profile",
            Change::Added => "new cases",
            Change::Seen => "the same outcome, but something else was seen",
        }
    }

    /// What became of a case, if anything.
    fn of(old: Option<&CaseReport>, new: Option<&CaseReport>) -> Option<Change> {
        let (Some(old), Some(new)) = (old, new) else {
            return Some(if old.is_some() { Change::Lost } else { Change::Added });
        };
        match (old.outcome.as_str(), new.outcome.as_str()) {
            (before, after) if before == after => {
                (normalised(&old.seen) != normalised(&new.seen)).then_some(Change::Seen)
            }
            ("pass", "fail" | "fact") => Some(Change::Broken),
            ("fact", "fail") => Some(Change::Unclaimed),
            ("fail", "fact") => Some(Change::Claimed),
            ("fail" | "fact", "pass") => Some(Change::Repaired),
            ("pass" | "fail" | "fact", _) => Some(Change::Lost),
            (_, "pass") => Some(Change::Judged),
            (_, "fail" | "fact") => Some(Change::Found),
            // From a skip to an error the harness got worse; back, better, but it still does not know.
            ("skip", _) => Some(Change::Lost),
            _ => Some(Change::Seen),
        }
    }
}

/// One case that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
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
    pub changes: Vec<Changed>,
    /// How many cases did not change.
    pub same: usize,
}

/// What pairs reports: the suite, the node, and the number among those alike.
type Key = (Suite, String, usize);

/// Compares two files of reports.
pub fn compare(old: &[Report], new: &[Report]) -> Comparison {
    let (old, new) = (keyed(old), keyed(new));
    let mut comparison = Comparison::default();
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        pair(&mut comparison, key, old.get(key).copied(), new.get(key).copied());
    }
    comparison
        .changes
        .sort_by(|a, b| (a.change, &a.node, &a.id).cmp(&(b.change, &b.node, &b.id)));
    comparison
}

fn keyed(reports: &[Report]) -> BTreeMap<Key, &Report> {
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

fn pair(comparison: &mut Comparison, key: &Key, old: Option<&Report>, new: Option<&Report>) {
    let label = label(key);
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
        let Some(change) = Change::of(before, after) else {
            comparison.same += 1;
            continue;
        };
        let said = |case: Option<&CaseReport>| {
            case.map_or_else(String::new, |case| {
                format!("{}: {}", case.outcome, case.seen.trim_end())
            })
        };
        comparison.changes.push(Changed {
            change,
            node: key.1.clone(),
            id: id.clone(),
            level: after.or(before).map_or(Level::Documented, |case| case.level),
            before: said(before),
            after: said(after),
        });
    }
}

fn label((suite, node, number): &Key) -> String {
    let mut label = suite.as_str().to_owned();
    if !node.is_empty() {
        let _ = write!(label, " on {node}");
    }
    if *number > 0 {
        let _ = write!(label, " ({})", number + 1);
    }
    label
}

fn conditions(conditions: &mut Vec<String>, label: &str, old: &Report, new: &Report) {
    let profile = |report: &Report| {
        report
            .terms
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
    for (what, before, after) in [
        (
            "target",
            normalised(&old.target.description),
            normalised(&new.target.description),
        ),
        ("profile", profile(old), profile(new)),
        ("decided by", strict(old), strict(new)),
        ("verdict", old.verdict.word().to_owned(), new.verdict.word().to_owned()),
    ] {
        if before != after {
            conditions.push(format!("{label}: {what}: {before} -> {after}"));
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
            let _ = writeln!(text, "{}", on_one_line(line));
        }
        for (change, cases) in self.by_change() {
            let _ = writeln!(text, "\n{} ({})", change.title(), cases.len());
            for case in cases {
                let _ = writeln!(text, "  {} ({})", named(case), case.level.as_str());
                for (label, said) in [("before", &case.before), ("after", &case.after)] {
                    if !said.is_empty() {
                        let _ = writeln!(text, "    {label:<7} {}", on_one_line(said));
                    }
                }
            }
        }
        let _ = writeln!(text, "\n{}", self.sum());
        text
    }

    /// As Markdown, for a comment.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.sum());
        for line in &self.conditions {
            let _ = writeln!(text, "- {}", super::summary::span(line));
        }
        for (change, cases) in self.by_change() {
            let _ = writeln!(
                text,
                "\n### {} ({})\n\n| case | before | after |\n|---|---|---|",
                change.title(),
                cases.len()
            );
            for case in cases {
                let cell = |said: &str| match said {
                    "" => String::new(),
                    // A bar ends a cell even in a code span, unless it is escaped.
                    said => super::summary::span(said).replace('|', "\\|"),
                };
                let _ = writeln!(
                    text,
                    "| {} ({}) | {} | {} |",
                    cell(&named(case)),
                    case.level.as_str(),
                    cell(&case.before),
                    cell(&case.after)
                );
            }
        }
        text
    }

    fn by_change(&self) -> Vec<(Change, Vec<&Changed>)> {
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

    fn sum(&self) -> String {
        let worse = self.changes.iter().filter(|case| case.change.is_worse()).count();
        let word = if worse > 0 {
            format!("worse: {worse} of ")
        } else {
            "not worse: ".to_owned()
        };
        format!("{word}{} changed, {} the same", self.changes.len(), self.same)
    }
}

fn named(case: &Changed) -> String {
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

    fn with(outcome: &str, seen: &str) -> Report {
        let mut report = sample();
        report.cases.truncate(1);
        outcome.clone_into(&mut report.cases[0].outcome);
        seen.clone_into(&mut report.cases[0].seen);
        report
    }

    #[rstest]
    #[case("pass", "fail", Some(Change::Broken), true)]
    #[case("pass", "fact", Some(Change::Broken), true)]
    #[case("fact", "fail", Some(Change::Unclaimed), true)]
    #[case("fail", "fact", Some(Change::Claimed), false)]
    #[case("fail", "pass", Some(Change::Repaired), false)]
    #[case("fact", "pass", Some(Change::Repaired), false)]
    #[case("pass", "skip", Some(Change::Lost), true)]
    #[case("fail", "skip", Some(Change::Lost), true)]
    #[case("pass", "error", Some(Change::Lost), true)]
    #[case("skip", "error", Some(Change::Lost), true)]
    #[case("error", "skip", Some(Change::Seen), false)]
    #[case("skip", "fail", Some(Change::Found), true)]
    #[case("error", "fail", Some(Change::Found), true)]
    #[case("skip", "pass", Some(Change::Judged), false)]
    #[case("pass", "pass", None, false)]
    fn changes(#[case] before: &str, #[case] after: &str, #[case] change: Option<Change>, #[case] worse: bool) {
        let comparison = compare(&[with(before, "x")], &[with(after, "x")]);
        assert_eq!(comparison.changes.first().map(|changed| changed.change), change);
        assert_eq!(comparison.is_worse(), worse);
    }

    #[test]
    fn what_differs_between_any_two_runs_is_no_change_and_what_else_was_seen_is() {
        let old = with("pass", "pid 12 after 317 ms");
        assert_eq!(
            compare(std::slice::from_ref(&old), &[with("pass", "pid 99 after 2 ms")]).same,
            1
        );
        let comparison = compare(&[old], &[with("pass", "another")]);
        assert_eq!(comparison.changes[0].change, Change::Seen);
        assert!(!comparison.is_worse());
    }

    #[test]
    fn a_case_that_is_gone_is_lost_and_a_new_one_makes_nothing_worse() {
        let (all, mut fewer) = (sample(), sample());
        fewer.cases.retain(|case| case.outcome != "fail");
        let comparison = compare(std::slice::from_ref(&all), std::slice::from_ref(&fewer));
        assert_eq!(
            (comparison.changes[0].change, comparison.is_worse()),
            (Change::Lost, true)
        );
        let comparison = compare(&[fewer], &[all]);
        assert_eq!(
            (comparison.changes[0].change, comparison.is_worse()),
            (Change::Added, false)
        );
    }

    #[test]
    fn nodes_are_paired_and_a_node_that_is_gone_is_lost() {
        let node = |name: &str, mut report: Report| {
            report.target.node = Some(name.to_owned());
            report
        };
        let old = [node("a", with("pass", "x")), node("b", with("pass", "x"))];
        let same = [node("b", with("pass", "x")), node("a", with("pass", "x"))];
        assert!(compare(&old, &same).changes.is_empty());
        let comparison = compare(&old, &same[..1]);
        assert!(comparison.is_worse());
        assert_eq!(comparison.conditions, ["kubelet on a: no report any more"]);
        assert_eq!(comparison.changes[0].node, "a");
    }

    #[test]
    fn the_text_tells_what_changed_and_under_which_conditions() {
        let mut new = sample();
        new.strict = true;
        new.target.description = "another kubelet".to_owned();
        new.cases[0].outcome = "fail".to_owned();
        new.cases[2].outcome = "pass".to_owned();
        new.cases[2].seen = "404 | as it should".to_owned();
        let comparison = compare(&[sample()], &[new]);
        insta::assert_snapshot!(comparison.text());
        insta::assert_snapshot!("markdown", comparison.markdown());
    }

    #[test]
    fn what_a_target_says_stays_in_its_cell() {
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
