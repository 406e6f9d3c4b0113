//! The sample, which archive mutants are made of, is right in every way; and the suite's clauses are whole.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use checkpoint_conformance::{
    archive::sample,
    case::{Level, Outcome},
    catalog::archive::cases,
};

use crate::judged::{of_file, words};

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
fn clauses_are_whole_and_ids_unique() {
    let cases = cases();
    let ids: BTreeSet<_> = cases.iter().map(|case| case.clause.id).collect();
    assert_eq!(ids.len(), cases.len());
    for case in &cases {
        let clause = case.clause;
        assert!(
            clause.id == "archive/kind" || clause.id.starts_with("archive/") && clause.id.split('/').count() == 3,
            "{}",
            clause.id
        );
        assert!(
            clause.clause.ends_with('.') && !clause.authority.title.is_empty() && !clause.expected.is_empty(),
            "{}",
            clause.id
        );
    }
    let documented: Vec<_> = cases
        .iter()
        .filter(|case| case.clause.level == Level::Documented)
        .collect();
    assert_eq!(documented.len(), 6, "only what the page says decides the exit code");
}
