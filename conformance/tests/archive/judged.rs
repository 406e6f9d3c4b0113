//! An archive's verdict, as the tests compare it.

use std::{collections::BTreeSet, path::Path};

use checkpoint_conformance::{
    archive::{Expected, Inspected, Limits, inspect_file, inspect_stream, sample},
    case::{Outcome, Record},
    catalog::archive,
};

/// What the sample's memory holds.
pub(crate) fn expected() -> Expected {
    Expected {
        memory: Some(sample::CANARY.to_vec()),
        secrets: vec![sample::SECRET.to_vec()],
    }
}

pub(crate) fn of_file(path: &Path) -> Vec<Record> {
    archive::judge(&inspect_file(path, &expected(), Limits::default()).expect("a file that can be read"))
}

pub(crate) fn inspect_bytes(bytes: &[u8]) -> Inspected {
    inspect_stream(bytes, &expected(), Limits::default()).expect("bytes can be read")
}

/// Ids of the failed cases, without `archive/`.
pub(crate) fn failed(records: &[Record]) -> BTreeSet<&'static str> {
    let failed = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Fail { .. }));
    failed
        .map(|record| record.clause.id.trim_start_matches("archive/"))
        .collect()
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
