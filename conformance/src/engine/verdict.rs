//! The verdict of a run.
//!
//! | verdict | when | exit code |
//! |---|---|---|
//! | pass | every selected documented case was checked and passed | 0 |
//! | fail | a documented case failed (with `--strict`, of any level), or a listed expected failure passed | 1 |
//! | error | a case ended in an error of the harness; takes precedence over fail | 3 |
//! | incomplete | no case ran, or a documented case was skipped; fail takes precedence | 4; 0 if allowed |
//!
//! `--allow-incomplete` allows exit code 0. Exit code 2 is a usage error, before any case runs. A known deviation of a
//! profile is not a failure, and a listed failure does not decide ([`RunConditions`]).

use serde::{Deserialize, Serialize};

use super::{CaseRecord, Level, Outcome, RunConditions, sorted_ids};

/// The exit codes of `checkpoint-conformance`.
pub mod exit {
    /// Every selected documented case was checked and passed.
    pub const PASS: u8 = 0;
    /// A case that decides failed.
    pub const FAIL: u8 = 1;
    /// The command line is invalid.
    pub const USAGE: u8 = 2;
    /// The harness failed.
    pub const ERROR: u8 = 3;
    /// No case ran, or a documented case was skipped.
    pub const INCOMPLETE: u8 = 4;
}

/// Which cases decide the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatePolicy {
    /// A failure of any level decides, not only of level `documented`.
    pub strict: bool,
    /// An incomplete run exits 0; its verdict is still `incomplete`.
    pub allow_incomplete: bool,
}

/// The verdict of a run, with the sorted ids of the cases that decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome", content = "cases")]
pub enum Verdict {
    /// All cases that decide passed.
    Pass,
    /// These cases failed, or passed although they are listed as expected failures.
    Fail(Vec<String>),
    /// These cases ended in an error of the harness.
    Error(Vec<String>),
    /// These documented cases were skipped; empty if no case ran.
    Incomplete(Vec<String>),
}

impl Verdict {
    /// The verdict of these records.
    pub fn from_records(records: &[CaseRecord], policy: GatePolicy, conditions: &RunConditions) -> Verdict {
        let ids = |selects: &dyn Fn(&CaseRecord) -> bool| sorted_ids(records, selects);
        let decides = |record: &CaseRecord| {
            (policy.strict || record.info.level == Level::Documented) && !conditions.fails_expectedly(record.info.id)
        };

        let errors = ids(&|record| matches!(record.outcome, Outcome::Error { .. }));
        if !errors.is_empty() {
            return Verdict::Error(errors);
        }
        let failures = ids(&|record| {
            matches!(record.outcome, Outcome::Fail { .. }) && decides(record)
                || conditions.passes_unexpectedly(record.info.id)
        });
        if !failures.is_empty() {
            return Verdict::Fail(failures);
        }
        let skipped =
            ids(&|record| matches!(record.outcome, Outcome::Skip { .. }) && record.info.level == Level::Documented);
        let any_ran = records
            .iter()
            .any(|record| !matches!(record.outcome, Outcome::Skip { .. }));
        if !skipped.is_empty() || !any_ran {
            return Verdict::Incomplete(skipped);
        }
        Verdict::Pass
    }

