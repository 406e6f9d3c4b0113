//! What the declarations say of a suite: which of its cases a mutant fails, and which cases cannot be told apart by any.
//!
//! A case that falls to exactly the same mutants as another checks nothing that the other does not: both count as one.

use std::collections::{BTreeMap, BTreeSet};

use super::ALL;
use crate::{
    case::{Clause, Level, Suite},
    catalog,
};

/// A suite's cases beside the mutants that must fail them.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The suite.
    pub suite: Suite,
    /// How many mutants it has.
    pub mutants: usize,
    /// Every case, with the names of the mutants that must fail it, sorted.
    pub cases: Vec<(Clause, BTreeSet<&'static str>)>,
}

impl Coverage {
    /// That of one suite.
    pub fn of(suite: Suite) -> Coverage {
        let definitions: Vec<_> = ALL.iter().filter(|definition| definition.suite() == suite).collect();
        let named_by = |clause: Clause| {
            let names = definitions
                .iter()
                .filter(|definition| definition.fails.contains(&clause.id));
            (clause, names.map(|definition| definition.name()).collect())
        };
        Coverage {
            suite,
            mutants: definitions.len(),
            cases: catalog::entries()
                .into_iter()
                .filter(|entry| entry.suite == suite)
                .map(|entry| named_by(entry.clause))
                .collect(),
        }
    }

    /// That of every suite that has cases.
    pub fn of_all() -> Vec<Coverage> {
        let suites = Suite::ALL.into_iter().map(Coverage::of);
        suites.filter(|coverage| !coverage.cases.is_empty()).collect()
    }

    /// How many cases a mutant fails.
    pub fn named(&self) -> usize {
        self.cases.iter().filter(|(_, names)| !names.is_empty()).count()
    }

    /// How many cases are different: those that fall to the same mutants are one, and those that fall to none are none.
    pub fn distinct(&self) -> usize {
        let sets: BTreeSet<_> = self.cases.iter().map(|(_, names)| names).collect();
        sets.iter().filter(|names| !names.is_empty()).count()
    }

    /// Cases that fall to exactly the same mutants, by those.
    pub fn alike(&self) -> Vec<Vec<&'static str>> {
        let mut sets = BTreeMap::<_, Vec<_>>::new();
        for (clause, names) in self.cases.iter().filter(|(_, names)| !names.is_empty()) {
            sets.entry(names).or_default().push(clause.id);
        }
        sets.into_values().filter(|ids| ids.len() > 1).collect()
    }

    /// Cases of level documented and reference that no mutant fails.
    pub fn unnamed(&self) -> Vec<&'static str> {
        let unnamed = self
            .cases
            .iter()
            .filter(|(clause, names)| names.is_empty() && clause.level != Level::Robust);
        unnamed.map(|(clause, _)| clause.id).collect()
    }

    /// The suite in one line.
    pub fn line(&self) -> String {
        format!(
            "{}: {} cases, {} of them failed by {} mutants, {} distinct",
            self.suite.as_str(),
            self.cases.len(),
            self.named(),
            self.mutants,
            self.distinct()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Authority;

    /// How many different cases a suite must have at least.
    const DISTINCT: &[(Suite, usize)] = &[(Suite::Kubelet, 50), (Suite::Runtime, 40), (Suite::Archive, 40)];

    #[test]
    fn every_documented_and_reference_case_is_failed_by_a_mutant() {
        for coverage in Coverage::of_all() {
            assert_eq!(coverage.unnamed(), [""; 0], "{} suite", coverage.suite.as_str());
        }
    }

    #[test]
    fn the_suites_have_enough_cases_that_differ() {
        for (suite, least) in DISTINCT {
            let coverage = Coverage::of(*suite);
            assert!(
                coverage.distinct() >= *least,
                "{}\n{:#?}",
                coverage.line(),
                coverage.alike()
            );
        }
    }

    #[test]
    fn every_case_of_an_archive_is_failed_by_mutants_of_its_own() {
        let coverage = Coverage::of(Suite::Archive);
        assert_eq!(coverage.alike(), Vec::<Vec<&str>>::new());
        assert_eq!(coverage.named(), coverage.cases.len());
    }

    #[test]
    fn cases_that_fall_to_the_same_mutants_count_once_and_those_without_not_at_all() {
        let clause = |id| Clause {
            id,
            clause: "",
            authority: Authority::PROJECT,
            motivation: "",
            level: Level::Reference,
            expected: "",
        };
        let coverage = Coverage {
            suite: Suite::Kubelet,
            mutants: 2,
            cases: vec![
                (clause("a"), BTreeSet::from(["x", "y"])),
                (clause("b"), BTreeSet::from(["x", "y"])),
                (clause("c"), BTreeSet::from(["x"])),
                (clause("d"), BTreeSet::new()),
            ],
        };
        assert_eq!((coverage.named(), coverage.distinct()), (3, 2));
        assert_eq!(coverage.alike(), [vec!["a", "b"]]);
        assert_eq!(coverage.unnamed(), ["d"]);
    }
}
