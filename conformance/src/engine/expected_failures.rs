//! Expected failures: a list of case ids, so that a CI run fails only for new failures.
//!
//! ```text
//!  # one id per line
//!  kubelet/feature-gate/disabled     # fixed in 1.4
//! ```
//!
//! A listed failure does not fail the run. A listed case that passes fails the run, so that the list shrinks.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{CaseInfo, CaseRecord, Outcome, sorted_ids};

/// The ids of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedFailures(BTreeSet<String>);

/// A line with an unknown case.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: unknown case {id} (see `checkpoint-conformance list`)")]
pub struct UnknownCase {
    /// The line number, from 1.
    pub line: usize,
    /// The text of the line, without its comment.
    pub id: String,
}

/// The results of the listed cases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedFailuresResult {
    /// The path of the list, as the user named it.
    pub file: String,
    /// The listed cases that failed; sorted.
    pub failed: Vec<String>,
    /// The listed cases that passed, which fails the run; sorted.
    pub passed: Vec<String>,
    /// The listed and selected cases with any other outcome: skip, known deviation, error; sorted.
    pub other: Vec<String>,
}

impl ExpectedFailures {
    /// Parses a list with one id per line; `#` begins a comment.
    ///
    /// # Errors
    /// A line names an unknown case; the first such line is returned.
    pub fn parse(text: &str, catalogue: &[CaseInfo]) -> Result<ExpectedFailures, UnknownCase> {
        let mut ids = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let id = line.split('#').next().unwrap_or_default().trim();
            if id.is_empty() {
                continue;
            }
            if !catalogue.iter().any(|info| info.id == id) {
                return Err(UnknownCase {
                    line: index + 1,
                    id: id.to_owned(),
                });
            }
            ids.insert(id.to_owned());
        }
        Ok(ExpectedFailures(ids))
    }

    /// Compares the list with the outcomes of the cases.
    pub fn compare(&self, file: &str, records: &[CaseRecord]) -> ExpectedFailuresResult {
        let ids = |matches_outcome: fn(&Outcome) -> bool| {
            sorted_ids(records, |record| {
                matches_outcome(&record.outcome) && self.0.contains(record.info.id)
            })
        };
        ExpectedFailuresResult {
            file: file.to_owned(),
            failed: ids(|outcome| matches!(outcome, Outcome::Fail { .. })),
            passed: ids(|outcome| matches!(outcome, Outcome::Pass { .. })),
            other: ids(|outcome| !matches!(outcome, Outcome::Fail { .. } | Outcome::Pass { .. })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{Level, SkipKind};

    const fn case_info(id: &'static str) -> CaseInfo {
        CaseInfo::new(id, Level::Documented)
    }

    const CATALOGUE: &[CaseInfo] = &[case_info("x/a"), case_info("x/b"), case_info("x/c"), case_info("x/d")];

    #[test]
    fn a_list_has_comments_and_case_ids() {
        let list = ExpectedFailures::parse("# known\n\nx/a # since 1.2\n  x/b\nx/c\n", CATALOGUE).unwrap();
        let empty = String::new;
        let outcomes = [
            Outcome::Fail { actual: empty() },
            Outcome::Pass { actual: empty() },
            Outcome::Skip {
                kind: SkipKind::MissingCapability,
                reason: empty(),
            },
            Outcome::Fail { actual: empty() },
        ];
        let records: Vec<_> = CATALOGUE
            .iter()
            .zip(outcomes)
            .map(|(info, outcome)| CaseRecord {
                info: *info,
                outcome,
                duration: Duration::ZERO,
                evidence: Vec::new(),
            })
            .collect();
        let result = list.compare("known.txt", &records);
        assert_eq!(result.failed, ["x/a"]);
        assert_eq!(result.passed, ["x/b"]);
        assert_eq!(result.other, ["x/c"]);
    }

    #[test]
    fn an_unknown_case_is_refused_with_its_line_number() {
        let error = ExpectedFailures::parse("x/a\n\nx/new # soon\n", CATALOGUE).unwrap_err();
        assert_eq!((error.line, error.id.as_str()), (3, "x/new"));
    }
}
