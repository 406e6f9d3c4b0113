//! Coverage of a suite by its mutants: which cases a mutant fails, and which cases no mutant distinguishes.
//!
//! Two cases that are failed by exactly the same mutants check nothing different from each other, and count as one.

use std::collections::{BTreeMap, BTreeSet};

use super::MUTANTS;
use crate::{
    engine::{CaseInfo, Level, Suite},
    suites,
};

/// The cases of a suite, with the mutants that must fail them.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The suite whose cases the mutants cover.
    pub suite: Suite,
    /// The number of mutants.
    pub mutant_count: usize,
    /// Every case, with the sorted names of the mutants that must fail it.
    pub cases: Vec<(CaseInfo, BTreeSet<&'static str>)>,
}

impl Coverage {
    /// The coverage of one suite.
    pub fn for_suite(suite: Suite) -> Coverage {
        let mutants: Vec<_> = MUTANTS.iter().filter(|mutant| mutant.suite == suite).collect();
        let with_mutants = |info: CaseInfo| {
            let failing = mutants.iter().filter(|mutant| mutant.must_fail.contains(&info.id));
            (info, failing.map(|mutant| mutant.name).collect())
        };
        Coverage {
            suite,
            mutant_count: mutants.len(),
            cases: suites::catalogue_entries()
                .into_iter()
                .filter(|entry| entry.suite == suite)
                .map(|entry| with_mutants(entry.info))
                .collect(),
        }
    }

    /// The coverage of every suite that has cases.
    pub fn for_all_suites() -> Vec<Coverage> {
        let suites = Suite::ALL.into_iter().map(Coverage::for_suite);
        suites.filter(|coverage| !coverage.cases.is_empty()).collect()
    }

    /// The number of cases that a mutant fails.
    pub fn covered_count(&self) -> usize {
        self.cases.iter().filter(|(_, names)| !names.is_empty()).count()
    }

    /// The number of distinct cases: cases failed by the same mutants count as one, and cases failed by none do not
    /// count.
    pub fn distinct_count(&self) -> usize {
        let mutant_sets: BTreeSet<_> = self.cases.iter().map(|(_, names)| names).collect();
        mutant_sets.iter().filter(|names| !names.is_empty()).count()
    }

    /// Groups of cases that are failed by exactly the same mutants.
    pub fn indistinguishable(&self) -> Vec<Vec<&'static str>> {
        let mut mutant_sets = BTreeMap::<_, Vec<_>>::new();
        for (info, names) in self.cases.iter().filter(|(_, names)| !names.is_empty()) {
            mutant_sets.entry(names).or_default().push(info.id);
        }
        mutant_sets.into_values().filter(|ids| ids.len() > 1).collect()
    }

    /// Cases of level documented and reference that no mutant fails.
    pub fn uncovered(&self) -> Vec<&'static str> {
        let uncovered = self
            .cases
            .iter()
            .filter(|(info, names)| names.is_empty() && info.level != Level::Robust);
        uncovered.map(|(info, _)| info.id).collect()
    }

    /// The coverage in one line.
    pub fn summary_line(&self) -> String {
        format!(
            "{}: {} cases, {} of them failed by {} mutants, {} distinct",
            self.suite.as_str(),
            self.cases.len(),
            self.covered_count(),
            self.mutant_count,
            self.distinct_count()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The minimum number of distinct cases of each suite.
    const MIN_DISTINCT_CASES: &[(Suite, usize)] = &[(Suite::Kubelet, 50), (Suite::Runtime, 40), (Suite::Archive, 40)];

    #[test]
    fn every_documented_and_reference_case_is_failed_by_a_mutant() {
        for coverage in Coverage::for_all_suites() {
            assert_eq!(coverage.uncovered(), [""; 0], "{} suite", coverage.suite.as_str());
        }
    }

    #[test]
    fn the_suites_have_enough_distinct_cases() {
        for (suite, min_distinct) in MIN_DISTINCT_CASES {
            let coverage = Coverage::for_suite(*suite);
            assert!(
                coverage.distinct_count() >= *min_distinct,
                "{}\n{:#?}",
                coverage.summary_line(),
                coverage.indistinguishable()
            );
        }
    }

    #[test]
    fn every_archive_case_has_its_own_set_of_mutants() {
        let coverage = Coverage::for_suite(Suite::Archive);
        assert_eq!(coverage.indistinguishable(), Vec::<Vec<&str>>::new());
        assert_eq!(coverage.covered_count(), coverage.cases.len());
    }

    #[test]
    fn cases_with_the_same_mutants_count_once() {
        let info = |id| CaseInfo::new(id, Level::Reference);
        let coverage = Coverage {
            suite: Suite::Kubelet,
            mutant_count: 2,
            cases: vec![
                (info("a"), BTreeSet::from(["x", "y"])),
                (info("b"), BTreeSet::from(["x", "y"])),
                (info("c"), BTreeSet::from(["x"])),
                (info("d"), BTreeSet::new()),
            ],
        };
        assert_eq!((coverage.covered_count(), coverage.distinct_count()), (3, 2));
        assert_eq!(coverage.indistinguishable(), [vec!["a", "b"]]);
        assert_eq!(coverage.uncovered(), ["d"]);
    }
}
