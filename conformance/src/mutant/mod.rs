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
mod document;
mod matrix;
mod run;

use std::collections::BTreeSet;

use crate::{
    case::{Outcome, Record, Suite},
    target::Defect,
};

pub use contradiction::contradictions;
pub use coverage::Coverage;
pub use definitions::{ALL, KNOWN};
pub use document::markdown;
pub use matrix::render;
pub use run::{RunOptions, run};

/// One mutant, and what must catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What is wrong.
    pub wrong: Wrong,
    /// The cases that must fail, and no others.
    pub fails: &'static [&'static str],
}

/// What is wrong with a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The reference kubelet; the kubelet suite judges it.
    Kubelet(crate::reference::Mutant),
    /// fake-cri below the reference kubelet, by this preset; the kubelet suite judges it.
    Preset(&'static str),
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

impl Definition {
    /// The suite that judges it.
    pub fn suite(&self) -> Suite {
        match self.wrong {
            Wrong::Kubelet(_) | Wrong::Preset(_) => Suite::Kubelet,
            Wrong::Runtime(_) | Wrong::RuntimeRules { .. } => Suite::Runtime,
            Wrong::Archive(_) => Suite::Archive,
        }
    }

    /// The mutant's name, unique within its suite: the reference kubelet's own, the preset's or the archive's.
    pub fn name(&self) -> &'static str {
        match self.wrong {
            Wrong::Kubelet(mutant) => mutant.name(),
            Wrong::Preset(name) | Wrong::Runtime(name) | Wrong::RuntimeRules { name, .. } | Wrong::Archive(name) => {
                name
            }
        }
    }

    /// What is wrong, in a few words.
    pub fn summary(&self) -> String {
        match self.wrong {
            Wrong::Kubelet(mutant) => mutant.what().to_owned(),
            Wrong::Preset(name) | Wrong::Runtime(name) => {
                fake_cri::fault::Preset::by_name(name).map_or_else(String::new, |preset| preset.summary.to_owned())
            }
            Wrong::RuntimeRules { summary, .. } => summary.to_owned(),
            // An archive's is its name: where it is wrong, and what is.
            Wrong::Archive(name) => name.replace('/', ": ").replace('-', " "),
        }
    }

    /// The mutant of that name in a suite.
    pub fn by_name(suite: Suite, name: &str) -> Option<&'static Definition> {
        ALL.iter()
            .find(|definition| definition.suite() == suite && definition.name() == name)
    }

    /// The names of a suite's mutants.
    pub fn names(suite: Suite) -> impl Iterator<Item = &'static str> {
        ALL.iter()
            .filter(move |definition| definition.suite() == suite)
            .map(Definition::name)
    }

    /// The defect as the embedded kubelet takes it, with its name for reports; `None` for a mutant of another suite.
    pub fn defect(&self) -> Option<(String, Defect)> {
        let defect = match self.wrong {
            Wrong::Kubelet(mutant) => Defect::Kubelet(mutant),
            Wrong::Preset(name) => Defect::Runtime(format!("preset:{name}")),
            Wrong::Runtime(_) | Wrong::RuntimeRules { .. } | Wrong::Archive(_) => return None,
        };
        Some((self.name().to_owned(), defect))
    }

    /// The rules that make an embedded fake-cri wrong so; empty for a mutant of another suite.
    pub fn runtime_rules(&self) -> Vec<String> {
        match self.wrong {
            Wrong::Runtime(name) => vec![format!("preset:{name}")],
            Wrong::RuntimeRules { rules, .. } => rules.iter().map(|rule| (*rule).to_owned()).collect(),
            Wrong::Kubelet(_) | Wrong::Preset(_) | Wrong::Archive(_) => Vec::new(),
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which mutant.
    pub definition: Definition,
    /// The cases that failed; those that fail without any defect are left out.
    pub failed: BTreeSet<String>,
    /// Cases that ended in an error of the harness, with the reason; or why the target did not start.
    pub errors: Vec<String>,
}

impl Finding {
    /// Holds a run's records against the definition.
    pub fn new(definition: Definition, records: &[Record]) -> Finding {
        let ids = |takes: fn(&Outcome) -> bool| {
            let taken = records.iter().filter(move |record| takes(&record.outcome));
            taken.map(|record| (record.clause.id, record.outcome.text()))
        };
        Finding {
            definition,
            failed: ids(|outcome| matches!(outcome, Outcome::Fail { .. }))
                .map(|(id, _)| id)
                .filter(|id| !KNOWN.contains(id))
                .map(str::to_owned)
                .collect(),
            errors: ids(|outcome| matches!(outcome, Outcome::Error { .. }))
                .map(|(id, reason)| format!("{id}: {reason}"))
                .collect(),
        }
    }

    /// Whether exactly the cases that name the mutant failed, and at least one.
    pub fn is_caught(&self) -> bool {
        self.errors.is_empty() && !self.failed.is_empty() && self.missing().is_empty() && self.unexpected().is_empty()
    }

    /// The cases that should have failed and did not.
    pub fn missing(&self) -> Vec<&str> {
        let fails = self.definition.fails.iter();
        fails.copied().filter(|id| !self.failed.contains(*id)).collect()
    }

    /// The cases that failed and should not have.
    pub fn unexpected(&self) -> Vec<&str> {
        let failed = self.failed.iter().map(String::as_str);
        failed.filter(|id| !self.definition.fails.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{case::Clause, catalog, reference::Mutant};

    fn record(id: &'static str, outcome: Outcome) -> Record {
        let clause = catalog::entries()
            .iter()
            .find(|entry| entry.clause.id == id)
            .map(|entry| entry.clause);
        let clause: Clause = clause.unwrap();
        Record {
            clause,
            outcome,
            duration: Duration::ZERO,
            exhibits: Vec::new(),
        }
    }

    fn failed(id: &'static str) -> Record {
        record(id, Outcome::Fail { seen: String::new() })
    }

    const GATE: Definition = Definition {
        wrong: Wrong::Kubelet(Mutant::GateIgnored),
        fails: &["kubelet/404/gate-off"],
    };

    #[test]
    fn exactly_the_named_cases_catch_a_mutant() {
        assert!(Finding::new(GATE, &[failed("kubelet/404/gate-off")]).is_caught());
        assert!(!Finding::new(GATE, &[]).is_caught());
        let more = Finding::new(GATE, &[failed("kubelet/404/gate-off"), failed("kubelet/200/ok")]);
        assert!(!more.is_caught());
        assert_eq!(more.unexpected(), ["kubelet/200/ok"]);
        let other = Finding::new(GATE, &[failed("kubelet/200/ok")]);
        assert_eq!(other.missing(), ["kubelet/404/gate-off"]);
    }

    #[test]
    fn a_definition_that_names_nothing_is_never_caught() {
        let nothing = Definition { fails: &[], ..GATE };
        assert!(!Finding::new(nothing, &[]).is_caught());
    }

    #[test]
    fn an_error_of_the_harness_catches_nothing() {
        let error = record(
            "kubelet/200/ok",
            Outcome::Error {
                reason: "no answer".to_owned(),
            },
        );
        assert!(!Finding::new(GATE, &[failed("kubelet/404/gate-off"), error]).is_caught());
    }

    #[test]
    fn what_fails_without_a_defect_does_not_count() {
        let finding = Finding::new(GATE, &[failed("kubelet/404/gate-off"), failed(KNOWN[0])]);
        assert!(finding.is_caught());
    }

    #[test]
    fn every_definition_names_cases_of_its_suite_and_every_kubelet_mutant_has_one() {
        let entries = catalog::entries();
        let mut names = BTreeSet::new();
        for definition in ALL.iter() {
            let (suite, name) = (definition.suite(), definition.name());
            assert!(names.insert((suite, name)), "{name} twice");
            assert!(
                !definition.fails.is_empty() && !definition.summary().is_empty(),
                "{name}"
            );
            for id in definition.fails {
                assert!(
                    entries
                        .iter()
                        .any(|entry| entry.clause.id == *id && entry.suite == suite),
                    "{name}: {id}",
                );
            }
            if let Wrong::Preset(name) | Wrong::Runtime(name) = definition.wrong {
                assert!(fake_cri::fault::Preset::by_name(name).is_some(), "{name}");
            }
        }
        for mutant in Mutant::ALL.iter().copied() {
            assert!(
                names.contains(&(Suite::Kubelet, mutant.name())),
                "{mutant} is caught by nothing"
            );
        }
        assert!(ALL.len() >= 60);
    }
}
