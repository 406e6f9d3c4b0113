//! An archive's verdict, as the tests compare it.

use std::{collections::BTreeSet, path::Path};

use checkpoint_conformance::{
    archive::{InspectedArchive, Limits, inspect_file, inspect_stream, sample},
    engine::{CaseRecord, Outcome},
    suites::archive,
};

pub(crate) fn test_file(path: &Path) -> Vec<CaseRecord> {
    archive::check_all(&inspect_file(path, &sample::expected(), Limits::default()).expect("a file that can be read"))
}

pub(crate) fn inspect_bytes(bytes: &[u8]) -> InspectedArchive {
    inspect_stream(bytes, &sample::expected(), Limits::default()).expect("bytes can be read")
}

/// Ids of the failed cases.
pub(crate) fn failed_ids(records: &[CaseRecord]) -> BTreeSet<&'static str> {
    let ids = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Fail { .. }));
    ids.map(|record| record.info.id).collect()
}

/// What each case that did not pass says.
pub(crate) fn failure_texts(records: &[CaseRecord]) -> String {
    let not_passed = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    not_passed
        .map(|record| {
            format!(
                "{} {}: {}\n",
                record.outcome.as_str(),
                record.info.id,
                record.outcome.detail()
            )
        })
        .collect()
}
