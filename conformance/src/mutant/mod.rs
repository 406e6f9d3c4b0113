//! The harness judged: a target that is wrong in one single way must fail exactly the cases that name it.
//!
//! ```text
//!  Definition = name + defect + the cases that must fail, declared here beforehand
//!      | an embedded target with that defect, the whole suite
//!      v
//!  Finding = what failed beside what should have
//!      v
//!  matrix, and `N mutants, N caught`
//! ```
//!
//! Defects of the kubelet are the reference kubelet's own; those of the runtime are fault presets of fake-cri, in force from
//! its start. A case that cannot judge because another failed is skipped (`blocked by`), and so is no failure.

mod definitions;
mod matrix;
mod run;

use std::collections::BTreeSet;

use crate::{
    case::{Outcome, Record},
    target::Defect,
};

pub use definitions::{ALL, KNOWN};
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
    /// The reference kubelet.
    Kubelet(crate::reference::Mutant),
    /// fake-cri, by this preset.
    Preset(&'static str),
}

impl Definition {
    /// The mutant's name: the reference kubelet's own, or the preset's.
    pub fn name(&self) -> &'static str {
        match self.wrong {
            Wrong::Kubelet(mutant) => mutant.name(),
            Wrong::Preset(name) => name,
        }
    }

    /// The defect as an embedded target takes it.
    pub fn defect(&self) -> (String, Defect) {
        let defect = match self.wrong {
            Wrong::Kubelet(mutant) => Defect::Kubelet(mutant),
            Wrong::Preset(name) => Defect::Runtime(format!("preset:{name}")),
        };
        (self.name().to_owned(), defect)
    }

    /// The mutant of that name.
    pub fn by_name(name: &str) -> Option<&'static Definition> {
        ALL.iter().find(|definition| definition.name() == name)
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
    fn every_definition_names_cases_that_exist_and_every_kubelet_mutant_has_one() {
        let entries = catalog::entries();
        let mut names = BTreeSet::new();
        for definition in ALL {
            assert!(names.insert(definition.name()), "{} twice", definition.name());
            assert!(!definition.fails.is_empty(), "{}", definition.name());
            for id in definition.fails {
                assert!(
                    entries.iter().any(|entry| entry.clause.id == *id),
                    "{}: {id}",
                    definition.name()
                );
            }
            if let Wrong::Preset(name) = definition.wrong {
                assert!(fake_cri::fault::Preset::by_name(name).is_some(), "{name}");
            }
        }
        for mutant in Mutant::ALL {
            assert!(names.contains(mutant.name()), "{mutant} is caught by nothing");
        }
        assert!(ALL.len() >= 12);
    }
}
