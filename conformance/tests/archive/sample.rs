//! The sample, from which the archive mutants are built, passes every case. The cases are fully declared.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use checkpoint_conformance::{
    archive::sample,
    engine::{Level, Outcome},
    suites::archive::cases,
};

use crate::helpers::{failure_texts, test_file};

#[test]
fn sample_passes_every_case() {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let path = directory.path().join("checkpoint.tar");
    fs::write(
        &path,
        sample::tar_of(&sample::Sample::default().members()).expect("build the tar"),
    )
    .expect("write the archive");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set the mode");
    let records = test_file(&path);
    assert!(
        records
            .iter()
            .all(|record| matches!(record.outcome, Outcome::Pass { .. })),
        "{}",
        failure_texts(&records)
    );
    assert!(records.len() >= 75, "{} cases", records.len());
}

#[test]
fn requirements_are_complete_and_ids_unique() {
    let cases = cases();
    let ids: BTreeSet<_> = cases.iter().map(|case| case.info.id).collect();
    assert_eq!(ids.len(), cases.len());
    for case in &cases {
        let case_info = case.info;
        assert!(
            case_info.id.starts_with("archive/") && case_info.id.split('/').count() == 3,
            "{}",
            case_info.id
        );
        assert!(
            case_info.requirement.ends_with('.')
                && !case_info.authority.title.is_empty()
                && !case_info.expected.is_empty(),
            "{}",
            case_info.id
        );
    }
    let documented: Vec<_> = cases
        .iter()
        .filter(|case| case.info.level == Level::Documented)
        .collect();
    assert_eq!(
        documented.len(),
        6,
        "only cases with a documented requirement decide the exit code"
    );
}
