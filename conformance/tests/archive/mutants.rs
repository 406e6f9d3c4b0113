//! Every mutant fails the cases that name it, and no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
};

use checkpoint_conformance::{
    archive::{mutant::mutants, sample},
    case::{Level, Outcome},
    catalog::archive::cases,
};

use crate::judged::{failed, of_file, words};

#[test]
fn the_sample_passes_every_case() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.tar");
    fs::write(
        &path,
        sample::tar_of(&sample::Sample::default().parts()).expect("a tar"),
    )
    .expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    let records = of_file(&path);
    assert!(
        records
            .iter()
            .all(|record| matches!(record.outcome, Outcome::Pass { .. })),
        "{}",
        words(&records)
    );
    assert!(records.len() >= 75, "{} cases", records.len());
}

#[test]
fn every_mutant_fails_exactly_the_cases_that_name_it() {
    let mut wrong = String::new();
    for mutant in mutants() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint.tar");
        mutant.write(&path).expect("written");
        let records = of_file(&path);
        let expected: BTreeSet<_> = mutant.expected.iter().copied().collect();
        let failed = failed(&records);
        if failed != expected {
            wrong.push_str(&format!(
                "{}: expected {expected:?}, failed {failed:?}\n{}\n",
                mutant.name,
                words(&records)
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_case_is_failed_by_a_mutant_of_its_own() {
    // An owner that is neither root nor the user of the run takes root to make.
    let without = ["file/owner"];
    let mut sets = BTreeMap::<&str, BTreeSet<&str>>::new();
    for mutant in mutants() {
        for case in mutant.expected {
            sets.entry(case).or_default().insert(mutant.name);
        }
    }
    let mut seen = BTreeMap::new();
    for case in cases() {
        let id = case.clause.id.trim_start_matches("archive/");
        if without.contains(&id) {
            continue;
        }
        let mutants = sets.remove(id).unwrap_or_default();
        assert!(!mutants.is_empty(), "{id} is failed by no mutant");
        let other = seen.insert(mutants, id);
        assert!(other.is_none(), "{id} and {other:?} fall to the same mutants");
    }
    assert!(sets.is_empty(), "mutants name cases that are not there: {sets:?}");
}

#[test]
fn clauses_are_whole_and_ids_unique() {
    let cases = cases();
    let ids: BTreeSet<_> = cases.iter().map(|case| case.clause.id).collect();
    assert_eq!(ids.len(), cases.len());
    for case in &cases {
        let clause = case.clause;
        assert!(
            clause.id.starts_with("archive/") && clause.id.split('/').count() == 3,
            "{}",
            clause.id
        );
        assert!(
            clause.clause.ends_with('.') && !clause.source.is_empty() && !clause.expected.is_empty(),
            "{}",
            clause.id
        );
    }
    let documented: Vec<_> = cases
        .iter()
        .filter(|case| case.clause.level == Level::Documented)
        .collect();
    assert_eq!(documented.len(), 5, "only what the page says decides the exit code");
}

#[test]
fn names_of_mutants_are_unique() {
    let names: BTreeSet<_> = mutants().iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), mutants().len());
}
