//! Tests of the harness: a target with one defect must fail exactly the cases that its definition lists.
//!
//! ```text
//!   MutantDefinition = name + defect + the cases that must fail, declared beforehand
//!       | an embedded target (or a sample archive) with that defect; the whole suite for this kind of target
//!       v
//!   MutantResult = the cases that failed, compared with the cases that must fail
//!       v
//!   matrix, and `N mutants, N caught`
//!
//!   MutantDefinition -> Coverage: cases that no mutant fails, or that the same mutants fail; docs/MUTANTS.md
//! ```
//!
//! Defects of the kubelet are variants of the reference kubelet. Defects of the runtime are fault presets of fake-cri,
//! active from its start. Defects of an archive are changes of the sample archive. A case that depends on a failed case
//! is skipped (`blocked by`), and so is not a failure.

mod contradiction;
mod coverage;
mod definitions;
mod matrix;
mod mutants_doc;
mod run;

use std::collections::BTreeSet;

use crate::{
    engine::{CaseRecord, Outcome, Suite},
    targets::Defect,
};

pub use contradiction::contradictions;
pub use coverage::Coverage;
pub use definitions::{BASELINE_FAILURES, MUTANTS};
pub use matrix::render;
pub use mutants_doc::markdown;
pub use run::{MutationOptions, run};

/// A mutant, and the cases that must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutantDefinition {
    /// The injected defect.
    pub defect: MutantDefect,
    /// The cases that must fail. No other case may fail.
    pub must_fail: &'static [&'static str],
}

/// The defect of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutantDefect {
    /// A defect of the reference kubelet, tested with the kubelet suite.
    Kubelet(crate::reference_kubelet::Mutant),
    /// A preset of fake-cri below the reference kubelet, tested with the kubelet suite.
    KubeletWithRuntime(&'static str),
    /// A preset of fake-cri alone, tested with the runtime suite.
    Runtime(&'static str),
    /// Rules for fake-cri alone, tested with the runtime suite. The rules name Pods of the harness, and so are not a
    /// preset.
    RuntimeRules {
        /// The mutant's name.
        name: &'static str,
        /// The defect, in a sentence fragment.
        summary: &'static str,
        /// Rules in the fault grammar.
        rules: &'static [&'static str],
    },
    /// A changed sample archive, named as its [`crate::archive::mutant::ArchiveMutant`], tested with the archive suite.
    Archive(&'static str),
}

impl MutantDefinition {
    /// The suite that tests the mutant.
    pub fn suite(&self) -> Suite {
        match self.defect {
            MutantDefect::Kubelet(_) | MutantDefect::KubeletWithRuntime(_) => Suite::Kubelet,
            MutantDefect::Runtime(_) | MutantDefect::RuntimeRules { .. } => Suite::Runtime,
            MutantDefect::Archive(_) => Suite::Archive,
        }
    }

    /// The mutant's name, unique within its suite.
    pub fn name(&self) -> &'static str {
        match self.defect {
            MutantDefect::Kubelet(mutant) => mutant.name(),
            MutantDefect::KubeletWithRuntime(name)
            | MutantDefect::Runtime(name)
            | MutantDefect::RuntimeRules { name, .. }
            | MutantDefect::Archive(name) => name,
        }
    }

    /// The defect, in a few words.
    pub fn summary(&self) -> String {
        match self.defect {
            MutantDefect::Kubelet(mutant) => mutant.summary().to_owned(),
            MutantDefect::KubeletWithRuntime(name) | MutantDefect::Runtime(name) => {
                fake_cri::fault::Preset::by_name(name).map_or_else(String::new, |preset| preset.summary.to_owned())
            }
            MutantDefect::RuntimeRules { summary, .. } => summary.to_owned(),
            // The name of an archive mutant states the place and the defect.
            MutantDefect::Archive(name) => name.replace('/', ": ").replace('-', " "),
        }
    }

    /// The mutant of that name in a suite.
    pub fn by_name(suite: Suite, name: &str) -> Option<&'static MutantDefinition> {
        MUTANTS
            .iter()
            .find(|definition| definition.suite() == suite && definition.name() == name)
    }

    /// The names of a suite's mutants.
    pub fn names(suite: Suite) -> impl Iterator<Item = &'static str> {
        MUTANTS
            .iter()
            .filter(move |definition| definition.suite() == suite)
            .map(MutantDefinition::name)
    }

    /// The defect for the embedded kubelet, with the name for reports; `None` for a mutant of another suite.
    pub fn embedded_defect(&self) -> Option<(String, Defect)> {
        let defect = match self.defect {
            MutantDefect::Kubelet(mutant) => Defect::Kubelet(mutant),
            MutantDefect::KubeletWithRuntime(name) => Defect::Runtime(format!("preset:{name}")),
            MutantDefect::Runtime(_) | MutantDefect::RuntimeRules { .. } | MutantDefect::Archive(_) => return None,
        };
        Some((self.name().to_owned(), defect))
    }

    /// The fault rules for the embedded fake-cri; empty for a mutant of another suite.
    pub fn runtime_rules(&self) -> Vec<String> {
        match self.defect {
            MutantDefect::Runtime(name) => vec![format!("preset:{name}")],
            MutantDefect::RuntimeRules { rules, .. } => rules.iter().map(|rule| (*rule).to_owned()).collect(),
            MutantDefect::Kubelet(_) | MutantDefect::KubeletWithRuntime(_) | MutantDefect::Archive(_) => Vec::new(),
        }
    }
}

