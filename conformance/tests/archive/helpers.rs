//! Runs the archive suite and returns the outcomes that tests compare.

use std::{collections::BTreeSet, path::Path};

use checkpoint_conformance::{
    archive::{InspectedArchive, Limits, inspect_file, inspect_stream, sample},
    engine::{CaseRecord, Outcome},
    suites::archive,
};

pub(crate) fn test_file(path: &Path) -> Vec<CaseRecord> {
    archive::check_all(&inspect_file(path, &sample::expected(), Limits::default()).expect("inspect the archive"))
}

pub(crate) fn inspect_bytes(bytes: &[u8]) -> InspectedArchive {
    inspect_stream(bytes, &sample::expected(), Limits::default()).expect("inspect the bytes")
}

pub(crate) fn failed_ids(records: &[CaseRecord]) -> BTreeSet<&'static str> {
    let ids = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Fail { .. }));
    ids.map(|record| record.info.id).collect()
}

/// Returns id, outcome and text of each case that did not pass.
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
