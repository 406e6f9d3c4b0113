//! Tests of the harness: a target with one defect must fail exactly the cases that its mutant lists.
//!
//! ```text
//!   Mutant = name + defect + the cases that must fail: kubelet.rs, runtime.rs, archive.rs
//!       | an embedded target (or a sample archive) with that defect; the whole suite for this kind of target
//!       v
//!   MutantResult = the cases that failed, compared with the cases that must fail
//!       v
//!   matrix, and `N mutants, N caught`
//!
//!   Mutant -> Coverage: cases that no mutant fails, or that the same mutants fail; docs/MUTANTS.md
//! ```
//!
//! The lists of cases are written by hand before a run, and never generated from a run. A case that depends on a failed
//! case is skipped (`blocked by`), and so is not a failure.

mod archive;
mod contradiction;
mod coverage;
mod kubelet;
mod matrix;
mod mutants_doc;
mod run;
mod runtime;

use std::{collections::BTreeSet, sync::LazyLock};

use fake_cri::fault::Preset;

use crate::{
    engine::{CaseRecord, Outcome, Suite},
    reference_kubelet::Config,
    targets,
};

pub use archive::ArchiveDefect;
pub use contradiction::contradictions;
pub use coverage::Coverage;
pub use matrix::render;
pub use mutants_doc::markdown;
pub use run::{MutationOptions, run};

/// The cases that the reference kubelet fails without any defect, because the Kubernetes kubelet does. It passes them
/// with `fractional_timestamps`.
pub const BASELINE_FAILURES: &[&str] = &["kubelet/archive-name/unique-within-a-second"];

/// Every mutant, suite by suite.
pub static MUTANTS: LazyLock<Vec<Mutant>> = LazyLock::new(|| {
    let kubelet = kubelet::MUTANTS.map(<[Mutant]>::to_vec).concat();
    let archive = archive::MUTANTS.map(<[Mutant]>::to_vec).concat();
    [&kubelet, runtime::MUTANTS, &archive].concat()
});

/// A target with one defect, and the cases that must fail.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The suite that tests the mutant.
    pub suite: Suite,
    /// The name, unique within its suite.
    pub name: &'static str,
    /// The injected defect.
    pub defect: Defect,
    /// The cases that must fail. No other case may fail.
    pub must_fail: &'static [&'static str],
}

/// The defect of a mutant.
#[derive(Clone, Copy, Debug)]
pub enum Defect {
    /// Changes the configuration of the reference kubelet before each of its starts.
    Kubelet {
        /// The defect, in a sentence fragment.
        summary: &'static str,
        /// The change.
        apply: fn(&mut Config),
    },
    /// The preset of fake-cri with the mutant's name, active from its start: below the reference kubelet for the kubelet
    /// suite, alone for the runtime suite.
    Preset,
    /// Rules for fake-cri alone. They name Pods of the harness, and so are not a preset.
    Rules {
        /// The defect, in a sentence fragment.
        summary: &'static str,
        /// Rules in the fault grammar.
        rules: &'static [&'static str],
    },
    /// A change of the sample archive.
    Archive(ArchiveDefect),
}

impl Mutant {
    /// The defect, in a few words.
    pub fn summary(&self) -> String {
        match self.defect {
            Defect::Kubelet { summary, .. } | Defect::Rules { summary, .. } => summary.to_owned(),
            Defect::Preset => Preset::by_name(self.name).map_or_else(String::new, |preset| preset.summary.to_owned()),
            // The name of an archive mutant states the place and the defect.
            Defect::Archive(_) => self.name.replace('/', ": ").replace('-', " "),
        }
    }

    /// The mutant of that name in a suite.
    pub fn by_name(suite: Suite, name: &str) -> Option<&'static Mutant> {
        MUTANTS
            .iter()
            .find(|mutant| mutant.suite == suite && mutant.name == name)
    }

    /// The names of a suite's mutants.
    pub fn names(suite: Suite) -> impl Iterator<Item = &'static str> {
        MUTANTS
            .iter()
            .filter(move |mutant| mutant.suite == suite)
            .map(|mutant| mutant.name)
    }

    /// The defect for the embedded kubelet, with the name for reports; `None` for a mutant of another suite.
    pub fn embedded_defect(&self) -> Option<(String, targets::Defect)> {
        let defect = match (self.suite, self.defect) {
            (Suite::Kubelet, Defect::Kubelet { apply, .. }) => targets::Defect::Kubelet(apply),
            (Suite::Kubelet, Defect::Preset) => targets::Defect::Runtime(format!("preset:{}", self.name)),
            _ => return None,
        };
        Some((self.name.to_owned(), defect))
    }

    /// The fault rules for the embedded fake-cri; empty for a mutant without.
    pub fn runtime_rules(&self) -> Vec<String> {
        match self.defect {
            Defect::Preset => vec![format!("preset:{}", self.name)],
            Defect::Rules { rules, .. } => rules.iter().map(|rule| (*rule).to_owned()).collect(),
            Defect::Kubelet { .. } | Defect::Archive(_) => Vec::new(),
        }
    }

    const fn must_fail(mut self, cases: &'static [&'static str]) -> Self {
        self.must_fail = cases;
        self
    }

    const fn preset(suite: Suite, name: &'static str, must_fail: &'static [&'static str]) -> Self {
        Self {
            suite,
            name,
            defect: Defect::Preset,
            must_fail,
        }
    }
}

