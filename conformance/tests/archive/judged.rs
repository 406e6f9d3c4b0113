//! An archive's verdict, as the tests compare it.

use std::{collections::BTreeSet, path::Path};

use checkpoint_conformance::{
    archive::{Inspected, Limits, inspect_file, inspect_stream, sample},
    case::{Outcome, Record},
    catalog::archive,
};

pub(crate) fn of_file(path: &Path) -> Vec<Record> {
    archive::judge(&inspect_file(path, &sample::expected(), Limits::default()).expect("a file that can be read"))
}

pub(crate) fn inspect_bytes(bytes: &[u8]) -> Inspected {
    inspect_stream(bytes, &sample::expected(), Limits::default()).expect("bytes can be read")
}

/// Ids of the failed cases.
pub(crate) fn failed(records: &[Record]) -> BTreeSet<&'static str> {
    let failed = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Fail { .. }));
    failed.map(|record| record.clause.id).collect()
}

/// What each case that did not pass says.
pub(crate) fn words(records: &[Record]) -> String {
    let odd = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    odd.map(|record| {
        format!(
            "{} {}: {}\n",
            record.outcome.word(),
            record.clause.id,
            record.outcome.text()
        )
    })
    .collect()
}