    /// The verdict's name in reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
            Verdict::Error(_) => "error",
            Verdict::Incomplete(_) => "incomplete",
        }
    }

    /// The ids of the cases that decided the verdict.
    pub fn deciding_cases(&self) -> &[String] {
        match self {
            Verdict::Pass => &[],
            Verdict::Fail(ids) | Verdict::Error(ids) | Verdict::Incomplete(ids) => ids,
        }
    }

    /// The exit code of the verdict, see [`exit`].
    pub fn exit_code(&self, policy: GatePolicy) -> u8 {
        match self {
            Verdict::Pass => exit::PASS,
            Verdict::Fail(_) => exit::FAIL,
            Verdict::Error(_) => exit::ERROR,
            Verdict::Incomplete(_) if policy.allow_incomplete => exit::PASS,
            Verdict::Incomplete(_) => exit::INCOMPLETE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::engine::{CaseInfo, ExpectedFailures, SkipKind};

    const ALLOW_INCOMPLETE: GatePolicy = GatePolicy {
        strict: false,
        allow_incomplete: true,
    };
    const DEFAULT_POLICY: GatePolicy = GatePolicy {
        strict: false,
        allow_incomplete: false,
    };
    const STRICT: GatePolicy = GatePolicy {
        strict: true,
        allow_incomplete: false,
    };

    /// `d+` is a documented pass; `r` and `o` are the other levels; `-` fail, `f` known deviation, `s` skip, `!` error.
    fn record(code: &str) -> CaseRecord {
        let text = String::new();
        let (level, id) = match &code[..1] {
            "d" => (Level::Documented, "x/documented"),
            "r" => (Level::Reference, "x/reference"),
            _ => (Level::Robust, "x/robust"),
        };
        let outcome = match &code[1..] {
            "+" => Outcome::Pass { actual: text },
            "f" => Outcome::KnownDeviation { actual: text },
            "-" => Outcome::Fail { actual: text },
            "s" => Outcome::Skip {
                kind: SkipKind::MissingCapability,
                reason: text,
            },
            _ => Outcome::Error { reason: text },
        };
        CaseRecord {
            info: CaseInfo::new(id, level),
            outcome,
            duration: Duration::ZERO,
            evidence: Vec::new(),
        }
    }

    #[rstest]
    #[case::holds("d+ r+ o+", DEFAULT_POLICY, "pass", 0)]
    #[case::reference_does_not_decide("d+ r- o-", DEFAULT_POLICY, "pass", 0)]
    #[case::strict_decides_all("d+ r- o+", STRICT, "fail", 1)]
    #[case::documented_decides("d- r+", DEFAULT_POLICY, "fail", 1)]
    #[case::error_wins("d- r!", DEFAULT_POLICY, "error", 3)]
    #[case::error_wins_over_skip("ds o!", ALLOW_INCOMPLETE, "error", 3)]
    #[case::fail_wins_over_incomplete("d- ds", DEFAULT_POLICY, "fail", 1)]
    #[case::skipped("d+ ds", DEFAULT_POLICY, "incomplete", 4)]
    #[case::skipped_allowed("d+ ds", ALLOW_INCOMPLETE, "incomplete", 0)]
    #[case::skipped_reference_is_complete("d+ rs", DEFAULT_POLICY, "pass", 0)]
    #[case::skipped_reference_is_complete_strict("d+ rs", STRICT, "pass", 0)]
    #[case::a_known_deviation_does_not_decide("d+ rf", STRICT, "pass", 0)]
    #[case::a_known_deviation_counts_as_run("rf", DEFAULT_POLICY, "pass", 0)]
    #[case::nothing_ran("", DEFAULT_POLICY, "incomplete", 4)]
    #[case::nothing_ran_allowed("", ALLOW_INCOMPLETE, "incomplete", 0)]
    #[case::every_case_skipped("rs os", DEFAULT_POLICY, "incomplete", 4)]
    fn verdicts(#[case] records: &str, #[case] policy: GatePolicy, #[case] word: &str, #[case] code: u8) {
        let records: Vec<_> = records.split_whitespace().map(record).collect();
        let verdict = Verdict::from_records(&records, policy, &RunConditions::default());
        assert_eq!((verdict.as_str(), verdict.exit_code(policy)), (word, code));
    }

    #[test]
    fn an_incomplete_verdict_names_the_skipped_cases() {
        let verdict = Verdict::from_records(&[record("ds"), record("r+")], DEFAULT_POLICY, &RunConditions::default());
        assert_eq!(verdict.deciding_cases(), ["x/documented"]);
    }

    #[rstest]
    #[case::a_listed_failure_does_not_decide("d- r+", "x/documented", DEFAULT_POLICY, "pass")]
    #[case::listed_failures_do_not_decide_strict("d+ r- o-", "x/reference x/robust", STRICT, "pass")]
    #[case::another_one_does("d- r-", "x/reference", STRICT, "fail")]
    #[case::a_listed_pass_fails("d+ r+", "x/reference", DEFAULT_POLICY, "fail")]
    #[case::an_error_still_wins("d! r+", "x/documented", DEFAULT_POLICY, "error")]
    #[case::a_listed_skip_is_still_incomplete("ds r+", "x/documented", DEFAULT_POLICY, "incomplete")]
    #[case::a_listed_known_deviation_changes_nothing("d+ rf", "x/reference", STRICT, "pass")]
    fn expected_failures(#[case] records: &str, #[case] listed: &str, #[case] policy: GatePolicy, #[case] word: &str) {
        let records: Vec<_> = records.split_whitespace().map(record).collect();
        let catalogue: Vec<_> = ["x/documented", "x/reference", "x/robust"]
            .map(|id| CaseInfo { id, ..records[0].info })
            .into();
        let list = ExpectedFailures::parse(&listed.replace(' ', "\n"), &catalogue).unwrap();
        let conditions = RunConditions {
            expected_failures: Some(list.compare("list", &records)),
            ..RunConditions::default()
        };
        assert_eq!(Verdict::from_records(&records, policy, &conditions).as_str(), word);
    }
}
