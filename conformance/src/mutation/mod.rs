//! The harness judged: a target that is wrong in one single way must fail exactly the cases that name it.
//!
//! ```text
//!  Definition = name + defect + the cases that must fail, declared here beforehand
//!      | an embedded target (or a sample archive) with that defect, the whole suite it belongs to and no other
//!      v
//!  Finding = what failed beside what should have
//!      v
//!  matrix, and `N mutants, N caught`
//!
//!  Definition -> Coverage: which cases no mutant fails, and which fall to the same ones; docs/MUTANTS.md
//! ```
//!
//! Defects of the kubelet are the reference kubelet's own; those of the runtime are fault presets of fake-cri, in force from
//! its start; those of an archive are made into the sample. A case that cannot judge because another failed is skipped
//! (`blocked by`), and so is no failure.

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

/// One mutant, and what must catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutantDefinition {
    /// What is wrong.
    pub defect: MutantDefect,
    /// The cases that must fail, and no others.
    pub must_fail: &'static [&'static str],
}

/// What is wrong with a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutantDefect {
    /// The reference kubelet; the kubelet suite judges it.
    Kubelet(crate::reference_kubelet::Mutant),
    /// fake-cri below the reference kubelet, by this preset; the kubelet suite judges it.
    KubeletWithRuntime(&'static str),
    /// fake-cri alone, by this preset; the runtime suite judges it.
    Runtime(&'static str),
    /// fake-cri alone, by rules that are about the harness's own Pods and so are no preset; the runtime suite judges it.
    RuntimeRules {
        /// The mutant's name.
        name: &'static str,
        /// What is wrong, in a sentence.
        summary: &'static str,
        /// Rules in the fault grammar.
        rules: &'static [&'static str],
    },
    /// The sample archive, by the name of an [`crate::archive::mutant::ArchiveMutant`]; the archive suite judges it.
    Archive(&'static str),
}

impl MutantDefinition {
    /// The suite that judges it.
    pub fn suite(&self) -> Suite {
        match self.defect {
            MutantDefect::Kubelet(_) | MutantDefect::KubeletWithRuntime(_) => Suite::Kubelet,
            MutantDefect::Runtime(_) | MutantDefect::RuntimeRules { .. } => Suite::Runtime,
            MutantDefect::Archive(_) => Suite::Archive,
        }
    }

    /// The mutant's name, unique within its suite: the reference kubelet's own, the preset's or the archive's.
    pub fn name(&self) -> &'static str {
        match self.defect {
            MutantDefect::Kubelet(mutant) => mutant.name(),
            MutantDefect::KubeletWithRuntime(name)
            | MutantDefect::Runtime(name)
            | MutantDefect::RuntimeRules { name, .. }
            | MutantDefect::Archive(name) => name,
        }
    }

    /// What is wrong, in a few words.
    pub fn summary(&self) -> String {
        match self.defect {
            MutantDefect::Kubelet(mutant) => mutant.what().to_owned(),
            MutantDefect::KubeletWithRuntime(name) | MutantDefect::Runtime(name) => {
                fake_cri::fault::Preset::by_name(name).map_or_else(String::new, |preset| preset.summary.to_owned())
            }
            MutantDefect::RuntimeRules { summary, .. } => summary.to_owned(),
            // An archive's is its name: where it is wrong, and what is.
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

    /// The defect as the embedded kubelet takes it, with its name for reports; `None` for a mutant of another suite.
    pub fn embedded_defect(&self) -> Option<(String, Defect)> {
        let defect = match self.defect {
            MutantDefect::Kubelet(mutant) => Defect::Kubelet(mutant),
            MutantDefect::KubeletWithRuntime(name) => Defect::Runtime(format!("preset:{name}")),
            MutantDefect::Runtime(_) | MutantDefect::RuntimeRules { .. } | MutantDefect::Archive(_) => return None,
        };
        Some((self.name().to_owned(), defect))
    }

    /// The rules that make an embedded fake-cri wrong so; empty for a mutant of another suite.
    pub fn runtime_rules(&self) -> Vec<String> {
        match self.defect {
            MutantDefect::Runtime(name) => vec![format!("preset:{name}")],
            MutantDefect::RuntimeRules { rules, .. } => rules.iter().map(|rule| (*rule).to_owned()).collect(),
            MutantDefect::Kubelet(_) | MutantDefect::KubeletWithRuntime(_) | MutantDefect::Archive(_) => Vec::new(),
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutantResult {
    /// Which mutant.
    pub definition: MutantDefinition,
    /// The cases that failed; those that fail without any defect are left out.
    pub failed_cases: BTreeSet<String>,
    /// Cases that ended in an error of the harness, with the reason; or why the target did not start.
    pub errors: Vec<String>,
}

impl MutantResult {
    /// Holds a run's records against the definition.
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

    /// Whether exactly the cases that name the mutant failed, and at least one.
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
        defect: MutantDefect::Kubelet(Mutant::GateIgnored),
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
                reason: "no answer".to_owned(),
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
                "{mutant} is caught by nothing"
            );
        }
        assert!(MUTANTS.len() >= 60);
    }
}