/// The result of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutantResult {
    /// The defect, and the cases that must fail.
    pub definition: MutantDefinition,
    /// The cases that failed, without the cases that fail without any defect.
    pub failed_cases: BTreeSet<String>,
    /// Cases that ended in an error of the harness, with the reason; or why the target did not start.
    pub errors: Vec<String>,
}

impl MutantResult {
    /// Compares the records of a run with the definition.
    pub fn new(definition: MutantDefinition, records: &[CaseRecord]) -> MutantResult {
        let ids = |matches_outcome: fn(&Outcome) -> bool| {
            let matching = records.iter().filter(move |record| matches_outcome(&record.outcome));
            matching.map(|record| (record.info.id, record.outcome.detail()))
        };
        MutantResult {
            definition,
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

    /// Whether exactly the cases of the definition failed, and at least one.
    pub fn is_caught(&self) -> bool {
        self.errors.is_empty()
            && !self.failed_cases.is_empty()
            && self.missing_failures().is_empty()
            && self.unexpected_failures().is_empty()
    }

    /// The cases that should have failed and did not.
    pub fn missing_failures(&self) -> Vec<&str> {
        let fails = self.definition.must_fail.iter();
        fails.copied().filter(|id| !self.failed_cases.contains(*id)).collect()
    }

    /// The cases that failed and should not have.
    pub fn unexpected_failures(&self) -> Vec<&str> {
        let failed = self.failed_cases.iter().map(String::as_str);
        failed.filter(|id| !self.definition.must_fail.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{engine::CaseInfo, reference_kubelet::Mutant, suites};

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

    const GATE_IGNORED: MutantDefinition = MutantDefinition {
        defect: MutantDefect::Kubelet(Mutant::FeatureGateIgnored),
        must_fail: &["kubelet/feature-gate/disabled"],
    };

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
        let no_cases = MutantDefinition {
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
    fn definitions_name_cases_of_their_suite_and_cover_every_kubelet_mutant() {
        let entries = suites::catalogue_entries();
        let mut names = BTreeSet::new();
        for definition in MUTANTS.iter() {
            let (suite, name) = (definition.suite(), definition.name());
            assert!(names.insert((suite, name)), "{name} twice");
            assert!(
                !definition.must_fail.is_empty() && !definition.summary().is_empty(),
                "{name}"
            );
            for id in definition.must_fail {
                assert!(
                    entries.iter().any(|entry| entry.info.id == *id && entry.suite == suite),
                    "{name}: {id}",
                );
            }
            if let MutantDefect::KubeletWithRuntime(name) | MutantDefect::Runtime(name) = definition.defect {
                assert!(fake_cri::fault::Preset::by_name(name).is_some(), "{name}");
            }
        }
        for mutant in Mutant::ALL.iter().copied() {
            assert!(
                names.contains(&(Suite::Kubelet, mutant.name())),
                "{mutant} is in no definition"
            );
        }
        assert!(MUTANTS.len() >= 60);
    }
}