/// The result of a mutant.
#[derive(Clone, Debug)]
pub struct MutantResult {
    /// The mutant, with the cases that must fail.
    pub mutant: Mutant,
    /// The cases that failed, without the cases that fail without any defect.
    pub failed_cases: BTreeSet<String>,
    /// Cases that ended in an error of the harness, with the reason; or why the target did not start.
    pub errors: Vec<String>,
}

impl MutantResult {
    /// Compares the records of a run with the cases that must fail.
    pub fn new(mutant: Mutant, records: &[CaseRecord]) -> MutantResult {
        let ids = |matches_outcome: fn(&Outcome) -> bool| {
            let matching = records.iter().filter(move |record| matches_outcome(&record.outcome));
            matching.map(|record| (record.info.id, record.outcome.detail()))
        };
        MutantResult {
            mutant,
            failed_cases: ids(|outcome| matches!(outcome, Outcome::Fail { .. }))
                .map(|(id, _)| id)
                .filter(|id| !BASELINE_FAILURES.contains(id))
                .map(str::to_owned)
                .collect(),
            errors: ids(|outcome| matches!(outcome, Outcome::Error { .. }))
                .map(|(id, reason)| format!("{id}: {reason}"))
                .collect(),
        }
    }

    /// Whether exactly the cases of the mutant failed, and at least one.
    pub fn is_caught(&self) -> bool {
        self.errors.is_empty()
            && !self.failed_cases.is_empty()
            && self.missing_failures().is_empty()
            && self.unexpected_failures().is_empty()
    }

    /// The cases that should have failed and did not.
    pub fn missing_failures(&self) -> Vec<&str> {
        let fails = self.mutant.must_fail.iter();
        fails.copied().filter(|id| !self.failed_cases.contains(*id)).collect()
    }

    /// The cases that failed and should not have.
    pub fn unexpected_failures(&self) -> Vec<&str> {
        let failed = self.failed_cases.iter().map(String::as_str);
        failed.filter(|id| !self.mutant.must_fail.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{engine::CaseInfo, suites};

    fn record(id: &'static str, outcome: Outcome) -> CaseRecord {
        let info = suites::catalogue_entries()
            .iter()
            .find(|entry| entry.info.id == id)
            .map(|entry| entry.info);
        let info: CaseInfo = info.unwrap();
        CaseRecord {
            info,
            outcome,
            duration: Duration::ZERO,
            evidence: Vec::new(),
        }
    }

    fn failed_record(id: &'static str) -> CaseRecord {
        record(id, Outcome::Fail { actual: String::new() })
    }

    const GATE_IGNORED: Mutant = Mutant::preset(Suite::Kubelet, "gate", &["kubelet/feature-gate/disabled"]);

    #[test]
    fn a_mutant_is_caught_by_exactly_its_cases() {
        assert!(MutantResult::new(GATE_IGNORED, &[failed_record("kubelet/feature-gate/disabled")]).is_caught());
        assert!(!MutantResult::new(GATE_IGNORED, &[]).is_caught());
        let with_unexpected = MutantResult::new(
            GATE_IGNORED,
            &[
                failed_record("kubelet/feature-gate/disabled"),
                failed_record("kubelet/checkpoint/succeeds"),
            ],
        );
        assert!(!with_unexpected.is_caught());
        assert_eq!(with_unexpected.unexpected_failures(), ["kubelet/checkpoint/succeeds"]);
        let with_other = MutantResult::new(GATE_IGNORED, &[failed_record("kubelet/checkpoint/succeeds")]);
        assert_eq!(with_other.missing_failures(), ["kubelet/feature-gate/disabled"]);
    }

    #[test]
    fn a_mutant_without_cases_is_never_caught() {
        let no_cases = Mutant {
            must_fail: &[],
            ..GATE_IGNORED
        };
        assert!(!MutantResult::new(no_cases, &[]).is_caught());
    }

    #[test]
    fn a_harness_error_does_not_catch_a_mutant() {
        let error = record(
            "kubelet/checkpoint/succeeds",
            Outcome::Error {
                reason: "no response".to_owned(),
            },
        );
        assert!(!MutantResult::new(GATE_IGNORED, &[failed_record("kubelet/feature-gate/disabled"), error]).is_caught());
    }

    #[test]
    fn baseline_failures_do_not_count() {
        let result = MutantResult::new(
            GATE_IGNORED,
            &[
                failed_record("kubelet/feature-gate/disabled"),
                failed_record(BASELINE_FAILURES[0]),
            ],
        );
        assert!(result.is_caught());
    }

    #[test]
    fn mutants_name_cases_of_their_suite() {
        let entries = suites::catalogue_entries();
        let mut names = BTreeSet::new();
        for mutant in MUTANTS.iter() {
            let (suite, name) = (mutant.suite, mutant.name);
            assert!(names.insert((suite, name)), "{name} twice");
            assert!(!mutant.must_fail.is_empty() && !mutant.summary().is_empty(), "{name}");
            for id in mutant.must_fail {
                assert!(
                    entries.iter().any(|entry| entry.info.id == *id && entry.suite == suite),
                    "{name}: {id}",
                );
            }
        }
        assert!(MUTANTS.len() >= 60);
    }
}
